"""The temporal knowledge graph over a memory, with a scribe that reads one kind of sentence."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan import Episode, InputError, Memory
from memspan.longterm.zep import Zep, ZepConfig
from tests.longterm.doubles import HashEmbedder, ToyScribe, day


class Clock:
    """The store's time, moved by the test."""

    def __init__(self) -> None:
        self.now = day(1)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def memory(clock):
    with Memory.open(":memory:", organizer=Zep(ToyScribe()), embedder=HashEmbedder(), now=clock) as memory:
        yield memory


def homes(memory: Memory, **options) -> list[str]:
    return [hit.metadata["object"] for hit in memory.recall("Ann lives in", kinds=["fact"], **options)]


def test_a_changed_fact_is_closed_not_deleted(memory, clock):
    clock.now = day(60)
    memory.add(
        [Episode("Ann lives in Lisbon", at=day(1), id="one"), Episode("Ann lives in Oslo", at=day(50), id="two")]
    )
    assert homes(memory) == ["Oslo"]
    assert homes(memory, as_of=day(20)) == ["Lisbon"]
    old, new = memory.history("ann", "LIVES_IN")
    assert (old.valid_at, old.invalid_at, old.episodes) == (day(1), day(50), ["one"])
    assert (new.valid_at, new.invalid_at, new.episodes) == (day(50), None, ["two"])
    assert old.retired_at == day(60) and new.retired_at is None


def test_the_order_of_arrival_does_not_matter(memory, clock):
    clock.now = day(200)
    for city, when in (("Rome", 90), ("Lisbon", 1), ("Paris", 120), ("Oslo", 50)):
        memory.add(Episode(f"Ann lives in {city}", at=day(when)))
    windows = [(h.metadata["object"], h.valid_at, h.invalid_at) for h in memory.history("Ann", "LIVES_IN")]
    assert windows == [
        ("Lisbon", day(1), day(50)),
        ("Oslo", day(50), day(90)),
        ("Rome", day(90), day(120)),
        ("Paris", day(120), None),
    ]


def test_both_axes_of_time(memory, clock):
    """On day 30 the store learned that Ann had moved on day 10."""
    clock.now = day(5)
    memory.add(Episode("Ann lives in Lisbon", at=day(1)))
    clock.now = day(30)
    memory.add(Episode("Ann lives in Oslo", at=day(10)))
    clock.now = day(100)
    assert homes(memory) == ["Oslo"]
    assert homes(memory, as_of=day(20)) == ["Oslo"], "what was true on day 20, as we know now"
    assert homes(memory, believed_at=day(20)) == ["Lisbon"], "what we believed on day 20"
    assert homes(memory, as_of=day(20), believed_at=day(25)) == ["Lisbon"]
    assert homes(memory, believed_at=day(3)) == [], "before anything was known"


def test_future_facts_wait(memory, clock):
    memory.add([Episode("Ann lives in Lisbon", at=day(1)), Episode("Ann lives in Oslo", at=day(50))])
    clock.now = day(20)
    assert homes(memory) == ["Lisbon"]
    clock.now = day(50)
    assert homes(memory) == ["Oslo"]


def test_undated_facts_close_nothing(memory):
    memory.add([Episode("Ann lives in Lisbon"), Episode("Ann lives in Oslo")])
    assert sorted(homes(memory)) == ["Lisbon", "Oslo"]
    assert all(hit.valid_at is None for hit in memory.history("Ann"))


def test_unrelated_facts_never_retire_each_other(memory, clock):
    clock.now = day(99)
    memory.add([Episode(f"Person{i} lives in Oslo. Person{i} likes Tea{i}", at=day(i + 1)) for i in range(30)])
    closed = [h for i in range(30) for h in memory.history(f"Person{i}") if h.invalid_at is not None]
    assert closed == []


def test_an_ended_fact_is_closed_without_a_new_one(memory, clock):
    clock.now = day(99)
    memory.add([Episode("Ann lives in Lisbon", at=day(1)), Episode("Ann left Lisbon", at=day(40))])
    assert homes(memory) == []
    assert homes(memory, as_of=day(30)) == ["Lisbon"]
    (fact,) = memory.history("Ann", "LIVES_IN")
    assert fact.invalid_at == day(40)


