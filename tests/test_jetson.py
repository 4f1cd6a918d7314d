"""Jetson.md: our commands in it parse, its memory table is what arithmetic gives, its targets are those there are."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

import pytest

from fastv_export import cli as export
from fastv_export.targets import TARGETS
from fastv_runtime.cli import build, inspect, run

# Benchmarks are scripts that import each other by name.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import effective_keep
import memory_table

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "Jetson.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (fastv-\S+ .*)$", PAGE, re.MULTILINE)


def parsers() -> dict[str, argparse.ArgumentParser]:
    return {
        "fastv-export": export.parser(),
        "fastv-build": build.parser(),
        "fastv-run": run.parser(),
        "fastv-inspect": inspect.parser(),
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_parses(command: str) -> None:
    name, *arguments = shlex.split(command, comments=True)
    assert parsers()[name].parse_args(arguments)


def test_every_step_has_its_command() -> None:
    assert {command.split()[0] for command in COMMANDS} == parsers().keys()
    used = {target for target in TARGETS if re.search(rf"--target {target}\b(?!-)", "\n".join(COMMANDS))}
    assert used == {"trt", "trt-legacy"}


def test_the_memory_table_is_what_arithmetic_gives() -> None:
    assert "\n".join(memory_table.table()) in PAGE


def test_the_table_of_what_is_kept_is_what_arithmetic_gives() -> None:
    lines = list(effective_keep.table())
    assert "\n".join(lines) in (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    # With 20 tokens of text, as its users found it: nothing pruned, 396 of 576, 236 of 256.
    assert "| 20 | 144 (1.00) | 84 (0.58) | 396 (0.69) | 300 (0.52) | 236 (0.92) | 140 (0.55) |" in lines
