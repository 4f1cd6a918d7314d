"""One model behind a scheduler, for all tests of the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi import FastAPI

from fastv_runtime.config.bundle import Bundle
from fastv_runtime.generation.model import Model
from fastv_runtime.serving.app import create_app
from fastv_runtime.serving.metrics import Metrics
from fastv_runtime.serving.scheduler import Scheduler
from fastv_runtime.serving.settings import ServeSettings
from tests.http.asking import MODEL, served


@dataclass
class Serving:
    """A model, what runs it, and apps with any settings on it."""

    model: Model
    scheduler: Scheduler

    def app(self, **settings: Any) -> FastAPI:
        return create_app(self.scheduler, self.model, ServeSettings(model_name=MODEL, **settings))


@pytest.fixture(scope="session")
def model(tiny_bundle: Path) -> Model:
    return Model(Bundle.open(tiny_bundle), threads=1)


@pytest.fixture(scope="session")
def serving(model: Model) -> Iterator[Serving]:
    scheduler = Scheduler(model, slots=2, metrics=Metrics())
    yield Serving(model, scheduler)
    scheduler.stop(1)


@pytest.fixture
def narrow(model: Model) -> Iterator[Serving]:
    """One slot, and nobody waits."""
    scheduler = Scheduler(model, slots=1, waiting=0, metrics=Metrics())
    yield Serving(model, scheduler)
    scheduler.stop(1)


@pytest.fixture(scope="session")
def address(serving: Serving) -> Iterator[str]:
    with served(serving.app()) as at:
        yield at


Client = Callable[..., openai.OpenAI]


@pytest.fixture(scope="session")
def client(address: str) -> openai.OpenAI:
    return client_of(address)


def client_of(address: str, key: str = "none") -> openai.OpenAI:
    """OpenAI's own, which is told where the server is and nothing else."""
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)
