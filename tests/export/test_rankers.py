"""Every ranker's select graph against its definition in numpy, and its operators against TensorRT's list."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastv_export.graphs.select import build_select
from fastv_export.rankers import RANKERS
from fastv_export.rankers.base import Seen
from fastv_export.targets import TARGETS
from fastv_export.tracing.trace import OPSET, graph_inputs, name_outputs
from fastv_export.verify.choices import choose
from fastv_runtime.config.base import DType
from fastv_runtime.config.cuts import TEXT_ROWS, Cut
from fastv_runtime.config.io_spec import decoder_io_specs
from tests.export.tensorrt_operators import violations
from tests.plans import at_capacity
from tests.runtime.test_build_profiles import DECODER, PLAN

HEADS = 8
DEEP = DECODER.model_copy(
    update={"hidden_size": 6, "position_axes": 3, "deepstack_layers": 4, "num_attention_heads": HEADS}
)
"""All that `select` may have: positions of three axes, features that are due after layers K and K + 1; and more heads
than any ranker takes."""


@dataclass(frozen=True)
class Given:
    """What a select graph is given of S rows."""

    hidden: np.ndarray
    signals: dict[str, np.ndarray]
    """f32, without the axis of the batch."""
    prunable: np.ndarray
    length: int

    @property
    def scores(self) -> np.ndarray:
        return self.signals["scores"]


def given_signals(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Few distinct values, so that there are ties everywhere, of which fp32 makes exact sums."""
    random = np.random.default_rng(seed)

    def drawn(values: list[float], *shape: int) -> np.ndarray:
        return random.choice(values, (*shape, rows)).astype(np.float32)

    return {
        "scores": drawn([0.0, 0.1, 0.1000001, 0.5, 1.0]),
        "earlier_scores": drawn([0.0, 0.1, 0.2, 0.3, 1.0]),
        "head_scores": drawn([0.0, 0.0625, 0.125, 0.5], HEADS),
        "row_scores": drawn([0.0, 0.125, 0.25, 0.5], TEXT_ROWS),
        "key_norms": drawn([0.5, 1.0, 2.0]),
        "change": drawn([0.0, 0.25, 0.3, 1.0, 1.5]),
    }


def given_of(hidden: np.ndarray, scores: np.ndarray, prunable: np.ndarray, length: int) -> Given:
    """Other signals are drawn."""
    return Given(
        hidden, given_signals(scores.size) | {"scores": scores.astype(np.float32)}, prunable.astype(bool), length
    )


def lowered(ranker: str, target: str, dtype: DType) -> onnx.ModelProto:
    cut = Cut(layer=2, keep=0.5, ranker=ranker, signals=RANKERS[ranker].signals, rotary=RANKERS[ranker].rotary)
    inputs, outputs = decoder_io_specs(DEEP, PLAN.model_copy(update={"cuts": (cut,), "max_text": 3000}), dtype)[
        "select"
    ]
    model = build_select(graph_inputs(inputs), OPSET, ranker, [tensor.name for tensor in outputs])
    name_outputs(model, outputs)
    TARGETS[target].lower(model)
    return ir.to_proto(model)


@cache
def session(ranker: str, target: str, dtype: DType) -> Any:
    return onnxruntime.InferenceSession(lowered(ranker, target, dtype).SerializeToString())


def kept(ranker: str, given: Given, target: str = "ort", dtype: DType = "float32") -> list[int]:
    """What a graph keeps; its rows are those of the kept indices."""
    rows = given.prunable.size
    deepstack = {f"deepstack_{i}": (i + given.hidden)[None].astype(dtype) for i in (1, 2, 3)}
    feeds = {
        "hidden": given.hidden[None].astype(dtype),
        "position_ids": np.arange(3 * rows).reshape(3, 1, rows),
        "prunable": given.prunable[None],
        "length": np.asarray([given.length]),
        **{name: given.signals[name][None] for name in RANKERS[ranker].signals},
        **deepstack,
    }
    made = session(ranker, target, dtype)
    names = [each.name for each in made.get_outputs()]
    outputs = dict(zip(names, made.run(names, at_capacity(feeds, made)), strict=True))
    keep = outputs["keep"][0]
    np.testing.assert_array_equal(outputs["pruned_hidden"][0], feeds["hidden"][0, keep])
    np.testing.assert_array_equal(outputs["pruned_position_ids"], feeds["position_ids"][..., keep])
    for name, values in deepstack.items():
        np.testing.assert_array_equal(outputs[f"pruned_{name}"][0], values[0, keep])
    return keep.tolist()


