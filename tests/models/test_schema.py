"""The part of JSON Schema that answers are asked for by."""

import pytest

from memspan.core.errors import InputError
from memspan.models.schema import checked_schema, first_value, violation

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^[A-Z]"},
        "age": {"type": ["integer", "null"], "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", 1]}, "minItems": 1, "maxItems": 2},
        "more": {"anyOf": [{"const": True}, {"type": "number"}]},
    },
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "value",
    [
        {"name": "Ann"},
        {"name": "Ann", "age": None, "tags": ["a", 1], "more": True},
        {"name": "Ann", "age": 3.0, "more": 0.5},
    ],
)
def test_fits(value):
    assert violation(value, checked_schema(SCHEMA)) == ""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "must be object"),
        ({}, "lacks 'name'"),
        ({"name": ""}, "0 characters"),
        ({"name": "Annabel"}, "7 characters"),
        ({"name": "ann"}, "must match"),
        ({"name": "Ann", "age": True}, "age must be integer or null"),
        ({"name": "Ann", "age": 1.5}, "age must be"),
        ({"name": "Ann", "age": 151}, "out of range"),
        ({"name": "Ann", "tags": []}, "0 items"),
        ({"name": "Ann", "tags": ["a", "a", "a"]}, "3 items"),
        ({"name": "Ann", "tags": [True]}, "item 0 must be one of"),
        ({"name": "Ann", "more": 1j}, "no alternative"),
        ({"name": "Ann", "more": float("nan")}, "no alternative"),
        ({"name": "Ann", "else": 1}, "may not have 'else'"),
    ],
)
def test_what_is_wrong_is_named(value, said):
    assert said in violation(value, SCHEMA)


def test_other_properties_may_have_a_schema():
    schema = checked_schema({"type": "object", "additionalProperties": {"type": "integer"}})
    assert violation({"a": 1}, schema) == ""
    assert "a must be integer" in violation({"a": "x"}, schema)


@pytest.mark.parametrize(
    "schema",
    [
        [],
        {"type": "text"},
        {"format": "date"},
        {"pattern": "("},
        {"const": object()},
        {"properties": {"a": {"oneOf": []}}},
        {"items": {"type": "x"}},
        {"anyOf": ["string"]},
    ],
)
def test_unusable_schemas(schema):
    with pytest.raises(InputError, match="schema"):
        checked_schema(schema)


def test_first_value():
    assert first_value(" [1] ") == ([1], "[1]")
    assert first_value('Sure: {"a": 1}. Anything else?') == ({"a": 1}, '{"a": 1}')
    for text in ("", "none", "{", '{"a":' * 5000, "[" * 100_000):
        with pytest.raises(ValueError):
            first_value(text)
