"""Every command that a page prints runs as it is printed, but for what its list below says, with the reason.

Each page's commands run in turn in a folder of their own that looks like a clone, with the files that the page takes
for granted. An export that was made before, by whatever page, is copied.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastv_calib import cli as calibrate
from fastv_export import cli as export
from fastv_runtime.cli import bench, fastv, inspect, run, serve
from tests.conftest import DEMO, MakeBundle, noise_image
from tests.families.rows.video_llava import write_tiny_video_llava
from tests.runtime.test_video import video
from tests.test_docs import PAGES, ROOT

MAINS: dict[str, Callable[[list[str]], None]] = {
    "fastv": fastv.main,
    "fastv-run": run.main,
    "fastv-inspect": inspect.main,
    "fastv-bench": bench.main,
    "fastv-export": export.main,
    "fastv-calibrate": calibrate.main,
    "fastv-serve": serve.main,
}

NOT_RUN = {
    r"git clone|python3? -m venv|(sudo )?(apt|pip) install|eval ": "changes the machine it is typed on",
    r"make ": "installs first, and takes minutes; .ci/run has demo, lint, contract and test",
    r"(\.venv/bin/python -m )?pytest|tests/contract/run\.sh": "runs tests",
    r"\.venv/bin/python examples/": "tests/test_examples.py runs it",
    r"sudo |cat /etc/|grep NAME|tegrastats|.*import tensorrt": "is for a Jetson",
    r"fastv-build |.*--backend trt|.*--device cuda": "needs a GPU",
    r"fastv-export org/name": "needs a hub",
    r"fastv-export .*-o dense\.fastv --target": "is the one of bench.md, for targets that tests/families export for",
    r"fastv-export CHECKPOINT -o NAME\.fastv --target trt$": "is Jetson.md's, with exact lengths",
    r"fastv-bench dense\.fastv": "measures for a minute: tests/runtime/bench runs as much with fewer rounds",
    r"fastv-bench --compare": "takes two reports of it: tests/runtime/bench/test_compare.py",
    r"fastv-export: ": "is what one prints",
    r"fastv-(export|run) .*demo/out/": "is part of `make demo`",
    r"python demo/real/|fastv-calibrate demo/out/real ": "is of what `make real` puts together, a quarter of an hour",
    r".* -i$": "waits for somebody at the keyboard: tests/test_run_questions.py types",
    r"fastv-serve (?!.*--triton)": "serves until it is stopped: tests/http and tests/serving ask",
    r"serve run ": "is Ray's: tests/serving/test_ray_serve.py deploys the same",
    r"docker |tritonserver |curl .*/v2/models": "needs a container engine, or Triton: make triton has one",
    r"minisign |.*--public-key": "wants a key: tests/runtime/test_signature.py signs and checks",
}
"""What a command begins with, and why it is not run here. Those of ours are parsed (tests/test_docs.py)."""
BY_HAND = {
    "docs/peers.md": "prepares other runtimes, each in an environment of its own",
}
"""Pages that are not gone through."""


def printed(page: Path) -> list[str]:
    """The commands of a page: what is indented outside fences, and what has a prompt within."""
    found, fenced, before = [], False, ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced and line.startswith("$ "):
            found.append(line[2:])
        elif not fenced and re.match(r"    \S", line) and (not before or before.startswith("    ")):
            found.append(line.strip())
        before = line
    return found


def python_of(page: Path) -> list[str]:
    """The fenced blocks of Python on a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def why_not(command: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.match(pattern, command)), None)


WITH_PYTHON = ("README.md", "docs/run.md")
"""Pages whose Python runs too; exporting and calibrating from Python is tests/test_api.py."""
COMMANDS = {
    page.relative_to(ROOT).as_posix(): printed(page)
    for page in PAGES
    if page.relative_to(ROOT).as_posix() not in BY_HAND
}
RUN = {page: [each for each in found if why_not(each) is None] for page, found in COMMANDS.items()}


def test_each_reason_not_to_run_is_needed() -> None:
    every = [command for found in COMMANDS.values() for command in found]
    assert not [pattern for pattern in NOT_RUN if not any(re.match(pattern, command) for command in every)]


def test_commands_of_every_task_run() -> None:
    assert {command.split()[0] for found in RUN.values() for command in found} == MAINS.keys() - {"fastv-bench"}
    assert sum(map(len, RUN.values())) >= 20


@pytest.fixture(scope="module")
def made() -> dict[str, Path]:
    """Exports by what was asked for."""
    return {}


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a clone, and files that pages speak of."""
    for name in ("demo", "benchmarks", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "CHECKPOINT").symlink_to(DEMO)
    for name, scene in (("a", 1), ("b", 2), ("image", 3)):
        shutil.copy(DEMO.parent / "images" / f"scene{scene}.png", tmp_path / f"{name}.png")
    frames = [np.asarray(noise_image(index, (64, 48))) for index in range(9)]
    (tmp_path / "clip.mp4").write_bytes(video("mp4", "mpeg4", frames))
    # The demo checkpoint takes no videos.
    samples = re.findall(r"^\{.*\}$", (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8"), re.MULTILINE)
    lines = [line for line in samples if "video" not in json.loads(line)]
    assert len(lines) == 2
    (tmp_path / "questions.txt").write_text("What is at the top right?\nTell me about the white object.\n")
    card = {"type": "object", "properties": {"red": {"type": "boolean"}}, "required": ["red"]}
    (tmp_path / "card.json").write_text(json.dumps(card))
    (tmp_path / "questions.jsonl").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def video_bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: MakeBundle) -> Path:
    source = tmp_path_factory.mktemp("checkpoints") / "tiny-video-llava"
    write_tiny_video_llava(source)
    return make_bundle(source, max_text=128, max_new_tokens=32)


def export_once(arguments: list[str], made: dict[str, Path]) -> None:
    """The export that the arguments ask for, or a copy of one that was made by the same."""
    asked = vars(export.parser().parse_args(arguments))
    output = Path(asked.pop("output"))
    shutil.rmtree(output, ignore_errors=True)  # a page's alternative for another device
    key = json.dumps(asked | {"source": str(Path(asked["source"]).resolve())})
    if key in made and asked["calibration"] is None:
        shutil.copytree(made[key], output)
        return
    export.main(arguments)
    made[key] = output.resolve()


@pytest.mark.parametrize("page", [page for page, found in RUN.items() if found])
def test_the_commands_of_a_page_run(
    page: str,
    clone: Path,
    made: dict[str, Path],
    make_bundle: MakeBundle,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if any("VIDEO.fastv" in command for command in RUN[page]):
        (clone / "VIDEO.fastv").symlink_to(request.getfixturevalue("video_bundle"))
    if not any("-o NAME.fastv" in command for command in RUN[page]):
        (clone / "NAME.fastv").symlink_to(make_bundle(DEMO))
    for command in RUN[page]:
        name, *arguments = shlex.split(command, comments=True)
        try:
            if name == "fastv-export":
                export_once(arguments, made)
            else:
                MAINS[name](arguments)
        except SystemExit as ended:
            said = capsys.readouterr().err
            assert not ended.code, f"{page}: {command}\n{said}"
    names: dict[str, object] = {}  # a page's blocks are one session
    for block in python_of(ROOT / page) if page in WITH_PYTHON else []:
        exec(compile(block, page, "exec"), names)
    assert page not in WITH_PYTHON or capsys.readouterr().out.strip()
