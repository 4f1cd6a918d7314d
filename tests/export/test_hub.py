"""Checkpoints by hub id: the real client against a server of our own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.hub import resolve
from fastv_export.checkpoint.pickled import conversion
from fastv_export.cli import main as fastv_export
from fastv_export.progress import Progress
from fastv_runtime import UserError
from fastv_runtime.config.bundle import read_manifest
from tests.conftest import MakeBundle
from tests.hub_server import COMMIT, Hub, serving

CONFIG = json.dumps({"model_type": "llava"}).encode()
SHARDS = {f"model-0000{i}-of-00002.safetensors": bytes([i]) * 300_000 for i in (1, 2)}
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
NEEDED = {
    "config.json": CONFIG,
    "generation_config.json": b'{"eos_token_id": 1}',
    "tokenizer.json": b'{"version": "1.0"}',
    "preprocessor_config.json": b'{"size": 96}',
    "chat_template.jinja": b"{{ messages }}",
    "vocab.json": b"{}",
}
USELESS = {
    "README.md": b"# model",
    "modeling_llava.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"twice",
    "model.fp16.safetensors": b"other",
    "model-00003-of-00002.safetensors": b"left over",
    "original/model.safetensors": b"in a folder",
    "onnx/model.onnx": b"onnx",
    "model.gguf": b"gguf",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    repositories = {
        "org/single": {**NEEDED, **USELESS, "model.safetensors": b"s" * 500_000},
        "org/sharded": {**NEEDED, **USELESS, "model.safetensors.index.json": INDEX.encode(), **SHARDS},
        "org/pickled": {**NEEDED, "pytorch_model-00001-of-00001.bin": b"pickle"},
    }
    with serving(Hub(repositories)) as hub:
        yield hub


class Downloads:
    """`resolve` with a cache of its own; `said` is what people read."""

    def __init__(self, cache: Path):
        self.cache = cache
        self.said = ""

    def __call__(self, hub: Hub, source: str, revision: str | None = None) -> Path:
        console = Console(file=StringIO(), width=400)
        try:
            with Progress(console) as progress:
                return resolve(source, revision, progress, endpoint=hub.url, cache_dir=self.cache)
        finally:
            self.said = console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def download(tmp_path: Path) -> Downloads:
    return Downloads(tmp_path / "cache")


def test_only_what_an_export_reads_is_fetched(hub: Hub, download: Downloads) -> None:
    folder = download(hub, "org/single")
    assert sorted(hub.fetched()) == sorted([*NEEDED, "model.safetensors"])
    assert sorted(path.name for path in folder.iterdir()) == sorted([*NEEDED, "model.safetensors"])
    assert (folder / "model.safetensors").read_bytes() == b"s" * 500_000
    assert "org/single: 7 files, 0.5 MiB; to download: 6 files, 0.5 MiB, to" in download.said


def test_the_single_file_before_an_index_and_templates_by_name(hub: Hub, download: Downloads) -> None:
    """As `Checkpoint.files` and transformers choose; an index may be left over from an older save."""
    template = "additional_chat_templates/rag.jinja"
    files = {"model.safetensors": b"new", "model.safetensors.index.json": INDEX.encode(), template: b"t", **SHARDS}
    hub.repositories["org/both"] = {**NEEDED, **files}
    folder = download(hub, "org/both")
    assert sorted(hub.fetched()) == sorted([*NEEDED, "model.safetensors", "rag.jinja"])
    assert (folder / template).read_bytes() == b"t"
    assert [path.name for path in Checkpoint(folder).files] == ["model.safetensors"]


def test_of_shards_those_that_the_index_names(hub: Hub, download: Downloads) -> None:
    folder = download(hub, "org/sharded", "v1")
    assert sorted(hub.fetched()) == sorted([*NEEDED, "model.safetensors.index.json", *SHARDS])
    assert [path.read_bytes() for path in Checkpoint(folder).files] == list(SHARDS.values())


def test_what_is_cached_is_not_fetched_again(hub: Hub, download: Downloads) -> None:
    folder = download(hub, "org/single")
    hub.log.clear()
    assert download(hub, "org/single", COMMIT) == folder
    assert hub.fetched() == []
    assert "7 files, 0.5 MiB, all of them in" in download.said
    (folder / "model.safetensors").unlink()
    shutil.rmtree(folder.parents[1] / "blobs")
    for path in folder.iterdir():
        path.unlink()
        path.write_bytes(NEEDED[path.name])
    assert download(hub, "org/single") == folder
    assert hub.fetched() == ["model.safetensors"]


def test_an_adapter_is_refused_by_the_listing(hub: Hub, download: Downloads) -> None:
    hub.repositories["org/single"]["adapter_config.json"] = b"{}"
    with pytest.raises(UserError, match="org/single: an adapter beside a model, which is not applied here"):
        download(hub, "org/single")
    assert hub.fetched() == []


def test_quantized_weights_are_not_fetched(hub: Hub, download: Downloads) -> None:
    config = {"model_type": "llava", "quantization_config": {"quant_method": "awq"}}
    hub.repositories["org/single"]["config.json"] = json.dumps(config).encode()
    with pytest.raises(UserError, match=r"its weights are quantized \(awq\)"):
        download(hub, "org/single")
    assert hub.fetched() == ["config.json"]


def test_a_broken_connection_goes_on_where_it_broke(hub: Hub, download: Downloads) -> None:
    name = "model-00002-of-00002.safetensors"
    # The client takes in 10 MiB at a time: the break comes after the first of them.
    hub.repositories["org/sharded"][name] = np.random.default_rng(0).bytes(12 << 20)
    hub.cut = {name: 11 << 20}
    folder = download(hub, "org/sharded")
    assert (folder / name).read_bytes() == hub.repositories["org/sharded"][name]
    ranges = [wanted for method, path, wanted in hub.log if method == "GET" and path.endswith(name)]
    assert ranges == [None, f"bytes={10 << 20}-"]


def test_after_a_failure_complete_shards_are_kept(hub: Hub, download: Downloads) -> None:
    second = hub.repositories["org/sharded"].pop("model-00002-of-00002.safetensors")
    with pytest.raises(UserError, match=r"names model-00002-of-00002\.safetensors, which the repository does not have"):
        download(hub, "org/sharded")
    hub.repositories["org/sharded"]["model-00002-of-00002.safetensors"] = second
    hub.broken = {"model-00002-of-00002.safetensors"}
    with pytest.raises(UserError, match=r"the download broke off \(HTTP 500\): run the command again"):
        download(hub, "org/sharded")
    hub.broken = set()
    hub.log.clear()
    download(hub, "org/sharded")
    assert hub.fetched() == ["model-00002-of-00002.safetensors"]


def test_pickles_are_refused_before_any_download(hub: Hub, download: Downloads) -> None:
    with pytest.raises(UserError, match=r"pickles only.*'hf download org/pickled --local-dir pickled'.*weights_only"):
        download(hub, "org/pickled")
    assert hub.fetched() == []


def test_a_model_that_cannot_be_exported_costs_no_weights(hub: Hub, download: Downloads) -> None:
    hub.repositories["org/single"]["config.json"] = b'{"model_type": "bert"}'
    with pytest.raises(UserError, match="'bert' is not supported"):
        download(hub, "org/single")
    assert hub.fetched() == ["config.json"]


def test_a_full_disk_is_noticed_before_the_download(
    hub: Hub, download: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(download.cache.parent)._replace(free=200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"cache: 0\.5 MiB to download and 0\.2 MiB free: make room"):
        download(hub, "org/single")
    assert hub.fetched() == ["config.json"]


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("org/nothing", None, "org/nothing: no such directory, and no such model at http://127"),
        ("org/single", "v2", "`revision` v2: org/single has no such branch, tag or commit"),
        ("org/gated", None, "org/gated: access is granted on request only"),
        ("org/no-config", None, "it has no config.json"),
        ("org/no-weights", None, "no model.safetensors and no model.safetensors.index.json"),
        ("tests", "main", "`revision` main: tests is not a hub id"),
    ],
)
def test_what_the_hub_has_not(hub: Hub, download: Downloads, source: str, revision: str | None, message: str) -> None:
    hub.repositories |= {
        "org/gated": hub.repositories["org/single"],
        "org/no-config": {"model.safetensors": b""},
        "org/no-weights": NEEDED,
    }
    hub.gated = {"org/gated"}
    with pytest.raises(UserError, match=re.escape(message)):
        download(hub, source, revision)
    assert hub.fetched() == []


def test_a_directory_wins_over_an_id(
    hub: Hub, download: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("org/single").mkdir(parents=True)
    assert download(hub, "org/single") == Path("org/single")
    assert download(hub, "a/b/c") == Path("a/b/c")
    assert hub.log == []


def test_without_a_network_a_complete_copy_will_do(hub: Hub, download: Downloads) -> None:
    folder = download(hub, "org/sharded")
    away = Hub({}, url="http://127.0.0.1:9")
    assert download(away, "org/sharded") == folder
    assert f"org/sharded: no answer from {away.url}" in download.said
    assert "using the copy in" in download.said
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="has only a part of it: run 'hf download org/sharded --local-dir sharded'"):
        download(away, "org/sharded")
    with pytest.raises(UserError, match=r"at v1: no such directory, no answer from .* has no copy"):
        download(away, "org/sharded", "v1")


@pytest.fixture
def default_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The server as the hub that commands ask."""
    here = partial(resolve, endpoint=hub.url, cache_dir=tmp_path / "cache")
    monkeypatch.setattr("fastv_export.api.resolve", here)
    return hub


