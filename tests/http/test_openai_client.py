"""OpenAI's Python client, unchanged, against a server: what it is answered is what a pipeline answers."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import numpy as np
import openai
import pytest
from jsonschema import validate
from PIL import Image

from fastv_runtime import Pipeline
from fastv_runtime.generation.calls.answer import Answer
from fastv_runtime.generation.kept_image import numbered
from tests.conftest import noise_image
from tests.http.asking import IMAGE, MODEL, QUESTION, asked, data_address, png, said, shown
from tests.http.conftest import Serving

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="session")
def expected(tiny_pipeline: Pipeline) -> Answer:
    """What the pipeline answers to the usual question."""
    return tiny_pipeline.generate(IMAGE, QUESTION, max_new_tokens=12)


def test_an_answer_about_an_image(client: openai.OpenAI, expected: Answer) -> None:
    found = client.chat.completions.create(**asked(max_tokens=12))
    (choice,) = found.choices
    assert choice.message.content == expected.text
    assert choice.message.role == "assistant"
    assert choice.finish_reason == expected.finish_reason
    assert found.object == "chat.completion" and found.model == MODEL
    usage = found.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert usage.prompt_tokens == expected.prompt_tokens
    assert usage.completion_tokens == len(expected.token_ids)
    assert usage.total_tokens == expected.prompt_tokens + len(expected.token_ids)
    assert extra(usage) == {"visual_tokens": expected.visual_tokens, "kept_tokens": len(expected.kept_visual_tokens)}
    fastv = extra(found)["fastv"]
    found_cuts = [each | {"reused_length": 0} for each in fastv["cuts"]]  # another test may have asked the same before
    assert found_cuts == [each.model_dump() for each in expected.cuts]
    assert fastv["timings_ms"].keys() >= {"ttft", "vision", "prefix", "suffix"}
    assert "views" not in fastv


def test_a_stream_says_the_same(client: openai.OpenAI, expected: Answer) -> None:
    chunks = list(
        client.chat.completions.create(**asked(max_tokens=12), stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected.text
    assert len(chunks) > 4, "not in pieces"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    found = extra(chunks[0])["fastv"]["cuts"]
    assert [each | {"reused_length": 0} for each in found] == [each.model_dump() for each in expected.cuts]
    assert extra(chunks[-2])["fastv"]["timings_ms"]["ttft"] > 0
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert all(chunk.usage is None for chunk in client.chat.completions.create(**asked(max_tokens=3), stream=True))


def test_sampling_is_the_pipelines(client: openai.OpenAI, tiny_pipeline: Pipeline) -> None:
    chosen: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "seed": 7}
    found = client.chat.completions.create(**asked(max_completion_tokens=12), **chosen)
    assert found.choices[0].message.content == tiny_pipeline.generate(IMAGE, QUESTION, max_new_tokens=12, **chosen).text
    other = client.chat.completions.create(**asked(max_completion_tokens=12), temperature=0.8, seed=8)
    assert other.choices[0].message.content != found.choices[0].message.content


def test_what_changes_nothing_is_taken(client: openai.OpenAI, expected: Answer) -> None:
    found = client.chat.completions.create(
        **asked(max_tokens=12),
        temperature=0,
        top_p=1,
        seed=-3,
        n=1,
        user="me",
        metadata={"a": "b"},
        store=False,
        frequency_penalty=0,
        logprobs=False,
        tools=[],
        response_format={"type": "text"},
    )
    assert found.choices[0].message.content == expected.text


def test_a_stop_string_ends_an_answer(client: openai.OpenAI, expected: Answer) -> None:
    stop = expected.text[len(expected.text) // 2 :][:3]
    for given in (stop, ["never said", stop]):
        found = client.chat.completions.create(**asked(max_tokens=12), stop=given)
        assert found.choices[0].message.content == expected.text.partition(stop)[0]
        assert found.choices[0].finish_reason == "stop"


def test_a_conversation_goes_on(client: openai.OpenAI, tiny_pipeline: Pipeline) -> None:
    """The assistant's message is given back as the client has it."""
    request = asked(shown(data_address(png())), said("What?"), max_tokens=4)
    first = client.chat.completions.create(**request).choices[0].message
    second = shown(data_address(png(noise_image(1))))
    messages = [*request["messages"], first, {"role": "user", "content": [second, said("And?")]}]
    found = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=6)
    expected = tiny_pipeline.generate(
        messages=[
            {"role": "user", "content": [{"type": "image", "image": IMAGE}, said("What?")]},
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [{"type": "image", "image": noise_image(1)}, said("And?")]},
        ],
        max_new_tokens=6,
    )
    assert found.choices[0].message.content == expected.text
    assert found.usage is not None and found.usage.prompt_tokens == expected.prompt_tokens


