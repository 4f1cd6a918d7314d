"""The seam to transformers' whole models: building, loading, the names in checkpoints, towers, processors.

As `hf.py` is for decoders: what is no public API of transformers and concerns these is in here, and only here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import nn

from fastv_export.hf import branching, changed, keyword
from fastv_runtime.hf import without_bars

COMPUTED = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")
"""Stored by older versions of transformers, computed today; it does not warn of them either."""

PIXELS = ("pixel_values", "pixel_values_images")
"""Keyword of models for pixels: the second of Video-LLaVA's up to transformers 5.20."""


@dataclass(frozen=True)
class Limit:
    """Positions up to which graphs compute what the original does, and why no further."""

    positions: int
    why: str


def position_limit(text_config: Any) -> Limit | None:
    """The lowest limit that a decoder's config sets to graphs, which know one mask and one set of frequencies."""
    return min(_limits(text_config), key=lambda limit: limit.positions, default=None)


def _limits(text_config: Any) -> Iterator[Limit]:
    kinds = getattr(text_config, "layer_types", None)
    window = getattr(text_config, "sliding_window", None)
    if window is not None and (kinds is None or "sliding_attention" in kinds):
        yield Limit(window, f"sliding_window {window}")
    chunk = getattr(text_config, "attention_chunk_size", None)
    if chunk is not None and (kinds is None or "chunked_attention" in kinds):
        yield Limit(chunk, f"attention_chunk_size {chunk}")
    rope = getattr(text_config, "rope_parameters", None) or {}
    for settings in rope.values() if "rope_type" not in rope else (rope,):
        kind = settings.get("rope_type") if isinstance(settings, Mapping) else None
        if kind is not None and branching(kind):
            original = settings.get("original_max_position_embeddings") if kind == "longrope" else None
            positions = original or text_config.max_position_embeddings
            yield Limit(positions, f"rope_type {kind}, beyond which its frequencies depend on the prompt")


def model_class(model_type: str) -> Any:
    """The stock class of a whole vision-language model."""
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    return AutoModelForImageTextToText._model_mapping[CONFIG_MAPPING[model_type]]


def build(model: Any, config: Any, *, attention: str | None = None) -> Any:
    """A model of that class in fp32; its parameters are on whatever device torch builds on."""
    chosen = {} if attention is None else {"attn_implementation": attention}
    return model._from_config(config, dtype=torch.float32, **chosen)


def load(model: Any, path: Path) -> Any:
    """A model of that class with its weights, in fp32, with eager attention: the only one that returns its weights."""
    with without_bars():
        return model.from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager", local_files_only=True, trust_remote_code=False
        )


def renamed(model: Any, stored: Iterable[str]) -> dict[str, str]:
    """The names of a model's parameters and buffers by those that a checkpoint stores them under.

    transformers renames as it loads: older names of the same tensors. Anything but a rename is left alone.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    renamings = [entry for entry in get_model_conversion_mapping(model) if isinstance(entry, WeightRenaming)]
    expected = model.state_dict()
    return {name: rename_source_key(name, renamings, [], model.base_model_prefix, expected)[0] for name in stored}


def ignored_when_unexpected(model: Any) -> tuple[str, ...]:
    """Patterns of stored names that transformers does not warn of where a model has no such tensor."""
    return (*(model._keys_to_ignore_on_load_unexpected or ()), *COMPUTED)


def compute_buffers(model: Any) -> None:
    """Give buffers the values that the model computes for them: building on the meta device lost them."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")
    model.initialize_weights()


def tied_parameters(model: Any) -> dict[str, str]:
    """The parameters that the config ties, by name, each with the one that it is tied to."""
    return dict(model.get_expanded_tied_weights_keys(all_submodels=True))


def tie(model: Any, pairs: dict[str, str]) -> None:
    """Make these parameters one, and no others."""
    model.all_tied_weights_keys = pairs
    model.tie_weights(recompute_mapping=False)


def attend(model: Any, implementation: str | Mapping[str, str]) -> None:
    """Choose the attention of a model; a mapping is of parts, by the names of their configs."""
    model.set_attn_implementation(implementation)


def decoder(model: Any) -> Any:
    """The language model of a vision-language model."""
    return model.get_decoder()


def head(model: Any) -> nn.Module:
    """From the last hidden state to logits."""
    module: nn.Module = model.get_output_embeddings()
    return module


def last_logits(
    model: Any, token_ids: Int[torch.Tensor, "1 S"], pixels: Mapping[str, torch.Tensor], visual: torch.Tensor, rows: int
) -> Float[torch.Tensor, "rows V"]:
    """Logits of the last rows, by the whole model's own forward.

    pixels: what it takes of images, by its own names. visual: which tokens stand for images, bool [1, S].
    """
    arguments = {keyword(model, PIXELS if name in PIXELS else (name,)): each for name, each in pixels.items()}
    if "mm_token_type_ids" in inspect.signature(type(model).forward).parameters:
        arguments["mm_token_type_ids"] = visual.int()
    output = model(
        input_ids=token_ids,
        attention_mask=torch.ones_like(token_ids),
        use_cache=False,
        **{keyword(model, ("logits_to_keep",)): rows},
        **arguments,
    )
    logits: torch.Tensor = output.logits[0]
    return logits


def last_logits_of_embedded(
    language_model: Any, embedded: Float[torch.Tensor, "1 S D"], rows: int
) -> Float[torch.Tensor, "rows V"]:
    """The same by a language model with its head, from an embedded prompt."""
    output = language_model(inputs_embeds=embedded, use_cache=False, logits_to_keep=rows)
    logits: torch.Tensor = output.logits[0]
    return logits


