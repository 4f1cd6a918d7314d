"""The same model on Triton Inference Server itself: `make triton` installs a build of it beside the environment."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fastv_runtime import Pipeline
from fastv_runtime.serving.triton.parameters import TritonParameters
from fastv_runtime.serving.triton.repository import write_repository
from tests.serving.test_triton import OTHER, PICTURE

grpc = pytest.importorskip("tritonclient.grpc")
INSTALLED = Path(sys.prefix) / "triton"
"""With a NumPy of its own: this build of Triton, 2.51 of October 2024, is of before it took NumPy 2."""
START_S = 60.0
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def distribution() -> Path:
    """The folder of Triton's programs, of the package nvidia-pytriton."""
    folder = INSTALLED / "pytriton" / "tritonserver"
    if not (folder / "python_backend_stubs" / PYTHON).is_dir():
        pytest.skip(f"no Triton for Python {PYTHON} in {INSTALLED}: make triton")
    return folder


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Addresses of Triton's HTTP and gRPC, with the tiny bundle as the model `tiny`."""
    triton = distribution()
    folder = tmp_path_factory.mktemp("triton")
    models = folder / "models"
    write_repository(models, TritonParameters(bundle=tiny_bundle, threads=1, slots=2), name="tiny")
    backends = folder / "backends"
    shutil.copytree(triton / "backends", backends)
    shutil.copy(triton / "python_backend_stubs" / PYTHON / "triton_python_backend_stub", backends / "python")
    # The stub heeds no PYTHONPATH, but takes the environment of the first python3 on PATH.
    venv.create(folder / "venv", symlinks=True)
    packages = folder / "venv" / "lib" / f"python{PYTHON}" / "site-packages"
    paths = [INSTALLED, *(Path(path).resolve() for path in sys.path if path)]
    (packages / "ours.pth").write_text("".join(f"{path}\n" for path in paths))
    libraries = [str(INSTALLED / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    environment = {
        **os.environ,
        "PATH": f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
    }
    http, rpc = free_ports(2)
    command = [
        str(triton / "bin" / "tritonserver"),
        f"--model-repository={models}",
        f"--backend-directory={backends}",
        *("--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={rpc}"),
        *("--allow-metrics=false", "--disable-auto-complete-config", "--exit-timeout-secs=10"),
    ]
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_S
        while not ready(f"http://127.0.0.1:{http}/v2/models/tiny/ready"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{http}/v2/models/tiny", f"127.0.0.1:{rpc}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(30) == 0, log.read_text(errors="replace")
        finally:
            process.kill()


def ready(address: str) -> bool:
    try:
        return httpx.get(address).status_code == 200
    except httpx.TransportError:
        return False


def tensor(name: str, kind: str, values: list[Any]) -> Any:
    dtype = {"BYTES": np.object_, "BOOL": np.bool_, "INT32": np.int32, "FP64": np.float64, "UINT64": np.uint64}[kind]
    found = grpc.InferInput(name, [len(values)], kind)
    found.set_data_from_numpy(np.array(values, dtype=dtype))
    return found


def test_the_configuration_is_taken_as_it_is(server: tuple[str, str]) -> None:
    config = httpx.get(f"{server[0]}/config").json()
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert all(each["optional"] for each in config["input"])


def test_streams_of_grpc(server: tuple[str, str], tiny_pipeline: Pipeline) -> None:
    """Several requests on one connection, each answered piece by piece, with images as bytes."""
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A fox."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this?"}]},
    ]
    asked: dict[str, tuple[list[Any], dict[str, Any]]] = {
        "image": (
            [tensor("PROMPT", "BYTES", [b"Where is it?"]), tensor("IMAGE", "BYTES", [PICTURE])],
            {"images": PICTURE, "prompt": "Where is it?"},
        ),
        "messages": (
            [tensor("MESSAGES", "BYTES", [json.dumps(messages).encode()]), tensor("IMAGE", "BYTES", [PICTURE, OTHER])],
            {"images": [PICTURE, OTHER], "messages": messages},
        ),
        "sampled": (
            [
                tensor("PROMPT", "BYTES", ["Größe?".encode()]),
                tensor("TEMPERATURE", "FP64", [0.7]),
                tensor("SEED", "UINT64", [2**63 + 1]),
            ],
            {"prompt": "Größe?", "temperature": 0.7, "seed": 2**63 + 1},
        ),
    }
    arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
    texts, usages = dict.fromkeys(asked, ""), dict.fromkeys(asked, "")
    with grpc.InferenceServerClient(server[1]) as client:
        client.start_stream(lambda result, error: arrived.put((result, error)))
        for name, (inputs, _) in asked.items():
            client.async_stream_infer("tiny", [*inputs, tensor("STREAM", "BOOL", [True])], request_id=name)
        while not all(usages.values()):
            result, error = arrived.get(timeout=60)
            assert error is None
            name = result.get_response().id
            if result.get_response().outputs:
                texts[name] += result.as_numpy("TEXT").item().decode()
                usages[name] += result.as_numpy("USAGE").item().decode()
    for name, (_, arguments) in asked.items():
        expected = tiny_pipeline.generate(**arguments)
        assert texts[name] == expected.text
        assert json.loads(usages[name])["completion_tokens"] == len(expected.token_ids)


def test_generate_over_http(server: tuple[str, str], tiny_pipeline: Pipeline) -> None:
    expected = tiny_pipeline.generate(prompt="Where is it?", max_new_tokens=9)
    body = {"PROMPT": "Where is it?", "MAX_TOKENS": 9}
    whole = httpx.post(f"{server[0]}/generate", json=body, timeout=60).json()
    assert (whole["TEXT"], whole["FINISH_REASON"]) == (expected.text, "length")
    streamed = httpx.post(f"{server[0]}/generate_stream", json={**body, "STREAM": True}, timeout=60).text
    chunks = [json.loads(line.removeprefix("data: ")) for line in streamed.splitlines() if line]
    assert len(chunks) > 2 and "".join(chunk["TEXT"] for chunk in chunks) == expected.text


def test_errors_have_their_message(server: tuple[str, str]) -> None:
    refused = httpx.post(f"{server[0]}/generate", json={"PROMPT": "What?", "MAX_TOKENS": 0}, timeout=60)
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("MAX_TOKENS 0: must be 1 to 64")


def test_a_client_that_goes_away_is_noticed(server: tuple[str, str], tiny_pipeline: Pipeline) -> None:
    arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with grpc.InferenceServerClient(server[1]) as client:
        client.start_stream(lambda result, error: arrived.put((result, error)))
        inputs = [tensor("PROMPT", "BYTES", [b"Why?"]), tensor("STREAM", "BOOL", [True])]
        for _ in range(6):
            client.async_stream_infer("tiny", inputs)
        arrived.get(timeout=60)
        client.stop_stream(cancel_requests=True)
    expected = tiny_pipeline.generate(prompt="Why?", max_new_tokens=5).text
    answer = httpx.post(f"{server[0]}/generate", json={"PROMPT": "Why?", "MAX_TOKENS": 5}, timeout=60).json()
    assert answer["TEXT"] == expected
