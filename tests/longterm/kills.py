"""A writing process that is killed at a random moment."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def lines_until_killed(module: str, path: Path, first: int, chance: random.Random, longest: float) -> list[str]:
    """What `python -m module path first` acknowledged, in whole lines, before SIGKILL after up to `longest` seconds."""
    writer = subprocess.Popen(
        [sys.executable, "-m", module, str(path), str(first)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert writer.stdout is not None
    lines = [writer.stdout.readline()]  # it is running, not importing
    time.sleep(chance.uniform(0, longest))
    writer.send_signal(signal.SIGKILL)
    lines += writer.stdout.readlines()
    writer.stdout.close()
    writer.wait()
    return [line for line in lines if line.endswith("\n")]
