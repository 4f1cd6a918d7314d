"""A bundle is checked against itself: every number within bounds, graphs as the plan asks, files as they are listed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from fastv_runtime import Bundle, Pipeline, UserError
from fastv_runtime.cli import run as run_command
from fastv_runtime.config.bundle import EMBEDDING, MANIFEST, read_manifest
from fastv_runtime.config.consistency import check_consistent
from fastv_runtime.config.layouts import VideoLayout, Vision
from fastv_runtime.integrity.paths import check_distinct, checked_path

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy.fastv"))


def edit(bundle: Path, change: Edit) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    change(manifest)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def refusal(bundle: Path) -> str:
    with pytest.raises(UserError) as caught:
        Bundle.open(bundle)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(*path: str | int, to: Any) -> Edit:
    """Set what is at a path."""

    def change(manifest: Any) -> None:
        *outer, last = path
        for key in outer:
            manifest = manifest[key]
        manifest[last] = to

    return change


def renamed(manifest: dict[str, Any]) -> None:
    manifest["graphs"]["ending"] = manifest["graphs"].pop("suffix")


def larger(manifest: dict[str, Any]) -> None:
    manifest["decoder"]["vocab_size"] += 1


FIELDS: list[tuple[Edit, str]] = [
    (put("embedding_dtype", to="float16"), r"embedding_dtype is 'float16': a table of \d+ x \d+ has \d+ bytes"),
    (put("embedding_dtype", to="bfloat16"), "embedding_dtype is 'bfloat16': a table of"),
    (put("embedding_dtype", to="int64"), "embedding_dtype is 'int64': must be 'float32', 'float16' or 'bfloat16'"),
    (put("plan", "cuts", 0, "keep", to=0), "plan.cuts.0.keep is 0: must be above 0"),
    (put("plan", "cuts", 0, "keep", to=-1), "plan.cuts.0.keep is -1: must be above 0"),
    (put("plan", "cuts", 0, "keep", to=3), "plan.cuts.0.keep is 3: must be at most 1"),
    (put("plan", "cuts", 0, "keep", to=float("nan")), "has the number NaN, which is none in JSON"),
    (put("plan", "cuts", 0, "keep", to="0.5"), "plan.cuts.0.keep is '0.5': must be a number"),
    (put("plan", "cuts", 0, "keep", to=True), "plan.cuts.0.keep is true: must be a number"),
    (
        put("plan", "cuts", 0, "keep", to=0.75),
        r"graphs.suffix.inputs: past_key_2 is float32 \[.*\] where decoder, vision and plan",
    ),
    (put("plan", "max_text", to=10**12), "plan.max_text is 1000000000000: must be at most 16777216"),
    (put("plan", "max_text", to=65), r"graphs.prefix.inputs: past_key_0 is float32"),
    (put("plan", "max_new_tokens", to=0), "plan.max_new_tokens is 0: must be at least 1"),
    (put("plan", "cuts", 0, "layer", to=99), "plan.cuts: layer 99: must be below decoder.num_hidden_layers"),
    (put("plan", "cuts", to=[]), "graphs has no decoder, which this plan needs"),
    (put("decoder", "hidden_size", to=0), "decoder.hidden_size is 0: must be at least 1"),
    (put("decoder", "num_hidden_layers", to=10**9), "decoder.num_hidden_layers is 1000000000: must be at most 1024"),
    (put("decoder", "num_key_value_heads", to=3), "decoder: num_attention_heads is 4: must be a multiple of"),
    (larger, r"graphs.suffix.outputs: logits is float32 \[1, 1, \d+\] where decoder"),
    (
        put("graphs", "select", "outputs", 0, "shape", 2, to=7),
        r"graphs.select.outputs: pruned_hidden is float32",
    ),
    (put("graphs", "select", "outputs", 0, "name", to="x"), "graphs.select.outputs has 'x' where .* 'pruned_hidden'"),
    (renamed, "graphs has no suffix, which this plan needs"),
    (put("graphs", "select", "dialect", to="trt"), "graphs are of one dialect, and these of ort, trt"),
    (put("graphs", "select", "file", to="onnx/suffix.onnx"), "graphs has two graphs in one file"),
    (put("graphs", "select", "file", to="/etc/passwd"), "graphs.select.file: '/etc/passwd' is no path inside"),
    (put("tokens", "image", to=10**6), "tokens.image is 1000000: decoder.vocab_size is"),
    (put("tokens", "stop", to=[-1]), "tokens.stop.0 is -1: must be at least 0"),
    (put("vision", "rows", to=10**6), "vision.rows is 1000000: must be at most 16384"),
    (put("generation", "repetition_penalty", to=0), "generation.repetition_penalty is 0: must be above 0"),
    (put("files", EMBEDDING, "size", to=-1), "files.embed_tokens.bin.size is -1: must be at least 0"),
    (put("files", EMBEDDING, "sha256", to="x"), "files.embed_tokens.bin.sha256 is 'x': must have the form"),
    (put("verified", to={"prefix": -1}), "verified.prefix is -1: must be at least 0"),
    (put("decoder", to=[]), "decoder is a list: must be an object"),
    (put("schema_version", to="6"), "schema_version is '6': must be a whole number"),
]


@pytest.mark.parametrize(("change", "line"), FIELDS, ids=[line[:40] for _, line in FIELDS])
def test_a_manifest_that_contradicts_itself_is_refused_by_its_field(copy: Path, change: Edit, line: str) -> None:
    edit(copy, change)
    with pytest.raises(UserError, match=rf"bundle\.json: {line}.*: copy the bundle again, or export it again"):
        read_manifest(copy)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"\xef\xbb\xbf{}", "begins with a byte order mark"),
        ("{}".encode("utf-16"), "not a text file in UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * 5_000 + b"1" + b"}" * 5_000, "nested too deeply"),
        (b'{"schema_version": 7, "schema_version": 7}', "has schema_version twice in one object"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "has a number of thousands of digits"),
        (b'{"schema_version": 9, "family": "\\ud800"}', "not JSON: "),
        (b"null", "schema_version is null"),
        (b"", "not JSON: line 1, column 1"),
        (b" " * (65 << 20), "larger than 64 MiB"),
    ],
)
def test_what_is_no_plain_json_is_one_line(copy: Path, text: bytes, line: str) -> None:
    (copy / MANIFEST).write_bytes(text)
    assert f"{MANIFEST}: {line}" in refusal(copy)


@pytest.mark.parametrize(
    "name", ["processor/chat_template.jinja", "onnx/prefix.onnx.data", "golden.safetensors", "processor/tokenizer.json"]
)
def test_a_file_that_is_not_listed_is_refused(copy: Path, name: str) -> None:
    edit(copy, lambda manifest: manifest["files"].pop(name))
    (copy / name).write_bytes(b"changed")
    assert f"{name} is not listed in bundle.json, so it cannot be checked: remove it" in refusal(copy)


def test_what_nothing_reads_may_lie_beside(copy: Path) -> None:
    for name in ("README.md", ".gitattributes", ".cache/huggingface/x.metadata", "engines/any/x.engine"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("x")
    Bundle.open(copy)
    for name in ("processor/README.md", "onnx/.hidden", "more.bin", "extra/vocab.json"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("x")
        assert f"{name} is not listed" in refusal(copy)
        (copy / name).unlink()
    (copy / "linked").symlink_to(copy.parent)
    assert "linked is not listed" in refusal(copy)


def test_a_bundle_in_a_hub_cache_is_links_to_its_blobs(tiny_bundle: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--somebody--llava"
    snapshot = repository / "snapshots" / "0123abcd" / "llava.fastv"
    (repository / "blobs").mkdir(parents=True)
    for number, path in enumerate(path for path in sorted(tiny_bundle.rglob("*")) if path.is_file()):
        blob = Path(shutil.copy(path, repository / "blobs" / f"{number:040x}"))
        link = snapshot / path.relative_to(tiny_bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    assert Bundle.open(snapshot).manifest == read_manifest(tiny_bundle)
    # Only there: the same links anywhere else lead out of the bundle.
    copied = tmp_path / "copied.fastv"
    shutil.copytree(snapshot, copied, symlinks=True)
    for link in [path for path in copied.rglob("*") if path.is_symlink()]:
        target = snapshot / link.relative_to(copied)
        link.unlink()
        link.symlink_to(target.resolve())
    assert "lies outside the bundle" in refusal(copied)


def test_links_in_a_circle_and_directories_for_files_are_refused(copy: Path) -> None:
    (copy / EMBEDDING).unlink()
    (copy / EMBEDDING).symlink_to(EMBEDDING)
    assert EMBEDDING in refusal(copy)
    (copy / EMBEDDING).unlink()
    (copy / EMBEDDING).mkdir()
    assert f"{EMBEDDING} is missing" in refusal(copy)
    (copy / EMBEDDING).rmdir()
    os.mkfifo(copy / EMBEDDING)
    assert f"{EMBEDDING} is missing" in refusal(copy)


BAD_PATHS = ["", "/x", "../x", "a/../b", "a//b", "./a", "a/", "a\\b", "C:/x", "c:x", "a:b", "a\nb", "a\0", "con"]
BAD_PATHS += [
    "a/NUL.txt",
    "lpt1.bin",
    "a.",
    "a ",
    " a",
    "a?",
    "x" * 256,
    "a/" * 600 + "b",
    "//server/share",
    "\\\\server\\share",
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_paths_that_lead_out_or_are_another_file_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"path in the bundle|no path inside|not every file system|more than 255"):
        checked_path(path)


def test_paths_that_are_one_file_are_refused() -> None:
    assert checked_path("processor/tokenizer.json") == "processor/tokenizer.json"
    with pytest.raises(ValueError, match="a/X and a/x are one file where case does not count"):
        check_distinct(["a/X", "b", "a/x"])
    with pytest.raises(ValueError, match="a is a file, and so cannot hold a/x"):
        check_distinct(["a", "b", "a/x"])


LAYOUTS: list[tuple[Any, dict[str, Any], str]] = [
    (Vision, {"layout": "fixed", "image_height": 0, "image_width": 1, "rows": 1, "columns": 1}, "image_height"),
    (Vision, {"layout": "anyres", "tile": 8, "side": 2, "pinpoints": []}, "pinpoints"),
    (Vision, {"layout": "anyres", "tile": 8, "side": 2, "pinpoints": [[8, 7]]}, "no tile of 8 pixels fits"),
    (Vision, {"layout": "anyres", "tile": 8, "side": 9, "pinpoints": [[8, 8]]}, "side is 9"),
    (
        Vision,
        {"layout": "patches", "channels": 3, "patch": 8, "frames_per_patch": 0, "merge": 2, "max_tokens": 4},
        "frames",
    ),
    (Vision, {"layout": "tiles", "tile": 8, "side": 2, "max_tiles": 0, "settings": {}, "text": {}}, "max_tiles"),
    (
        Vision,
        {"layout": "tiles", "tile": 8, "side": 2, "max_tiles": 1, "settings": {}, "text": {"tile": "{row:1000000000}"}},
        "row and column may stand in braces, and nothing else",
    ),
    (
        Vision,
        {"layout": "tiles", "tile": 8, "side": 2, "max_tiles": 1, "settings": {}, "text": {"tile": "{row.__class__}"}},
        "may stand in braces",
    ),
    (VideoLayout, {"layout": "pooled", "frames": 0, "tile": 8, "side": 2}, "frames"),
]


@pytest.mark.parametrize(("kind", "value", "line"), LAYOUTS, ids=[line for _, _, line in LAYOUTS])
def test_layouts_have_bounds(kind: Any, value: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        TypeAdapter(kind).validate_python(value)


def test_a_video_that_the_images_graph_does_not_take_is_refused(tiny_bundle: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    image = manifest.vision
    rows = image.feature_rows
    video = {"layout": "frames", "graph": "vision", "frames": 4, "image": image, "tokens_per_frame": rows}
    adapter: Any = TypeAdapter(VideoLayout)
    check_consistent(manifest.model_copy(update={"video": adapter.validate_python(video)}))
    wrong = image.model_copy(update={"image_height": 999})
    for change, line in (
        ({"tokens_per_frame": 1}, "tokens_per_frame is 1"),
        ({"image": wrong}, "images of another size"),
    ):
        with pytest.raises(ValueError, match=line):
            check_consistent(manifest.model_copy(update={"video": adapter.validate_python(video | change)}))


def changed_file(bundle: Path, name: str, data: bytes) -> None:
    """Another content, and its hash in the manifest."""
    (bundle / name).write_bytes(data)
    digest = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    edit(bundle, lambda manifest: manifest["files"].update({name: digest}))


@pytest.mark.parametrize("name", ["onnx/vision.onnx", "onnx/suffix.onnx.data"])
def test_a_graph_that_was_damaged_before_it_was_hashed_is_one_line(
    copy: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed_file(copy, name, (copy / name).read_bytes()[:-100])
    with pytest.raises(UserError, match=r"onnx/\w+\.onnx: ONNX Runtime .* cannot load this graph"):
        Pipeline.load(copy)
    with pytest.raises(SystemExit) as ended:
        run_command.main([str(copy), "--prompt", "What is it?"])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_graph_with_other_inputs_than_the_manifest_says_is_named(copy: Path) -> None:
    changed_file(copy, "onnx/prefix.onnx", (copy / "onnx" / "select.onnx").read_bytes())
    with pytest.raises(UserError, match=r"onnx/prefix\.onnx: input \w+ is not as bundle\.json has it"):
        Pipeline.load(copy)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{{ 9 ** (9 ** 8) }}",
        "{{ 'x' * 10 ** 9 }}",
    ],
)
def test_a_bundle_with_a_template_without_end_is_one_line(copy: Path, template: str) -> None:
    changed_file(copy, "processor/chat_template.jinja", template.encode())
    pipeline = Pipeline.load(copy)
    with pytest.raises(UserError, match="chat template cannot be used: it takes more than 1,000,000 steps"):
        pipeline.generate([], "What is it?")


def test_no_more_memory_is_asked_for_than_there_is() -> None:
    from fastv_runtime.memory.buffers import HostMemory

    with pytest.raises(UserError, match=r"buffers of .* GiB do not fit into memory: export with a smaller max_text"):
        HostMemory.allocate(sys.maxsize // 2)
