"""A large store with a vector index beside it: it answers as one that compares all, and forgets as one without."""

from __future__ import annotations

import random
import shutil
import threading
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memspan import Episode, InputError, Memory
from memspan.longterm import nearest, parts, vector_index
from memspan.longterm.forget import remove_episodes
from memspan.longterm.nearest import IndexChoice
from memspan.longterm.vectors import quantized
from tests.longterm.doubles import HashEmbedder, Words, day
from tests.longterm.kills import lines_until_killed
from tests.longterm.vector_index_writer import small

WORDS = [f"w{number}" for number in range(120)]
EXHAUSTIVE = IndexChoice(system="spann", above=100, recall=1.0)


def set_small(patch: pytest.MonkeyPatch) -> None:
    """Small sizes until the patch is undone."""
    for module, names in ((parts, ("PASSAGES", "JOINED")), (nearest, ("SCAN_ALL",)), (vector_index, ("_TAIL",))):
        for name in names:
            patch.setattr(module, name, getattr(module, name))
    small()


@pytest.fixture(autouse=True)
def sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    set_small(monkeypatch)


def turns(count: int, first: int = 0) -> list[Episode]:
    chance = random.Random(first)
    return [
        Episode(
            " ".join(chance.choices(WORDS, k=chance.randint(3, 9))) + chance.choice([".", "?"]),
            chance.choice(["Ann", "Bo"]),
            day(1 + number % 300),
            chance.choice([None, f"s{number // 9}", f"big{number % 2}"]),
            f"e{number}",
            metadata={"role": chance.choice(["user", "assistant"]), "odd": number % 2},
        )
        for number in range(first, first + count)
    ]


def opened(path: Path, index: str | IndexChoice = EXHAUSTIVE, **options: Any) -> Memory:
    embedder = options.pop("embedder", Words())
    return Memory.open(path, embedder=embedder, organizer="plain", index=index, **options)


def folders(path: Path) -> list[Path]:
    return sorted(path.with_name(path.name + "-index").glob("*.vectors"))


def content(path: Path) -> bytes:
    """Every byte of the store and of what is beside it."""
    return b"".join(each.read_bytes() for each in path.parent.rglob("*") if each.is_file())


def code_of(memory: Memory, uid: str) -> bytes:
    """An episode's vector as an index keeps it."""
    row = memory.store.connection.execute(
        "SELECT v.data FROM vector v JOIN passage p ON p.id = v.passage JOIN record r ON r.id = p.record"
        " WHERE r.uid = ?",
        (uid,),
    ).fetchone()
    return quantized(np.frombuffer(row[0], np.float16)[None].astype(np.float32))[0].tobytes()


FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"session": "big1"},
    {"speaker": "Ann"},
    {"after": day(200)},
    {"before": day(40), "speaker": "Bo"},
    {"metadata": {"odd": 1}},
)


def answers(memory: Memory, seed: int) -> list[list[tuple[str, float]]]:
    chance = random.Random(seed)
    found = []
    for options in FILTERS:
        question = " ".join(chance.choices(WORDS, k=4))
        found.append([(hit.id, hit.score) for hit in memory.recall(question, k=30, **options)])
    return found


def same_as_exact(memory: Memory, path: Path, seed: int = 0, *, used: bool = True) -> None:
    """The answers are those of a memory that compares all."""
    tried = []
    with pytest.MonkeyPatch.context() as patch:
        places = nearest.HeldIndex._places
        patch.setattr(nearest.HeldIndex, "_places", lambda *a, **o: tried.append(1) or places(*a, **o))
        got = answers(memory, seed)
    assert bool(tried) == used
    with opened(path, "exact") as exact:
        for one, other in zip(got, answers(exact, seed), strict=True):
            assert [uid for uid, _ in one] == [uid for uid, _ in other]
            assert [score for _, score in one] == pytest.approx([score for _, score in other], abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_done_an_exhaustive_search_answers_as_all_compared(seed: int, tmp_path: Path):
    chance = random.Random(seed)
    path = tmp_path / "a.db"
    made, here = 0, []
    with opened(path) as memory:
        for _ in range(2):
            here += memory.add(turns(450, made))
            made += 450
        for step in range(12):
            act = chance.random()
            if act < 0.5:
                here += memory.add(turns(count := chance.randint(1, 200), made))
                made += count
            elif act < 0.8:
                gone = chance.sample(here, chance.randint(1, 40))
                here = [uid for uid in here if uid not in gone]
                assert memory.forget(gone).purged
            elif act < 0.9:
                memory.maintain(prune=chance.random() < 0.5)
            else:
                memory._indexes.clear()
            same_as_exact(memory, path, step)
        assert memory.check() == []
    with opened(path) as memory:
        same_as_exact(memory, path)
        assert memory.stats()["index"]["system"] == "spann"


class Clustered:
    """Random unit vectors around a few hundred centres, the same for the same text."""

    name, fingerprint, dim, max_tokens = "clustered", "clustered-48", 48, None

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]:
        made = np.empty((len(texts), self.dim), np.float32)
        for row, text in zip(made, texts, strict=True):
            number = int(text.split()[-1])
            centre = np.random.default_rng(number % 300).standard_normal(self.dim)
            row[:] = centre + 0.7 * np.random.default_rng(1000 + number).standard_normal(self.dim)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def footprint(self) -> Any:
        return HashEmbedder().footprint()


