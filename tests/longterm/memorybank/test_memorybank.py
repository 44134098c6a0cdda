"""What fades, what brings it back, and what erases it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from memspan import Episode, InputError, Memory
from memspan.longterm.memorybank import MemoryBank, MemoryBankConfig
from tests.longterm.doubles import HashEmbedder, ToyScribe, day


class Clock:
    """The store's time, moved by the test."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def bank(**config) -> MemoryBank:
    return MemoryBank(ToyScribe(), MemoryBankConfig(**{"awake": 0, **config}))


def told(clock: Clock, target: str | Path = ":memory:", **config) -> Memory:
    memory = Memory.open(target, organizer=bank(**config), embedder=None, now=clock)
    memory.add(
        [
            Episode("My old bicycle is green and rusty.", "Ann", day(1), "s1", "bicycle"),
            Episode("The piano was tuned by Mister Quill.", "Bo", day(1), "s1", "piano"),
            Episode("We painted the garage door.", "Ann", day(20), "s2", "garage"),
            Episode("Lunch was soup again.", "Bo", day(28), "s3", "soup"),
        ]
    )
    return memory


def ids(memory: Memory, query: str = "what is there", **options) -> list[str]:
    return sorted(hit.id for hit in memory.recall(query, **options))


def test_what_is_not_used_goes_dormant_and_use_brings_it_back():
    clock = Clock(day(30))
    with told(clock) as memory:
        assert ids(memory) == ["garage", "soup"]
        memory.use("bicycle")
        assert ids(memory) == ["bicycle", "garage", "soup"]
        clock.now = day(55)
        assert ids(memory) == ["bicycle"], "S = 2 lasts 30 days, S = 1 lasts 15"
        clock.now = day(61)
        assert ids(memory) == []
        assert memory.stats()["records"]["episode"] == 4, "nothing is deleted"


def test_a_small_or_idle_store_forgets_nothing_by_default():
    clock = Clock(day(30, 2031))
    with told(clock, awake=MemoryBankConfig().awake) as memory:
        assert len(ids(memory)) == 4
        stats = memory.stats()["memorybank"]
        assert (stats["faded"], stats["dormant"], stats["always_awake"]) == (4, 0, 1000)


def test_the_strongest_and_newest_stay_awake_when_there_is_room_for_few():
    clock = Clock(day(30))
    with told(clock, awake=2) as memory:
        memory.use("piano")
        clock.now = day(1, 2027)
        assert ids(memory) == ["piano", "soup"]
        assert memory.maintain() == {"dormant": 2, "embedded": 0}


@pytest.mark.parametrize(
    ("question", "woken"),
    [
        ('who said "green and rusty"?', "bicycle"),
        ("Who is Quill?", "piano"),
        ("What colour is the rusty bicycle?", "bicycle"),
    ],
)
def test_a_question_wakes_what_it_quotes(question, woken):
    clock = Clock(day(300))
    with told(clock) as memory:
        assert ids(memory) == []
        assert ids(memory, question) == [woken]
        assert ids(memory) == [], "for that question only"
    with told(clock, revive=False) as memory:
        assert ids(memory, question) == []


def test_half_the_rare_words_wake_nothing():
    with told(Clock(day(300))) as memory:
        assert ids(memory, "Did Mister Quill see the rusty thing?") == []


def test_a_named_day_wakes_its_episodes():
    with told(Clock(day(300))) as memory:
        assert ids(memory, "What happened on 20 January 2024?") == ["garage"]
        assert ids(memory, "What happened in 2024?") == [], "a year names too many"


def test_pinned_episodes_never_fade():
    clock = Clock(day(1))
    with told(clock) as memory:
        memory.add(Episode("Ann is allergic to nuts.", at=day(2), id="pin", metadata={"pin": True}))
        memory.add(Episode("Ann wore a hat.", at=day(2), id="no", metadata={"pin": False}))
        clock.now = day(1, 2040)
        assert ids(memory) == ["pin"]
        stats = memory.stats()["memorybank"]
        assert (stats["pinned"], stats["faded"]) == (1, 5)
        assert memory.maintain(prune=True)["pruned"] == 5
        assert ids(memory) == ["pin"]


def test_strength_has_a_cap_and_a_spacing():
    clock = Clock(day(30))
    with told(clock, strength_cap=3.0) as memory:
        for _ in range(5):  # at once: counts one time
            memory.use("soup")
        assert memory.stats()["memorybank"]["strength"] == {"1": 3, "2": 1}
        for _ in range(5):
            clock.now += timedelta(hours=2)
            memory.use(["soup", "garage"])
        assert memory.stats()["memorybank"]["strength"] == {"1": 2, "3": 2}


