"""What converters of other runtimes lack: graphs beside onnxruntime-genai's decoder, hooks in llama.cpp's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

# Benchmarks are scripts that import each other by name.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from peers import prepare, to_onnxruntime_genai

BENCHMARKS = Path(prepare.__file__).parent.parent
SIDE, IMAGE = 224, 90
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
VISION = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "fullatt_block_indexes": [1]}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config=TEXT | {"intermediate_size": 16, "vocab_size": 96},
        vision_config=VISION | {"out_hidden_size": 16},
        image_token_id=IMAGE,
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def test_the_tower_for_one_size_is_transformers_own(model: Any, tmp_path: Path) -> None:
    patches = SIDE // 14
    pixels, grid = torch.randn(patches**2, 3 * 2 * 14 * 14), torch.tensor([[1, patches, patches]])
    with torch.no_grad():
        expected = model.model.visual(pixels, grid).pooler_output
    to_onnxruntime_genai.write_tower(model, SIDE, tmp_path / "vision.onnx")
    seen = run(tmp_path / "vision.onnx", pixel_values=pixels.numpy(), image_grid_thw=grid.numpy())
    np.testing.assert_allclose(seen, expected.numpy(), atol=1e-5)


def test_windows_that_differ_are_refused() -> None:
    part = torch.zeros(1, 2, 12, 4)
    with pytest.raises(ValueError, match="windows of several sizes"):
        to_onnxruntime_genai.attend_in_windows(None, part, part, part, cu_seq_lens_q=torch.tensor([0, 8, 12]))


def test_features_go_where_image_tokens_are(model: Any, tmp_path: Path) -> None:
    weight = model.get_input_embeddings().weight
    to_onnxruntime_genai.write_embeddings(weight, IMAGE, tmp_path / "embedding.onnx")
    ids, features = torch.tensor([[5, IMAGE, IMAGE, 7]]), torch.randn(2, 16)
    expected = weight.detach()[ids].masked_scatter((ids == IMAGE)[..., None], features)
    got = run(tmp_path / "embedding.onnx", input_ids=ids.numpy(), image_features=features.numpy())
    np.testing.assert_array_equal(got, expected.numpy())
    none = run(tmp_path / "embedding.onnx", input_ids=ids.numpy()[:, :1], image_features=features.numpy()[:0])
    np.testing.assert_array_equal(none, expected.numpy()[:, :1])


def test_its_configs_say_what_the_checkpoints_do(model: Any, tmp_path: Path) -> None:
    built = tmp_path / "genai_config.json"
    built.write_text('{"model": {"type": "qwen2_5_vl"}, "search": {}}')
    to_onnxruntime_genai.write_config(model.config, built)
    said = json.loads(built.read_text())["model"]
    assert (said["type"], said["image_token_id"], said["vision"]["patch_size"]) == ("qwen2_5_vl", IMAGE, 14)


CONVERTER = """
import json, sys
from pathlib import Path
from conversion.base import TextModel
def main():
    model = TextModel()
    asked = [model.tensor_force_quant("", "", layer, axes) for layer, axes in ((0, 2), (0, 1), (None, 2))]
    said = {"arguments": sys.argv[1:], "tokenizer": model.get_vocab_base_pre(None), "asked": asked}
    Path(sys.argv[sys.argv.index("--outfile") + 1]).write_text(json.dumps(said))
"""
BASE = """
class TextModel:
    def get_vocab_base_pre(self, tokenizer):
        raise NotImplementedError
    def tensor_force_quant(self, name, new_name, bid, n_dims):
        return False
"""


@pytest.mark.parametrize(
    ("precision", "kind", "asked"),
    [("fp32", "f32", [False] * 3), ("int8", "q8_0", [False] * 3), ("int4", "q8_0", ["Q4_0", False, False])],
)
def test_llama_cpps_converter_is_told_tokenizer_and_bits(
    tmp_path: Path, precision: str, kind: str, asked: list[object]
) -> None:
    source = tmp_path / "source"
    (source / "conversion").mkdir(parents=True)
    (source / "gguf-py").mkdir()
    (source / "convert_hf_to_gguf.py").write_text(CONVERTER)
    (source / "conversion" / "base.py").write_text(BASE)
    (source / "gguf-py" / "gguf.py").write_text("class GGMLQuantizationType:\n    Q4_0 = 'Q4_0'\n")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "peers.to_gguf", source, "checkpoint", out, precision]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(BENCHMARKS)}, cwd=tmp_path)
    text, vision = (json.loads((out / f"{name}.gguf").read_text()) for name in ("text", "vision"))
    assert (text["tokenizer"], text["asked"]) == ("qwen2", asked)
    assert text["arguments"] == ["checkpoint", "--outfile", str(out / "text.gguf"), "--outtype", kind]
    assert vision["arguments"][-3:] == ["--outtype", "f32", "--mmproj"]


def test_every_recipe_has_an_adapter() -> None:
    assert all(find_spec(recipe.module) for recipe in prepare.RECIPES.values())