def test_other_ways_to_write_a_message(client: openai.OpenAI, expected: Answer) -> None:
    address = data_address(png())
    for image in (
        {"type": "input_image", "image_url": address},
        {"type": "input_image", "image_url": address, "detail": "auto"},
        {"type": "image_url", "image_url": address},
        {"type": "image_url", "image_url": {"url": address, "detail": "high"}},
    ):
        found = client.chat.completions.create(**asked(image, said(QUESTION), max_tokens=12))
        assert found.choices[0].message.content == expected.text


def test_developers_are_the_system(client: openai.OpenAI, tiny_pipeline: Pipeline) -> None:
    expected = tiny_pipeline.generate(prompt=QUESTION, system="Be brief.", max_new_tokens=6).text
    for role in ("system", "developer"):
        messages = [{"role": role, "content": "Be brief."}, {"role": "user", "content": QUESTION}]
        found = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=6)
        assert found.choices[0].message.content == expected


def test_json_by_a_schema(client: openai.OpenAI) -> None:
    whole = []
    for seed in range(8):
        found = client.chat.completions.create(
            **asked(max_tokens=64),
            temperature=1.0,
            seed=seed,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
        )
        if found.choices[0].finish_reason == "stop":  # of random weights, whose spaces may fill the limit
            whole.append(json.loads(found.choices[0].message.content or ""))
            validate(whole[-1], SCHEMA)
    assert len({each["n"] for each in whole}) > 1


def test_an_expression(client: openai.OpenAI) -> None:
    shape = {"type": "regex", "regex": "(red|blue), [0-9]{2}"}
    found = client.chat.completions.create(**asked(max_tokens=60), extra_body={"response_format": shape})
    assert re.fullmatch(shape["regex"], found.choices[0].message.content or "")


def test_keep_of_one_request(client: openai.OpenAI, tiny_pipeline: Pipeline) -> None:
    for asks in ({"keep": 0.25}, {"cuts": [0.25]}, {"keep": "auto", "share": 0.6}):
        found = client.chat.completions.create(**asked(max_tokens=6), extra_body=asks)
        expected = tiny_pipeline.generate(IMAGE, QUESTION, max_new_tokens=6, **asks)  # type: ignore[arg-type]
        assert found.choices[0].message.content == expected.text
        assert extra(found.usage)["kept_tokens"] == len(expected.kept_visual_tokens) < 72


def test_a_servers_own_keep_is_of_requests_that_say_nothing(serving: Serving) -> None:
    from tests.http.asking import ask

    app = serving.app(keep=0.25)
    kept = [ask(app, asked(max_tokens=1, **asks)).json()["usage"]["kept_tokens"] for asks in ({}, {"keep": 0.5})]
    assert kept == [36, 72]


def test_views_say_which_token_is_where(client: openai.OpenAI, tiny_pipeline: Pipeline) -> None:
    images = [IMAGE, noise_image(3, (30, 70))]
    parts = [shown(data_address(png(image))) for image in images]
    found = client.chat.completions.create(
        **asked(*parts, said(QUESTION), max_tokens=1), extra_body={"fastv": {"views": True}}
    )
    generation = tiny_pipeline.stream(images, QUESTION, max_new_tokens=1)
    views = extra(found)["fastv"]["views"]
    expected = numbered(generation._visuals)
    assert len(views) == 2
    for view, other in zip(views, expected, strict=True):
        assert (view["rows"], view["columns"]) == other.tokens.shape
        assert view["tokens"] == other.tokens.ravel().tolist()
        image = Image.open(io.BytesIO(base64.b64decode(view["image"].partition(",")[2])))
        assert np.array_equal(np.asarray(image), np.asarray(other.image))


