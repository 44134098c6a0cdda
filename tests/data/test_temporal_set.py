"""The temporal test set is consistent: whoever reads an item can find the answer, and nothing else passes for it."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.temporal_set import HISTORIES, RELATIONS, TemporalItem, build, mentions

ITEMS = build(0) + [item for seed in (1, 2, 3) for item in build(seed) if item.relation != "written"]
IDS = [f"{number}:{item.id}" for number, item in enumerate(ITEMS)]


def said(item: TemporalItem) -> list[str]:
    return [episode.text for episode in item.episodes]


def test_size_and_kinds():
    items = build(0)
    templates = [item for item in items if item.relation != "written"]
    dialogues = {item.id.split("/")[1] for item in items if item.relation == "written"}
    assert len(templates) == len(RELATIONS) * len(HISTORIES) >= 40 and len(dialogues) == 20
    assert len({item.id for item in items}) == len(items)
    assert {item.kind for item in items} == {"now", "as_of", "believed"}
    assert min(Counter(item.kind for item in items).values()) >= 10


def test_the_seed_decides():
    assert build(0) == build(0)
    assert [item.episodes for item in build(0)] != [item.episodes for item in build(1)]


def test_every_relation_is_said_in_several_ways():
    for name, relation in RELATIONS.items():
        assert len(set(relation.states)) >= 4 and len(set(relation.changes)) >= 4, name
        assert len(relation.late) + len(relation.past) >= 4, name
        assert len(set(relation.values)) == len(relation.values) >= 6, name


@pytest.mark.parametrize("item", ITEMS, ids=IDS)
def test_item_is_consistent(item: TemporalItem):
    assert any(mentions(text, item.expected) for text in said(item)), "the answer is said"
    assert item.wrong and all(any(mentions(text, value) for text in said(item)) for value in item.wrong)
    assert not any(mentions(item.expected, wrong) or mentions(wrong, item.expected) for wrong in item.wrong)
    assert not mentions(item.question, item.expected), "the question does not give it away"
    assert len({episode.id for episode in item.episodes}) == len(item.episodes)
    assert all(episode.speaker and "{" not in episode.text for episode in item.episodes)
    assert item.question.endswith("?") and "{" not in item.question


@pytest.mark.parametrize("item", ITEMS, ids=IDS)
def test_times_are_in_order(item: TemporalItem):
    times = [episode.at for episode in item.episodes if episode.at is not None]
    assert len(times) == len(item.episodes) and times == sorted(set(times))
    assert item.asked_at > times[-1]
    assert (item.as_of is not None) == (item.kind == "as_of")
    assert (item.believed_at is not None) == (item.kind == "believed")
    for moment in (item.as_of, item.believed_at):
        if moment is not None:
            assert moment < item.asked_at and f"{moment.day} {moment:%B} {moment.year}" in item.question
            assert all(moment.date() != time.date() for time in times), "no doubt about the order within a day"
    if item.believed_at is not None:
        known = [e.text for e in item.episodes if e.at and e.at < item.believed_at]
        assert any(mentions(text, item.expected) for text in known), "it had been said by then"


def test_mentions_compares_whole_words():
    assert mentions("It meets on Mondays.", "monday") and mentions("For 1,800 euros!", "1,800 euros")
    assert not mentions("The 18 November", "8 November") and not mentions("Corkscrew", "Cork")
