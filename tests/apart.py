"""Commands in processes of their own that begin with everything imported: to be killed, starved, or run in pairs."""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = [
    "fastv_export.api",
    "fastv_calib.api",
    "fastv_calib.report.page",
    "fastv_runtime.cli.bench",
    "fastv_runtime.cli.run",
    "fastv_runtime.generation.pipeline",
    "onnxruntime",
    "tests.traces",
    "torch.distributed.tensor",
    "torch.onnx._internal.exporter._core",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
]
"""What is not there is left out: it is imported later, if at all."""
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)

Prepare = Callable[[], None]
"""Called in the new process, before the command."""


class Apart:
    """A command that runs; what it prints goes to files.

    module: has the command's `main`. traces: folder of structures that are traced already.
    """

    def __init__(self, module: str, *arguments: object, log: Path, traces: Path, prepare: Prepare | None = None):
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        given = [str(argument) for argument in arguments]
        self.process: BaseProcess = CONTEXT.Process(
            target=_run, args=(module, given, str(self._out), str(self._err), str(traces), prepare)
        )
        self.process.start()

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def said(self) -> list[str]:
        """Lines that begin with a command's name."""
        return [line for line in self.err.splitlines() if line.startswith("fastv-")]

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait until something happened."""
        deadline = time.monotonic() + 120
        while not happened():
            assert self.process.is_alive(), f"it ended before that: {self.err}"
            assert time.monotonic() < deadline, self.err
            time.sleep(0.005)

    def send(self, signum: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signum)

    def code(self) -> int:
        """The exit code once it has ended; minus the signal if one ended it."""
        self.process.join(120)
        assert self.process.exitcode is not None, "it does not end"
        return self.process.exitcode


def _run(module: str, arguments: list[str], out: str, err: str, folder: str, prepare: Prepare | None) -> None:
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    # Where the tests themselves run in a shell's background, interrupts are ignored, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    import torch

    from fastv_export.tracing import trace
    from tests import traces

    torch.set_num_threads(1)
    trace.as_traced = traces.shared(trace.as_traced, Path(folder))
    if prepare is not None:
        prepare()
    importlib.import_module(module).main(arguments)
