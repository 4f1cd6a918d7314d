"""Arguments of the Python API: of the types that its signatures name, or one line that names the argument at fault."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache, wraps
from pathlib import Path
from types import NoneType
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from fastv_runtime.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")

WORDS: dict[Any, tuple[str, str]] = {
    bool: ("True or False", "True or False"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    Path: ("a path", "paths"),
    NoneType: ("None", "None"),
}
"""One value of a type, and several."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with arguments that have the types of its signature: UserError for others, before it is entered.

    Nothing is converted but ranges, and numbers and arrays of numpy, to Python's own: text is no number, and no list of
    letters. Which numbers and words make sense is the function's business, and so are a Literal's.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            bound.arguments[name] = _checked(name, _plain(value), _hints(function)[name])
        return function(*bound.args, **bound.kwargs)

    return call


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(function)


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))


def _checked(name: str, value: Any, hint: Any) -> Any:
    try:
        _adapter(hint).validate_python(value)
    except ValidationError as error:
        if all(each["type"] == "literal_error" and isinstance(each["input"], str) for each in error.errors()):
            return value
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        raise UserError(f"`{name}` {shown}: must be {' or '.join(dict.fromkeys(_named(hint, 0)))}") from None
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, range):
        return list(value)
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _named(hint: Any, number: int) -> Iterator[str]:
    """What a hint allows, in words: one value for `number` 0, several for 1."""
    if hint in WORDS:
        yield WORDS[hint][number]
    elif get_origin(hint) is Literal:
        yield " or ".join(map(repr, get_args(hint)))
    elif get_origin(hint) is Sequence:
        yield f"a list of {' or '.join(dict.fromkeys(_named(get_args(hint)[0], 1)))}"
    elif get_origin(hint) is tuple:
        yield f"({', '.join(next(_named(each, 0)) for each in get_args(hint))})"
    elif get_args(hint):
        for each in get_args(hint):
            yield from _named(each, number)
    else:
        yield f"a {hint.__name__}"
