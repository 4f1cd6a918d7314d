"""What a model may consist of to be exported; anything else is refused by name, before a weight is read.

Graphs are made of a tower and of decoder layers, each cut into an attention and an MLP. What a checkpoint has beside
that would be lost without a word, so it is looked for: in its config, in its modules, and in a few rows sent through
stand-ins for them (`hf_probe`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastv_export import hf
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.reading import reading
from fastv_export.checkpoint.skeleton import Skeleton
from fastv_export.config_values import check_heads, check_placeholders, check_values, layouts
from fastv_export.families import Family
from fastv_export.hf import models as hf_models
from fastv_export.hf import probe as hf_probe
from fastv_export.tracing import attention, tower_attention
from fastv_export.tracing.parts import VisionPart
from fastv_runtime.config.base import TensorSpec
from fastv_runtime.config.layouts import VideoLayout, Vision
from fastv_runtime.errors import UserError
from fastv_runtime.generation.prompts.positions import position_ids
from fastv_runtime.preprocessing import GraphRun

PROBE = "fastv_probe"
"""Name of the attention implementation that layers are tried with."""

DIMENSIONS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
"""What a decoder's config must say."""


def check(checkpoint: Checkpoint, family: Family, image_tokens: int | None = None) -> Any:
    """transformers' config of a checkpoint that can be exported; UserError for any other. Reads no weight.

    image_tokens: most visual tokens of one image; None means what the family takes.
    """
    attention.register()
    tower_attention.register()
    config = check_config(checkpoint, family)
    vision, video = layouts(checkpoint.path / "config.json", family, config, image_tokens)
    skeleton = Skeleton(checkpoint, family, attention=attention.IMPLEMENTATION)
    check_model(checkpoint, skeleton, family, config, vision, video)
    return config


def check_config(checkpoint: Checkpoint, family: Family) -> Any:
    """transformers' config of a checkpoint; UserError for a tower or a decoder that the family has no layout for."""
    where = checkpoint.path / "config.json"
    check_values(checkpoint)
    with reading(where):
        config = family.config(checkpoint)
    tower = getattr(getattr(config, "vision_config", None), "model_type", None)
    if family.towers and tower not in family.towers:
        raise UserError(
            f"{where}: vision tower {tower!r}: a {family.model_type} model is exported with "
            f"{' or '.join(family.towers)} alone"
        )
    text = config.get_text_config()
    missing = [name for name in DIMENSIONS if not isinstance(getattr(text, name, None), int)]
    if missing:
        raise UserError(
            f"{where}: decoder {text.model_type!r} does not say {', '.join(missing)}: only decoders of Llama's form "
            "are exported"
        )
    check_heads(where, text)
    check_placeholders(where, family, config)
    with torch.device("meta"), reading(where):
        model = family.build(copy.deepcopy(config))  # building writes into the config
    _Decoder(str(where), family.decoder(model), config, family).check_parts()
    return config


def check_model(
    checkpoint: Checkpoint, skeleton: Skeleton, family: Family, config: Any, vision: Vision, video: VideoLayout | None
) -> None:
    """UserError for a model whose graphs would not compute what transformers does."""
    decoder = family.decoder(skeleton.model)
    probe = _Decoder(str(checkpoint.path / "config.json"), decoder, config, family)
    probe.check_forward()
    probe.check_layers(skeleton)
    _check_features(str(checkpoint.path / "config.json"), skeleton, family, config, vision, video)


