"""llama.cpp's adapter: what its server's clock and log say becomes stages; where they say less, a refusal."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

# Benchmarks are scripts that import each other by name.
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

from peers import llama_cpp
from peers.lines import Refused

from tests.conftest import noise_image

LOG = """\
0.08.843.362 I slot   operator(): id  0 | task 6 | cached n_tokens = 27, memory_seq_rm [27, end)
0.08.843.378 I slot encode_mtmd_: id  0 | task 6 | encoding mtmd batch from idx = 27, n_chunks = 1
0.09.653.477 I decoding image batch 1/1, n_tokens_batch = 576
0.15.675.150 I image decoded (batch 1/1) in 6021 ms
0.15.675.368 I slot init_sampler: id  0 | task 6 | init sampler, took 0.01 ms, tokens: text = 60, total = 636
0.16.272.796 I slot      release: id  0 | task 6 | stop processing: n_tokens = 639, truncated = 0
"""
"""Of a turn, recorded with xllamacpp 2026.10."""
TIMINGS = {"cache_n": 0, "prompt_n": 636, "prompt_ms": 7667.741, "predicted_n": 4, "predicted_ms": 85.389}


def test_the_towers_time_is_what_lies_between_two_lines_of_the_log() -> None:
    assert llama_cpp.tower(LOG) == (pytest.approx(810.099), 576)
    two = LOG + LOG.replace("0.08.", "1.08.").replace("0.09.653", "1.09.343")
    assert llama_cpp.tower(two) == (pytest.approx(810.099 + 500.099), 1152)


def test_a_turn_adds_up() -> None:
    turn = llama_cpp.turn_of(TIMINGS, 7796.8, LOG, images=1, new_tokens=4)
    assert sum(turn.stages_ms.values()) == pytest.approx(turn.ttft_ms)
    assert turn.stages_ms == pytest.approx({"preprocess": 43.67, "vision": 810.099, "suffix": 6857.642})
    assert turn.decode_ms == pytest.approx(85.389 / 3)
    assert (turn.prompt_tokens, turn.visual_tokens, turn.pruned_length) == (636, 576, 636)
    text = llama_cpp.turn_of(TIMINGS | {"predicted_n": 1}, 7796.8, "", images=0, new_tokens=1)
    assert "vision" not in text.stages_ms and text.decode_ms is None


@pytest.mark.parametrize(
    ("changes", "log", "why"),
    [
        ({"predicted_n": 2}, LOG, "made 2 tokens where 4 were asked for"),
        ({"cache_n": 600}, LOG, "kept 600 tokens of an earlier prompt"),
        ({}, "", "log does not say what the tower took"),
    ],
)
def test_what_breaks_the_contract_is_refused(changes: dict[str, int], log: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        llama_cpp.turn_of(TIMINGS | changes, 7796.8, log, images=1, new_tokens=4)


def test_a_build_says_what_of_the_processor_it_uses() -> None:
    assert llama_cpp.features("CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | REPACK = 1 | ") == "SSE3 AVX2 REPACK"


class Server:
    """Stands in for the one of xllamacpp; writes the log where C does."""

    def __init__(self, asked: Any):
        self.asked, self.requests = asked, []

    def handle_chat_completions(self, request: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(request)
        if request["messages"][0]["content"][-1]["text"] == "no":
            return {"error": {"message": "the prompt is too long"}}
        os.write(2, LOG.encode())
        return {"timings": TIMINGS}


def parameters() -> SimpleNamespace:
    parts = ("model", "mmproj", "cpuparams", "cpuparams_batch")
    return SimpleNamespace(**{part: SimpleNamespace() for part in parts})


def test_the_server_is_asked_for_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("xllamacpp")
    module.__dict__.update(CommonParams=parameters, Server=Server, get_system_info=lambda: "AVX2 = 1")
    monkeypatch.setitem(sys.modules, "xllamacpp", module)
    monkeypatch.setattr(llama_cpp, "version", lambda package: "1")
    noise_image(0).save(tmp_path / "image.png")
    said = {"precision": "int8", "checkpoint": "0" * 64, "made with": "care"}
    (tmp_path / "fastv-peer.json").write_text(json.dumps(said))
    asked: dict[str, Any] = {"model": tmp_path, "precision": "int8", "threads": 3, "keep": 1.0, "option": ["cache=f32"]}
    peer = llama_cpp.LlamaCpp(argparse.Namespace(**asked))
    assert (peer.settings["cpu"], peer.settings["made with"], peer.settings["threads"]) == ("AVX2", "care", "3")
    server: Any = peer._server
    assert (server.asked.cpuparams.n_threads, server.asked.cpuparams_batch.n_threads) == (3, 3)
    assert not server.asked.cache_prompt and not server.asked.cache_ram_mib and server.asked.cache_type_k == 0
    turn = peer.run([str(tmp_path / "image.png")], "What?", 4)
    assert turn.visual_tokens == 576
    request = server.requests[-1]
    assert request["ignore_eos"] and request["max_tokens"] == 4 and not request["temperature"]
    assert request["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/bmp;base64,")
    assert capfd.readouterr().err == LOG, "the log still goes to the standard error"
    with pytest.raises(Refused, match="the prompt is too long"):
        peer.run([], "no", 4)
    for wrong, why in (({"keep": 0.5}, "cannot prune"), ({"option": ["cache=q8"]}, "known are f32, f16")):
        with pytest.raises(Refused, match=why):
            llama_cpp.LlamaCpp(argparse.Namespace(**asked | wrong))
