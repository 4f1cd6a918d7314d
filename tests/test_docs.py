"""The pages that users read: links and paths lead somewhere, commands parse, prose is in short lines and paragraphs."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastv_calib import cli as calibrate
from fastv_export import cli as export
from fastv_runtime.cli import bench, build, inspect, run, serve

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = sorted((ROOT / "docs" / "benchmarks").glob("*.md"))
"""Programs write them: their links are checked, their lines are as the programs make them."""

README_LINES = 130
LINE = 100
PARAGRAPH = 5
"""Lines of a paragraph or of a list's item."""

SOURCES = ("", "calib", "export", "runtime")
"""Where a path in the text may begin: at the root, or at a package."""
TOP = ("benchmarks", "calib", "demo", "docs", "export", "fastv_calib", "fastv_export", "fastv_runtime", "requirements")
PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join((*TOP, 'runtime', 'tests'))})/[\w./-]*\w")
MADE = ("demo/out",)
"""What commands write."""
NEW = "NAME"
"""What somebody is to write has this for a name."""

LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"^(?:\$ |    )?(fastv-(?:bench|build|calibrate|export|inspect|run|serve) .+)$")


def parsers() -> dict[str, argparse.ArgumentParser]:
    exporter, calibrator = argparse.ArgumentParser(), argparse.ArgumentParser()
    export.add_arguments(exporter)
    calibrate.add_arguments(calibrator)
    return {
        "fastv-bench": bench.parser(),
        "fastv-build": build.parser(),
        "fastv-calibrate": calibrator,
        "fastv-export": exporter,
        "fastv-inspect": inspect.parser(),
        "fastv-run": run.parser(),
        "fastv-serve": serve.parser(),
    }


def split(page: Path) -> tuple[list[str], list[str]]:
    """A page's lines of prose (tables, headings and code are empty lines there), and its lines of code."""
    prose, code = [], []
    fenced = False
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = line.lstrip().startswith("```")
        indented = line.startswith("    ") and (not prose or not prose[-1])
        if (fenced or indented) and not fence:
            code.append(line)
        prose.append("" if fence or fenced or indented or line.startswith(("|", "#", "<!--")) else line)
        fenced ^= fence
    return prose, code


def commands() -> Iterator[tuple[str, str]]:
    """(page, command) of every command of ours that is shown whole, on a line of its own."""
    for page in PAGES:
        for line in split(page)[1]:
            match = COMMAND.match(line)
            # A shell's variables, continued lines and lists that are cut short are for the reader to fill in.
            if match and not re.search(r"\$|\\$|\.\.\.", match[1]):
                yield page.name, match[1]


def anchors(page: Path) -> set[str]:
    """What a link to one of the page's headings may be called, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *GENERATED], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_the_text_exist(page: Path) -> None:
    paths = {
        path for path in PATH.findall(page.read_text(encoding="utf-8")) if not path.startswith(MADE) and NEW not in path
    }
    folders = [page.parent, *(ROOT / source for source in SOURCES)]
    assert not {path for path in paths if not any((folder / path).exists() for folder in folders)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_is_in_short_lines_and_paragraphs(page: Path) -> None:
    prose, _ = split(page)
    assert not [line for line in prose if len(line) > LINE]
    length = 0
    for line in prose:
        starts = re.match(r"\s*(?:[-*]|\d+\.) ", line)
        length = 0 if not line.strip() else 1 if starts else length + 1
        assert length <= PARAGRAPH, line


def test_the_readme_takes_two_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_the_readme_has_the_two_commands() -> None:
    _, code = split(ROOT / "README.md")
    assert {"make demo", "make test"} <= {" ".join(line.split()[:2]) for line in code}


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_command_parses(page: str, command: str) -> None:
    name, *arguments = shlex.split(command, comments=True)
    assert parsers()[name].parse_args(arguments)


def test_every_command_is_shown() -> None:
    assert {command.split()[0] for _, command in commands()} == parsers().keys()
