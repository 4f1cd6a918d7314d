"""Other runtimes: started by their peer files, held to the contract, refused with a reason where they break it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from fastv_runtime.bench.analysis.summary import baseline_of
from fastv_runtime.bench.models import RunnerRecord
from fastv_runtime.bench.protocol import Refused, Request
from fastv_runtime.bench.runners.peers import PeerFile, PeerRunner, read_peers, start_peers, token_counts
from fastv_runtime.config.bundle import Bundle, read_manifest
from fastv_runtime.config.plan import Weights
from fastv_runtime.errors import UserError
from tests.conftest import noise_image
from tests.runtime.bench.runners import DENSE, record

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
ADAPTER = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from peers.lines import Refused, Measurement, options, receipt, serve, unpruned_only

class Peer:
    name = "stand-in"
    def __init__(self, args):
        unpruned_only(args)
        said = receipt(args)
        self.tokens = int(options(args, {"tokens": "0"})["tokens"])
        self.settings = {"threads": str(args.threads), "checkpoint": said["checkpoint"]}
    def run(self, images, prompt, new_tokens):
        print("libraries print where they like")
        if prompt == "no":
            raise Refused("this prompt cannot be had")
        return Measurement({"vision": 1.0, "suffix": 2.0}, 3.5, None, self.tokens, 144 * len(images), self.tokens)

serve(Peer, None, sys.argv.pop(1).split(","))
"""


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle(tiny_bundle, read_manifest(tiny_bundle))


@pytest.fixture
def start(tmp_path: Path, bundle: Bundle) -> Iterator[Any]:
    """Starts a stand-in on the bundle's checkpoint; returns its record, and it unless it was refused."""
    script, model = tmp_path / "adapter.py", tmp_path / "model"
    script.write_text(ADAPTER)
    model.mkdir()
    running: list[PeerRunner] = []

    def begin(*more: str, modules: str = "json", **changes: str) -> tuple[RunnerRecord, PeerRunner | None]:
        said = {"precision": "fp32", "checkpoint": bundle.manifest.source["model.safetensors"], "made with": "care"}
        (model / "fastv-peer.json").write_text(json.dumps(said | changes))
        arguments = (str(BENCHMARKS), modules, "--model", str(model), "--precision", "fp32", *more)
        file = PeerFile(name="peer", weights="fp32", command=(sys.executable, str(script), *arguments))
        records, started = start_peers([file], bundle, threads=3, status=lambda text: nullcontext())
        running.extend(started)
        return records[0], started[0] if started else None

    yield begin
    for peer in running:
        peer.close()


def test_a_peer_answers_what_the_bundles_are_asked(start: Any, bundle: Bundle, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    noise_image(0).save(image)
    request = Request(images=(str(image),), prompt="What is it?", new_tokens=1)
    tokens, visual = token_counts(bundle)(request)
    assert visual == 144 and tokens > visual
    taken, peer = start("--option", f"tokens={tokens}")
    assert (taken.role, taken.refused) == ("peer", None)
    assert taken.settings["weights"] == "fp32" and taken.settings["threads"] == "3"
    turn = peer.run(request)
    assert turn.stages_ms == {"vision": 1, "suffix": 2} and turn.prompt_tokens == tokens
    assert turn.peak_memory is None or turn.peak_memory > 2**20
    with pytest.raises(Refused, match="this prompt cannot be had"):
        peer.run(request.model_copy(update={"prompt": "no"}))


def test_a_peer_that_sees_another_prompt_has_no_figures(start: Any) -> None:
    _, peer = start("--option", "tokens=1000")
    with pytest.raises(Refused, match=r"sees a prompt of 1000 tokens, 0 visual, where the bundles see \d+, 0 visual"):
        peer.run(Request(images=(), prompt="What is it?", new_tokens=1))


@pytest.mark.parametrize(
    ("more", "changes", "why"),
    [
        ((), {"precision": "int8"}, "model holds int8 weights, and fp32 were asked for"),
        ((), {"checkpoint": "0" * 64}, "weights of another checkpoint than the bundles: sha256 000"),
        ((), {"modules": "no_such_library"}, "no_such_library cannot be imported by"),
        (("--keep", "0.5"), {}, "cannot prune visual tokens, and --keep 0.5 was asked for"),
        (("--option", "speed=high"), {}, "--option speed: known are tokens"),
    ],
)
def test_a_peer_that_breaks_the_contract_says_why(
    start: Any, more: Sequence[str], changes: dict[str, str], why: str
) -> None:
    taken, peer = start(*more, **changes)
    assert peer is None and why in taken.refused


def test_peer_files_that_are_none(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(PeerFile(name="peer", weights="int8", command=("run",)).model_dump_json())
    bad.write_text('{"name": "peer", "weights": "int7", "command": []}')
    assert [each.name for each in read_peers([good], taken=["dense"])] == ["peer"]
    for paths, why in (
        ([bad], "weights is .int7.: must be .fp32., "),
        ([tmp_path / "none.json"], "No such file"),
        ([good, good], "another runner is called peer"),
    ):
        with pytest.raises(UserError, match=why):
            read_peers(paths, taken=[])


def test_a_peer_is_compared_with_unpruned_weights_like_its_own() -> None:
    whole = record("dense", DENSE)
    few = record("dense-int8", DENSE.model_copy(update={"weights": Weights(bits=8, block=None)}))
    assert baseline_of(peer("int8"), [whole, few]) == few
    assert baseline_of(peer("fp32"), [few, whole]) == whole
    assert baseline_of(peer("int4"), [whole, few]) is None


def peer(weights: str) -> RunnerRecord:
    return RunnerRecord(name="peer", role="peer", settings={"weights": weights})
