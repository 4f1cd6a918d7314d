"""A model that tests of the server share."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastv_runtime.config.bundle import Bundle
from fastv_runtime.generation.model import Model


@pytest.fixture(scope="session")
def tiny_model(tiny_bundle: Path) -> Model:
    return Model(Bundle.open(tiny_bundle), threads=1)
