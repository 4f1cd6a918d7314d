"""Put one value in another's place."""

from __future__ import annotations

import onnx_ir as ir


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let `new` be everything that `old` was: name, type and shape, a graph output included."""
    new.type, new.shape = old.type, old.shape
    name, old.name = old.name, None
    new.name = name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
