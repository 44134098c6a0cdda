"""A process that adds episodes until it is killed, and prints the number of each batch that `add` acknowledged."""

import sys

from memspan import Episode, Memory
from memspan.longterm.zep import Zep
from tests.longterm.doubles import HashEmbedder, ToyScribe, day


def batch(number: int) -> list[Episode]:
    """Seven turns; every batch moves Ann to another city."""
    turns = [
        Episode(f"small talk {number} {i}", "Bo", day(number + 1), f"s{number}", f"{number}:{i}") for i in range(6)
    ]
    return [*turns, Episode(f"Ann lives in City{number}", "Ann", day(number + 1), f"s{number}", f"{number}:6")]


if __name__ == "__main__":
    path, first = sys.argv[1], int(sys.argv[2])
    with Memory.open(path, organizer=Zep(ToyScribe()), embedder=HashEmbedder()) as memory:
        for number in range(first, first + 10_000):
            memory.add(batch(number))
            print(number, flush=True)
            if number % 9 == 8:
                memory.forget(session=f"s{number - 4}")
                print(-number, flush=True)
