"""A name for what an image or video comes to: equal digests, equal features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np

from fastv_runtime.preprocessing.visual import Visual


def visual_digest(visual: Visual) -> str:
    """SHA-256, in hexadecimal, of all that the vision graphs are given, and of what stands in the prompt for it.

    Two files of the same pixels have one digest, whatever their format.
    """
    # Each part is preceded by a line that says how long it is, so that no two visuals are written as the same bytes.
    head = {
        "kind": visual.kind,
        "graph": visual.graph,
        "rows": [piece.rows for piece in visual.pieces],
        "text": [part if isinstance(part, str) else [part.tokens, part.grid, part.interval] for part in visual.text],
        "packed": visual.pack is not None,
    }
    found = hashlib.sha256()
    found.update(json.dumps(head, default=np.generic.item).encode() + b"\n")
    for name, array in _arrays(visual):
        found.update(json.dumps([name, array.dtype.str, array.shape]).encode() + b"\n")
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _arrays(visual: Visual) -> Iterator[tuple[str, np.ndarray]]:
    for index, piece in enumerate(visual.pieces):
        for name, array in sorted(piece.inputs.items()):
            yield f"{index}.{name}", array
    if visual.pack is not None:
        yield "index", visual.pack.index
        yield "weight", visual.pack.weight
