"""Typed prompts: what is sent, what is taken, and what is asked again."""

from __future__ import annotations

from typing import Any

import pytest

from memspan.core.errors import InputError, ModelError
from memspan.longterm.prompts import Writer, ask_json, first_object, object_schema
from tests.longterm.doubles import Recorded

SCHEMA = object_schema(number={"type": "integer"})


def number(answer: Any) -> int:
    if type(answer.get("number")) is not int:
        raise ValueError("number must be a whole number")
    return int(answer["number"])


def test_the_first_answer_that_passes_is_taken():
    model = Recorded("no idea", {"number": "7"}, 'Here: {"number": 7} or so', {"number": 8})
    assert ask_json(model, "How many?", SCHEMA, number) == 7
    assert len(model.prompts) == 3
    last = model.prompts[2]
    assert [m["role"] for m in last] == ["system", "user", "assistant", "user"]
    assert "number must be a whole number" in last[-1]["content"]


def test_no_usable_answer_is_an_error_that_says_why():
    with pytest.raises(ModelError, match=r"2 tries \(there is no JSON object in it\)"):
        ask_json(Recorded("never"), "How many?", SCHEMA, number, attempts=2)


@pytest.mark.parametrize("options", [{"attempts": 0}, {"max_new_tokens": 0}])
def test_bounds_are_checked(options):
    with pytest.raises(InputError, match="at least 1"):
        ask_json(Recorded({}), "How many?", SCHEMA, number, **options)


def test_the_schema_is_sent_each_time():
    model = Recorded("no", {"number": 1})
    assert isinstance(model, Writer)
    ask_json(model, "How many?", SCHEMA, number)
    assert model.schemas == [SCHEMA, SCHEMA] and SCHEMA["required"] == ["number"]


@pytest.mark.parametrize("text", ["", "none", "[1]", "{", "{'a': 1}", '{"a": ' * 100_000])
def test_text_without_an_object_is_refused(text):
    with pytest.raises(ValueError):
        first_object(text)
