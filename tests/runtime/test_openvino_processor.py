"""What OpenVINO computes in here, and the one case that would end the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastv_runtime.backends.openvino import processor
from fastv_runtime.backends.openvino.graphs import load_core
from fastv_runtime.backends.openvino.processor import (
    WHOLE_ROW,
    capabilities,
    choose_compute,
    gpu_compute,
    has_amx,
    rounding_group,
    usable,
)
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.config.plan import Plan, Weights
from fastv_runtime.errors import UserError
from tests.conftest import MakeBundle, noise_image

openvino = pytest.importorskip("openvino")
ALL = ["FP32", "BF16", "FP16", "INT8"]


def core(*has: str) -> Any:
    return SimpleNamespace(get_property=lambda device, name: list(has or ALL))


@pytest.fixture
def plan(tiny_bundle: Path) -> Plan:
    return Bundle.open(tiny_bundle).manifest.plan.model_copy(update={"precision": "float16", "weights": None})


@pytest.mark.parametrize("tiles", [True, False])
def test_one_thread_and_tiles(plan: Plan, monkeypatch: pytest.MonkeyPatch, tiles: bool) -> None:
    monkeypatch.setattr(processor, "has_amx", lambda: tiles)
    assert choose_compute(core(), None, plan, 2)[0] == "bf16" or usable(2) == 1
    chosen, notes = choose_compute(core(), None, plan, 1)
    assert chosen == ("f32" if tiles else "bf16")
    assert ["issue 33300" in note for note in notes] == [True] * tiles
    assert choose_compute(core(), "f32", plan, 1) == ("f32", [])
    for weights in (Weights(bits=8, block=None), Weights(bits=4, block=32)):
        few = plan.model_copy(update={"weights": weights})
        assert choose_compute(core(), None, few, 2) == ("f32", []), "bf16 would add its rounding"
        assert choose_compute(core(), "bf16", few, 1) == ("bf16", []), "these have no such operator on one thread"
    for asked in ("bf16", "f16"):
        if tiles:
            with pytest.raises(UserError, match=rf"`compute` {asked}: .*: use f32, or two `threads`"):
                choose_compute(core(), asked, plan, 1)
        else:
            assert choose_compute(core(), asked, plan, 1) == (asked, [])


def test_defaults(plan: Plan) -> None:
    assert choose_compute(core("FP32"), None, plan, 1) == ("f32", [])
    assert choose_compute(core(), None, plan.model_copy(update={"precision": "float32"}), 2) == ("f32", [])
    with pytest.raises(UserError, match="`compute` bf16: this processor has no such products"):
        choose_compute(core("FP32"), "bf16", plan, 2)
    assert gpu_compute(None, plan) == "f16"
    assert gpu_compute("f32", plan) == "f32"
    with pytest.raises(UserError, match="`compute` bf16: GPUs have no such products here"):
        gpu_compute("bf16", plan)


@pytest.mark.parametrize("tiles", [True, False])
def test_rows_are_rounded_where_tiles_multiply_bytes(monkeypatch: pytest.MonkeyPatch, tiles: bool) -> None:
    monkeypatch.setattr(processor, "has_amx", lambda: tiles)
    for threads, group in ((1, 0), (2, WHOLE_ROW if usable(2) > 1 else 0)):
        assert rounding_group("f32", threads) is None, "as the file says"
        assert rounding_group("bf16", threads) == (group if tiles else None)


def test_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for text, expected in ((None, True), ("flags : fpu amx_tile amx_int8", True), ("flags : fpu avx2", False)):
        file = tmp_path / "cpuinfo"
        if text is not None:
            file.write_text(text)
        monkeypatch.setattr(processor, "CPUINFO", file)
        has_amx.cache_clear()
        assert has_amx() is expected
    has_amx.cache_clear()


def test_it_knows_this_processor() -> None:
    assert "f32" in capabilities(load_core())


@pytest.mark.parametrize("one", ["threads", "processors"])
def test_whole_weights_on_one_thread(tiny_llava: Path, make_bundle: MakeBundle, tmp_path: Path, one: str) -> None:
    """In a process of its own, which AMX would end: 32 outputs are enough for the operator."""
    bundle = make_bundle(tiny_llava, target="openvino", weights=None, verify=False)
    noise_image(0).save(tmp_path / "it.png")
    ask = [bundle, "--image", tmp_path / "it.png", "--prompt", "What?", "--max-new-tokens", "2", "--threads"]
    command = [sys.executable, "-m", "fastv_runtime.cli.run", *map(str, ask), "1" if one == "threads" else "2"]
    alone = ["taskset", "-c", "0", *command] if one == "processors" else command
    done = subprocess.run(alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
