"""The seam to transformers: what it loads is transformers' own, and torch is neither imported nor lost by it."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoImageProcessor, AutoProcessor, LlavaForConditionalGeneration

import fastv_runtime
from tests.conftest import noise_image
from tests.processes import run

PROCESSORS = [
    "CLIPImageProcessor",
    "GotOcr2ImageProcessor",
    "Idefics3ImageProcessor",
    "LlavaImageProcessor",
    "LlavaNextImageProcessor",
    "LlavaOnevisionImageProcessor",
    "Qwen2VLImageProcessor",
    "SiglipImageProcessor",
    "SmolVLMImageProcessor",
    "VideoLlavaImageProcessor",
]
"""Of the families' published checkpoints."""

PROCESS = """
import logging, sys
from pathlib import Path
import numpy as np
import transformers
from PIL import Image
from fastv_runtime import hf

def installed():
    logger = logging.getLogger("transformers")
    names = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "transformers"}
    return names, list(sys.meta_path), list(logger.handlers), logger.level, logger.propagate

folder, before = Path(sys.argv[1]), installed()
image = Image.open(folder / "image.png")
processors = {path.name: hf.load_image_processor(path) for path in folder.iterdir() if path.is_dir()}
made = {name: each(images=image, return_tensors="np") for name, each in processors.items()}
hf.select_best_resolution((8, 8), ((4, 8), (8, 8)))
assert installed() == before
assert "torch" not in sys.modules
np.savez(folder / "made.npz", **{name: next(iter(batch.values())) for name, batch in made.items()})
"""

STOCK = """
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

def stock(checkpoint, image):
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint)
    inputs = processor(images=image, text="<image>What is it?", return_tensors="pt")
    return model.generate(**inputs, max_new_tokens=8, do_sample=False)[0].tolist()
"""

BEFORE = f"""
import sys
from fastv_runtime import Pipeline
checkpoint, bundle, file = sys.argv[1:]

def ask():
    return pipeline.generate([Image.open(file)], "What is it?", max_new_tokens=8).token_ids

from PIL import Image
pipeline = Pipeline.load(bundle, threads=1)
first = ask()
assert "torch" not in sys.modules
import torch
{STOCK}
print(stock(checkpoint, Image.open(file)))
assert ask() == first
print(first)
"""


def test_only_the_seam_names_transformers() -> None:
    folder = Path(fastv_runtime.__file__).parent
    naming = {file.relative_to(folder).as_posix() for file in folder.rglob("*.py") if _names_transformers(file)}
    assert naming == {"hf.py"}


def _names_transformers(file: Path) -> bool:
    """Whether code imports transformers or has the path of a module of it; prose and its bare name do not count."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            names = [node.value] if node.value.startswith("transformers.") else []
        if any(name.split(".")[0] == "transformers" for name in names):
            return True
    return False


@pytest.fixture(scope="module")
def processed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of every processor, and what each made of an image in a process that did not import torch."""
    folder = tmp_path_factory.mktemp("processors")
    noise_image(0, (70, 50)).save(folder / "image.png")
    for name in PROCESSORS:
        (folder / name).mkdir()
        (folder / name / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": name}))
    done = run(sys.executable, "-c", PROCESS, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_without_torch_is_that_of_transformers(processed: Path, name: str) -> None:
    processor = AutoImageProcessor.from_pretrained(processed / name, backend="pil")
    expected = next(iter(processor(images=noise_image(0, (70, 50)), return_tensors="pt").values()))
    with np.load(processed / "made.npz") as made:
        np.testing.assert_array_equal(made[name], expected.numpy())


def test_transformers_has_torch_after_a_pipeline_was_loaded_without(
    tiny_llava: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    image = tmp_path / "image.png"
    noise_image(0).save(image)
    done = run(sys.executable, "-c", BEFORE, tiny_llava, tiny_bundle, image)
    assert done.returncode == 0, done.stderr
    assert "PyTorch was not found" not in done.stderr
    stock, _ = map(json.loads, done.stdout.splitlines())
    processor = AutoProcessor.from_pretrained(tiny_llava)
    inputs = processor(images=noise_image(0), text="<image>What is it?", return_tensors="pt")
    model = LlavaForConditionalGeneration.from_pretrained(tiny_llava)
    assert stock == model.generate(**inputs, max_new_tokens=8, do_sample=False)[0].tolist()
