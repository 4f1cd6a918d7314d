"""Every ranker's select graph against its definition in numpy, and its operators against TensorRT's list."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastv_export import cli
from fastv_export.graphs.select import build_select
from fastv_export.plan import Options, make_plan
from fastv_export.rankers import RANKERS
from fastv_export.rankers.base import Ranker
from fastv_export.targets import TARGETS
from fastv_export.tracing.trace import OPSET, graph_inputs, name_outputs
from fastv_export.verify.choices import choose
from fastv_runtime.config.base import DType
from fastv_runtime.config.io_spec import decoder_io_specs
from fastv_runtime.errors import UserError
from tests.export.tensorrt_operators import violations
from tests.runtime.test_build_profiles import DECODER, FIXED
from tests.runtime.test_lengths import make_plan as runtime_plan

DOCS = Path(__file__).parents[2] / "docs" / "rankers.md"
HEAVY = ("torch", "onnx", "onnx_ir", "transformers")
WIDE = {"COLUMNS": "2000"}
"""Of a terminal, so that argparse breaks no line."""
DEEP = DECODER.model_copy(update={"hidden_size": 6, "position_axes": 3, "deepstack_layers": 4})
"""All that `select` may have: positions of three axes, features that are due after layers K and K + 1."""


def lowered(ranker: str, target: str, dtype: DType) -> onnx.ModelProto:
    inputs, outputs = decoder_io_specs(DEEP, runtime_plan(), dtype)["select"]
    model = build_select(graph_inputs(inputs), OPSET, ranker)
    name_outputs(model, outputs)
    TARGETS[target].lower(model)
    return ir.to_proto(model)


@cache
def session(ranker: str, target: str, dtype: DType) -> Any:
    return onnxruntime.InferenceSession(lowered(ranker, target, dtype).SerializeToString())


def kept(
    ranker: str,
    hidden: np.ndarray,
    scores: np.ndarray,
    prunable: np.ndarray,
    length: int,
    target: str = "ort",
    dtype: DType = "float32",
) -> list[int]:
    """What a graph keeps; its rows are those of the kept indices."""
    rows = scores.size
    deepstack = {f"deepstack_{i}": (i + hidden)[None].astype(dtype) for i in (1, 2, 3)}
    feeds = {
        "hidden": hidden[None].astype(dtype),
        "scores": scores[None].astype(np.float32),
        "position_ids": np.arange(3 * rows).reshape(3, 1, rows),
        "prunable": prunable[None],
        "length": np.asarray([length]),
        **deepstack,
    }
    made = session(ranker, target, dtype)
    names = [each.name for each in made.get_outputs()]
    outputs = dict(zip(names, made.run(names, feeds), strict=True))
    keep = outputs["keep"][0]
    np.testing.assert_array_equal(outputs["pruned_hidden"][0], feeds["hidden"][0, keep])
    np.testing.assert_array_equal(outputs["pruned_position_ids"], feeds["position_ids"][..., keep])
    for name, values in deepstack.items():
        np.testing.assert_array_equal(outputs[f"pruned_{name}"][0], values[0, keep])
    return keep.tolist()


# Definitions: which `count` of the `visual` indices (ascending) stay.


def by_score(scores: np.ndarray, visual: list[int], count: int) -> list[int]:
    return sorted(visual, key=lambda index: (-scores[index], index))[:count]


def middles(members: list[int], count: int) -> list[int]:
    """The middle of each of `count` equal stretches."""
    return [members[math.ceil((2 * j + 1) * len(members) / (2 * count)) - 1] for j in range(count)]


def fastv(hidden: np.ndarray, scores: np.ndarray, visual: list[int], count: int) -> list[int]:
    return by_score(scores, visual, count)


def uniform(hidden: np.ndarray, scores: np.ndarray, visual: list[int], count: int) -> list[int]:
    return middles(visual, count)


def fastv_uniform(hidden: np.ndarray, scores: np.ndarray, visual: list[int], count: int) -> list[int]:
    best = by_score(scores, visual, count - count // 2)
    return best + middles([index for index in visual if index not in best], count // 2)


def dart(hidden: np.ndarray, scores: np.ndarray, visual: list[int], count: int) -> list[int]:
    states = hidden.astype(np.float64)
    norms = np.linalg.norm(states, axis=1)
    pivots = by_score(norms, visual, 4)
    redundancy = {
        index: max(states[index] @ states[pivot] / norms[index] / norms[pivot] for pivot in pivots) for index in visual
    }
    return sorted(visual, key=lambda index: (index not in pivots, 0 if index in pivots else redundancy[index], index))[
        :count
    ]


DEFINITIONS: dict[str, Callable[[np.ndarray, np.ndarray, list[int], int], list[int]]] = {
    "fastv": fastv,
    "pre-rope": fastv,
    "uniform": uniform,
    "fastv+uniform": fastv_uniform,
    "dart": dart,
}


def chosen(ranker: str, hidden: np.ndarray, scores: np.ndarray, prunable: np.ndarray, length: int) -> list[int]:
    """By the ranker's own definition in torch, which golden vectors and calibration go by."""
    tensors = (torch.from_numpy(each) for each in (scores, hidden, prunable))
    return choose(ranker, *tensors, length).tolist()


