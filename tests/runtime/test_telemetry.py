"""Nothing is sent, and no identifier of the device is kept, unless somebody wants ONNX Runtime to."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distributions
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


IMPORTED = """
import sys
from fastv_runtime.backends.openvino.graphs import load_openvino
load_openvino().Core()
import openvino.tools.ovc.telemetry_utils as used
print(used.tm.__name__, "openvino_telemetry" in sys.modules)
"""


def test_openvino_finds_no_telemetry(tmp_path: Path) -> None:
    """It would send an event when it is imported, and count imports under the home directory."""
    pytest.importorskip("openvino")
    if not any(each.name == "openvino-telemetry" for each in distributions()):
        pytest.skip("nothing would be sent")
    environment = {key: value for key, value in os.environ.items() if key != "CI"} | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False"]
    assert list(tmp_path.iterdir()) == []