def test_the_model_is_listed(client: openai.OpenAI, serving: Serving) -> None:
    (model,) = client.models.list()
    plan = serving.model.manifest.plan
    assert model.id == MODEL
    fastv = extra(model)["fastv"]
    assert fastv["cuts"] == [{"layer": 2, "keep": 0.5, "ranker": "fastv"}]
    assert (fastv["prunes"], fastv["takes_videos"]) == (True, False)
    assert (fastv["max_text"], fastv["max_visual"]) == (plan.max_text, plan.max_visual)
    assert client.models.retrieve(MODEL) == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"n": 2}, "n is 2: must be 1", "n"),
        ({"logprobs": True}, "logprobs: this server does not support it", "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools: this server does not", "tools"),
        ({"presence_penalty": 0.5}, "presence_penalty: this server does not support it", "presence_penalty"),
        ({"max_tokens": 65}, "`max_tokens` 65: this bundle supports 1 to 64", "max_tokens"),
        ({"max_completion_tokens": 0}, "`max_completion_tokens` 0: must be 1 to 64", "max_completion_tokens"),
        ({"temperature": -1}, "`temperature` -1: must be", "temperature"),
        ({"top_p": 0.5}, "top_p: changes nothing without temperature", "top_p"),
        ({"stop": [""]}, "stop", "stop"),
        ({"stop": ["a"] * 5}, "stop", "stop"),
        ({"extra_body": {"keep": 2}}, "`keep`", "keep"),
        ({"extra_body": {"cuts": [0.5, 0.2]}}, "`cuts`", "cuts"),
        ({"extra_body": {"top_k": 5}}, "top_k is no parameter that this server knows", "top_k"),
        ({"extra_body": {"fastv": {"view": True}}}, "fastv.view is no field", "fastv"),
        ({"response_format": {"type": "xml"}}, "response_format", "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "no"}}}},
            "json_schema",
            "response_format",
        ),
        ({"extra_body": {"response_format": {"type": "regex", "regex": "("}}}, "regex", "response_format"),
        ({"messages": []}, "messages", "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the last one must be the user's", "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}, "messages", "messages"),
        ({"messages": [{"role": "user", "content": "x", "name": "me"}]}, "messages.0.name is no field", "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0] is empty", "messages"),
        ({"messages": [{"role": "user", "content": "red " * 70}]}, "max_text", "messages"),
        ({"messages": [{"role": "user", "content": "red " * 7000}]}, "characters of text", "messages"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    client: openai.OpenAI, fields: dict[str, Any], message: str, param: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**(asked(stream=stream) | fields))
        assert message in str(caught.value)
        assert caught.value.param == param
        assert caught.value.type == "invalid_request_error"


def test_other_models_are_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(**asked() | {"model": "gpt-4o"})
    assert caught.value.code == "model_not_found"


def extra(found: Any) -> dict[str, Any]:
    """What a response has beside OpenAI's fields."""
    return dict(found.model_extra or {})


def test_what_asks_for_nothing_and_an_answer_that_said_nothing_are_taken(client: openai.OpenAI) -> None:
    nothing: dict[str, Any] = {"presence_penalty": 0.0, "frequency_penalty": 0, "n": 1}
    first = asked(max_tokens=3)
    assert client.chat.completions.create(**first, **nothing).choices[0].finish_reason
    for content in ("", None):
        said = [*first["messages"], {"role": "assistant", "content": content}, {"role": "user", "content": "Why?"}]
        assert client.chat.completions.create(**(first | {"messages": said})).choices[0].finish_reason
    with pytest.raises(openai.BadRequestError, match=r"temperature is .a.: must be a number"):
        client.chat.completions.create(**first, temperature="a")  # type: ignore[call-overload]
