"""Copies take one place of the evidence; what differs in a value is no copy."""

from __future__ import annotations

from memspan.longterm.base import Episode, Recollection
from memspan.longterm.knowledge_survey.copies import collapse
from memspan.longterm.knowledge_survey.documents import upsert
from memspan.longterm.memory import Memory

TEXT = (
    "The harbour of Barby was built by the engineer Ann Holm and opened to the public after nine years of work"
    " on the old quay."
)


def hit(uid: str, text: str, speaker: str | None = None) -> Recollection:
    return Recollection(kind="episode", id=uid, text=text, score=1.0, episodes=[uid], speaker=speaker)


def test_copies_are_told_from_contradictions() -> None:
    hits = [
        hit("a", TEXT),
        hit("b", TEXT.replace("The harbour", "the  Harbour").upper().lower()),
        hit("c", TEXT.replace("Ann Holm", "Bo Lind")),
        hit("d", TEXT.replace("nine", "seven")),
        hit("e", TEXT.replace("was built", "was not built")),
        hit("f", TEXT.replace("old quay", "new bridge")),
        hit("g", "Something else entirely."),
    ]
    kept, copies = collapse(hits)
    assert [h.id for h in kept] == ["a", "c", "d", "e", "f", "g"]
    assert copies == {"a": ["b"]}


def test_the_fullest_copy_is_shown_in_the_place_of_the_best() -> None:
    longer = f"{TEXT} It cost plenty."
    kept, copies = collapse([hit("a", TEXT), hit("x", "Another page."), hit("b", longer), hit("c", TEXT)])
    assert [h.id for h in kept] == ["b", "x"]
    assert copies == {"b": ["a", "c"]}


def test_who_says_a_thing_twice_means_it() -> None:
    kept, copies = collapse([hit("a", TEXT, "Ann"), hit("b", TEXT, "Ann")])
    assert len(kept) == 2
    assert copies == {}


def test_copies_do_not_fill_the_evidence() -> None:
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        for number in range(12):
            upsert(memory, f"copy{number}", TEXT)
        memory.add(Episode(text="The harbour of Barby has a lamp that Cleo Stone repaired.", id="lamp"))
        answer = memory.ask("Who built the harbour of Barby?", k=2, abstain_below=0.0)
    assert {h.id for h in answer.recollections} >= {"lamp"}
    assert len(answer.recollections) == 2
    assert len(answer.citations[0].source["copies"]) == 11
