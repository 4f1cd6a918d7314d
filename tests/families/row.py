"""What the parity test must know of a family: how a tiny checkpoint is written, and what to ask of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from fastv_runtime.preprocessing.videos.decoding import Video

Size = tuple[int, int]


def stock_inputs(path: Path, images: list[Image.Image], question: str) -> dict[str, Any]:
    """What transformers' own processor makes of images and a question."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    content = [{"type": "image"}] * len(images) + [{"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return dict(processor(images=images, text=text, return_tensors="pt", add_special_tokens=False))


def noise_video(seed: int, size: Size, count: int) -> Video:
    """A video of which every third frame is sampled, `count` in all, two a second."""
    from fastv_runtime.preprocessing.videos.decoding import Video
    from tests.conftest import noise_image

    frames = tuple(noise_image(1000 + 100 * seed + index, size) for index in range(count))
    times = tuple(index / 2 for index in range(count))
    total = 3 * count - 2
    return Video(frames, tuple(range(0, total, 3)), times, total=total, duration=total / 6, fps=6.0, notes=())


@dataclass(frozen=True)
class Row:
    """One line of the table.

    write: writes a tiny random checkpoint into a directory. cases: the sizes (width, height) of the images of each
    prompt; at least two, that differ in size or number where the family is dynamic. inputs: what the stock model's
    `generate` takes, from the checkpoint, the images and the question.

    videos: for each case how many frames its video has, 0 for images; a video's case names one size, of its frames.
    video_inputs: what `generate` takes for a video; composed in the row, since transformers' own video processors need
    torchvision.
    """

    model_type: str
    write: Callable[[Path], Any]
    cases: tuple[tuple[Size, ...], ...]
    inputs: Callable[[Path, list[Image.Image], str], dict[str, Any]] = stock_inputs
    videos: tuple[int, ...] = ()
    video_inputs: Callable[[Path, Video, str], dict[str, Any]] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    """Tells apart rows of one family."""

    def __str__(self) -> str:
        return self.name or self.model_type
