"""The report's images: kept tokens over what the model saw, and maps of where they are kept. SVG, as in `plots`."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from io import BytesIO
from math import isnan, sqrt

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from fastv_calib.report.evidence import Panel

SIDE = 448
"""Pixels of the longer side of an embedded image; larger ones are scaled down."""
QUALITY = 88
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Of a map's key."""


def kept_image(panel: Panel, label: str) -> str:
    """The image with a veil over what is dropped and a line around what is kept, as `fastv-run` draws it."""
    image = panel.image
    rows, columns = panel.kept.shape
    # Drawn in units of one token's width, so that a path is a few digits a place.
    height = image.height / image.width * columns
    down = height / rows
    return (
        f'<svg class="kept" viewBox="0 0 {columns} {height:.5g}" role="img" aria-label="{escape(label)}">'
        f'<image href="{data_uri(image)}" width="{columns}" height="{height:.5g}" preserveAspectRatio="none"/>'
        f'<g transform="scale(1 {down:.5g})"><path class="veil" d="{_veil(panel.kept)}"/>'
        f'<path class="outline" d="{_outline(panel.kept)}"/></g></svg>'
    )


def heat_map(shares: Float[np.ndarray, "rows columns"], label: str) -> str:
    """A square a place, the deeper the oftener it is kept."""
    rows, columns = shares.shape
    cells = [
        f'<rect x="{column}" y="{row}" width="1" height="1" fill-opacity="{opacity(share):.2g}">'
        f"<title>{share:.0%}</title></rect>"
        for row, line in enumerate(shares.tolist())
        for column, share in enumerate(line)
        if not isnan(share)
    ]
    return f'<svg class="heat" viewBox="0 0 {columns} {rows}" role="img" aria-label="{escape(label)}">' + (
        f"{''.join(cells)}</svg>"
    )


def opacity(share: float) -> float:
    """How deep a place is drawn. The root sets small shares apart, which are most where little is kept."""
    return sqrt(share)


def data_uri(image: Image.Image) -> str:
    """A JPEG of at most `SIDE` pixels a side, as an address that holds it."""
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _veil(kept: Bool[np.ndarray, "rows columns"]) -> str:
    """Rectangles over what is dropped, a row's neighbours as one."""
    return "".join(
        f"M{first} {row}h{last - first}v1H{first}z" for row, places in enumerate(kept) for first, last in _runs(~places)
    )


def _outline(kept: Bool[np.ndarray, "rows columns"]) -> str:
    """Lines between what is kept and what is not."""
    padded = np.pad(kept, 1)
    across = padded[1:, 1:-1] != padded[:-1, 1:-1]
    down = (padded[1:-1, 1:] != padded[1:-1, :-1]).T
    return "".join(
        [f"M{first} {row}H{last}" for row, edges in enumerate(across) for first, last in _runs(edges)]
        + [f"M{column} {first}V{last}" for column, edges in enumerate(down) for first, last in _runs(edges)]
    )


def _runs(flags: Sequence[bool] | np.ndarray) -> Iterator[tuple[int, int]]:
    """First and one past the last index of every stretch of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, np.int8), [0]])))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
