"""A process that adds to a full space until it is killed, and forgets a session now and then; says what is done."""

import sys

from memspan import Episode, Memory
from tests.longterm.doubles import HashEmbedder

SIZE = 40
LIMIT = 3_000_000


def batch(number: int) -> list[Episode]:
    """Turns of which one in ten belongs to a session with a word of its own."""
    return [
        Episode(
            f"turn {number} {i} of marker{number}x"
            if i % 10 == 0
            else f"turn {number} {i} about subject {i % 7} " * 12,
            session=f"secret{number}" if i % 10 == 0 else f"s{number}",
            id=f"{number}:{i}",
            metadata={"pinned": i % 10 == 0 and number % 5 == 4},  # what is forgotten below is not evicted before
        )
        for i in range(SIZE)
    ]


if __name__ == "__main__":
    path, first = sys.argv[1], int(sys.argv[2])
    with Memory.open(path, embedder=HashEmbedder(), disk_budget=LIMIT, organizer="plain") as memory:
        print("ready", flush=True)
        for number in range(first, first + 10_000):
            print("added" if memory.add(batch(number)).evicted is None else "evicted", number, flush=True)
            if number % 5 == 4:
                memory.forget(session=f"secret{number}")
                print("forgot", number, flush=True)
