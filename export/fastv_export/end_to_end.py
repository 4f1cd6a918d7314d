"""One prompt from token ids and pixels to logits and tokens: the bundle's files as the runtime reads them on one side,
the stock model's own forward on the other.

Golden vectors compare graph by graph, from states that transformers computed. What lies between graphs shows here: what
an embedding does beside looking up rows, how many features a picture becomes and where they stand, positions, masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image

from fastv_export import hf, hf_models
from fastv_export.chunked import Read, Run, run_chunked
from fastv_export.families import Family
from fastv_export.rankers import RANKERS
from fastv_export.reference import pruned
from fastv_runtime.bundle import EMBEDDING, Decoder, GraphSpec, Plan, Tokens
from fastv_runtime.encoder import Encoder
from fastv_runtime.engines import Binding, Buffers
from fastv_runtime.errors import UserError
from fastv_runtime.layout import Region, numpy_dtype
from fastv_runtime.lengths import capacity, pruned_length
from fastv_runtime.memory import Buffer, HostMemory, Memory, as_buffer
from fastv_runtime.positions import position_ids
from fastv_runtime.prompt import Prompt, PromptBuilder
from fastv_runtime.schema import DType
from fastv_runtime.selftest import difference, tolerance
from fastv_runtime.vision import Vision
from fastv_runtime.visuals import Visual, load_images

QUESTION = "What is in the picture?"
SIZE = (72, 96)
"""Height and width in pixels: neither square nor large, so that most layouts make few tokens of it."""

GRAPHS_IN_CHAIN = 3
"""Tower, prefix and suffix: each may be off by what rounding explains in one graph, and at worst that adds up."""

LOGITS = 8
"""By how many root mean squares of an error two logits may change places: what is said of all of them is their mean
square, and the two largest of a vocabulary's worth of errors are four of these each."""


@dataclass(frozen=True)
class Question:
    """A prompt about one picture, and one token after it, which is decoded."""

    prompt: Prompt
    picture: Visual
    token_ids: Int[np.ndarray, " S+1"]
    positions: Int[np.ndarray, "axes S+1"]
    pruned: int
    """M."""

    @property
    def length(self) -> int:
        """S."""
        return self.prompt.token_ids.size


class NoRoom(UserError):
    """The plan bears no question."""


def ask(processor: Path, tokens: Tokens, vision: Vision, dimensions: Decoder, plan: Plan) -> Question:
    """The question, as the runtime asks it. `processor`: the bundle's directory.

    Raises NoRoom where it is longer than the plan bears, and UserError where none can be asked at all, as the runtime
    would.
    """
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(SIZE[::-1], Image.Resampling.BILINEAR)
    picture = load_images(processor, vision)(image)
    prompt = _prompt(PromptBuilder(processor, tokens), tokens, picture)
    visual = int(prompt.visual.sum())
    try:
        pruned = pruned_length(plan, prompt.token_ids.size - visual, visual, plan.length, capacity(plan))
    except UserError as error:
        raise NoRoom(str(error)) from None
    following = prompt.token_ids[~prompt.visual][-1:]  # any token of text
    token_ids = np.concatenate([prompt.token_ids, following])
    positions = position_ids(dimensions.position_axes, token_ids.size, prompt.runs)
    return Question(prompt, picture, token_ids, positions, pruned)


def _prompt(builder: PromptBuilder, tokens: Tokens, picture: Visual) -> Prompt:
    marker = builder.tokenizer.convert_ids_to_tokens(tokens.image)
    if marker is None:
        raise UserError(f"image_token_id {tokens.image} is no token of the tokenizer: mend config.json")
    try:
        return builder.build(QUESTION, [picture])
    except UserError:
        # Where the template knows text alone, users place pictures themselves.
        return builder.build(f"{marker}\n{QUESTION}", [picture])


