"""A space's bytes are counted, limited, and kept within the limit by eviction or by an error."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from memspan import BudgetError, Episode, InputError, Memory
from memspan.longterm.zep import Zep
from tests.longterm.doubles import HashEmbedder, ToyScribe, day

EMPTY = 120_000  # bytes of a store without rows


def chat(count: int, words: int, *, seed: int = 0, first: int = 0) -> list[Episode]:
    chance = random.Random(seed)
    return [
        Episode(
            " ".join(f"w{int(chance.paretovariate(0.3)) % 5000}" for _ in range(chance.randint(1, 2 * words))),
            speaker=("Ann", "Bo")[number % 2],
            at=day(1 + number // 50),
            session=f"s{number // 20}",
            id=f"e{first + number}",
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(("words", "embedder"), [(3, None), (30, None), (700, None), (30, HashEmbedder())])
def test_what_is_counted_is_what_a_file_without_slack_takes(words: int, embedder: Any, tmp_path: Path):
    with Memory.open(tmp_path / "a.db", embedder=embedder, organizer="plain") as memory:
        memory.add(chat(4000 if words < 100 else 500, words))
        memory.embed_pending()
        memory.store.connection.execute("VACUUM")
        size = memory.store.pages()[0] * 4096
        assert size - EMPTY <= memory.limits().used <= 1.25 * size
        assert memory.check() == []


def test_counts_hold_whatever_is_written_and_forgotten(tmp_path: Path):
    with Memory.open(tmp_path / "a.db", organizer=Zep(ToyScribe()), embedder=HashEmbedder()) as memory:
        for number, city in enumerate(("Lisbon", "Oslo", "Rome", "Lisbon")):
            memory.add([Episode(f"Ann lives in {city}", at=day(10 * number + 1), id=f"{number}"), *chat(20, 5)])
        memory.maintain()
        memory.forget("1")
        memory.use("0")
        assert memory.check() == []
        memory.maintain(reembed=True)
        memory.forget(everything=True)
        assert memory.check() == []
        memory.store.connection.execute("UPDATE usage SET bytes = bytes + 1")
        assert memory.check() == ["the bytes that spaces take are miscounted"]


def test_a_limit_holds_after_every_add_and_for_later_openers(tmp_path: Path):
    with Memory.open(tmp_path / "a.db", embedder=HashEmbedder(), disk_budget="400kB", organizer="plain") as memory:
        evicted = 0
        for number in range(30):
            added = memory.add(chat(60, 12, seed=number, first=60 * number))
            assert len(added) == 60 and memory.limits().used <= 400_000
            evicted += added.evicted.episodes if added.evicted else 0
        memory.embed_pending()
        assert evicted > 500 and memory.limits().used <= 400_000
        stats = memory.stats()
        assert stats["evicted"]["episodes"] == evicted and stats["records"]["episode"] == 1800 - evicted
        assert stats["disk"] == {"used": memory.limits().used, "allowed": 400_000, "when_full": "evict"}
        here = {row[0] for row in memory.store.connection.execute("SELECT uid FROM record")}
        assert {f"e{n}" for n in range(1740, 1800)} <= here, "what was just added stays"
        assert memory.check() == []
    with Memory.open(tmp_path / "a.db", embedder=None, organizer="plain") as later:
        assert later.limits().disk == 400_000
        assert later.add(chat(60, 12, seed=99, first=9000)).evicted is not None
        later.maintain(prune=True)
    assert (tmp_path / "a.db").stat().st_size <= 400_000 + EMPTY + 50_000  # the log of what was erased


def test_a_full_space_can_raise_and_stays_as_it_was(tmp_path: Path):
    with Memory.open(tmp_path / "a.db", embedder=None, disk_budget=100_000, organizer="plain") as memory:
        memory.limits(when_full="raise")
        memory.add(chat(50, 10))
        before = memory.limits().used
        with pytest.raises(BudgetError, match="space 'default' on disk") as caught:
            memory.add(chat(500, 10, seed=1, first=100))
        assert caught.value.allowed == 100_000 < caught.value.needed
        assert memory.limits().used == before and memory.stats()["records"] == {"episode": 50}
        memory.add(chat(500, 10, first=1000), space="other")  # which has no limit
        assert memory.limits(disk=0, when_full="evict").disk is None
        memory.add(chat(500, 10, seed=1, first=100))


def test_what_cannot_be_made_to_fit_is_refused():
    with Memory.open(":memory:", embedder=None, disk_budget="30kB", organizer="plain") as memory:
        with pytest.raises(BudgetError, match="add less at once"):
            memory.add(chat(500, 10))
        assert memory.stats()["records"] == {}
        memory.add([Episode(f"pinned {n} " * 20, metadata={"pinned": True}) for n in range(40)])
        with pytest.raises(BudgetError, match="what is pinned"):
            memory.add([Episode(f"another {n} " * 20) for n in range(40)])
        for bad in ({"disk": "many"}, {"ram": -1}, {"when_full": "explode"}):
            with pytest.raises(InputError):
                memory.limits(**bad)


def test_a_lower_limit_holds_at_once():
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(chat(600, 10))
        used = memory.limits().used
        limits = memory.limits(disk=used // 2)
        assert limits.used <= used // 2 and memory.check() == []
        assert memory.stats()["evicted"]["times"] == 1


def test_the_index_follows_an_eviction():
    with Memory.open(":memory:", embedder=HashEmbedder(), organizer="plain") as memory:
        memory.add(chat(400, 10))
        memory.recall("w1 w2")
        memory.limits(disk=memory.limits().used // 3)
        quick = [(hit.id, hit.score) for hit in memory.recall("w1 w2 w3", k=50)]
        memory._indexes.clear()
        assert quick == [(hit.id, hit.score) for hit in memory.recall("w1 w2 w3", k=50)]


def test_ram_is_kept_within_by_spilling_with_the_same_results(tmp_path: Path):
    path = tmp_path / "a.db"
    with Memory.open(path, embedder=HashEmbedder(), organizer="plain") as memory:
        memory.add(chat(3000, 12))
        wanted = [(hit.id, hit.score) for hit in memory.recall('about w7 and "w1 w1"', k=50)]
        full = memory.expected_ram(dim=64)
        least = memory.expected_ram(dim=64, least=True)
    assert least < 0.9 * full
    levels = set()
    for share in (1.0, 0.7, 0.4, 0.1, 0.0):
        with Memory.open(
            path, embedder=HashEmbedder(), budget=int(least + share * (full - least)) + 1000, organizer="plain"
        ) as memory:
            assert [(hit.id, hit.score) for hit in memory.recall('about w7 and "w1 w1"', k=50)] == wanted
            levels |= {index.level for index in memory._indexes.values()}
            memory.forget("e5")
            memory.add(Episode("w7 was said again", id="e5"))
            assert "e5" in [hit.id for hit in memory.recall("w7 said again")]
            memory.forget("e5")
            memory.add(chat(6, 12)[5])
            wanted = [(hit.id, hit.score) for hit in memory.recall('about w7 and "w1 w1"', k=50)]
    assert len(levels) >= 3
    with (
        Memory.open(path, embedder=HashEmbedder(), budget=least // 2, organizer="plain") as memory,
        pytest.raises(BudgetError, match="raise the budget"),
    ):
        memory.recall("w7")
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"], "spilled arrays have no names"


def test_a_space_can_be_given_less_ram_than_the_rest(tmp_path: Path):
    with Memory.open(tmp_path / "a.db", embedder=None, organizer="plain") as memory:
        memory.add(chat(2000, 12))
        memory.limits(ram=500_000)
        memory.recall("w7")
        assert {index.level for index in memory._indexes.values()} != {0}
        memory.limits(ram=1000)
    with (
        Memory.open(tmp_path / "a.db", embedder=None, organizer="plain") as later,
        pytest.raises(BudgetError, match="1,000"),
    ):
        later.recall("w7")


def test_other_spaces_indexes_go_before_anything_is_spilled(tmp_path: Path):
    with Memory.open(tmp_path / "a.db", embedder=None, organizer="plain") as memory:
        for space in ("one", "two", "three"):
            memory.add(chat(2000, 12), space=space)
        memory.recall("w7", space="one")
        one = memory._indexes.footprint().total
        budget = memory.store.footprint().by_place["ram"] + int(2.5 * one)
    with Memory.open(tmp_path / "a.db", embedder=None, budget=budget, organizer="plain") as memory:
        for space in ("one", "two", "three", "one"):
            memory.recall("w7", space=space)
            assert memory.footprint().by_place["ram"] <= budget
            assert {index.level for index in memory._indexes.values()} == {0}


def test_what_is_imported_keeps_to_the_limit(tmp_path: Path):
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(chat(600, 10))
        memory.export(tmp_path / "x.jsonl")
        used = memory.limits().used
    with Memory.open(":memory:", embedder=None, disk_budget=used // 2, organizer="plain") as memory:
        memory.import_(tmp_path / "x.jsonl")
        assert memory.limits().used <= used // 2 and memory.check() == []
        assert memory.stats()["evicted"]["episodes"] > 200
    with Memory.open(":memory:", embedder=None, disk_budget=used // 2, organizer="plain") as memory:
        memory.limits(when_full="raise")
        with pytest.raises(BudgetError):
            memory.import_(tmp_path / "x.jsonl")
        assert memory.stats()["records"] == {}
