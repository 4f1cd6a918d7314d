"""`target` auto: both bundles for CPUs are made and asked, and the one that is faster is what stays."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from fastv_export import export, fastest
from fastv_export.fastest import CANDIDATES, Speed, faster, lines
from fastv_export.progress import Progress
from fastv_export.quantization.presets import DEFAULTS, PROCESSORS
from fastv_export.targets import TARGETS
from fastv_runtime.backends.registry import open_backend
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.errors import UserError
from tests.tiny import write_tiny_llava

OPTIONS = {"layer": 2, "keep": 0.5, "max_text": 32, "max_new_tokens": 16}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "SECONDS", 0.0)


def test_both_are_asked_and_one_stays(tiny_llava: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output = tmp_path / "fast.fastv"
    with caplog.at_level(logging.INFO, "fastv_export"):
        manifest = export(tiny_llava, output, target="auto", **OPTIONS)
    assert list(tmp_path.iterdir()) == [output], "the other one is gone"
    (chosen,) = {spec.dialect for spec in manifest.graphs.values()}
    bundle = Bundle.open(output)
    assert bundle.manifest == manifest
    assert open_backend(bundle).name.startswith(chosen)
    said = [record.message for record in caplog.records]
    for target in CANDIDATES:
        (timed,) = (line for line in said if line.startswith(f"{target}: first token"))
        assert "0.0 ms" not in timed
    assert sum(line.startswith(f"chosen: {chosen}, ") for line in said) == 1


@pytest.mark.parametrize("winner", CANDIDATES)
def test_the_faster_one_stays(tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, winner: str) -> None:
    def times(bundles: Mapping[str, Bundle], progress: Progress) -> dict[str, Speed]:
        assert {name: {spec.dialect for spec in each.manifest.graphs.values()} for name, each in bundles.items()} == {
            name: {name} for name in CANDIDATES
        }
        return {name: Speed(10.0, 1.0 if name == winner else 2.0, 4) for name in bundles}

    monkeypatch.setattr(fastest, "time_bundles", times)
    manifest = export(tiny_llava, tmp_path / "it.fastv", target="auto", precision="fp32", verify=False, **OPTIONS)
    assert {spec.dialect for spec in manifest.graphs.values()} == {winner}


def test_what_one_of_them_does_not_take(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """ONNX Runtime's attention takes heads of multiples of eight channels: nothing is exported for it."""
    source = write_tiny_llava(tmp_path / "source", layers=3, head_dim=20)
    with caplog.at_level(logging.INFO, "fastv_export"):
        manifest = export(source, tmp_path / "it.fastv", target="auto", precision="fp32", verify=False, **OPTIONS)
    assert {spec.dialect for spec in manifest.graphs.values()} == {"openvino"}
    assert "chosen: openvino, which alone takes heads of 20 channels" in [each.message for each in caplog.records]


def test_what_is_said_of_other_answers() -> None:
    speeds = {"openvino": Speed(500.0, 20.0, 9), "ort": Speed(600.0, 18.0, 9)}
    assert faster(speeds) == "ort", "63 tokens more, 2 ms less each, are more than 100 ms"
    assert lines(speeds) == [
        "openvino: first token 500.0 ms, then 20.0 ms a token; 64 tokens in 1,760 ms (medians of 9 questions)",
        "ort: first token 600.0 ms, then 18.0 ms a token; 64 tokens in 1,734 ms (medians of 9 questions)",
        "chosen: ort, 0.99 of openvino's time for 64 tokens; openvino for answers of fewer than 51: give that as "
        "`target` then",
    ]
    speeds["openvino"] = Speed(400.0, 20.0, 9)
    assert lines(speeds)[-1] == (
        "chosen: openvino, 0.96 of ort's time for 64 tokens; ort for answers of more than 101: give that as "
        "`target` then"
    )
    speeds["openvino"] = Speed(600.5, 17.0, 9)
    assert lines(speeds)[-1] == "chosen: openvino, 0.96 of ort's time for 64 tokens", "ort is faster at one token alone"
    speeds["openvino"] = Speed(400.0, 18.0, 9)
    assert lines(speeds)[-1] == "chosen: openvino, 0.88 of ort's time for 64 tokens"


def test_candidates_have_the_same_defaults() -> None:
    """One of them stands for both until they are exported."""
    assert set(CANDIDATES) == set(PROCESSORS)
    assert len({DEFAULTS[target] for target in CANDIDATES}) == 1


def test_without_one_of_the_runtimes(tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="openvino is not installed"):
        export(tiny_llava, tmp_path / "it.fastv", target="auto", **OPTIONS)
    assert not list(tmp_path.iterdir())


def test_what_no_cpu_computes(tiny_llava: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no such kernels: use `target` trt"):
        export(tiny_llava, tmp_path / "it.fastv", target="auto", precision="fp8", **OPTIONS)
    assert "auto" not in TARGETS, "no dialect of its own"
