"""Commands that run in processes of their own, on tiny inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.apart import Apart, Prepare
from tests.conftest import MakeBundle, noise_image

Start = Callable[..., Apart]
COMMANDS = {
    "export": "fastv_export.cli",
    "calibrate": "fastv_calib.cli",
    "run": "fastv_runtime.cli.run",
    "inspect": "fastv_runtime.cli.inspect",
    "bench": "fastv_runtime.cli.bench",
}


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start a command by its name without `fastv-`; what runs at the end of a test is killed."""
    logs, base = tmp_path_factory.mktemp("logs"), tmp_path_factory.getbasetemp()
    traces = (base.parent if hasattr(request.config, "workerinput") else base) / "traces"
    begun: list[Apart] = []

    def start(name: str, *arguments: object, prepare: Prepare | None = None) -> Apart:
        log = logs / str(len(begun))
        begun.append(Apart(COMMANDS[name], *arguments, log=log, traces=traces, prepare=prepare))
        return begun[-1]

    yield start
    for each in begun:
        each.process.kill()
        each.process.join()


@pytest.fixture(scope="session")
def dense_bundle(tiny_llava: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_llava, prune=False, max_text=64, max_new_tokens=16)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of a calibration: six images with a question each."""
    folder = tmp_path_factory.mktemp("samples")
    lines = []
    for index in range(6):
        noise_image(index).save(folder / f"{index}.png")
        lines.append(json.dumps({"image": f"{index}.png", "prompt": "Where is it?" + " The fox?" * index}) + "\n")
    (folder / "data.jsonl").write_text("".join(lines))
    return folder / "data.jsonl"
