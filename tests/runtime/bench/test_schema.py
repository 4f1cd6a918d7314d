"""The published schema is that of the reports."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from fastv_runtime.bench.models import Report
from fastv_runtime.bench.output.schema import schema
from tests.runtime.bench.runners import report_of, turn

PUBLISHED = Path(__file__).parents[3] / "docs" / "schemas" / "bench.schema.json"


def test_the_published_schema_is_the_models() -> None:
    assert PUBLISHED.read_text(encoding="utf-8") == schema(), (
        "python -m fastv_runtime.bench.output.schema > docs/schemas/bench.schema.json"
    )


def test_a_report_validates_and_comes_back() -> None:
    report = report_of({"dense": [turn()] * 2, "pruned": [turn(60)] * 2})
    text = report.model_dump_json()
    jsonschema.Draft202012Validator(json.loads(schema())).validate(json.loads(text))
    assert Report.model_validate_json(text) == report
