"""Tests here need an NVIDIA GPU, and are skipped where there is none: `pytest -m gpu` says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastv_runtime import UserError
from fastv_runtime.backends.cuda import Cuda


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def cuda() -> Cuda:
    try:
        return Cuda("trt")
    except UserError as error:
        pytest.skip(str(error))
