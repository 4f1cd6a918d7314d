"""Parameters that a config ties to each other, mostly the head to the embedding: one, unless stored as two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from fastv_export.checkpoint.checkpoint import StoredTensor
from fastv_export.hf import models as hf_models

BLOCK = 8 << 20
"""Bytes of each of two tensors that are held while they are compared."""


def tie(model: Any, by_name: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Tie a model's parameters as transformers' `from_pretrained` does, before any of them has its values.

    by_name: what is stored, by the model's names. Returns those that the config ties and the checkpoint has with
    other values than their source, with that source: they stay apart.
    """
    pairs = hf_models.tied_parameters(model)
    apart = {
        target: source
        for target, source in pairs.items()
        if target in by_name and source in by_name and not same_values(by_name[target], by_name[source])
    }
    for target, source in apart.items():
        parameter = model.get_parameter(target)
        if parameter is model.get_parameter(source):  # a model that is built from its config is tied by that
            module, _, leaf = target.rpartition(".")
            made = nn.Parameter(torch.empty_like(parameter), requires_grad=False)
            model.get_submodule(module)._parameters[leaf] = made
    hf_models.tie(model, {target: source for target, source in pairs.items() if target not in apart})
    return apart


def same_values(first: StoredTensor, second: StoredTensor) -> bool:
    """Whether two stored tensors are of one shape and hold the same numbers; element types may differ."""
    if first.shape != second.shape:
        return False
    if not first.shape:
        return bool(np.array_equal(first.read(), second.read()))
    row = max(1, first.nbytes // max(1, first.shape[0]))
    step = max(1, BLOCK // row)
    return all(
        np.array_equal(first.rows(start, stop).read(), second.rows(start, stop).read())
        for start, stop in ((start, min(start + step, first.shape[0])) for start in range(0, first.shape[0], step))
    )
