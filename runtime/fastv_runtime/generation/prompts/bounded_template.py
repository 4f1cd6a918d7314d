"""Chat templates rendered in bounded time and memory: what transformers renders, or one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from fastv_runtime.errors import UserError
from fastv_runtime.generation.prompts.template_environment import CHARACTERS, BoundedEnvironment, unbounded

MOST_SOURCE, MOST_OUTPUT = 200_000, 1_000_000
"""Characters of a template, and of what it writes beside what it is given."""


def render(template: str, messages: Sequence[Mapping[str, Any]], special: Mapping[str, Any]) -> str:
    """What `tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)` writes.

    special: the tokenizer's special tokens, by the names that templates know them by.
    Raises UserError for a template without end or bounds, jinja2.TemplateError for one that fails otherwise.
    """
    environment = BoundedEnvironment()
    most = MOST_OUTPUT + 16 * CHARACTERS * environment.weight(messages)
    made = 0
    pieces = []
    values = {**special, "messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
    try:
        compiled = jinja2.Template.from_code(environment, _compiled(template), environment.globals)
        for piece in compiled.generate(values):
            made += len(piece)
            if made > most:
                raise unbounded(f"it writes more than {most:,} characters")
            pieces.append(piece)
    except (UserError, jinja2.TemplateError):
        raise
    except (RecursionError, MemoryError) as error:
        raise unbounded("it calls itself without end, or holds too much") from error
    except Exception as error:
        raise jinja2.TemplateError(f"{type(error).__name__}: {error}") from error
    return "".join(pieces)


@lru_cache(maxsize=8)
def _compiled(template: str) -> CodeType:
    if len(template) > MOST_SOURCE:
        raise unbounded(f"it has more than {MOST_SOURCE:,} characters")
    environment = BoundedEnvironment()
    return environment.compile(_Counting().visit(environment.parse(template)))


class _Counting(NodeTransformer):
    """Sends through filters what Jinja compiles to bare Python: loops, `~` and comparisons."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _through("_iterated", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through("_joined", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _through("_weighed", node.expr)
        for operand in node.ops:
            operand.expr = _through("_weighed", operand.expr)
        return node


def _through(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
