"""Products whose inputs are divided by a scale, at no cost: the division moves into the weights before them.

Into the norm that makes the inputs; for `down` into the outputs of `up`; for the attention's output into those of the
values, and so into their cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import onnx_ir as ir
import torch
from jaxtyping import Float

from fastv_export.checkpoint.weights import CheckpointTensor
from fastv_export.quantization.activations import Activation
from fastv_export.quantization.scaling import Method, Scale, activation_aware
from fastv_export.quantization.weights import Quantization

QuantizationOf = Callable[[str], "Quantization | None"]
Supports = Callable[[str, Activation, "Scale | None"], bool]
"""Whether what a product is given, divided by a scale, supports one range for all rows; by its initializer's name."""


@dataclass
class ScaledInputs:
    """What came of it."""

    unscaled: QuantizationOf
    roundings: dict[str, Quantization] = field(default_factory=dict)
    """Of weights that have a scale, by their initializers' names."""
    caches: dict[str, Float[torch.Tensor, "Hkv 1 Dh"]] = field(default_factory=dict)
    """What values are divided by in a cache, by the name of its output (present_value_3)."""
    ranges: dict[str, float] = field(default_factory=dict)
    """The largest size of what products are given, divided, by that value's name."""
    scaled: int = 0
    """Products with one input count as one: those that have a scale."""
    plain: int = 0
    """Those that are as well off without."""
    stuck: int = 0
    """Those before which nothing takes a division."""
    wide: list[str] = field(default_factory=list)
    """Those that support no range, by the name of their first weight."""

    def quantization_of(self, name: str) -> Quantization | None:
        """For `quantize_weights`: by an initializer's name."""
        return self.roundings.get(name) or self.unscaled(name)

    def limit(self, rows: ir.Value, name: str, activation: Activation, scale: Scale | None, supports: Supports) -> bool:
        """Note the range of rows divided by a scale, if they support one; returns whether they do."""
        if not supports(name, activation, scale):
            self.wide.append(name)
            return False
        sizes = activation.max_abs if scale is None else activation.max_abs / scale
        self.ranges[_name(rows)] = float(sizes.max())
        return True


def scale_inputs(
    model: ir.Model,
    quantization_of: QuantizationOf,
    activation_of: Callable[[str], Activation | None],
    method: Method,
    supports: Supports = lambda name, activation, scale: True,
) -> ScaledInputs:
    """Divide inputs in place; the weights are left to `quantize_weights`, with the `quantization_of` that is returned.

    quantization_of, activation_of: by an initializer's name. Products without an activation stay as they are.
    supports: where it says no, products get no range, and a scale for their weights alone.
    """
    result = ScaledInputs(quantization_of)
    groups: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        if node.op_type == "MatMul" and _tensor(node.inputs[1]) is not None:
            groups.setdefault(_value(node.inputs[0]), []).append(node)
    for rows, products in groups.items():
        names = [_name(node.inputs[1]) for node in products]
        activation = next(filter(None, map(activation_of, names)), None)
        group = {
            name: rounded
            for name, node in zip(names, products, strict=True)
            if (rounded := _rounded(node, quantization_of))
        }
        if activation is None or not group:
            continue
        for name, (_, rounding) in group.items():
            # With what `divide` may have said of its outputs before.
            known = result.roundings.get(name, rounding)
            result.roundings[name] = replace(known, importance=activation.mean_square)
        group = {name: (tensor, result.roundings[name]) for name, (tensor, _) in group.items()}
        source = _source(rows, len(activation.mean), quantization_of) if len(rows.uses()) == len(group) else None
        if source is None:
            result.stuck += 1
            result.limit(rows, names[0], activation, None, supports)
            continue
        scale = method(list(group.values()), activation, source.tie)
        if not result.limit(rows, names[0], activation, scale, supports):
            scale = activation_aware(list(group.values()), activation, source.tie)
        if scale is None:
            result.plain += 1
            continue
        result.scaled += 1
        for name, (_, rounding) in group.items():
            result.roundings[name] = replace(rounding, inputs=scale)
        source.divide(scale, result)
    return result


