"""What is done with a checkpoint before anything is traced, and documents with one value changed."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fastv_export import support
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.generation_config import generation_defaults
from fastv_export.config_values import layouts
from fastv_export.families import family_of
from fastv_export.plan import Options, check_positions, decoder_dimensions, make_plan
from fastv_runtime.config.plan import Plan

MAX_NEW_TOKENS = 8
VALUES: list[Any] = [
    *(None, True, False, "", "64", "../x", [], {}, [1], [[]], {"a": 1}, ["x"], [-1], [1, 2, 3]),
    *(0, 1, -1, 2, 3, 7, 64, 2**16, 10**6, 10**9, 10**12, 2**31, 2**63, 2**64, 10**30),
    *(0.0, 0.5, -1.0, 64.0, 1e-320, 1e308, float("nan"), float("inf")),
]
GONE = object()


def plan_of(path: Path) -> Plan:
    """The plan of an export, with every tensor looked up: all that is done before the model is built."""
    checkpoint = Checkpoint(path)
    where = checkpoint.path / "config.json"
    family = family_of(checkpoint.model_type(), str(where))
    config = support.check_config(checkpoint, family)
    dimensions = decoder_dimensions(config, family)
    vision, video = layouts(where, family, config)
    plan = make_plan(Options(max_new_tokens=MAX_NEW_TOKENS), dimensions, vision, video)
    check_positions(plan, family.max_positions(config))
    generation_defaults(checkpoint)
    family.tokens(checkpoint, config)
    return plan


def copied(source: Path, target: Path) -> Path:
    """A copy, in the place of an earlier one."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


def edited(file: Path, path: tuple[str | int, ...], value: Any) -> None:
    """Change one value of a file of JSON; GONE takes it out."""
    document = changed(json.loads(file.read_text()), path, value)
    file.write_text(json.dumps(document))


def changed(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    at = document
    for name in path[:-1]:
        at = at[name]
    if value is GONE:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return document


def paths(document: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where each value of a document is."""
    parts = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for name, value in parts:
        yield (*above, name)
        yield from paths(value, (*above, name))


def changes(document: Any) -> st.SearchStrategy[tuple[tuple[str | int, ...], Any]]:
    """One value of a document, and what to put there."""
    return st.tuples(st.sampled_from(list(paths(document))), st.sampled_from([*VALUES, GONE]))


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and its data."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_header(file: Path, header: bytes, data: bytes, length: int | None = None) -> None:
    """A safetensors file of these bytes, whatever they are."""
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
