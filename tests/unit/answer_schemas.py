"""The JSON Schemas of docs/schemas/, held against what commands print."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


def validate(body: dict[str, Any]) -> None:
    """Hold an answer against the schema that it names; an error of an unknown command against error.json.

    Raises:
        jsonschema.ValidationError: it does not fit.
    """
    file = SCHEMAS / f"{body['schema'].split('/')[1]}.json"
    if not file.exists():
        assert not body["ok"], f"{body['schema']} has no schema"
        file = SCHEMAS / "error.json"
    validator(file).validate(body)


@cache
def validator(file: Path) -> Any:
    schema = json.loads(file.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)
