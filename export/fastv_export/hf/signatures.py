"""Keywords of transformers' modules, found in their signatures, and the one error for what is not found."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any

from fastv_runtime.errors import UserError

CACHE = ("cache", "past_key_values")
"""Keyword, of layers and models, and attribute, of outputs, for the cache: the first from transformers 5.24 on."""


def changed(what: str) -> UserError:
    """Error for a transformers, or a model in it, that is not as this module knows them."""
    return UserError(
        f"transformers {version('transformers')}: {what}: either this model is of another build than those that "
        "fastv-edge can take, or transformers has renamed something: install a version that fastv-edge was tested "
        "with (docs/dependencies.md)"
    )


def keyword(module: Any, names: tuple[str, ...]) -> str:
    """Which of the names is a keyword of a module's forward; a UserError if none is."""
    taken = inspect.signature(type(module).forward).parameters
    for name in names:
        if name in taken:
            return name
    others = ", ".join(name for name, each in taken.items() if name != "self" and each.kind is not each.VAR_KEYWORD)
    raise changed(f"{type(module).__name__}.forward takes no {' or '.join(names)}, only {others}")
