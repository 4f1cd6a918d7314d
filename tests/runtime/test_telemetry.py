"""ONNX Runtime sends nothing and keeps no identifier of the device, unless somebody wants it to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import ROOT

ASKED = """
import sys
from pathlib import Path
import fastv_export  # imports the runtime before anything that imports ONNX Runtime
import onnxruntime
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
print(*[path.name for path in Path(sys.argv[2]).rglob("*") if path.is_file()])
"""


@pytest.mark.parametrize(("variable", "kept"), [(None, False), ("0", True)])
def test_no_identifier_of_the_device_is_kept(
    tiny_bundle: Path, tmp_path: Path, variable: str | None, kept: bool
) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("ORT_DISABLE_TELEMETRY", "CI")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    if variable is not None:
        environment["ORT_DISABLE_TELEMETRY"] = variable
    graph = next(tiny_bundle.rglob("select.onnx"))
    done = subprocess.run(
        [sys.executable, "-c", ASKED, graph, tmp_path], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if not kept:
        assert done.stdout.split() == []
    elif not done.stdout.split():
        pytest.skip("this ONNX Runtime keeps none in any case")
