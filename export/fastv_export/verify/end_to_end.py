"""One prompt from token ids and pixels to logits and tokens: the bundle's files as the runtime reads them on one side,
the stock model's own forward on the other.

Golden vectors compare graph by graph, from states that transformers computed. What lies between graphs shows here: what
an embedding does beside looking up rows, how many features an image becomes and where they stand, positions, masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from fastv_export import hf
from fastv_export.execution.backend import Chunked
from fastv_export.execution.chunked import run_chunked
from fastv_export.execution.runs import ChunkedRun, Read
from fastv_export.families import Family
from fastv_export.hf import models as hf_models
from fastv_export.rankers import RANKERS
from fastv_export.rankers.base import Seen
from fastv_export.verify.question import SIZE, Question
from fastv_export.verify.reference import ReferenceCut, pruned_by
from fastv_runtime.config.base import DType
from fastv_runtime.config.bundle import EMBEDDING, END_TO_END, DecoderConfig, GraphSpec
from fastv_runtime.config.plan import Plan
from fastv_runtime.generation.encoder import Encoder
from fastv_runtime.memory.buffers import Buffer, HostMemory
from fastv_runtime.memory.layout import Region, numpy_dtype
from fastv_runtime.verification.comparison import Comparison, compare
from fastv_runtime.verification.tolerances import chain_tolerance

OF_PROMPT = ("position_ids", "prunable", "change")
"""What selects are given of the caller's, or of the select before."""


