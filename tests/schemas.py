"""Random JSON schemas, from a seed: what callers write, and some of what no grammar can follow."""

from __future__ import annotations

from random import Random
from typing import Any

Schema = dict[str, Any]

NAMES = ["color", "size", "shape", "x", "is_round", "nœud", 'say "it"', "a b"]
PATTERNS = ["^[a-c]{2,4}$", "^(up|down)-[0-9]$", "^[A-Z][a-z]{0,3}$", r"^\d{1,3}$", "^é+$", "^.{0,3}$"]
VALUES = ["red", "ein Wort", 'a "b"', "日本", 3, -0.5, True, None, [1], {"x": 1}]


CARD = {
    "type": "object",
    "properties": {
        "color": {"enum": ["red", "green", "blue"]},
        "a long name of a thing": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["color", "a long name of a thing"],
    "additionalProperties": False,
}
"""One whose names leave a model no choice for most of an answer."""


def random_schema(seed: int) -> Schema:
    """A schema of which every valid JSON is bounded, but for the digits of a `number`."""
    drawn = _Drawn(Random(seed))
    schema = drawn.schema(3)
    return {**schema, "$defs": drawn.parts} if drawn.parts else schema


def refused_schema(seed: int) -> tuple[Schema, str]:
    """A schema with a keyword that is not enforced, somewhere; and that keyword, or what is wrong with it."""
    random = Random(seed)
    wrong: tuple[Schema, str] = random.choice(
        [
            ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"),
            ({"not": {"type": "string"}}, "not"),
            ({"type": "string", "format": "color"}, "color"),
            ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
            ({"type": "integer", "minimum": 3, "maximum": 1}, "Unsatisfiable"),
            ({"enum": []}, "Unsatisfiable"),
            ({"$ref": "https://example.com/schema"}, "https://example.com/schema"),
            ({"type": "object", "propertyNames": {"minLength": 2}}, "propertyNames"),
            ({"type": "array", "contains": {"type": "integer"}}, "contains"),
            ({"type": "thing"}, "thing"),
            ({"if": {"type": "string"}, "then": {"minLength": 2}}, "then"),
        ]
    )
    inner, word = wrong
    around = [
        inner,
        {"type": "object", "properties": {"x": inner}, "required": ["x"], "additionalProperties": False},
        {"type": "array", "items": inner, "minItems": 1, "maxItems": 2},
        {"$defs": {"it": inner}, "type": "array", "prefixItems": [{"$ref": "#/$defs/it"}], "minItems": 1},
    ]
    return random.choice(around), word


class _Drawn:
    """One schema's parts, and how each kind of them is drawn. depth: how often one may yet be within another."""

    def __init__(self, random: Random):
        self.random = random
        self.parts: dict[str, Schema] = {}
        """What `$ref` names."""

    def schema(self, depth: int) -> Schema:
        flat = [self.string, self.string, self.integer, self.number, self.enum, self.const, self.boolean]
        nested = [self.object, self.array, self.tuple, self.any_of, self.reference] if depth else []
        return self.random.choice([*flat, *nested, *nested])(depth)

    def string(self, _: int) -> Schema:
        if self.random.random() < 0.7:
            return {"type": "string", "pattern": self.random.choice(PATTERNS), "maxLength": 6}
        least = self.random.randint(0, 3)
        return {"type": "string", "minLength": least, "maxLength": least + self.random.randint(0, 5)}

    def integer(self, _: int) -> Schema:
        least = self.random.randint(-200, 200)
        bounds = {"minimum": least, "maximum": least + self.random.randint(1, 500)}
        if self.random.random() < 0.3:
            bounds = {"exclusiveMinimum": least, "exclusiveMaximum": least + self.random.randint(3, 50)}
        return {"type": "integer", **bounds} | ({"multipleOf": 2} if self.random.random() < 0.1 else {})

    def number(self, _: int) -> Schema:
        least = self.random.randint(-50, 50) / 4
        return {"type": "number", "minimum": least, "maximum": least + self.random.randint(1, 40) / 8}

    def enum(self, _: int) -> Schema:
        return {"enum": self.random.sample(VALUES, self.random.randint(1, 4))}

    def const(self, _: int) -> Schema:
        return {"const": self.random.choice(VALUES)}

    def boolean(self, _: int) -> Schema:
        return {"type": self.random.choice(["boolean", "null", ["boolean", "null"]])}

    def object(self, depth: int) -> Schema:
        names = self.random.sample(NAMES, self.random.randint(0, 3))
        return {
            "type": "object",
            "properties": {name: self.schema(depth - 1) for name in names},
            "required": [name for name in names if self.random.random() < 0.7],
            "additionalProperties": False,
        }

    def array(self, depth: int) -> Schema:
        least = self.random.randint(0, 2)
        most = least + self.random.randint(0, 2)
        return {"type": "array", "items": self.schema(depth - 1), "minItems": least, "maxItems": most}

    def tuple(self, depth: int) -> Schema:
        parts = [self.schema(depth - 1) for _ in range(self.random.randint(1, 2))]
        return {"type": "array", "prefixItems": parts, "minItems": len(parts), "items": False}

    def any_of(self, depth: int) -> Schema:
        return {"anyOf": [self.schema(depth - 1) for _ in range(self.random.randint(1, 3))]}

    def reference(self, depth: int) -> Schema:
        name = f"part{len(self.parts)}"
        self.parts[name] = {}  # taken, while its own parts are drawn
        self.parts[name] = self.schema(depth - 1)
        return {"$ref": f"#/$defs/{name}"}
