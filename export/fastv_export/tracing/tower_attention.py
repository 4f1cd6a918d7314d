"""Attention of towers that take images of any size: one ONNX `Attention` over a whole image, or over its windows.

transformers cuts such a tower's sequence at boundaries that it reads from a tensor, a loop that no graph can hold; its
own exporter unrolls the windows of the example and is wrong for every other image. Only implementations whose name
contains "flash" are handed the boundaries uncut, whatever object they are: that is where `Windows` comes in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from fastv_export.hf import BOUNDARIES, Attention, register_attention

IMPLEMENTATION = "fastv_onnx_flash"
"""Name in transformers' registry."""

WHOLE = ()
"""Stands for the boundaries where everything in a run of the graph attends to everything."""


@dataclass(frozen=True)
class Windows:
    """Stands for the boundaries of windows: their rows, padded to one size, and back.

    Each window is an element of the batch, so that attention costs what the windows have, not the whole squared.
    """

    slots: Int[torch.Tensor, "W size"]
    """The row in each place of each window; -1 where a ragged window has none."""
    places: Int[torch.Tensor, " P"]
    """The place of each row, counted through all windows."""


def tower_attention(attention: Attention) -> Float[torch.Tensor, "1 P H Dh"]:
    """Boundaries are what the family's `encode` gave as such."""
    query, key, value, scaling = attention.query, attention.key, attention.value, attention.scaling
    windows = attention.boundaries
    if not isinstance(windows, Windows):
        return torch.onnx.ops.attention(query, key, value, scale=scaling)[0].transpose(1, 2)
    count, size = windows.slots.shape
    # An empty place holds the first row, as TensorRT's GatherND does not count from the end. The mask hides it.
    # maximum, since TensorRT's Clip takes no integers.
    slots = torch.maximum(windows.slots, torch.zeros_like(windows.slots))

    def split(rows: torch.Tensor) -> Float[torch.Tensor, "W H size Dh"]:
        return rows[0].transpose(0, 1)[slots].transpose(1, 2)

    mask = (windows.slots >= 0)[:, None, None, :].expand(count, 1, size, size)
    output = torch.onnx.ops.attention(split(query), split(key), split(value), mask, scale=scaling)[0]
    joined = output.transpose(1, 2).reshape(count * size, query.shape[1], query.shape[3])
    return joined[windows.places][None]


def register() -> None:
    """Make the implementation known to transformers."""
    register_attention(IMPLEMENTATION, tower_attention, known=BOUNDARIES)
