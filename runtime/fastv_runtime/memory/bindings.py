"""Which buffer each tensor of the decoder's graphs is, in prefill and in decode. Pure: nothing is allocated here.

Graphs are linked by sharing buffers: one graph's output is the next one's input, and a cache's past and present are
one buffer, to which the graph appends in place. In decode a stage reads the row, the position and the deepstack where
the stage before and the caller left them, since one row needs no selection: nothing is copied between graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastv_runtime.config.base import TensorSpec
from fastv_runtime.config.bundle import GraphSpec
from fastv_runtime.config.lengths import Capacity
from fastv_runtime.config.plan import Plan, numbered
from fastv_runtime.errors import UserError
from fastv_runtime.memory.layout import Layout, Region, Specs

RESULTS = ("logits", "token")
"""What the last graph makes."""


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


def decoder_links(graphs: Mapping[str, GraphSpec], plan: Plan) -> dict[str, TensorBindings]:
    """The decoder's graphs in the order in which they run: `prefix`, `select`, ..., `suffix`, or `decoder` alone."""
    links: dict[str, TensorBindings] = {}
    for stage in plan.stages:
        if stage.select is not None:
            links[stage.select] = _select(stage.select, graphs[stage.select], stage.index)
        links[stage.graph] = _layers(stage.graph, graphs[stage.graph], stage.index)
    return links


def stage_buffer(name: str, index: int) -> str:
    """The buffer of what stage `index` makes for the cut behind it: `hidden`, `scores`, then `hidden_2`, ..."""
    return numbered(name, index + 1)


def pruned_buffer(name: str, index: int) -> str:
    """The buffer of what cut `index` (1, 2, ...) left of a row's tensor: `pruned_hidden`, then `pruned_hidden_2`, ...

    0: of the prompt, which nothing was cut from.
    """
    return name if index == 0 else numbered(f"pruned_{name}", index)


def _layers(graph: str, spec: GraphSpec, index: int) -> TensorBindings:
    """A graph of decoder layers. In decode it reads what the stage before made of the one row, unselected."""
    rows = ("position_ids", *_deepstack(spec))
    return TensorBindings(
        graph,
        spec,
        {
            "hidden": "prompt" if index == 0 else pruned_buffer("hidden", index),
            "write_index": f"{graph}.write_index",
            **{name: pruned_buffer(name, index) for name in rows},
            **{
                tensor.name: stage_buffer("hidden" if tensor.name == "hidden_out" else tensor.name, index)
                for tensor in spec.outputs
                if tensor.name not in RESULTS and not tensor.name.startswith("present_")
            },
            **{name: name for name in RESULTS if any(tensor.name == name for tensor in spec.outputs)},
            **_caches(graph, spec),
        },
        step={} if index == 0 else {"hidden": stage_buffer("hidden", index - 1), **{name: name for name in rows}},
    )


def _select(graph: str, spec: GraphSpec, index: int) -> TensorBindings:
    """The graph of cut `index`: reads what the stage before it made, and what cuts before left of the caller's."""

    def buffer(name: str) -> str:
        if name == "length":
            return numbered(name, index)
        of_caller = name in ("position_ids", "prunable", "change") or name.startswith("deepstack_")
        return pruned_buffer(name, index - 1) if of_caller else stage_buffer(name, index - 1)

    inputs = {tensor.name: buffer(tensor.name) for tensor in spec.inputs}
    return TensorBindings(
        graph, spec, {**inputs, **{tensor.name: numbered(tensor.name, index) for tensor in spec.outputs}}
    )


def arena_layout(links: Mapping[str, TensorBindings], plan: Plan, capacity: Capacity) -> Layout:
    """Room for every tensor that is linked, dynamic axes at their capacity."""
    lengths = {stage.symbol: rows for stage, rows in zip(plan.stages, capacity.rows, strict=True)}
    specs: Specs = {
        link.names[tensor.name]: (tensor.dtype, _shape(tensor, lengths))
        for link in links.values()
        for tensor in (*link.spec.inputs, *link.spec.outputs)
    }
    return Layout(specs)


def step_lengths(plan: Plan) -> dict[str, int]:
    """Lengths of a decoded token's run."""
    return dict.fromkeys((stage.symbol for stage in plan.stages), 1)


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
