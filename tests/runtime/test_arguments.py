"""What commands are asked for: read, or refused in one line, before anything heavy is imported."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastv_calib import cli as calibrate
from fastv_calib.settings import PRECISIONS as MEASURED
from fastv_export import cli as export
from fastv_runtime.backends.tensorrt.module import BACKENDS
from fastv_runtime.cli import bench, build, inspect, run, serve
from fastv_runtime.cli.fastv import COMMANDS
from fastv_runtime.cli.options import arguments
from fastv_runtime.console import add_common_arguments
from tests import processes

PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "fastv-run": run.parser,
    "fastv-inspect": inspect.parser,
    "fastv-build": build.parser,
    "fastv-bench": bench.parser,
    "fastv-serve": serve.parser,
    "fastv-export": export.parser,
    "fastv-calibrate": calibrate.parser,
}
NEEDED = {
    "fastv-run": ["B", "--prompt", "What?"],
    "fastv-inspect": ["B"],
    "fastv-build": ["B"],
    "fastv-bench": ["B"],
    "fastv-serve": ["B"],
    "fastv-export": ["C", "-o", "B"],
    "fastv-calibrate": ["C", "--data", "D", "-o", "O"],
}
HEAVY = ("torch", "transformers", "onnxruntime", "onnx", "numpy", "pydantic", "PIL")


def parsed(program: str, words: list[str]) -> tuple[argparse.Namespace | int, str]:
    """The arguments, or the exit code; and what was said on stderr."""
    parser = PARSERS[program]()
    add_common_arguments(parser)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            return parser.parse_args(words), said.getvalue()
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            return ended.code, said.getvalue()


def refusal(program: str, *words: str) -> str:
    """The one line of a refusal."""
    code, said = parsed(program, [*NEEDED[program], *words])
    assert code == 2, said
    assert said.startswith(f"{program}: ")
    assert said.endswith("\n") and said.count("\n") == 1
    return said[len(program) + 2 : -1]


@pytest.mark.parametrize("program", PARSERS)
def test_what_is_needed_is_read(program: str) -> None:
    args, said = parsed(program, NEEDED[program])
    assert isinstance(args, argparse.Namespace)
    assert not said
    assert not args.quiet and not args.debug


@pytest.mark.parametrize(
    ("program", "words", "expected"),
    [
        ("fastv-run", ["--threads", "0"], "--threads 0: must be a whole number, 1 to 1,024"),
        ("fastv-run", ["--threads", "-1"], "--threads -1: must be a whole number, 1 to 1,024"),
        ("fastv-run", ["--threads", str(10**9)], "--threads 1000000000: must be a whole number, 1 to 1,024"),
        ("fastv-run", ["--threads", "1" + 30 * "0"], f"--threads {10**30}: must be a whole number, 1 to 1,024"),
        ("fastv-run", ["--threads", "1" * 5000], f"--threads {'1' * 57}...: must be a whole number, 1 to 1,024"),
        ("fastv-run", ["--threads", "two"], "--threads two: must be a whole number, 1 to 1,024"),
        ("fastv-run", ["--threads", "1_0"], "--threads 1_0: must be a whole number, 1 to 1,024"),
        ("fastv-run", ["--threads", ""], "--threads '': must be a whole number, 1 to 1,024"),
        ("fastv-run", ["--threads"], "--threads: expected one argument"),
        ("fastv-run", ["--thr", "2"], "unrecognized arguments: --thr 2 (see fastv-run --help)"),
        ("fastv-run", ["--threads", "2", "--threads", "3"], "--threads: given twice: leave one out"),
        ("fastv-run", ["--json", "--json"], "--json: given twice: leave one out"),
        ("fastv-run", ["--length", "short"], "--length short: must be fixed or exact"),
        ("fastv-run", ["--temperature", "1e-320"], "--temperature 1e-320: must be 0 (greedy), or a number, 0.0001 to "),
        ("fastv-run", ["--temperature", "nan"], "--temperature nan: must be 0 (greedy)"),
        ("fastv-run", ["--temperature", "inf"], "--temperature inf: must be 0 (greedy)"),
        ("fastv-run", ["--temperature", "-1"], "--temperature -1: must be 0 (greedy)"),
        ("fastv-run", ["--top-p", "nan"], "--top-p nan: must be above 0 and at most 1"),
        ("fastv-run", ["--top-k", "-1"], "--top-k -1: must be a whole number, 0 to"),
        ("fastv-run", ["--seed", str(2**64)], "--seed 18446744073709551616: must be a whole number, 0 to"),
        ("fastv-run", ["--repetition-penalty", "1e-320"], "--repetition-penalty 1e-320: must be a number, 0.01 to 100"),
        ("fastv-run", ["--max-new-tokens", str(10**9)], "--max-new-tokens 1000000000: must be a whole number, 1 to "),
        ("fastv-run", ["--show-kept", ""], "--show-kept '': must not be empty"),
        ("fastv-run", ["--show-kept=--"], "--show-kept=--: must be another value than --"),
        ("fastv-run", ["--image", "a\0b"], "a\\x00b: must have no NUL in it"),
        ("fastv-run", ["--image", "a\udcffb"], "a\\udcffb: must be UTF-8"),
        ("fastv-run", ["--image", "x" * 300], f"--image {'x' * 57}...: must be at most 4095 bytes, and each name"),
        ("fastv-run", ["--super-image", "2"], "--super-image 2: must be rows x columns"),
        ("fastv-run", ["--frames", "10001"], "--frames 10001: must be a whole number, 1 to 10,000"),
        ("fastv-run", ["--\x1b[31m"], "unrecognized arguments: --\\x1b[31m (see"),
        ("fastv-export", ["--keep", "nan"], "--keep nan: must be above 0 and at most 1"),
        ("fastv-export", ["-o", "other"], "--output: given twice: leave one out"),
        ("fastv-export", ["--block", "33"], "--block 33: must be 32, 64 or 128"),
        (
            "fastv-export",
            ["--max-text", str(10**12)],
            "--max-text 1000000000000: must be a whole number",
        ),
        ("fastv-export", ["--max-images", "1001"], "--max-images 1001: must be a whole number, 1 to 1,000"),
        ("fastv-export", ["--target", "trt", "--precision", "int3"], "--precision int3: must be fp32, fp16, bf16"),
        ("fastv-build", ["--workspace", "inf"], "--workspace inf: must be above 0 and at most 100,000, in GiB"),
        ("fastv-bench", ["--rounds", "0"], "--rounds 0: must be a whole number, 1 to 100,000"),
        ("fastv-bench", ["--compare", "a", ""], "--compare '': must not be empty"),
        ("fastv-calibrate", ["--layers", "1", "0"], "--layers 0: must be a whole number, 1 to 1,000"),
        ("fastv-calibrate", ["--keeps", "1"], "--keeps 1: must be above 0 and below 1"),
        ("fastv-calibrate", ["--max-ttft", "0"], "--max-ttft 0: must be above 0 and at most"),
        ("fastv-calibrate", ["--workers", "0"], "--workers 0: must be a whole number, 1 to 10,000"),
    ],
)
def test_what_cannot_be_used_is_one_line_about_one_option(program: str, words: list[str], expected: str) -> None:
    line = refusal(program, *words)
    assert line.startswith(expected), line
    assert line.isprintable()


def test_what_is_missing_is_named() -> None:
    code, said = parsed("fastv-run", ["B"])
    assert (code, said) == (
        2,
        "fastv-run: one of the arguments --prompt --prompts -i/--interactive is required (see fastv-run --help)\n",
    )


def test_an_option_that_takes_several_may_be_given_again() -> None:
    words = ["--image", "a", "b", "--image", "c", "--video", "d", "--video", "e"]
    args, _ = parsed("fastv-run", [*NEEDED["fastv-run"], *words])
    assert isinstance(args, argparse.Namespace)
    assert (args.images, args.videos) == (["a", "b", "c"], ["d", "e"])


def test_a_parser_parses_twice() -> None:
    parser = run.parser()
    words = [*NEEDED["fastv-run"], "--threads", "2"]
    assert parser.parse_args(words) == parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--top-k", "40"], "--top-k 40: changes nothing, since the likeliest token is taken: give --temperature"),
        (["--top-p", "0.9", "--temperature", "0"], "--top-p 0.9: changes nothing"),
        (["--seed", "0"], "--seed 0: changes nothing"),
    ],
)
def test_sampling_without_a_temperature_is_no_silent_no_op(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run.main(["no-such-bundle", "--prompt", "What?", *words])
    assert capsys.readouterr().err.startswith(f"fastv-run: {expected}")


def test_lists_that_parsers_repeat_are_those_there_are() -> None:
    assert tuple(BACKENDS) == build.TARGETS
    assert calibrate.WEIGHTS == MEASURED


ODD = (
    *("", " ", "-", "--", "0", "-0", "-1", "1e9", "1000000000", "1" + "0" * 30, "9" * 5000, "1e-320", "1e400", "nan"),
    *("inf", "-inf", "NaN", "0x10", "1_000", "\u0661", "\u00bd", "None", "true", "a\nb", "\r\n", "\t", "\x1b[31m"),
    *("\0", "a\0b", "\udcff", "a\udc80b", "\u00e9", "\u6f22\u5b57", "x" * 300, "x/" * 3000, "%s", "%(prog)s", "{0}"),
    *("=", "--x=--", "-o=--", "../..", "/dev/null", "/", ".", "~", "$HOME", "*", "@file", "2x2", "0x0", "1e1x1"),
)


def flags(program: str) -> list[str]:
    """All that a program has, and each without its last letter."""
    parser = PARSERS[program]()
    add_common_arguments(parser)
    whole = [flag for action in parser._actions for flag in action.option_strings]
    return [*whole, *(flag[:-1] for flag in whole)]


FLAGS = {program: flags(program) for program in PARSERS}


@st.composite
def vectors(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A program and arguments: some of its own options with odd values, needed ones there or not."""
    program = draw(st.sampled_from(list(PARSERS)))
    value = st.sampled_from(ODD) | st.text(max_size=6)
    words = list(NEEDED[program]) if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 3))):
        flag, given = draw(st.sampled_from(FLAGS[program])), draw(value)
        words += draw(st.sampled_from([[f"{flag}={given}"], [flag, given], [given], [flag]]))
    return program, words


