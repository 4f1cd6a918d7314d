"""Questions about a scene, their answers, and the patches each answer hangs on.

Every question refers to its object without ambiguity: what names it occurs once in the scene.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from demo.scenes import COLORS, COLUMNS, NUMBER, ROWS, SHAPES, SIDE, Scene, Thing

T = TypeVar("T")

NOUNS = (*SHAPES, NUMBER)
PLURALS = {noun: f"{noun}es" if noun.endswith("s") else f"{noun}s" for noun in NOUNS}


@dataclass(frozen=True)
class Question:
    """One question with its answer and the indices (row-major) of the visual patches it is about."""

    kind: str
    text: str
    answer: str
    patches: tuple[int, ...]


def ask(rng: np.random.Generator, scene: Scene, kind: str) -> Question | None:
    """A question of `kind` about the scene, or None where the scene has nothing to ask it about."""
    return KINDS[kind](rng, scene)


def place(region: tuple[int, int]) -> str:
    """The words for a region of the 3 x 3: "top left", "middle right", "center"."""
    row, column = ROWS[region[0]], COLUMNS[region[1]]
    return "center" if region == (1, 1) else f"{row} {column}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _pick(rng: np.random.Generator, options: Iterable[T]) -> T | None:
    options = list(options)
    return options[rng.integers(len(options))] if options else None


def _say(rng: np.random.Generator, templates: Sequence[str], *words: str) -> str:
    return templates[int(rng.integers(len(templates)))].format(*words)


def _patches(things: Iterable[Thing]) -> tuple[int, ...]:
    return tuple(sorted({patch for thing in things for patch in thing.patches}))


def _unique(scene: Scene, key: Callable[[Thing], object]) -> list[Thing]:
    """The things whose `key` no other thing of the scene shares."""
    counts = Counter(key(thing) for thing in scene.things)
    return [thing for thing in scene.things if counts[key(thing)] == 1]


def _color(rng: np.random.Generator, scene: Scene) -> Question | None:
    thing = _pick(rng, _unique(scene, lambda t: t.shape))
    if thing is None:
        return None
    text = _say(
        rng, ("What color is the {}?", "Which color does the {} have?", "What is the color of the {}?"), thing.shape
    )
    return Question("color", text, thing.color, thing.patches)


def _shape(rng: np.random.Generator, scene: Scene) -> Question | None:
    thing = _pick(rng, (t for t in _unique(scene, lambda t: t.color) if t.digit is None))
    if thing is None:
        return None
    text = _say(rng, ("What shape is {}?", "Which shape is {}?", "What is the shape of the {} object?"), thing.color)
    return Question("shape", text, thing.shape, thing.patches)


def _number(rng: np.random.Generator, scene: Scene) -> Question | None:
    numbers = [t for t in scene.things if t.digit is not None]
    colors = Counter(t.color for t in numbers)
    thing = _pick(rng, (t for t in numbers if colors[t.color] == 1))
    if thing is None:
        return None
    templates = ["Which number is {}?", "What number is written in {}?", "Which digit is the {} number?"]
    if len(numbers) == 1:
        templates += ["Which number is shown?", "What number is in the picture?"]
    return Question("number", _say(rng, templates, thing.color), str(thing.digit), thing.patches)


def _where(rng: np.random.Generator, scene: Scene) -> Question | None:
    by_shape = _unique(scene, lambda t: t.shape)
    by_both = _unique(scene, lambda t: (t.shape, t.color))
    if by_shape and rng.random() < 0.5:
        thing = by_shape[rng.integers(len(by_shape))]
        noun = thing.shape
    else:
        if not by_both:
            return None
        thing = by_both[rng.integers(len(by_both))]
        noun = f"{thing.color} {thing.shape}"
    text = _say(rng, ("Where is the {}?", "In which part of the picture is the {}?"), noun)
    return Question("where", text, place(thing.region), thing.patches)


def _what(rng: np.random.Generator, scene: Scene) -> Question | None:
    taken = Counter(t.region for t in scene.things)
    if rng.random() < 0.15:
        free = [(r, c) for r in range(3) for c in range(3) if (r, c) not in taken]
        region = _pick(rng, free)
        if region is None:
            return None
        # A region is 4 x 4 patches.
        row, column = region[0] * SIDE // 3, region[1] * SIDE // 3
        patches = tuple(SIDE * (row + i) + column + j for i in range(SIDE // 3) for j in range(SIDE // 3))
        answer = "nothing"
    else:
        thing = _pick(rng, (t for t in scene.things if taken[t.region] == 1))
        if thing is None:
            return None
        region, patches, answer = (
            thing.region,
            thing.patches,
            f"{_article(thing.color)} {thing.color} {thing.name}",
        )
    text = _say(rng, ("What is at the {}?", "What do you see at the {}?"), place(region))
    return Question("what", text, answer, patches)


def _count(rng: np.random.Generator, scene: Scene) -> Question | None:
    choice = rng.random()
    if choice < 0.25:
        text = _say(rng, ("How many objects are there?", "How many objects are in the picture?"))
        return Question("count", text, str(len(scene.things)), _patches(scene.things))
    if choice < 0.65:
        key, templates = "color", ("How many objects are {}?", "How many {} objects are there?")
    else:
        key, templates = "shape", ("How many {} are there?", "How many {} do you see?")
    present = Counter(getattr(t, key) for t in scene.things)
    options = list(COLORS) if key == "color" else list(NOUNS)
    # Zero is one answer in six; otherwise repeats are asked about as often as singles.
    if rng.random() < 1 / 6:
        value = _pick(rng, (o for o in options if o not in present))
    elif rng.random() < 0.5:
        value = _pick(rng, (o for o in present if present[o] > 1))
    else:
        value = _pick(rng, present)
    if value is None:
        return None
    found = [t for t in scene.things if getattr(t, key) == value]
    word = value if key == "color" else PLURALS[value]
    return Question("count", _say(rng, templates, word), str(len(found)), _patches(found))


def _exists(rng: np.random.Generator, scene: Scene) -> Question | None:
    present = {(t.color, t.shape) for t in scene.things}
    if rng.random() < 0.5:
        pair = _pick(rng, sorted(present))
    else:
        # The hard case: right colour or right shape, but not in one object.
        colors = list(COLORS) if rng.random() < 0.3 else sorted({c for c, _ in present})
        shapes = list(NOUNS) if rng.random() < 0.3 else sorted({s for _, s in present})
        absent = [(c, s) for c in colors for s in shapes if (c, s) not in present]
        pair = _pick(rng, absent)
    if pair is None:
        return None
    color, shape = pair
    found = [t for t in scene.things if (t.color, t.shape) == (color, shape)]
    near = found or [t for t in scene.things if t.color == color or t.shape == shape]
    text = _say(rng, ("Is there {} {} {}?", "Do you see {} {} {}?"), _article(color), color, shape)
    return Question("exists", text, "yes" if found else "no", _patches(near))


def _describe(rng: np.random.Generator, scene: Scene) -> Question | None:
    key = "shape" if rng.random() < 0.5 else "color"
    thing = _pick(rng, _unique(scene, lambda t: getattr(t, key)))
    if thing is None:
        return None
    noun = thing.shape if key == "shape" else f"{thing.color} object"
    text = _say(rng, ("Describe the {}.", "Tell me about the {}."), noun)
    kind = thing.shape if thing.digit is None else f"number {thing.digit}"
    return Question(
        "describe",
        text,
        f"{_article(thing.color)} {thing.color} {kind} at the {place(thing.region)}",
        thing.patches,
    )


KINDS: dict[str, Callable[[np.random.Generator, Scene], Question | None]] = {
    "color": _color,
    "shape": _shape,
    "number": _number,
    "where": _where,
    "what": _what,
    "count": _count,
    "exists": _exists,
    "describe": _describe,
}
