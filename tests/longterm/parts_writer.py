"""A process that adds to a store with small parts until it is killed, and forgets a session now and then."""

import sys

from memspan import Episode, Memory
from memspan.longterm import parts
from tests.longterm.doubles import HashEmbedder

if __name__ == "__main__":
    parts.PASSAGES, parts.JOINED = 16, 100
    path, first = sys.argv[1], int(sys.argv[2])
    with Memory.open(path, embedder=HashEmbedder(), organizer="plain") as memory:
        for number in range(first, first + 10_000):
            memory.add(
                [
                    Episode(f"turn {number} {i} about {i % 7}", session=f"s{number}", id=f"{number}:{i}")
                    for i in range(12)
                ]
                + [Episode(f"marker {number}", session=f"secret{number}", id=f"{number}:12")]
            )
            print("added", number, flush=True)
            if number % 6 == 5:
                memory.forget(session=f"secret{number - 2}")
                print("forgot", number - 2, flush=True)
