"""Checkpoints whose files are damaged, or made to harm: one line with the file's name, before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.exporting import export_bundle
from fastv_export.families import FAMILIES
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.verify.reference import load_model
from fastv_runtime import UserError
from tests.damaged import header_of, plan_of, write_header

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
Damage = Callable[[Path], Any]


@pytest.fixture
def source(tiny_llava: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llava, tmp_path / "source"))


@pytest.fixture
def sharded(tiny_llava: Path, source: Path) -> Path:
    (source / SINGLE).unlink()
    load_model(tiny_llava, FAMILIES["llava"]).save_pretrained(source, max_shard_size="300KB")
    return source


def refusal(source: Path, target: Path) -> str:
    """What an export says; it leaves nothing behind."""
    with pytest.raises(UserError) as caught:
        export_bundle(source, target / "out.fastv", Options(), Progress(None))
    assert "\n" not in str(caught.value)
    assert not list(target.glob("*.fastv")) and not list(target.glob(".*"))
    return str(caught.value)


def entry(index: int, **values: Any) -> Damage:
    """Values of one tensor's entry in the header; `index` counts in the order of their bytes."""

    def damage(file: Path) -> None:
        header, data = header_of(file)
        entries = sorted((each for each in header.values() if "dtype" in each), key=lambda each: each["data_offsets"])
        entries[index].update(values)
        write_header(file, json.dumps(header).encode(), data)

    return damage


def moved(start: int, stop: int) -> Damage:
    """One tensor's offsets by so many bytes."""

    def damage(file: Path) -> None:
        header, data = header_of(file)
        name = next(name for name in header if name.endswith("layers.0.self_attn.q_proj.weight"))
        first, last = header[name]["data_offsets"]
        header[name]["data_offsets"] = [first + start, last + stop]
        write_header(file, json.dumps(header).encode(), data)

    return damage


def raw(header: bytes, length: int | None = None) -> Damage:
    return lambda file: write_header(file, header, header_of(file)[1], length)


def twice(file: Path) -> None:
    header, data = header_of(file)
    name, value = next((name, value) for name, value in header.items() if name != "__metadata__")
    text = json.dumps(header)
    write_header(file, f"{text[:-1]}, {json.dumps(name)}: {json.dumps(value)}}}".encode(), data)


def resized(count: int) -> Damage:
    return lambda file: file.write_bytes(file.read_bytes()[:count] if count < 0 else file.read_bytes() + bytes(count))


