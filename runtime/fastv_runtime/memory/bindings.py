"""Which buffer each tensor of the decoder's graphs is, in prefill and in decode. Pure: nothing is allocated here.

Graphs are linked by sharing buffers: one graph's output is the next one's input, and a cache's past and present are
one buffer, to which the graph appends in place. In decode a stage reads the row, the position and the deepstack where
the stage before and the caller left them, since one row needs no selection: nothing is copied between graphs. Rows of
decode have buffers of their own: those of the prompt stay for a prompt that goes on where it ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fastv_runtime.config.base import DType, TensorSpec
from fastv_runtime.config.bundle import GraphSpec
from fastv_runtime.config.lengths import Capacity
from fastv_runtime.config.plan import Plan, numbered
from fastv_runtime.errors import UserError
from fastv_runtime.memory.layout import Layout, Region

RESULTS = ("logits", "token")
"""What the last graph makes."""
STEP_ROWS = 16
"""Tokens that follow a prompt and may be run at once."""
POSITIONS = ("position_ids", "pruned_position_ids")
"""Rows of which one run's stand at the front: M-RoPE's three axes are not side by side row by row."""


@dataclass(frozen=True)
class TensorBindings:
    """One graph: buffers by the names of its tensors; `step` has those that are others in decode."""

    graph: str
    spec: GraphSpec
    names: Mapping[str, str]
    step: Mapping[str, str] = field(default_factory=dict)
    cache_rows: int = 0
    """Keys that each layer's cache has room for; 0: the graph has no layers."""

    def inputs(
        self, layout: Layout, lengths: Mapping[str, int], *, step: bool = False, first: int = 0
    ) -> dict[str, Region]:
        """Where each input is, its dynamic axes cut to `lengths`, rows from `first` on; positions are at the front.

        Raises ValueError past a buffer's end.
        """
        return self._regions(self.spec.inputs, layout, lengths, step, first)

    def outputs(
        self, layout: Layout, lengths: Mapping[str, int], *, step: bool = False, first: int = 0
    ) -> dict[str, Region]:
        """Where each output is, likewise. A present is at its past's place."""
        return self._regions(self.spec.outputs, layout, lengths, step, first)

    @property
    def cache_buffers(self) -> list[str]:
        """The buffers of its caches."""
        return [self.names[tensor.name] for tensor in self.spec.inputs if tensor.name.startswith("past_")]

    def without_caches(self) -> TensorBindings:
        """The same for an engine that keeps caches itself: they are no buffers."""

        def others(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
            return tuple(tensor for tensor in tensors if not is_of_caches(tensor.name))

        spec = self.spec.model_copy(update={"inputs": others(self.spec.inputs), "outputs": others(self.spec.outputs)})
        return replace(self, spec=spec)

    def check_room(self, used: int, rows: int) -> None:
        """Raises UserError if `rows` more keys do not fit behind `used`: a graph would write past the cache's end."""
        if used + rows > self.cache_rows:
            raise UserError(
                f"the {self.graph}'s cache is full: it holds {self.cache_rows} tokens, and {used} + {rows} are asked "
                "for: export with a larger `export.max_text` or `export.max_new_tokens`"
            )

    def _regions(
        self, tensors: tuple[TensorSpec, ...], layout: Layout, lengths: Mapping[str, int], step: bool, first: int
    ) -> dict[str, Region]:
        names = {**self.names, **self.step} if step else self.names
        found: dict[str, Region] = {}
        for tensor in tensors:
            region, shape = layout[names[tensor.name]], _shape(tensor, lengths)
            axis = next((at for at, length in enumerate(tensor.shape) if isinstance(length, str)), None)
            behind = first and axis is not None and tensor.name not in POSITIONS
            found[tensor.name] = region.from_row(first, shape, axis or 0) if behind else region.leading(shape)
        return found


def decoder_links(graphs: Mapping[str, GraphSpec], plan: Plan) -> dict[str, TensorBindings]:
    """The decoder's graphs in the order in which they run: `prefix`, `select`, ..., `suffix`, or `decoder` alone."""
    links: dict[str, TensorBindings] = {}
    for stage in plan.stages:
        if stage.select is not None:
            links[stage.select] = _select(stage.select, graphs[stage.select], stage.index)
        links[stage.graph] = _layers(stage.graph, graphs[stage.graph], stage.index)
    return links


def is_of_caches(name: str) -> bool:
    """Whether a tensor of a graph is a cache, or says where in one its rows go."""
    return name == "write_index" or name.startswith(("past_", "present_"))


def stage_buffer(name: str, index: int) -> str:
    """The buffer of what stage `index` makes for the cut behind it: `hidden`, `scores`, then `hidden_2`, ..."""
    return numbered(name, index + 1)


def pruned_buffer(name: str, index: int) -> str:
    """The buffer of what cut `index` (1, 2, ...) left of a row's tensor: `pruned_hidden`, then `pruned_hidden_2`, ...

    0: of the prompt, which nothing was cut from.
    """
    return name if index == 0 else numbered(f"pruned_{name}", index)


def step_buffer(name: str) -> str:
    """The buffer that stands for one of a prompt's in decode: STEP_ROWS rows."""
    return f"step.{name}"


def _made_by_row(tensor: TensorSpec, made: Mapping[str, str]) -> bool:
    return tensor.name in made and any(isinstance(axis, str) for axis in tensor.shape)


def _layers(graph: str, spec: GraphSpec, index: int) -> TensorBindings:
    """A graph of decoder layers. In decode it reads what the stage before made of the same rows, unselected."""
    rows = ("position_ids", *_deepstack(spec))
    made = {
        tensor.name: stage_buffer("hidden" if tensor.name == "hidden_out" else tensor.name, index)
        for tensor in spec.outputs
        if tensor.name not in RESULTS and not tensor.name.startswith("present_")
    }
    return TensorBindings(
        graph,
        spec,
        {
            "hidden": "prompt" if index == 0 else pruned_buffer("hidden", index),
            "write_index": f"{graph}.write_index",
            **{name: pruned_buffer(name, index) for name in rows},
            **made,
            **{name: name for name in RESULTS if any(tensor.name == name for tensor in spec.outputs)},
            **_caches(graph, spec),
        },
        step={
            "hidden": step_buffer("prompt" if index == 0 else stage_buffer("hidden", index - 1)),
            **{name: step_buffer(name) for name in rows},
            **{tensor.name: step_buffer(made[tensor.name]) for tensor in spec.outputs if _made_by_row(tensor, made)},
        },
        cache_rows=next(int(tensor.shape[2]) for tensor in spec.inputs if tensor.name.startswith("past_")),
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
    specs: dict[str, tuple[DType, tuple[int, ...]]] = {
        link.names[tensor.name]: (tensor.dtype, _shape(tensor, lengths))
        for link in links.values()
        for tensor in (*link.spec.inputs, *link.spec.outputs)
    }
    few = step_lengths(plan, STEP_ROWS)
    specs |= {
        link.step[tensor.name]: (tensor.dtype, _shape(tensor, few))
        for link in links.values()
        for tensor in (*link.spec.inputs, *link.spec.outputs)
        if tensor.name in link.step
    }
    return Layout(specs)


def step_lengths(plan: Plan, rows: int = 1) -> dict[str, int]:
    """Lengths of a run of decoded tokens."""
    return dict.fromkeys((stage.symbol for stage in plan.stages), rows)


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
