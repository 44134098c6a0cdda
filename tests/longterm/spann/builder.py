"""Builds an index of rows that the parent names and never ends by itself before it is done: the parent kills it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from memspan.longterm.spann import SpannConfig, VectorIndex, build, index

from .rows import clustered


def config() -> SpannConfig:
    return SpannConfig(cell=200)


def chunks(rows: object):
    for at in range(0, len(rows), 300):
        yield range(at, min(at + 300, len(rows))), rows[at : at + 300]


def main(path: str, after: str, iterator: bool) -> None:
    """Kills itself by SIGKILL in the middle of what `after` names: a stage, "input", "calibrate" or "clear"."""
    die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    rows = clustered(1100, 33)
    if after in build.STAGES:
        encode = getattr(build.Build, f"_{after}")

        def stage(self: build.Build) -> None:
            seen = []

            def report(*_: object) -> None:
                seen.append(1)
                if len(seen) > 1:
                    die()

            self.report = report
            encode(self)
            die()

        setattr(build.Build, f"_{after}", stage)
    elif after == "calibrate":
        index.calibrate = die
    source = chunks(rows) if iterator else rows
    if after == "input":

        def breaking():
            yield from list(chunks(rows))[:2]
            die()

        source = breaking()
    overwrite = after == "clear"
    if overwrite:
        unlink = Path.unlink

        def one(self: Path, missing_ok: bool = False) -> None:
            unlink(self, missing_ok=missing_ok)
            if self.name == "meta.json":
                die()

        Path.unlink = one
    VectorIndex.build(source, path, metric="l2", config=config(), overwrite=overwrite, progress=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] == "iterator")
