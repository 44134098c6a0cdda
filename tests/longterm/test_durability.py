"""A writer is killed with SIGKILL at random moments; what was acknowledged is there, and nothing is half-made."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from memspan import Memory
from memspan.longterm.zep import Zep
from tests.longterm.doubles import HashEmbedder, ToyScribe
from tests.longterm.evicting_writer import LIMIT, SIZE, batch
from tests.longterm.kills import lines_until_killed

KILLS = 50
ROOT = Path(__file__).parents[2]


def test_fifty_kills(tmp_path: Path):
    path = tmp_path / "a.db"
    chance = random.Random(0)
    acknowledged: set[int] = set()
    forgotten: set[int] = set()
    first = 0
    for _ in range(KILLS):
        lines = lines_until_killed("tests.longterm.writer", path, first, chance, 0.08)
        for line in lines:
            number = int(line)
            if number >= 0:
                acknowledged.add(number)
            else:
                forgotten.add(-number - 4)
        first = max(acknowledged) + 2  # the one after may or may not have been committed before the kill

    with Memory.open(path, organizer=Zep(ToyScribe()), embedder=HashEmbedder()) as memory:
        assert memory.check() == []
        run = memory.store.connection.execute
        present: dict[int, int] = {}
        for (uid,) in run("SELECT uid FROM record WHERE kind = 'episode'"):
            number = int(uid.split(":")[0])
            present[number] = present.get(number, 0) + 1
        assert set(present.values()) == {7}, "a batch is there as a whole or not at all"
        # A forget that was not acknowledged may have happened all the same.
        maybe = {n - 4 for n in range(max(acknowledged) + 2) if n % 9 == 8}
        assert acknowledged - maybe <= set(present)
        assert not forgotten & set(present)
        orphans = run(
            "SELECT count(*) FROM record WHERE kind <> 'episode' AND id NOT IN (SELECT record FROM source)"
        ).fetchone()[0]
        assert orphans == 0, "every derived row points to its episodes"
        open_homes = run(
            "SELECT count(*) FROM fact f JOIN record r ON r.id = f.record"
            " WHERE f.relation = 'LIVES_IN' AND r.invalid_at IS NULL"
        ).fetchone()[0]
        assert open_homes == 1, "Ann lives in one place"
        memory.embed_pending()
        unindexed = run(
            "SELECT count(*) FROM record r LEFT JOIN passage p ON p.record = r.id"
            " LEFT JOIN vector v ON v.passage = p.id WHERE v.id IS NULL"
        ).fetchone()[0]
        assert unindexed == 0, "indexes agree with rows"
        newest = max(present)
        assert memory.recall(f"City{newest}", k=1)[0].id == f"{newest}:6"


def test_kills_while_a_full_space_evicts_and_forgets(tmp_path: Path):
    path = tmp_path / "a.db"
    with Memory.open(path, embedder=HashEmbedder(), disk_budget=LIMIT, organizer="plain") as memory:
        first = 0
        while memory.add(batch(first)).evicted is None:
            first += 1
        first += 1
    chance = random.Random(1)
    said: dict[str, set[int]] = {"added": set(), "evicted": set(), "forgot": set()}
    for _ in range(15):
        writer = subprocess.Popen(
            [sys.executable, "-m", "tests.longterm.evicting_writer", str(path), str(first)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        lines = [writer.stdout.readline() for _ in range(chance.randrange(9))]
        time.sleep(chance.uniform(0, 0.03))
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
        writer.stdout.close()
        writer.wait()
        for line in lines:
            if line.endswith("\n"):
                what, number = line.split()
                said[what].add(int(number))
                first = max(first, int(number) + 1)
        first += 1  # the one after may or may not have been committed before the kill
        with sqlite3.connect(path) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        raw.close()
    assert said["evicted"] and said["forgot"], "kills came after evictions and after forgetting"

    with Memory.open(path, embedder=HashEmbedder(), organizer="plain") as memory:
        assert memory.check() == [] and memory.limits().used <= LIMIT
        run = memory.store.connection.execute
        here = {row[0] for row in run("SELECT uid FROM record")}
        made = run("SELECT seq FROM sqlite_sequence WHERE name = 'record'").fetchone()[0]
        evicted = run("SELECT sum(episodes) FROM eviction").fetchone()[0]
        forgotten = made - len(here) - evicted
        assert len(said["forgot"]) * SIZE // 10 <= forgotten <= (len(said["forgot"]) + 15) * SIZE // 10
        assert made % SIZE == 0, "a batch is there as a whole or not at all"
        newest = max(int(uid.split(":")[0]) for uid in here)
        last = {uid for uid in here if uid.startswith(f"{newest}:")}
        assert len(last) in (SIZE, SIZE - SIZE // 10), "what was added last was not evicted"
        files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        for number in said["forgot"]:
            assert f"marker{number}x".encode() not in files
        memory.maintain(prune=True)
        files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        for number in range(newest):
            if not any(uid.startswith(f"{number}:") for uid in here):
                assert f"marker{number}x".encode() not in files
        quick = [(hit.id, hit.score) for hit in memory.recall(f"turn {newest} subject 3", k=20)]
        memory._indexes.clear()
        assert quick == [(hit.id, hit.score) for hit in memory.recall(f"turn {newest} subject 3", k=20)]
