"""In which order runners take turns, so that none is always behind the same other.

Whoever follows another finds caches full of that one's weights, and perhaps its threads still spinning: in a fixed
order the same runner would pay for that every time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random


def turns(names: Sequence[str], seed: int) -> Iterator[list[str]]:
    """Orders of the names, without end, shuffled in blocks of `orders(len(names))`.

    Over a block every name has every place equally often, and stands directly behind every other name equally often.
    """
    random = Random(seed)
    while True:
        shuffled, block = random.sample(names, len(names)), orders(len(names))
        for order in random.sample(block, len(block)):
            yield [shuffled[index] for index in order]


def orders(count: int) -> list[list[int]]:
    """A Williams square of `count` runners (E. J. Williams, 1949, Aust. J. Sci. Res. A 2): `count` orders, or twice
    as many where `count` is odd."""
    zigzag = [step // 2 if step % 2 == 0 else count - 1 - step // 2 for step in range(count)]
    square = [[(place + shift) % count for place in zigzag] for shift in range(count)]
    return square if count % 2 == 0 else square + [order[::-1] for order in square]
