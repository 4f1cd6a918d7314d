"""`compute` of a benchmark: each bundle in several, where its backend can be told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastv_runtime.bench.runners.bundle import BackendChoice
from fastv_runtime.bench.runners.entrants import entrants_of
from fastv_runtime.cli.bench import main
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.errors import UserError
from tests.conftest import MakeBundle

pytest.importorskip("openvino")
COMMON = BackendChoice(path="", name="", threads=2)


@pytest.fixture
def bundles(tiny_llava: Path, tiny_bundle: Path, make_bundle: MakeBundle) -> dict[str, Bundle]:
    path = make_bundle(tiny_llava, target="openvino", precision="float32", verify=False)
    return {"vino": Bundle.open(path), "ort": Bundle.open(tiny_bundle)}


def test_each_is_a_runner_of_its_own(bundles: dict[str, Bundle]) -> None:
    def names(*computes: str) -> list[tuple[str, str | None]]:
        return [(each.name, each.compute) for each, _ in entrants_of(bundles, [], COMMON, computes=computes)]

    assert names() == [("vino", None), ("ort", None)]
    assert names("bf16") == [("vino", "bf16"), ("ort", None)]
    assert names("f32", "bf16") == [("vino f32", "f32"), ("vino bf16", "bf16"), ("ort", None)]
    with pytest.raises(UserError, match="`compute` f32: given twice"):
        names("f32", "f32")
    with pytest.raises(UserError, match="`compute` f32: no bundle's backend can be told what to compute in"):
        entrants_of({"ort": bundles["ort"]}, [], COMMON, computes=["f32"])


def test_the_command_measures_both(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    paths = [str(each.path) for each in bundles.values()]
    report = tmp_path / "it.json"
    main([*paths, "--compute", "f32", "--rounds", "1", "--warmup", "0", "--max-new-tokens", "2", "--json", str(report)])
    found = json.loads(report.read_text())
    assert found["settings"]["compute"] == "f32"
    assert [each["settings"]["backend"] for each in found["runners"]] == ["openvino cpu f32", "ort cpu"]
