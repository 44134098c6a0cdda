"""The facade: adding, recalling, filters, tenants, bad input."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from memspan import Episode, InputError, Memory, StoreError
from memspan.core.errors import BudgetError
from memspan.longterm.passages import term_hashes
from memspan.longterm.plain import Plain
from tests.longterm.doubles import HashEmbedder, day

CHAT = [
    Episode("I finally adopted a puppy from the shelter.", "Ann", day(1), "s1", "a1"),
    Episode("What a lovely surprise! What did you call it?", "Bo", day(1), "s1", "b1"),
    Episode("Biscuit, because of the colour.", "Ann", day(1), "s1", "a2"),
    Episode("My marathon is in October, I train every day.", "Bo", day(40), "s2", "b2"),
    Episode("Here is my medal!", "Bo", day(300), "s3", "b3", {"caption": "a gold medal on a ribbon", "album": "races"}),
]


@pytest.fixture
def memory():
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(CHAT)
        yield memory


def test_add_returns_ids_and_makes_those_that_are_missing():
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        ids = memory.add([Episode("one"), Episode("two", id="mine"), Episode("three")])
        assert ids[1] == "mine" and len(set(ids)) == 3
        assert [hit.id for hit in memory.recall("three", k=1)] == [ids[2]]


def test_recall_finds_by_words_and_says_why(memory):
    hit = memory.recall("Who runs a marathon?")[0]
    assert (hit.kind, hit.id, hit.episodes) == ("episode", "b2", ["b2"])
    assert hit.valid_at == day(40) and hit.speaker == "Bo" and "full text" in hit.why


def test_neighbouring_turns_count(memory):
    """The answer's own turn shares no word with the question; the turns beside it do."""
    ids = [hit.id for hit in memory.recall("What is the name of the puppy from the shelter?", k=3)]
    assert "a2" in ids


def test_captions_are_searched(memory):
    assert memory.recall("ribbon")[0].id == "b3"


def test_questions_rank_below_answers():
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add([Episode("Do you like sailing boats?", id="q"), Episode("They like sailing boats.", id="s")])
        assert [hit.id for hit in memory.recall("sailing boats")] == ["s", "q"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"speaker": "ann"}, {"a1", "a2"}),
        ({"session": ["s2", "s3"]}, {"b2", "b3"}),
        ({"after": day(40)}, {"b2", "b3"}),
        ({"before": "2024-01-02"}, {"a1", "b1", "a2"}),
        ({"metadata": {"album": "races"}}, {"b3"}),
        ({"speaker": "nobody"}, set()),
        ({"speaker": "Bo", "session": "s2"}, {"b2"}),
    ],
)
def test_filters(memory, filters, expected):
    assert {hit.id for hit in memory.recall("puppy medal marathon", **filters)} == expected


def test_quoted_words_are_found_word_for_word(memory):
    hits = memory.recall('who said "train every day"')
    assert hits[0].id == "b2" and "quoted words" in hits[0].why


def test_spaces_do_not_see_each_other(memory):
    memory.add([Episode("The puppy is a secret.", id="a1")], space="other")
    assert [hit.text for hit in memory.recall("puppy", space="other")] == ["The puppy is a secret."]
    assert all("secret" not in hit.text for hit in memory.recall("puppy secret"))
    assert memory.recall("puppy", space="never used") == []


def test_the_same_episode_twice_is_one(memory):
    assert memory.add(CHAT) == [episode.id for episode in CHAT]
    assert memory.stats()["records"]["episode"] == len(CHAT)


def test_another_text_under_a_known_id_is_refused_and_nothing_is_added(memory):
    with pytest.raises(InputError, match=r"episode 1 \(id 'a1'\).*immutable"):
        memory.add([Episode("new", id="new"), Episode("changed", id="a1")])
    assert memory.stats()["records"]["episode"] == len(CHAT)


@pytest.mark.parametrize(
    ("episode", "message"),
    [
        (Episode(""), "text is empty"),
        (Episode("x", speaker=3), "speaker must be text"),  # type: ignore[arg-type]
        (Episode("x", at="2024-01-01"), "at must be a datetime"),  # type: ignore[arg-type]
        (Episode("x", metadata={"a": object()}), "metadata cannot be written as JSON"),
        (Episode("x", metadata={"a": float("nan")}), "metadata cannot be written as JSON"),
        (Episode("\ud800"), "surrogate"),
        ("just a string", "make it an Episode"),
    ],
)
def test_bad_episodes_name_their_position(memory, episode, message):
    with pytest.raises(InputError, match=f"episode 1.*{message}"):
        memory.add([Episode("fine", id="fine"), episode])
    assert memory.stats()["records"]["episode"] == len(CHAT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be"),
        ({"kinds": []}, "kinds is empty"),
        ({"kinds": ["fact"]}, "builds no 'fact'"),
        ({"after": "yesterday"}, "after 'yesterday' is not a date"),
    ],
)
def test_bad_options_say_what_to_do(memory, options, message):
    with pytest.raises(InputError, match=message):
        memory.recall("puppy", **options)


def test_an_empty_question_is_refused(memory):
    with pytest.raises(InputError, match="the question is empty"):
        memory.recall("  ")


def test_naive_times_are_utc():
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(Episode("x", at=datetime(1969, 12, 31, 23)))
        assert memory.recall("x")[0].valid_at == datetime(1969, 12, 31, 23, tzinfo=UTC)