def test_by_default_nearly_all_of_the_nearest_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "PASSAGES", 4096)
    path = tmp_path / "a.db"
    with opened(path, "auto", index_above=1000, embedder=Clustered()) as memory:
        memory.add([Episode(f"text {number}", session=f"s{number // 5}") for number in range(12_000)])
        memory.embed_pending()
        memory.add([Episode(f"text {number}") for number in range(12_000, 12_500)])
        memory.embed_pending()
        assert memory.stats()["index"]["rows"] == 12_000 and memory.stats()["index"]["after"] == 500
        with memory.store.read(0, "default") as tx:
            index = memory._index(tx, episodes=True)
            assert index.near is not None and index.vectors is not None
            every = np.arange(12_500)
            halves = np.isin(every % 2, [0])
            few = every % 40 == 0
            for among in (None, halves, few):
                shares = []
                for question in Clustered().embed([f"ask {number}" for number in range(20_000, 20_030)]):
                    cosine = index.vectors.cosines(question)
                    allowed = every if among is None else np.flatnonzero(among)
                    wanted = allowed[np.argsort(-cosine[allowed])[:250]]
                    found = index.near.likely(index, question, 250, among)
                    assert found is not None and np.isin(found, allowed).all()
                    found = found[np.argsort(-cosine[found])[:250]]
                    shares.append(len(np.intersect1d(found, wanted)) / len(wanted))
                assert np.mean(shares) >= 0.98


def test_below_the_threshold_there_is_no_index_and_above_it_there_is_one(tmp_path: Path):
    path = tmp_path / "a.db"
    with opened(path, "auto", index_above=400) as memory:
        memory.add(turns(350))
        memory.embed_pending()
        assert not folders(path) and memory.stats()["index"] == {"system": "exact", "above": 400}
        same_as_exact(memory, path, used=False)
        memory.add(turns(100, 350))
        memory.embed_pending()
        told = memory.stats()["index"]
        assert (told["system"], told["rows"]) == ("spann", 450) and len(folders(path)) == 1
        assert 0 < told["ram"] < memory.footprint().by_place["ram"]
        files = sum(each.stat().st_size for each in folders(path)[0].iterdir())
        assert abs(told["disk"] - files) < 100 and memory.footprint().by_place["disk"] > files
        memory.forget([f"e{number}" for number in range(300)])
        assert not folders(path), "so few are compared again"
        same_as_exact(memory, path, used=False)
    with opened(tmp_path / "b.db", "exact", index_above=0) as memory:
        memory.add(turns(500))
        memory.maintain()
        assert not folders(tmp_path / "b.db")


@pytest.mark.parametrize("index", [EXHAUSTIVE, "exact"])
def test_what_is_forgotten_is_in_no_file(index: str | IndexChoice, tmp_path: Path):
    path = tmp_path / "a.db"
    with opened(path) as memory:
        memory.add(turns(900))
        memory.embed_pending()
        memory.add(turns(20, 900))
    with opened(path, index) as memory:
        gone = [f"e{number}" for number in range(0, 100)] + ["e905"]
        marks = {code_of(memory, uid) for uid in gone}
        held = b"".join(each.read_bytes() for each in folders(path)[0].iterdir())
        assert sum(mark in held for mark in marks) > 50
        for uids in ([gone[0]], gone[1:]):
            report = memory.forget(uids)
            assert report.episodes == len(uids) and report.purged
        assert len(folders(path)) == 1, "the index stays"
        held = content(path)
        assert not any(mark in held for mark in marks)
        assert memory.check() == []
    with opened(path) as memory:
        same_as_exact(memory, path)
        memory.forget(everything=True)
        assert not path.with_name("a.db-index").exists()