@dataclass(frozen=True)
class _Source:
    """What makes the inputs of linear layers, and is divided in their stead."""

    vectors: tuple[ir.Value, ...]
    """A norm's weight, or a bias."""
    weight: str | None = None
    """A product's, whose outputs are divided."""
    cache: ir.Value | None = None
    """Of values, whose heads may each serve several heads of queries."""
    heads: tuple[int, int, int] | None = None
    """Heads of values, heads of queries for each, width: as the products' inputs are laid out."""

    def tie(self, sizes: Scale) -> Scale:
        """Inputs that one output of the source makes get their mean."""
        if self.heads is None:
            return sizes
        return sizes.reshape(self.heads).mean(1, keepdim=True).expand(self.heads).reshape(-1)

    def divide(self, scale: Scale, result: ScaledInputs) -> None:
        """Of what the products are given, `scale` is divided off."""
        divisor = scale if self.heads is None else scale.reshape(self.heads)[:, :1]
        for vector in self.vectors:
            vector.const_value = _divided(vector.const_value, divisor.reshape(-1))
        if self.weight is not None:
            rounding = result.quantization_of(self.weight)
            assert rounding is not None
            result.roundings[self.weight] = replace(rounding, outputs=divisor.reshape(-1))
        if self.cache is not None:
            result.caches[_name(self.cache)] = divisor


def _source(rows: ir.Value, inputs: int, quantization_of: QuantizationOf) -> _Source | None:
    node = rows.producer()
    if node is not None and node.op_type == "Mul":
        for each in map(_value, node.inputs):
            if _is_vector(each):
                return _Source((each,))  # a norm
            found = _product(each, quantization_of)
            if found is not None:
                return found  # gate(x) * up(x)
    before = _through(rows, "Slice", "Reshape", "Transpose")
    attention = before.producer()
    if attention is None or attention.op_type != "Attention" or len(before.uses()) != 1:
        return None
    cache = _value(attention.inputs[2])
    scatter = cache.producer()
    if scatter is None or scatter.op_type != "TensorScatter" or len(cache.uses()) != 1 or cache.shape is None:
        return None
    values = _value(scatter.inputs[1])
    found = _product(_through(values, "Reshape", "Transpose"), quantization_of)
    if found is None or len(values.uses()) != 1:
        return None
    _, heads, _, width = map(int, cache.shape.numpy())
    return replace(found, cache=cache, heads=(heads, inputs // (heads * width), width))


def _product(value: ir.Value, quantization_of: QuantizationOf) -> _Source | None:
    """A product with a weight that is rounded, and perhaps a bias, if nothing else reads what it makes."""
    vectors: tuple[ir.Value, ...] = ()
    node = value.producer()
    if node is not None and node.op_type == "Add" and len(value.uses()) == 1:
        vectors = tuple(filter(_is_vector, map(_value, node.inputs)))
        others = [each for each in map(_value, node.inputs) if each not in vectors]
        if len(vectors) != 1:
            return None
        value, node = others[0], others[0].producer()
    if node is None or node.op_type != "MatMul" or len(value.uses()) != 1 or len(_value(node.inputs[1]).uses()) != 1:
        return None
    return None if _rounded(node, quantization_of) is None else _Source(vectors, _name(node.inputs[1]))


def _through(value: ir.Value, *kinds: str) -> ir.Value:
    """What a value was before operators that move its elements about and are its only readers."""
    node = value.producer()
    while node is not None and node.op_type in kinds and len(_value(node.inputs[0]).uses()) == 1:
        value = _value(node.inputs[0])
        node = value.producer()
    return value


def _is_vector(value: ir.Value) -> bool:
    tensor = _tensor(value)
    return tensor is not None and len(tensor.shape) == 1 and len(value.uses()) == 1


def _divided(tensor: ir.TensorProtocol | None, divisor: Float[torch.Tensor, " n"]) -> ir.LazyTensor:
    assert isinstance(tensor, CheckpointTensor)

    def read() -> ir.TensorProtocol:
        values = torch.cat([rows.float() for _, rows in tensor.rows()]) / divisor
        array = values.to(tensor.torch_dtype).view(torch.uint8).numpy().view(tensor.dtype.numpy())
        return ir.Tensor(array, name=tensor.name)

    return ir.LazyTensor(read, tensor.dtype, tensor.shape, name=tensor.name)


def _rounded(product: ir.Node, quantization_of: QuantizationOf) -> tuple[CheckpointTensor, Quantization] | None:
    """The weight of a MatMul and its rounding, if it is rounded."""
    tensor, rounding = _tensor(product.inputs[1]), quantization_of(_name(product.inputs[1]))
    return (tensor, rounding) if tensor is not None and rounding is not None and rounding.fits(tensor) else None


def _tensor(value: ir.Value | None) -> CheckpointTensor | None:
    tensor = None if value is None else value.const_value
    return tensor if isinstance(tensor, CheckpointTensor) else None


def _value(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value


def _name(value: ir.Value | None) -> str:
    return str(_value(value).name)
