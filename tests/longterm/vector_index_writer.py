"""A process that adds to a store with a vector index until it is killed, and forgets a session now and then."""

import sys

from memspan import Episode, Memory
from memspan.longterm import nearest, parts, vector_index
from tests.longterm.doubles import Words


def small() -> None:
    """Sizes at which a store of some hundred turns is a large one."""
    parts.PASSAGES, parts.JOINED = 64, 400
    nearest.SCAN_ALL, vector_index._TAIL = 30, 40


if __name__ == "__main__":
    small()
    path, first = sys.argv[1], int(sys.argv[2])
    with Memory.open(path, embedder=Words(), organizer="plain", index="spann", index_above=100) as memory:
        for number in range(first, first + 10_000):
            memory.add(
                [
                    Episode(
                        f"turn {number} {i} about {(number * 13 + i) % 97}", session=f"s{number}", id=f"{number}:{i}"
                    )
                    for i in range(12)
                ]
                + [Episode(f"marker {number} of ours", session=f"secret{number}", id=f"{number}:12")]
            )
            memory.embed_pending()
            print("added", number, flush=True)
            if number % 3 == 2:
                memory.maintain()  # adds to the index what came since
            if number % 4 == 3:
                memory.forget(session=f"secret{number - 2}")
                print("forgot", number - 2, flush=True)