# Definitions: which `count` of the `visual` indices (ascending) stay.


def by_score(scores: np.ndarray, visual: list[int], count: int | None) -> list[int]:
    return sorted(visual, key=lambda index: (-scores[index], index))[:count]


def middles(members: list[int], count: int) -> list[int]:
    """The middle of each of `count` equal stretches."""
    return [members[math.ceil((2 * j + 1) * len(members) / (2 * count)) - 1] for j in range(count)]


def fastv(given: Given, visual: list[int], count: int) -> list[int]:
    return by_score(given.scores, visual, count)


def uniform(given: Given, visual: list[int], count: int) -> list[int]:
    return middles(visual, count)


def fastv_uniform(given: Given, visual: list[int], count: int) -> list[int]:
    best = by_score(given.scores, visual, count - count // 2)
    return best + middles([index for index in visual if index not in best], count // 2)


def dart(given: Given, visual: list[int], count: int) -> list[int]:
    states = given.hidden.astype(np.float64)
    norms = np.linalg.norm(states, axis=1)
    pivots = by_score(given.scores, visual, 4)
    redundancy = {
        index: max(states[index] @ states[pivot] / norms[index] / norms[pivot] for pivot in pivots) for index in visual
    }
    return sorted(visual, key=lambda index: (index not in pivots, 0 if index in pivots else redundancy[index], index))[
        :count
    ]


def rank_shift(given: Given, visual: list[int], count: int) -> list[int]:
    steps = max(len(visual) - 1, 1)
    now, before = (
        {index: Fraction(len(visual) - 1 - place, steps) for place, index in enumerate(by_score(each, visual, None))}
        for each in (given.scores, given.signals["earlier_scores"])
    )
    total = {
        index: Fraction(3, 5) * now[index] + Fraction(2, 5) * max(Fraction(0), now[index] - before[index])
        for index in visual
    }
    return sorted(visual, key=lambda index: (-total[index], index))[:count]


def varied_heads(given: Given, visual: list[int], count: int) -> list[int]:
    heads = given.signals["head_scores"].astype(np.float64)
    variance = heads[:, visual].var(axis=1).round(12) if visual else np.zeros(HEADS)
    best = by_score(variance, list(range(HEADS)), 6)
    return by_score(heads[best].mean(axis=0), visual, count)


def text_rows(given: Given, visual: list[int], count: int) -> list[int]:
    rows, by_rows = given.prunable.size, given.signals["row_scores"].astype(np.float64)
    # The i-th of these is row S - R + i of the prompt.
    text = [i for i in range(TEXT_ROWS) if rows - TEXT_ROWS + i >= 0 and rows - TEXT_ROWS + i not in visual]
    return by_score(by_rows[text or [-1]].mean(axis=0).round(12), visual, count)


def knorm(given: Given, visual: list[int], count: int) -> list[int]:
    return by_score(-given.signals["key_norms"], visual, count)


def frame_change(given: Given, visual: list[int], count: int) -> list[int]:
    return by_score(given.scores + (given.signals["change"] - np.float32(1)), visual, count)


def coverage(given: Given, visual: list[int], count: int) -> list[int]:
    states = given.hidden[visual].astype(np.float64)
    states = states / np.linalg.norm(states, axis=1, keepdims=True)
    likeness, taken = states @ states.T, list[int]()
    for number in range(16):
        nearest = likeness[:, taken].max(axis=1, initial=0)
        gain = np.maximum(0, likeness - nearest[:, None]).sum(axis=0)
        worth = given.scores[visual] * gain.astype(np.float32)
        left = [place for place in range(len(visual)) if place not in taken]
        taken += by_score(worth, left, (number + 1) * count // 16 - number * count // 16)
    return [visual[place] for place in taken]


DEFINITIONS: dict[str, Callable[[Given, list[int], int], list[int]]] = {
    "fastv": fastv,
    "pre-rope": fastv,
    "uniform": uniform,
    "fastv+uniform": fastv_uniform,
    "dart": dart,
    "rank-shift": rank_shift,
    "varied-heads": varied_heads,
    "text-rows": text_rows,
    "knorm": knorm,
    "coverage": coverage,
    "frame-change": frame_change,
}


def chosen(ranker: str, given: Given) -> list[int]:
    """By the ranker's own definition in torch, which golden vectors and calibration go by."""
    signals = {name: torch.from_numpy(given.signals[name]) for name in RANKERS[ranker].signals}
    seen = Seen(torch.from_numpy(given.hidden), torch.from_numpy(given.prunable), signals)
    return choose(ranker, seen, given.length).tolist()


def expected(ranker: str, given: Given) -> list[int]:
    text, visual = np.flatnonzero(~given.prunable).tolist(), np.flatnonzero(given.prunable).tolist()
    return sorted(text + DEFINITIONS[ranker](given, visual, given.length - len(text)))


def suited(ranker: str, given: Given) -> Given:
    """For `coverage`, states whose cosines are 0, a half and 1, of which sums are exact in any order: ties are ties."""
    if ranker != "coverage":
        return given
    return replace(given, hidden=np.where(np.arange(6) < 4, np.sign(given.hidden), 0).astype(np.float32))


@st.composite
def cases(draw: st.DrawFn) -> Given:
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
    hidden = random.normal(size=(rows, 6)).astype(np.float32)
    return Given(hidden, given_signals(rows, draw(st.integers(0, 1000))), prunable, max(1, length))


@pytest.mark.parametrize("ranker", DEFINITIONS)
@given(case=cases())
@settings(max_examples=40)
def test_kept_tokens_are_those_that_the_documentation_says(ranker: str, case: Given) -> None:
    case = suited(ranker, case)
    assert kept(ranker, case) == expected(ranker, case)


@pytest.mark.parametrize("ranker", RANKERS)
@given(case=cases())
@settings(max_examples=40)
def test_the_graph_keeps_what_the_definition_in_torch_does(ranker: str, case: Given) -> None:
    case = suited(ranker, case)
    wanted, ours = chosen(ranker, case), kept(ranker, case)
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
        given = given_of(hidden, scores, prunable, length)
        first = kept(ranker, given)
        assert kept(ranker, given, "trt", "float16") == first
        assert kept(ranker, given, "trt-legacy", "float16") == first
        if RANKERS[ranker].portable:
            assert first == chosen(ranker, given)


@pytest.mark.parametrize("ranker", RANKERS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_tensorrt_has_the_operators(ranker: str, dtype: DType) -> None:
    assert set(violations(lowered(ranker, "trt-legacy", dtype))) == set()


@given(st.integers(1, 3000), st.data())
def test_uniform_tokens_are_as_far_apart_as_whole_numbers_allow(count: int, data: st.DataObject) -> None:
    staying = data.draw(st.integers(1, count))
    keep = kept("uniform", given_of(np.zeros((count, 6)), np.zeros(count), np.ones(count), staying))
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
    # Pivots: four of the background, by their scores. Next come the two that are different.
    assert kept("dart", given_of(hidden, scores, np.ones(12), 6)) == [0, 1, 2, 3, 4, 9]
    assert kept("dart", given_of(hidden, scores, np.ones(12), 7)) == [0, 1, 2, 3, 4, 5, 9]
    # States of zero have no direction; nothing is divided by their norm.
    assert len(kept("dart", given_of(np.zeros((12, 6)), scores, np.ones(12), 6))) == 6


def test_where_nothing_came_before_frame_change_is_fastv_to_the_last_bit_of_a_score() -> None:
    given = given_of(np.zeros((9, 6)), np.asarray([1e-9, 2e-9, 0, 3e-9, 1, 0.5, 4e-9, 0, 0]), np.arange(9) != 4, 5)
    given.signals["change"][:] = 1
    assert kept("frame-change", given) == kept("fastv", given) == [1, 3, 4, 5, 6]
