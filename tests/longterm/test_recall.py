"""What the ranking reads beside words: who spoke, when, lasting rules, and whom a question asks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from memspan import Episode, Memory
from memspan.longterm import recall as ranking
from memspan.longterm import vectors
from memspan.longterm.clock import to_micros
from memspan.longterm.cues import STANDING_TERMS, asks_for_answers, is_standing, time_match
from memspan.longterm.index import K1, B, PassageIndex
from memspan.longterm.passages import term_hashes
from memspan.longterm.scribe.dates import question_time
from tests.longterm.doubles import HashEmbedder

LATER = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "Always answer in French.",
        "Please never use tables.",
        "From now on, call me Dr. Kim.",
        "You should never round numbers when I ask for a total.",
        "I'd strongly prefer a window seat.",
        "I would rather walk.",
        "I’m allergic to nuts.",
        "We talked about it, but I don't like crowds.",
        "I usually eat late.",
        "I love it when it rains.",
    ],
)
def test_lasting_rules_and_preferences_are_told_and_hold_a_word_that_leads_to_them(text: str):
    assert is_standing(text)
    assert np.isin(term_hashes(text), STANDING_TERMS).any()


@pytest.mark.parametrize(
    "text",
    ["Never mind.", "I've never met Michael.", "It is always sunny there.", "What do you prefer?", "I like this one."],
)
def test_other_sentences_with_the_same_words_are_not(text: str):
    assert not is_standing(text)


def test_a_question_about_what_was_answered_is_told_from_a_polite_one():
    assert asks_for_answers("What did you recommend for the garden?")
    assert asks_for_answers("Which book had you suggested?")
    assert asks_for_answers("Can you repeat your advice on sleep?")
    assert not asks_for_answers("Can you tell me what I planted?")
    assert not asks_for_answers("Would you recommend a book?")
    assert not asks_for_answers("What did I say about the garden?")


def test_a_moment_fits_a_time_in_it_best_and_shortly_after_better_than_shortly_before():
    span = question_time("What happened on 10 May 2023?", LATER)
    assert span is not None
    days = [datetime(2023, 5, day, 12, tzinfo=UTC) for day in (10, 12, 8, 30)]
    at = np.array([to_micros(day) for day in days] + [PassageIndex.NO_TIME], np.int64)
    inside, after, before, late, unknown = time_match(span, at, PassageIndex.NO_TIME).tolist()
    assert inside == 1 > after > before > late > 0 == unknown


def diary(*speakers: str) -> list[Episode]:
    """The same sentence once a month in 2023, by each of the speakers in turn."""
    start = datetime(2023, 1, 15, tzinfo=UTC)
    return [
        Episode("We went sailing.", speakers[i % len(speakers)], start + timedelta(days=30 * i), f"s{i}", f"e{i}")
        for i in range(12)
    ]


@pytest.mark.parametrize("embedder", [None, HashEmbedder()])
def test_a_named_month_lifts_what_was_said_in_it_whenever_the_question_is_put(embedder: HashEmbedder | None):
    with Memory.open(":memory:", embedder=embedder, now=lambda: LATER, organizer="plain") as memory:
        memory.add(diary("Ann"))
        hits = memory.recall("Who went sailing in June 2023?", k=12)
        assert hits[0].id == "e5" and "June 2023" in hits[0].why
        assert len(hits) == 12  # nothing is left out


def test_a_time_without_a_date_is_understood_against_as_of():
    with Memory.open(":memory:", embedder=None, now=lambda: LATER, organizer="plain") as memory:
        memory.add(diary("Ann"))
        assert memory.recall("Who went sailing last month?", as_of="2023-07-05")[0].id == "e5"
        plain = [hit.id for hit in memory.recall("Who went sailing?")]
        assert [hit.id for hit in memory.recall("Who went sailing last month?")] == plain


def test_the_turns_of_a_named_speaker_come_first():
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add([Episode(e.text, e.speaker, e.at, None, e.id) for e in diary("Ben", "Ann")])
        hits = memory.recall("Where did Ann go sailing?", k=12)
        assert {hit.speaker for hit in hits[:6]} == {"Ann"} and "named speaker" in hits[0].why
        assert {hit.speaker for hit in memory.recall("Where did Ben go sailing?", k=12)[:6]} == {"Ben"}


def test_roles_are_weighed_by_whom_the_question_asks():
    turns = [
        Episode("A fern likes shade in the garden.", role, session="s", id=f"{role}{i}", metadata={"role": role})
        for i in range(4)
        for role in ("user", "assistant")
    ]
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(turns)
        assert memory.recall("What did I say about the fern?")[0].id.startswith("user")
        assert memory.recall("What did you say about the fern?")[0].id.startswith("assistant")


def test_a_lasting_rule_comes_up_for_a_question_on_its_subject():
    filler = [Episode(f"The train to city {i} left on platform {i}.", session=f"t{i}") for i in range(40)]
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add([*filler, Episode("Always give train times in UTC.", session="r", id="rule")])
        assert "rule" in [hit.id for hit in memory.recall("When does the train leave?", k=3)]


def test_bm25_is_that_of_the_formula_for_rare_and_common_words():
    random = np.random.default_rng(0)
    words = [f"w{i}" for i in range(30)]
    texts = [" ".join(random.choice(words, 1 + i % 7, p=np.arange(30, 0, -1) / 465)) for i in range(200)]
    window = (0.5, 0.25)
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add([Episode(text, session=f"s{i // 9}") for i, text in enumerate(texts)])
        with memory.store.read(0) as tx:
            index = memory._index(tx, episodes=True)
        weight = np.array([[0.0] * 200 for _ in range(200)])  # of the words of one turn in another
        for i in range(200):
            for step, share in [(0, 1.0), *enumerate(window, 1)]:
                for j in {i - step, i + step}:
                    if 0 <= j < 200 and j // 9 == i // 9:
                        weight[i, j] = share
        length = weight @ np.array([len(text.split()) for text in texts])
        expected = np.zeros(200)
        for word in ("w0", "w29", "w12", "w12"):
            count = np.array([text.split().count(word) for text in texts])
            held = np.count_nonzero(count)
            frequency = weight @ count
            idf = np.log1p((200 - held + 0.5) / (held + 0.5))
            norm = K1 * (1 - B + B * length / length.mean())
            expected += idf * (K1 + 1) * frequency / (frequency + norm) * (0.5 if word == "w12" else 1)
        assert np.allclose(index.bm25(term_hashes("w0 w29 w12 w12"), window), expected, atol=1e-4)


def test_a_sifted_store_finds_what_an_unsifted_one_finds(monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(1)
    words = [f"word{i}" for i in range(300)]
    turns = [Episode(" ".join(random.choice(words, 8)), session=f"s{i // 20}", id=f"e{i}") for i in range(1500)]
    with Memory.open(":memory:", embedder=HashEmbedder(), organizer="plain") as memory:
        memory.add(turns)
        questions = [turns[i].text for i in (3, 700, 1499)]
        whole = [[hit.id for hit in memory.recall(question)] for question in questions]
        monkeypatch.setattr(vectors, "SCAN_ALL", 10)
        monkeypatch.setattr(vectors, "SIFTED", 500)
        monkeypatch.setattr(vectors, "_OVERSAMPLING", 1)
        monkeypatch.setattr(ranking, "NEAREST", 400)
        sifted = [[hit.id for hit in memory.recall(question)] for question in questions]
        assert [ids[0] for ids in sifted] == ["e3", "e700", "e1499"] == [ids[0] for ids in whole]
        assert np.mean([len(set(a) & set(b)) for a, b in zip(whole, sifted, strict=True)]) >= 8
        assert {hit.session for hit in memory.recall(questions[0], session="s7", k=30)} == {"s7"}
