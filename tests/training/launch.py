"""Starts the ranks of a training as torchrun does, without the process that watches over them, and ends them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def launch(module: str, ranks: int, out: Path, *arguments: str, seconds: float = 300) -> Any:
    """Run `python -m module OUT arguments` as so many ranks; what the first wrote into OUT, as JSON.

    A rank that fails ends the others, and its words are in the error.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "error", "-m", module, str(out), *arguments]
    started = []
    try:
        for rank in range(ranks):
            log = out.with_suffix(f".{rank}.log").open("w")
            environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append((subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT), log))
        for process, _ in started:
            process.wait(timeout=seconds)
            if process.returncode:
                break
    finally:
        for process, log in started:
            process.kill()
            process.wait()
            log.close()
    said = {rank: out.with_suffix(f".{rank}.log").read_text() for rank in range(ranks)}
    assert all(process.returncode == 0 for process, _ in started), said
    return json.loads(out.read_text())
