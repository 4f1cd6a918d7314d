"""Other runtimes that take part, each started in its own environment as its peer file says (see docs/peers.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from fastv_runtime.backends.threads import default_threads
from fastv_runtime.bench.models import RunnerRecord
from fastv_runtime.bench.protocol import Measurement, Refused, Request
from fastv_runtime.bench.runners.child import Child
from fastv_runtime.config.base import StrictModel
from fastv_runtime.config.bundle import PROCESSOR, Bundle
from fastv_runtime.errors import UserError
from fastv_runtime.generation.prompts.prompt import PromptBuilder
from fastv_runtime.preprocessing import load_images
from fastv_runtime.preprocessing.images.loading import open_image
from fastv_runtime.strict_json import read_model

Counts = Callable[[Request], tuple[int, int]]
"""Tokens of a prompt, and visual ones among them."""


class PeerFile(StrictModel):
    """How a peer is started. It is given a number of threads as well, and says as its setting `checkpoint` the sha256
    of the weights file that it was made of."""

    name: str
    weights: Literal["fp32", "fp16", "int8", "int4"]
    """Of its language model: it is compared with the unpruned bundle of the same."""
    command: tuple[str, ...]


class PeerRunner:
    """A peer that answers; a turn with other token counts than the bundles' is refused."""

    def __init__(self, child: Child, file: PeerFile, counts: Counts):
        self.name = child.name
        self.settings: Mapping[str, str] = {"weights": file.weights} | child.settings
        self._child = child
        self._counts = counts

    def run(self, request: Request) -> Measurement:
        turn = self._child.run(request)
        saw, expected = (turn.prompt_tokens, turn.visual_tokens), self._counts(request)
        if saw != expected:
            raise Refused(
                "it sees a prompt of {} tokens, {} visual, where the bundles see {}, {} visual".format(*saw, *expected)
            )
        return turn

    def close(self) -> None:
        self._child.close()


def read_peers(paths: Sequence[Path], taken: Sequence[str]) -> list[PeerFile]:
    """Peer files. `taken`: names of other runners. Raises UserError for what is none, and for a name twice."""
    names = list(taken)
    files = []
    for path in paths:
        files.append(_read(path))
        if files[-1].name in names:
            raise UserError(f"`peer` {path}: another runner is called {files[-1].name}: change the name in the file")
        names.append(files[-1].name)
    return files


def start_peers(
    files: Sequence[PeerFile],
    bundle: Bundle,
    *,
    threads: int | None,
    status: Callable[[str], AbstractContextManager[object]],
) -> tuple[list[RunnerRecord], list[PeerRunner]]:
    """A record of every peer, and those that run under the contract; a refused one's record says why.

    `bundle`: what token counts are compared with.
    """
    if not files:
        return [], []
    counts = token_counts(bundle)
    records: list[RunnerRecord] = []
    started: list[PeerRunner] = []
    for file in files:
        command = [*file.command, "--threads", str(threads or default_threads())]
        settings: dict[str, str] = {"weights": file.weights}
        try:
            with status(f"{file.name}: starting"):
                peer = PeerRunner(Child(command, name=file.name), file, counts)
                _check_weights(peer, bundle)
        except Refused as error:
            records.append(RunnerRecord(name=file.name, role="peer", settings=settings, refused=str(error)))
            continue
        records.append(RunnerRecord(name=file.name, role="peer", settings=dict(peer.settings)))
        started.append(peer)
    return records, started


def token_counts(bundle: Bundle) -> Counts:
    """What a bundle's processor makes of requests, each worked out once."""
    manifest = bundle.manifest
    prompts = PromptBuilder(bundle.file(PROCESSOR), manifest.tokens)
    see = load_images(bundle.file(PROCESSOR), manifest.vision)
    known: dict[Request, tuple[int, int]] = {}

    def counts(request: Request) -> tuple[int, int]:
        if request not in known:
            visuals = [see(open_image(path)) for path in request.images]
            tokens = prompts.build(request.prompt, visuals).token_ids.size
            known[request] = (int(tokens), sum(visual.tokens for visual in visuals))
        return known[request]

    return counts


def _check_weights(peer: PeerRunner, bundle: Bundle) -> None:
    """Raises Refused, and ends the peer, if it runs another checkpoint than the bundle was made of."""
    checkpoint = peer.settings.get("checkpoint")
    if checkpoint not in bundle.manifest.source.values():
        peer.close()
        raise Refused(f"it runs weights of another checkpoint than the bundles: sha256 {checkpoint}")


def _read(path: Path) -> PeerFile:
    return read_model(path, PeerFile, "docs/peers.md says what it holds", name=f"`peer` {path}")
