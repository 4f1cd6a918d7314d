"""Golden vectors: inputs of every graph and the outputs that transformers gives for them, for self-tests anywhere.

One short prompt (prefill), its last rows alone with the others in the cache (resume), and one token after it (decode).
Names in the file: `graph/case/in|out/tensor`. Caches hold the rows that a case writes or reads, not their whole
capacity; those that `resume` reads are the first of `decode`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from fastv_export import hf
from fastv_export.families import Family
from fastv_export.rankers import RANKERS
from fastv_export.rankers.base import Seen
from fastv_export.verify.choices import choose
from fastv_export.verify.reference import Pruning, ReferenceCut, pruned_by
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.cuts import ATTENTION_SIGNALS, Cut
from fastv_runtime.config.io_spec import IOSpec, computed, decoder_io_specs, deepstack_of
from fastv_runtime.config.layouts import FramesVideo, VideoLayout, Vision
from fastv_runtime.config.lengths import kept_count
from fastv_runtime.config.plan import Plan
from fastv_runtime.generation.prompts.positions import position_ids
from fastv_runtime.preprocessing import GraphRun

Tensors = dict[str, torch.Tensor]
SEED = 0
TEXT = 8
VISUAL = 16
RESUMED = TEXT
"""Rows of the case `resume`: as many as a ranker reads scores of, and no more than are left after any cut."""
"""Tokens of the golden prompt: enough to prune, few enough that a 13B model's caches stay small."""


def golden_vectors(
    model: Any, family: Family, dimensions: DecoderConfig, vision: Vision, video: VideoLayout | None, plan: Plan
) -> Tensors:
    """Golden vectors of a model (fp32, eager attention) for every graph of a plan.

    A ranker whose ranks depend on the engine leaves `select` without a case, and so out of every self-test.
    """
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        tensors = _vision_case(model, family, dimensions, vision)
        if vision.packing:
            tensors |= _pack_case(family.newline(model), vision.packing, generator)
        if video is not None and video.graph == "video":
            tensors |= _frame_case(model, family, video, generator)
        decoder, head = family.decoder(model), family.head(model)
        prompt = _prompt(decoder, dimensions, generator)
        if not plan.prunes:
            tensors |= _dense_case(decoder, head, prompt)
        else:
            tensors |= _split_case(decoder, head, prompt, plan, dimensions)
    # Slices share memory with what they were cut from; the file wants tensors that stand alone.
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def _vision_case(model: Any, family: Family, dimensions: DecoderConfig, vision: Vision) -> Tensors:
    inputs = {name: torch.from_numpy(array) for name, array in family.example(vision).items()}
    features = family.expected(model, inputs)
    names = ["image_features", *(f"deepstack_{layer}" for layer in range(dimensions.deepstack_layers))]
    outputs = features if isinstance(features, tuple) else (features,)
    return {f"vision/prefill/in/{name}": tensor for name, tensor in inputs.items()} | {
        f"vision/prefill/out/{name}": tensor for name, tensor in zip(names, outputs, strict=True)
    }


def _pack_case(newline: torch.Tensor, taps: int, generator: torch.Generator) -> Tensors:
    features = torch.randn(VISUAL, newline.shape[0], generator=generator)
    index = torch.randint(VISUAL + 1, (VISUAL, taps), generator=generator)
    index[-1] = VISUAL  # the newline
    weight = torch.rand(VISUAL, taps, generator=generator)
    gathered = torch.cat([features, newline[None]])[index]
    return {
        "pack/prefill/in/features": features,
        "pack/prefill/in/index": index,
        "pack/prefill/in/weight": weight,
        "pack/prefill/out/image_features": gathered[:, 0] if taps == 1 else (gathered * weight[..., None]).sum(1),
    }


def _frame_case(model: Any, family: Family, video: FramesVideo, generator: torch.Generator) -> Tensors:
    pixel_values = torch.randn(1, 3, video.image.image_height, video.image.image_width, generator=generator)
    features = family.encode_frame(model, pixel_values)
    return {"video/prefill/in/pixel_values": pixel_values, "video/prefill/out/image_features": features}


