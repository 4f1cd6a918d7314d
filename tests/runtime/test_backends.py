"""All backends of the registry: what each declares, and that each loads a bundle or says in one line why it cannot."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastv_runtime import Bundle, UserError
from fastv_runtime.backends.base import Backend, BackendEntry
from fastv_runtime.backends.registry import BACKENDS, open_backend
from fastv_runtime.cli.bench import parser as bench_parser
from fastv_runtime.cli.options.backends import backend_extras
from fastv_runtime.cli.run import parser as run_parser
from tests.conftest import MakeBundle
from tests.fakes.cuda import FakeCuda

EVERYWHERE = [(entry.name, device) for entry in BACKENDS.values() for device in entry.devices]


@pytest.mark.parametrize("make", [run_parser, bench_parser], ids=["fastv-run", "fastv-bench"])
@pytest.mark.parametrize("entry", BACKENDS.values(), ids=lambda entry: entry.name)
def test_commands_take_every_backend_and_say_what_it_is(
    entry: BackendEntry, make: Callable[[], argparse.ArgumentParser], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    assert f"{entry.name}: {entry.summary}" in make().format_help()
    assert f"{entry.devices[0]} for {entry.name}" in make().format_help()
    for device in entry.devices:
        words = ["some.fastv", "--prompt", "What?", "--backend", entry.name, "--device", device]
        args = make().parse_args(words)
        assert (args.backend, args.device) == (entry.name, device)
        assert backend_extras(args) == entry.extras


@pytest.mark.parametrize(("name", "device"), EVERYWHERE)
def test_a_backend_loads_a_bundle_or_says_why_not(
    name: str,
    device: str,
    tiny_bundle: Path,
    tiny_llava: Path,
    make_bundle: MakeBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda(devices=0))
    if name == "openvino":
        pytest.importorskip("openvino")
        tiny_bundle = make_bundle(tiny_llava, target="openvino", precision="float32", verify=False)
    bundle = Bundle.open(tiny_bundle)
    if device in ("cuda", "gpu"):
        with pytest.raises(UserError, match=r"^[^\n]+$"):
            open_backend(bundle, name, device, threads=1)
        return
    backend: Backend = open_backend(bundle, name, device, threads=1)
    assert ("cpu" if device == "auto" else device) in backend.name, "which one it is, where somebody lets it choose"
    for graph in bundle.manifest.graphs:
        assert callable(backend.engine(graph).bind)
    memory = backend.allocate(64)
    assert memory.nbytes == 64
    assert not np.asarray(memory.read(0, 64)).any()
    called: list[int] = []
    backend.repeated(lambda: called.append(1))()
    backend.synchronize()
    assert called == [1]


@pytest.mark.parametrize("entry", BACKENDS.values(), ids=lambda entry: entry.name)
def test_a_device_that_a_backend_lacks_is_refused(entry: BackendEntry, tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match=f"`device` toaster: backend {entry.name} runs on {' or '.join(entry.devices)}"):
        open_backend(Bundle.open(tiny_bundle), entry.name, "toaster")


def test_an_unknown_backend_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match=f"`backend` other: must be one of {', '.join(BACKENDS)}"):
        open_backend(Bundle.open(tiny_bundle), "other")
