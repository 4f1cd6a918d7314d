"""Bad input: one clear line on stderr, exit code 2, nothing lost and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastv_export.cli import main as fastv_export
from fastv_export.tracing.attention import last_row_scores
from fastv_runtime.cli.inspect import main as fastv_inspect
from fastv_runtime.cli.run import main as fastv_run
from fastv_runtime.config.bundle import MANIFEST
from tests.conftest import noise_image
from tests.runtime.test_images import BAD_IMAGES
from tests.tiny import write_tiny_llava

Main = Callable[[list[str]], None]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail with code 2 and one line; returns the line."""

    def run(main: Main, *arguments: object) -> str:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert caught.value.code == 2
        assert captured.out == ""
        lines = [line for line in captured.err.splitlines() if line.startswith("fastv-")]
        assert len(lines) == 1, captured.err
        assert "Traceback" not in captured.err
        return lines[0]

    return run


Fails = Callable[..., str]


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    noise_image(0).save(path)
    return path


class TestRun:
    @pytest.mark.parametrize("name", BAD_IMAGES)
    def test_bad_images(self, fails: Fails, tiny_bundle: Path, tmp_path: Path, name: str) -> None:
        data, message = BAD_IMAGES[name]
        (tmp_path / name).write_bytes(data)
        line = fails(fastv_run, tiny_bundle, "--image", tmp_path / name, "--prompt", "What is it?")
        assert message in line
        assert str(tmp_path / name) in line

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--image", "missing.png", "--prompt", "What?"], "missing.png: no such image"),
            (["--prompt", ""], "--prompt '': must not be empty"),
            (["--prompt", " \n"], "--prompt ' ': must not be empty"),
            (["--prompt", "word " * 300], "export with a larger --max-text"),
            (["--prompt", "What?", "--max-new-tokens", "1000"], "export with a larger --max-new-tokens"),
            (["--prompt", "What?", "--max-new-tokens", "0"], "--max-new-tokens 0"),
            (["--prompt", "What?", "--keep", "0"], "--keep 0: must be above 0 and at most 1"),
            (["--prompt", "What?", "--keep", "nan"], "--keep nan: must be above 0 and at most 1"),
            (["--prompt", "What?", "--temperature", "-1"], "--temperature -1"),
            (["--prompt", "What?", "--top-p", "2"], "--top-p 2"),
            (["--prompt", "What?", "--threads", "0"], "--threads 0"),
            (["--prompt", "What?", "--show-kept", "out.png"], "--show-kept: there is no image"),
            (["--prompt", "What?", "--show-kept", "out.gif"], "ends in .png"),
            (["--prompt", "What?", "--show-kept", "nowhere/out.png"], "no such directory"),
            (["--prompt", "<image> what?"], "1 <image> for 0 images"),
        ],
    )
    def test_bad_arguments(self, fails: Fails, tiny_bundle: Path, arguments: list[str], message: str) -> None:
        assert message in fails(fastv_run, tiny_bundle, *arguments)

    def test_a_keep_beyond_the_buffers(self, fails: Fails, tiny_bundle: Path, image_file: Path) -> None:
        images = ["--image", image_file, image_file]
        line = fails(fastv_run, tiny_bundle, *images, "--prompt", "What?", "--keep", "0.9")
        assert re.match(r"fastv-run: --keep 0.9: the pruned prompt has \d+ tokens .*: it can be 0\.\d+ at most", line)

    def test_too_many_images(self, fails: Fails, tiny_bundle: Path, image_file: Path) -> None:
        line = fails(fastv_run, tiny_bundle, "--image", *[image_file] * 3, "--prompt", "What?")
        assert "--max-images" in line

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda path: _flip(path / "onnx" / "prefix.onnx.data"), "sha256"),
            (lambda path: (path / "onnx" / "suffix.onnx").unlink(), "is missing"),
            (lambda path: _newer(path / MANIFEST), "upgrade fastv-edge"),
            (lambda path: (path / MANIFEST).unlink(), "not a bundle"),
            (shutil.rmtree, "no such bundle"),
        ],
    )
    def test_bad_bundles(
        self, fails: Fails, tiny_bundle: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
    ) -> None:
        copy = Path(shutil.copytree(tiny_bundle, tmp_path / "copy.fastv"))
        damage(copy)
        line = fails(fastv_run, copy, "--prompt", "What?")
        assert message in line
        assert str(copy) in line

    def test_inspect_refuses_what_is_no_bundle(self, fails: Fails, tmp_path: Path) -> None:
        assert "not a bundle" in fails(fastv_inspect, tmp_path)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 0x80
    path.write_bytes(data)


def _newer(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 1000}))


