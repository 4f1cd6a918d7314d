"""Runs the vision graphs; their features land in the prompt's buffers, where the placeholders stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fastv_runtime.bundle import Manifest
from fastv_runtime.decoder import Decoder
from fastv_runtime.engines import Engine
from fastv_runtime.visuals import Visual


class Encoder:
    """The towers of a bundle, writing into one decoder's prompt."""

    def __init__(self, manifest: Manifest, engines: Mapping[str, Engine], decoder: Decoder):
        self._graphs = manifest.graphs
        self._engines = engines
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
            self._run(visual.graph, piece.inputs, {name: buffer[0, at:end] for name, buffer in self._outputs.items()})
            at, free = end, free - piece.rows

    def _pack(self, visual: Visual, starts: Sequence[int]) -> None:
        """Features of all pieces side by side, then `pack` gathers the visual tokens from them."""
        assert visual.pack is not None
        prompt = self._outputs["image_features"]
        features = np.empty((sum(piece.rows for piece in visual.pieces), prompt.shape[2]), prompt.dtype)
        at = 0
        for piece in visual.pieces:
            self._run(visual.graph, piece.inputs, {"image_features": features[at : at + piece.rows]})
            at += piece.rows
        (start,) = starts  # packed tokens are one run
        inputs = {"features": features, "index": visual.pack.index}
        if any(tensor.name == "weight" for tensor in self._graphs["pack"].inputs):
            inputs["weight"] = visual.pack.weight
        self._run("pack", inputs, {"image_features": prompt[0, start : start + visual.tokens]})

    def _run(self, graph: str, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        self._engines[graph].bind(inputs, outputs).run()
