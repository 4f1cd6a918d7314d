"""The JSON Schema of a report: python -m fastv_runtime.bench.output.schema > docs/schemas/bench.schema.json"""

from __future__ import annotations

import json

from fastv_runtime.bench.models import Report

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> str:
    """Indented JSON, ending in a line break."""
    return json.dumps({"$schema": DIALECT} | Report.model_json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    print(schema(), end="")
