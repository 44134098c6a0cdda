"""The organizer in a store: insert, forget, merge, undo, erasure, views, kept answers, the hash, spaces, bad input."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan import Episode, InputError, Memory
from memspan.longterm.kept import KEPT
from memspan.longterm.scribe.structured import StructuredScribe
from memspan.longterm.think_in_memory import ThinkInMemory, ThinkInMemoryConfig
from tests.longterm.doubles import HashEmbedder, Recorded, ToyScribe, day


def told(head: str, rel: str, tail: str, *, id: str | None = None, at: object = None, **more: object) -> Episode:
    role = {"role": more.pop("role")} if "role" in more else {}
    item = {"head": head, "rel": rel, "tail": tail, "text": f"{head} {rel.lower()} {tail}.", **more}
    return Episode(f"Said of {head}: {tail}.", head, at, id=id, metadata={"thoughts": [item], **role})  # type: ignore[arg-type]


def opened(target: str | Path = ":memory:", embedder: object = None, scribe: object = None, **config: object) -> Memory:
    organizer = ThinkInMemory(scribe or StructuredScribe(), config=ThinkInMemoryConfig(**config))  # type: ignore[arg-type]
    return Memory.open(target, organizer=organizer, embedder=embedder)  # type: ignore[arg-type]


def active(memory: Memory, query: str = "", **options: object) -> dict[str, list[str]]:
    rows = memory.store.connection.execute(
        "SELECT uid FROM record WHERE kind = 'thought' AND status = 'live' ORDER BY text"
    )
    if query:
        return {hit.text: hit.episodes for hit in memory.recall(query, kinds=["thought"], k=50, **options)}  # type: ignore[arg-type]
    with memory.store.read(0) as tx:
        return {
            tx.find("thought", row[0])["text"]: tx.sources([tx.find("thought", row[0])["id"]]).popitem()[1]  # type: ignore[index]
            for row in rows.fetchall()
        }


# --- insert ---


def test_thoughts_that_an_episode_brings_are_recalled_with_their_sources():
    with opened() as memory:
        memory.add([told("Ann", "LIKES", "tea", id="a1"), told("Bob", "LIKES", "milk", id="b1")])
        [hit] = memory.recall("what tea does ann like", kinds=["thought"], k=1)
        assert (hit.text, hit.episodes, hit.kind) == ("Ann likes tea.", ["a1"], "thought")
        assert hit.metadata == {"head": "Ann", "rel": "LIKES", "tail": "tea", "origin": "user", "status": "active"}
        assert "all thoughts read" in hit.why


def test_a_sentence_without_a_triple_is_a_thought_of_its_head_and_may_name_more_sources():
    with opened() as memory:
        memory.add(Episode("I paint.", "Ann", id="a1"))
        item = {"head": "Ann", "text": "Ann paints lakes.", "sources": ["a1"]}
        memory.add(Episode("Lakes mostly.", "Ann", id="a2", metadata={"thoughts": [item]}))
        assert active(memory, "lakes") == {"Ann paints lakes.": ["a1", "a2"]}


def test_a_scribe_reads_episodes_that_bring_none():
    with opened(scribe=ToyScribe()) as memory:
        memory.add([Episode("Ann lives in Oslo and Bob likes Ann", id="a1"), told("Bob", "LIKES", "milk", id="b1")])
        assert set(active(memory)) == {"Ann lives in Oslo.", "Bob likes Ann.", "Bob likes milk."}


def test_the_rules_read_a_turn():
    with Memory.open(":memory:", organizer="think-in-memory", embedder=None) as memory:
        memory.add(Episode("I moved to Lisbon in May 2020.", "Ann", day(200, 2020), id="a1"))
        memory.add(Episode("I moved to Oslo in May 2023.", "Ann", day(200, 2023), id="a2"))
        [old, new] = memory.history("Ann", "LIVES_IN")
        assert (old.metadata["tail"], old.metadata["status"]) == ("Lisbon", "forgotten")
        assert (new.metadata["tail"], old.metadata["superseded_by"]) == ("Oslo", new.id)


def test_ordinary_recall_still_gives_episodes_and_tells_of_thoughts():
    with opened() as memory:
        memory.add(
            [told("Ann", "LIKES", "tea", id="a1"), *(Episode(f"Note {n} on tea.", id=f"n{n}") for n in range(5))]
        )
        hits = memory.recall("ann likes tea")
        assert hits[0].id == "a1" and "source of thought #1" in hits[0].why and hits[0].kind == "episode"


# --- forget and merge ---


def test_the_newer_fact_of_a_functional_relation_wins_whichever_comes_first():
    facts = [told("Ann", "LIVES_IN", town, id=town, at=day(n)) for n, town in ((1, "Oslo"), (9, "Rome"), (5, "Bonn"))]
    for order in itertools.permutations(facts):
        with opened(functional=frozenset({"LIVES_IN"})) as memory:
            for episode in order:
                memory.add(episode)
            assert active(memory) == {"Ann lives_in Rome.": ["Rome"]}
            shown = [(h.metadata["tail"], h.valid_at, h.invalid_at) for h in memory.history("ann")]
            assert shown == [("Oslo", day(1), day(5)), ("Bonn", day(5), day(9)), ("Rome", day(9), None)]
            assert memory.maintain() == {"embedded": 0, "forgotten": 0, "merged": 0, "restored": 0}
            assert memory.check() == []


def test_views_show_what_held_and_what_was_believed():
    moments = iter(day(n, 2030) for n in range(1, 200))
    organizer = ThinkInMemory(StructuredScribe(), config=ThinkInMemoryConfig(functional=frozenset({"LIVES_IN"})))
    with Memory.open(":memory:", organizer=organizer, embedder=None, now=lambda: next(moments)) as memory:
        memory.add(told("Ann", "LIVES_IN", "Oslo", id="a1", at=day(1)))
        between = next(moments)
        memory.add(told("Ann", "LIVES_IN", "Rome", id="a2", at=day(9)))
        assert list(active(memory, "ann")) == ["Ann lives_in Rome."]
        assert list(active(memory, "ann", as_of=day(3))) == ["Ann lives_in Oslo."]
        assert list(active(memory, "ann", believed_at=between)) == ["Ann lives_in Oslo."]
        assert [h.metadata["tail"] for h in memory.history("Ann", as_of=day(3))] == ["Oslo"]
        assert [h.metadata["tail"] for h in memory.history("Ann", believed_at=between)] == ["Oslo"]


def test_an_assistant_does_not_override_a_person():
    with opened(functional=frozenset({"LIVES_IN"})) as memory:
        memory.add(told("Ann", "LIVES_IN", "Oslo", id="a1", at=day(1)))
        memory.add(told("Ann", "LIVES_IN", "Rome", id="a2", at=day(2), role="assistant"))
        assert {h.metadata["origin"]: h.metadata["tail"] for h in memory.history("Ann")} == {
            "user": "Oslo",
            "assistant": "Rome",
        }
        assert len(active(memory)) == 2
        memory.add(told("Ann", "LIVES_IN", "Bonn", id="a3", at=day(3)))
        assert list(active(memory)) == ["Ann lives_in Bonn."]


def test_an_ending_forgets_what_it_ends():
    with opened(scribe=ToyScribe()) as memory:
        memory.add(Episode("Ann lives in Oslo", at=day(1), id="a1"))
        memory.add(Episode("Ann left Oslo", at=day(2), id="a2"))
        assert list(active(memory)) == ["Ann left Oslo."]


def test_two_spellings_are_one_thought_with_both_sources():
    with opened() as memory:
        memory.add(
            [told("Ann", "LIKES", "tea", id="a1", at=day(1)), told("ann ", "LIKES", "the Tea", id="a2", at=day(2))]
        )
        [hit] = memory.recall("tea", kinds=["thought"])
        assert hit.episodes == ["a1", "a2"] and len(hit.metadata["members"]) == 2
        assert memory.stats()["think-in-memory"]["thoughts"] == {"active": 1, "merged": 2}
        memory.add(told("ANN", "LIKES", "TEA", id="a3", at=day(3)))
        [again] = memory.recall("tea", kinds=["thought"])
        assert again.id == hit.id and again.episodes == ["a1", "a2", "a3"]


def test_the_same_sentence_again_is_one_more_source():
    with opened() as memory:
        memory.add([told("Ann", "LIKES", "tea", id="a1"), told("Ann", "LIKES", "tea", id="a2")])
        assert active(memory) == {"Ann likes tea.": ["a1", "a2"]}
        assert memory.stats()["think-in-memory"]["thoughts"] == {"active": 1}


def near() -> list[Episode]:
    words = "a long walk along the river bank with the two old dogs every single morning before work"
    return [
        told("Ann", "TAKES", words, id="a1", at=day(1)),
        told("Ann", "TAKES", f"{words} begins", id="a2", at=day(2)),
        told("Ann", "TAKES", "a nap", id="a3", at=day(3)),
    ]


def test_near_vectors_are_merged_by_maintenance_and_stay_merged():
    with opened(embedder=HashEmbedder()) as memory:
        memory.add(near())
        assert len(active(memory)) == 3
        assert memory.maintain()["merged"] == 2
        merged = active(memory)
        assert len(merged) == 2 and ["a1", "a2"] in merged.values()
        again = memory.maintain()
        assert (again["merged"], again["forgotten"], again["restored"], again["embedded"]) == (0, 0, 0, 0)
        memory.add(told("Ann", "TAKES", "the bus", id="a4", at=day(4)))
        assert ["a1", "a2"] in active(memory).values()


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(8)), st.lists(st.integers(1, 8), min_size=1, max_size=4))
def test_order_and_batches_do_not_show(order, cuts):
    rows = [
        told("Ann", "LIKES", "tea", id="0", at=day(1)),
        told("ann", "LIKES", "Tea", id="1", at=day(2)),
        told("Ann", "LIKES", "milk", id="2", at=day(3)),
        told("Ann", "LIVES_IN", "Oslo", id="3", at=day(1), functional=True),
        told("Ann", "LIVES_IN", "oslo", id="4", at=day(3), functional=True),
        told("Ann", "LIVES_IN", "Rome", id="5", at=day(2), functional=True),
        told("Bob", "LIVES_IN", "Rome", id="6", at=day(2), functional=True),
        told("Ann", "LIVES_IN", "Rome", id="7", at=day(9), functional=True, ends=True),
    ]

    def outcome(batches: list[list[Episode]]) -> dict[str, list[str]]:
        with opened() as memory:
            for batch in batches:
                memory.add(batch)
            before = everything(memory)
            assert memory.maintain() == {"embedded": 0, "forgotten": 0, "merged": 0, "restored": 0}
            assert everything(memory) == before
            return active(memory)

    shuffled, batches = [rows[place] for place in order], []
    for size in itertools.cycle(cuts):
        if not shuffled:
            break
        batches.append(shuffled[:size])
        shuffled = shuffled[size:]
    assert outcome(batches) == outcome([rows])


def everything(memory: Memory) -> list[tuple[object, ...]]:
    tables = ("record", "source", "link", "version", "change")
    return [(t, *row) for t in tables for row in memory.store.connection.execute(f"SELECT * FROM {t}").fetchall()]


def test_without_tidying_on_add_maintenance_does_it():
    with opened(tidy_on_add=False) as memory:
        memory.add([told("Ann", "LIKES", "tea", id="a1"), told("ann", "LIKES", "Tea", id="a2")])
        assert len(active(memory)) == 2
        assert memory.maintain()["merged"] == 2 and len(active(memory)) == 1


# --- undo and erasure ---


def test_a_merge_can_be_undone_and_stays_undone():
    with opened() as memory:
        memory.add(
            [
                told("Ann", "LIKES", "tea", id="a1"),
                told("ann", "LIKES", "Tea", id="a2"),
                told("ANN", "LIKES", "TEA", id="a3"),
            ]
        )
        change = memory.changes(kind="thought")[0]
        assert change.field == "merged_into" and change.old is None
        memory.undo(change.id)
        assert sorted(map(len, active(memory).values())) == [1, 2]
        assert memory.maintain()["merged"] == 0 and len(active(memory)) == 2
        memory.undo(next(c.id for c in memory.changes(kind="thought") if c.field == "merged_into" and c.new))
        assert sorted(active(memory).values()) == [["a1"], ["a2"], ["a3"]] and memory.check() == []


def test_a_forgetting_can_be_undone_and_stays_undone():
    with opened(functional=frozenset({"LIVES_IN"})) as memory:
        memory.add(
            [told("Ann", "LIVES_IN", "Oslo", id="a1", at=day(1)), told("Ann", "LIVES_IN", "Rome", id="a2", at=day(2))]
        )
        [change] = memory.changes()
        assert change.field == "superseded_by" and change.cause == "a2"
        memory.undo(change.id)
        memory.maintain()
        assert set(active(memory)) == {"Ann lives_in Oslo.", "Ann lives_in Rome."}


def test_forgetting_the_newer_brings_the_older_back():
    with opened(functional=frozenset({"LIVES_IN"})) as memory:
        for n, town in enumerate(("Oslo", "Rome", "Bonn"), 1):
            memory.add(told("Ann", "LIVES_IN", town, id=town, at=day(n)))
        memory.forget("Rome")
        assert list(active(memory)) == ["Ann lives_in Bonn."]
        assert [(h.metadata["tail"], h.invalid_at) for h in memory.history("Ann")] == [("Oslo", day(3)), ("Bonn", None)]
        memory.forget("Bonn")
        [hit] = memory.history("Ann")
        assert (hit.metadata["status"], hit.invalid_at, hit.retired_at) == ("active", None, None)
        assert memory.check() == []


def test_forgetting_leaves_no_bytes_in_merged_texts_answers_or_logs(tmp_path):
    path = tmp_path / "t.db"
    long = "quiet evenings with books and a cat beside the fire in the old stone house near the sea"
    with opened(path, HashEmbedder(), keep_answers=True) as memory:
        memory.add(
            [
                told("Ann", "LOVES", long, id="a1", at=day(1)),
                told("Ann", "LOVES", f"{long} Zanzibar", id="a2", at=day(2)),
                told("Ann", "OWNS", "Quetzal", id="a3", at=day(3), functional=True),
                told("Ann", "OWNS", "Xylograph", id="a4", at=day(4), functional=True),
            ]
        )
        assert memory.maintain()["merged"] == 2
        assert memory.ask("Said of Ann Zanzibar?", abstain_below=0.0).citations[0].episode == "a2"
        assert memory.ask("Said of Ann Xylograph?", abstain_below=0.0).citations[0].episode == "a4"
        assert b"Zanzibar" in path.read_bytes() + Path(f"{path}-wal").read_bytes()
        assert memory.forget(["a2", "a4"]).purged
        assert list(active(memory)) == [f"Ann loves {long}.", "Ann owns Quetzal."]
        assert memory.check() == []
    for word in (b"Zanzibar", b"Xylograph"):
        assert word.lower() not in path.read_bytes().lower()


def test_a_merged_thought_loses_the_tail_of_a_forgotten_source():
    with opened(scribe=Repeating()) as memory:
        memory.add(
            [told("John", "WORKS_AS", job, id=job, at=day(n)) for n, job in enumerate(("actor", "director", "cook"), 1)]
        )
        assert list(active(memory)) == ["John works_as actor, director and cook."]
        memory.forget("director")
        assert active(memory) == {"John works_as actor and cook.": ["actor", "cook"]}
        memory.forget("cook")
        assert active(memory) == {"John works_as actor.": ["actor"]}


class Repeating(StructuredScribe):
    """Finds every two thoughts of one relation to say the same."""

    def relate(self, fact, known):  # type: ignore[no-untyped-def]
        same = tuple(place for place, view in enumerate(known) if view.relation == fact.relation)
        return type(super().relate(fact, known))(duplicates=same)


# --- stores ---


def test_everything_is_there_after_reopening_and_import(tmp_path):
    path, copy = tmp_path / "t.db", tmp_path / "copy.db"
    with opened(path, HashEmbedder(), index="lsh", n_buckets=8, n_tables=2) as memory:
        memory.add(near())
        memory.maintain()
        before, hits = active(memory), memory.recall("walk along the river", kinds=["thought"])
        stats = memory.stats()["think-in-memory"]
        memory.export(tmp_path / "t.jsonl")
    with opened(path, HashEmbedder()) as memory:
        assert active(memory) == before and memory.stats()["think-in-memory"] == stats
        again = memory.recall("walk along the river", kinds=["thought"])
        assert [(h.id, h.score, h.why) for h in again] == [(h.id, h.score, h.why) for h in hits]
        assert stats["index"] == "lsh" and stats["hash"]["n_buckets"] == 8
    with opened(copy, HashEmbedder()) as memory:
        memory.import_(tmp_path / "t.jsonl")
        assert active(memory) == before and memory.maintain()["merged"] == 0


def test_spaces_are_apart():
    with opened(functional=frozenset({"LIVES_IN"})) as memory:
        memory.add(told("Ann", "LIVES_IN", "Oslo", id="a1", at=day(1)), space="one")
        memory.add(told("Ann", "LIVES_IN", "Rome", id="a1", at=day(2)), space="two")
        for space, town in (("one", "Oslo"), ("two", "Rome")):
            [hit] = memory.recall("ann", kinds=["thought"], space=space)
            assert hit.metadata["tail"] == town
        memory.forget("a1", space="two")
        assert memory.recall("ann", kinds=["thought"], space="two") == []
        assert len(memory.history("Ann", space="one")) == 1


def test_filters_look_at_the_sources():
    with opened() as memory:
        memory.add([told("Ann", "LIKES", "tea", id="a1", at=day(1)), told("Bob", "LIKES", "tea", id="b1", at=day(9))])
        assert list(active(memory, "tea", speaker="Bob")) == ["Bob likes tea."]
        assert list(active(memory, "tea", before=day(5))) == ["Ann likes tea."]
        assert active(memory, "tea", session="none") == {}


def test_many_forgotten_thoughts_do_not_hide_the_others():
    with opened(embedder=HashEmbedder(), functional=frozenset({"LIVES_IN"}), pool=5) as memory:
        memory.add(told("Ann", "LIVES_IN", f"Oslo {n}", id=f"a{n}", at=day(1) + timedelta(days=n)) for n in range(150))
        memory.add(told("Ann", "LIKES", "tea", id="t"))
        assert set(active(memory, "ann lives_in oslo")) == {"Ann lives_in Oslo 149.", "Ann likes tea."}


# --- the hash ---


def test_the_hash_is_reported_and_agrees_with_exact_search_where_it_looks():
    episodes = [told(f"P{n % 20}", "LIKES", f"thing {n} of sort {n % 7}", id=f"e{n}") for n in range(200)]
    with opened(embedder=HashEmbedder()) as exact, opened(embedder=HashEmbedder(), index="lsh", n_tables=4) as hashed:
        for memory in (exact, hashed):
            memory.add(episodes)
            memory.embed_pending()
        stats = hashed.stats()["think-in-memory"]
        assert [sum(row) for row in stats["bucket_sizes"]] == [200] * 4 and len(stats["bucket_sizes"][0]) == 32
        assert 0 < stats["bucket_entropy_bits"] <= stats["bucket_entropy_most"] == 5.0
        assert 0 < stats["scanned_share"] < 1 and 0 < stats["recall_at_10_of_exact"] <= 1
        assert stats["hash"] == {"n_buckets": 32, "n_tables": 4, "probes": 1, "center": True, "seed": 0}
        assert exact.stats()["think-in-memory"]["index"] == "exact"
        wanted, found = (m.recall("thing 5 of sort 5", kinds=["thought"], k=5) for m in (exact, hashed))
        assert found[0].id == wanted[0].id and "buckets" in found[0].why
        hashed.add(told("P1", "LIKES", "a zebra", id="z"))
        assert hashed.recall("p1 likes a zebra", kinds=["thought"])[0].episodes == ["z"]
        hashed.forget("z")
        assert all("zebra" not in hit.text for hit in hashed.recall("p1 likes a zebra", kinds=["thought"], k=50))


def test_the_hash_follows_rewritten_thoughts():
    with opened(embedder=HashEmbedder(), scribe=Repeating(), index="lsh", n_buckets=2, n_tables=4) as memory:
        for number, job in enumerate(("actor", "director", "cook", "sailor", "baker"), 1):
            memory.add(told("John", "WORKS_AS", job, id=job, at=day(number)))
            hits = memory.recall(f"john works_as {job}", kinds=["thought"])
            assert [job in hit.text for hit in hits] == [True] and len(hits[0].episodes) == number
        memory.forget("cook")
        [hit] = memory.recall("john works_as baker", kinds=["thought"])
        assert hit.text == "John works_as actor, director, sailor and baker."


def test_without_an_embedder_full_text_answers_and_there_is_no_hash():
    with opened(index="lsh") as memory:
        memory.add(told("Ann", "LIKES", "tea", id="a1"))
        assert list(active(memory, "tea")) == ["Ann likes tea."]
        assert active(memory, "zebra") == {}
        assert "bucket_sizes" not in memory.stats()["think-in-memory"]


# --- stage 2 ---


def home(town: str, number: int) -> Episode:
    item = {"head": "Ann", "rel": "LIVES_IN", "tail": town, "functional": True}
    at = datetime(2024, 1, number, tzinfo=UTC)
    return Episode(f"Ann lives in {town}.", "Ann", at, id=f"a{number}", metadata={"thoughts": [item]})


def ask(memory: Memory, question: str, **options: object) -> tuple[str, list[str], bool]:
    answer = memory.ask(question, abstain_below=0.0, **options)
    return answer.text, [c.episode for c in answer.citations], answer.reader == KEPT


def test_the_same_question_gets_the_same_answer_and_sources():
    with opened(keep_answers=True) as memory:
        memory.add(home("Oslo", 1))
        first = memory.ask("Where does Ann live?", abstain_below=0.0)
        again = memory.ask("hi, please tell me where does Ann live", abstain_below=0.0)
        assert first.reader != KEPT == again.reader
        assert (again.text, again.citations, again.claims) == (first.text, first.citations, first.claims)
        [hit] = memory.recall("ann", kinds=["thought"], k=1, metadata=None)
        thoughts = memory.stats()["think-in-memory"]["origins"]
        assert thoughts == {"derived": 1, "user": 1} and hit.episodes == ["a1"]
        assert ask(memory, "Where did Ann live?")[2] is False
        assert ask(memory, "Where does Ann live?", speaker="Ann")[2] is False
        assert ask(memory, "Where does Ann live?", speaker="Ann")[2] is True


def test_answers_are_not_kept_unless_asked_for_nor_refusals_nor_moving_times():
    with opened() as memory:
        memory.add(home("Oslo", 1))
        assert ask(memory, "Where does Ann live?") == ask(memory, "Where does Ann live?")
        assert "derived" not in memory.stats()["think-in-memory"]["origins"]
    with opened(keep_answers=True) as memory:
        memory.add(home("Oslo", 1))
        memory.ask("Which zebra sings?")
        memory.ask("Where did Ann live last week?", abstain_below=0.0)
        memory.ask("Where does Ann live?", abstain_below=0.0, judge=object())
        assert memory.stats()["think-in-memory"]["origins"] == {"user": 1}


def test_a_kept_answer_ends_with_its_ground():
    with opened(keep_answers=True) as memory:
        memory.add(home("Oslo", 1))
        ask(memory, "Where does Ann live?")
        memory.add(home("Rome", 2))
        text, sources, kept = ask(memory, "Where does Ann live?")
        assert not kept
        assert ask(memory, "Where does Ann live?") == (text, sources, True)
        memory.forget(sources)
        assert not ask(memory, "Where does Ann live?")[2] and memory.check() == []


def test_a_later_episode_on_the_question_makes_it_answered_anew():
    with opened(keep_answers=True) as memory:
        memory.add(Episode("Ann's dog is Rex.", id="d1", metadata={"thoughts": []}))
        ask(memory, "What is Ann's dog?")
        memory.add(Episode("The dog of Ann is Max now, Ann's dog is Max.", id="d2", metadata={"thoughts": []}))
        assert not ask(memory, "What is Ann's dog?")[2]
        assert ask(memory, "What is Ann's dog?")[2]


def test_a_model_thinks_after_an_answer_and_what_it_makes_up_is_dropped():
    drawn = [
        {"head": "Ann", "rel": "lives in", "tail": "Oslo", "text": "Ann lives in Oslo."},
        {"head": "Ann", "rel": "OWNS", "tail": "a purple submarine", "text": "Ann owns a purple submarine."},
    ]
    scribe = StructuredScribe()
    scribe.model = Recorded({"thoughts": drawn})  # type: ignore[attr-defined]
    with opened(keep_answers=True, scribe=scribe) as memory:
        memory.add(Episode("I live in Oslo.", "Ann", id="a1"))
        memory.ask("Where does Ann live?", abstain_below=0.0)
        [hit] = memory.history("Ann")
        assert (hit.text, hit.metadata["origin"], hit.metadata["rel"]) == ("Ann lives in Oslo.", "derived", "LIVES_IN")
        assert "Where does Ann live?" in scribe.model.prompts[0][1]["content"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"text": "John works_as actor as well as director."}, "John works_as actor as well as director."),
        ({"text": "John is a famous astronaut."}, "John works_as actor and director."),
        ({"text": "John works_as actor."}, "John works_as actor and director."),
        ("no JSON at all", "John works_as actor and director."),
    ],
)
def test_a_model_words_a_merge_when_it_holds_all_of_it(answer, text):
    scribe = Repeating()
    scribe.model = Recorded(answer)  # type: ignore[attr-defined]
    with opened(scribe=scribe) as memory:
        memory.add([told("John", "WORKS_AS", job, id=job, at=day(n)) for n, job in enumerate(("actor", "director"), 1)])
        assert list(active(memory)) == [text]
        asked = len(scribe.model.prompts)  # type: ignore[attr-defined]
        memory.maintain()
        assert len(scribe.model.prompts) == asked  # type: ignore[attr-defined]


# --- bad input ---


@pytest.mark.parametrize(
    "thoughts",
    [
        "Ann likes tea",
        {"head": "Ann"},
        ["Ann likes tea"],
        [{"head": "Ann"}],
        [{"rel": "LIKES", "tail": "tea"}],
        [{"head": "", "rel": "LIKES", "tail": "tea"}],
        [{"head": "Ann", "rel": "LIKES", "tail": 3}],
        [{"head": "Ann", "text": "x", "functional": "yes"}],
        [{"head": "Ann", "text": "x", "sources": "a1"}],
        [{"head": "Ann", "text": "x", "at": "yesterday"}],
        [{"head": "Ann", "text": "x", "sources": ["nobody"]}],
    ],
)
def test_unusable_thoughts_are_refused_and_nothing_is_stored(thoughts):
    with opened() as memory:
        with pytest.raises(InputError):
            memory.add([told("Bob", "LIKES", "tea"), Episode("x", metadata={"thoughts": thoughts})])
        assert memory.stats()["records"] == {}


@pytest.mark.parametrize(
    "options",
    [
        {"index": "hnsw"},
        {"functional": "LIVES_IN"},
        {"merge_at": 0.0},
        {"n_buckets": 9},
        {"n_tables": 0},
        {"probes": 99},
        {"pool": 0},
        {"lexical_weight": -1.0},
    ],
)
def test_constants_that_cannot_be(options):
    with pytest.raises(InputError):
        ThinkInMemoryConfig(**options)


def test_history_of_nobody_is_empty_and_data_is_json():
    with opened() as memory:
        memory.add(told("Ann", "LIKES", "tea", id="a1"))
        assert memory.history("Nobody") == [] and memory.history("Ann", "OWNS") == []
        assert json.loads(json.dumps(memory.stats()))
