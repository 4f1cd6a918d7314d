"""What runners are asked: the user's images and prompt, or a built-in set of visual-token counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fastv_runtime.bench.defaults import NEW_TOKENS
from fastv_runtime.bench.models import ImageRecord
from fastv_runtime.bench.protocol import Request
from fastv_runtime.config.bundle import PROCESSOR, Bundle, sha256
from fastv_runtime.errors import UserError
from fastv_runtime.generation.prompts.prompt import PromptBuilder
from fastv_runtime.preprocessing import load_images
from fastv_runtime.preprocessing.images.loading import open_image

QUESTION = "What is in the picture, where is it, and what is around it? Answer in one short sentence."
SIZES = ((640, 480), (160, 120), (320, 240), (480, 360), (960, 720), (1280, 960))
"""Pixels, a camera's shape. The first is what models see that bring every image to one size."""
MOST = 8
"""Images in one prompt of the built-in set."""
COUNTS = 3
"""Visual-token counts of the built-in set, beside a prompt without an image."""


@dataclass(frozen=True)
class Workload:
    """A request under the name that the report gives it."""

    name: str
    request: Request

    def images(self) -> tuple[ImageRecord, ...]:
        """Its images, for the report."""
        return tuple(_record(Path(path)) for path in self.request.images)


def answer_length(bundles: Mapping[str, Bundle], asked: int | None) -> int:
    """New tokens of each answer, NEW_TOKENS if all support them. Raises UserError for more than a bundle supports."""
    supports = {name: bundle.manifest.plan.max_new_tokens for name, bundle in bundles.items()}
    for name, most in supports.items():
        if asked is not None and asked > most:
            raise UserError(
                f"`max_new_tokens` {asked}: {name} supports at most {most}: ask for fewer, or export with a larger one"
            )
    return asked or min(NEW_TOKENS, *supports.values())


def given(images: Sequence[str], prompt: str, new_tokens: int) -> list[Workload]:
    """The user's own prompt. Raises UserError for an image that is none."""
    for path in images:
        open_image(path)
    count = "no image" if not images else "1 image" if len(images) == 1 else f"{len(images)} images"
    request = Request(images=tuple(str(Path(path).absolute()) for path in images), prompt=prompt, new_tokens=new_tokens)
    return [Workload(f"given prompt, {count}", request)]


def built_in(bundles: Sequence[Bundle], folder: Path, new_tokens: int) -> list[Workload]:
    """Prompts that all bundles support: one without an image, and up to COUNTS numbers of visual tokens.

    Which numbers there are is the model's: as many tokens as images of SIZES become, or one or more of them. The
    least, the most and one between are taken. Images are written to `folder`.
    """
    plans = [bundle.manifest.plan for bundle in bundles]
    manifest = bundles[0].manifest
    limit = min(plan.max_visual for plan in plans)
    prompts = PromptBuilder(bundles[0].file(PROCESSOR), manifest.tokens)
    see = load_images(bundles[0].file(PROCESSOR), manifest.vision)
    # How an image's size becomes tokens depends on its size alone, so that drawing it can wait.
    tokens = {size: see(Image.new("RGB", size)).tokens for size in SIZES}
    found: dict[int, tuple[int, tuple[int, int]]] = {}
    for count in range(1, MOST + 1):
        for size in SIZES:
            if count * tokens[size] <= limit:
                found.setdefault(count * tokens[size], (count, size))
    question = _shortened(QUESTION, prompts, min(plan.max_text for plan in plans))
    workloads = [Workload("text alone", Request(images=(), prompt=question, new_tokens=new_tokens))]
    for visual in _spread(sorted(found), COUNTS):
        count, size = found[visual]
        paths = tuple(str(_draw(folder, size, seed)) for seed in range(count))
        request = Request(images=paths, prompt=question, new_tokens=new_tokens)
        workloads.append(Workload(f"{visual} visual tokens", request))
    return workloads


def _spread(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of some ascending values: the first, the last, and those nearest to even steps between."""
    if len(values) <= count:
        return list(values)
    steps = np.linspace(values[0], values[-1], count)
    return sorted({min(values, key=lambda value: abs(value - step)) for step in steps})


def _shortened(text: str, prompts: PromptBuilder, limit: int) -> str:
    """The text without its last words, as many as it takes for its prompt to have at most `limit` tokens."""
    words = text.split()
    while len(words) > 1 and prompts.build(" ".join(words), []).token_ids.size > limit:
        words.pop()
    short = " ".join(words)
    if prompts.build(short, []).token_ids.size > limit:
        raise UserError(
            f"the bundles support {limit} text tokens, too few for any question: export with a larger `export.max_text`"
        )
    return short


def _draw(folder: Path, size: tuple[int, int], seed: int) -> Path:
    """An image of smooth noise, the same at every run."""
    path = folder / f"{size[0]}x{size[1]}-{seed}.png"
    if not path.exists():
        small = np.random.default_rng(seed).integers(0, 256, (size[1] // 20, size[0] // 20, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size, Image.Resampling.BILINEAR).save(path)
    return path


def _record(path: Path) -> ImageRecord:
    width, height = open_image(path).size
    return ImageRecord(name=path.name, sha256=sha256(path), width=width, height=height)
