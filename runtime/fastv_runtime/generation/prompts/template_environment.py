"""The sandbox of chat templates, with an allowance of steps.

A chat template is a program that comes with a checkpoint. Jinja's sandbox keeps it from Python's inside and from files,
not from loops without end or texts of gigabytes. So every iteration, call and operator spends steps, before it is
done, in proportion to what it reads and makes; a template that has spent all of them ends. Steps are counted and not
timed: a template works everywhere or nowhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import wraps
from types import BuiltinMethodType, GeneratorType, MethodType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace

from fastv_runtime.errors import UserError

MOST_STEPS = 1_000_000
"""Of one rendering: a loop of a few lines in about a second; prompts of the families here take about a hundred."""

CHARACTERS, CALL = 64, 4
"""Characters of a text for one step, and steps of a call."""

SAFE_METHODS = frozenset(
    {
        "capitalize", "casefold", "copy", "count", "endswith", "find", "get", "index", "is_integer", "isalnum",
        "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isprintable", "isspace", "istitle",
        "isupper", "items", "keys", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "rfind", "rindex",
        "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
        "values"
    }
)  # fmt: skip
"""Of texts, lists, tables and numbers: what they make is not larger than what they read."""

PADDING = frozenset({"center", "ljust", "rjust", "zfill", "indent", "batch", "slice", "truncate", "tojson"})
"""Filters and methods that make texts as long as a number says."""

SHALLOW = frozenset(
    {"length", "count", "first", "last", "default", "d", "list", "items", "map", "select", "selectattr"}
)
"""Filters that do not go into the members of a list."""

LEFT_OUT = frozenset({"wordwrap", "urlize"})
"""Filters for pages, whose size is hard to tell beforehand."""

COMPARING = frozenset(
    {"eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<", "le", "<=", "gt", ">", "ge", ">=", "in"}
)


class _Generation(Extension):
    """`{% generation %}` marks, for training, what an assistant said; a prompt has it as it is."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox that transformers renders in, with an allowance of steps: one for each rendering."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        self._left = MOST_STEPS
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=self._weighed
        )
        own = {"_iterated": self._iterated, "_joined": self._joined, "_weighed": self._weighed, "tojson": _tojson}
        filters: dict[str, Callable[..., Any]] = {**FILTERS, **own}
        tests: dict[str, Any] = {**TESTS}
        self.filters = {
            name: self._counted(name, function) for name, function in filters.items() if name not in LEFT_OUT
        }
        self.tests = {
            name: self._counted(name, function) if name in COMPARING else function for name, function in tests.items()
        }
        self.globals = {
            "range": self._range,
            "dict": lambda *args, **kwargs: dict(*args, **kwargs),
            "namespace": _TemplateNamespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            **{name: self.globals[name] for name in ("cycler", "joiner")},
        }

    def spend(self, steps: int) -> None:
        self._left -= 1 + steps
        if self._left < 0:
            raise unbounded(f"it takes more than {MOST_STEPS:,} steps")

    def weight(self, *values: object) -> int:
        """Steps that it takes to go through values, members of members too. Gives up past what is left."""
        weight, waiting = 0, list(values)
        while waiting and weight <= self._left:
            value = waiting.pop()
            weight += 1
            if isinstance(value, str | bytes):
                weight += len(value) // CHARACTERS
            elif isinstance(value, int):
                weight += value.bit_length() // CHARACTERS
            elif isinstance(value, Mapping):
                waiting += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple | set):
                waiting += value
        return weight

    def concat(self, parts: Iterable[str]) -> str:
        """Of blocks and macros, whose output becomes a value."""
        return str(self._joined(list(parts)))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        text = (str, bytes)
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, (*text, list, tuple)) and isinstance(times, int):
                    self.spend(len(many) * times // (CHARACTERS if isinstance(many, text) else 1))
        if isinstance(left, int) and isinstance(right, int):  # as many digits by as many
            times = max(0, right) if operator == "**" else 1
            self.spend((times * left.bit_length()) * max(times * left.bit_length(), right.bit_length()) >> 12)
        elif operator == "%" and isinstance(left, text):
            self._spend_format(str(left), "%", right)
        for value in (left, right):
            self.spend(len(value) if isinstance(value, list | tuple) else self.weight(value))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        self, called = __self, getattr(__obj, "__wrapped__", __obj)
        owner = getattr(called, "__self__", None)
        if isinstance(called, BuiltinMethodType | MethodType) and isinstance(
            owner, str | bytes | list | tuple | Mapping | int | float
        ):
            name = called.__name__
            if name in ("format", "format_map"):
                self._spend_format(str(owner), "{", args, kwargs)
            elif name in ("replace", "join", *PADDING):
                args = self._spend_making(name, (owner, *args), kwargs)[1:]
            elif name not in SAFE_METHODS:
                raise SecurityError(f"it calls {type(owner).__name__}.{name}, which no chat template needs")
            self.spend(self.weight(owner) if isinstance(owner, str | bytes) else 0)
        elif isinstance(__obj, LoopContext):  # a loop that is recursive
            args = tuple(self._iterated(each) for each in args)
        self.spend(CALL)
        return super().call(__context, __obj, *args, **kwargs)

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter or a test that spends what it reads and makes."""

        @wraps(function)  # jinja2's marks of what it is passed too
        def counted(*args: Any, **kwargs: Any) -> Any:
            args = tuple(list(self._iterated(arg)) if isinstance(arg, GeneratorType) else arg for arg in args)
            if name == "format":
                self._spend_format(str(args[0]), "%", args[1:], kwargs)
            elif name in ("replace", "join", *PADDING):
                skipped = 1 if isinstance(args[0], nodes.EvalContext | jinja2.Environment) else 0
                args = args[:skipped] + self._spend_making(name, args[skipped:], kwargs)
            self.spend(0 if name in SHALLOW or name.startswith("_") else self.weight(*args, *kwargs.values()))
            made = function(*args, **kwargs)
            if isinstance(made, str):
                self.spend(self.weight(made))
            return made

        return counted

    def _spend_making(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """For a text that is longer than what it is made of: of (value, ...) that a filter or method is given."""
        value, rest = args[0], [*args[1:], *kwargs.values()]
        if name == "replace" and isinstance(value, str) and len(rest) > 1:
            self.spend(value.count(str(rest[0])) * self.weight(str(rest[1])))
        elif name == "join":
            # The filter is given a list and a text, the method a text and a list.
            args = tuple(list(self._iterated(arg)) if isinstance(arg, Iterator) else arg for arg in args)
            lengths = [len(arg) for arg in args if isinstance(arg, str | list | tuple | Mapping)]
            texts = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, str)]
            self.spend(max(lengths, default=0) * self.weight(*texts) + self.weight(*args))
        elif name in PADDING:
            widths = [abs(number) for number in rest if isinstance(number, int)]
            lines = value.count("\n") if isinstance(value, str) else self.weight(value)
            self.spend(max(widths, default=0) * self.weight(value, *rest) + lines * self.weight(*rest))
        return args

    def _spend_format(self, text: str, sign: str, *values: Any) -> None:
        """For a text with places that values are put into. Raises SecurityError for widths of thousands."""
        fields = text.replace("{{", "").replace("}}", "") if sign == "{" else text
        if re.search(r"\{[^{}]*(\{|[0-9]{4})" if sign == "{" else r"%[-+ #.0-9]*(\*|[0-9]{4})", fields):
            raise SecurityError("it formats a text to a width of thousands, or to one that it is given")
        self.spend(text.count(sign) * self.weight(*values) + self.weight(text))

    def _iterated(self, values: Any) -> Any:
        """What is looped over, the same; iterators as they go."""
        try:
            self.spend(len(values))
        except TypeError:
            return self._following(values)
        return values

    def _following(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.spend(0)
            yield value

    def _joined(self, parts: Sequence[Any]) -> Any:
        self.spend(self.weight(*parts))
        return "".join(map(str, parts))

    def _weighed(self, value: Any) -> Any:
        self.spend(self.weight(value))
        return value

    def _range(self, *args: int) -> range:
        made = range(*args)
        try:
            self.spend(len(made))
        except OverflowError:
            raise unbounded(f"it counts to {made.stop}") from None
        return made


class _TemplateNamespace(Namespace):
    """Without names of Python's inside, as transformers has it."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"it sets {name}: names of a namespace do not begin with _")
        super().__setitem__(name, value)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own escapes what HTML would read; transformers' does not."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(text: str) -> str:
    if len(text) > 1000 or re.search("[0-9]{4}", text):
        raise SecurityError("it formats the date to a width of thousands")
    return datetime.now().strftime(text)


def unbounded(why: str) -> UserError:
    return UserError(f"the checkpoint's chat template cannot be used: {why}: mend it, and export again")