def test_export_by_hub_id(
    default_hub: Hub,
    tiny_llava: Path,
    make_bundle: MakeBundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    default_hub.repositories["org/tiny"] = {path.name: path.read_bytes() for path in tiny_llava.iterdir()}
    flags = ["--revision", "v1", "--layer", "2", "--keep", "0.5", "--precision", "fp32", "--no-verify"]
    fastv_export(["org/tiny", "-o", str(tmp_path / "out.fastv"), *flags])
    assert "org/tiny at v1: " in capsys.readouterr().err
    assert read_manifest(tmp_path / "out.fastv") == read_manifest(make_bundle(tiny_llava, verify=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["org/nothing"], "no such model"), (["org/pickled"], "pickles only"), (["org/single", "--revision", "x"], "x")],
)
def test_the_command_says_it_in_one_line(
    default_hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        fastv_export([*arguments, "-o", str(tmp_path / "out.fastv")])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert [line for line in lines if line.startswith("fastv-export: ")] == lines[-1:]
    assert not (tmp_path / "out.fastv").exists()


def test_the_command_looks_at_its_output_before_it_downloads(default_hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        fastv_export(["org/single", "-o", str(tmp_path)])
    assert default_hub.log == []


def test_the_conversion_that_is_advised_works(tiny_llava: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_llava, tmp_path / "a model"))
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names = sorted(weights)
    shared = {"tied": weights[names[0]]}  # as a tied head is pickled: two names, one memory
    for index, part in enumerate((names[:20], names[20:]), 1):
        tensors = {name: weights[name] for name in part} | (shared if index == 1 else {})
        torch.save(tensors, source / f"pytorch_model-0000{index}-of-00002.bin")
    with pytest.raises(UserError, match="only pickles") as caught:
        _ = Checkpoint(source).files
    command = conversion(source)
    assert str(caught.value).endswith(command)
    assert command.startswith("python ")
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
    converted = {name: tensor.read() for name, tensor in Checkpoint(source).tensors.items()}
    assert converted.keys() == {*weights, "tied"}
    for name, tensor in weights.items():
        assert (converted[name] == tensor.numpy()).all()
