"""The temporal test sets are consistent: whoever reads an item can find the answer, and nothing else passes for it."""

from __future__ import annotations

from collections import Counter
from types import ModuleType

import pytest

from benchmarks import temporal_set, temporal_set_held_out
from benchmarks.temporal_items import HISTORIES, TemporalItem, mentions

SETS = {"development": temporal_set, "held-out": temporal_set_held_out}
CASES = [
    pytest.param(item, id=f"{name}:{seed}:{item.id}")
    for name, module in SETS.items()
    for seed in range(4)
    for item in module.build(seed)
    if seed == 0 or item.relation != "written"
]
each_set = pytest.mark.parametrize("module", SETS.values(), ids=SETS)


def said(item: TemporalItem) -> list[str]:
    return [episode.text for episode in item.episodes]


@each_set
def test_size_and_kinds(module: ModuleType):
    items = module.build(0)
    templates = [item for item in items if item.relation != "written"]
    dialogues = {item.id.split("/")[1] for item in items if item.relation == "written"}
    assert len(templates) == len(module.RELATIONS) * len(HISTORIES) >= 40 and len(dialogues) == 20
    assert len({item.id for item in items}) == len(items)
    assert {item.kind for item in items} == {"now", "as_of", "believed"}
    assert min(Counter(item.kind for item in items).values()) >= 10


@each_set
def test_the_seed_decides(module: ModuleType):
    assert module.build(0) == module.build(0)
    assert [item.episodes for item in module.build(0)] != [item.episodes for item in module.build(1)]


@each_set
def test_every_relation_is_said_in_several_ways(module: ModuleType):
    for name, relation in module.RELATIONS.items():
        assert len(set(relation.states)) >= 4 and len(set(relation.changes)) >= 4, name
        assert len(relation.late) + len(relation.past) >= 4, name
        assert len(set(relation.values)) == len(relation.values) >= 6, name
        assert not any(mentions(one, other) for one in relation.values for other in relation.values if one != other)


@each_set
def test_sentences_about_things_name_them(module: ModuleType):
    for relation in module.RELATIONS.values():
        said = [*relation.states, *relation.changes, *relation.late, *relation.past]
        assert all("{v}" in sentence for sentence in [*said, *relation.traps])
        assert not relation.subjects or all("{s}" in sentence for sentence in said)


def test_the_sets_have_nothing_in_common():
    one, other = SETS.values()
    assert not set(one.RELATIONS) & set(other.RELATIONS) and not set(one.PEOPLE) & set(other.PEOPLE)
    sentences = [{e.text for item in module.build(0) for e in item.episodes} for module in (one, other)]
    assert not sentences[0] & sentences[1]
    values = [{value for r in module.RELATIONS.values() for value in r.values} for module in (one, other)]
    assert not values[0] & values[1]


@pytest.mark.parametrize("item", CASES)
def test_item_is_consistent(item: TemporalItem):
    assert any(mentions(text, item.expected) for text in said(item)), "the answer is said"
    assert item.wrong and all(any(mentions(text, value) for text in said(item)) for value in item.wrong)
    assert not any(mentions(item.expected, wrong) or mentions(wrong, item.expected) for wrong in item.wrong)
    assert not mentions(item.question, item.expected), "the question does not give it away"
    assert len({episode.id for episode in item.episodes}) == len(item.episodes)
    assert all(episode.speaker and "{" not in episode.text for episode in item.episodes)
    assert item.question.endswith("?") and "{" not in item.question


@pytest.mark.parametrize("item", CASES)
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
