"""fastv-bench from the command line: what it writes, how it stops, how it refuses."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fastv_runtime.bench.machine.environment import PACKAGES
from fastv_runtime.bench.models import read_report
from fastv_runtime.bench.protocol import Request
from fastv_runtime.bench.runners import prepare
from fastv_runtime.bench.runners.alone import measure_memory
from fastv_runtime.bench.runners.bundle import BackendChoice, BundleRunner
from fastv_runtime.bench.runners.entrants import check_settings
from fastv_runtime.cli import bench as command
from fastv_runtime.config.bundle import GOLDEN, MANIFEST, Bundle, read_manifest, sha256
from fastv_runtime.errors import UserError
from fastv_runtime.tensorrt_build.preflight import weight_bytes
from tests.conftest import MakeBundle, noise_image

QUICK = ["--rounds", "2", "--warmup", "0", "--max-new-tokens", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def dense(tiny_llava: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_llava, prune=False, max_text=64, max_new_tokens=16)


@pytest.fixture
def without_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for each bundle takes seconds; one test has one."""
    monkeypatch.setattr(prepare, "measure_memory", lambda *arguments: None)


def exits(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        command.main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_bundles_are_compared_with_their_baseline(
    dense: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_children: None
) -> None:
    out = tmp_path / "report.json"
    command.main([str(tiny_bundle), "--baseline", str(dense), "--json", str(out), *QUICK])
    report = read_report(out)
    assert report.complete and report.command.startswith("fastv-bench ") and "--baseline" in report.command
    pruned, baseline = (each.name for each in report.runners)
    assert [each.role for each in report.runners] == ["bundle", "baseline"]
    assert [(each.visual_tokens, len(each.images)) for each in report.workloads] == [(0, 0), (144, 1)]
    assert len(report.rounds) == 2 * 2 * 2
    seen = report.result(pruned, "144 visual tokens")
    assert seen is not None and seen.pruned_length == report.workloads[1].prompt_tokens - 72
    assert {"preprocess", "vision", "prefix", "select", "suffix", "rest", "ttft", "decode"} < set(seen.figures)
    assert seen.figures["prefix"].runs == 2
    assert set(seen.predicted) == {"prefill", "ttft", "decode"} and report.profiles[0].precision == "float32, ort"
    for quantity in ("ttft", "prefill", "decode"):
        ratio = report.ratio(pruned, "144 visual tokens", quantity)
        assert ratio is not None and ratio.baseline == baseline and ratio.bound is not None
    assert report.environment.versions["onnxruntime"]
    printed = capsys.readouterr().out
    assert "144 visual tokens" in printed and pruned in printed


def test_one_bundle_is_measured_at_several_keeps(
    dense: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_children: None
) -> None:
    out = tmp_path / "report.json"
    keeps = ["--keep", "0.25", "0.5", "--length", "fixed"]
    command.main([str(tiny_bundle), "--baseline", str(dense), "--json", str(out), *keeps, *QUICK])
    report = read_report(out)
    quarter, half, baseline = report.runners
    assert quarter.name == half.name.removesuffix("0.5") + "0.25" and "keep" not in baseline.name
    assert quarter.settings["plan"] == "K=2, keep 0.25, ranker fastv (exported with keep 0.5), fixed length"
    assert (
        half.settings["plan"] == "K=2, keep 0.5, ranker fastv, fixed length"
        and baseline.settings["plan"] == "not pruned"
    )
    assert quarter.bundle is not None and half.bundle is not None and baseline.bundle is not None
    assert (quarter.bundle.plan.keep, half.bundle.plan.keep, baseline.bundle.plan.keep) == (0.25, 0.5, 1.0)
    assert quarter.bundle.sha256 == half.bundle.sha256 and {quarter.role, half.role} == {"bundle"}
    workload = report.workloads[1]
    text = workload.prompt_tokens - workload.visual_tokens
    for runner, kept in ((quarter, 36), (half, 72)):
        result = report.result(runner.name, workload.name)
        assert result is not None and result.pruned_length == math.ceil(text / 32) * 32 + kept
        assert report.ratio(runner.name, workload.name, "ttft") is not None
        beyond = result.pruned_length - text - kept
        assert any(
            note.startswith(f"{runner.name}, {workload.name}: {kept + beyond} visual tokens kept, {beyond} more than")
            for note in report.notes
        )
    by_turn = [each.runner for each in report.rounds if each.workload == workload.name]
    assert by_turn[:3] != by_turn[3:] and set(by_turn[:3]) == set(by_turn[3:])
    assert quarter.name in capsys.readouterr().out


def test_a_keep_that_a_prompt_has_no_room_for_is_named(
    tiny_bundle: Path, tmp_path: Path, without_children: None
) -> None:
    out = tmp_path / "report.json"
    command.main([str(tiny_bundle), "--json", str(out), "--keep", "0.9", *QUICK])
    report = read_report(out)
    assert {each.workload for each in report.rounds} == {"text alone", "144 visual tokens"}
    assert any("288 visual tokens" in note and "`keep` 0.9: the pruned prompt has" in note for note in report.notes)


def test_settings_that_no_bundle_takes_are_refused(dense: Path, tiny_bundle: Path) -> None:
    unpruned, pruned = (read_manifest(path).plan for path in (dense, tiny_bundle))
    with pytest.raises(UserError, match="`keep`: none of these bundles prunes"):
        check_settings([unpruned], [0.5], None)
    with pytest.raises(UserError, match="`length`: none of these bundles prunes"):
        check_settings([unpruned], [], "exact")
    check_settings([unpruned, pruned], [0.5, 0.25], "exact")


def test_without_a_baseline_it_says_how_to_come_by_one(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_children: None
) -> None:
    image, out = tmp_path / "image.png", tmp_path / "report.json"
    noise_image(0).save(image)
    command.main([str(tiny_bundle), "--image", str(image), "--prompt", "What?", "--json", str(out), *QUICK])
    report = read_report(out)
    assert report.ratios == ()
    assert "has no ratios: export the same checkpoint with the same options and no pruning" in report.notes[0]
    assert report.workloads[0].images[0].sha256 == sha256(image)
    assert "no pruning" in capsys.readouterr().out


def interrupted(signal_number: int, after: int, run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, which sends this process a signal after so many turns."""
    count = 0

    def wrapped(*arguments: object) -> Any:
        nonlocal count
        count += 1
        if count > after:
            os.kill(os.getpid(), signal_number)
        return run(*arguments)

    return wrapped


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Interrupts reach this process, which in a background job of a shell, and behind nohup, they would not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGHUP, before[1])


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_keeps_what_it_measured(
    signal_number: int,
    interruptible: None,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without_children: None,
) -> None:
    monkeypatch.setattr(BundleRunner, "run", interrupted(signal_number, 5, BundleRunner.run))
    out = tmp_path / "report.json"
    before = signal.getsignal(signal.SIGTERM)
    assert exits(tiny_bundle, "--json", out, "--prompt", "What?", *QUICK[2:], "--rounds", "8") == 128 + signal_number
    report = read_report(out)
    assert not report.complete and len(report.rounds) == 5
    assert list(tmp_path.iterdir()) == [out]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def broken(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A whole bundle by its hashes, whose suffix does not do what transformers did."""
    path = Path(shutil.copytree(tiny_bundle, tmp_path / "broken.fastv"))
    golden = load_file(path / GOLDEN)
    golden |= {name: np.roll(value, 1, -1) for name, value in golden.items() if "/out/logits" in name}
    save_file(golden, path / GOLDEN)
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"][GOLDEN] = {"sha256": sha256(path / GOLDEN), "size": (path / GOLDEN).stat().st_size}
    (path / MANIFEST).write_text(json.dumps(manifest))
    return path


def test_what_fails_its_self_test_is_not_benchmarked(
    broken: Path, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_children: None
) -> None:
    out = tmp_path / "report.json"
    assert exits(broken, dense, "--json", out, "--prompt", "What?", *QUICK) == 1
    report = read_report(out)
    assert {each.runner for each in report.rounds} == {report.runners[1].name}
    assert "suffix fails its self-test on this device: logits differs" in (report.runners[0].refused or "")
    assert "broken: not benchmarked: suffix fails its self-test" in capsys.readouterr().err


def test_memory_is_that_of_a_process_of_its_own(tiny_bundle: Path, broken: Path) -> None:
    request = Request(images=(), prompt="What?", new_tokens=2)
    choice = BackendChoice(path=str(tiny_bundle), name="tiny", threads=1)
    memory = measure_memory(choice, Bundle.open(tiny_bundle), request)
    assert memory is not None
    assert memory.process > memory.libraries > 2**20
    assert memory.process == memory.weights + memory.caches + memory.libraries + memory.workspace


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no bundle: give one or more"),
        (["BUNDLE", "BUNDLE"], "given twice"),
        (["/no/such"], "no such bundle"),
        (["BUNDLE", "--keep", "2"], "--keep 2: must be above 0 and at most 1"),
        (["BUNDLE", "--keep", "0.5", "0.5"], "--keep 0.5: given twice"),
        (["BUNDLE", "--rounds", "0"], "--rounds 0: must be a whole number, 1 to 100,000"),
        (["BUNDLE", "--warmup", "-1"], "--warmup -1: must be a whole number, 0 to 100,000"),
        (["BUNDLE", "--baseline", "/no/such"], "no such bundle"),
        (["BUNDLE", "--profile", "/no/such.json"], "--profile /no/such.json: No such file"),
        (["BUNDLE", "--compare", "a.json", "b.json"], "--compare measures nothing"),
        (["BUNDLE", "--image", "x.png"], "--image: say what to ask about the images with --prompt"),
        (["BUNDLE", "--image", "x.png", "--prompt", "What?"], "x.png: no such image"),
        (["BUNDLE", "--json", "/no/such/report.json"], "not a file in a directory that exists"),
        (["BUNDLE", "--max-new-tokens", "1000", "--prompt", "What?"], "supports at most 64: ask for fewer"),
    ],
)
def test_wrong_inputs_get_a_clear_line(
    arguments: list[str],
    message: str,
    tiny_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    without_children: None,
) -> None:
    given = [str(tiny_bundle) if argument == "BUNDLE" else argument for argument in arguments]
    assert exits(*given) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fastv-bench")]
    assert message in line


LOADED = """
import sys
from fastv_runtime.bench.runners.bundle import BackendChoice, import_libraries
import_libraries(BackendChoice(path=sys.argv[1], name="one"))
print(*[each for each in ("openvino", "onnxruntime") if each in sys.modules])
"""


def test_an_openvino_bundle_has_its_weights_and_its_libraries(tiny_llava: Path, make_bundle: MakeBundle) -> None:
    pytest.importorskip("openvino")
    bundle = Bundle.open(make_bundle(tiny_llava, target="openvino", max_new_tokens=16))
    folder = bundle.path / "openvino"
    sizes = {graph: sum(path.stat().st_size for path in folder.glob(f"{graph}.*")) for graph in bundle.manifest.graphs}
    assert {graph: weight_bytes(bundle.manifest, graph) for graph in sizes} == sizes
    assert sizes["suffix"] > 2 * (folder / "suffix.xml").stat().st_size
    done = subprocess.run([sys.executable, "-c", LOADED, bundle.path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino"]
    assert "openvino" in PACKAGES
