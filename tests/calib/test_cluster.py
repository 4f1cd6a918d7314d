"""Samples measured by workers of a Ray cluster, and by this process."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch

from fastv_calib import calibrator
from fastv_calib.cli import main as fastv_calibrate
from fastv_calib.distribution import machines
from fastv_calib.distribution.cluster import LOSSES, Crew, Work
from fastv_calib.distribution.machines import Machines, default_threads, local_workers, pays
from fastv_calib.measurement.measure import Measured, Yielded, load_measure
from fastv_calib.measurement.results import Results
from fastv_calib.samples.data import Sample
from fastv_export.calibration import CalibrationSettings
from fastv_runtime.errors import UserError
from tests.conftest import noise_image
from tests.processes import over

Add = Callable[[Yielded], None]
SAMPLES = 6
QUICK = ["--layers", "1", "--keeps", "0.5", "0.1", "--answer-tokens", "3", "--min-agreement", "0.01", "--threads", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index in range(SAMPLES):
        noise_image(index).save(folder / f"{index}.png")
    lines = [{"image": f"{index}.png", "prompt": f"Where is {index}?"} for index in range(SAMPLES)]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "data.jsonl"


def run(source: Path, data: Path, output: Path, *flags: str) -> bytes:
    fastv_calibrate([str(source), "--data", str(data), "-o", str(output), *over(QUICK, flags)])
    return output.read_bytes()


def fails(capsys: pytest.CaptureFixture[str], *arguments: Path | str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(*arguments)  # type: ignore[arg-type]
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_cluster_that_loses_a_worker_gives_the_same_bytes(
    tiny_llava: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("ray")
    expected = run(tiny_llava, data, tmp_path / "plain.json", "--ray", "off")
    kept, killed = Results.add, []

    def add_and_kill(self: Results, measured: Measured) -> None:
        kept(self, measured)
        # Whoever was ready first has yielded a sample, or is about to, and has another one at work by now.
        ready = [record.args for record in caplog.records if record.msg.startswith("worker ready")]
        if not killed:
            (pid,) = ready[0]  # type: ignore[misc]
            os.kill(pid, signal.SIGKILL)  # type: ignore[arg-type]
            killed.append(pid)

    monkeypatch.setattr(Results, "add", add_and_kill)
    environment = dict(os.environ)
    with caplog.at_level(logging.INFO, "fastv_calib.distribution.cluster"):
        found = run(tiny_llava, data, tmp_path / "ray.json", "--ray", "local", "--workers", "2")
    assert any("a worker was lost over" in record.msg for record in caplog.records)
    assert found == expected
    assert dict(os.environ) == environment


def test_a_cluster_that_cannot_be_reached(
    tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        error = fails(capsys, tiny_llava, data, tmp_path / "x.json", "--ray", address)
    assert f"--ray {address}: cannot be reached" in error
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:  # Ray's dashboard, say
        Thread(target=other.handle_request, daemon=True).start()
        address = f"127.0.0.1:{other.server_port}"
        error = fails(capsys, tiny_llava, data, tmp_path / "x.json", "--ray", address)
    assert f"--ray {address}: is no Ray there" in error
    error = fails(capsys, tiny_llava, data, tmp_path / "x.json", "--ray", "cluster")
    assert "--ray cluster: give HOST:PORT" in error


def test_without_ray_it_says_what_to_install(
    tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    error = fails(capsys, tiny_llava, data, tmp_path / "x.json", "--ray", "local")
    assert "ray is not installed: pip install -e '.[ray]' in the clone of fastv-edge" in error


def test_threads_stay_those_of_the_measurements(
    tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.json"
    run(tiny_llava, data, output, "--ray", "off")
    error = fails(capsys, tiny_llava, data, output, "--threads", "2")
    assert "has measurements on 1" in error


def test_a_sweep_that_workers_would_shorten_goes_on_with_them(
    tiny_llava: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = []

    def on_ray(address: str, workers: int | None, work: Work, samples: list[Sample], add: Add) -> None:
        given.append((address, workers, work.threads, len(samples)))
        measure = load_measure(work.source, work.settings)
        for sample in reversed(samples):
            add(measure(sample))

    expected = run(tiny_llava, data, tmp_path / "plain.json")
    monkeypatch.setattr(calibrator, "measure_on_ray", on_ray)
    monkeypatch.setattr(machines, "START", 0.0)
    monkeypatch.setattr(calibrator, "has_ray", lambda: False)
    assert run(tiny_llava, data, tmp_path / "none.json", "--workers", "2") == expected and not given
    assert "pip install -e '.[ray]' in the clone of fastv-edge to measure 2 samples at a time" in " ".join(
        capsys.readouterr().err.split()
    )
    monkeypatch.setattr(calibrator, "has_ray", lambda: True)
    assert run(tiny_llava, data, tmp_path / "ray.json", "--workers", "2") == expected
    assert given == [("local", 2, 1, SAMPLES - 2)]


def test_how_a_machine_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 32 << 18, "SC_PAGE_SIZE": 4096}.__getitem__)
    for gib, threads, workers in ((1, 1, 8), (8, 2, 4), (20, 8, 1), (99, 8, 1)):
        assert default_threads(gib << 30) == threads
        assert local_workers(Machines(), threads, gib << 30, 100) == workers
    assert local_workers(Machines(), 1, 1 << 30, 3) == 3
    assert local_workers(Machines(workers=5), 8, 99 << 30, 100) == 5
    assert not pays(1000, 10.0, 1) and pays(100, 1.0, 2) and not pays(10, 1.0, 8)
    for flags in ({"workers": 0}, {"threads": 0}, {"ray": "off", "workers": 2}):
        with pytest.raises(UserError):
            Machines(**flags)  # type: ignore[arg-type]


class FakeRay:
    """Ray, where every worker but the one numbered `able` is lost over its first sample."""

    class exceptions:
        class RayError(Exception): ...

        class RayTaskError(RayError): ...

    def __init__(self, able: int | None):
        self._able, self.made = able, 0

    def remote(self, kind: type) -> FakeRay:
        return self

    def options(self, **_: float) -> SimpleNamespace:
        return SimpleNamespace(remote=self._make)

    def _make(self, work: Work) -> SimpleNamespace:
        self.made += 1
        lost = self.made != self._able
        measure = SimpleNamespace(remote=lambda sample: (next(TICKETS), self.exceptions.RayError() if lost else sample))
        return SimpleNamespace(ready=SimpleNamespace(remote=lambda: (next(TICKETS), 1)), measure=measure)

    def wait(self, refs: list[tuple[int, object]], num_returns: int) -> tuple[list[tuple[int, object]], list[object]]:
        return refs[:1], []

    def get(self, ref: tuple[int, object]) -> object:
        if isinstance(ref[1], Exception):
            raise ref[1]
        return ref[1]

    def kill(self, worker: object) -> None: ...


TICKETS = count()


@pytest.mark.parametrize("able", [LOSSES, None])
def test_a_sample_that_costs_every_worker_ends_the_sweep(able: int | None, tmp_path: Path) -> None:
    sample = Sample((tmp_path / "x.png",), "What?", None, "data:1")
    object.__setattr__(sample, "key", "one")
    settings = CalibrationSettings(layers=(1,), keeps=(0.5,), rankers=("fastv",), answer_tokens=1, image_tokens=None)
    ray = FakeRay(able)
    crew = Crew(ray, Work(tmp_path, settings, 1, 1), [sample], 1)
    if able is None:
        with pytest.raises(UserError, match="data:1: 3 workers were lost over it"):
            while crew.busy:
                crew.wait()
        assert ray.made == LOSSES
    else:
        yielded = [crew.wait() for _ in range(2 * LOSSES)]
        assert yielded[-1] == sample and not any(yielded[:-1]) and not crew.busy
