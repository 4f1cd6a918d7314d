"""The contract of runners, spoken by a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastv_runtime.bench.protocol import Measurement, Refused, Request, known_stages
from fastv_runtime.bench.runners.child import Child

ADAPTER = """
import sys
from fastv_runtime.bench.protocol import Refused, Measurement
from fastv_runtime.bench.runners.serve import own_stdout, serve

class Peer:
    name, settings = "peer", {"threads": "1"}
    def run(self, request):
        print("libraries print where they like")
        if request.prompt == "die":
            sys.exit("out of memory")
        if request.prompt == "no":
            raise Refused("this prompt cannot be had")
        stages = {"suffix": 9.0 if request.prompt == "wrong" else 2.0}
        tokens = dict(prompt_tokens=7, visual_tokens=0, pruned_length=7)
        return Measurement(stages_ms=stages, ttft_ms=3.0, decode_ms=None, **tokens)
    def close(self):
        pass

def load():
    if "other" in sys.argv:
        raise Refused("loads no such precision")
    return Peer()

serve(load, sys.stdin, own_stdout())
"""


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    script = tmp_path / "adapter.py"
    script.write_text(ADAPTER)
    started: list[Child] = []

    def start(*arguments: str) -> Child:
        started.append(Child([sys.executable, str(script), *arguments]))
        return started[-1]

    yield start
    for child in started:
        child.close()


def ask(prompt: str) -> Request:
    return Request(images=(), prompt=prompt, new_tokens=1)


def test_a_process_answers_request_after_request(peer: Callable[..., Child]) -> None:
    child = peer()
    assert (child.name, child.settings) == ("peer", {"threads": "1"})
    turn = child.run(ask("one"))
    assert (turn.ttft_ms, turn.prompt_tokens) == (3.0, 7)
    assert turn.peak_memory is not None and turn.peak_memory > 2**20
    with pytest.raises(Refused, match="this prompt cannot be had"):
        child.run(ask("no"))
    with pytest.raises(Refused, match=r"its stages take 9\.0 ms of a first token after 3\.0 ms"):
        child.run(ask("wrong"))
    assert child.run(ask("two")).ttft_ms == 3.0
    with pytest.raises(Refused, match="ended with code 1: out of memory"):
        child.run(ask("die"))


def test_a_process_that_cannot_match_the_contract_says_why(peer: Callable[..., Child]) -> None:
    with pytest.raises(Refused, match="loads no such precision"):
        peer("other")


def test_a_program_that_speaks_otherwise_is_refused() -> None:
    with pytest.raises(Refused, match="cannot be started: No such file"):
        Child(["/no/such/program"])
    with pytest.raises(Refused, match="its reply breaks the contract"):
        Child([sys.executable, "-c", "print('hello')"])


def test_stages_have_the_names_of_the_contract() -> None:
    turn = Measurement(
        stages_ms={"prefill": 1.0}, ttft_ms=1.0, decode_ms=None, prompt_tokens=1, visual_tokens=0, pruned_length=1
    )
    with pytest.raises(Refused, match="stage 'prefill' is not one of preprocess, vision"):
        known_stages(turn)
