"""Answers that a grammar allows: JSON by a schema, or text by a regular expression. llguidance matches them, no torch.

A grammar is text. A tokenizer is made for it once a model, and a matcher once a generation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from math import lcm
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fastv_runtime.errors import UserError, missing_extra
from fastv_runtime.generation.calls.arguments import check_unicode
from fastv_runtime.strict_json import Unusable, load

if TYPE_CHECKING:
    from jaxtyping import Bool
    from tokenizers import Tokenizer

SPACES = r" |\r?\n[ \t]{0,32}"
"""Whitespace between two parts of JSON: a space, or a new line and its indentation. More, and some models never end."""
LEADING = 2
"""Characters of whitespace before JSON: many models begin with a space."""
LARGEST = 1 << 17
"""Characters of a schema or of an expression."""
PATTERN_PROPERTIES = 64
"""In a schema: work grows with their cube."""
DIVISORS = 50_000
"""Least common multiple of a schema's `multipleOf`, in units of their finest digit: a matcher has as many states, and a
million take ten seconds and half a gigabyte."""
MATCHERS = 16
"""Of grammars asked for lately that are kept: a server makes one ready, and its graphs' thread takes a copy."""
LEXER_FUEL = 200_000
"""Work that llguidance may do for an expression before the first token, in its own units; its default, a million, lets
(a{1000}){1000} have five seconds, in which nobody else is answered."""
PROBE = '{"a": [-1.5e3, "é\\n", true, null]}'
"""Text of which every tokenizer must make tokens that say it again."""


@dataclass(frozen=True)
class Grammar:
    """What an answer must be: checked when it is made, the same for every model. Raises UserError."""

    text: str
    """As llguidance reads it: JSON."""
    kind: Literal["json", "regex"]

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool | str) -> Grammar:
        """JSON that a schema allows, properties in its order. schema: as an object, or its text.

        Keywords that are not enforced are refused by name. Source: JSON Schema, draft 2020-12.
        """
        if isinstance(schema, str):
            _check_size("`json_schema`", schema)
            try:
                schema = load(schema.encode("utf-8", "surrogatepass"))
            except Unusable as error:
                raise UserError(f"`json_schema`: {error}") from None
        if not isinstance(schema, (Mapping, bool)):
            raise UserError("`json_schema`: must be an object, true or false")
        if any(True for _ in _values(schema, _OPTIONS)):
            raise UserError(f"`json_schema`: {_OPTIONS} is no keyword of JSON Schema: leave it out")
        whole = dict(schema) if isinstance(schema, Mapping) else {} if schema else {"enum": []}
        whole[_OPTIONS] = {"whitespace_pattern": SPACES}
        begin = f"start: SPACE? @schema\nSPACE: /[ \\n]{{1,{LEADING}}}/"
        try:
            text = json.dumps(
                {"grammars": [{"lark_grammar": begin}, {"name": "schema", "json_schema": whole}]}, allow_nan=False
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"`json_schema`: no JSON: {error}") from None
        _check_size("`json_schema`", text)
        _check_work(schema)
        return cls(_checked("`json_schema`", text), "json")

    @classmethod
    def json_object(cls) -> Grammar:
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """Text that the whole of an expression matches. Syntax: that of Rust's crate regex; no look-around."""
        if not isinstance(pattern, str):
            raise UserError(f"`regex`: a value of type {type(pattern).__name__} where text is expected")
        check_unicode("`regex`", pattern)
        _check_size("`regex`", pattern)
        return cls(_checked("`regex`", _llguidance().LLMatcher.grammar_from_regex(pattern)), "regex")


_OPTIONS = "x-guidance"
"""llguidance's own key in a schema, by which it is told of whitespace."""


