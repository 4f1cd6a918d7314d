"""Few bits that are floating point: fp8 (E4M3), and nvfp4 (E2M1, a scale of E4M3 for 16 inputs).

The scale of a whole tensor is a power of two. So fp16 holds it, and the product of a value, its block's scale and its
tensor's, without rounding: a graph computes with exactly what the reference computes with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, log2
from typing import Literal, TypeVar

import torch
from jaxtyping import Float, UInt8

from fastv_export.checkpoint.weights import CheckpointTensor
from fastv_export.quantization.presets import FLOAT_BLOCK as BLOCK
from fastv_export.quantization.weights import Quantization

E4M3 = torch.float8_e4m3fn
LARGEST_E4M3 = 448.0
LARGEST_E2M1 = 6.0
LEAST = 2.0**-14
"""Of a tensor's scale: the least normal number of fp16."""
HEADROOM = {"text": 8.0, "calibration": 2.0}
"""How much larger activations may be than those that were seen. What is larger is cut off, which ruins a token; a range
of eight times as much costs three of the fifteen powers of two over which E4M3 is equally exact."""
READ = 4 << 20
"""Bytes of a stored weight that are rounded at once."""

Format = TypeVar("Format", bound="FloatQuantization")
Encoded = tuple[UInt8[torch.Tensor, "O I"], "UInt8[torch.Tensor, 'O B'] | None"]
"""Values and their blocks' scales by their bits; four bits take a byte here as well."""


@dataclass(frozen=True)
class FloatQuantization(Quantization, ABC):
    """Floating-point values with one scale for a tensor.

    Inputs are not scaled (`inputs`, `outputs` of the base): a float is as exact for small ones as for large ones.
    """

    largest: float | None = None
    """Size of the largest value of the tensor; None is that of the rows at hand."""

    def fitted(self: Format, weight: CheckpointTensor) -> Format:
        """The same for a weight, which is read to find its largest value."""
        return replace(self, largest=max(float(rows.abs().max()) for _, rows in weight.rows(READ)))

    def encoded(self, weight: CheckpointTensor) -> Iterator[tuple[int, Encoded]]:
        """(first output, its encoding) of blocks of an even number of outputs."""
        for start, rows in weight.rows(READ):
            yield start, self.encode(rows.float())

    @abstractmethod
    def encode(self, rows: Float[torch.Tensor, "O I"]) -> Encoded:
        """Values and scales by their bits."""

    def tensor_scale(self, rows: Float[torch.Tensor, "O I"] | None = None) -> float:
        """The power of two that the tensor's values are divided by; `rows` where `largest` is None."""
        largest = self.largest
        if largest is None:
            assert rows is not None
            largest = float(rows.abs().max())
        return max(LEAST, 2.0 ** ceil(log2(largest / self._reach))) if largest else LEAST

    @property
    @abstractmethod
    def _reach(self) -> float:
        """The largest value that is represented when the scale is 1."""


@dataclass(frozen=True)
class Fp8(FloatQuantization):
    """E4M3: three bits of mantissa from 2^-6 to 448, subnormal below.

    One scale for a tensor, though a graph could have one for an output: outputs would differ in exactness only where
    one is 2^-14 of another; and TensorRT-RTX 1.7 writes fp8 sums in fp16 before it multiplies them by scales of
    outputs, where they overflow. A single scale it applies to the sums while they are fp32.
    """

    bits: Literal[4, 8] = 8
    block: int | None = None

    def encode(self, rows: Float[torch.Tensor, "O I"]) -> Encoded:
        return self._values(rows).view(torch.uint8), None

    def rounded(
        self, rows: Float[torch.Tensor, "O I"], dtype: torch.dtype = torch.float16
    ) -> Float[torch.Tensor, "O I"]:
        """What a graph computes with, in fp32. Values that are beyond the range become its ends."""
        return self._values(rows).float().mul_(self.tensor_scale(rows))

    def _values(self, rows: Float[torch.Tensor, "O I"]) -> torch.Tensor:
        scaled = rows.float() / self.tensor_scale(rows)
        return scaled.clamp_(-LARGEST_E4M3, LARGEST_E4M3).to(E4M3)

    @property
    def _reach(self) -> float:
        return LARGEST_E4M3


@dataclass(frozen=True)
class Nvfp4(FloatQuantization):
    """E2M1 (0, 0.5, 1, 1.5, 2, 3, 4, 6) times an E4M3 for a block of inputs times a power of two for the tensor."""

    bits: Literal[4, 8] = 4
    block: int | None = BLOCK

    def encode(self, rows: Float[torch.Tensor, "O I"]) -> Encoded:
        values, scales = self._values(rows)
        size = values.abs()
        codes = torch.where(size < 2, 2 * size, torch.where(size < 4, size + 2, size / 2 + 4)).to(torch.uint8)
        codes |= torch.signbit(values).to(torch.uint8) << 3
        return codes.reshape(rows.shape), scales.view(torch.uint8)

    def rounded(
        self, rows: Float[torch.Tensor, "O I"], dtype: torch.dtype = torch.float16
    ) -> Float[torch.Tensor, "O I"]:
        """What a graph computes with, in fp32. Values that are beyond the range become its ends."""
        values, scales = self._values(rows)
        return values.mul_(scales.float().mul_(self.tensor_scale(rows))[..., None]).reshape(rows.shape)

    def _values(self, rows: Float[torch.Tensor, "O I"]) -> tuple[torch.Tensor, torch.Tensor]:
        """Values of E2M1 [O, B, 16] in fp32, and scales of E4M3 [O, B]."""
        blocks = rows.float().unflatten(-1, (-1, BLOCK))
        scale = self.tensor_scale(rows)
        # The largest becomes 6. Other divisors leave less square error, and a worse model (docs/precision.md).
        scales = (blocks.abs().amax(-1) / (LARGEST_E2M1 * scale)).clamp_max_(LARGEST_E4M3).to(E4M3)
        # A block that is too small for any scale becomes zeros.
        divisors = scales.float().mul_(scale)[..., None]
        return e2m1(torch.where(divisors == 0, 0.0, blocks / divisors)), scales

    @property
    def _reach(self) -> float:
        return LARGEST_E2M1 * LARGEST_E4M3


def e2m1(values: Float[torch.Tensor, "*shape"]) -> Float[torch.Tensor, "*shape"]:
    """The nearest E2M1, ties to the even; values beyond 6 become 6. In place."""
    values.clamp_(-LARGEST_E2M1, LARGEST_E2M1)
    size = values.abs()
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return values.div_(step).round_().mul_(step)
