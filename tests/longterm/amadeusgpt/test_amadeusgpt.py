"""The organizer in a store: recall with reasons, versions in time, undo, forgetting, tenants, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan import Episode, InputError, Memory
from memspan.longterm.amadeusgpt import AmadeusGpt, AmadeusGptConfig, SymbolMemory
from tests.longterm.doubles import HashEmbedder, Recorded, day

CHASES = Episode("<|chases|> is distance < 40 px and speed > 2.", "Ann", day(1), "s1", "d1")
HUNTS = Episode("<|hunts|> means <chases> for at least 2 s.", "Bo", day(2), "s2", "d2")
FASTER = Episode("<|chases|> is <chases> but faster than 3.", "Ann", day(10), "s3", "d3")


@pytest.fixture
def memory():
    with Memory.open(":memory:", organizer="amadeusgpt", embedder=None) as memory:
        yield memory


def symbols(memory: Memory, query: str, **options: object) -> list[str]:
    return [hit.id for hit in memory.recall(query, kinds=["symbol"], **options)]  # type: ignore[arg-type]


def test_a_name_in_the_question_pages_its_definition_in_with_what_it_rests_on(memory):
    memory.add([CHASES, HUNTS, FASTER])
    hits = memory.recall("Who <hunts> whom?", kinds=["symbol"])
    assert [(hit.id, hit.metadata["version"], hit.episodes[0]) for hit in hits] == [
        ("hunts", 1, "d2"),
        ("chases", 2, "d3"),
        ("chases", 1, "d1"),
    ]
    assert hits[0].why.startswith("<hunts> stands in the question")
    assert hits[1].why.startswith("<hunts> rests on it") and "which a later one starts from" in hits[2].why
    assert hits[0].metadata["uses"] == ["chases"] and hits[1].episodes == ["d3", "d1"]


def test_episodes_that_define_are_read_first(memory):
    talk = [Episode(f"The chases of day {n} were filmed.", session="s1", id=f"t{n}") for n in range(20)]
    memory.add([*talk[:10], CHASES, *talk[10:], HUNTS])
    first = memory.recall("How long are the <hunts> of day 3?", k=2)
    assert {hit.id for hit in first} == {"d1", "d2"}
    assert {"defines <hunts>, which the question names", "defines <chases>, which the question rests on"} <= {
        hit.why.rpartition(", ")[0].rpartition("defines")[1] + hit.why.rpartition("defines")[2] for hit in first
    }
    answer = memory.ask("What distance in px is <chases>?")
    assert "40" in answer.text and answer.citations[0].episode == "d1"


def test_ordinary_episodes_are_kept_as_with_plain(memory):
    memory.add([Episode("I use List<int> and <b>bold</b>.", id="a1"), Episode("a < b > c", id="a2")])
    assert memory.stats()["records"] == {"episode": 2} and symbols(memory, "bold list") == []
    assert [hit.id for hit in memory.recall("bold list", k=1)] == ["a1"]


def test_without_symbols_the_ranking_is_that_of_plain():
    from memspan.data import conversation_path, questions
    from memspan.longterm.readers import read_all

    episodes = list(read_all([conversation_path()]))
    found = {}
    for name in ("plain", "amadeusgpt"):
        with Memory.open(":memory:", organizer=name, embedder=HashEmbedder()) as memory:
            memory.add([*episodes, CHASES])
            hits = [memory.recall(row["question"], k=20) for row in questions()]
        found[name] = [[(hit.id, hit.score) for hit in row] for row in hits]
    assert found["plain"] == found["amadeusgpt"]


def test_words_without_brackets_find_symbols_too(memory):
    memory.add([CHASES, Episode("<|grooming|> is speed < 0.2.", id="d9")])
    assert symbols(memory, "the chasing thing")[0] == "chases"
    with Memory.open(":memory:", organizer="amadeusgpt", embedder=HashEmbedder()) as other:
        other.add([CHASES, Episode("<|grooming|> is speed < 0.2.", id="d9")])
        hit = other.recall("distance px", kinds=["symbol"])[0]
        assert hit.id == "chases" and "cosine" in hit.why


def test_versions_are_seen_undone_and_asked_for_in_time():
    now = [day(1)]
    with Memory.open(":memory:", organizer="amadeusgpt", embedder=None, now=lambda: now[0]) as memory:
        memory.add(CHASES)
        now[0] = day(10)
        memory.add(FASTER)
        now[0] = day(20)
        assert [c.reason for c in memory.changes("chases")] == ["defined", "defined anew"]
        assert [hit.metadata["version"] for hit in memory.history("chases")] == [1, 2]
        assert memory.recall("<chases>", kinds=["symbol"], believed_at=day(5))[0].metadata["version"] == 1
        assert memory.recall("<chases>", kinds=["symbol"], as_of=day(5))[0].metadata["version"] == 1
        memory.undo(memory.changes("chases")[-1].id)
        [hit] = memory.recall("<chases>", kinds=["symbol"])
        assert hit.metadata["versions"] == 1 and hit.episodes == ["d1"] and "faster" not in hit.text
        memory.undo(memory.changes("chases")[0].id)
        assert symbols(memory, "<chases>") == [] and memory.stats()["amadeusgpt"]["not_taken"] == 2
        assert memory.check() == []
        with pytest.raises(InputError, match="no relations"):
            memory.history("chases", "IS")
        assert memory.history("nothing") == []


def test_undoing_the_middle_version_gives_its_place_to_the_one_before(memory):
    memory.add([CHASES, Episode("<|chases|> is distance < 5 px.", id="d4"), FASTER])
    memory.undo(memory.changes("chases")[1].id)
    assert [hit.episodes[0] for hit in memory.recall("<chases>", kinds=["symbol"])] == ["d3", "d1"]


def test_a_circle_is_not_taken_and_its_episode_stays(memory):
    memory.add([Episode("<|a|> is <b>.", id="a"), Episode("<|b|> is <a>.", id="b")])
    assert (
        memory.stats()["amadeusgpt"] | {"not_taken": 1, "symbols": 1, "in_circles": 0} == memory.stats()["amadeusgpt"]
    )
    assert memory.recall("b is", k=2) and symbols(memory, "<a>") == ["a"]


def test_a_circle_that_an_undo_makes_is_told(memory):
    memory.add(
        [Episode("<|a|> is <b>.", id="a1"), Episode("<|a|> is far.", id="a2"), Episode("<|b|> is <a>.", id="b1")]
    )
    memory.undo(memory.changes("a")[-1].id)
    hits = memory.recall("<a>", kinds=["symbol"])
    assert hits[0].id == "a" and "go in a circle: <a> → <b> → <a>" in hits[0].why
    assert memory.stats()["amadeusgpt"]["in_circles"] == 2


def test_failed_turns_define_nothing(memory):
    memory.add(Episode(CHASES.text, id="x", metadata={"ok": False}))
    assert symbols(memory, "<chases>") == [] and memory.stats()["amadeusgpt"]["not_taken"] == 1


def test_programs_and_modules(memory):
    source = "def chases(pose):\n    return pose.speed() > 2\n"
    memory.add(
        [
            Episode(f"<|chases|> by hand:\n```python\n{source}```", id="p1"),
            Episode("Counts the frames.", id="m1", metadata={"program": "def frames(pose): return len(pose)"}),
            Episode("Divides the arena.", id="m2", metadata={"module": "areas"}),
        ]
    )
    [hit] = memory.recall("<chases>", kinds=["symbol"])
    assert hit.metadata["program"] == source and hit.metadata["signature"] == "chases(pose)"
    assert memory.recall("how many frames", kinds=["program"])[0].metadata["signature"] == "frames(pose)"
    assert memory.recall("arena", kinds=["program"])[0].episodes == ["m2"]
    assert memory.stats()["amadeusgpt"]["library"] == 2 and memory.maintain()["programs"] == 1


@pytest.mark.parametrize(
    "metadata",
    [{"program": "import os\ndef f(a): return os"}, {"program": 3}, {"module": 3}, {"program": {"source": "x = 1"}}],
)
def test_metadata_that_cannot_be_used_stops_the_batch(memory, metadata):
    with pytest.raises(InputError, match="episode 1 brings a program or a module, but"):
        memory.add([CHASES, Episode("<|x|> is it", metadata=metadata)])
    assert memory.stats()["records"] == {}


def test_forgetting_leaves_no_bytes(tmp_path: Path):
    path = tmp_path / "a.db"
    with Memory.open(path, organizer="amadeusgpt", embedder=None) as memory:
        secret = Episode("<|chases|> is near the Zanzibarquux and distance < 7 px.", id="z1")
        memory.add([CHASES, secret, FASTER, Episode("<|zanzi|> is <chases>.", id="z2")])
        memory.forget("z1")
        hits = memory.recall("<chases>", kinds=["symbol"])
        assert [hit.episodes[0] for hit in hits if hit.id == "chases"] == ["d3", "d1"]
        memory.forget("d1")
        assert memory.recall("<chases>", kinds=["symbol"])[0].metadata["versions"] == 1
        memory.forget(["d3", "z2"])
        assert memory.stats()["records"] == {} and memory.check() == []
    everything = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"Zanzibarquux" not in everything and b"faster than 3" not in everything


def test_tenants_are_apart(memory):
    memory.add(CHASES, space="a")
    memory.add(Episode("<|chases|> is distance < 9 px.", id="d1"), space="b")
    assert memory.recall("<chases>", kinds=["symbol"], space="b")[0].text.endswith("9 px.")
    assert symbols(memory, "<chases>") == []
    memory.forget(space="a")
    assert symbols(memory, "<chases>", space="b") == ["chases"]


def test_filters_hold_for_symbols(memory):
    memory.add([CHASES, HUNTS])
    assert symbols(memory, "<hunts>", speaker="Bo") == ["hunts"]
    assert symbols(memory, "<hunts>", session="nowhere") == []


def test_exported_and_read_again(memory, tmp_path: Path):
    memory.add([CHASES, HUNTS, FASTER])
    memory.export(tmp_path / "x.jsonl")
    with Memory.open(tmp_path / "b.db", organizer="amadeusgpt", embedder=None) as other:
        other.import_(tmp_path / "x.jsonl")
        assert symbols(other, "<hunts>") == symbols(memory, "<hunts>")
        other.undo(other.changes("chases")[-1].id)
        assert symbols(other, "<hunts>") == ["hunts", "chases"]


STEPS = st.lists(
    st.tuples(st.sampled_from(["plain", "anew", "but", "uses", "forget", "undo"]), st.sampled_from("abc")), max_size=12
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_rows_always_agree_with_the_log(steps):
    with Memory.open(":memory:", organizer="amadeusgpt", embedder=None) as memory:
        for number, (what, name) in enumerate(steps):
            text = {"but": f"<|{name}|> is <{name}> but {number}", "uses": f"<|{name}|> {number} <a> <b>"}
            logged = memory.changes(kind="symbol")
            if what == "forget" and logged:
                memory.forget(logged[number % len(logged)].cause)
            elif what == "undo" and logged:
                memory.undo(logged[number % len(logged)].id)
            elif what not in ("forget", "undo"):
                memory.add(Episode(text.get(what, f"<|{name}|> is {number}"), id=f"e{number}"))
            assert memory.check() == []
            table = SymbolMemory(memory=memory).table
            rows = memory.store.connection.execute(
                "SELECT r.uid, r.text, json_extract(r.data, '$.definition.text'), count(s.episode) FROM record r"
                " LEFT JOIN source s ON s.record = r.id WHERE r.kind = 'symbol' GROUP BY r.id"
            ).fetchall()
            assert {row[0] for row in rows} == set(table.symbols)
            for key, text_shown, text_kept, sources in rows:
                assert text_kept == table.symbols[key].definition and text_kept in text_shown
                assert sources == len({version.episode for version in table.symbols[key].versions})


def test_configuration_and_model():
    for wrong in ({"modules": 0}, {"debug_tries": -1}, {"least_cosine": 2.0}, {"definition_bonus": -1.0}):
        with pytest.raises(InputError):
            AmadeusGptConfig(**wrong)  # type: ignore[arg-type]
    assert AmadeusGpt().model is None

    class Scribe:
        name, model = "double", Recorded({"a": 1})

        def extract(self, episodes, context=()): ...
        def relate(self, fact, known): ...
        def summarize(self, name, facts, previous=""): ...

    scribe = Scribe()
    assert AmadeusGpt(scribe=scribe).model is scribe.model  # type: ignore[arg-type]


def test_the_log_holds_json_and_nothing_pickled(memory):
    memory.add([CHASES, FASTER])
    for (new,) in memory.store.connection.execute("SELECT new FROM change"):
        assert json.loads(new)["name"] == "chases"