class EndToEnd:
    """The question through a bundle's files, graph by graph as these are verified, and through the stock model.

    Call `runs` for each graph in the order in which they run, and execute them (`verify_graph` takes them beside its
    own); call `compare` at the end. folder: the bundle. read: called with bytes of weights read.
    """

    def __init__(
        self,
        question: Question,
        family: Family,
        graphs: Mapping[str, GraphSpec],
        folder: Path,
        dimensions: Decoder,
        plan: Plan,
        embedding: DType,
    ):
        self._question, self._family, self._graphs, self._folder = question, family, graphs, folder
        self._dimensions, self._plan, self._embedding = dimensions, plan, embedding
        self._made: dict[str, np.ndarray] = {}
        """What graphs computed: `GRAPH/CASE/OUTPUT`."""
        self._prompt = np.empty(0)
        self._deepstack: list[np.ndarray] = []

    def encode(self, read: Read) -> None:
        """Embedding rows from the file, and the towers' features in the places of their tokens."""
        question, width = self._question, self._dimensions.hidden_size
        shape = (self._dimensions.vocab_size, width)
        table = np.memmap(self._folder / EMBEDDING, numpy_dtype(self._embedding), mode="r", shape=shape)
        inputs = _Inputs(self._plan.precision, len(question.token_ids), width, self._dimensions.deepstack_layers)
        inputs.prompt.write(table[question.token_ids][None])
        starts = question.prompt.starts([question.picture])
        Encoder(self._graphs, _Chunked(self._folder, self._graphs, read), inputs)(question.picture, starts[0])
        self._prompt = inputs.prompt.array()
        self._deepstack = [buffer.array() for buffer in inputs.deepstack]

    def runs(self, graph: str) -> list[Run]:
        """Prefill and decode through a graph, the second on the caches of the first."""
        if graph not in ("prefix", "select", "suffix", "decoder"):
            return []
        prefill = Run(lambda name: self._input(graph, "prefill", name), self._output(graph, "prefill"))

        def decoded(name: str) -> np.ndarray:
            return prefill.take(name) if name.startswith("past_") else self._input(graph, "decode", name)

        return [prefill] if graph == "select" else [prefill, Run(decoded, self._output(graph, "decode"))]

    @torch.no_grad()
    def compare(self, stock: Any) -> dict[str, tuple[float, float]]:
        """How far prompt, scores and logits are from the stock model's own forward, and how far they may be.

        stock: the whole model with eager attention. It keeps the tokens that the bundle kept, as scores that are all
        but equal may fall either way; the scores themselves are compared.
        """
        question, plan = self._question, self._plan
        visual = torch.from_numpy(question.prompt.visual)
        following = torch.zeros(1, dtype=torch.bool)
        arguments = (
            torch.from_numpy(question.token_ids)[None],
            self._family.pixels(question.picture, SIZE),
            torch.cat([visual, following])[None],
            2,
        )
        embedded: list[torch.Tensor] = []
        decoder = self._family.decoder(stock)
        with hf.hooked(hf_models.before_decoder(decoder, embedded.append)):
            if plan.layer is None:
                logits = self._family.last_logits(stock, *arguments)
            else:
                keep = torch.from_numpy(self._made["select/prefill/keep"][0])
                with pruned(
                    decoder,
                    plan.layer,
                    visual,
                    question.pruned,
                    rotary=RANKERS[plan.ranker].rotary,
                    choose=lambda scores, hidden: keep,
                ) as reference:
                    logits = self._family.last_logits(stock, *arguments)
        last = "decoder" if plan.layer is None else "suffix"
        ours = np.concatenate([self._made[f"{last}/{case}/logits"][0] for case in ("prefill", "decode")])
        theirs = logits.float().numpy()
        found = {"prompt": (self._prompt, embedded[0].numpy()), "logits": (ours[None], theirs[None])}
        if plan.layer is not None:
            found["scores"] = (self._made["prefix/prefill/scores"], reference.scores[None].numpy())
        differences = {
            name: (difference(actual, expected), self._limit(last, name)) for name, (actual, expected) in found.items()
        }
        tokens = [int(self._made[f"{last}/{case}/token"][0, 0]) for case in ("prefill", "decode")]
        differences["tokens"] = (_missed(theirs, tokens), LOGITS * self._limit(last, "logits"))
        return differences

    def _limit(self, graph: str, output: str) -> float:
        return GRAPHS_IN_CHAIN * tolerance(self._plan, self._graphs[graph], self._dimensions, output)

    def _input(self, graph: str, case: str, name: str) -> np.ndarray:
        spec = next(tensor for tensor in self._graphs[graph].inputs if tensor.name == name)
        if name.startswith("past_"):
            return np.zeros([int(axis) for axis in spec.shape], spec.dtype)
        value = self._value(graph, case, name)
        return np.ascontiguousarray(value, spec.dtype)

    def _value(self, graph: str, case: str, name: str) -> np.ndarray:
        """An input of a graph: of the question, or what an earlier graph made of it."""
        question = self._question
        length, decode = question.length, case == "decode"
        rows = slice(length, length + 1) if decode else slice(0, length)
        made = "pruned_" if graph == "suffix" and not decode else ""
        if name == "write_index":
            return np.asarray([0 if not decode else question.pruned if graph == "suffix" else length])
        if name == "prunable":
            return question.prompt.visual[None]
        if name == "length":
            return np.asarray([question.pruned])
        if made:
            return self._made[f"select/prefill/{made}{name}"]
        if name == "position_ids":
            positions = question.positions[:, rows]
            return positions if len(positions) == 1 else positions[:, None]
        if name.startswith("deepstack_"):
            return self._deepstack[int(name.removeprefix("deepstack_"))][:, rows]
        if name == "hidden" and graph in ("select", "suffix"):
            return self._made[f"prefix/{case}/hidden_out"]
        if name == "hidden":
            return self._prompt[:, rows]
        return self._made[f"prefix/{case}/{name}"]

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


class _Chunked:
    """A backend of the runtime that holds no graph in memory."""

    name = "chunk by chunk"

    def __init__(self, folder: Path, graphs: Mapping[str, GraphSpec], read: Read):
        self.notes: list[str] = []
        self._folder, self._graphs, self._read = folder, graphs, read

    def engine(self, graph: str) -> _ChunkedEngine:
        return _ChunkedEngine(self._folder / self._graphs[graph].file, self._graphs[graph], self._read)

    def allocate(self, nbytes: int) -> Memory:
        return HostMemory.allocate(nbytes)

    def repeated(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def synchronize(self) -> None:
        """Nothing runs on."""


@dataclass(frozen=True)
class _ChunkedEngine:
    path: Path
    spec: GraphSpec
    read: Read

    def bind(self, inputs: Buffers, outputs: Buffers) -> Binding:
        return _ChunkedBinding(self, inputs, outputs)


@dataclass(frozen=True)
class _ChunkedBinding:
    engine: _ChunkedEngine
    inputs: Buffers
    outputs: Buffers

    def run(self) -> None:
        arrays = {name: as_buffer(name, array).array() for name, array in self.inputs.items()}

        def put(name: str, value: np.ndarray) -> None:
            if name in self.outputs:
                as_buffer(name, self.outputs[name]).write(value)

        run_chunked(self.engine.path, [Run(arrays.__getitem__, put)], self.engine.read)
