"""Checkpoints of the table of families, each written once a session, so that files of tests share its exports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.families.row import Row

CheckpointOf = Callable[[Row], Path]


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> CheckpointOf:
    folder = tmp_path_factory.mktemp("families")

    def checkpoint(row: Row) -> Path:
        path = folder / str(row)
        if not path.exists():
            row.write(path)
        return path

    return checkpoint