def test_vectors_follow_in_batches_and_are_not_made_twice(tmp_path: Path):
    embedder = HashEmbedder()
    with Memory.open(tmp_path / "a.db", embedder=embedder, organizer="plain") as memory:
        for number in range(70):
            memory.add(Episode(f"turn number {number}"))
        assert embedder.calls == [64]
        memory.recall("turn")
        assert embedder.calls == [64, 6, 1]
        memory.recall("turn")
        assert embedder.calls == [64, 6, 1], "neither the turns nor the question are embedded again"
    again = HashEmbedder()
    with Memory.open(tmp_path / "a.db", embedder=again, organizer="plain") as memory:
        memory.recall("turn")
        assert again.calls == [1]


def test_another_embedder_is_refused_until_the_vectors_are_made_anew(tmp_path: Path):
    with Memory.open(tmp_path / "a.db", embedder=HashEmbedder(), organizer="plain") as memory:
        memory.add(Episode("hello there"))
        memory.embed_pending()
    with Memory.open(tmp_path / "a.db", embedder=HashEmbedder("hash-2"), organizer="plain") as memory:
        with pytest.raises(StoreError, match="reembed=True"):
            memory.recall("hello")
        assert memory.maintain(reembed=True)["embedded"] == 1
        assert memory.recall("hello")[0].text == "hello there"


def test_a_deadline_leaves_out_what_does_not_fit_and_says_so():
    with Memory.open(":memory:", embedder=HashEmbedder(), organizer="plain") as memory:
        memory.add(CHAT)
        hits = memory.recall("puppy", deadline_ms=0)
        assert hits[0].id == "a1" and any("vectors" in stage for stage in hits.skipped)
        assert "left out: vectors" in hits[0].why
        assert memory.recall("puppy").skipped == ()


def test_a_budget_too_small_for_the_index_is_refused_before_it_is_read(tmp_path: Path):
    with Memory.open(tmp_path / "a.db", embedder=None, organizer="plain") as memory:
        memory.add([Episode(f"some words number {i}") for i in range(100)])
    with (
        Memory.open(tmp_path / "a.db", embedder=None, budget=100, organizer="plain") as memory,
        pytest.raises(BudgetError) as caught,
    ):
        memory.recall("words")
    assert caught.value.allowed == 100 < caught.value.needed


def test_the_index_keeps_up_with_another_process(tmp_path: Path):
    def elsewhere(call: str) -> None:
        opened = f"Memory.open({str(tmp_path / 'a.db')!r}, embedder=None)"
        subprocess.run([sys.executable, "-c", f"from memspan import Episode, Memory; {opened}.{call}"], check=True)

    with Memory.open(tmp_path / "a.db", embedder=None, organizer="plain") as reader:
        assert reader.recall("penguins") == []
        elsewhere("add(Episode('penguins', id='p'))")
        assert [hit.id for hit in reader.recall("penguins")] == ["p"]
        elsewhere("forget('p')")
        assert reader.recall("penguins") == []


def test_incremental_and_fresh_indexes_agree(tmp_path: Path):
    words = ["red boat", "green boat on a lake", "blue bird", "a boat and a bird", "lake at night"]
    with Memory.open(tmp_path / "a.db", embedder=HashEmbedder(), organizer="plain") as grown:
        for number in range(60):
            grown.add(Episode(f"{words[number % 5]} {number}", session=f"s{number % 3}", id=f"e{number}"))
            if number % 7 == 0:
                grown.recall("boat")
        with Memory.open(tmp_path / "a.db", embedder=HashEmbedder(), organizer="plain") as fresh:
            for question in ("boat on the lake", "bird 31", "night"):
                one, other = grown.recall(question, k=20), fresh.recall(question, k=20)
                assert [(h.id, round(h.score, 4)) for h in one] == [(h.id, round(h.score, 4)) for h in other]


def test_footprint_counts_arrays_and_file(tmp_path: Path):
    with Memory.open(tmp_path / "a.db", embedder=HashEmbedder(), organizer="plain") as memory:
        memory.add([Episode(f"turn {i} of many") for i in range(500)])
        before = memory.footprint()
        memory.recall("many")
        after = memory.footprint()
        assert after.by_place["ram"] - before.by_place["ram"] >= 500 * (64 + 8)  # a byte and a bit a dimension
        assert after.by_place["disk"] >= (tmp_path / "a.db").stat().st_size


def test_an_organizer_may_look_and_embed_before_the_store_is_locked():
    class Looking(Plain):
        def prepare_with(self, around, episodes, context):
            around.embed_pending()
            vectors = around.embed(["a text"])
            with around.snapshot() as view:
                words = view.episodes.frequency(term_hashes("tea sugar").tolist())
                self.seen.append((len(view.episodes), sum(words.values()), vectors is not None))
            return [None] * len(episodes)

    for embedder in (None, HashEmbedder()):
        organizer = Looking()
        organizer.seen = []
        with Memory.open(":memory:", organizer=organizer, embedder=embedder) as memory:
            memory.add([Episode("tea"), Episode("tea and sugar")])
            memory.add(Episode("more tea"))
        assert organizer.seen == [(0, 0, embedder is not None), (2, 3, embedder is not None)]