@pytest.mark.parametrize("then", ["forgotten at once", "taken in first"])
def test_what_a_killed_extension_left_beyond_its_row_is_forgotten_too(then: str, tmp_path: Path, monkeypatch: Any):
    path = tmp_path / "a.db"
    with opened(path) as memory:
        memory.add(turns(300))
        memory.embed_pending()

    class Killed(BaseException):
        """The process is no more."""

    def die(*args: Any, **options: Any) -> None:
        raise Killed

    memory = opened(path)
    memory.add(turns(10, 300))
    memory.embed_pending()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(vector_index.VectorIndexes, "_finish", die)
        memory.maintain()
    memory.close()
    with opened(path) as memory:
        mark = code_of(memory, "e305")
        assert mark in b"".join(each.read_bytes() for each in folders(path)[0].iterdir())
        if then == "taken in first":  # the process that forgets dies too, before the files are written anew
            with monkeypatch.context() as patch, pytest.raises(Killed):
                patch.setattr(vector_index.VectorIndexes, "erase", die)
                memory.forget(["e305"])
            memory.maintain()
        else:
            assert memory.forget(["e305"]).purged
        memory.maintain(prune=True)
        assert mark not in content(path)
        assert memory.check() == []
        same_as_exact(memory, path)


def test_a_process_that_forgets_waits_for_one_that_takes_the_forgotten_in(tmp_path: Path, monkeypatch: Any):
    path, reached, report = tmp_path / "a.db", threading.Event(), []
    with opened(path) as memory:
        memory.add(turns(300))
        memory.embed_pending()
        memory.add(turns(10, 300))
        memory.embed_pending()
        mark = code_of(memory, "e305")
        finish = vector_index.VectorIndexes._finish

        def late(self: Any, *args: Any) -> Any:
            monkeypatch.setattr(vector_index.VectorIndexes, "_finish", finish)
            forgetting.start()
            assert reached.wait(30)
            time.sleep(0.2)
            assert not report, "it holds that the index was never given what it forgets"
            return finish(self, *args)

        def forget() -> None:
            with opened(path) as other:
                erase = vector_index.VectorIndexes.erase
                monkeypatch.setattr(
                    vector_index.VectorIndexes, "erase", lambda *a, **o: (reached.set(), erase(*a, **o))[1]
                )
                report.append(other.forget(["e305"]))

        forgetting = threading.Thread(target=forget)
        monkeypatch.setattr(vector_index.VectorIndexes, "_finish", late)
        memory.maintain()
        forgetting.join()
        assert report[0].purged and mark not in content(path)
        assert memory.check() == []


def test_a_process_that_is_writing_an_index_ends_what_another_could_not(tmp_path: Path, monkeypatch: Any):
    path = tmp_path / "a.db"
    with opened(path) as memory, opened(path, timeout=0.2) as other:
        memory.add(turns(600))
        memory.embed_pending()
        mark = code_of(memory, "e7")
        assert memory._indexes.vectors is not None
        with memory._indexes.vectors._alone(0) as mine:
            assert mine
            report = other.forget("e7")
            assert report.episodes == 1 and not report.purged
            same_as_exact(other, path)
            other.add(turns(300, 1000))
            assert other.stats()["index"]["after"] == 300, "left to the process that writes"
        assert mark in content(path)
        other.maintain(prune=True)
        assert mark not in content(path) and other.check() == []
        same_as_exact(memory, path)


def test_a_disk_budget_counts_the_index_and_gives_it_up_before_an_episode(tmp_path: Path):
    path = tmp_path / "a.db"
    with opened(path) as memory:
        memory.add(turns(500))
        memory.embed_pending()
        limits = memory.limits()
        files = sum(each.stat().st_size for each in folders(path)[0].iterdir())
        assert limits.index == memory.stats()["index"]["disk"] and abs(limits.index - files) < 100
        limits = memory.limits(disk=limits.used + 1000)
        assert limits.index, "it fits"
        memory.add(turns(60, 500))
        assert memory.limits().used <= memory.limits().disk
        assert memory.limits().index == 0 and not folders(path)
        assert memory.stats()["evicted"]["episodes"] == 0
        same_as_exact(memory, path, used=False)
        for begin in range(0, 2000, 200):
            memory.add(turns(200, 1000 + begin))
        assert memory.stats()["evicted"]["episodes"] > 0 and not folders(path), "there is no room for one"
        assert memory.limits().used <= memory.limits().disk


