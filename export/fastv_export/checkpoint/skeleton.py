"""A model without its weights: the stock module tree, and where the values of each parameter are stored."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastv_export import hf
from fastv_export.checkpoint.checkpoint import DTYPES, Checkpoint, StoredTensor
from fastv_export.checkpoint.ties import tie
from fastv_export.checkpoint.weights import CheckpointTensor, Scratch
from fastv_export.families import Family
from fastv_export.hf import models as hf_models
from fastv_runtime.config.plan import Precision
from fastv_runtime.errors import UserError


class Skeleton:
    """The stock model of a checkpoint, built in no memory, ready to be traced.

    `mode` is the fake-tensor mode that its parameters live in, as elements of `precision`; buffers (rotary frequencies,
    running statistics) are real, since they end up as constants of a graph.
    `unused` names what the checkpoint stores and the model does not know, `untied` what its config ties and the
    checkpoint stores apart.
    """

    def __init__(self, checkpoint: Checkpoint, family: Family, *, attention: str, precision: Precision = "float32"):
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._dtype, self._scratch = precision, Scratch()
        dtype = getattr(torch, precision)
        model, by_name = build_without_weights(checkpoint, family, dtype)
        hf.check_decoder(family.decoder(model))
        with self.mode:
            for module in model.modules():
                for name, parameter in module._parameters.items():
                    if parameter is not None:
                        fake = torch.empty(parameter.shape, dtype=dtype)
                        module._parameters[name] = nn.Parameter(fake, requires_grad=False)
        self.untied = tie(model, by_name)
        # The tower's attention is traced as it stands, unless the family says that it cannot be.
        hf_models.attend(family.decoder(model), attention)
        if family.tower_attention is not None:
            hf_models.attend(model, {"vision_config": family.tower_attention})
        self.model = model
        self._stored = stored_parameters(model, by_name, checkpoint)
        self.unused = _unused(model, by_name)

    @contextmanager
    def fake(self) -> Iterator[None]:
        """Tensors made inside are fake."""
        with self.mode, torch.no_grad():
            yield

    def weights(self, module: nn.Module) -> dict[str, CheckpointTensor]:
        """The values of each parameter of a module, by its name within that module."""
        return {name: self.weight(name, parameter) for name, parameter in module.named_parameters()}

    def weight(
        self, name: str, parameter: nn.Parameter, dtype: Precision | None = None, *, factor: float = 1.0
    ) -> CheckpointTensor:
        """The values of one parameter of the model, to be called `name`; `dtype` if not the skeleton's precision.

        factor: what they are multiplied by.
        """
        return CheckpointTensor(name, self._stored[id(parameter)], dtype or self._dtype, self._scratch, factor=factor)

    @property
    def dtype(self) -> torch.dtype:
        """Element type of its parameters."""
        dtype: torch.dtype = getattr(torch, self._dtype)
        return dtype

    @property
    def parameters(self) -> int:
        """How many values the model's parameters have; tied ones count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def build_without_weights(
    checkpoint: Checkpoint, family: Family, dtype: torch.dtype = torch.float32
) -> tuple[Any, dict[str, StoredTensor]]:
    """The stock model with parameters on the meta device and real buffers, and what is stored by the model's names.

    Buffers that the checkpoint stores (a batch norm's statistics, say) are of `dtype`; others (rotary frequencies)
    keep the precision that the model computes them in.
    """
    # A model keeps its config and writes the choice of attention into it: the next model must not find that there.
    config = copy.deepcopy(family.config(checkpoint))
    with torch.device("meta"):
        model: Any = family.build(config)
    by_name = family.weights(model, checkpoint)
    stored_parameters(model, by_name, checkpoint)  # before buffers, whose sizes are in memory what parameters' are not
    hf_models.compute_buffers(model)
    _read_buffers(model, by_name, checkpoint, dtype)
    return model.eval(), by_name


def stored_parameters(
    model: Any, by_name: Mapping[str, StoredTensor], checkpoint: Checkpoint
) -> dict[int, StoredTensor]:
    """The stored tensor of every parameter, by the parameter's id; tied parameters share one.

    Raises UserError that lists what is missing, misshapen or of an element type that weights cannot have.
    """
    expected = dict(model.named_parameters(remove_duplicate=False))
    stored = {id(each): _matching(by_name[name], each) for name, each in expected.items() if name in by_name}
    _check_complete([name for name, each in expected.items() if id(each) not in stored], by_name, checkpoint)
    return stored


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _read_buffers(model: Any, by_name: Mapping[str, StoredTensor], checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    """Give buffers that a checkpoint stores the values that they have there.

    Raises UserError for those that are missing or misshapen. Integers, such as counters and tables of indices, are the
    same in every checkpoint of a model: they stay as the model computes them.
    """
    persistent = model.state_dict()
    expected = {
        name: buffer for name, buffer in model.named_buffers() if name in persistent and buffer.is_floating_point()
    }
    _check_complete(expected, by_name, checkpoint)
    for name, buffer in expected.items():
        values = torch.from_numpy(_matching(by_name[name], buffer).read().astype(np.float32))
        module, _, leaf = name.rpartition(".")
        model.get_submodule(module)._buffers[leaf] = values.to(dtype)


def _matching(stored: StoredTensor, tensor: torch.Tensor) -> StoredTensor:
    if stored.dtype not in DTYPES:
        raise UserError(
            f"{stored.file}: tensor {stored.name} has dtype {stored.dtype}; known: {', '.join(DTYPES)}: "
            "convert the checkpoint to one of them"
        )
    if stored.shape != tuple(tensor.shape):
        raise UserError(
            f"{stored.file}: tensor {stored.name} is {list(stored.shape)} where the config asks for "
            f"{list(tensor.shape)}: config.json and weights do not belong together"
        )
    return stored


def _check_complete(expected: Iterable[str], by_name: Mapping[str, StoredTensor], checkpoint: Checkpoint) -> None:
    missing = [name for name in expected if name not in by_name]
    if missing:
        raise UserError(f"{checkpoint.path}: {len(missing)} tensors are missing: {listed(missing)}")


def _unused(model: Any, by_name: Mapping[str, StoredTensor]) -> list[str]:
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)} | dict(model.named_buffers()).keys()
    harmless = re.compile("|".join(hf_models.ignored_when_unexpected(model)))
    return [tensor.name for name, tensor in by_name.items() if name not in known and not harmless.search(name)]
