"""Daily and global texts: written once, with their sources, gone with what they rest on."""

from __future__ import annotations

from pathlib import Path

import pytest

from memspan import Episode, Memory
from memspan.core.errors import MissingExtraError
from memspan.longterm.memorybank import MemoryBank, MemoryBankConfig
from memspan.longterm.store import Store
from tests.longterm.doubles import ToyScribe, day

CHAT = [
    Episode("Ann lives in Lisbon. Is it warm there?", "Ann", day(1), "s1", "a1"),
    Episode("The harbour was full of ships today.", "Bo", day(1), "s1", "b1"),
    Episode("Hello!", "Bo", day(1), "s1", "b2"),
    Episode("Ann lives in Oslo now, and she is happy.", "Ann", day(9), "s2", "a2"),
    Episode("Bo likes Jazz very much these days.", "Bo", day(9), "s2", "b3"),
]


class Counting(ToyScribe):
    """Counts what it was asked to write and to read."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.read: list[str] = []

    def summarize(self, name, facts, previous=""):
        self.written.append(name)
        return super().summarize(name, facts, previous)

    def extract(self, episodes, context=()):
        self.read += [episode.id for episode in episodes]
        return super().extract(episodes, context)


@pytest.fixture
def scribe():
    return Counting()


@pytest.fixture
def memory(scribe):
    organizer = MemoryBank(scribe)
    with Memory.open(":memory:", organizer=organizer, embedder=None, now=lambda: day(20)) as memory:
        memory.add(CHAT)
        yield memory


def texts(memory: Memory, kind: str, **options) -> dict[str, str]:
    return {hit.id: hit.text for hit in memory.recall("anything", kinds=[kind], k=50, **options)}


def test_a_summary_of_each_day_and_of_all(memory):
    found = texts(memory, "summary")
    assert set(found) == {"2024-01-01", "2024-01-09", "of all days"}
    lines = found["2024-01-01"].split("\n")
    assert lines == ["2024-01-01", "Ann: Ann lives in Lisbon.", "Bo: The harbour was full of ships today."]
    whole = found["of all days"].split("\n")
    assert whole[0] == "2024-01-01 to 2024-01-09" and "2024-01-09, Bo: Bo likes Jazz very much these days." in whole
    first = next(hit for hit in memory.recall("harbour", kinds=["summary"]) if hit.id == "2024-01-01")
    assert first.episodes == ["a1", "b1", "b2"] and first.valid_at == day(1) and first.invalid_at == day(2)
    assert first.metadata["by"] == "rules" and first.metadata["said"] == ["a1", "b1"]


def test_a_portrait_holds_what_still_holds(memory):
    assert texts(memory, "portrait") == {"of ann": "Ann\nAnn lives in Oslo.", "of bo": "Bo\nBo likes Jazz."}
    insights = texts(memory, "insight")
    assert insights == {
        "2024-01-01 ann": "Ann, 2024-01-01\nAnn lives in Lisbon.",
        "2024-01-09 ann": "Ann, 2024-01-09\nAnn lives in Oslo.",
        "2024-01-09 bo": "Bo, 2024-01-09\nBo likes Jazz.",
    }, "of a day on which Bo told nothing of himself there is no insight"
    (hit,) = memory.recall("Bo", kinds=["portrait"], k=1)
    assert hit.id == "of bo" and hit.episodes == ["b3"]


def test_a_day_is_written_once(memory, scribe):
    texts(memory, "summary")
    written, read = list(scribe.written), list(scribe.read)
    texts(memory, "portrait")
    memory.maintain()
    memory.use("a1")
    texts(memory, "summary")
    assert (scribe.written, scribe.read) == (written, read)
    memory.add(Episode("Ann likes Tea and nothing else.", "Ann", day(9), "s2", "a3"))
    assert "Ann: Ann likes Tea and nothing else." in texts(memory, "summary")["2024-01-09"]
    new = scribe.written[len(written) :]
    assert new.count("2024-01-09") == 1 and "2024-01-01" not in new
    assert sorted(scribe.read[len(read) :]) == ["a2", "a3"]
    assert "likes Tea" in texts(memory, "portrait")["of ann"]


def test_adding_writes_nothing(memory, scribe):
    memory.recall("Lisbon")
    assert scribe.written == [] and scribe.read == [] and set(memory.stats()["records"]) == {"episode"}


def test_a_forgotten_episode_leaves_the_texts(memory, tmp_path: Path):
    with Memory.open(tmp_path / "a.db", organizer=MemoryBank(Counting()), embedder=None) as stored:
        stored.add(CHAT)
        stored.add([Episode(f"filler number {i} of many", "Cy", day(2), id=f"f{i}") for i in range(300)])
        texts(stored, "summary")
        stored.forget("a1")
        assert b"lisbon" not in b"".join(file.read_bytes() for file in tmp_path.iterdir()).lower()
        found = texts(stored, "summary")
        assert found["2024-01-01"] == "2024-01-01\nBo: The harbour was full of ships today."
        assert "Lisbon" not in found["of all days"] and "2024-01-01 ann" not in texts(stored, "insight")
        stored.forget(speaker="Ann")
        assert set(texts(stored, "portrait")) == {"of bo"} and stored.check() == []
        stored.forget(everything=True)
        assert stored.stats()["records"] == {} and texts(stored, "summary") == {}


def test_names_with_stray_spaces_and_underscores(scribe):
    """Keys of the paper's data carry stray spaces, and its code splits ids at underscores."""
    with Memory.open(":memory:", organizer=MemoryBank(scribe), embedder=None) as memory:
        memory.add(
            [
                Episode("Max likes Tea", " Max ", day(1)),
                Episode("Max likes Jazz", "max", day(2)),
                Episode("Mary likes Art", "Mary_Lou_2024-01-01", day(1)),
            ]
        )
        assert texts(memory, "portrait")["of max"].split("\n")[1:] == ["Max likes Tea.", "Max likes Jazz."]
        assert "2024-01-01" in texts(memory, "summary") and memory.forget(speaker="Mary_Lou_2024-01-01").episodes == 1


