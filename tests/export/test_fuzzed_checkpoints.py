"""Checkpoints with one thing changed, found by hypothesis: a clear line, or a plan as good as any. Nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.exporting import export_bundle
from fastv_export.families import FAMILIES
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.verify.reference import load_model
from fastv_runtime import UserError
from tests.damaged import GONE, MAX_NEW_TOKENS, VALUES, changed, changes, header_of, paths, plan_of, write_header
from tests.families.rows import ROWS

CHANGES = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SMALL = ("config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


@pytest.fixture(scope="module")
def llava(tiny_llava: Path, folder: Path) -> Path:
    return Path(shutil.copytree(tiny_llava, folder / "llava"))


@pytest.fixture(scope="module")
def qwen(folder: Path) -> Path:
    row = next(row for row in ROWS if row.model_type == "qwen2_5_vl")
    row.write(folder / "qwen")
    return folder / "qwen"


@pytest.fixture(scope="module")
def sharded(tiny_llava: Path, folder: Path) -> Path:
    path = Path(shutil.copytree(tiny_llava, folder / "sharded"))
    (path / SINGLE).unlink()
    load_model(tiny_llava, FAMILIES["llava"]).save_pretrained(path, max_shard_size="300KB")
    return path


def tried(source: Path, file: str, edit: Callable[[Path], Any]) -> bool:
    """Whether a checkpoint makes a plan with one file changed; UserErrors are held to what they promise."""
    before = (source / file).read_bytes()
    try:
        edit(source / file)
        assert plan_of(source).max_visual >= 1
        for tensor in Checkpoint(source).tensors.values():
            assert 0 <= tensor.start <= tensor.stop <= tensor.file.stat().st_size
        return True
    except UserError as error:
        line = str(error)
        # Of a plan that does not suit the model the options are named, of anything else the place.
        assert line.startswith((str(source), "`layer`", "`keep`", "`max_text`", "this decoder's heads"))
        assert "\n" not in line and len(line) < len(str(source)) + 500
        return False
    finally:
        (source / file).write_bytes(before)


def test_the_sources_are_good(llava: Path, qwen: Path, sharded: Path) -> None:
    for source in (llava, qwen, sharded):
        assert tried(source, "config.json", lambda _: None)


@given(st.data())
@CHANGES
def test_headers_with_a_value_changed(llava: Path, data: st.DataObject) -> None:
    header, values = header_of(llava / SINGLE)
    where = st.tuples(st.sampled_from(sorted(header, key=len)[:6]), st.sampled_from(["dtype", "shape", "data_offsets"]))
    name, part = data.draw(where.filter(lambda chosen: chosen[1] in header[chosen[0]]))
    inner = list(paths(header[name][part]))
    path = (name, part, *data.draw(st.sampled_from([(), *inner])))
    changed(header, path, data.draw(st.sampled_from([*VALUES, GONE])))
    tried(llava, SINGLE, lambda file: write_header(file, json.dumps(header).encode(), values))


@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=4))
@CHANGES
def test_headers_with_bytes_changed(llava: Path, edits: list[tuple[int, int]]) -> None:
    def edit(file: Path) -> None:
        content = bytearray(file.read_bytes())
        for position, value in edits:
            content[position] = value
        file.write_bytes(content)

    tried(llava, SINGLE, edit)


@pytest.mark.parametrize("model", ["llava", "qwen"])
@given(st.data())
@CHANGES
def test_configs_with_a_value_changed(model: str, request: pytest.FixtureRequest, data: st.DataObject) -> None:
    source: Path = request.getfixturevalue(model)
    document = json.loads((source / "config.json").read_text())
    path, value = data.draw(changes(document))
    changed(document, path, value)
    tried(source, "config.json", lambda file: file.write_text(json.dumps(document)))


@given(st.data())
@CHANGES
def test_other_settings_with_a_value_changed(llava: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(SMALL))
    document = json.loads((llava / name).read_text())
    path, value = data.draw(changes(document))
    changed(document, path, value)
    tried(llava, name, lambda file: file.write_text(json.dumps(document)))


@given(st.data())
@CHANGES
def test_indexes_with_a_value_changed(sharded: Path, data: st.DataObject) -> None:
    document = json.loads((sharded / INDEX).read_text())
    names = st.sampled_from([*VALUES, GONE, "../x.safetensors", "/x.safetensors", "x.safetensors", "config.json"])
    path = data.draw(
        st.sampled_from([("weight_map",), ("metadata",), ("weight_map", next(iter(document["weight_map"])))])
    )
    changed(document, path, data.draw(names))
    tried(sharded, INDEX, lambda file: file.write_text(json.dumps(document)))


def test_a_plan_of_a_changed_config_can_be_exported(llava: Path, tmp_path: Path) -> None:
    """Of what the tests above accept: fields that nothing is built of."""
    document = json.loads((llava / "config.json").read_text())
    for path, value in ((("image_seq_length",), 10**12), (("dtype",), None), (("architectures",), {})):
        changed(document, path, value)
    source = Path(shutil.copytree(llava, tmp_path / "source"))
    (source / "config.json").write_text(json.dumps(document))
    manifest = export_bundle(source, tmp_path / "out.fastv", Options(max_new_tokens=MAX_NEW_TOKENS), Progress(None))
    assert manifest.verified is not None
