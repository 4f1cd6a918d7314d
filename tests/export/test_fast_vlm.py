"""What an export of FastVLM asks for beside the weights that every family has."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from fastv_export.checkpoint.checkpoint import Checkpoint, StoredTensor
from fastv_export.checkpoint.skeleton import Skeleton
from fastv_export.families import FAMILIES
from fastv_export.graphs.build import build_graph
from fastv_export.plan import Options, decoder_dimensions, make_plan
from fastv_export.tracing import attention
from fastv_runtime import UserError
from fastv_runtime.config.io_spec import io_specs
from tests.families.rows.fast_vlm import IMAGE_SIZE, write_tiny_fast_vlm

FAMILY = FAMILIES["fast_vlm"]
STATISTIC = "model.vision_tower.timm_model.stages.0.blocks.0.mlp.conv.bn.running_var"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "tiny-fast-vlm"
    write_tiny_fast_vlm(path)
    return path


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "source"))


def _edit(path: Path, **changes: object) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_tower_is_traced_without_reading_weights(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attention.register()
    checkpoint = Checkpoint(source)
    config = FAMILY.config(checkpoint)
    vision = FAMILY.vision(config, None)
    dimensions = decoder_dimensions(config, FAMILY)
    plan = make_plan(Options(), dimensions, vision, None)
    skeleton = Skeleton(checkpoint, FAMILY, attention=attention.IMPLEMENTATION)
    read: list[str] = []
    monkeypatch.setattr(StoredTensor, "read", lambda self: read.append(self.name))
    io_spec = io_specs(dimensions, vision, None, plan, "float32")["vision"]
    graph = build_graph("vision", io_spec, skeleton, FAMILY, vision, plan).graph
    assert read == []
    assert sum(node.op_type == "BatchNormalization" for node in graph) == 7


def test_statistics_come_from_the_checkpoint(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors | {STATISTIC: tensors[STATISTIC] * 0 + 7}, copy / "model.safetensors")
    model = Skeleton(Checkpoint(copy), FAMILY, attention="eager").model
    assert model.get_buffer(STATISTIC).tolist() == [7] * tensors[STATISTIC].size


def test_missing_statistics_are_named(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors[STATISTIC]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(UserError, match=f"1 tensors are missing: {STATISTIC}"):
        Skeleton(Checkpoint(copy), FAMILY, attention="eager")


def test_apples_config_says_that_images_are_padded(copy: Path) -> None:
    assert FAMILY.vision(FAMILY.config(Checkpoint(copy)), None).aspect == "crop"
    _edit(copy, image_aspect_ratio="pad")
    vision = FAMILY.vision(FAMILY.config(Checkpoint(copy)), None)
    assert (vision.aspect, vision.image_height, vision.image_width) == ("pad", IMAGE_SIZE, IMAGE_SIZE)


def test_tokens_that_are_no_square_are_refused(copy: Path) -> None:
    _edit(copy, image_seq_length=17)
    with pytest.raises(UserError, match="image_seq_length 17"):
        FAMILY.vision(FAMILY.config(Checkpoint(copy)), None)


def test_without_timm_the_extra_is_named(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm is not installed: pip install -e '\.\[fastvlm\]'"):
        FAMILY.config(Checkpoint(source))
