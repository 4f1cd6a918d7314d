"""Parts and other layouts of stored tensors, against numpy on the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fastv_export.checkpoint.checkpoint import Checkpoint, StoredTensor

VALUES = np.arange(2 * 12 * 5, dtype=np.float32).reshape(2, 12, 5)


@pytest.fixture
def stored(tmp_path: Path) -> StoredTensor:
    # Neighbours on both sides, so that a wrong offset reads something else and not nothing.
    save_file({"a": -VALUES, "b": VALUES[0], "c": -VALUES}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    return Checkpoint(tmp_path).tensors["b"]


def test_rows_are_read_alone(stored: StoredTensor) -> None:
    middle = stored.rows(4, 8)
    assert (middle.shape, middle.stop - middle.start) == ((4, 5), 4 * 5 * 4)
    np.testing.assert_array_equal(middle.read(), VALUES[0, 4:8])
    np.testing.assert_array_equal(middle.rows(1, 3).read(), VALUES[0, 5:7])


def test_other_layouts_are_made_as_they_are_read(stored: StoredTensor) -> None:
    turned = stored.rearranged((5, 12), np.transpose)
    assert turned.shape == (5, 12)
    np.testing.assert_array_equal(turned.read(), VALUES[0].T)
    np.testing.assert_array_equal(turned.rows(1, 3).read(), VALUES[0].T[1:3])
    assert turned.rows(1, 3).shape == turned.rows(1, 3).read().shape
    np.testing.assert_array_equal(stored.rows(4, 8).rearranged((5, 4), np.transpose).read(), VALUES[0, 4:8].T)


def test_another_element_type_is_declared(stored: StoredTensor) -> None:
    halved = stored.rearranged(stored.shape, lambda values: values.astype(np.float16), dtype="F16")
    assert (halved.dtype, halved.rows(2, 4).dtype, halved.read().dtype) == ("F16", "F16", np.float16)
