"""examples/ray_serve.py on a cluster of this machine: two replicas, of which one is killed under load."""

from __future__ import annotations

import base64
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from fastv_runtime import Pipeline
from fastv_runtime.signals import handlers_kept
from tests.conftest import noise_image
from tests.serving.test_triton import png

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")
ROOT = Path(__file__).parents[2]
CLIENTS, QUESTIONS = 8, 6
TOKENS, MOST_TOKENS = 24, 64
SOON = 60.0


@contextmanager
def cluster() -> Iterator[None]:
    """A Ray of this machine with a token of its own, whose workers find what this process imports."""
    own = {
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "examples"), *(str(Path(path).resolve()) for path in sys.path)]),
    }
    with pytest.MonkeyPatch.context() as patch, handlers_kept():
        for name, value in own.items():
            patch.setenv(name, value)
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=0,
            object_store_memory=80 << 20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            yield
        finally:
            serve.shutdown()
            ray.shutdown()


@pytest.fixture
def address(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import ray_serve

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with cluster():
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        arguments = ray_serve.Arguments(bundle=tiny_bundle, min_replicas=2, max_replicas=2)
        serve.run(ray_serve.app(arguments), name="fastv")
        yield f"http://127.0.0.1:{port}"


def replicas() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [each for each in children if "ServeReplica" in " ".join(each.cmdline())]


class Client(threading.Thread):
    """Somebody with one conversation, who asks question after question with openai's client."""

    def __init__(self, number: int, address: str, session: str, pipeline: Pipeline, statuses: Counter[int]):
        super().__init__()
        self.address, self.session, self.statuses = address, session, statuses
        self.model = pipeline.bundle.path.name.removesuffix(".fastv")
        self.streams = number % 2 == 1
        self.image = png(noise_image(number))
        self.asked = [f"Where is {number} of {index}?" for index in range(QUESTIONS)]
        self.expected = [pipeline.generate(self.image, each, max_new_tokens=TOKENS).text for each in self.asked]
        self.found: list[str] = []
        self.cut = 0

    def run(self) -> None:
        hooks: dict[str, Any] = {"response": [lambda response: self.statuses.update([response.status_code])]}
        with (
            httpx.Client(event_hooks=hooks, timeout=SOON) as http,
            openai.OpenAI(base_url=f"{self.address}/v1", api_key="-", http_client=http, max_retries=8) as client,
        ):
            for question in self.asked:
                self.found.append(self._ask(client, question))

    def _ask(self, client: openai.OpenAI, question: str) -> str:
        picture = f"data:image/png;base64,{base64.b64encode(self.image).decode()}"
        content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
        asked = request(self.model, content, self.session, TOKENS)
        if not self.streams:
            return client.chat.completions.create(**asked).choices[0].message.content or ""
        while True:  # an answer that had begun to arrive is for whoever asked to ask for again
            try:
                chunks = list(client.chat.completions.create(**asked, stream=True))
            except (openai.APIError, httpx.TransportError):
                self.cut += 1
                continue
            if chunks and chunks[-1].choices[0].finish_reason:
                return text_of(chunks)
            self.cut += 1


def request(model: str, content: Any, session: str, tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": tokens,
        "extra_headers": {"x-session-id": session},
    }


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def answered_at(address: str, session: str) -> int:
    """Requests that the replica of a conversation has answered."""
    text = httpx.get(f"{address}/metrics", headers={"x-session-id": session}).text
    return sum(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith("fastv_requests_total"))


def test_a_replica_that_is_killed_loses_no_question(address: str, tiny_pipeline: Pipeline) -> None:
    # A conversation stays with one replica: by its counter others are told from each other.
    model = tiny_pipeline.bundle.path.name.removesuffix(".fastv")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="-") as client:
        for _ in range(3):
            client.chat.completions.create(**request(model, "Hello", "first", 1))
    answered = {session: answered_at(address, session) for session in ("first", *map(str, range(4 * CLIENTS)))}
    assert answered["first"] == 3 and set(answered.values()) == {0, 3}
    sessions = [[each for each, count in answered.items() if count == at][: CLIENTS // 2] for at in (0, 3)]
    assert [len(each) for each in sessions] == [CLIENTS // 2] * 2

    # Half of the clients are each replica's: whichever is killed has requests waiting and one running.
    statuses: Counter[int] = Counter()
    clients = [
        Client(number, address, session, tiny_pipeline, statuses) for number, session in enumerate(chain(*sessions))
    ]
    killed = replicas()[0]
    assert len(replicas()) == 2
    for each in clients:
        each.start()
    wait_for(lambda: all(client.found for client in clients))
    killed.kill()
    for each in clients:
        each.join(SOON)
    assert [each.found for each in clients] == [each.expected for each in clients]
    # Ray has not asked again for what the replica was at: it says 500, and openai's client asks again.
    assert statuses.keys() <= {200, 500, 503}
    assert statuses.total() - statuses[200] + sum(each.cut for each in clients) > 0

    # Ray replaces it; and what is deleted finishes its answers.
    wait_for(lambda: len(replicas()) == 2)
    expected = tiny_pipeline.generate(prompt="Hello", max_new_tokens=MOST_TOKENS).text
    with openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0) as client:
        stream = client.chat.completions.create(**request(model, "Hello", "last", MOST_TOKENS), stream=True)
        chunks = [next(stream)]
        serve.delete("fastv", _blocking=False)
        chunks += stream
    assert text_of(chunks) == expected


def wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)
