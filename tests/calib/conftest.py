"""What calibrations are of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.calib.calibrating import SAMPLES
from tests.conftest import noise_image


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for index in range(SAMPLES):
        noise_image(index).save(folder / f"{index}.png")
        lines.append({"image": f"{index}.png", "prompt": "Where is it?" + " The fox?" * index, "answer": "dog"})
    file = folder / "data.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file