class EndToEnd:
    """The question through a bundle's files, graph by graph as these are verified, and through the stock model.

    Call `runs` for each graph in the order in which they run, and execute them (`verify_graph` takes them beside its
    own), or `run` once; at the end `compare` or `logits`. folder: the bundle. read: called with bytes of weights read.
    answered: tokens of the answer that are decoded, in one run; more than one need `run`. exact: as of `run_chunked`.
    """

    def __init__(
        self,
        question: Question,
        family: Family,
        graphs: Mapping[str, GraphSpec],
        folder: Path,
        dimensions: DecoderConfig,
        plan: Plan,
        embedding: DType,
        *,
        answered: int = 1,
        exact: bool = True,
    ):
        self._question, self._family, self._graphs, self._folder = question, family, graphs, folder
        self._dimensions, self._plan, self._embedding = dimensions, plan, embedding
        self._answered, self._exact = answered, exact
        self._stages = {stage.graph: stage for stage in plan.stages}
        self._made: dict[str, np.ndarray] = {}
        """What graphs computed: `GRAPH/CASE/OUTPUT`."""
        self._prompt = np.empty(0)
        self._deepstack: list[np.ndarray] = []

    def encode(self, read: Read) -> None:
        """Embedding rows from the file, and the towers' features in the places of their tokens."""
        question, width = self._question, self._dimensions.hidden_size
        shape = (self._dimensions.vocab_size, width)
        table = np.memmap(self._folder / EMBEDDING, numpy_dtype(self._embedding), mode="r", shape=shape)
        token_ids = self._token_ids()
        inputs = _Inputs(self._plan.precision, len(token_ids), width, self._dimensions.deepstack_layers)
        inputs.prompt.write(table[token_ids][None])
        starts = question.prompt.starts([question.image])
        backend = Chunked(self._folder, self._graphs, read, exact=self._exact)
        Encoder(self._graphs, backend, inputs)(question.image, starts[0])
        self._prompt = inputs.prompt.array()
        self._deepstack = [buffer.array() for buffer in inputs.deepstack]

    def runs(self, graph: str) -> list[ChunkedRun]:
        """Prefill and decode through a graph, the second on the caches of the first."""
        if graph not in self._stages and graph not in self._plan.selects:
            return []
        prefill = ChunkedRun(lambda name: self._input(graph, "prefill", name), self._output(graph, "prefill"))

        def decoded(name: str) -> np.ndarray:
            return prefill.take(name) if name.startswith("past_") else self._input(graph, "decode", name)

        return [prefill] if graph not in self._stages else [prefill, ChunkedRun(decoded, self._output(graph, "decode"))]

    def run(self, read: Read) -> None:
        """The question through all graphs."""
        self.encode(read)
        for name, spec in self._graphs.items():
            if runs := self.runs(name):
                rows = self._answered if name == self._last else 1
                run_chunked(self._folder / spec.file, runs, read, exact=self._exact, rows=rows)

    @torch.no_grad()
    def compare(self, stock: Any) -> list[Comparison]:
        """Prompt, signals and logits beside those of the stock model's own forward, and what of these is chosen.

        stock: as `logits` has it; what rankers read is compared itself.
        """
        embedded: list[torch.Tensor] = []
        with hf.hooked(hf_models.before_decoder(self._family.decoder(stock), embedded.append)):
            ours, theirs, signals = self._forward(stock)
        found = {"prompt": (self._prompt, embedded[0].numpy()), "logits": (ours[None], theirs[None])}
        for (graph, name), value in signals.items():
            # Of several cuts only those behind the first are named after their graphs.
            called = name if graph == self._plan.decoder_graphs[0] else f"{graph} {name}"
            found[called] = (self._made[f"{graph}/prefill/{name}"], value)
        compared = [
            compare(END_TO_END, name, *values, self._limit(name.rpartition(" ")[2])) for name, values in found.items()
        ]
        tokens = [int(self._made[f"{self._last}/{case}/token"][0, -1]) for case in ("prefill", "decode")]
        missed = _missed(theirs, tokens)
        return [
            *compared,
            Comparison(END_TO_END, "tokens", missed, self._limit("tokens"), cosine=1.0, max_error=missed),
        ]

    @torch.no_grad()
    def logits(self, stock: Any) -> tuple[Float[np.ndarray, "1+T V"], Float[np.ndarray, "1+T V"]]:
        """The bundle's and the stock model's, of the prompt's last row and of the answer's tokens.

        stock: the whole model with eager attention. It keeps the tokens that the bundle kept, as scores that are all
        but equal may fall either way.
        """
        ours, theirs, _ = self._forward(stock)
        return ours, theirs

    def _forward(self, stock: Any) -> tuple[np.ndarray, np.ndarray, dict[tuple[str, str], np.ndarray]]:
        """Logits of both, and what the stock model gives rankers to read, by graph and signal."""
        question, plan = self._question, self._plan
        visual = torch.from_numpy(question.prompt.visual)
        following = torch.zeros(self._answered, dtype=torch.bool)
        arguments = (
            torch.from_numpy(self._token_ids())[None],
            self._family.pixels(question.image, SIZE),
            torch.cat([visual, following])[None],
            1 + self._answered,
        )
        prefill, decode = (self._made[f"{self._last}/{case}/logits"][0] for case in ("prefill", "decode"))
        ours = np.concatenate([prefill[-1:], decode])
        if not plan.prunes:
            return ours, self._family.last_logits(stock, *arguments).float().numpy(), {}
        cuts = [
            ReferenceCut(
                cut.layer,
                length,
                cut.signals,
                rotary=RANKERS[cut.ranker].rotary,
                choose=partial(self._kept, select),
                change=torch.from_numpy(self._change()),
            )
            for cut, length, select in zip(plan.cuts, question.pruned, plan.selects, strict=True)
        ]
        with pruned_by(self._family.decoder(stock), visual, cuts) as prunings:
            theirs = self._family.last_logits(stock, *arguments)
        signals: dict[tuple[str, str], np.ndarray] = {
            (graph, name): value[None].numpy()
            for graph, pruning in zip(plan.decoder_graphs, prunings, strict=False)
            for name, value in pruning.signals.items()
            if name != "change"
        }
        return ours, theirs.float().numpy(), signals

    def _kept(self, select: str, seen: Seen) -> torch.Tensor:
        """What the bundle kept."""
        return torch.from_numpy(self._made[f"{select}/prefill/keep"][0])

    def _change(self) -> Float[np.ndarray, " S"]:
        """Of a question about an image, which has no frame before it: all of it is new."""
        return np.ones(self._question.length, np.float32)

    @property
    def _last(self) -> str:
        """The graph that makes logits."""
        return self._plan.decoder_graphs[-1]

    def _token_ids(self) -> Int[np.ndarray, " S+T"]:
        return self._question.token_ids[: self._question.length + self._answered]

    def _limit(self, output: str) -> float:
        return chain_tolerance(self._plan, self._graphs[self._last], self._dimensions, output)

    def _input(self, graph: str, case: str, name: str) -> np.ndarray:
        spec = next(tensor for tensor in self._graphs[graph].inputs if tensor.name == name)
        if name.startswith("past_"):
            return np.zeros([int(axis) for axis in spec.shape], spec.dtype)
        value = self._value(graph, case, name)
        return np.ascontiguousarray(value, spec.dtype)

    def _value(self, graph: str, case: str, name: str) -> np.ndarray:
        """An input of a graph: of the question, or what an earlier graph made of it."""
        question, selects = self._question, self._plan.selects
        length, decode = question.length, case == "decode"
        rows = slice(length, length + self._answered) if decode else slice(0, length)
        # Cuts before this graph. A token that is decoded passes none.
        cuts = selects.index(graph) if graph in selects else self._stages[graph].index
        if name == "write_index":
            return np.asarray([(length, *question.pruned)[cuts] if decode else 0])
        if name == "length":
            return np.asarray([question.pruned[cuts]])
        if graph in selects and name not in OF_PROMPT and not name.startswith("deepstack_"):
            made = self._plan.decoder_graphs[cuts]
            return self._made[f"{made}/prefill/{'hidden_out' if name == 'hidden' else name}"]
        if cuts and decode and name == "hidden":
            return self._made[f"{self._plan.decoder_graphs[cuts - 1]}/decode/hidden_out"]
        if cuts and not decode:
            return self._made[f"{selects[cuts - 1]}/prefill/pruned_{name}"]
        if name == "prunable":
            return question.prompt.visual[None]
        if name == "change":
            return self._change()[None]
        if name == "position_ids":
            positions = question.positions[:, rows]
            return positions if len(positions) == 1 else positions[:, None]
        if name.startswith("deepstack_"):
            return self._deepstack[int(name.removeprefix("deepstack_"))][:, rows]
        assert name == "hidden", name
        return self._prompt[:, rows]

    def _output(self, graph: str, case: str) -> Callable[[str, np.ndarray], None]:
        wanted = {tensor.name for tensor in self._graphs[graph].outputs if not tensor.name.startswith("present_")}

        def keep(name: str, value: np.ndarray) -> None:
            if name in wanted:
                self._made[f"{graph}/{case}/{name}"] = value

        return keep


def _missed(logits: Float[np.ndarray, "rows V"], tokens: list[int]) -> float:
    """How far below the best the logits of the chosen tokens are, in root mean squares of their row: 0 if none is."""
    chosen = logits[np.arange(len(tokens)), tokens]
    return float(((logits.max(axis=1) - chosen) / np.sqrt((logits**2).mean(axis=1))).max())


class _Inputs:
    """Where features land: the prompt and what is added to it after the first layers."""

    def __init__(self, dtype: DType, rows: int, width: int, deepstack: int):
        self.prompt, *self.deepstack = (_buffer(dtype, (1, rows, width)) for _ in range(1 + deepstack))


def _buffer(dtype: DType, shape: tuple[int, ...]) -> Buffer:
    region = Region(0, dtype, shape)
    return Buffer(HostMemory.allocate(region.nbytes), region)