def expected(ranker: str, hidden: np.ndarray, scores: np.ndarray, prunable: np.ndarray, length: int) -> list[int]:
    text, visual = np.flatnonzero(~prunable).tolist(), np.flatnonzero(prunable).tolist()
    return sorted(text + DEFINITIONS[ranker](hidden, scores, visual, length - len(text)))


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Prompts with and without text, one visual token, all kept, none kept, several images, past a block of 128."""
    rows = draw(st.one_of(st.integers(1, 12), st.sampled_from([60, 127, 128, 129, 300])))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    share = draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    prunable = random.random(rows) < share
    if draw(st.booleans()):
        prunable[:] = False
        prunable[draw(st.integers(0, rows - 1))] = True
    visual = int(prunable.sum())
    length = rows - visual + draw(st.integers(0, visual))
    # Few distinct scores: ties everywhere.
    scores = random.choice([0.0, 0.1, 0.1000001, 0.5, 1.0], rows).astype(np.float32)
    hidden = random.normal(size=(rows, 6)).astype(np.float32)
    return hidden, scores, prunable, max(1, length)


@pytest.mark.parametrize("ranker", DEFINITIONS)
@given(case=cases())
def test_kept_tokens_are_those_that_the_documentation_says(
    ranker: str, case: tuple[np.ndarray, np.ndarray, np.ndarray, int]
) -> None:
    assert kept(ranker, *case) == expected(ranker, *case)


@pytest.mark.parametrize("ranker", RANKERS)
@given(case=cases())
def test_the_graph_keeps_what_the_definition_in_torch_does(
    ranker: str, case: tuple[np.ndarray, np.ndarray, np.ndarray, int]
) -> None:
    wanted, ours = chosen(ranker, *case), kept(ranker, *case)
    # A hash's last bits are each engine's own: the two may differ by a few tokens, as two that are unlike would not.
    slack = 0 if RANKERS[ranker].portable else 4
    assert len(ours) == len(wanted) and len(set(ours) ^ set(wanted)) <= slack


@pytest.mark.parametrize("ranker", RANKERS)
def test_all_dialects_keep_the_same(ranker: str) -> None:
    random = np.random.default_rng(0)
    # Values that half precision holds as they are: TensorRT's graphs are computed in it.
    hidden = (random.integers(-64, 64, (200, 6)) / 16).astype(np.float32)
    scores = random.random(200).astype(np.float32)
    prunable = np.arange(200) % 50 > 6
    for length in (40, 100, 200):
        first = kept(ranker, hidden, scores, prunable, length)
        assert kept(ranker, hidden, scores, prunable, length, "trt", "float16") == first
        assert kept(ranker, hidden, scores, prunable, length, "trt-legacy", "float16") == first
        if RANKERS[ranker].portable:
            assert first == chosen(ranker, hidden, scores, prunable, length)


@pytest.mark.parametrize("ranker", RANKERS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_tensorrt_has_the_operators(ranker: str, dtype: DType) -> None:
    assert set(violations(lowered(ranker, "trt-legacy", dtype))) == set()


@given(st.integers(1, 3000), st.data())
def test_uniform_tokens_are_as_far_apart_as_whole_numbers_allow(count: int, data: st.DataObject) -> None:
    staying = data.draw(st.integers(1, count))
    keep = kept("uniform", np.zeros((count, 6)), np.zeros(count), np.ones(count, bool), staying)
    assert len(keep) == staying
    assert {after - before for before, after in pairwise(keep)} <= {count // staying, -(-count // staying)}
    assert abs(keep[0] - (count - 1 - keep[-1])) <= 1


def test_dart_keeps_one_of_many_duplicates_and_whatever_is_different() -> None:
    hidden = np.zeros((12, 6))
    hidden[:, 0] = 3  # a background
    hidden[0, 0] = 5  # and the largest of it
    for index, axis in ((4, 1), (9, 2)):
        hidden[index] = np.eye(6)[axis]
    scores = np.linspace(1, 0, 12)
    # Pivots: the largest and, by index, three of the background. Next come the two that are different.
    assert kept("dart", hidden, scores, np.ones(12, bool), 6) == [0, 1, 2, 3, 4, 9]
    assert kept("dart", hidden, scores, np.ones(12, bool), 7) == [0, 1, 2, 3, 4, 5, 9]
    # States of zero have no direction; nothing is divided by their norm.
    assert len(kept("dart", np.zeros((12, 6)), scores, np.ones(12, bool), 6)) == 6


@pytest.mark.parametrize("ranker", RANKERS.values(), ids=lambda ranker: ranker.name)
def test_the_documentation_says_what_help_says(ranker: Ranker) -> None:
    row = f"| `{ranker.name}` | {ranker.summary} |"
    assert row in DOCS.read_text(encoding="utf-8").splitlines(), f"add to docs/rankers.md: {row}"


def test_help_names_every_ranker_and_needs_neither_torch_nor_onnx() -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({HEAVY})); from {{0}}.cli import main; main(['--help'])"
    for package in ("fastv_export", "fastv_calib"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(package)], capture_output=True, text=True, env=os.environ | WIDE
        )
        assert done.returncode == 0, done.stderr
        for ranker in RANKERS.values():
            assert ranker.name in done.stdout
            assert package != "fastv_export" or f"{ranker.name}: {ranker.summary}" in done.stdout


def test_an_unknown_ranker_is_refused_by_name() -> None:
    options = Options(ranker="best")
    with pytest.raises(UserError, match=r"`ranker` best: no such ranker; known rankers: fastv, random, uniform"):
        make_plan(options, DECODER, FIXED, None)
    with pytest.raises(SystemExit) as failure:
        cli.main(["somewhere", "-o", "out", "--ranker", "best"])
    assert failure.value.code == 2