class TestExport:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--keep", "0"], "--keep 0: must be above 0 and at most 1"),
            (["--keep", "1.5"], "--keep 1.5: must be above 0 and at most 1"),
            (["--keep", "-1"], "--keep -1: must be above 0 and at most 1"),
            (["--keep", "nan"], "--keep nan: must be above 0"),
            (["--keep", "0.001"], "keeps none of 144 visual tokens"),
            (["--layer", "0"], "--layer 0: must be a whole number, 1 to 1,000"),
            (["--layer", "5"], "--layer 5: must be 1 to 4; this decoder has 5 layers"),
            (["--layer", "-1"], "--layer -1"),
            (["--cut", "2:0.5", "--cut", "9:0.2"], "--cut 9:0.2: layer 9: must be 1 to 4; this decoder has 5 layers"),
            (["--cut", "2:0.5", "--cut", "3:0.001"], "--cut 3:0.001: keep 0.001: keeps none of 144 visual tokens"),
            (["--cut", "2:0.5", "--cut", "3:0.5"], "--cut 3:0.5: keeps no fewer visual tokens than the cut before"),
            (["--cut", "2:0.5:foo"], "--cut 2:0.5: ranker foo: no such ranker; known rankers: fastv, random"),
            (
                [f"--cut={layer}:0.{9 - layer}" for layer in range(1, 9)] + ["--cut", "9:0.01"],
                "--cut: 9 of them: a plan",
            ),
            (["--cut", "0:0.5"], "--cut 0:0.5: 0: must be a whole number, 1 to 1,000"),
            (["--cut", "2:0"], "--cut 2:0: 0: must be above 0 and at most 1"),
            *(
                (["--cut", value], f"--cut {value}: must be LAYER:KEEP, as 7:0.33, or LAYER:KEEP:RANKER")
                for value in ("2:", "2:0.5:", "2", "2:0.5+4:0.2", "2:0.5,4:0.2", "2:0.5:a:b")
            ),
            (["--max-text", "0"], "--max-text 0"),
            (["--max-images", "0"], "--max-images 0"),
            (["--max-new-tokens", "-3"], "--max-new-tokens -3"),
        ],
    )
    def test_senseless_plans(
        self, fails: Fails, tiny_llava: Path, tmp_path: Path, arguments: list[str], message: str
    ) -> None:
        assert message in fails(fastv_export, tiny_llava, "-o", tmp_path / "out.fastv", *arguments)
        assert list(tmp_path.iterdir()) == []

    def test_output_that_exists_is_left_alone(self, fails: Fails, tiny_llava: Path, tmp_path: Path) -> None:
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "file").write_text("keep me")
        assert "already exists" in fails(fastv_export, tiny_llava, "-o", tmp_path / "precious")
        assert (tmp_path / "precious" / "file").read_text() == "keep me"

    def test_output_in_no_directory(self, fails: Fails, tiny_llava: Path, tmp_path: Path) -> None:
        assert "no such directory" in fails(fastv_export, tiny_llava, "-o", tmp_path / "nowhere" / "out.fastv")

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (shutil.rmtree, "no such checkpoint"),
            (lambda path: (path / "config.json").unlink(), "not a checkpoint, it has no config.json"),
            (lambda path: (path / "config.json").write_text("{"), "cannot be used ("),
            (lambda path: (path / "config.json").write_text("[]"), "cannot be used ("),
            (lambda path: (path / "config.json").write_text("{}"), "names no model_type"),
            (
                lambda path: _edit(path / "config.json", model_type="bert"),
                "'bert' is not supported; known families: ",
            ),
            (lambda path: (path / "model.safetensors").unlink(), "no safetensors weights"),
            (lambda path: _truncate(path / "model.safetensors", 1000), "truncated"),
            (lambda path: _truncate(path / "model.safetensors", 3), "truncated"),
            (lambda path: _truncate(path / "model.safetensors", -8), "truncated"),
            (lambda path: (path / "tokenizer.json").unlink(), "no tokenizer.json"),
            (lambda path: (path / "processor_config.json").unlink(), "no preprocessor_config.json"),
            (lambda path: _edit_text(path / "config.json", hidden_size=32), "do not belong together"),
            (lambda path: _edit_text(path / "config.json", num_hidden_layers=9), "tensors are missing: "),
        ],
    )
    def test_bad_checkpoints(
        self, fails: Fails, tiny_llava: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
    ) -> None:
        source = Path(shutil.copytree(tiny_llava, tmp_path / "source"))
        damage(source)
        line = fails(fastv_export, source, "-o", tmp_path / "out.fastv")
        assert message in line
        assert str(source) in line
        assert not [path for path in tmp_path.iterdir() if path.name != "source"]


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _edit_text(path: Path, **changes: object) -> None:
    config = json.loads(path.read_text())
    config["text_config"] |= changes
    path.write_text(json.dumps(config))


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size if size >= 0 else path.stat().st_size + size)


def test_a_graph_that_differs_from_transformers_leaves_no_bundle(
    tiny_llava: Path,
    tmp_path: Path,
    own_traces: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def wrong(query: torch.Tensor, key: torch.Tensor, scaling: float, start: torch.Tensor) -> torch.Tensor:
        return last_row_scores(query, key, 1.01 * scaling, start)

    # The smallest slip one could make in the scores: a scale that is off by one percent.
    monkeypatch.setattr("fastv_export.tracing.attention.last_row_scores", wrong)
    with pytest.raises(SystemExit) as caught:
        fastv_export([str(tiny_llava), "-o", str(tmp_path / "out.fastv")])
    assert caught.value.code == 1
    assert "graphs differ from transformers: prefix by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_export_leaves_no_bundle(tmp_path: Path, signum: signal.Signals) -> None:
    # Enough layers that tracing takes seconds: the signal finds the export at work.
    source = write_tiny_llava(tmp_path / "source", layers=16)
    output = tmp_path / "out" / "out.fastv"
    output.parent.mkdir()
    command = [sys.executable, "-c", "from fastv_export.cli import main; main()", str(source), "-o", str(output)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # Where the tests themselves run in a shell's background, interrupts are ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not any(output.parent.glob(".out.fastv.partial-*/onnx/*.onnx")):
        assert process.poll() is None, "the export ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signum)
    assert process.wait(timeout=60) != 0
    assert not output.exists()
    if signum is not signal.SIGKILL:  # which leaves no one to clean up
        assert list(output.parent.iterdir()) == []
