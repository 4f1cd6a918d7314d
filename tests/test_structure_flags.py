"""Libraries name options as Python has them; only commands know flags, and turn one into the other."""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastv_calib import cli as calibrate
from fastv_export import cli as export
from fastv_runtime.cli import bench, build, inspect, run, serve
from fastv_runtime.console import with_flags

ROOT = Path(__file__).parent.parent
PACKAGES = ("runtime/fastv_runtime", "export/fastv_export", "calib/fastv_calib")
COMMANDS = ("runtime/fastv_runtime/console.py", "export/fastv_export/cli.py", "calib/fastv_calib/cli.py")
"""Beside all of `fastv_runtime/cli`: modules that read or write what a user types."""
OTHERS = {
    ("runtime/fastv_runtime/backends/tensorrt/module.py", "--system-site-packages"): "of python -m venv",
    ("runtime/fastv_runtime/bench/machine/energy.py", "--interval"): "of tegrastats",
    ("runtime/fastv_runtime/bench/machine/jetson.py", "--show"): "of dpkg-query",
    ("runtime/fastv_runtime/bench/machine/jetson.py", "--showformat"): "of dpkg-query",
    ("runtime/fastv_runtime/bench/runners/peers.py", "--threads"): "of every peer, see docs/peers.md",
    ("calib/fastv_calib/distribution/cluster.py", "--head"): "of ray start",
    ("export/fastv_export/checkpoint/hub.py", "--revision"): "of hf download",
    ("export/fastv_export/checkpoint/hub.py", "--local-dir"): "of hf download",
}
"""Flags of other programs, in the modules that run those or say how to."""
FLAG = re.compile(r"(?<![\w-])(?:--(?:[a-z][a-z-]*|$)|-o\b)")


def library() -> Iterator[tuple[str, str]]:
    """Path and text of every module that is no command."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            if name not in COMMANDS and not name.startswith("runtime/fastv_runtime/cli/"):
                yield name, file.read_text(encoding="utf-8")


def words(source: str) -> Iterator[str]:
    """Strings of a module, docstrings and parts of f-strings among them, and its comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def flags(source: str) -> set[str]:
    return {flag for text in words(source) for flag in FLAG.findall(text)}


def test_no_library_module_names_a_flag() -> None:
    found = {(name, flag) for name, source in library() for flag in flags(source)}
    assert found == OTHERS.keys(), sorted(found ^ OTHERS.keys())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""What `--keep` is."""', {"--keep"}),
        ("x = 1  # as --max-text says", {"--max-text"}),
        ('x = f"--{name} is wrong"', {"--"}),
        ('x = f"{path}: give another -o"', {"-o"}),
        ('x = f"`keep` {keep}: a well-known -one"', set()),
    ],
)
def test_flags_are_found(source: str, expected: set[str]) -> None:
    assert flags(source) == expected


def test_options_that_errors_name_are_those_of_a_command() -> None:
    commands = (run, build, inspect, bench, serve, export, calibrate)
    parsers = [each.parser() for each in commands]
    known = {action.dest for parser in parsers for action in parser._actions if action.option_strings}
    named = {
        name
        for _, source in library()
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "UserError"
        for text in words(ast.unparse(call))
        for name in re.findall(r"`(\w+)`", text)
    }
    assert "keep" in named
    assert named <= known, sorted(named - known)


def test_options_of_an_export_that_errors_name_are_there() -> None:
    options = {flag for action in export.parser()._actions for flag in action.option_strings}
    named = {flag for _, source in library() for flag in re.findall(r"`export\.(\w+)`", source)}
    assert "max_text" in named
    assert {f"--{name.replace('_', '-')}" for name in named} <= options


def some_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("-o", "--output")
    parser.add_argument("-k", dest="layer")
    parser.add_argument("--max-text")
    parser.add_argument("--image", dest="images")
    return parser


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("`max_text` 0: must be at least 1", "--max-text 0: must be at least 1"),
        ("give `output` and `images`", "give --output and --image"),
        ("lower `layer`", "lower -k"),
        ("export with a larger `export.max_text`", "export with a larger --max-text"),
        ("`bundle` and `image` stay, and so does max_text", "`bundle` and `image` stay, and so does max_text"),
    ],
)
def test_names_of_options_become_flags(message: str, expected: str) -> None:
    assert with_flags(message, some_parser()) == expected