class GrammarTokenizer:
    """A model's tokenizer as llguidance reads it.

    vocabulary: logits of the model, V. stop: its stop tokens, of which the first ends an answer that is complete.
    Raises UserError for a tokenizer that cannot be read, or not as what it is.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, stop: Sequence[int]):
        described = json.loads(tokenizer.to_str()) | {"padding": None, "truncation": None}
        self.vocabulary, self.stop = vocabulary, tuple(stop)
        most = max(vocabulary, tokenizer.get_vocab_size(with_added_tokens=True))
        try:
            self.tokenizer = _llguidance().LLTokenizer(json.dumps(described), n_vocab=most, eos_token=list(stop))
            again = tokenizer.decode(self.tokenizer.tokenize_str(PROBE)).strip()
            self._strips = tokenizer.decode(self.tokenizer.tokenize_str(" a")) == "a"
        except (ValueError, OverflowError) as error:
            raise _unreadable(_reason(str(error))) from None
        if again != PROBE:
            raise _unreadable(f"{PROBE} comes back as {again}")
        self._made = lru_cache(MATCHERS)(self._make)

    def matcher(self, grammar: Grammar) -> GrammarMatcher:
        """For one generation, at its beginning. Of a grammar that was asked for lately, a copy."""
        return GrammarMatcher(self, grammar.kind, self._made(grammar).deep_copy())

    def _make(self, grammar: Grammar) -> Any:
        text = grammar.text
        if self._strips and grammar.kind == "regex":
            # SentencePiece writes a space before the first word, which decoding takes away again.
            grammars = json.loads(text)["grammars"]
            text = json.dumps({"grammars": [{"lark_grammar": f'start: " " @{grammars[0]["name"]}'}, *grammars]})
        library = _llguidance()
        limits = library.LLParserLimits(verbose_errors=False, initial_lexer_fuel=LEXER_FUEL)
        return library.LLMatcher(self.tokenizer, text, log_level=0, limits=limits)


class GrammarMatcher:
    """An answer as far as it came, and what the grammar says of its next token. matcher: llguidance's own, at its
    beginning."""

    def __init__(self, tokenizer: GrammarTokenizer, kind: Literal["json", "regex"], matcher: Any):
        self._vocabulary, self._stop = tokenizer.vocabulary, list(tokenizer.stop)
        self._kind = kind
        self._matcher = matcher
        self._check()

    @property
    def valid(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def complete(self) -> bool:
        """Whether it must."""
        return bool(self._matcher.is_stopped())

    def allows(self, token: int) -> bool:
        """Whether a token may be the next one."""
        if token in self._stop:
            return self.valid
        return bool(self._matcher.validate_tokens([token]) == 1)

    def allowed(self) -> Bool[np.ndarray, " V"]:
        """Which tokens may be the next one; at least one is."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        mask: np.ndarray = np.unpackbits(packed, bitorder="little")[: self._vocabulary].astype(bool)
        mask[self._stop] = self.valid
        if not mask.any():
            raise UserError(f"`{self._name}`: no token of this model goes on as the grammar asks: simplify it")
        return mask

    def take(self, token: int) -> None:
        """Go on by a token that is allowed. After a stop token nothing changes."""
        if token not in self._stop:
            self._matcher.consume_token(token)
            self._check()

    def forced(self, most: int) -> list[int]:
        """Go on by the tokens that alone may follow, so many at most; behind the last of all a stop token."""
        tokens: list[int] = self._matcher.compute_ff_tokens()[:most]
        for token in tokens:
            self.take(token)
        return [*tokens, self._stop[0]] if self.complete and len(tokens) < most else tokens

    @property
    def _name(self) -> str:
        return "json_schema" if self._kind == "json" else "regex"

    def unfinished(self, *, cut: bool) -> str | None:
        """What to say of an answer that ends here; None where it may. cut: by a stop string."""
        of_json = self._kind == "json"
        if cut:
            what = "the JSON may be incomplete" if of_json else "the answer may not match `regex`"
            return f"{what}: `stop` ended it"
        if self.valid:
            return None
        what = "the JSON is incomplete" if of_json else "the answer does not match `regex` yet"
        return f"{what}: it has all the tokens that `max_new_tokens` allows"

    def _check(self) -> None:
        """Raises UserError once llguidance gives up."""
        if self._matcher.is_error():
            raise UserError(f"`{self._name}`: {_reason(self._matcher.get_error())}: simplify it")


def _check_work(schema: Any) -> None:
    """Raises UserError for what llguidance would be at for seconds, or minutes; all else it bounds itself."""
    multiples = [each for each in _values(schema, "multipleOf") if isinstance(each, (int, float))]
    found = [Decimal(str(each)).normalize() for each in multiples if not isinstance(each, bool)]
    digits = max((-int(each.as_tuple().exponent) for each in found), default=0)
    if lcm(*(max(1, abs(int(each.scaleb(max(0, digits))))) for each in found)) > DIVISORS:
        raise UserError(
            f"`json_schema`: the least common multiple of its multipleOf is above {DIVISORS}, in units of their finest "
            "digit: leave one out, or round it"
        )
    for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        for bound in _values(schema, keyword):
            if isinstance(bound, (int, float)) and abs(bound) >= 2**63:
                raise UserError(f"`json_schema`: {keyword} {bound:g}: bounds are possible up to 2^63: leave it out")
    for each in _objects(schema):
        least, named = each.get("minProperties"), each.get("required", ())
        if isinstance(least, (int, float)) and isinstance(named, Sequence) and least > len(set(map(str, named))):
            raise UserError(
                f"`json_schema`: minProperties {least:g} where {len(named)} are required: a name twice would pass for "
                "two, so name as many under required"
            )
    count = sum(len(each) for each in _values(schema, "patternProperties") if isinstance(each, Mapping))
    if count > PATTERN_PROPERTIES:
        raise UserError(f"`json_schema`: {count} patternProperties: at most {PATTERN_PROPERTIES} are possible")


def _objects(schema: Any) -> Iterator[Mapping[str, Any]]:
    """A schema and all that is within it."""
    if isinstance(schema, Mapping):
        yield schema
        schema = list(schema.values())
    if isinstance(schema, (list, tuple)):
        for each in schema:
            yield from _objects(each)


def _values(schema: Any, keyword: str) -> Iterator[Any]:
    """What a keyword has, wherever it is within a schema."""
    return (each[keyword] for each in _objects(schema) if keyword in each)


def _llguidance() -> ModuleType:
    try:
        import llguidance
    except ImportError:
        raise missing_extra("llguidance", "serve") from None
    return llguidance


def _checked(name: str, text: str) -> str:
    """The text of a grammar. Raises UserError for one that cannot be matched, with llguidance's reason."""
    failed, messages = _llguidance().LLMatcher.validate_grammar_with_warnings(text)
    if failed:
        raise UserError(f"{name}: no answer can be made to follow it: {_reason(messages[0])}")
    return text


def _check_size(name: str, text: str) -> None:
    if len(text) > LARGEST:
        raise UserError(f"{name}: {len(text)} characters: at most {LARGEST} are possible")


def _reason(message: str) -> str:
    """One line of llguidance's, in which several say where in a grammar of its own."""
    lines = [line.strip() for line in message.split("(in regex): ")[-1].splitlines() if line.strip()]
    found = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "".join(lines[:1]))
    return found[:300] or "cannot be used"


def _unreadable(why: str) -> UserError:
    return UserError(f"this model's tokenizer cannot follow a grammar ({why}): leave `json_schema` and `regex` out")
