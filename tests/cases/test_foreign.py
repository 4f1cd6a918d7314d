"""Checkpoints in other forms than whole models of transformers: quantized, adapters, the originals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.foreign import check_names
from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_runtime.errors import UserError
from tests.cases.llava import llava_config

QUANTISED: list[tuple[dict[str, Any], str]] = [
    (
        {"quant_method": "awq", "bits": 4, "group_size": 128},
        r"\(awq\).* export the model that it was made from; `prec",
    ),
    (
        {"quant_method": "gptq", "bits": 4},
        r"\(gptq\).* export the model that it was made from; `precision` int8 or int4",
    ),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"\(bitsandbytes\).*, or .*\.dequantize\(\) gives back"),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, r"\(bitsandbytes\).*, or .*\.dequantize\(\) gives back"),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, r"\(fp8\).*FineGrainedFP8Config\(dequantize=True\)"),
    ({"quant_method": "compressed-tensors"}, r"\(compressed-tensors\).*CompressedTensorsConfig\("),
    ({"quant_method": "mxfp4"}, r"\(mxfp4\).*Mxfp4Config\(dequantize=True\)"),
    ({"quant_method": "torchao"}, r"\(torchao\).* export the model that it was made from"),
    ({"bits": 4}, r"\(unknown\)"),
]


@pytest.mark.parametrize(("settings", "words"), QUANTISED)
@pytest.mark.parametrize("part", [None, "text_config"])
def test_quantized_weights_are_refused(tmp_path: Path, settings: dict[str, Any], words: str, part: str | None) -> None:
    source = _edited(tmp_path, lambda config: (config[part] if part else config).update(quantization_config=settings))
    where = "quantization_config" if part is None else f"{part}.quantization_config"
    _refused(source, tmp_path, rf"config\.json: {where}: its weights are quantized {words}")


def test_settings_that_quantize_nothing_are_not_in_the_way(tmp_path: Path) -> None:
    source = _edited(tmp_path, lambda config: config.update(quantization_config=None))
    assert Checkpoint(source).model_type() == "llava"


@pytest.mark.parametrize(
    "form",
    [
        {"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14-336"},
        {"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]},
        {"model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"]},
        {"model_type": "llava_qwen2", "architectures": ["LlavaQwen2ForCausalLM"]},
        {"model_type": "llava_mistral"},
        {"model_type": "internvl_chat", "architectures": ["InternVLChatModel"]},
    ],
)
def test_the_original_form_of_a_model_is_refused(tmp_path: Path, form: dict[str, Any]) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text(json.dumps(form))
    _refused(tmp_path / "source", tmp_path, r"config\.json: the form of (LLaVA|InternVL)'s own repository .*llava-hf/")


def test_an_adapter_alone_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x/y"}))
    (source / "adapter_model.safetensors").write_bytes(b"")
    _refused(source, tmp_path, r"an adapter, not a model \(adapter_config\.json\): .*merge_and_unload\(\)")


def test_an_adapter_beside_a_model_is_refused(tmp_path: Path) -> None:
    """transformers would apply it where peft is installed."""
    source = _edited(tmp_path, lambda config: None)
    (source / "model.safetensors").write_bytes(b"")
    (source / "adapter_config.json").write_text("{}")
    _refused(source, tmp_path, r"an adapter beside a model, which is not applied here .*merge_and_unload\(\)")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model-Q4_K_M.gguf", r"weights for llama\.cpp alone"),
        ("consolidated.safetensors", r"their vendor's own form alone"),
        ("consolidated.00.pth", r"their vendor's own form alone"),
    ],
)
@pytest.mark.parametrize("config", [True, False])
def test_weights_of_another_program_are_refused(tmp_path: Path, name: str, words: str, config: bool) -> None:
    source = _edited(tmp_path, lambda config: None)
    if not config:
        (source / "config.json").unlink()
    (source / name).write_bytes(b"")
    _refused(source, tmp_path, words)
    (source / "model.safetensors").write_bytes(b"")
    check_names("here", [path.name for path in source.iterdir()])  # beside a model's own they are in nobody's way


def _edited(folder: Path, edit: Any) -> Path:
    """A LLaVA's config, edited, in a directory without weights."""
    source = folder / "source"
    llava_config().save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    edit(config)
    (source / "config.json").write_text(json.dumps(config))
    return source


def _refused(source: Path, folder: Path, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        export_bundle(source, folder / "made.fastv", Options(), Progress(None))
    assert "\n" not in str(refused.value)
    assert [path.name for path in folder.iterdir()] == ["source"]
