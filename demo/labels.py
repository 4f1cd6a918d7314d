"""What is on each patch of a scene, as indices into groups of words."""

from __future__ import annotations

import numpy as np

from demo.scenes import COLORS, COLUMNS, NUMBER, ROWS, SHAPES, SIDE, Scene

VISUAL = SIDE * SIDE

# Each group is a choice that a patch makes once, or not at all (label -1).
GROUPS: dict[str, tuple[str, ...]] = {
    "presence": ("nothing", "object"),
    "color": tuple(COLORS),
    "shape": (*SHAPES, NUMBER),
    "digit": tuple(str(d) for d in range(10)),
    "row": ROWS,
    "column": COLUMNS,
    # Marks one patch of each object, for counting.
    "anchor": ("objects",),
}


def patch_labels(scene: Scene) -> np.ndarray:
    """Labels int8 [groups, 144] of every patch: an index into the group's words, or -1."""
    labels = np.full((len(GROUPS), VISUAL), -1, np.int8)
    grid = np.arange(VISUAL)
    labels[0] = 0
    labels[4], labels[5] = grid // SIDE * 3 // SIDE, grid % SIDE * 3 // SIDE
    for thing in scene.things:
        at = list(thing.patches)
        labels[0, at] = 1
        labels[1, at] = GROUPS["color"].index(thing.color)
        labels[2, at] = GROUPS["shape"].index(thing.shape)
        labels[3, at] = -1 if thing.digit is None else thing.digit
        labels[4, at], labels[5, at] = thing.region
        labels[6, thing.anchor] = 0
    return labels
