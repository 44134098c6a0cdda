"""The part of JSON Schema (draft 2020-12) by which answers are asked for, and the check of an answer against it.

A keyword that is not checked here is refused at once: otherwise a local model, an endpoint and this check could each
understand the same schema differently.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from memspan.core.errors import InputError

TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
KEYWORDS = frozenset(
    "type properties required additionalProperties items enum const anyOf minLength maxLength pattern"
    " minItems maxItems minimum maximum title description".split()
)


def checked_schema(schema: Mapping[str, Any], where: str = "the schema") -> dict[str, Any]:
    """The schema as a plain dictionary.

    Raises:
        InputError: it is no schema, or has a keyword that is not known here.
    """
    if not isinstance(schema, Mapping):
        raise InputError(f"{where} is {type(schema).__name__}: a JSON schema is a mapping")
    unknown = sorted(str(key) for key in schema if key not in KEYWORDS)
    if unknown:
        raise InputError(f"{where} has the keyword {unknown[0]!r}; those known are {', '.join(sorted(KEYWORDS))}")
    wrong = [name for name in _types(schema) if name not in TYPES]
    if wrong:
        raise InputError(f"{where} has the type {wrong[0]!r}, which is not one of {', '.join(TYPES)}")
    try:
        re.compile(schema.get("pattern", ""))
        json.dumps(schema)
    except (re.error, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON schema: {error}") from None
    for name, part in schema.get("properties", {}).items():
        checked_schema(part, f"{where}, {name}")
    for i, part in enumerate(schema.get("anyOf", ())):
        checked_schema(part, f"{where}, anyOf {i}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            checked_schema(schema[key], f"{where}, {key}")
    return dict(schema)


def violation(value: Any, schema: Mapping[str, Any], where: str = "the answer") -> str:
    """What first is wrong with a parsed JSON value, in a few words; empty when it fits the schema."""
    named = _types(schema)
    if named and not any(_is(value, name) for name in named):
        return f"{where} must be {' or '.join(named)}"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{where} must be {json.dumps(schema['const'])}"
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return f"{where} must be one of {json.dumps(schema['enum'])[:200]}"
    if "anyOf" in schema and all(violation(value, part, where) for part in schema["anyOf"]):
        return f"{where} fits no alternative of its schema"
    if isinstance(value, str):
        return _string(value, schema, where)
    if isinstance(value, list):
        return _array(value, schema, where)
    if isinstance(value, dict):
        return _object(value, schema, where)
    if _is(value, "number") and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return f"{where} is out of range"
    return ""


def first_value(text: str) -> tuple[Any, str]:
    """The JSON value that a text is, or else the first object in it: parsed, and as it was written.

    Raises:
        ValueError: there is none.
    """
    try:
        return json.loads(text), text.strip()
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except ValueError:
        start = text.find("{")
        if start < 0:
            raise ValueError("there is no JSON object in it") from None
    try:
        value, stop = json.JSONDecoder().raw_decode(text, start)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    return value, text[start:stop]


def _types(schema: Mapping[str, Any]) -> list[Any]:
    named = schema.get("type", [])
    return [named] if isinstance(named, str) else list(named)


def _is(value: Any, name: str) -> bool:
    if name in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return name == "number" or value == int(value)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool}
    return value is None if name == "null" else isinstance(value, kinds[name])


def _same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _string(value: str, schema: Mapping[str, Any], where: str) -> str:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return f"{where} has {len(value)} characters, which is too many or too few"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return f"{where} must match {schema['pattern']}"
    return ""


def _array(value: list[Any], schema: Mapping[str, Any], where: str) -> str:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return f"{where} has {len(value)} items, which is too many or too few"
    found = (violation(item, schema.get("items", {}), f"{where}, item {i}") for i, item in enumerate(value))
    return next(filter(None, found), "")


def _object(value: dict[str, Any], schema: Mapping[str, Any], where: str) -> str:
    properties = schema.get("properties", {})
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        return f"{where} lacks {missing[0]!r}"
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name not in properties and others is False:
            return f"{where} may not have {name!r}"
        part = properties.get(name, others if isinstance(others, Mapping) else {})
        if problem := violation(item, part, f"{where}, {name}"):
            return problem
    return ""
