"""A change of low rank to every linear layer of the decoder: W becomes W + up @ down (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

RANK = 16


class Factors(nn.Module):
    """What is trained of one layer: down [rank, in] and up [out, rank], fp32; at first their product is zero."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, base.in_features) * (3 * base.in_features) ** -0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))


class LowRank(nn.Module):
    """A linear layer that stays as it is, plus its factors' product."""

    def __init__(self, base: nn.Linear, rank: int = RANK) -> None:
        super().__init__()
        self.base = base
        self.factors = Factors(base, rank)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + linear(linear(x, self.factors.down), self.factors.up)  # type: ignore[no-any-return]


def attach(decoder: nn.Module, rank: int = RANK) -> dict[str, Factors]:
    """Put factors on every linear layer of `decoder`, in place; returns them by the layers' names."""
    found: dict[str, Factors] = {}
    for name, module in list(decoder.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, own = name.rpartition(".")
            wrapped = LowRank(module, rank)
            setattr(decoder.get_submodule(parent), own, wrapped)
            found[name] = wrapped.factors
    return found


@torch.no_grad()
def merge(decoder: nn.Module, factors: dict[str, Tensor]) -> None:
    """Add the change to the weights of a decoder without factors: `factors` holds NAME.down and NAME.up by layer."""
    names = {name.rpartition(".")[0] for name in factors}
    linears = {name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    if names != linears:
        raise ValueError(f"factors for other layers than the decoder's: {sorted(names ^ linears)[:3]}")
    for name in names:
        weight = decoder.get_parameter(f"{name}.weight")
        weight.add_((factors[f"{name}.up"].float() @ factors[f"{name}.down"].float()).to(weight.dtype))
