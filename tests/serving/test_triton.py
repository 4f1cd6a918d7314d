"""A model repository for Triton: read by Triton's own schema, and run on a stand-in for its Python backend."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import runpy
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fastv_runtime import Pipeline
from fastv_runtime.errors import UserError
from fastv_runtime.generation.grammar import Grammar
from fastv_runtime.serving.triton.parameters import TritonParameters
from fastv_runtime.serving.triton.repository import CONFIG, MODEL, write_repository
from tests.conftest import noise_image
from tests.fakes import triton as fake
from tests.fakes.triton import InferenceRequest, TritonError

SOON = 60.0
Open = Callable[..., Any]


def png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


PICTURE, OTHER = png(noise_image(0)), png(noise_image(1))


def parsed(config: Path) -> Any:
    """config.pbtxt, by Triton's model_config.proto."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return text_format.Parse(config.read_text(encoding="utf-8"), ModelConfig())


@pytest.fixture
def opened(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Loads a written repository as Triton does: model.py from its file, the configuration as JSON."""
    from google.protobuf.json_format import MessageToJson

    monkeypatch.setitem(__import__("sys").modules, "triton_python_backend_utils", fake)
    models = []

    def load(**parameters: Any) -> Any:
        folder = write_repository(tmp_path / "models", TritonParameters(bundle=tiny_bundle, threads=1, **parameters))
        model = runpy.run_path(str(folder / MODEL))["TritonPythonModel"]()
        model.initialize(
            {
                "model_config": MessageToJson(parsed(folder / CONFIG), preserving_proto_field_name=True),
                "model_instance_kind": "CPU",
                "model_instance_device_id": "0",
                "model_repository": str(folder),
                "model_version": "1",
                "model_name": folder.name,
            }
        )
        models.append(model)
        return model

    yield load
    for model in models:
        model.finalize()


def ask(model: Any, *requests: InferenceRequest) -> None:
    asyncio.run(asyncio.wait_for(model.execute(list(requests)), SOON))
    for request in requests:
        assert request.sender.closed


def outputs(request: InferenceRequest) -> list[dict[str, str]]:
    """Of each response; every one has all outputs."""
    found = []
    for response in request.sender.responses:
        assert not response.has_error(), response.error().message()  # type: ignore[union-attr]
        found.append({tensor.name(): tensor.as_numpy().item().decode() for tensor in response.output_tensors()})
    assert all(each.keys() == {"TEXT", "FINISH_REASON", "USAGE"} for each in found)
    return found


def refusal(request: InferenceRequest) -> tuple[int, str]:
    (response,) = request.sender.responses
    error = response.error()
    assert error is not None
    return error.code(), error.message()


def test_the_configuration_is_one_that_triton_reads(tiny_bundle: Path, tmp_path: Path) -> None:
    odd = tmp_path / 'a "quoted" name \\ of ünïcode.fastv'
    odd.symlink_to(tiny_bundle)
    parameters = TritonParameters(bundle=odd, backend="ort", threads=2, slots=3)
    config = parsed(write_repository(tmp_path, parameters, name="vlm", gpu=True) / CONFIG)
    assert (config.name, config.backend, config.platform, config.max_batch_size) == ("vlm", "python", "", 0)
    assert config.model_transaction_policy.decoupled
    assert {(each.name, each.optional) for each in config.input} >= {("PROMPT", True), ("IMAGE", True), ("KEEP", True)}
    assert {each.name: list(each.dims) for each in config.input}["IMAGE"] == [-1]
    assert [each.name for each in config.output] == ["TEXT", "FINISH_REASON", "USAGE"]
    (group,) = config.instance_group
    assert (group.count, group.kind, list(group.gpus)) == (1, group.KIND_GPU, [0])
    found = {name: value.string_value for name, value in config.parameters.items()}
    assert found["bundle"] == str(odd) and (found["threads"], found["slots"]) == ("2", "3")


def test_answers_are_those_of_a_pipeline(opened: Open, tiny_pipeline: Pipeline) -> None:
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A fox."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this?"}]},
    ]
    address = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
    asked = [
        ({"PROMPT": "Where is it?", "IMAGE": PICTURE}, {"images": PICTURE, "prompt": "Where is it?"}),
        ({"PROMPT": "Where is it?", "IMAGE": address}, {"images": PICTURE, "prompt": "Where is it?"}),
        ({"PROMPT": "Hello", "SYSTEM": "Be kind."}, {"prompt": "Hello", "system": "Be kind."}),
        (
            {"MESSAGES": json.dumps(messages), "IMAGE": [PICTURE, OTHER]},
            {"images": [PICTURE, OTHER], "messages": messages},
        ),
        (
            {"PROMPT": "Which?", "REGEX": "(red|blue), [0-9]{3}", "STOP": ["0", ", "]},
            {"prompt": "Which?", "grammar": Grammar.regex("(red|blue), [0-9]{3}"), "stop": ["0", ", "]},
        ),
        (
            {"PROMPT": "Why?", "IMAGE": OTHER, "KEEP": 0.25, "TEMPERATURE": 0.7, "TOP_P": 0.9, "SEED": 2**63 + 1},
            {"images": OTHER, "prompt": "Why?", "keep": 0.25, "temperature": 0.7, "top_p": 0.9, "seed": 2**63 + 1},
        ),
    ]
    requests = [InferenceRequest({**inputs, "MAX_TOKENS": 12}) for inputs, _ in asked]
    streams = [InferenceRequest({**inputs, "MAX_TOKENS": 12, "STREAM": True}) for inputs, _ in asked]
    ask(opened(slots=2, waiting=20), *requests, *streams)
    for request, stream, (_, arguments) in zip(requests, streams, asked, strict=True):
        expected = tiny_pipeline.generate(**arguments, max_new_tokens=12)
        (whole,) = outputs(request)
        assert (whole["TEXT"], whole["FINISH_REASON"]) == (expected.text, expected.finish_reason)
        *pieces, last = outputs(stream)
        assert "".join(each["TEXT"] for each in pieces) == expected.text and last["TEXT"] == ""
        assert not any(each["FINISH_REASON"] or each["USAGE"] for each in pieces)
        usage = json.loads(last["USAGE"])
        assert usage["completion_tokens"] == len(expected.token_ids)
        assert usage["visual_tokens"] == expected.visual_tokens
        assert usage["kept_tokens"] == len(expected.kept_visual_tokens)
    assert max(len(outputs(stream)) for stream in streams) > 3


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "there is no question: give PROMPT, or messages"),
        ({"PROMPT": "What?", "MESSAGES": "[]"}, "PROMPT: write it as one of the messages, or leave the messages out"),
        ({"PROMPT": "What?", "MAX_TOKENS": 0}, "MAX_TOKENS 0: must be 1 to 64"),
        ({"PROMPT": "What?", "KEEP": 2.0}, "KEEP 2"),
        ({"PROMPT": "What?", "TOP_P": 0.5}, "TOP_P"),
        ({"PROMPT": b"\xff"}, "PROMPT: not valid Unicode"),
        ({"PROMPT": "What?", "IMAGE": b"not an image"}, "not an image in a known format"),
        ({"PROMPT": "What?", "IMAGE": "data:image/png,abc"}, "not an image in a known format"),
        ({"PROMPT": "What?", "IMAGE": "data:image/png;base64,abcde"}, "IMAGE: cannot be fetched: Invalid base64"),
        ({"PROMPT": "What?", "IMAGE": "data:image/pñg;base64,abcd"}, "IMAGE: a data: address that is not ASCII"),
        ({"PROMPT": "What?", "IMAGE": "http://127.0.0.1/a.png"}, "not an image in a known format"),
        ({"PROMPT": "What?", "JSON_SCHEMA": "{"}, "JSON_SCHEMA: not JSON"),
        ({"PROMPT": "What?", "REGEX": "("}, "REGEX"),
        ({"PROMPT": "What?", "REGEX": "a", "JSON_SCHEMA": "{}"}, "REGEX: the answer follows JSON_SCHEMA already"),
        ({"PROMPT": "What?", "CUTS": [0.5, 0.2, 0.1]}, "CUTS"),
        ({"MESSAGES": "[{"}, "MESSAGES: not JSON"),
        ({"MESSAGES": '{"role": "user"}'}, "messages"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(opened: Open, inputs: dict[str, Any], message: str) -> None:
    request = InferenceRequest(inputs)
    ask(opened(), request)
    code, said = refusal(request)
    assert code == TritonError.INVALID_ARG
    assert said.startswith(message) or message in said
    assert "\n" not in said


@pytest.mark.parametrize("kind", ["image", "video"])
def test_messages_open_no_files_of_the_server(opened: Open, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(PICTURE)
    content = [{"type": kind, kind: str(secret)}, {"type": "text", "text": "What is it?"}]
    request = InferenceRequest({"MESSAGES": json.dumps([{"role": "user", "content": content}])})
    ask(opened(), request)
    assert refusal(request) == (
        TritonError.INVALID_ARG,
        'MESSAGES: a part holds an image or a video itself: give images as IMAGE, and write {"type": "image"} where '
        "each belongs",
    )


def test_a_client_that_goes_away_frees_its_place(opened: Open, tiny_pipeline: Pipeline) -> None:
    model = opened(slots=1, waiting=2)
    left, waited, stayed = (InferenceRequest({"PROMPT": f"{word}?", "STREAM": True}) for word in ("Why", "How", "Who"))

    async def leave() -> None:
        answering = asyncio.ensure_future(model.execute([left, waited, stayed]))
        waited.sender.cancelled = True
        while not left.sender.responses:
            await asyncio.sleep(0)
        left.sender.cancelled = True
        await asyncio.wait_for(answering, SOON)

    asyncio.run(leave())
    assert all(request.sender.closed for request in (left, waited, stayed))
    assert refusal(waited)[0] == TritonError.CANCELLED
    assert outputs(left)[-1]["FINISH_REASON"] in ("cancelled", "length", "stop")
    assert "".join(each["TEXT"] for each in outputs(stayed)) == tiny_pipeline.generate(prompt="Who?").text


def test_more_than_may_wait_are_refused(opened: Open) -> None:
    requests = [InferenceRequest({"PROMPT": "Why?"}) for _ in range(4)]
    ask(opened(slots=1, waiting=1), *requests)
    refused = [request for request in requests if request.sender.responses[0].has_error()]
    assert len(refused) == 2
    assert all(refusal(each)[0] == TritonError.UNAVAILABLE for each in refused)
    assert "queue is full" in refusal(refused[0])[1]


def test_a_timeout_of_the_request_is_its_deadline(opened: Open) -> None:
    request = InferenceRequest({"PROMPT": "Why?"}, timeout=1)
    ask(opened(), request)
    assert refusal(request)[0] == TritonError.UNAVAILABLE


def test_an_unloaded_model_finishes_what_runs_and_takes_no_more(opened: Open) -> None:
    model = opened(slots=1)
    running, late = InferenceRequest({"PROMPT": "Why?", "STREAM": True}), InferenceRequest({"PROMPT": "Why?"})

    async def unload() -> None:
        answering = asyncio.ensure_future(model.execute([running]))
        while not running.sender.responses:
            await asyncio.sleep(0)
        assert model.is_ready()
        await asyncio.to_thread(model.finalize)
        await answering
        await model.execute([late])

    asyncio.run(unload())
    assert outputs(running)[-1]["FINISH_REASON"] in ("length", "stop")
    assert not model.is_ready() and refusal(late)[0] == TritonError.UNAVAILABLE


def test_only_the_first_gpu_is_used(tiny_bundle: Path, opened: Open, tmp_path: Path) -> None:
    model = opened()
    args = {
        "model_config": json.dumps({"parameters": {"bundle": {"string_value": str(tiny_bundle)}}}),
        "model_instance_kind": "GPU",
        "model_instance_device_id": "1",
        "model_repository": str(tmp_path),
    }
    with pytest.raises(UserError, match="GPU 1: this program uses the first GPU that it sees"):
        type(model)().initialize(args)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"slots": {"string_value": "0"}}, "slots is '0': must be at least 1"),
        ({"slot": {"string_value": "1"}}, "slot is no field that this program knows"),
        ({"bundle": {"string_value": "nowhere"}}, "nowhere"),
    ],
)
def test_a_configuration_that_was_changed_for_the_worse(
    tiny_bundle: Path, opened: Open, tmp_path: Path, parameters: dict[str, Any], message: str
) -> None:
    model = opened()
    args = {
        "model_config": json.dumps({"parameters": {"bundle": {"string_value": str(tiny_bundle)}, **parameters}}),
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
        "model_repository": str(tmp_path),
    }
    with pytest.raises(UserError, match=message):
        type(model)().initialize(args)


def test_a_bundle_may_stand_beside_the_model(tiny_bundle: Path, opened: Open, tmp_path: Path) -> None:
    (tmp_path / "own.fastv").symlink_to(tiny_bundle)
    model = type(opened())()
    parameters = {"bundle": {"string_value": "own.fastv"}, "EXECUTION_ENV_PATH": {"string_value": "/env.tar.gz"}}
    args = {
        "model_config": json.dumps({"parameters": parameters}),
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
        "model_repository": str(tmp_path),
    }
    model.initialize(args)
    model.finalize()


def test_a_repository_is_written_again_and_nothing_else_replaced(tiny_bundle: Path, tmp_path: Path) -> None:
    parameters = TritonParameters(bundle=tiny_bundle)
    folder = write_repository(tmp_path / "new" / "models", parameters, name="vlm")
    assert folder == tmp_path / "new" / "models" / "vlm"
    assert [each.name for each in folder.parent.iterdir()] == ["vlm"]
    assert stat.S_IMODE(folder.stat().st_mode) & 0o055 == 0o055
    before = (folder / CONFIG).read_text()
    (folder / "1" / "__pycache__").mkdir()
    write_repository(folder.parent, TritonParameters(bundle=tiny_bundle, slots=4), name="vlm")
    assert before != (folder / CONFIG).read_text() and '"slots"' in (folder / CONFIG).read_text()

    (folder / "1" / "weights.bin").write_bytes(b"theirs")
    with pytest.raises(UserError, match=r"vlm: something else is there: remove it, or give another place"):
        write_repository(folder.parent, parameters, name="vlm")
    assert (folder / "1" / "weights.bin").read_bytes() == b"theirs"
    (folder / "1" / "weights.bin").unlink()
    (folder / CONFIG).write_text('name: "theirs"')
    with pytest.raises(UserError, match="something else is there"):
        write_repository(folder.parent, parameters, name="vlm")
    assert (folder / CONFIG).read_text() == 'name: "theirs"'
    (tmp_path / "file").write_text("theirs")
    for out, name in ((tmp_path, "file"), (tmp_path / "file", "vlm"), (tmp_path, "../vlm"), (tmp_path, "")):
        with pytest.raises(UserError):
            write_repository(out, parameters, name=name)
    with pytest.raises(UserError, match="bundle"):
        write_repository(tmp_path, TritonParameters(bundle=tmp_path / "none.fastv"))
    assert (tmp_path / "file").read_text() == "theirs"


def test_what_is_not_written_whole_is_not_there(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="the disk is full"):
        write_repository(tmp_path, TritonParameters(bundle=tiny_bundle))
    assert list(tmp_path.iterdir()) == []