def test_what_is_evicted_is_not_found_and_counts_no_longer(tmp_path: Path):
    path = tmp_path / "a.db"
    with opened(path) as memory:
        memory.add(turns(500))
        memory.embed_pending()
        marks = {f"e{number}": code_of(memory, f"e{number}") for number in range(500)}
        before = memory.limits()
        with memory.store.write(memory._now()) as tx:
            remove_episodes(tx, memory.organizer, [row[0] for row in tx.execute("SELECT id FROM record LIMIT 40")])
        assert memory.limits().index == pytest.approx(before.index * 460 / 500, abs=2)
        assert memory.stats()["index"]["gone"] == 40
        same_as_exact(memory, path)
        here = {row[0] for row in memory.store.connection.execute("SELECT uid FROM record")}
        memory.maintain(prune=True)
        assert memory.stats()["index"]["gone"] == 0
        held = content(path)
        assert not [uid for uid, mark in marks.items() if uid not in here and mark in held]


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a closed store with an index, to copy."""
    path = tmp_path_factory.mktemp("indexed") / "a.db"
    with pytest.MonkeyPatch.context() as patch:
        set_small(patch)
        with opened(path) as memory:
            memory.add(turns(1500))
            memory.embed_pending()
    return path.parent


@pytest.mark.parametrize("damage", ["missing", "no meta", "tables", "lists", "ids", "older store"])
def test_a_damaged_index_is_passed_over_found_and_made_again(damage: str, indexed: Path, tmp_path: Path):
    path = tmp_path / "copy" / "a.db"
    shutil.copytree(indexed, path.parent)
    (folder,) = folders(path)
    if damage == "missing":
        shutil.rmtree(folder)
    elif damage == "no meta":
        (folder / "meta.json").unlink()
    elif damage in ("tables", "lists"):
        (victim,) = folder.glob(f"{damage}.*")
        broken = bytearray(victim.read_bytes())
        broken[len(broken) // 3 : len(broken) // 3 + 900] = b"\xa5" * 900
        victim.write_bytes(broken)
    elif damage == "ids":
        with opened(path) as memory:
            assert memory._indexes.vectors is not None
            with memory.store.read(0, "default") as tx:
                row = memory._indexes.vectors.row(tx)
            with memory._indexes.vectors._changing(0, "default", row) as (index, _):
                index.delete(np.arange(50, 90))
                index.flush()
    else:
        kept = path.read_bytes()
        with opened(path) as memory:
            memory.add(turns(400, 3000))
            memory.forget([f"e{number}" for number in range(30)])
        path.write_bytes(kept)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    with opened(path) as memory:
        assert memory.check()
        if damage not in ("lists", "ids"):
            same_as_exact(memory, path, used=False)
        assert memory.check(repair=True) and memory.check() == []
        same_as_exact(memory, path)
    with opened(path) as memory:
        same_as_exact(memory, path)


def test_a_lost_index_is_made_again_by_the_next_maintenance(tmp_path: Path):
    path = tmp_path / "a.db"
    with opened(path) as memory:
        memory.add(turns(500))
        memory.embed_pending()
    shutil.rmtree(folders(path)[0])
    with opened(path) as memory:
        same_as_exact(memory, path, used=False)
        memory.maintain()
        assert memory.check() == []
        same_as_exact(memory, path)


def test_maintenance_takes_in_the_last_few_and_a_quarter_makes_it_anew(tmp_path: Path):
    path = tmp_path / "a.db"
    with opened(path) as memory:
        memory.add(turns(1500))
        memory.embed_pending()
        (folder,) = folders(path)
        memory.add(turns(60, 2000))
        memory.embed_pending()
        assert (memory.stats()["index"]["rows"], memory.stats()["index"]["after"]) == (1500, 60)
        memory.maintain()
        assert (memory.stats()["index"]["rows"], memory.stats()["index"]["after"]) == (1560, 0)
        assert folders(path) == [folder] and memory.check() == []
        same_as_exact(memory, path)
        memory.add(turns(400, 3000))
        memory.embed_pending()
        assert folder not in folders(path) and memory.stats()["index"]["rows"] == 1960
        same_as_exact(memory, path)


def test_one_reads_while_another_builds_extends_and_forgets(tmp_path: Path):
    path = tmp_path / "a.db"
    with opened(path) as writer, opened(path) as reader:
        reader.recall("w1")
        for first in range(0, 3000, 300):
            writer.add(turns(300, first))
            writer.embed_pending()
            same_as_exact(reader, path, first, used=True)
            writer.forget([f"e{first + 5}", f"e{first + 50}"])
            same_as_exact(reader, path, first + 1)
        assert reader.check() == []


def test_vectors_made_anew_and_stores_moved_get_an_index_of_their_own(tmp_path: Path):
    path, other = tmp_path / "a.db", tmp_path / "b" / "b.db"
    other.parent.mkdir()
    with opened(path) as memory:
        memory.add(turns(500))
        memory.embed_pending()
        (folder,) = folders(path)
        memory.maintain(reembed=True)
        assert folder not in folders(path) and len(folders(path)) == 1
        same_as_exact(memory, path)
        memory.export(tmp_path / "all.jsonl")
    with opened(other) as memory:
        memory.add([Episode("w1 w2", id="first")])
        memory.import_(tmp_path / "all.jsonl")
        memory.embed_pending()
        assert len(folders(other)) == 1
        same_as_exact(memory, other)
    copy = tmp_path / "copy.db"
    shutil.copy(path, copy)
    with opened(copy) as memory:
        same_as_exact(memory, copy, used=False)
        memory.maintain()
        same_as_exact(memory, copy)


def test_kills_at_any_moment(tmp_path: Path):
    path = tmp_path / "a.db"
    chance = random.Random(5)
    first, forgotten, added = 0, set(), set()
    for _ in range(25):
        lines = lines_until_killed("tests.longterm.vector_index_writer", path, first, chance, 0.4)
        done = [line.split() for line in lines]
        added |= {int(number) for what, number in done if what == "added"}
        forgotten |= {int(number) for what, number in done if what == "forgot"}
        first = max([first, *(number + 2 for number in added)])
    assert forgotten and len(added) > 30
    with opened(path) as memory:
        assert memory.store.check() == []
        here = {row[0] for row in memory.store.connection.execute("SELECT uid FROM record")}
        assert {f"{number}:{i}" for number in added for i in range(12)} <= here
        assert not {f"{number}:12" for number in forgotten} & here
        marks = Words().embed([f"marker {number} of ours" for number in sorted(forgotten)])
        codes = quantized(marks.astype(np.float16).astype(np.float32))[0]
        held = content(path)
        assert not [code for code in codes if code.tobytes() in held]
        same_as_exact(memory, path, used=bool(memory.stats()["index"].get("rows")))
        memory.maintain(prune=True)
        assert memory.check() == [] and len(folders(path)) == 1
        assert memory.stats()["index"]["after"] == 0
        same_as_exact(memory, path)


def test_ram_of_a_recall_stays_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "PASSAGES", 2048)
    path = tmp_path / "a.db"
    with opened(path, "auto", index_above=2000, embedder=Clustered()) as memory:
        memory.add([Episode(f"text {number}", session=f"s{number // 5}") for number in range(9000)])
        memory.embed_pending()
        memory.recall("ask 20001", 10)
        held = memory.footprint().by_place["ram"]
        assert held < memory.expected_ram() <= 2 * held
    budget = held + 2_500_000  # what one recall takes at any size
    with opened(path, "auto", index_above=2000, embedder=Clustered(), budget=budget) as memory:
        cache = memory.store.footprint().by_place["ram"]
        tracemalloc.start()
        try:
            memory.recall("ask 20001", 10)
            assert tracemalloc.get_traced_memory()[1] + cache <= budget
        finally:
            tracemalloc.stop()
        with memory.store.read(0, "default") as tx:
            assert memory._index(tx, episodes=True).near is not None


def test_no_index_is_made_where_the_budget_has_no_room_for_that(tmp_path: Path):
    path = tmp_path / "a.db"
    with opened(path, "exact", embedder=Clustered()) as memory:
        memory.add([Episode(f"text {number}") for number in range(3000)])
        memory.embed_pending()
        memory.recall("ask 20001")
        held = memory.footprint().by_place["ram"]
    with opened(path, "spann", embedder=Clustered(), budget=held + 100_000) as memory:
        memory.maintain()
        assert not folders(path) and len(memory.recall("ask 20001", 10)) == 10
    with opened(path, "spann", embedder=Clustered()) as memory:
        memory.maintain()
    with opened(path, "spann", embedder=Clustered(), budget=held + 100_000) as memory:
        memory.recall("ask 20001")
        assert memory.stats()["index"]["system"] == "spann", "one that is there is used"


def test_a_choice_that_cannot_be_is_refused(tmp_path: Path):
    for index in ("annoy", "zep", ""):
        with pytest.raises(InputError, match="those that work: auto, exact, spann"):
            opened(tmp_path / "a.db", index)
    with pytest.raises(InputError, match="index_above is -1"):
        opened(tmp_path / "a.db", "auto", index_above=-1)
    with pytest.raises(InputError, match="must be over 0"):
        IndexChoice(recall=0)
    assert not (tmp_path / "a.db").exists()
    assert IndexChoice.of("spann").above == 0 and IndexChoice.of("auto").above == nearest.ABOVE