HEADERS: dict[str, tuple[Damage, str]] = {
    "offsets -8": (entry(0, data_offsets=[-8, 0]), "integer '-8'"),
    "overlapping": (moved(-8, -8), "invalid"),
    "with a gap": (moved(8, 8), "invalid"),
    "three": (entry(0, data_offsets=[0, 8, 16]), "invalid length 3"),
    "one": (entry(0, data_offsets=[0]), "invalid length 1"),
    "of text": (entry(0, data_offsets=["0", "8"]), 'string "0"'),
    "of truth": (entry(0, data_offsets=[False, True]), "boolean"),
    "of floats": (entry(0, data_offsets=[0.0, 8.0]), "floating point"),
    "none": (entry(0, data_offsets=None), "null"),
    "beyond the file": (entry(-1, data_offsets=[0, 2**63]), "invalid"),
    "beyond 64 bits": (entry(-1, data_offsets=[0, 2**70]), "invalid"),
    "shape of another size": (entry(0, shape=[3]), "invalid shape"),
    "negative axis": (entry(0, shape=[-1, 64]), "integer '-1'"),
    "axes whose product overflows": (entry(0, shape=[2**40, 2**40]), "overflow"),
    "shape of text": (entry(0, shape="64"), "invalid type"),
    "unknown element type": (entry(0, dtype="F33"), "unknown variant 'F33'"),
    "a key twice": (twice, "twice"),
    "a list": (raw(b"[]"), "sequence"),
    "null": (raw(b"null"), "null"),
    "100,000 lists": (raw(b"[" * 100_000), "sequence"),
    "100,000 objects": (raw(b'{"a":' * 100_000), "recursion limit"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "UTF-8"),
    "empty": (raw(b""), "EOF"),
    "length beyond the file": (raw(b"{}", 10**7), "invalid header length"),
    "length beyond what headers may have": (raw(b"{}", 2 * 10**8), "header too large"),
    "length of all ones": (raw(b"{}", 2**64 - 1), "header too large"),
    "cut short": (resized(-4), "file not fully covered"),
    "longer than its tensors": (resized(4), "file not fully covered"),
    "no bytes": (lambda file: file.write_bytes(b""), "header too small"),
    "seven bytes": (lambda file: file.write_bytes(b"1234567"), "header too small"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_damaged_header_is_one_line_that_names_the_file(name: str, source: Path, tmp_path: Path) -> None:
    damage, words = HEADERS[name]
    damage(source / SINGLE)
    line = refusal(source, tmp_path)
    assert line.startswith(f"{source / SINGLE}: ") and words in line


def test_tensors_of_other_types_are_no_obstacle_unless_they_are_weights(source: Path) -> None:
    tensors = load_file(source / SINGLE) | {"counter": torch.tensor([3, 4])}
    save_file(tensors, source / SINGLE, metadata={"format": "pt"})
    assert Checkpoint(source).tensors["counter"].shape == (2,)
    assert plan_of(source).max_visual == 144


INDEXES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "out of the directory": (
        lambda index: index["weight_map"].update(a="../x.safetensors"),
        "'../x.safetensors' for a",
    ),
    "through it": (lambda index: index["weight_map"].update(a="b/../../x.safetensors"), "for a, which is no"),
    "from the root": (lambda index: index["weight_map"].update(a="/x.safetensors"), "'/x.safetensors' for a"),
    "a number": (lambda index: index["weight_map"].update(a=5), "5 for a"),
    "null": (lambda index: index["weight_map"].update(a=None), "None for a"),
    "a list of names": (lambda index: index["weight_map"].update(a=["x.safetensors"]), "for a"),
    "a null byte": (lambda index: index["weight_map"].update(a="x\0.safetensors"), "for a"),
    "another kind of file": (lambda index: index["weight_map"].update(a="config.json"), "'config.json' for a"),
    "a missing shard": (lambda index: index["weight_map"].update(a="x.safetensors"), "x.safetensors is missing"),
    "no table": (lambda index: index.pop("weight_map"), "no object weight_map"),
    "a table of none": (lambda index: index["weight_map"].clear(), "no object weight_map"),
    "a list for a table": (lambda index: index.update(weight_map=[1]), "no object weight_map"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_points_to_files_beside_it(name: str, sharded: Path, tmp_path: Path) -> None:
    edit, words = INDEXES[name]
    index = json.loads((sharded / INDEX).read_text())
    edit(index)
    (sharded / INDEX).write_text(json.dumps(index))
    line = refusal(sharded, tmp_path)
    assert line.startswith(str(sharded)) and words in line


def test_an_index_names_each_tensor_once(sharded: Path, tmp_path: Path) -> None:
    text = (sharded / INDEX).read_text().replace('"weight_map": {', '"weight_map": {"a": "x", "a": "y",')
    (sharded / INDEX).write_text(text)
    assert refusal(sharded, tmp_path).startswith(f"{sharded / INDEX}: cannot be used ('a' stands in it twice)")


def test_shards_may_be_links_as_in_the_hubs_cache(sharded: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    expected = set(Checkpoint(sharded).tensors)
    for file in [*sharded.glob("model-*"), sharded / INDEX]:
        shutil.move(file, blobs / file.name)
        file.symlink_to(Path("..") / "blobs" / file.name)
    assert set(Checkpoint(sharded).tensors) == expected
    config = json.loads((sharded / "config.json").read_text())
    (sharded / "config.json").write_text(json.dumps(config | {"transformers_weights": INDEX}))
    assert set(Checkpoint(sharded).tensors) == expected


def test_a_tensor_in_two_shards_is_named_with_both(sharded: Path, tmp_path: Path) -> None:
    first, second, *_ = Checkpoint(sharded).files
    name, value = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: value + 1}, second, metadata={"format": "pt"})
    line = refusal(sharded, tmp_path)
    assert line.startswith(f"{second}: tensor {name} is in {first.name} as well")


def test_an_index_that_nobody_reads_may_be_anything(source: Path) -> None:
    (source / INDEX).write_text("[")
    assert [file.name for file in Checkpoint(source).ignored] == [INDEX]


JSON: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "spaces": (b" \n", "it is empty"),
    "half": (b'{"model_type": ', "not JSON"),
    "a list": (b"[]", "a list where an object is meant"),
    "null": (b"null", "null where an object is meant"),
    "text": (b'"llava"', "text where an object is meant"),
    "not UTF-8": (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
    "a key twice": (b'{"model_type": "llava", "a": {"x": 1, "x": 2}}', "'x' stands in it twice"),
    "a key thrice": (b'{"a": 1, "a": 2, "a": 3}', "'a' stands in it 3 times"),
    "100,000 levels": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    "500 levels": (b'{"a":' * 500 + b"1" + b"}" * 500, "nested too deeply"),
    "NaN": (b'{"a": {"b": [1, NaN]}}', "a.b[1] is nan"),
    "infinity": (b'{"a": {"b": -1e999}}', "a.b is -inf"),
    "5,000 digits": (b'{"a": ' + b"1" * 5000 + b"}", "not JSON"),
}


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize(
    "file",
    [
        *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
        *("tokenizer_config.json", "video_preprocessor_config.json", "special_tokens_map.json"),
    ],
)
def test_json_that_holds_no_object_is_one_line_that_names_the_file(
    file: str, name: str, tiny_llava: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for each in tiny_llava.iterdir():
        (source / each.name).symlink_to(each)
    content, words = JSON[name]
    (source / file).unlink(missing_ok=True)
    (source / file).write_bytes(content)
    line = refusal(source, tmp_path)
    assert line.startswith(f"{source / file}: cannot be used (") and words in line


def test_without_a_config_it_is_no_checkpoint(source: Path, tmp_path: Path) -> None:
    (source / "config.json").unlink()
    assert "it has no config.json" in refusal(source, tmp_path)


@pytest.mark.parametrize("verify", [True, False])
def test_settings_that_make_no_pixels_are_refused_verified_or_not(source: Path, tmp_path: Path, verify: bool) -> None:
    file = source / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["image_std"] = [0, 0, 0]
    file.write_text(json.dumps(settings))
    with pytest.raises(UserError) as caught:
        export_bundle(source, tmp_path / "out.fastv", Options(verify=verify), Progress(None))
    field = "image_processor.image_std.0 is 0: must be at least 1e-06"
    assert str(caught.value) == f"{file}: {field}: mend the file, or copy it again"
