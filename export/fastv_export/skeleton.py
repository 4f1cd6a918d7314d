"""A model without its weights: the stock module tree with fake parameters, and where each one is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastv_export.checkpoint import Checkpoint, StoredTensor
from fastv_export.families import Family
from fastv_runtime.errors import UserError


class Skeleton:
    """The stock model of a checkpoint, built in no memory.

    `mode` is the fake-tensor mode that its parameters live in; buffers (rotary frequencies, running statistics) are
    real, since they end up as constants of a graph.
    """

    def __init__(self, checkpoint: Checkpoint, family: Family, *, attention: str):
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        with torch.device("meta"):
            model: Any = family.build(family.config(checkpoint))
        by_name = family.weights(model, checkpoint)
        _make_buffers_real(model)
        _read_buffers(model, by_name, checkpoint)
        with self.mode:
            for module in model.modules():
                for name, parameter in module._parameters.items():
                    if parameter is not None:
                        fake = torch.empty(parameter.shape, dtype=torch.float32)
                        module._parameters[name] = nn.Parameter(fake, requires_grad=False)
        model.tie_weights()
        # The tower's attention is traced as it stands, unless the family says that it cannot be.
        family.decoder(model).set_attn_implementation(attention)
        if family.tower_attention is not None:
            model.set_attn_implementation({"vision_config": family.tower_attention})
        self.model = model.eval()
        self._stored = stored_parameters(model, by_name, checkpoint)

    @contextmanager
    def fake(self) -> Iterator[None]:
        """Tensors made inside are fake."""
        with self.mode, torch.no_grad():
            yield

    def stored(self, module: nn.Module) -> dict[str, StoredTensor]:
        """Where each parameter of a module lies, by its name within that module."""
        return {name: self._stored[id(parameter)] for name, parameter in module.named_parameters()}

    def stored_parameter(self, parameter: nn.Parameter) -> StoredTensor:
        """Where one parameter of the model lies."""
        return self._stored[id(parameter)]


def _make_buffers_real(model: Any) -> None:
    """Give buffers the values that the model computes for them: building on the meta device lost them."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")
    model.initialize_weights()


def _read_buffers(model: Any, by_name: Mapping[str, StoredTensor], checkpoint: Checkpoint) -> None:
    """Give buffers that a checkpoint stores (a batch norm's statistics, say) the values that they have there.

    Raises UserError for those that are missing or misshapen. Integers, such as counters and tables of indices, are the
    same in every checkpoint of a model: they stay as the model computes them.
    """
    persistent = model.state_dict()
    expected = {
        name: buffer for name, buffer in model.named_buffers() if name in persistent and buffer.is_floating_point()
    }
    _check_complete(expected, by_name, checkpoint)
    for name, buffer in expected.items():
        buffer.copy_(torch.from_numpy(_matching(by_name[name], buffer).read().astype(np.float32)))


def stored_parameters(
    model: Any, by_name: Mapping[str, StoredTensor], checkpoint: Checkpoint
) -> dict[int, StoredTensor]:
    """The stored tensor of every parameter, by the parameter's id; tied parameters share one.

    Raises UserError that lists what is missing or misshapen.
    """
    expected = dict(model.named_parameters(remove_duplicate=False))
    stored = {id(each): _matching(by_name[name], each) for name, each in expected.items() if name in by_name}
    _check_complete([name for name, each in expected.items() if id(each) not in stored], by_name, checkpoint)
    return stored


def _matching(stored: StoredTensor, tensor: torch.Tensor) -> StoredTensor:
    if stored.shape != tuple(tensor.shape):
        raise UserError(
            f"{stored.file}: tensor {stored.name} is {list(stored.shape)} where the config asks for "
            f"{list(tensor.shape)}: config.json and weights do not belong together"
        )
    return stored


def _check_complete(expected: Iterable[str], by_name: Mapping[str, StoredTensor], checkpoint: Checkpoint) -> None:
    missing = [name for name in expected if name not in by_name]
    if missing:
        listed = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise UserError(f"{checkpoint.path}: {len(missing)} tensors are missing: {listed}")
