"""Draw labelled scenes: coloured shapes and handwritten digits on a textured canvas.

`draw_scene` is a pure function of a numpy Generator and a bank of digit bitmaps. Coordinates are pixels of a
168 x 168 canvas; a patch is 14 x 14 pixels, so that a vision tower sees 12 x 12 = 144 patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

CANVAS = 168  # pixels
PATCH = 14  # pixels
SIDE = CANVAS // PATCH  # patches along one edge
GRID = 6  # cells along one edge; an object sits in one cell
CELL = CANVAS // GRID  # pixels
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
COLORS = {
    "red": (232, 46, 52),
    "orange": (250, 140, 24),
    "yellow": (250, 224, 50),
    "green": (56, 184, 72),
    "cyan": (70, 214, 228),
    "blue": (48, 92, 240),
    "purple": (160, 72, 216),
    "white": (246, 246, 246),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "heart", "ring")
NUMBER = "number"  # the shape of every digit

_SUPERSAMPLE = 4
_TILE = 44  # pixels; holds the largest object with its jitter
_VISIBLE = 0.1  # share of a patch that an object must cover to count as being there


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    shape: str  # one of SHAPES, or NUMBER
    color: str
    digit: int | None  # value of a NUMBER
    region: tuple[int, int]  # row and column of the 3 x 3 regions
    patches: tuple[int, ...]  # indices of the patches it covers, row-major, ascending
    anchor: int  # the patch that holds its centre

    @property
    def name(self) -> str:
        """The noun an answer uses: the shape, or the value of a digit."""
        return self.shape if self.digit is None else str(self.digit)


NO_PICTURE = Image.new("RGB", (1, 1))  # for scenes of which only the objects matter


@dataclass(frozen=True)
class Scene:
    """A picture (RGB, 168 x 168) and its objects in reading order of their cells."""

    image: Image.Image
    things: tuple[Thing, ...]


@lru_cache(maxsize=2)
def digit_bank(held_out: bool) -> tuple[tuple[np.ndarray, int], ...]:
    """Handwritten digits bundled with scikit-learn as (uint8 [8, 8], value); every fourth one is held out."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = [i for i in range(len(digits.target)) if (i % 4 == 3) == held_out]
    return tuple(((digits.images[i] * 255 / 16).astype(np.uint8), int(digits.target[i])) for i in chosen)


