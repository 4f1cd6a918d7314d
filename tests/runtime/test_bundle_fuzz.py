"""Bundles changed at random: each is refused by one line, or answers. Nothing else is ever raised."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fastv_runtime import Bundle, Pipeline, UserError
from fastv_runtime.cli.inspect import inspect
from fastv_runtime.config.bundle import MANIFEST
from fastv_runtime.config.lengths import capacity, pruned_length
from fastv_runtime.integrity import remembered

Place = tuple[str | int, ...]
FREE = ("source", "versions", "verified", "quantization", "family")
"""What a manifest tells people and no program."""

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    7,
    2**31 - 1,
    2**31,
    2**63,
    10**30,
    10**300,
    0.5,
    -0.0,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "S",
    "float16",
    "trt",
    "../x",
    "/etc/passwd",
    "\ud800",
    "\x00",
    "{0.__class__}",
    "9" * 5000,
    [],
    {},
    [1],
    [[]],
    {"x": 1},
    [0] * 100,
]
SETTINGS = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy whose manifest is written over; unchanged files are hashed once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remembered, "SETTLED", -1.0)
        yield Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("fuzz") / "bundle.fastv"))


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Every path of a JSON value but the whole."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*place, key)
            yield from places(inner, (*place, key))


def refused(error: UserError) -> None:
    """One line that can be printed, with something to do."""
    line = str(error)
    assert "\n" not in line and "Input should" not in line and "pydantic" not in line
    assert 20 < len(line) < 2000
    line.encode()


def answers(bundle: Bundle) -> None:
    """A picture and a question go through it."""
    pipeline = Pipeline(bundle, threads=1)
    answer = pipeline.generate([Image.new("RGB", (20, 30), "red")], "What is it?", max_new_tokens=2)
    assert 1 <= len(answer.token_ids) <= 2


def changed(draw: st.DrawFn, value: Any) -> Any:
    """Near a value, or far from it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return draw(st.sampled_from(VALUES))
    if isinstance(value, str):
        near = [value + "x", value[:-1], value.upper(), value + "\n", f"./{value}", value.replace("/", "\\")]
    else:
        near = [value + 1, value - 1, -value, value * 2, value * 10**12, float(value), str(value), value / 2]
    return draw(st.one_of(st.sampled_from(near), st.sampled_from([*near, *VALUES])))


@st.composite
def mutations(draw: st.DrawFn, manifest: Any) -> Any:
    """The manifest with one or two changes: values replaced, fields removed, added, renamed, swapped."""
    mutated, everywhere = copy.deepcopy(manifest), list(places(manifest))
    # Half of all among what is no tensor of a graph, of which there are most.
    few = [place for place in everywhere if place[0] != "graphs" or len(place) < 4]
    free = [place for place in everywhere if place[0] in ("generation", "tokens", "plan", "vision")]
    for _ in range(draw(st.integers(1, 2))):
        *outer, last = draw(st.one_of(*map(st.sampled_from, (free, few, everywhere))))
        holder = mutated
        with suppress(KeyError, IndexError, TypeError):  # gone by an earlier change
            for key in outer:
                holder = holder[key]
            kind = draw(st.sampled_from(["replace", "replace", "replace", "delete", "add", "double", "swap"]))
            if kind == "replace":
                holder[last] = changed(draw, holder[last])
            elif kind == "delete":
                del holder[last]
            elif kind == "double" and isinstance(holder, list):
                holder.insert(0, copy.deepcopy(holder[last]))
            elif kind == "swap":
                other = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
                holder[last], holder[other] = holder[other], holder[last]
            elif isinstance(holder, dict):
                holder[draw(st.sampled_from(["x", "", "a.b", "../x", last + " ", last.upper(), "\n"]))] = holder[last]
    return mutated


def test_a_mutated_manifest_is_refused_or_answers(bundle: Path, tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / MANIFEST).read_text())
    original = Bundle.open(bundle).manifest.model_dump(exclude=set(FREE))
    seen: list[bool] = []

    @settings(SETTINGS, max_examples=300)
    @given(mutations(manifest))
    def check(mutated: Any) -> None:
        (bundle / MANIFEST).write_text(json.dumps(mutated))
        try:
            opened = Bundle.open(bundle)
            plan = opened.manifest.plan
            json.dumps(inspect(opened.manifest))
            pruned_length(plan, 1, plan.max_visual, plan.length, capacity(plan))
            if opened.manifest.model_dump(exclude=set(FREE)) != original:
                answers(opened)
            seen.append(True)
        except UserError as error:
            refused(error)
            seen.append(False)

    check()
    assert len(seen) >= 250 and 10 < sum(seen) < len(seen) / 2


@pytest.mark.parametrize("hashes", ["kept", "edited"])
def test_a_mutated_file_is_refused_or_answers(bundle: Path, tiny_bundle: Path, hashes: str) -> None:
    manifest = json.loads((tiny_bundle / MANIFEST).read_text())
    names = sorted(manifest["files"])

    @st.composite
    def files(draw: st.DrawFn) -> tuple[str, bytes | None]:
        name = draw(st.sampled_from(names))
        data = (tiny_bundle / name).read_bytes()
        at = draw(st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(["truncated", "extended", "flipped", "swapped", "missing", "zeroed"]))
        return name, {
            "truncated": data[:at],
            "extended": data + data[:at],
            "flipped": data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :],
            "swapped": (tiny_bundle / draw(st.sampled_from(names))).read_bytes(),
            "missing": None,
            "zeroed": data[:at] + bytes(len(data) - at),
        }[kind]

    @settings(SETTINGS, max_examples=100 if hashes == "kept" else 40)
    @given(files())
    def check(mutation: tuple[str, bytes | None]) -> None:
        name, data = mutation
        edited, file = copy.deepcopy(manifest), bundle / name
        same = data == (tiny_bundle / name).read_bytes()
        file.unlink()
        if data is not None:
            file.write_bytes(data)
            if hashes == "edited":
                edited["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        (bundle / MANIFEST).write_text(json.dumps(edited))
        try:
            opened = Bundle.open(bundle)
            assert same or hashes == "edited"
            answers(opened)
        except UserError as error:
            refused(error)
            assert not same
        finally:
            file.unlink(missing_ok=True)
            shutil.copy2(tiny_bundle / name, file)

    check()