@dataclass(frozen=True)
class _Prompt:
    """A prompt of TEXT + VISUAL tokens and one token more, which is decoded."""

    embedded: torch.Tensor
    positions: torch.Tensor
    """As the graphs take them: [1, S + 1], or M-RoPE's [3, 1, S + 1]."""
    prunable: torch.Tensor
    deepstack: list[torch.Tensor]
    change: torch.Tensor
    """[S + 1]: of no video, so any will do."""

    def run(self, decoder: Any) -> tuple[torch.Tensor, Any]:
        """Last hidden states and cache of the stock decoder, all rows at once.

        So one token is decoded after the prompt, in the same pass.
        """
        return hf.run_decoder(
            decoder,
            self.embedded,
            self.positions if self.positions.ndim == 3 else None,
            deepstack=[each[0, self.prunable] for each in self.deepstack],
            visual=torch.cat([self.prunable, torch.zeros(1, dtype=torch.bool)]),
        )


def _prompt(decoder: Any, dimensions: DecoderConfig, generator: torch.Generator) -> _Prompt:
    length, start = TEXT + VISUAL, TEXT // 2
    table = hf.embeddings_of(decoder)
    ids = torch.randint(len(table.weight), (length + 1,), generator=generator)
    prunable = torch.zeros(length, dtype=torch.bool)
    prunable[start : start + VISUAL] = True
    positions = torch.from_numpy(
        position_ids(dimensions.position_axes, length + 1, [(start, GraphRun(VISUAL, (1, 2, VISUAL // 2)))])
    )
    deepstack = []
    for _ in range(dimensions.deepstack_layers):
        added = torch.randn(1, length, dimensions.hidden_size, generator=generator)
        added[:, ~prunable] = 0
        deepstack.append(added)
    return _Prompt(
        table(ids)[None],
        positions if dimensions.position_axes == 1 else positions[:, None],
        prunable,
        deepstack,
        torch.linspace(0, 1, length + 1),
    )


def _dense_case(decoder: Any, head: Any, prompt: _Prompt) -> Tensors:
    length = prompt.prunable.numel()
    hidden, cache = prompt.run(decoder)
    logits = head(hidden[:, length - 1 :])
    layers = range(len(hf.layers_of(decoder)))
    tensors = _caches("decoder", cache, layers, length, torch.arange(length))
    for case, start, stop in (
        ("prefill", 0, length),
        ("resume", length - RESUMED, length),
        ("decode", length, length + 1),
    ):
        rows, positions = prompt.embedded[:, start:stop], prompt.positions[..., start:stop]
        tensors |= _layer_case("decoder", case, rows, positions, start)
        tensors |= _deepstack_inputs("decoder", case, prompt.deepstack, range(len(prompt.deepstack)))
        tensors[f"decoder/{case}/out/logits"] = logits[:, int(case == "decode")][:, None]
    return tensors


def _split_case(decoder: Any, head: Any, prompt: _Prompt, plan: Plan, dimensions: DecoderConfig) -> Tensors:
    length = prompt.prunable.numel()
    specs = decoder_io_specs(dimensions, plan, plan.precision)

    def cut(each: Cut) -> ReferenceCut:
        count = TEXT + kept_count(VISUAL, each.keep)

        def chosen(seen: Seen) -> torch.Tensor:
            as_given = seen.hidden.to(getattr(torch, plan.precision)).float()  # as `select` gets it
            return choose(each.ranker, replace(seen, hidden=as_given), count)

        rotary = RANKERS[each.ranker].rotary
        change = prompt.change[:length]
        return ReferenceCut(each.layer, count, each.signals, rotary=rotary, choose=chosen, change=change)

    with pruned_by(decoder, prompt.prunable, [cut(each) for each in plan.cuts]) as prunings:
        hidden, cache = prompt.run(decoder)
    logits = head(hidden[:, length - 1 :])
    positions, last = prompt.positions[..., :length], prompt.positions[..., length:]
    tensors: Tensors = {}
    rows = torch.arange(length)
    states, following = prompt.embedded[:, :length], prompt.embedded[:, length:]
    for stage in plan.stages:
        graph, deepstack = stage.graph, [each[:, rows] for each in prompt.deepstack]
        begun = len(rows) - RESUMED
        tensors |= _layer_case(graph, "prefill", states, positions[..., rows], 0)
        tensors |= _layer_case(graph, "resume", states[:, begun:], positions[..., rows[begun:]], begun)
        tensors |= _layer_case(graph, "decode", following, last, len(rows))
        tensors |= _caches(graph, cache, plan.layers(graph, len(hf.layers_of(decoder))), length, rows)
        for case in ("prefill", "resume", "decode"):
            tensors |= _deepstack_inputs(graph, case, deepstack, deepstack_of(dimensions, stage))
        if stage.cut is None:
            tensors[f"{graph}/prefill/out/logits"] = tensors[f"{graph}/resume/out/logits"] = logits[:, :1]
            tensors[f"{graph}/decode/out/logits"] = logits[:, 1:]
            break
        pruning = prunings[stage.index]
        tensors[f"{graph}/prefill/out/hidden_out"] = pruning.hidden[:, rows]
        tensors[f"{graph}/resume/out/hidden_out"] = pruning.hidden[:, rows[begun:]]
        tensors[f"{graph}/decode/out/hidden_out"] = pruning.hidden[:, length:]
        for name in computed(stage.cut):
            signal = pruning.signals[name][None]
            tensors[f"{graph}/prefill/out/{name}"] = signal
            if name in ATTENTION_SIGNALS and stage.cut.rotary:
                tensors[f"{graph}/resume/out/{name}"] = signal
        if RANKERS[stage.cut.ranker].portable:
            select = plan.selects[stage.index]
            tensors |= _select_case(select, specs[select], pruning, prompt, rows)
        rows = pruning.keep
        states, following = pruning.hidden[:, rows], pruning.hidden[:, length:]
    return tensors


def _deepstack_inputs(graph: str, case: str, deepstack: list[torch.Tensor], layers: range) -> Tensors:
    """What is added after the given layers; a decoded token has nothing added."""
    tensors: Tensors = {}
    for layer in layers:
        rows = deepstack[layer]
        given = rows if case == "prefill" else rows[:, -RESUMED:] if case == "resume" else rows[:, :1] * 0
        tensors[f"{graph}/{case}/in/deepstack_{layer}"] = given
    return tensors


def _select_case(graph: str, spec: IOSpec, pruning: Pruning, prompt: _Prompt, rows: torch.Tensor) -> Tensors:
    """rows: of the prompt, those that come to the cut."""
    kept = pruning.keep
    of_prompt = {"position_ids": prompt.positions, "prunable": prompt.prunable[None], "change": prompt.change[None]}
    of_prompt |= {f"deepstack_{layer}": each for layer, each in enumerate(prompt.deepstack)}
    inputs = {
        "hidden": pruning.hidden[:, rows],
        "length": torch.tensor([len(kept)]),
        **{name: each[None] for name, each in pruning.signals.items()},
        **{name: _rows(each, rows) for name, each in of_prompt.items()},
    }
    outputs = {
        "pruned_hidden": pruning.hidden[:, kept],
        "keep": torch.searchsorted(rows, kept)[None],
        **{f"pruned_{name}": _rows(each, kept) for name, each in of_prompt.items()},
    }
    return {f"{graph}/prefill/in/{tensor.name}": inputs[tensor.name] for tensor in spec[0]} | {
        f"{graph}/prefill/out/{tensor.name}": outputs[tensor.name] for tensor in spec[1]
    }


def _rows(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows of states [1, S, D], or of what a row has one number of [..., S]."""
    return values[:, rows] if values.is_floating_point() and values.ndim == 3 else values[..., rows]


def _layer_case(graph: str, case: str, hidden: torch.Tensor, positions: torch.Tensor, write_index: int) -> Tensors:
    return {
        f"{graph}/{case}/in/hidden": hidden,
        f"{graph}/{case}/in/position_ids": positions,
        f"{graph}/{case}/in/write_index": torch.tensor([write_index]),
    }


def _caches(graph: str, cache: Any, layers: range, length: int, kept: torch.Tensor) -> Tensors:
    """Cache rows after the prompt, which decode reads, and the row that decode writes."""
    tensors: Tensors = {}
    for layer in layers:
        for kind, values in zip(("key", "value"), hf.cached(cache, layer), strict=True):
            prompt = values[:, :, :length][:, :, kept]
            tensors[f"{graph}/prefill/out/present_{kind}_{layer}"] = prompt
            tensors[f"{graph}/decode/in/past_{kind}_{layer}"] = prompt
            tensors[f"{graph}/decode/out/present_{kind}_{layer}"] = torch.cat([prompt, values[:, :, length:]], dim=2)
    return tensors
