"""What goes first when a space is full."""

from __future__ import annotations

import numpy as np

from memspan import Episode, Memory
from memspan.longterm.evict import candidates
from memspan.longterm.zep import Zep
from tests.longterm.doubles import ToyScribe, day

TALK = [
    Episode("Hey! Good to see you!", "Ann", id="greeting"),
    Episode("Hi! How are you doing?", "Bo", id="question"),
    Episode("We adopted a beagle called Biscuit from the shelter in Porto.", "Ann", id="telling"),
    Episode("Good to hear! Great!", "Bo", id="reply"),
    Episode("Always answer in French when I ask for a recipe.", "Ann", id="rule"),
]


def values(memory: Memory) -> dict[str, float]:
    with memory.store.read(memory._now()) as tx:
        found = candidates(tx)
        rows = tx.records(found.records.tolist())
        return {rows[r]["uid"]: float(v) for r, v in zip(found.records.tolist(), found.values, strict=True)}


def filler(count: int) -> list[Episode]:
    return [Episode(f"Good to see you, {n % 7} times great.", id=f"f{n}") for n in range(count)]


def test_greetings_and_questions_go_before_what_tells_something():
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add([*TALK, *filler(60)])
        found = values(memory)
        assert found["rule"] > found["telling"] > max(found["greeting"], found["question"], found["reply"])


def test_of_two_that_say_the_same_the_earlier_goes():
    text = "The dentist moved the appointment to the ninth of March at noon"
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add([Episode(f"{text}.", id="one"), *TALK, Episode(f"{text}!", id="two"), *filler(30)])
        found = values(memory)
        assert found["one"] < 0.2 * found["two"]


def test_long_answers_of_an_assistant_go_before_what_a_user_says():
    long = " ".join(f"advice{n} about gardens" for n in range(200))
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(
            [
                Episode("My garden faces north and is shady.", metadata={"role": "user"}, id="said"),
                Episode(long, metadata={"role": "assistant"}, id="answered"),
            ]
        )
        assert values(memory)["said"] > values(memory)["answered"]


def test_use_keeps_and_pins_are_no_candidates():
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add([Episode(f"A note on subject number {n}.", id=f"n{n}") for n in range(4)])
        memory.add(Episode("Kept for good.", id="pinned", metadata={"pinned": True}))
        with memory.store.write(1) as tx:
            tx.execute("UPDATE record SET strength = 3 WHERE uid = 'n2'")
        found = values(memory)
        assert "pinned" not in found and max(found, key=lambda uid: found[uid]) == "n2"


def test_what_was_derived_from_an_evicted_episode_alone_goes_with_it():
    with Memory.open(":memory:", organizer=Zep(ToyScribe()), embedder=None) as memory:
        memory.add([Episode("Ann likes Tea", at=day(1), id="tea"), Episode("Bo likes Jazz", at=day(2), id="jazz")])
        memory.add([Episode(f"{'word ' * 40}{n}", id=f"p{n}", metadata={"pinned": True}) for n in range(20)])
        used = memory.limits().used
        memory.limits(disk=int(0.85 * used))
        assert memory.stats()["evicted"]["derived"] > 0
        rows = memory.store.connection.execute("SELECT uid FROM record WHERE kind = 'episode'").fetchall()
        assert len(rows) < 22 and memory.check() == []
        orphans = memory.store.connection.execute(
            "SELECT count(*) FROM record WHERE kind <> 'episode' AND id NOT IN (SELECT record FROM source)"
        ).fetchone()[0]
        assert orphans == 0


def test_the_order_is_the_same_in_every_process():
    found = []
    for _ in range(2):
        with Memory.open(":memory:", embedder=None, now=lambda: day(40), organizer="plain") as memory:
            memory.add([*TALK, *filler(200)])
            found.append(values(memory))
    assert found[0] == found[1] and np.isfinite(list(found[0].values())).all()
