"""The stream in a store: summaries, turns, recency, forgetting, reopening, tenants, bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from memspan import Episode, InputError, Memory
from memspan.longterm.scm import Scm, ScmConfig, estimated_tokens
from tests.longterm.doubles import HashEmbedder, Recorded, day

FILL = "The weather was fine that day and nobody minded the wind. " * 40
LONG = "We moved the launch of the ferry to May. " + FILL


@pytest.fixture
def memory():
    with Memory.open(":memory:", organizer="scm", embedder=None) as memory:
        yield memory


class Scribe:
    """Has a model, and reads nothing."""

    name = "double"

    def __init__(self, model: object) -> None:
        self.model = model


def test_only_long_turns_get_a_summary_that_names_them(memory):
    memory.add([Episode(LONG, "Ann", id="a1"), Episode("Lunch on the ferry?", id="a2")])
    assert memory.stats()["records"] == {"episode": 2, "summary": 1}
    [hit] = memory.recall("ferry launch", kinds=["summary"])
    assert hit.episodes == ["a1"] and "launch of the ferry to May" in hit.text and len(hit.text) < len(LONG) / 4
    assert hit.why == "summary of a long turn, extracted by rules"
    stats = memory.stats()["scm"]
    assert (stats["long_turns"], stats["chars_of_long_turns"]) == (1, len(LONG))
    assert stats["chars_of_summaries"] == len(hit.text)


def test_a_turn_tells_its_summary_relevance_and_age(memory):
    memory.add([Episode(LONG, "Ann", id="a1"), Episode("Lunch?", id="a2")])
    hit = memory.recall("launch of the ferry", kinds=["turn"])[0]
    assert (hit.kind, hit.id, hit.episodes, hit.text) == ("turn", "a1", ["a1"], f"Ann: {LONG}")
    assert hit.metadata["relevance"] == 1.0 and hit.metadata["measure"] == "coverage"
    assert hit.metadata["age"] == 1 and hit.metadata["place"] == 1
    assert hit.metadata["summary"].startswith("Ann: We moved") and len(hit.metadata["summary"]) < 600


def test_relevance_is_a_cosine_with_an_embedder():
    with Memory.open(":memory:", organizer="scm", embedder=HashEmbedder()) as memory:
        memory.add([Episode("the red boat", id="a"), Episode("a stove of iron", id="b")])
        hits = memory.recall("the red boat", kinds=["turn"])
        assert hits[0].id == "a" and hits[0].metadata["measure"] == "cosine"
        assert hits[0].metadata["relevance"] == pytest.approx(1, abs=0.01)


def test_recency_lifts_late_turns_and_fades():
    config = ScmConfig(recency_weight=5.0, recency_turns=2.0)
    with Memory.open(":memory:", organizer=Scm(config=config), embedder=None) as memory:
        memory.add([Episode(f"A note on ships, number {n}.", id=f"n{n}") for n in range(12)])
        hits = memory.recall("note on ships", k=12)
        assert [hit.id for hit in hits[:3]] == ["n11", "n10", "n9"]
        assert "0 turns ago" in hits[0].why and "ago" not in hits[-1].why
        memory.use("n2")
        assert {hit.id for hit in memory.recall("note on ships", k=2)} == {"n2", "n11"}
        memory.add([Episode(f"Another note on ships, {n}.", id=f"m{n}") for n in range(6)])
        assert memory.recall("note on ships", k=1)[0].id == "m5"
        assert memory.stats()["scm"]["turns_used"] == 1


def test_without_weight_there_is_no_recency():
    with (
        Memory.open(":memory:", organizer=Scm(config=ScmConfig(recency_weight=0)), embedder=None) as ours,
        Memory.open(":memory:", embedder=None, organizer="plain") as plain,
    ):
        for memory in (ours, plain):
            memory.add([Episode(f"A note on ships and {n} sails.", id=f"n{n}") for n in range(9)])
        hits = [[(hit.id, hit.score, hit.why) for hit in memory.recall("7 sails")] for memory in (ours, plain)]
        assert hits[0] == hits[1]


def test_filters_hold_for_every_kind(memory):
    memory.add([Episode(LONG, "Ann", session="s1", id="a1"), Episode(LONG + "Bye.", "Bo", session="s2", id="b1")])
    for kind in ("summary", "turn", "episode"):
        assert [hit.id for hit in memory.recall("ferry launch", kinds=[kind], session="s2")] == ["b1"]
        assert [hit.id for hit in memory.recall("ferry launch", kinds=[kind], speaker="Ann")] == ["a1"]


def test_what_the_store_did_not_yet_know(tmp_path: Path):
    now = [day(1)]
    with Memory.open(":memory:", organizer="scm", embedder=None, now=lambda: now[0]) as memory:
        now[0] = day(10)
        memory.add(Episode(LONG, id="a1"))
        assert memory.recall("ferry", kinds=["summary"], believed_at=day(5)) == []
        assert memory.recall("ferry", kinds=["summary"], believed_at=day(11))


def test_forgetting_leaves_no_bytes_of_text_or_summary(tmp_path: Path):
    path = tmp_path / "s.db"
    with Memory.open(path, organizer="scm", embedder=None) as memory:
        memory.add([Episode(LONG.replace("ferry", "zeppelin"), id="a1"), Episode("Lunch?", id="a2")])
        report = memory.forget("a1")
        assert report.derived == {"summary": 1} and memory.recall("zeppelin", kinds=["summary"]) == []
        assert memory.check() == []
    assert b"zeppelin" not in path.read_bytes()


def test_reopened_it_is_the_same(tmp_path: Path):
    asked = {"kinds": ["summary", "turn"], "k": 5}
    with Memory.open(tmp_path / "s.db", organizer="scm", embedder=None) as memory:
        memory.add([Episode(LONG, id="a1"), Episode("The ferry is late.", id="a2")])
        before = list(memory.recall("ferry", **asked))
    with Memory.open(tmp_path / "s.db", organizer="scm", embedder=None) as memory:
        assert list(memory.recall("ferry", **asked)) == before


def test_spaces_do_not_mix(memory):
    memory.add(Episode(LONG, id="a1"), space="one")
    memory.add(Episode(LONG.replace("May", "June"), id="a1"), space="two")
    for space, month in (("one", "May"), ("two", "June")):
        [hit] = memory.recall("ferry launch", kinds=["summary"], space=space)
        assert month in hit.text
        [hit] = memory.recall("ferry launch", kinds=["turn"], space=space)
        assert month in hit.text and month in hit.metadata["summary"]
    memory.forget(space="one", everything=True)
    assert memory.recall("ferry", kinds=["summary", "turn"], space="one") == []
    assert memory.recall("ferry", kinds=["summary"], space="two")


def test_maintenance_catches_up_on_turns_of_another_organizer(tmp_path: Path):
    with Memory.open(tmp_path / "s.db", embedder=None, organizer="plain") as memory:
        memory.add([Episode(LONG, id="a1"), Episode("Short.", id="a2")])
    with Memory.open(tmp_path / "s.db", organizer="scm", embedder=None) as memory:
        assert memory.maintain()["summaries_made"] == 1 and memory.maintain()["summaries_made"] == 0
        assert memory.recall("ferry", kinds=["summary"])[0].episodes == ["a1"]


def test_a_model_writes_the_summary():
    model = Recorded({"summary": "The ferry starts in May."})
    with Memory.open(":memory:", organizer=Scm(scribe=Scribe(model)), embedder=None) as memory:
        memory.add([Episode(LONG, id="a1"), Episode("Short.", id="a2")])
        [hit] = memory.recall("ferry", kinds=["summary"])
    assert hit.text == "The ferry starts in May." and hit.why.endswith("written by a language model")
    assert len(model.prompts) == 1 and LONG in model.asked[0]


def test_a_summary_that_is_a_little_long_ends_with_its_last_whole_sentence():
    model = Recorded({"summary": "The ferry starts in May. " + "It was a fine and windy day on all of the coast. " * 7})
    with Memory.open(":memory:", organizer=Scm(scribe=Scribe(model)), embedder=None) as memory:
        memory.add(Episode(LONG, id="a1"))
        [hit] = memory.recall("ferry", kinds=["summary"])
    assert hit.text.startswith("The ferry starts in May. It") and hit.text.endswith("of the coast.")
    assert 60 < estimated_tokens(hit.text) <= 80 and len(model.prompts) == 1


@pytest.mark.parametrize(
    "answer", ["no JSON", {"summary": ""}, {"summary": 3}, {"summary": "word " * 200}, {"other": "x"}]
)
def test_a_useless_model_gives_way_to_the_rules(answer):
    model = Recorded(answer)
    with Memory.open(":memory:", organizer=Scm(scribe=Scribe(model)), embedder=None) as memory:
        memory.add(Episode(LONG, id="a1"))
        [hit] = memory.recall("ferry", kinds=["summary"])
    assert "launch of the ferry" in hit.text and "the language model was of no use" in hit.why
    assert len(model.prompts) == 3


@pytest.mark.parametrize(
    "bad",
    [
        {"long_turn": 0},
        {"k": 0},
        {"budget": 0},
        {"flash_turns": -1},
        {"recency_weight": -0.1},
        {"recency_turns": 0},
        {"share": 0},
        {"share": 1.5},
        {"long_turn": 50, "summary_tokens": 50},
    ],
)
def test_bad_constants(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        ScmConfig(**bad)


def test_an_empty_store_and_odd_questions(memory):
    for kind in ("turn", "summary"):
        assert memory.recall("anything", kinds=[kind]) == []
    memory.add(Episode("Only this.", id="a1"))
    assert memory.recall("?!", kinds=["turn"])[0].metadata["relevance"] == 0
    assert memory.ask("When is lunch?") is not None