def test_a_repeated_fact_gains_a_source_and_an_earlier_beginning(memory, clock):
    clock.now = day(99)
    memory.add([Episode("Ann likes Tea", at=day(5), id="a"), Episode("Ann likes Tea", at=day(2), id="b")])
    (fact,) = memory.history("Ann", "LIKES")
    assert fact.episodes == ["a", "b"] and fact.valid_at == day(2)


def test_going_back_is_a_new_fact(memory, clock):
    clock.now = day(99)
    for city, when in (("Lisbon", 1), ("Oslo", 20), ("Lisbon", 60)):
        memory.add(Episode(f"Ann lives in {city}", at=day(when)))
    assert homes(memory) == ["Lisbon"]
    assert [h.valid_at for h in memory.history("Ann", "LIVES_IN")] == [day(1), day(20), day(60)]


def test_entities_and_communities(memory, clock):
    clock.now = day(99)
    memory.add([Episode("Ann likes Tea. Ann likes Jazz. Ann likes Rome", at=day(1), id="x")])
    memory.add([Episode("Zed likes Opera", at=day(2), id="y")])
    assert memory.maintain()["communities"] == 2
    (first, *_) = memory.recall("Opera Zed", kinds=["community"])
    assert first.kind == "community" and first.episodes == ["y"]
    entity = memory.recall("Ann", kinds=["entity"])[0]
    assert entity.id == "ann" and "likes Tea" in entity.text and entity.episodes == ["x"]
    memory.add([Episode("Zed likes Ballet", at=day(3))])
    members = memory.store.connection.execute(
        "SELECT count(*) FROM link WHERE kind = 'HAS_MEMBER' AND src IN (SELECT l.src FROM link l JOIN record r"
        " ON r.id = l.dst WHERE l.kind = 'HAS_MEMBER' AND r.uid = 'zed')"
    ).fetchone()[0]
    assert members == 3, "a new entity joins its neighbours' community until the next rebuild"


def test_breadth_first_search_finds_what_words_do_not(memory, clock):
    clock.now = day(99)
    memory.add(
        [
            Episode("Ann likes Jazz", at=day(1)),
            Episode("Bo likes Jazz", at=day(1)),
            Episode("Bo lives in Rome", at=day(1)),
        ]
    )
    hits = memory.recall("Tell me about Ann", kinds=["fact"], k=5)
    assert "graph" in hits[0].why
    assert {"Bo likes Jazz.", "Bo lives in Rome."} <= {hit.text for hit in hits}


@pytest.mark.parametrize("name", ["rrf", "mmr", "mentions", "distance", "cross"])
def test_rerankers(clock, name):
    def overlap(pairs):
        return [len(set(q.lower().split()) & set(t.lower().replace(".", "").split())) for q, t in pairs]

    clock.now = day(99)
    organizer = Zep(ToyScribe(), cross_encoder=overlap)
    with Memory.open(":memory:", organizer=organizer, embedder=HashEmbedder(), now=clock) as memory:
        memory.add([Episode(f"Ann likes Tea{i}", at=day(i + 1)) for i in range(4)])
        memory.add([Episode("Ann likes Tea2", at=day(i + 1)) for i in range(3)])
        memory.add([Episode("Bo likes Coffee", at=day(1))])
        hits = memory.recall("ann likes tea2", kinds=["fact"], k=5, rerank=name)
        assert hits, name
        if name in ("mentions", "cross"):
            assert hits[0].text == "Ann likes Tea2."
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True) or name == "mmr"


def test_bad_requests(memory):
    memory.add([Episode("Ann likes Tea", at=day(1))])
    with pytest.raises(InputError, match="reranker 'best' is not known"):
        memory.recall("Ann", kinds=["fact"], rerank="best")
    with pytest.raises(InputError, match="cross-encoder"):
        memory.recall("Ann", kinds=["fact"], rerank="cross")
    assert memory.history("nobody") == []


