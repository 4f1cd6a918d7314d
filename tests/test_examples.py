"""Every numbered example runs as its docstring says, and prints what it promises. Others: tests/serving."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.conftest import DEMO, MakeBundle
from tests.processes import run

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("[0-9]*.py"))
PRINTED = {
    "01_export.py": r"pruned\.fastv: vision, prefix, select, suffix\nlargest difference from transformers: \d\.\de-0\d",
    "02_ask.py": r"a white number 9 at the top right\n72 of 144 visual tokens kept",
    "03_calibrate.py": r"K=2 keep 0\.25 fastv +same answer +\d+%.*\nexported: K=\d, keep 0\.\d+, ranker fastv\n",
    "04_compare_latency.py": r"speedup +\d\.\d\dx",
}


@pytest.fixture
def folder(tmp_path: Path, make_bundle: MakeBundle) -> Path:
    """What examples write to, with the bundle that the first leaves for others: any may run alone, on any worker."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pruned.fastv").symlink_to(make_bundle(DEMO))
    return tmp_path / "out"


def test_every_example_is_here() -> None:
    assert [each.name for each in EXAMPLES] == list(PRINTED)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example: Path, folder: Path) -> None:
    source = example.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 40
    assert f"\npython examples/{example.name} out\n" in source
    if example == EXAMPLES[0]:
        (folder / "pruned.fastv").unlink()
    done = run(sys.executable, example, folder)
    assert done.returncode == 0, done.stderr
    assert re.search(PRINTED[example.name], done.stdout, re.DOTALL), done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_without_a_folder_says_how_it_is_used(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(example)])
    with pytest.raises(SystemExit, match=f"^usage: python examples/{example.name} FOLDER$"):
        runpy.run_path(str(example), run_name="__main__")
