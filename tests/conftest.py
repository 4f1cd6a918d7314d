"""Checkpoints and bundles that many tests share, each made once a session."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from fastv_export.exporting import export_bundle
from fastv_export.plan import CutOption, Options
from fastv_export.progress import Progress
from fastv_export.tracing import trace
from fastv_runtime import Pipeline
from tests import traces
from tests.tiny import write_tiny_llava

DEMO = Path(__file__).parent.parent / "demo" / "checkpoint"
MakeBundle = Callable[..., Path]
AS_TRACED = trace.as_traced

# Tests import OpenVINO by its name, too: it would send an event (`fastv_runtime/telemetry.py`).
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

# Tiny products are over before a second thread has woken up; on a busy machine waiting for it costs far more.
torch.set_num_threads(1)

# The same examples at every run, and no verdict by the clock.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def shared_traces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Exports within these processes trace each structure once a run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "traces"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "as_traced", traces.shared(trace.as_traced, folder))
        traces.read_registry_once(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hashes are remembered for these tests alone, in commands that they start too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def own_traces(shared_traces: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that changes what is traced, or asks whether two exports are the same."""
    monkeypatch.setattr(trace, "as_traced", AS_TRACED)


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llava(tmp_path_factory.mktemp("checkpoints") / "tiny-llava")


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """Export a checkpoint once per set of options; at K=2, keep 0.5, where they say nothing else."""
    made: dict[tuple[Path, Options], Path] = {}
    folder = tmp_path_factory.mktemp("bundles")

    def make(source: Path, **options: object) -> Path:
        key = (source, Options(**{"layer": 2, "keep": 0.5} | options))  # type: ignore[arg-type]
        if key not in made:
            made[key] = folder / f"{len(made)}.fastv"
            export_bundle(source, made[key], key[1], Progress(None))
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_bundle(tiny_llava: Path, make_bundle: MakeBundle) -> Path:
    """The tiny LLaVA at K=2, keep 0.5, two images at most."""
    return make_bundle(tiny_llava, max_images=2, max_text=64, max_new_tokens=64)


@pytest.fixture(scope="session")
def tiny_chain(tiny_llava: Path, make_bundle: MakeBundle) -> Path:
    """The tiny LLaVA with two cuts: 72 of an image's 144 visual tokens from layer 1 on, 29 from layer 3 on."""
    return make_bundle(tiny_llava, verify=False, cuts=(CutOption(1, 0.5), CutOption(3, 0.2)), max_new_tokens=16)


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_bundle: Path) -> Pipeline:
    return Pipeline.load(tiny_bundle, threads=1)


@pytest.fixture
def image() -> Image.Image:
    return noise_image(0)


def noise_image(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """An image of smooth noise, so that resizing leaves something to see."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)
