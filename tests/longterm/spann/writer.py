"""A process that writes to an index until it is killed; it says a line before and after each call."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from memspan.longterm.spann import VectorIndex

DIM = 16


def row(id: int, version: int) -> np.ndarray:
    """The vector of a version of an id; versions of all ids differ."""
    return np.random.default_rng([id, version]).standard_normal(DIM).astype(np.float32)


def main(path: str, seed: int, first: int) -> None:
    rng = np.random.default_rng(seed)
    index = VectorIndex.open(Path(path))
    version, known = first, list(range(0, 2000))
    while True:
        version += 1
        draw = rng.random()
        if draw < 0.55:
            ids = np.arange(version * 1000, version * 1000 + int(rng.integers(1, 150)))
            call, known = "add", [*known[-5000:], *ids.tolist()]
        elif draw < 0.75:
            ids, call = rng.choice(known, 40, replace=False), "upsert"
        elif draw < 0.9:
            ids, call = rng.choice(known, 30, replace=False), "delete"
        else:
            call = "flush" if draw < 0.95 else "compact" if draw < 0.97 else "background"
            ids = np.zeros(0, np.int64)
        words = f"{version} {' '.join(map(str, ids.tolist()))}"
        print(f"try {call} {words}", flush=True)
        if call in ("add", "upsert"):
            index.add(ids, np.stack([row(int(i), version) for i in ids]), upsert=call == "upsert")
        elif call == "delete":
            index.delete(ids)
        elif call == "flush":
            index.flush()
        else:
            # In the background the changes that follow are made while it is under way.
            index.compact(progress=False, background=call == "background")
        print(f"done {call} {words}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
