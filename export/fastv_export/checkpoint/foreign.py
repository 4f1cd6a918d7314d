"""Checkpoints in forms that are not read here, each refused by what it is and with the way to one that is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from fastv_export.checkpoint.json_files import read_object
from fastv_runtime.errors import UserError

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
WEIGHTS = ("model*.safetensors", "model*.safetensors.index.json", "pytorch_model*.bin*")
"""Weights by transformers' names."""

LLAVA = "the form of LLaVA's own repository"
ORIGINALS = {"internvl_chat": "the form of InternVL's own repository"}
"""What a `model_type` stands for that is not transformers' own; those of LLaVA are found by other fields as well."""
DECODERS = ("_llama", "_mistral", "_mpt", "_qwen", "_qwen2", "_gemma")
"""Ends of LLaVA's own model types."""

DEQUANTISE = {
    "bitsandbytes": "from_pretrained(directory).dequantize()",
    "fp8": "from_pretrained(directory, quantization_config=FineGrainedFP8Config(dequantize=True))",
    "mxfp4": "from_pretrained(directory, quantization_config=Mxfp4Config(dequantize=True))",
    "compressed-tensors": "from_pretrained(directory, quantization_config=CompressedTensorsConfig(dequantize=True))",
}
"""What makes transformers' own reader give whole numbers back, by quantization method."""


def check_form(folder: Path) -> None:
    """UserError for a checkpoint directory that holds something else than a whole model in transformers' own form."""
    if not folder.is_dir():
        return
    names = {path.name for path in folder.iterdir()}
    check_names(str(folder), names)
    config = _read(folder / CONFIG)
    if config is not None:
        _check_original(folder / CONFIG, config)
        _check_quantized(folder / CONFIG, config)


def check_names(where: str, names: Iterable[str]) -> None:
    """The same by the names of its files alone; `where` names what has them."""
    names = set(names)
    if ADAPTER in names:
        found = "an adapter beside a model, which is not applied here" if CONFIG in names else "an adapter, not a model"
        raise UserError(
            f"{where}: {found} ({ADAPTER}): put it into the model with peft's "
            "PeftModel.from_pretrained(model, directory).merge_and_unload().save_pretrained(new) and export that"
        )
    if any(fnmatch(name, pattern) for name in names for pattern in WEIGHTS):
        return
    if any(fnmatch(name, "*.gguf") for name in names):
        raise UserError(f"{where}: weights for llama.cpp alone (.gguf): export the checkpoint that they were made from")
    if any(fnmatch(name, "consolidated*.safetensors") or fnmatch(name, "consolidated*.pth") for name in names):
        raise UserError(
            f"{where}: weights in their vendor's own form alone (consolidated): export the checkpoint that was "
            "converted for transformers, which has model.safetensors"
        )


def _read(file: Path) -> dict[str, Any] | None:
    """An object of JSON; None for what is not, of which `Checkpoint` says more."""
    try:
        return read_object(file)
    except UserError:
        return None


def _check_original(file: Path, config: Mapping[str, Any]) -> None:
    kind, architectures = str(config.get("model_type")), config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else ""
    form = ORIGINALS.get(kind)
    own = kind.startswith("llava_") and kind.endswith(DECODERS)
    if own or "mm_vision_tower" in config or fnmatch(str(named), "Llava*ForCausalLM"):
        form = LLAVA
    if form is not None:
        raise UserError(
            f"{file}: {form} (model_type {kind!r}), not transformers': give the checkpoint that was converted for "
            "transformers (llava-hf/... or ...-hf on the hub), or convert this one with the convert_*_to_hf.py of the "
            "model in transformers' repository"
        )


def _check_quantized(file: Path, config: Mapping[str, Any]) -> None:
    for where, settings in _quantizations(config):
        method = str(settings.get("quant_method", "unknown") if isinstance(settings, Mapping) else settings)
        way = DEQUANTISE.get("bitsandbytes" if method.startswith("bitsandbytes") else method)
        back = f", or the one that {way} gives back when it is saved" if way else ""
        raise UserError(
            f"{file}: {where}: its weights are quantized ({method}), and only whole ones are read: export the model "
            f"that it was made from{back}; `precision` int8 or int4 rounds here"
        )


def _quantizations(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings of quantization, by where they are, of a model or of its parts."""
    for name, value in config.items():
        if name in ("quantization_config", "compression_config"):
            if value:
                yield prefix + name, value
        elif isinstance(value, Mapping):
            yield from _quantizations(value, f"{prefix}{name}.")