@dataclass
class _Decoder:
    """Looks at one decoder."""

    where: str
    decoder: Any
    config: Any
    family: Family

    def check_parts(self) -> None:
        """By the names of modules, and by the arithmetic between them."""
        if lacking := hf_probe.lacking(self.decoder):
            raise self._refusal(f"has no {', '.join(lacking)}")
        for index, layer in enumerate(hf.layers_of(self.decoder)):
            if lacking := hf_probe.lacking_parts(layer):
                raise self._refusal(f"has no {', '.join(lacking)} in layer {index} ({type(layer).__name__})")
            if more := hf_probe.more_parts(layer):
                raise self._refusal(f"has {', '.join(more)} in layer {index} ({type(layer).__name__})")
            if hf_probe.experts(layer):
                mlp = type(hf.mlp_of(layer)).__name__
                raise self._refusal(f"has more than one MLP, such as experts, in layer {index} ({mlp})")
            if lacking := hf_probe.lacking_in_attention(layer):
                kind = type(hf.attention_of(layer)).__name__
                raise self._refusal(f"does not say {', '.join(lacking)} in the attention of layer {index} ({kind})")
        hf.check_decoder(self.decoder)
        for index, layer in enumerate(hf.layers_of(self.decoder)):
            if not self._tried(hf_probe.can_be_cut, layer, hf_probe.embedding_width(self.decoder)):
                raise self._refusal(
                    f"does not add first its attention and then its MLP in layer {index} ({type(layer).__name__})"
                )

    def check_forward(self) -> None:
        """By what its own forward does around layers, which graphs do not have."""
        if self._tried(hf_probe.embedding_factor, self.decoder) is None:
            raise self._refusal("makes more of embeddings than a multiple of what its table has")
        embedded = torch.rand(1, hf_probe.ROWS, hf_probe.embedding_width(self.decoder)) + 0.5
        positions = self._positions()
        hf_models.attend(self.decoder, "eager")  # as others, which take masks of their own, it would be handed none
        calls = self._tried(hf_probe.hollow, self.decoder, embedded, positions)
        hf_models.attend(self.decoder, attention.IMPLEMENTATION)
        layers = list(range(len(hf.layers_of(self.decoder))))
        if self.family.position_axes != 1 and hf.branches(hf.rotary_of(self.decoder)):
            # The axis of time may run ahead of the tokens that plans are limited by.
            raise self._refusal("chooses its rotary frequencies by positions of three axes")
        if calls.numbers != layers:
            raise self._refusal("does not run each of its layers once")
        hidden = embedded * self._tried(hf_probe.entry_factor, self.decoder)
        rotary = hf.cosines_and_sines(hf.rotary_of(self.decoder), hidden, positions)
        for index, (given, mask, handed) in enumerate(zip(calls.hidden, calls.masks, calls.rotary, strict=True)):
            if not _same(given, hidden):
                raise self._refusal(f"changes its states before layer {index}, by more than a factor of embeddings")
            if handed is None or len(handed) != len(rotary) or not all(map(_same, handed, rotary)):
                raise self._refusal(f"hands layer {index} another rotary embedding than its own")
            if not _causal(mask):
                raise self._refusal(f"hands layer {index} another mask than the causal one")
            hidden = hidden + (index + 1)
        if not _same(calls.output, hidden):
            raise self._refusal("changes its states after the last layer and its norm")
        self.others = calls.others

    def check_layers(self, skeleton: Skeleton) -> None:
        """By a few rows through each layer, without values."""
        calls: list[hf.Attention] = []

        def attend(given: hf.Attention) -> torch.Tensor:
            calls.append(given)
            return attention.onnx_attention(given)

        hf.register_attention(PROBE, attend, known=frozenset({"recorder"}))
        hf_models.attend(self.decoder, PROBE)
        with skeleton.fake():
            hidden = torch.zeros(1, hf_probe.ROWS, hf_probe.embedding_width(self.decoder), dtype=skeleton.dtype)
            rotary = hf.cosines_and_sines(hf.rotary_of(self.decoder), hidden, self._positions())
            for index, layer in enumerate(hf.layers_of(self.decoder)):
                calls.clear()
                cache, recorder = hf_probe.ProbingCache(), _Recorder()
                made = self._tried(
                    partial(hf_probe.run_once, recorder=recorder), layer, hidden, rotary, cache, self.others[index]
                )
                self._check_stored(index, cache)
                self._check_attention(index, cache, calls, recorder)
                if made.shape != hidden.shape:
                    raise self._refusal(f"returns {list(made.shape)} for {list(hidden.shape)} in layer {index}")
        hf_models.attend(self.decoder, attention.IMPLEMENTATION)

    def _check_stored(self, index: int, cache: hf_probe.ProbingCache) -> None:
        text = self.config.get_text_config()
        heads = text.num_attention_heads
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
        width = getattr(text, "head_dim", None) or text.hidden_size // heads
        shape = (1, kv_heads, hf_probe.ROWS, width)
        shapes = [(layer, tuple(key.shape), tuple(value.shape)) for layer, key, value in cache.stored]
        if shapes != [(index, shape, shape)]:
            found = ", ".join(f"keys {key} and values {value}" for _, key, value in shapes) or "nothing"
            raise self._refusal(f"caches {found} in layer {index}, where its config says {shape} of both")

    def _check_attention(
        self, index: int, cache: hf_probe.ProbingCache, calls: list[hf.Attention], recorder: _Recorder
    ) -> None:
        ((_, key, value),) = cache.stored
        if len(calls) != 1 or calls[0].key is not key or calls[0].value is not value:
            raise self._refusal(f"attends to something else than what it caches, or more than once, in layer {index}")
        if not recorder.recorded:
            raise self._refusal(f"does not hand on to its attention what layer {index} is given for it")
        window, limit = calls[0].window, self.family.max_positions(self.config)
        if window is not None and (limit is None or window < limit.positions):
            raise self._refusal(f"looks back {window} rows alone in layer {index}, which its config does not say of it")

    def _positions(self) -> torch.Tensor:
        axes = self.family.position_axes
        positions = torch.from_numpy(position_ids(axes, hf_probe.ROWS, [(0, GraphRun(1, (1, 1, 1)))]))
        return positions if axes == 1 else positions[:, None]

    def _tried(self, run: Any, *args: Any) -> Any:
        try:
            return run(*args)
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from None
        except hf_probe.Touched as error:
            raise self._refusal(f"computes from {error}, beside the rotary embedding") from None
        except Exception as error:
            # A model that is like none that is known fails in ways of its own; the last word of it is all that we know.
            reason = (str(error).strip().splitlines() or [""])[0]
            raise self._refusal(f"cannot be taken apart ({type(error).__name__}: {reason})") from None

    def _refusal(self, what: str) -> UserError:
        kind = self.config.get_text_config().model_type
        return UserError(
            f"{self.where}: decoder {kind!r} {what}, which no graph here computes: this model cannot be exported"
        )