def test_filters_reach_facts(memory, clock):
    clock.now = day(99)
    memory.add([Episode("Ann likes Tea", "Ann", day(1), "s1"), Episode("Ann likes Jazz", "Bo", day(2), "s2")])
    assert [h.text for h in memory.recall("Ann likes", kinds=["fact"], session="s2")] == ["Ann likes Jazz."]
    assert [h.text for h in memory.recall("Ann likes", kinds=["fact"], speaker="Ann")] == ["Ann likes Tea."]


def test_a_failing_scribe_leaves_the_store_unchanged(memory):
    class Broken(ToyScribe):
        def relate(self, fact, known):
            raise RuntimeError("no answer")

    memory.organizer._scribe = Broken()
    with pytest.raises(RuntimeError, match="no answer"):
        memory.add([Episode("Ann likes Tea", at=day(1))])
    assert memory.stats()["records"] == {}
    memory.organizer._scribe = ToyScribe()
    memory.add([Episode("Bo likes Tea", at=day(1))])
    memory.add([Episode("Ann likes Tea", at=day(1))])
    assert {hit.id for hit in memory.recall("Ann Bo Tea", kinds=["entity"])} == {"ann", "bo", "tea"}


def test_facts_lend_weight_to_their_episodes(clock):
    clock.now = day(99)
    organizer = Zep(ToyScribe(), ZepConfig(graph_bonus=1.0))
    with Memory.open(":memory:", organizer=organizer, embedder=HashEmbedder(), now=clock) as memory:
        memory.add([Episode("Ann likes Tea", at=day(1), id="a"), Episode("nothing here", at=day(1), id="b")])
        assert "states fact #1" in memory.recall("Ann Tea")[0].why


def test_vectors_of_facts_are_unit_length(memory):
    memory.add([Episode("Ann likes Tea", at=day(1))])
    memory.recall("Ann", kinds=["fact"])
    index = next(i for i in memory._indexes.values() if not i.episodes)
    vectors = index.vectors.rows(np.arange(len(index.owner)))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=5e-3)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_order_of_sightings_gives_the_same_history(data):
    """Someone moves between three cities and back; where she was seen is told in any order."""
    cities = data.draw(st.lists(st.sampled_from(["Lisbon", "Oslo", "Rome"]), min_size=1, max_size=6))
    seen = [(city, day(10 * number + 1)) for number, city in enumerate(cities)]
    expected = {moment: city for city, moment in seen}
    with Memory.open(":memory:", organizer=Zep(ToyScribe()), embedder=None) as memory:
        for city, moment in data.draw(st.permutations(seen)):
            memory.add(Episode(f"Ann lives in {city}", at=moment))
        for number, moment in enumerate(expected):
            for asked in (moment, day(10 * number + 5)):
                held = [hit.metadata["object"] for hit in memory.history("Ann", "LIVES_IN", as_of=asked)]
                assert held == [expected[moment]]


def test_a_rewritten_summary_is_found_by_its_new_words_alone():
    with Memory.open(":memory:", organizer=Zep(ToyScribe()), embedder=HashEmbedder()) as memory:
        for number in range(40):  # every turn rewrites Ann's summary, and many of its old places are cleared away
            memory.add(Episode(f"Ann likes Thing{number}", at=day(number + 1), id=f"e{number}"))
            best = memory.recall(f"Ann likes Thing{number}", kinds=["entity"], k=2)
            assert len({hit.id for hit in best}) == len(best)
            with memory.store.read(0) as tx:
                index = memory._index(tx, episodes=False)
                live = index.record_ids[index.kind >= 0].tolist()
                rows = tx.execute("SELECT id FROM record WHERE kind <> 'episode'").fetchall()
                assert sorted(live) == sorted(row[0] for row in rows)
                assert (index.record_ids[index.places(index.record_ids)] == index.record_ids).all()
                assert (index.kind[index.places(index.record_ids)] >= 0).all()
