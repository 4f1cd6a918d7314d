"""Image features that are kept: what is found again, what is forgotten first, and what one image is told apart by."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

import numpy as np
import pytest

from fastv_runtime.generation.feature_cache import FeatureCache
from fastv_runtime.preprocessing import GraphRun, Pack, Piece, Visual
from fastv_runtime.preprocessing.digest import visual_digest


def rows(value: float, count: int = 10) -> np.ndarray:
    """Features of 40 bytes a ten."""
    return np.full(count, value, np.float32)


def test_what_was_put_is_found_and_what_was_not_is_none() -> None:
    cache = FeatureCache(1000)
    cache.put("a", [rows(1), rows(2)])
    found = cache.get("a")
    assert found is not None
    assert [each.tolist() for each in found] == [rows(1).tolist(), rows(2).tolist()]
    assert cache.get("b") is None
    assert (cache.hits, cache.misses, cache.nbytes) == (1, 1, 80)


def test_what_is_kept_does_not_follow_the_buffer_it_came_from() -> None:
    cache, buffer = FeatureCache(1000), rows(1)
    cache.put("a", [buffer])
    buffer[:] = 7
    found = cache.get("a")
    assert found is not None
    assert found[0].tolist() == rows(1).tolist()
    with pytest.raises(ValueError, match="read-only"):
        found[0][:] = 7


def test_the_least_recently_used_is_forgotten_first() -> None:
    cache = FeatureCache(120)
    for name in "abc":
        cache.put(name, [rows(0)])
    cache.get("a")
    cache.put("d", [rows(0)])
    assert [name for name in "abcd" if cache.get(name) is not None] == ["a", "c", "d"]
    assert cache.nbytes == 120


def test_one_that_is_put_again_counts_once() -> None:
    cache = FeatureCache(100)
    cache.put("a", [rows(1)])
    cache.put("a", [rows(2, 20)])
    found = cache.get("a")
    assert found is not None
    assert found[0].tolist() == rows(2, 20).tolist()
    assert cache.nbytes == 80


@pytest.mark.parametrize("limit", [0, 39])
def test_what_has_no_room_drives_out_nothing(limit: int) -> None:
    cache = FeatureCache(limit)
    cache.put("small", [rows(0, limit // 4)])
    cache.put("large", [rows(0)])
    assert cache.get("large") is None
    assert cache.get("small") is not None
    assert cache.nbytes == 4 * (limit // 4)


def test_threads_never_see_more_than_the_limit() -> None:
    cache, seen, wrong = FeatureCache(400), [], []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(300):
            name = int(random.integers(20))
            found = cache.get(str(name))
            if found is not None and not (found[0] == name).all():
                wrong.append(name)
            cache.put(str(name), [rows(name, int(random.integers(1, 30)))])
            seen.append(cache.nbytes)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.hits + cache.misses == 4 * 300
    assert max(seen) <= 400
    cache.put("last", [rows(0, 100)])  # as large as all: nothing else may be left in the books
    assert cache.nbytes == 400


def visual() -> Visual:
    pixels = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)
    pieces = (Piece({"pixel_values": pixels, "mask": np.ones(4, bool)}, 4), Piece({"pixel_values": pixels + 1}, 4))
    pack = Pack(np.arange(8).reshape(8, 1), np.ones((8, 1), np.float32))
    return Visual("image", "vision", pieces, ("<a>", GraphRun(8, (1, 2, 4)), "<b>"), list, pack)


def inputs(**changed: np.ndarray) -> Callable[[Visual], Visual]:
    def change(of: Visual) -> Visual:
        first = dataclasses.replace(of.pieces[0], inputs=of.pieces[0].inputs | changed)
        return dataclasses.replace(of, pieces=(first, *of.pieces[1:]))

    return change


PIXELS = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)
OTHERS: dict[str, Callable[[Visual], Visual]] = {
    "a pixel": inputs(pixel_values=PIXELS + (PIXELS == 47)),
    "the type of the same bytes": inputs(pixel_values=PIXELS.view(np.int32)),
    "the shape of the same bytes": inputs(pixel_values=PIXELS.reshape(1, 3, 2, 8)),
    "a second input": inputs(mask=np.array([True, True, True, False])),
    "an input's name": inputs(musk=np.ones(4, bool)),
    "the order of pieces": lambda of: dataclasses.replace(of, pieces=of.pieces[::-1]),
    "rows of a piece": lambda of: dataclasses.replace(
        of, pieces=(dataclasses.replace(of.pieces[0], rows=5), of.pieces[1])
    ),
    "one piece less": lambda of: dataclasses.replace(of, pieces=of.pieces[:1]),
    "the graph": lambda of: dataclasses.replace(of, graph="video"),
    "the kind": lambda of: dataclasses.replace(of, kind="video"),
    "the text before": lambda of: dataclasses.replace(of, text=("<c>", *of.text[1:])),
    "the grid": lambda of: dataclasses.replace(of, text=("<a>", GraphRun(8, (1, 4, 2)), "<b>")),
    "the step of time": lambda of: dataclasses.replace(of, text=("<a>", GraphRun(8, (1, 2, 4), 2.0), "<b>")),
    "no packing": lambda of: dataclasses.replace(of, pack=None),
    "an index": lambda of: dataclasses.replace(of, pack=Pack(np.arange(8)[::-1].reshape(8, 1), np.ones((8, 1), "f"))),
    "a weight": lambda of: dataclasses.replace(of, pack=Pack(np.arange(8).reshape(8, 1), np.full((8, 1), 0.5, "f"))),
}


def test_the_same_visual_has_the_same_digest() -> None:
    turned = inputs(pixel_values=np.asfortranarray(PIXELS))(visual())  # how an array lies in memory is no difference
    sizes = dataclasses.replace(visual(), text=("<a>", GraphRun(np.int64(8), (1, np.int64(2), 4)), "<b>"))
    assert visual_digest(visual()) == visual_digest(visual()) == visual_digest(turned) == visual_digest(sizes)


@pytest.mark.parametrize("what", OTHERS)
def test_another_visual_has_another_digest(what: str) -> None:
    assert visual_digest(OTHERS[what](visual())) != visual_digest(visual())