class _Recorder:
    """In the place of what takes scores as an attention runs."""

    recorded = False

    def record(self, _: hf.Attention) -> None:
        self.recorded = True


def _check_features(
    where: str, skeleton: Skeleton, family: Family, config: Any, vision: Vision, video: VideoLayout | None
) -> None:
    """UserError for a tower that makes another number of features than the layout of images, or of frames, says."""
    graphs: list[tuple[Callable[..., Any], tuple[TensorSpec, ...], int]] = []
    if isinstance(vision.feature_rows, int):
        graphs.append((family.encode, vision.inputs(), vision.feature_rows))
    if video is not None and video.graph == "video":
        graphs.append((family.encode_frame, video.image.inputs(), video.tokens_per_frame))
    for encode, inputs, rows in graphs:
        part = VisionPart(skeleton.model, encode, [tensor.name for tensor in inputs])
        with skeleton.fake(), reading(Path(where)):
            made = part([_zeros(tensor) for tensor in inputs])
        features = made[0] if isinstance(made, tuple) else made
        expected = (rows, config.get_text_config().hidden_size)
        if tuple(features.shape) != expected:
            strategy = getattr(config, "vision_feature_select_strategy", None)
            named = "" if strategy is None else f" with vision_feature_select_strategy {strategy!r}"
            raise UserError(
                f"{where}: the tower makes {' x '.join(map(str, features.shape))} features{named} where a "
                f"{family.model_type} model is laid out for {rows} x {expected[1]}: this model cannot be exported"
            )


def _zeros(tensor: TensorSpec) -> torch.Tensor:
    return torch.zeros([int(axis) for axis in tensor.shape], dtype=getattr(torch, tensor.dtype))


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-5, atol=0)


def _causal(mask: Any) -> bool:
    """Whether a mask hides from each row what follows it, and that alone."""
    if not isinstance(mask, torch.Tensor):
        return False
    seen = mask if mask.dtype is torch.bool else mask == 0
    return bool((seen == torch.ones(seen.shape[-2:], dtype=torch.bool).tril()).all())
