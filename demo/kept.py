"""The image of kept tokens in the README: one question, three shares kept. `python demo/kept.py`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image

from fastv_export.export import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_runtime import Pipeline
from fastv_runtime.generation.kept_image import save_image
from fastv_runtime.preprocessing.images.loading import open_image

HERE = Path(__file__).resolve().parent
IMAGE, QUESTION = "scene3.png", "Tell me about the white object."
GAP = 16


def main() -> None:
    image = open_image(HERE / "images" / IMAGE)
    panels = []
    with tempfile.TemporaryDirectory() as scratch:
        for keep in (0.5, 0.25, 0.1):
            bundle = Path(scratch) / f"{keep}.fastv"
            export_bundle(HERE / "checkpoint", bundle, Options(keep=keep), Progress(None))
            pipeline = Pipeline.load(bundle)
            generation = pipeline.stream([image], QUESTION)
            list(generation)
            answer = generation.answer
            print(f"keep {keep}: {len(answer.kept_visual_tokens)} of {answer.visual_tokens},{answer.text}")
            panels.append(generation.draw_kept())
    size = panels[0].width
    sheet = Image.new("RGB", (len(panels) * (size + GAP) - GAP, size), "white")
    for index, panel in enumerate(panels):
        sheet.paste(panel, (index * (size + GAP), 0))
    save_image(sheet, HERE.parent / "docs" / "kept.png")


if __name__ == "__main__":
    main()