def before_decoder(decoder: Any, hook: Callable[[Float[torch.Tensor, "1 S D"]], None]) -> Any:
    """Call `hook` with the embedded prompt before the language model runs."""
    return decoder.register_forward_pre_hook(lambda _, args, kwargs: hook(kwargs["inputs_embeds"]), with_kwargs=True)


def newline(model: Any) -> nn.Parameter:
    """The embedding [D] that ends a row of visual tokens in LLaVA-NeXT and its heirs."""
    embedding: nn.Parameter = model.model.image_newline
    return embedding


def image_features(model: Any, pixel_values: torch.Tensor, **inputs: torch.Tensor) -> Float[torch.Tensor, "N D"]:
    """Visual features of one image, by the model's own way in."""
    # Pixels by position: see `PIXELS`.
    return _first(model.model.get_image_features(pixel_values, **inputs, return_dict=True))


def tile_features(model: Any, **inputs: torch.Tensor) -> Float[torch.Tensor, "N D"]:
    """Visual features of one tile of LLaVA-NeXT and its heirs, before any packing."""
    from transformers import LlavaModel

    # Tower, choice of layer and projector are LLaVA-1.5's, and so are their names: its own method does what these
    # models do before they pack.
    return _first(LlavaModel.get_image_features(model.model, **inputs, return_dict=True))


def frame_features(model: Any, pixel_values: Float[torch.Tensor, "1 3 H W"]) -> Float[torch.Tensor, "N D"]:
    """Visual features of one frame, of a model with a tower for videos."""
    return _first(model.model.get_video_features(pixel_values[None], return_dict=True))


def patch_tower(model: Any, pixel_values: torch.Tensor, grid: torch.Tensor) -> tuple[Any, ...]:
    """Features of patches in a Qwen tower, then those of deepstack.

    grid: (time, rows, columns) in patches, from which the tower computes positions, windows and boundaries.
    """
    return _patches(model.model.visual(pixel_values, grid))


def patch_tower_at(
    model: Any, pixel_values: torch.Tensor, *, boundaries: Any, windows: Any = None, **inputs: torch.Tensor
) -> tuple[Any, ...]:
    """The same from what the tower would compute of the grid.

    boundaries, windows: what layers that attend to all patches, and those that attend within windows, hand to their
    attention (`Attention.boundaries`). inputs: those of the vision graph; in `preprocessing.images.grid` they have
    the names that the tower knows.
    """
    given = {"cu_seqlens": boundaries, "max_seqlen": 1, **inputs}
    if windows is not None:
        given |= {"cu_window_seqlens": windows, "max_window_seqlen": 1}
    return _patches(model.model.visual(pixel_values, None, **given))


def _patches(output: Any) -> tuple[Any, ...]:
    return (_pooled(output), *getattr(output, "deepstack_features", ()))


def shuffled_tile(model: Any, pixel_values: Float[torch.Tensor, "1 3 H W"]) -> Float[torch.Tensor, "N D"]:
    """Features of one tile in Idefics3 and its heirs.

    Tiles are never padded: nothing is masked, and the embeddings' search for the place of each patch, which does not
    survive the way to ONNX, would find them in order.
    """
    tower = model.model.vision_model
    patches = tower.embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
    encoded = tower.encoder(patches + tower.embeddings.position_embedding.weight).last_hidden_state
    features: torch.Tensor = model.model.connector(tower.post_layernorm(encoded))[0]
    return features


def clip_layers(config: Any) -> nn.Module:
    """The layers of a CLIP tower, without what comes before and after: rows [B, P, C] to an object with
    `last_hidden_state`, as many."""
    from transformers.models.clip.modeling_clip import CLIPEncoder

    return CLIPEncoder(config)


def timm_stride(config: Any) -> int:
    """Pixels of the image, along one axis, that a cell of a timm tower's last map stands for."""
    from transformers import AutoModel

    with torch.device("meta"):
        return int(AutoModel.from_config(config).timm_model.feature_info[-1]["reduction"])


def generation_config(path: Path) -> Any:
    """The config that `generate` starts from: generation_config.json, or what an old config.json has of it."""
    from transformers import GenerationConfig

    if (path / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(path, local_files_only=True)
    return GenerationConfig.from_pretrained(
        path, config_file_name="config.json", local_files_only=True, _from_model_config=True
    )


def write_clip_processor(target: Path, size: int) -> None:
    """Image processor settings in `target`: images are squeezed to a square of `size` pixels, nothing is cropped."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    CLIPImageProcessorPil(size={"height": size, "width": size}, do_center_crop=False).save_pretrained(target)


def byte_pair_tokenizer(ranks: dict[bytes, int], pattern: str) -> Tokenizer:
    """A tokenizer of byte sequences and their ranks. pattern: regular expression of the pieces of text."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Converter(TikTokenConverter):
        """transformers' own, which would need the tiktoken package to read a file, and that one a cache by path."""

        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
            return ranks

    return Converter("", pattern).converted()  # type: ignore[no-untyped-call]


def _pooled(output: Any) -> Any:
    if "pooler_output" not in output:
        raise changed(f"{type(output).__name__} has no pooler_output")
    return output.pooler_output


def _first(output: Any) -> torch.Tensor:
    """Of a batch of one."""
    features: torch.Tensor = _pooled(output)[0]
    return features
