"""An export's memory does not grow with its model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastv_export.checkpoint.checkpoint import Checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from configurations import as_config
from random_checkpoint import write_random_checkpoint

from tests.tiny import write_tiny_llava

ALLOWED = 832 << 20
"""Bytes above what the imports take, whatever the model's size: the traced program, blocks of weights, and the chunk of
a graph that is verified (64 MiB of weights, twice that in fp32, and what ONNX Runtime keeps for the next)."""

EXPORT = """
import sys, threading, time
from pathlib import Path
import fastv_export.exporting, onnxruntime, torch.onnx, onnxscript.optimizer
fastv_export.exporting.family_of("llava", "config.json").model_class()
def status(field):
    return 1024 * int(Path("/proc/self/status").read_text().partition(field + ":")[2].split()[0])
most = 0
def watch():
    global most
    while True:
        most = max(most, status("RssAnon"))
        time.sleep(0.005)
peak, anonymous = status("VmHWM"), status("RssAnon")
threading.Thread(target=watch, daemon=True).start()
from fastv_export.cli import main
main(sys.argv[1:])
print(status("VmHWM") - peak if sys.argv[-1] == "ort" else most - anonymous)
"""
"""Prints what an export takes beyond its imports. Of OpenVINO's, which maps the files that it reads and writes, only
what is not a file's: pages of files go when somebody else needs the memory."""


# Not getrusage: what it calls the peak of a process begins with that of the one that started it.
@pytest.mark.parametrize("target", ["ort", "openvino"])
def test_a_model_is_never_in_memory(target: str, tmp_path: Path) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    config = json.loads((write_tiny_llava(tmp_path / "tiny") / "config.json").read_text())
    config["text_config"] |= {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 3,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "vocab_size": 96000,
    }
    write_random_checkpoint(as_config(config), tmp_path / "source", dtype="fp16")
    size = sum(tensor.nbytes for tensor in Checkpoint(tmp_path / "source").tensors.values())
    assert size > 1.3 * ALLOWED
    arguments = [str(tmp_path / "source"), "-o", str(tmp_path / "out.fastv"), "--precision", "fp16", "--target", target]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", EXPORT, *arguments]
    peak = int(subprocess.run(run, check=True, capture_output=True, text=True, env=environment).stdout)
    assert peak < ALLOWED
