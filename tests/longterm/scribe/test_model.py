"""The model scribe: its prompts, the checks on answers, and what it refuses to believe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memspan.core.errors import InputError, ModelError
from memspan.longterm.base import Episode, FactDraft, FactView, Scribe
from memspan.longterm.scribe import load_scribe
from memspan.longterm.scribe.model import ModelScribe
from memspan.longterm.scribe.rules import RuleScribe
from memspan.models.schema import checked_schema, violation
from tests.longterm.doubles import Recorded

AT = datetime(2023, 5, 10, 13, 30, tzinfo=UTC)


def fact(**changes: Any) -> dict[str, Any]:
    base = {"subject": "Ann", "relation": "lives in", "object": "Rome", "text": "Ann lives in Rome."}
    return {**base, "valid_at": "2023-05-10", "invalid_at": None, "ends": False, **changes}


def answer(*facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"entities": [{"name": "Rome", "label": "gpe"}], "facts": list(facts)}


def view(subject: str, relation: str, value: str) -> FactView:
    return FactView(
        subject=subject, relation=relation, object=value, text=f"{subject} {value}", valid_at=None, invalid_at=None
    )


NEW = FactDraft(subject="Ann", relation="LIVES_IN", object="Rome", text="Ann lives in Rome.", functional=True)


def test_extraction() -> None:
    model = Recorded("Sure!\n```json\n" + json.dumps(answer(fact())) + "\n```")
    context = [Episode(text="Where do you live?", speaker="Bob")]
    (found,) = ModelScribe(model).extract([Episode(text="I live in Rome.", speaker="Ann", at=AT)], context)
    (got,) = found.facts
    assert (got.subject, got.relation, got.object, got.functional) == ("Ann", "LIVES_IN", "Rome", True)
    assert got.valid_at == datetime(2023, 5, 10, tzinfo=UTC) and got.reason == "I live in Rome."
    assert {e.name: e.label for e in found.entities} == {"Rome": "GPE", "Ann": "THING"}
    prompt = model.prompts[0][-1]["content"]
    assert "Bob: Where do you live?" in prompt and "2023-05-10T13:30" in prompt and "I live in Rome." in prompt


def test_braces_in_a_message_are_text() -> None:
    model = Recorded(answer())
    ModelScribe(model).extract([Episode(text="{text} {0} {}", speaker="{speaker}")])
    assert "{text} {0} {}" in model.prompts[0][-1]["content"]


def test_context_is_of_the_session_and_bounded() -> None:
    model = Recorded(answer())
    turns = [Episode(text=f"turn {n}", speaker="Bob", session="a" if n % 2 else "b") for n in range(12)]
    ModelScribe(model, context_turns=2).extract([Episode(text="now", session="a")], turns)
    prompt = model.prompts[0][-1]["content"]
    assert "turn 9" in prompt and "turn 11" in prompt and "turn 10" not in prompt and "turn 7" not in prompt


def test_invented_dates_are_dropped() -> None:
    wrong = answer(fact(valid_at="2024-01-01"), fact(object="Oslo", valid_at="soon"))
    (found,) = ModelScribe(Recorded(wrong)).extract([Episode(text="I live in Rome.", speaker="Ann", at=AT)])
    assert [f.valid_at for f in found.facts] == [None, None]
    dated = answer(fact(valid_at="2022-01-01"))
    (found,) = ModelScribe(Recorded(dated)).extract([Episode(text="I moved last year.", speaker="Ann", at=AT)])
    assert found.facts[0].valid_at == datetime(2022, 1, 1, tzinfo=UTC)


def test_facts_that_end_before_they_begin_are_dropped() -> None:
    wrong = answer(fact(valid_at="2022-01-01", invalid_at="2021-01-01"))
    (found,) = ModelScribe(Recorded(wrong)).extract([Episode(text="from 2021 to 2022", at=AT)])
    assert found.facts == ()


def test_the_error_is_told_and_the_next_answer_taken() -> None:
    model = Recorded("no idea", {"facts": "none"}, answer(fact()))
    (found,) = ModelScribe(model).extract([Episode(text="I live in Rome.", speaker="Ann", at=AT)])
    assert len(found.facts) == 1 and len(model.prompts) == 3
    assert "no JSON object" in model.prompts[1][-1]["content"]
    assert "facts must be a list" in model.prompts[2][-1]["content"]
    assert len(model.prompts[2]) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "[]",
        "{",
        "{" * 5000,
        {"facts": []},
        answer({"subject": "Ann"}),
        answer(fact(subject="")),
        answer(fact(relation="!!")),
        answer(fact(ends="no")),
        answer(fact(object="")),
        {"entities": [1], "facts": []},
    ],
)
def test_unusable_answers_are_an_error(wrong: object) -> None:
    model = Recorded(wrong)
    with pytest.raises(ModelError, match="no usable answer in 2 tries"):
        ModelScribe(model, attempts=2).extract([Episode(text="Hello", at=AT)])
    assert len(model.prompts) == 2


def test_an_empty_text_asks_nothing() -> None:
    model = Recorded(answer())
    assert ModelScribe(model).extract([Episode(text="  ")])[0].facts == ()
    assert model.prompts == []


def test_relations_by_local_index_within_the_subject() -> None:
    known = [view("Bob", "LIVES_IN", "Oslo"), view("Ann", "LIVES_IN", "Paris"), view("ann", "PLAYS", "chess")]
    model = Recorded({"duplicates": [7], "contradicted": [0, 99, -1], "reason": "she moved"})
    found = ModelScribe(model).relate(NEW, known)
    assert (found.duplicates, found.contradicted, found.reason) == ((), (1,), "she moved")
    assert "Oslo" not in model.prompts[0][-1]["content"]  # a fact of another subject is not even shown


def test_repetitions_and_strangers_are_not_asked_about() -> None:
    model = Recorded("unused")
    scribe = ModelScribe(model)
    assert scribe.relate(NEW, [view("Ann", "LIVES_IN", "rome")]).duplicates == (0,)
    assert scribe.relate(NEW, [view("Bob", "LIVES_IN", "Oslo")]) == scribe.relate(NEW, [])
    assert model.prompts == []


def test_an_ending_closes_what_it_repeats() -> None:
    ending = FactDraft(subject="Ann", relation="LIVES_IN", object="Rome", text="Ann lives in Rome.", ends=True)
    model = Recorded({"duplicates": [0], "contradicted": [], "reason": ""})
    found = ModelScribe(model).relate(ending, [view("Ann", "LIVES_IN", "Rome")])
    assert (found.duplicates, found.contradicted) == ((), (0,))


def test_wrong_indices_are_asked_again() -> None:
    model = Recorded(
        {"duplicates": ["0"], "contradicted": [], "reason": ""},
        {"duplicates": [True], "contradicted": [], "reason": ""},
        {"duplicates": [], "contradicted": [0], "reason": "x"},
    )
    assert ModelScribe(model).relate(NEW, [view("Ann", "LIVES_IN", "Paris")]).contradicted == (0,)
    assert len(model.prompts) == 3


def test_summary() -> None:
    assert ModelScribe(Recorded({"summary": "Ann lives in Rome."})).summarize("Ann", ["x"]) == "Ann lives in Rome."
    assert ModelScribe(Recorded("unused")).summarize("Ann", [], previous="old") == "old"
    with pytest.raises(ModelError, match="characters"):
        ModelScribe(Recorded({"summary": "x" * 2000})).summarize("Ann", ["x"])


def test_each_task_is_asked_by_its_schema() -> None:
    good = answer(fact(relation="LIVES_IN"))
    good["entities"][0]["label"] = "GPE"
    related = {"duplicates": [], "contradicted": [0], "reason": "she moved"}
    model = Recorded(good, related, {"summary": "Ann lives in Rome."})
    scribe = ModelScribe(model)
    scribe.extract([Episode(text="I live in Rome.", speaker="Ann", at=AT)])
    scribe.relate(NEW, [view("Ann", "LIVES_IN", "Paris")])
    scribe.summarize("Ann", ["x"])
    for schema, written in zip(model.schemas, model.answers, strict=True):
        assert schema is not None and violation(json.loads(written), checked_schema(schema)) == ""
    extraction = model.schemas[0]
    assert extraction is not None
    for wrong in (fact(), fact(relation="LIVES_IN", subject=" "), fact(relation="LIVES_IN", valid_at="soon")):
        assert violation({**good, "facts": [wrong]}, extraction)


@given(st.text())
def test_any_answer_is_read_or_refused(text: str) -> None:
    scribe = ModelScribe(Recorded(text), attempts=1)
    try:
        scribe.relate(NEW, [view("Ann", "LIVES_IN", "Paris")])
    except ModelError:
        pass
    else:
        assert "{" in text


def test_wrong_options() -> None:
    with pytest.raises(InputError, match="attempts"):
        ModelScribe(Recorded("x"), attempts=0)


def test_load_scribe() -> None:
    rules = load_scribe(functional={"DRIVES"})
    assert isinstance(rules, RuleScribe) and "DRIVES" in rules.functional
    named = load_scribe("rules:en_core_web_md")
    assert isinstance(named, RuleScribe) and named.pipeline == "en_core_web_md"
    own: Scribe = ModelScribe(Recorded("x"))
    assert load_scribe(own) is own
    with pytest.raises(InputError, match="no scribe 'gpt'"):
        load_scribe("gpt")
    with pytest.raises(InputError, match="no scribe"):
        load_scribe(42)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs an address"):
        load_scribe("endpoint")