def test_being_recalled_is_not_being_used():
    clock = Clock(day(30))
    with told(clock) as memory:
        for _ in range(3):
            memory.recall("soup")
            memory.maintain()
            memory.stats()
        assert memory.stats()["memorybank"]["strength"] == {"1": 4}
        answer = memory.ask("What was for lunch?", abstain_below=0.0)
        assert [citation.episode for citation in answer.citations] == ["soup"]
        assert memory.stats()["memorybank"]["strength"] == {"1": 3, "2": 1}


@pytest.mark.parametrize("forgetting", ["threshold", "chance"])
def test_looking_does_not_change_what_is_forgotten(tmp_path: Path, forgetting):
    """The official code tosses a coin for every turn at every load."""
    clock = Clock(day(40))
    said = [Episode(f"turn {i}", at=day(1 + i // 4), id=f"t{i}") for i in range(120)]
    seen = set()
    for opening in range(6):
        with Memory.open(tmp_path / "a.db", organizer=bank(forgetting=forgetting), embedder=None, now=clock) as memory:
            if not opening:
                memory.add(said)
            listed = memory.organizer.dormant(memory)
            seen.add(tuple(hit.id for hit in listed))
            assert {hit.id for hit in listed} == {e.id for e in said} - set(ids(memory, "turn", k=200))
    assert len(seen) == 1 and 0 < len(seen.pop()) < 120


def test_strength_and_use_survive_reopening_and_export(tmp_path: Path):
    clock = Clock(day(30))
    with told(clock, tmp_path / "a.db") as memory:
        memory.use("bicycle")
        memory.export(tmp_path / "a.jsonl")
    clock.now = day(55)
    with Memory.open(tmp_path / "a.db", organizer=bank(), embedder=None, now=clock) as memory:
        assert ids(memory) == ["bicycle"]
    with Memory.open(":memory:", organizer=bank(), embedder=None, now=clock) as memory:
        memory.import_(tmp_path / "a.jsonl")
        assert ids(memory) == ["bicycle"]


def test_pruning_erases_the_dormant_and_their_bytes(tmp_path: Path):
    clock = Clock(day(30))
    organizer = bank()
    with Memory.open(tmp_path / "a.db", organizer=organizer, embedder=HashEmbedder(), now=clock) as memory:
        memory.add([Episode(f"filler {i}", at=day(29), id=f"f{i}") for i in range(300)])
        memory.add([Episode("Zebedee plays quizzaciously", "Zebedee", day(2), "s", "z"), Episode("Ann", at=day(2))])
        memory.recall("all", kinds=["summary"])
        files = list(tmp_path.iterdir())
        assert b"quizzac" in b"".join(file.read_bytes() for file in files)
        worst = organizer.dormant(memory)[0]
        assert worst.id == "z" and "28.0 days" in worst.why
        done = memory.maintain(prune=True)
        assert (done["dormant"], done["pruned"]) == (0, 2) and done["pruned_texts"] >= 1
        assert b"quizzac" not in b"".join(file.read_bytes() for file in tmp_path.iterdir()).lower()
        assert memory.check() == [] and organizer.dormant(memory) == []
        assert memory.maintain(prune=True)["pruned"] == 0


def test_pruning_drops_cached_vectors():
    class Remembering(HashEmbedder):
        forgotten: list[str] = []

        def forget(self, texts):
            self.forgotten += texts

    clock, embedder = Clock(day(30)), Remembering()
    with Memory.open(":memory:", organizer=bank(), embedder=embedder, now=clock) as memory:
        memory.add([Episode("old words", at=day(1)), Episode("new words", at=day(29))])
        memory.recall("words")
        memory.maintain(prune=True)
    assert embedder.forgotten == ["old words"]


def test_spaces_fade_apart():
    clock = Clock(day(30))
    with told(clock) as memory:
        memory.add([Episode("old tea", at=day(1), id="a"), Episode("new tea", at=day(29), id="b")], space="other")
        assert ids(memory, space="other") == ["b"] and ids(memory) == ["garage", "soup"]
        memory.use("a", space="other")
        assert ids(memory, space="other") == ["a", "b"] and ids(memory) == ["garage", "soup"]
        assert memory.maintain(prune=True)["pruned"] == 2
        assert ids(memory, space="other") == ["a", "b"]
        assert memory.stats(space="nobody")["memorybank"]["mean_retention"] is None


def test_stats_show_the_distribution_and_who_is_next():
    with told(Clock(day(30))) as memory:
        stats = memory.stats()["memorybank"]
        assert stats["curve"] == "exponential, 5 days" and stats["faded"] == stats["dormant"] == 2
        assert sum(stats["retention"].values()) == 4 and stats["retention"]["below 0.05"] == 2
        first, second = stats["next_to_fade"]
        assert (first["id"], second["id"]) == ("garage", "soup")
        assert first["days_left"] == pytest.approx(14.98 - 10, abs=0.01) and first["retention"] == 0.1353


def test_one_organizer_may_serve_two_stores():
    organizer = bank()
    for word in ("first", "second"):
        with Memory.open(":memory:", organizer=organizer, embedder=None, now=Clock(day(30))) as memory:
            memory.add([Episode(f"{word} old", at=day(1)), Episode(f"{word} new", at=day(29), id="n")])
            assert ids(memory, word) == ["n"]


def test_forgetting_and_adding_are_seen_by_what_is_kept_in_ram():
    clock = Clock(day(30))
    with told(clock) as memory:
        assert ids(memory) == ["garage", "soup"]
        memory.forget("garage")
        memory.add(Episode("A new kettle.", at=day(30), id="kettle"))
        assert ids(memory) == ["kettle", "soup"]


def test_undated_and_future_episodes():
    clock = Clock(day(10))
    with Memory.open(":memory:", organizer=bank(), embedder=None, now=clock) as memory:
        memory.add([Episode("an undated turn", id="u"), Episode("a turn to come", at=day(200), id="f")])
        assert ids(memory) == ["f", "u"]
        clock.now = day(40)
        assert ids(memory) == ["f"], "undated ones count from when they were stored, future ones have not begun to fade"


def dated(clock: Clock, **config) -> Memory:
    memory = Memory.open(":memory:", organizer=bank(awake=1000, **config), embedder=None, now=clock)
    memory.add([Episode(f"I saw film number {i} at the cinema.", at=day(i), id=f"d{i}") for i in range(1, 60)])
    return memory


def test_a_named_day_gains():
    with dated(Clock(day(60))) as memory:
        best = memory.recall("Which film did I see on January 12th?")[0]
        assert best.id == "d12" and "said on 12 January 2024" in best.why


def test_a_month_of_many_episodes_gains_where_words_fit():
    with dated(Clock(day(60))) as memory:
        memory.add([Episode(f"January chatter {i}", at=day(3), id=f"c{i}") for i in range(600)])
        best = memory.recall("Which film did I see at the cinema in January?")
        assert {hit.id for hit in best} <= {f"d{i}" for i in range(1, 32)} and "in January 2024" in best[0].why


def test_an_old_conversation_finds_its_year():
    with dated(Clock(day(200, 2030))) as memory:
        assert memory.recall("Which film did I see on January 12th?")[0].id == "d12"
        assert memory.recall("What did I plan to see on January 12th?")[0].id == "d12"


def test_dates_as_a_filter_show_nothing_when_nothing_is_of_that_day():
    with dated(Clock(day(60)), dates="filter") as memory:
        assert ids(memory, "Which film did I see on January 12th?") == ["d12"]
        assert ids(memory, "Which film did I see on 3 March 2023?") == []
        assert len(ids(memory, "Which film did I see?")) == 10


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"threshold": 0.0}, "between 0 and 1"),
        ({"retention": "linear"}, "retention is 'linear'"),
        ({"days": 0}, "days is 0; it must be positive"),
        ({"awake": -1}, "must not be negative"),
        ({"dates": "maybe"}, "dates is 'maybe'"),
        ({"forgetting": "never"}, "forgetting is 'never'"),
        ({"rare_share": 2}, "it is a share"),
    ],
)
def test_bad_constants(config, message):
    with pytest.raises(InputError, match=message):
        MemoryBankConfig(**config)


def test_it_opens_by_name_and_keeps_no_facts():
    with Memory.open(":memory:", organizer="memorybank", embedder=None) as memory:
        memory.add(Episode("I moved to Lisbon.", speaker="Ann", id="a"))
        assert memory.ask("Where did Ann move?").citations[0].episode == "a"
        with pytest.raises(InputError, match="kinds: episode, summary, portrait, insight"):
            memory.recall("Ann", kinds=["fact"])
