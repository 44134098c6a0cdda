"""The written conversations and their questions are consistent, and `benchmarks/ask.py` counts as it says."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.ask import right, score
from benchmarks.ask_set import AskedConversation, conversations
from benchmarks.temporal_items import mentions
from memspan.data import questions

each = pytest.mark.parametrize("talk", conversations(), ids=lambda talk: talk.name)


def said(talk: AskedConversation) -> list[str]:
    return [f"{episode.text} {episode.metadata.get('caption', '')}" for episode in talk.episodes]


@each
def test_conversation_has_dated_turns_of_two(talk: AskedConversation):
    assert 25 <= len(talk.episodes) <= 35
    assert len({episode.speaker for episode in talk.episodes}) == 2
    assert len({episode.id for episode in talk.episodes}) == len(talk.episodes)
    times = [episode.at for episode in talk.episodes if episode.at]
    assert len(times) == len(talk.episodes) and times == sorted(set(times))
    assert 3 <= len({(time.date(), e.session) for time, e in zip(times, talk.episodes, strict=True)}) <= 5
    assert any("caption" in episode.metadata for episode in talk.episodes)
    assert not any("[" in text or "|" in text for text in said(talk))


@each
def test_questions_have_the_shipped_form(talk: AskedConversation):
    assert all(asked.keys() == questions()[0].keys() for asked in talk.questions)
    kinds = Counter(asked["category"] for asked in talk.questions)
    assert len(talk.questions) == 12 and kinds["unanswerable"] == 3
    assert set(kinds) == {"single-hop", "changed", "temporal", "multi-hop", "caption", "unanswerable"}
    assert all(asked["question"].endswith("?") for asked in talk.questions)
    first, last = talk.episodes[0].at, talk.episodes[-1].at
    assert first and last
    for asked in talk.questions:
        assert (asked["answer"] is None) == (asked["category"] == "unanswerable") == (not asked["evidence"])
        assert asked["as_of"] is None or first.date().isoformat() < asked["as_of"] < last.date().isoformat()


@each
def test_the_evidence_holds_the_answer(talk: AskedConversation):
    place = {episode.id: number for number, episode in enumerate(talk.episodes)}
    for asked in talk.questions:
        for uid in asked["evidence"]:
            near = " ".join(said(talk)[max(0, place[uid] - 1) : place[uid] + 2])
            assert any(mentions(near, value) for value in [asked["answer"], *asked["aliases"]]), (asked["id"], uid)
        if asked["answer"] is not None:
            assert not mentions(asked["question"], asked["answer"]), "the question does not give it away"


def test_ids_are_unique_and_one_has_long_messages():
    ids = [asked["id"] for talk in conversations() for asked in talk.questions]
    assert len(set(ids)) == len(ids) == 36
    assert any(sum(len(text) > 350 for text in said(talk)) >= 5 for talk in conversations())


def test_right_needs_value_and_citation_or_a_refusal():
    good = {"expected": "Ghent", "value": True, "citation": True, "declined": False}
    refused = {"expected": None, "value": False, "citation": False, "declined": True}
    assert right(good) and right(refused)
    assert not right(good | {"citation": False}) and not right(good | {"value": False})
    assert not right(refused | {"declined": False})
    total = score("x", [good, good | {"citation": False}, refused, refused | {"declined": False}])
    assert (total["answerable"], total["value"], total["citation"], total["right"]) == (2, 2, 1, 1)
    assert (total["unanswerable"], total["declined"], total["declined_wrongly"]) == (2, 1, 0)