@settings(max_examples=200, derandomize=True, deadline=None)
@given(vectors())
def test_any_arguments_are_read_or_refused_in_one_line(vector: tuple[str, list[str]]) -> None:
    program, words = vector
    args, said = parsed(program, words)
    if args == 2:
        assert said.startswith(f"{program}: ") and said.endswith("\n")
        assert said[:-1].isprintable()
        assert len(said) < 1000
    else:
        assert args == 0 or isinstance(args, argparse.Namespace)
        assert not said


PROBE = """
import importlib, json, sys
for name in {names}:
    for words in {words}:
        try:
            importlib.import_module(name).main(words)
        except SystemExit as ended:
            code = ended.code or 0
            print("code", code, file=sys.stderr)
print("loaded", json.dumps(sorted(set(sys.modules) & set({heavy}))), file=sys.stderr)
"""


def test_help_and_bad_arguments_import_nothing_heavy() -> None:
    names = [each.module for each in COMMANDS.values()] + ["fastv_runtime.cli.fastv"]
    words = [["--help"], ["--version"], ["--no-such-option"], ["--threads", "0"], ["x", "-o", "y", "--keep", "2"]]
    done = processes.run(sys.executable, "-c", PROBE.format(names=names, words=words, heavy=HEAVY))
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    codes = [line for line in lines if line.startswith("code")]
    assert codes == ["code 0", "code 0", "code 2", "code 2", "code 2"] * len(names)
    assert json.loads(lines[-1].removeprefix("loaded ")) == []


def test_a_message_of_a_type_repeats_little(capsys: pytest.CaptureFixture[str]) -> None:
    for read in (arguments.whole(1, 2), arguments.share, arguments.between(1, 2)):
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            read("9" * 100_000)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("text", "expected"), [("0.5", 0.5), ("1", 1), ("1e-3", 0.001), (".5", 0.5), ("+1", 1)])
def test_shares_are_read(text: str, expected: float) -> None:
    assert arguments.share(text) == expected


def test_closed_output_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit, match="2"):
        run.main(["B", "--prompt", "What?"])
    assert capsys.readouterr().err.startswith("fastv-run: standard output is closed")