def draw_scene(
    rng: np.random.Generator,
    *,
    held_out: bool = False,
    things: tuple[int, int] = (3, 6),
    numbers: float = 0.3,
) -> Scene:
    """Draw `things` (inclusive range) objects, each a digit with probability `numbers`, no two touching."""
    canvas = _background(rng)
    palette, shapes = list(COLORS), list(SHAPES)
    # Drawing from a subset of colours and shapes makes repeats, and so counts above one, common.
    palette = [palette[i] for i in rng.permutation(len(palette))[: rng.integers(3, len(palette) + 1)]]
    shapes = [shapes[i] for i in rng.permutation(len(shapes))[: rng.integers(3, len(shapes) + 1)]]
    placed = []
    for row, column in _cells(rng, int(rng.integers(things[0], things[1] + 1))):
        color = palette[rng.integers(len(palette))]
        bank = digit_bank(held_out)
        if rng.random() < numbers:
            bitmap, digit = bank[rng.integers(len(bank))]
            shape, tile = NUMBER, _digit_tile(rng, bitmap, bend=not held_out)
        else:
            digit, shape = None, shapes[rng.integers(len(shapes))]
            tile = _shape_tile(rng, shape)
        cover = _paste(rng, canvas, tile, COLORS[color], row, column)
        share = cover.reshape(SIDE, PATCH, SIDE, PATCH).mean(axis=(1, 3)).ravel()
        patches = tuple(int(p) for p in np.flatnonzero(share > _VISIBLE))
        ys, xs = np.nonzero(cover > 0.5)
        anchor = int((ys.min() + ys.max() + 1) // 2 // PATCH * SIDE + (xs.min() + xs.max() + 1) // 2 // PATCH)
        placed.append((row, column, Thing(shape, color, digit, (row // 2, column // 2), patches, anchor)))
    pixels = canvas + rng.normal(0, rng.uniform(1, 6), (*canvas.shape[:2], 1)).astype(np.float32)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return Scene(image, tuple(thing for _, _, thing in sorted(placed, key=lambda p: p[:2])))


def _cells(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Distinct grid cells of which no two touch, not even at a corner."""
    while True:
        chosen: list[tuple[int, int]] = []
        for cell in rng.permutation(GRID * GRID):
            row, column = divmod(int(cell), GRID)
            if all(max(abs(row - r), abs(column - c)) > 1 for r, c in chosen):
                chosen.append((row, column))
            if len(chosen) == count:
                return chosen


def _background(rng: np.random.Generator) -> np.ndarray:
    """A dark, softly mottled surface: float32 [168, 168, 3]."""
    base = rng.uniform(28, 84) + rng.uniform(-14, 14, 3)
    slope = rng.uniform(-18, 18, (2, 3))
    ramp = np.linspace(-1, 1, CANVAS)[:, None]
    gradient = (ramp @ slope[:1])[:, None, :] + (ramp @ slope[1:])[None, :, :]
    size = int(rng.integers(5, 22))
    mottle = Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8)).resize(
        (CANVAS, CANVAS), Image.Resampling.BICUBIC
    )
    clouds = (np.asarray(mottle, np.float32)[..., None] / 255 - 0.5) * rng.uniform(5, 34)
    return (base + gradient + clouds).astype(np.float32)


def _shape_tile(rng: np.random.Generator, shape: str) -> Image.Image:
    """An anti-aliased shape as an alpha mask of _TILE pixels, centred."""
    scale = _SUPERSAMPLE
    big = Image.new("L", (_TILE * scale, _TILE * scale))
    pen = ImageDraw.Draw(big)
    r = rng.uniform(11.0, 14.0) * scale
    tilt = rng.uniform(-0.14, 0.14)
    c = _TILE * scale / 2

    def at(radius: float, angle: float) -> tuple[float, float]:
        return c + radius * cos(angle + tilt - pi / 2), c + radius * sin(angle + tilt - pi / 2)

    if shape in ("circle", "ring"):
        pen.ellipse((c - r, c - r, c + r, c + r), fill=255)
        if shape == "ring":
            hole = r * rng.uniform(0.48, 0.58)
            pen.ellipse((c - hole, c - hole, c + hole, c + hole), fill=0)
    elif shape == "star":
        pen.polygon([at(r * (1.1 if k % 2 == 0 else 0.46), k * pi / 5) for k in range(10)], fill=255)
    elif shape == "cross":
        w = rng.uniform(0.3, 0.38)
        corners = [(w, 1), (w, w), (1, w), (1, -w), (w, -w), (w, -1)]
        corners += [(-x, -y) for x, y in corners]
        turned = [(x * cos(tilt) - y * sin(tilt), x * sin(tilt) + y * cos(tilt)) for x, y in corners]
        pen.polygon([(c + r * x, c + r * y) for x, y in turned], fill=255)
    elif shape == "heart":
        t = np.linspace(0, 2 * pi, 60)
        xs, ys = 16 * np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        outline = [(c + r * x / 16, c - r * y / 16) for x, y in zip(xs, ys, strict=True)]
        pen.polygon([(float(x), float(y)) for x, y in outline], fill=255)
    else:
        polygons = {"square": (4, 1.25, pi / 4), "triangle": (3, 1.15, 0.0), "diamond": (4, 1.1, 0.0)}
        sides, radius, turn = polygons[shape]
        points = [at(r * radius, turn + 2 * pi * k / sides) for k in range(sides)]
        if shape == "diamond":  # slimmer than a turned square
            points = [(c + (x - c) * 0.74, y) for x, y in points]
        pen.polygon(points, fill=255)
    return big.resize((_TILE, _TILE), Image.Resampling.BOX)


def _digit_tile(rng: np.random.Generator, bitmap: np.ndarray, *, bend: bool) -> Image.Image:
    """A handwritten digit (uint8 [8, 8]) smoothly enlarged to an alpha mask of _TILE pixels.

    Digits to learn from are few: `bend` gives each drawing of one another slant, breadth and stroke.
    """
    if bend:
        bitmap = np.clip(bitmap + rng.normal(0, 14, bitmap.shape), 0, 255).astype(np.uint8)
    size = int(rng.integers(25, 30))
    smooth = Image.fromarray(bitmap).resize((size, size), Image.Resampling.BICUBIC)
    tile = Image.new("L", (_TILE, _TILE))
    tile.paste(smooth, ((_TILE - size) // 2, (_TILE - size) // 2))
    tile = tile.rotate(float(rng.uniform(-9, 9)), Image.Resampling.BICUBIC)
    floor = 70.0
    if bend:
        across, down = 1 / rng.uniform(0.82, 1.15, 2)
        slant, tip = rng.uniform(-0.28, 0.28), rng.uniform(-0.1, 0.1)
        c = _TILE / 2
        matrix = (across, slant, c * (1 - across - slant), tip, down, c * (1 - down - tip))
        tile = tile.transform(tile.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
        floor = rng.uniform(45, 95)
    ink = np.asarray(tile, np.float32)
    # Steepen the edges of the enlarged strokes, else they look out of focus.
    return Image.fromarray(np.clip((ink - floor) * 2.1, 0, 255).astype(np.uint8))


def _paste(
    rng: np.random.Generator,
    canvas: np.ndarray,
    tile: Image.Image,
    color: tuple[int, int, int],
    row: int,
    column: int,
) -> np.ndarray:
    """Blend a tinted tile into a cell, with jitter; return what it covers as float [168, 168]."""
    margin = (_TILE - CELL) // 2
    dy, dx = rng.integers(-4, 5, 2)
    y = int(np.clip(row * CELL + dy, 1, CANVAS - CELL - 1)) - margin
    x = int(np.clip(column * CELL + dx, 1, CANVAS - CELL - 1)) - margin
    cover = np.zeros((CANVAS + 2 * _TILE, CANVAS + 2 * _TILE), np.float32)
    cover[y + _TILE : y + 2 * _TILE, x + _TILE : x + 2 * _TILE] = np.asarray(tile, np.float32) / 255
    cover = cover[_TILE:-_TILE, _TILE:-_TILE]
    tint = np.clip(np.array(color) + rng.normal(0, 7, 3), 0, 255).astype(np.float32)
    light = 1 + 0.1 * np.linspace(1, -1, CANVAS, dtype=np.float32)[:, None, None] * rng.uniform(-1, 1)
    canvas += cover[..., None] * (tint * light - canvas)
    return cover
