"""A language model writes the texts: typed prompts, checked answers, and the rules behind them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from memspan import Episode, InputError, Memory
from memspan.longterm.memorybank import MemoryBank
from memspan.longterm.memorybank.prompts import (
    LONGEST,
    MOST_CHARS,
    all_events,
    day_events,
    day_insight,
    portrait,
    shown,
)
from memspan.longterm.memorybank.writing import Pen
from memspan.models.schema import checked_schema
from tests.longterm.doubles import ToyScribe, day


@dataclass
class Answer:
    text: str


class Recorded:
    """Answers by what the prompt asks for, as recorded; remembers the prompts."""

    def __init__(self, answers: dict[str, Sequence[str]]) -> None:
        self.answers = {task: list(given) for task, given in answers.items()}
        self.prompts: list[str] = []

    def generate(
        self,
        prompt: Any,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        schema: Any = None,
    ):
        self.prompts.append(prompt[1]["content"])
        task = next(task for task in self.answers if task in prompt[1]["content"])
        given = self.answers[task]
        return Answer(given.pop(0) if len(given) > 1 else given[0])


GOOD = {
    "this conversation of": [json.dumps({"summary": "Ann moved to a city."})],
    "summaries of conversations by day": [json.dumps({"summary": "Ann moved to two cities."})],
    "which traits does": [json.dumps({"traits": ["open", "brisk"], "mood": "glad", "reply": "be short"})],
    "Write a portrait of": [json.dumps({"portrait": "Ann is an open person.", "reply": "be short"})],
}
# The insight's prompt has the words of the summary's too: the more telling words are asked for first.
ORDER = ("which traits does", "Write a portrait of", "summaries of conversations by day", "this conversation of")
CHAT = [
    Episode("Ann lives in Lisbon", "Ann", day(1), "s1", "a"),
    Episode("Ann lives in Oslo", "Ann", day(9), "s2", "b"),
]


def written_by(answers: dict[str, Sequence[str]]) -> tuple[Memory, Recorded]:
    model = Recorded({task: {**GOOD, **answers}[task] for task in ORDER})
    scribe = ToyScribe()
    scribe.model = model  # type: ignore[attr-defined]
    organizer = MemoryBank(scribe)
    organizer.pen._rules = ToyScribe()
    memory = Memory.open(":memory:", organizer=organizer, embedder=None, now=lambda: day(9))
    memory.add(CHAT)
    return memory, model


def texts(memory: Memory) -> dict[str, Any]:
    return {hit.id: hit for hit in memory.recall("Ann", kinds=["summary", "portrait", "insight"], k=20)}


def test_all_four_texts():
    memory, model = written_by({})
    with memory:
        found = texts(memory)
        assert {uid: hit.text.split("\n")[1:] for uid, hit in found.items()} == {
            "2024-01-01": ["Ann moved to a city."],
            "of all days": ["Ann moved to two cities."],
            "2024-01-01 ann": ["Traits: open, brisk.", "Mood: glad", "Best reply: be short"],
            "of ann": ["Ann is an open person.", "Best reply: be short"],
        }, "the day that is still going on is left for later"
        assert all(hit.metadata["by"] == "model" and hit.episodes == ["a"] for hit in found.values())
        assert len(model.prompts) == 4 and any("Ann: Ann lives in Lisbon" in prompt for prompt in model.prompts)
        texts(memory)
        assert len(model.prompts) == 4, "each text is asked for once"


def test_a_wrong_answer_is_asked_for_again():
    memory, model = written_by(
        {"this conversation of": ["no JSON", '{"summary": ""}', GOOD["this conversation of"][0]]}
    )
    with memory:
        assert texts(memory)["2024-01-01"].metadata["by"] == "model" and len(model.prompts) == 6


def test_where_the_model_fails_the_rules_write_and_say_so():
    memory, _ = written_by({"this conversation of": ["nothing"], "which traits does": ['{"traits": "open"}']})
    with memory:
        found = texts(memory)
        assert found["2024-01-01"].text == "2024-01-01\nAnn: Ann lives in Lisbon"
        assert found["2024-01-01"].metadata["by"] == "rules"
        assert "no usable answer in 3 tries" in found["2024-01-01"].metadata["fallback"]
        assert found["2024-01-01 ann"].text.endswith("Ann lives in Lisbon.")
        assert "traits must be a list" in found["2024-01-01 ann"].metadata["fallback"]
        assert found["of all days"].metadata["by"] == "model"


def test_forgetting_does_not_need_the_model():
    memory, model = written_by({})
    with memory:
        texts(memory)
        asked = len(model.prompts)
        memory.forget("a")
        assert len(model.prompts) == asked and texts(memory) == {}


@pytest.mark.parametrize(
    "answer",
    [
        {"traits": [], "mood": 3, "reply": "x"},
        {"traits": [1], "mood": "x", "reply": "x"},
        {"traits": [], "mood": "x"},
        {"traits": [], "mood": "...", "reply": "x"},
        {"traits": ["a whole sentence is not a trait"], "mood": "x", "reply": "x"},
        {"traits": [], "mood": "x" * (LONGEST + 1), "reply": "x"},
    ],
)
def test_malformed_insights_are_refused(answer):
    with pytest.raises(ValueError, match=r"must be a|may have"):
        day_insight._lines(answer)


def test_repeated_traits_are_named_once():
    assert day_insight._lines({"traits": ["open", "open", "..."], "mood": "glad", "reply": "ok"})[0] == "Traits: open."


def test_schemas_are_ones_that_models_take():
    for task in (day_events, all_events, day_insight, portrait):
        checked_schema(task.SCHEMA)


def test_no_room_in_the_window_is_no_reason_to_fail():
    memory, model = written_by({})

    def full(*_: Any, **__: Any) -> Answer:
        raise InputError("the prompt leaves no room for an answer")

    model.generate = full  # type: ignore[method-assign]
    with memory:
        assert "no room" in texts(memory)["2024-01-01"].metadata["fallback"]


def test_a_long_day_is_cut_to_its_last_lines():
    lines = [f"line {i} " + "x" * 90 for i in range(1000)]
    kept = shown(lines)
    assert len(kept) <= MOST_CHARS and kept.endswith(lines[-1]) and "line 3 " not in kept
    assert shown([]) == ""


def test_a_scribe_without_a_model_writes_by_rules():
    assert Pen(ToyScribe()).model is None
