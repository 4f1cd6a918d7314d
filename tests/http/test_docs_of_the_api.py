"""The commands and the Python of docs/serving.md, section API, run as they are printed."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fastv_runtime.serving.app import create_app
from fastv_runtime.serving.openai.request import ChatRequest
from fastv_runtime.serving.settings import ServeSettings
from tests.conftest import DEMO
from tests.http.asking import served
from tests.http.conftest import Serving

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## API\n")[2].partition("\n## ")[0]
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)


@pytest.fixture
def at(serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a server as the page has it, in a folder with the page's image."""
    shutil.copy(DEMO.parent / "images" / "scene1.png", tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    app = create_app(serving.scheduler, serving.model, ServeSettings(model_name="NAME"))
    with served(app) as address:
        yield address


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_commands_run(at: str) -> None:
    (block,) = blocks("bash")
    answers = []
    for line in block.splitlines():
        done = subprocess.run(
            ["bash", "-euc", line.replace(ADDRESS, at)], capture_output=True, text=True, check=True, timeout=60
        )
        answers.append(done.stdout)
    models, nothing, whole, stream, regex, ready = answers
    assert json.loads(models)["data"][0]["id"] == "NAME"
    assert nothing == ""
    assert json.loads(whole)["usage"]["visual_tokens"] == 144
    chunks = [line.removeprefix("data: ") for line in stream.splitlines() if line]
    assert chunks[-1] == "[DONE]" and len(chunks) > 3
    assert json.loads(chunks[-2])["choices"][0]["finish_reason"]
    assert json.loads(regex)["choices"][0]["message"]["content"] in ("yes", "no")
    assert json.loads(ready)["status"] == "ready"


def test_the_python_runs(at: str) -> None:
    (block,) = blocks("python")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(block.replace(ADDRESS, at), {})
    assert said.getvalue().rstrip().endswith("144 36")


def test_every_field_of_a_request_is_explained() -> None:
    table = SECTION.partition("### What a request may have")[2].partition("\n- ")[0]
    assert set(ChatRequest.model_fields) - {"model"} == set(re.findall(r"`(\w+)", table)) & set(
        ChatRequest.model_fields
    )


def test_every_address_is_there(serving: Serving) -> None:
    listed = set(re.findall(r"`(?:GET|POST) (/[^`]*)`", SECTION.partition("OpenAI's clients")[0]))
    routes = {route.path for route in serving.app().routes}  # type: ignore[attr-defined]
    assert {path.replace("NAME", "{name:path}") for path in listed} == routes
