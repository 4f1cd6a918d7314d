"""Activations for tests of weights of few bits: some inputs larger than others, as in real models."""

from __future__ import annotations

import torch

from fastv_export.quantization.activations import Activation

WIDTHS = {"self_attn.q_proj": 64, "self_attn.o_proj": 64, "mlp.gate_proj": 64, "mlp.down_proj": 128}
"""Of the inputs of `tiny.write_tiny_llava`."""


def activation_of(rows: torch.Tensor) -> Activation:
    """What a calibration would say of rows [n, inputs] of one size."""
    low, high = torch.aminmax(rows)
    size = rows.abs()
    square = rows.square().mean(0)
    return Activation(rows.mean(0), size.mean(0), square, size.amax(0), float(low), float(high), square)


def tiny_activations(layers: int) -> dict[str, Activation]:
    """Of every product of a tiny LLaVA with so many layers."""
    generator = torch.Generator().manual_seed(0)
    widths = {f"layers.{layer}.{name}": width for layer in range(layers) for name, width in WIDTHS.items()}
    return {
        name: activation_of(
            torch.randn(50, width, generator=generator) * torch.rand(width, generator=generator) ** 4 * 9
        )
        for name, width in (widths | {"head": 64}).items()
    }
