"""Which buffer each tensor of the decoder's graphs is, in prefill and in decode. Pure: nothing is allocated here.

Graphs are linked by sharing buffers: one graph's output is the next one's input, and a cache's past and present are
one buffer, to which the graph appends in place. In decode the suffix reads the row, the position and the deepstack
where the prefix and the caller left them, since one row needs no selection: nothing is copied between graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastv_runtime.config.base import TensorSpec
from fastv_runtime.config.bundle import GraphSpec
from fastv_runtime.config.lengths import Capacity
from fastv_runtime.errors import UserError
from fastv_runtime.memory.layout import Layout, Region, Specs

STEP = {"S": 1, "M": 1}
"""Lengths of a decoded token's run."""


@dataclass(frozen=True)
class TensorBindings:
    """One graph: buffers by the names of its tensors; `step` has those that are others in decode."""

    graph: str
    spec: GraphSpec
    names: Mapping[str, str]
    step: Mapping[str, str] = field(default_factory=dict)

    def inputs(self, layout: Layout, lengths: Mapping[str, int], *, step: bool = False) -> dict[str, Region]:
        """Where each input is, its dynamic axes cut to `lengths`. Raises ValueError past a buffer's end."""
        return self._regions(self.spec.inputs, layout, lengths, step)

    def outputs(self, layout: Layout, lengths: Mapping[str, int], *, step: bool = False) -> dict[str, Region]:
        """Where each output is, likewise. A present is at its past's place."""
        return self._regions(self.spec.outputs, layout, lengths, step)

    @property
    def cache_rows(self) -> int:
        """Keys that each layer's cache holds."""
        return next(int(tensor.shape[2]) for tensor in self.spec.inputs if tensor.name.startswith("past_"))

    def check_room(self, used: int, rows: int) -> None:
        """Raises UserError if `rows` more keys do not fit behind `used`: a graph would write past the cache's end."""
        if used + rows > self.cache_rows:
            raise UserError(
                f"the {self.graph}'s cache is full: it holds {self.cache_rows} tokens, and {used} + {rows} are asked "
                "for: export with a larger `export.max_text` or `export.max_new_tokens`"
            )

    def _regions(
        self, tensors: tuple[TensorSpec, ...], layout: Layout, lengths: Mapping[str, int], step: bool
    ) -> dict[str, Region]:
        names = {**self.names, **self.step} if step else self.names
        return {tensor.name: layout[names[tensor.name]].leading(_shape(tensor, lengths)) for tensor in tensors}


def decoder_links(graphs: Mapping[str, GraphSpec]) -> dict[str, TensorBindings]:
    """The decoder's graphs in the order in which they run: `prefix`, `select`, `suffix`, or `decoder` alone."""
    if "decoder" in graphs:
        return {"decoder": _first("decoder", graphs["decoder"], {"logits": "logits", "token": "token"})}
    select, suffix = graphs["select"], graphs["suffix"]
    deepstack = _deepstack(suffix)
    return {
        "prefix": _first("prefix", graphs["prefix"], {"hidden_out": "hidden", "scores": "scores"}),
        # select reads and writes buffers of its own tensors' names.
        "select": TensorBindings(
            "select", select, {tensor.name: tensor.name for tensor in (*select.inputs, *select.outputs)}
        ),
        "suffix": TensorBindings(
            "suffix",
            suffix,
            {
                "hidden": "pruned_hidden",
                "position_ids": "pruned_position_ids",
                "write_index": "suffix.write_index",
                "logits": "logits",
                "token": "token",
                **{name: f"pruned_{name}" for name in deepstack},
                **_caches("suffix", suffix),
            },
            step={"hidden": "hidden", "position_ids": "position_ids", **{name: name for name in deepstack}},
        ),
    }


def arena_layout(links: Mapping[str, TensorBindings], capacity: Capacity) -> Layout:
    """Room for every tensor that is linked, dynamic axes at their capacity."""
    lengths = {"S": capacity.prompt, "M": capacity.pruned}
    specs: Specs = {
        link.names[tensor.name]: (tensor.dtype, _shape(tensor, lengths))
        for link in links.values()
        for tensor in (*link.spec.inputs, *link.spec.outputs)
    }
    return Layout(specs)


def _first(graph: str, spec: GraphSpec, outputs: Mapping[str, str]) -> TensorBindings:
    """A graph that reads the prompt."""
    return TensorBindings(
        graph,
        spec,
        {
            "hidden": "prompt",
            "position_ids": "position_ids",
            "write_index": f"{graph}.write_index",
            **{name: name for name in _deepstack(spec)},
            **outputs,
            **_caches(graph, spec),
        },
    )


def _deepstack(spec: GraphSpec) -> list[str]:
    return [tensor.name for tensor in spec.inputs if tensor.name.startswith("deepstack_")]


def _caches(graph: str, spec: GraphSpec) -> dict[str, str]:
    return {
        tensor.name: f"{graph}.{tensor.name.split('_', 1)[1]}"
        for tensor in (*spec.inputs, *spec.outputs)
        if tensor.name.startswith(("past_", "present_"))
    }


def _shape(tensor: TensorSpec, lengths: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(lengths[axis] if isinstance(axis, str) else axis for axis in tensor.shape)
