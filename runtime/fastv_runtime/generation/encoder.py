"""Runs the vision graphs; their features land in the prompt's buffers, where the placeholders stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from fastv_runtime.backends.base import Backend, Buffers, Engine
from fastv_runtime.config.bundle import GraphSpec
from fastv_runtime.memory.buffers import Buffer
from fastv_runtime.memory.layout import Region
from fastv_runtime.preprocessing import Visual


class EncoderInputs(Protocol):
    """Where features land: a decoder's prompt, as `fastv_runtime.generation.decoding.decoder.Decoder` has it."""

    prompt: Buffer
    deepstack: list[Buffer]


class Encoder:
    """The towers of a bundle, writing into one decoder's prompt. graphs: as the manifest has them."""

    def __init__(self, graphs: Mapping[str, GraphSpec], backend: Backend, decoder: EncoderInputs):
        self._graphs = graphs
        self._backend = backend
        self._engines: dict[str, Engine] = {
            name: backend.engine(name) for name in ("vision", "pack", "video") if name in graphs
        }
        self._outputs = {"image_features": decoder.prompt} | {
            f"deepstack_{index}": buffer for index, buffer in enumerate(decoder.deepstack)
        }

    def __call__(self, visual: Visual, starts: Sequence[int]) -> None:
        """Encode a visual whose runs of placeholders start at the given rows of the prompt."""
        if visual.pack is not None:
            self._pack(visual, starts)
            return
        places = iter(zip(starts, (run.tokens for run in visual.runs), strict=True))
        at, free = next(places)
        for piece in visual.pieces:
            if not free:
                at, free = next(places)
            assert piece.rows <= free, "a piece's features must not straddle two runs of placeholders"
            end = at + piece.rows
            self._run(
                visual.graph, piece.inputs, {name: buffer.rows(at, end) for name, buffer in self._outputs.items()}
            )
            at, free = end, free - piece.rows

    def _pack(self, visual: Visual, starts: Sequence[int]) -> None:
        """Features of all pieces side by side, then `pack` gathers the visual tokens from them."""
        assert visual.pack is not None
        prompt = self._outputs["image_features"]
        rows, width = sum(piece.rows for piece in visual.pieces), prompt.shape[2]
        region = Region(0, prompt.dtype, (rows, width))
        features = Buffer(self._backend.allocate(region.nbytes), region)
        at = 0
        for piece in visual.pieces:
            self._run(visual.graph, piece.inputs, {"image_features": features.rows(at, at + piece.rows)})
            at += piece.rows
        (start,) = starts  # packed tokens are one run
        inputs: dict[str, np.ndarray | Buffer] = {"features": features, "index": visual.pack.index}
        if any(tensor.name == "weight" for tensor in self._graphs["pack"].inputs):
            inputs["weight"] = visual.pack.weight
        self._run("pack", inputs, {"image_features": prompt.rows(start, start + visual.tokens)})
        self._backend.synchronize()  # before the features are freed

    def _run(self, graph: str, inputs: Buffers, outputs: Mapping[str, Buffer]) -> None:
        self._engines[graph].bind(inputs, outputs).run()
