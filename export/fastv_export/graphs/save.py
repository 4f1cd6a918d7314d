"""Graphs written with their weights streaming."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from fastv_export.staging import named
from fastv_runtime.errors import UserError

WRITERS = 2
"""Threads that write weights: one transposes while another waits for the disk. Each holds a few blocks of memory."""
FOLDER = "onnx"


def save_onnx(model: ir.Model, folder: Path, name: str, written: Callable[[int], None]) -> str:
    """Write a graph of a bundle; returns its file there, relative to `folder`, the bundle. written: as `save_graph`."""
    (folder / FOLDER).mkdir(exist_ok=True)
    file = f"{FOLDER}/{name}.onnx"
    save_graph(model, folder / file, written)
    return file


def save_graph(model: ir.Model, path: Path, written: Callable[[int], None] = lambda count: None) -> None:
    """Write a graph, its weights beside it in PATH.data, streamed from the checkpoint.

    `written` is called with the bytes of each weight as it is written.
    """
    data = f"{path.name}.data" if model.graph.initializers else None
    try:
        with named(path if data is None else path.with_name(data)):
            ir.save(
                model,
                path,
                external_data=data,
                max_workers=WRITERS,
                callback=lambda tensor, _: written(tensor.nbytes),
            )
    except ir.serde.SerdeError as error:
        wrong = _user_error(error)
        if wrong is None:
            raise
    else:
        return
    raise wrong  # of a small weight, which is in the graph itself


def _user_error(error: BaseException) -> UserError | None:
    """The UserError that a library met, whatever it made of it since."""
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        if isinstance(at, UserError):
            return type(at)(*at.args)
        seen.append(at)
        at = at.__cause__ or at.__context__
    return None