def test_assistants_and_unnamed_speakers_have_no_portrait(scribe):
    with Memory.open(":memory:", organizer=MemoryBank(scribe), embedder=None) as memory:
        memory.add(
            [
                Episode("User likes Tea", None, day(1), "s", "u", {"role": "user"}),
                Episode("Bot likes Jazz", "Bot", day(1), "s", "b", {"role": "assistant"}),
                Episode("Ann likes Art", None, day(1), "s", "n"),
            ]
        )
        assert texts(memory, "portrait") == {"of user": "user\nUser likes Tea."}
        assert "Bot: Bot likes Jazz" in texts(memory, "summary")["2024-01-01"]


def test_filters_and_named_days_reach_the_texts(memory):
    both = {"2024-01-01", "of all days"}
    assert set(texts(memory, "summary", session="s1")) == both
    assert set(texts(memory, "summary", before="2024-01-05")) == both
    assert texts(memory, "summary", after="2024-02-01") == {}
    assert set(texts(memory, "portrait", speaker="Bo")) == {"of bo"}
    best = memory.recall("What happened on January 1st?", kinds=["summary"])[0]
    assert best.id == "2024-01-01" and "of the time named" in best.why
    mixed = memory.recall("ships in the harbour", kinds=["episode", "summary"], k=5)
    assert {hit.kind for hit in mixed} == {"episode", "summary"}


def test_what_is_dormant_stays_in_the_summaries(scribe):
    organizer = MemoryBank(scribe, MemoryBankConfig(awake=0))
    with Memory.open(":memory:", organizer=organizer, embedder=None, now=lambda: day(300)) as memory:
        memory.add(CHAT)
        assert memory.recall("anything at all") == []
        assert "ships" in texts(memory, "summary")["2024-01-01"]
        memory.maintain(prune=True)
        assert texts(memory, "summary") == {}


def test_an_import_is_not_written_again(memory, tmp_path: Path):
    texts(memory, "summary")
    memory.export(tmp_path / "a.jsonl")
    scribe = Counting()
    with Memory.open(":memory:", organizer=MemoryBank(scribe), embedder=None) as other:
        other.import_(tmp_path / "a.jsonl")
        assert texts(other, "summary") == texts(memory, "summary")
        assert scribe.written == [] and scribe.read == []


def test_spaces_have_their_own_books(memory):
    memory.add(Episode("Zed likes Opera and long evenings.", "Zed", day(1)), space="other")
    assert set(texts(memory, "portrait", space="other")) == {"of zed"}
    assert "Zed" not in " ".join(texts(memory, "summary").values())
    assert texts(memory, "summary", space="nobody") == {}


def test_a_writer_elsewhere_does_not_keep_one_from_reading(scribe, tmp_path: Path):
    with Memory.open(tmp_path / "a.db", organizer=MemoryBank(scribe), embedder=None, timeout=0.05) as memory:
        memory.add(CHAT)
        texts(memory, "summary")
        memory.add(Episode("Cy likes Chess on all evenings.", "Cy", day(12)))
        with Store(tmp_path / "a.db") as other, other.write(0):
            assert set(texts(memory, "portrait")) == {"of ann", "of bo"}, "what is there is shown"
        assert set(texts(memory, "portrait")) == {"of ann", "of bo", "of cy"}


def test_an_episode_forgotten_while_its_day_is_written(memory):
    organizer = memory.organizer
    with memory.store.read(0) as tx:
        pending = organizer.pending(tx)
    composed = organizer.compose(pending)
    memory.forget("a1")
    with memory.store.write(0) as tx:
        organizer.on_composed(tx, composed)
    assert "Lisbon" not in str(memory.store.connection.execute("SELECT group_concat(text) FROM record").fetchone()[0])
    assert "Lisbon" not in str(texts(memory, "summary"))


def test_without_a_reader_there_are_summaries_and_portraits_say_what_is_missing():
    class Unread(ToyScribe):
        def extract(self, episodes, context=()):
            raise MissingExtraError("spaCy", "pip install spacy")

    with Memory.open(":memory:", organizer=MemoryBank(Unread()), embedder=None) as memory:
        memory.add(CHAT)
        assert "2024-01-01" in texts(memory, "summary")
        memory.maintain(prune=True)
        with pytest.raises(MissingExtraError, match="spaCy is not installed"):
            texts(memory, "portrait")


def test_a_new_wording_rests_on_all_it_read():
    class Free(ToyScribe):
        def summarize(self, name, facts, previous=""):
            return f"{len(facts)} things were said."

    with Memory.open(":memory:", organizer=MemoryBank(Free()), embedder=None) as memory:
        memory.add(CHAT)
        found = {hit.id: hit for hit in memory.recall("things", kinds=["summary"])}
        assert found["2024-01-01"].text == "2024-01-01\n2 things were said."
        assert sorted(found["of all days"].episodes) == ["a1", "a2", "b1", "b2", "b3"]
