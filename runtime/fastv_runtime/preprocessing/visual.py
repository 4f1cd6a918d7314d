"""One image or video, ready for the graphs: what all layouts come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class GraphRun:
    """Placeholder tokens that follow each other in the prompt.

    `grid` is (time, rows, columns) in visual tokens where positions depend on it (M-RoPE); `interval` is the step of
    its time axis.
    """

    tokens: int
    grid: tuple[int, int, int] | None = None
    interval: float = 1.0


@dataclass(frozen=True)
class Pack:
    """Which features make a visual token: row i is the sum over j of weight[i, j] * features[index[i, j]].

    Index R, one past the last feature, is the model's newline embedding.
    """

    index: Int[np.ndarray, "N taps"]
    weight: Float[np.ndarray, "N taps"]


@dataclass(frozen=True)
class View:
    """An image as the model saw it, and which visual token stands for each cell of a grid over it; -1 is none."""

    image: Image.Image
    tokens: Int[np.ndarray, "rows columns"]


@dataclass(frozen=True)
class Piece:
    """What one run of a vision graph takes, and the rows of features that it makes."""

    inputs: dict[str, np.ndarray]
    rows: int


@dataclass(frozen=True)
class Visual:
    """One image or video.

    pieces: one per run of the vision graph; their features follow each other.
    text: what stands in the prompt for it: text, and runs of placeholder tokens.
    views: draws nothing until it is called; token numbers count this visual's own tokens.
    """

    kind: Literal["image", "video"]
    graph: str
    pieces: tuple[Piece, ...]
    text: tuple[str | GraphRun, ...]
    views: Callable[[], list[View]]
    pack: Pack | None = None

    @property
    def runs(self) -> tuple[GraphRun, ...]:
        return tuple(part for part in self.text if isinstance(part, GraphRun))

    @property
    def tokens(self) -> int:
        """Visual tokens in the prompt."""
        return sum(run.tokens for run in self.runs)

    @property
    def frame_tokens(self) -> int:
        """Of a video, visual tokens of one frame, or of the frames that share a time step; 0 of an image.

        Each is one piece. A newline that ends the video is of none of them.
        """
        return self.tokens // len(self.pieces) if self.kind == "video" else 0
