"""How much of a video is new: each visual token beside that in its place one frame before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastv_runtime.memory.buffers import Buffer
from fastv_runtime.preprocessing.visual import Visual

if TYPE_CHECKING:
    from jaxtyping import Float

LEAST = 1e-6
"""Shorter features have no direction."""


def prompt_change(
    prompt: Buffer, visuals: Sequence[Visual], starts: Sequence[Sequence[int]], length: int
) -> Float[np.ndarray, " S"]:
    """The signal `change` of a prompt of `length` tokens, in fp32: 1 wherever nothing came before, 0 for text.

    prompt: its embedded tokens, features among them. starts: the first row of every run of every visual.
    """
    change = np.zeros(length, np.float32)
    for visual, first in zip(visuals, starts, strict=True):
        runs = [(start, start + run.tokens) for start, run in zip(first, visual.runs, strict=True)]
        places = np.concatenate([np.arange(*run) for run in runs])
        change[places] = 1
        if visual.frame_tokens:
            # From a device this waits for the tower: where it runs, one copy a run of tokens.
            features = np.concatenate([prompt.rows(*run).numbers() for run in runs])
            change[places] = frame_change(features, visual.frame_tokens)
    return change


def frame_change(features: Float[np.ndarray, "N D"], frame_tokens: int) -> Float[np.ndarray, " N"]:
    """1 - cosine of each token's features to those of the token in its place one frame before, in fp32.

    1 for the first frame, and for what is left after the last whole one: a newline.
    """
    change = np.ones(len(features), np.float32)
    frames = len(features) // frame_tokens
    wide = features[: frames * frame_tokens].astype(np.float32).reshape(frames, frame_tokens, -1)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=2, keepdims=True), LEAST)
    new = 1 - (unit[1:] * unit[:-1]).sum(axis=2)
    change[frame_tokens : frames * frame_tokens] = new.reshape(-1)
    return change
