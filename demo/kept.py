"""The image of kept tokens in the README: one question, with all tokens and with ever fewer. `python demo/kept.py`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_runtime import Pipeline
from fastv_runtime.generation.kept_image import save_image
from fastv_runtime.preprocessing.images.loading import open_image

HERE = Path(__file__).resolve().parent
IMAGE, QUESTION = "scene3.png", "Tell me about the white object."
PLANS = [Options(prune=False), *(Options(layer=2, keep=keep) for keep in (0.5, 0.25, 0.1))]
GAP = 24
GROUND, INK, QUIET = "#f5f6f8", "#1b1f24", "#5d6673"
SIZE = 32
"""Of the text: the image is shown less than half as wide as it is."""
LINE = 44


@dataclass(frozen=True)
class Panel:
    """One plan: what it kept, how it is called, what was answered."""

    image: Image.Image
    title: str
    answer: str


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        panels = [ask(options, Path(scratch) / f"{index}.fastv") for index, options in enumerate(PLANS)]
    save_image(sheet(panels), HERE.parent / "docs" / "kept.png")


def ask(options: Options, bundle: Path) -> Panel:
    """Export the demo checkpoint to `bundle` and answer the question with it."""
    export_bundle(HERE / "checkpoint", bundle, options, Progress(None))
    generation = Pipeline.load(bundle).stream([open_image(HERE / "images" / IMAGE)], QUESTION)
    list(generation)
    answer = generation.answer
    kept = f"{len(answer.kept_visual_tokens)} of {answer.visual_tokens}"
    title = f"keep {options.keep:.0%}: {kept}" if options.prune else f"all {answer.visual_tokens} visual tokens"
    print(f"{title},{answer.text}")
    return Panel(generation.draw_kept(), title, answer.text.strip())


def sheet(panels: list[Panel]) -> Image.Image:
    """The panels in a row, the question above them, title and answer below each."""
    side = panels[0].image.width
    top = GAP + LINE + GAP // 2
    size = (len(panels) * (side + GAP) + GAP, top + panels[0].image.height + 2 * LINE + GAP)
    drawn = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(SIZE)
    draw.text((GAP, GAP), f"“{QUESTION}”", INK, font)
    for index, panel in enumerate(panels):
        left, below = GAP + index * (side + GAP), top + panel.image.height + GAP // 2
        drawn.paste(panel.image, (left, top))
        draw.text((left, below), panel.title, INK, font)
        draw.text((left, below + LINE), panel.answer, QUIET, font)
    return drawn


if __name__ == "__main__":
    main()
