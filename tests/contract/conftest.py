"""One tiny loaded model of each family, shared by the tests of what is relied on in transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fastv_export import hf
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import FAMILIES, Family
from fastv_export.hf import models as hf_models
from tests.families.row import Row
from tests.families.rows import ROWS
from tests.timm_alone import import_timm
from tests.tiny_qwen_vl import write_tiny_qwen_vl

ROWS_TO_LOAD = [row for row in ROWS if "image_tokens" not in row.options or row.model_type.startswith("qwen")]
"""Every decoder of every family once; rows that differ in images alone have the same checkpoint."""

LENGTH = 13


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"transformers {transformers.__version__}, {Path(transformers.__file__).parent}")


@dataclass(frozen=True)
class Subject:
    """A family, a tiny checkpoint of it, and the model that the family loads from there."""

    name: str
    family: Family
    row: Row | None
    """None for Qwen-VL-Chat, which transformers has no class for."""
    checkpoint: Checkpoint
    config: Any
    model: Any
    decoder: Any

    @property
    def causal(self) -> Any:
        """The model that answers text: all of it, but for Qwen-VL-Chat."""
        return self.model if self.row is not None else self.model.language_model

    def embedded(self, rows: int = LENGTH) -> torch.Tensor:
        """Embeddings [1, rows, D] of random tokens."""
        return hf.embeddings_of(self.decoder)(token_ids(rows))

    def positions(self, rows: int = LENGTH) -> torch.Tensor:
        """Positions as the decoder takes them, [1, rows] or [3, 1, rows]; M-RoPE's axes all differ."""
        counted = torch.arange(rows)[None]
        if self.family.position_axes == 1:
            return counted
        return torch.stack([counted, counted // 3 + 1, counted % 4 + 2])


def token_ids(rows: int = LENGTH) -> torch.Tensor:
    """Random tokens [1, rows], none of which stands for an image."""
    return torch.randint(100, 200, (1, rows), generator=torch.Generator().manual_seed(rows))


@pytest.fixture(scope="session", params=[*map(str, ROWS_TO_LOAD), "qwen"])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    row = next((row for row in ROWS_TO_LOAD if str(row) == request.param), None)
    path = tmp_path_factory.mktemp("io_spec") / request.param
    if row is None:
        write_tiny_qwen_vl(path)
    else:
        if row.model_type == "fast_vlm":
            import_timm()
        row.write(path)
    family, checkpoint = FAMILIES["qwen" if row is None else row.model_type], Checkpoint(path)
    model = family.load(checkpoint).eval()
    return Subject(request.param, family, row, checkpoint, family.config(checkpoint), model, family.decoder(model))


@pytest.fixture(autouse=True)
def _no_traces(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without gradients; and whatever attention a test chooses, the next finds the one that the family loads."""
    with torch.no_grad():
        yield
    if "subject" in request.fixturenames:
        hf_models.attend(request.getfixturevalue("subject").model, "eager")
