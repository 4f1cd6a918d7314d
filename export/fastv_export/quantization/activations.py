"""What the products of a decoder are given, as fastv-calibrate saw it: a file beside its calibration.json.

Tensors of `NAME.activations.safetensors`: PRODUCT.mean, .mean_abs, .mean_square, .max_abs, .typical_square, fp32
[inputs], and .range, fp32 [2], over rows as they are. So a few tokens that are a thousand times larger than the others
decide much, and should: on SmolLM2-135M four bits that are fitted so add half as much to a text's log-likelihood as
where each row counts alike. Typical squares alone are of rows that are brought to one size first, the geometric mean of
their root mean squares, which a few large rows hardly move: so they tell of an ordinary row.
PRODUCT is a linear layer by its name in the decoder (layers.3.mlp.down_proj) or `head`; of layers that share their
input the one that runs first (q_proj for queries, keys and values; gate_proj for gate and up).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file

from fastv_runtime.config.bundle import sha256
from fastv_runtime.errors import UserError


@dataclass(frozen=True)
class Activation:
    """One product's input over all rows; see above."""

    mean: Float[torch.Tensor, " I"]
    mean_abs: Float[torch.Tensor, " I"]
    mean_square: Float[torch.Tensor, " I"]
    max_abs: Float[torch.Tensor, " I"]
    low: float
    high: float
    typical_square: Float[torch.Tensor, " I"]


def sidecar_of(calibration: Path) -> Path:
    """Where the activations of a calibration lie."""
    return calibration.with_suffix(".activations.safetensors")


def read_activations(path: Path, digest: str) -> dict[str, Activation]:
    """Activations by product. UserError if the file is missing, or not the one whose sha256 is `digest`."""
    if not path.is_file():
        raise UserError(f"{path}: missing: fastv-calibrate wrote it beside its output: keep the two together")
    if sha256(path) != digest:
        raise UserError(f"{path}: is not of this calibration, its sha256 differs: run fastv-calibrate again")
    return activations_of(load_file(path))


def activations_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Activation]:
    """Activations by product, of such tensors."""
    names = [name.removesuffix(".range") for name in tensors if name.endswith(".range")]
    return {
        name: Activation(
            mean=tensors[f"{name}.mean"],
            mean_abs=tensors[f"{name}.mean_abs"],
            mean_square=tensors[f"{name}.mean_square"],
            max_abs=tensors[f"{name}.max_abs"],
            low=float(tensors[f"{name}.range"][0]),
            high=float(tensors[f"{name}.range"][1]),
            typical_square=tensors[f"{name}.typical_square"],
        )
        for name in names
    }
