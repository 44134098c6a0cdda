"""Starts the ranks of a training as torchrun does, without the process that watches over them, and ends them.

Ranks are forked from one process that has imported what they need: imports were more than half of their work.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import socket
import sys
import time
import warnings
from pathlib import Path
from typing import Any

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["tests.training.zero_ranks", "tests.training.sequence_ranks", "transformers.models.llama.modeling_llama"]
)


def rank(module: str, out: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    """What `python -W error -m module OUT arguments` does, its words beside OUT."""
    log = os.open(out.with_suffix(f".{environment['RANK']}.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.update(environment)
    sys.argv = [module, str(out), *arguments]
    warnings.simplefilter("error")
    importlib.import_module(module).main()


def launch(module: str, ranks: int, out: Path, *arguments: str, seconds: float = 300) -> Any:
    """Call `main()` of a module as so many ranks, each a process; what the first wrote into OUT, as JSON.

    A rank that fails ends the others, and its words are in the error.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = []
    end = time.monotonic() + seconds
    try:
        for number in range(ranks):
            environment = {**shared, "RANK": str(number), "LOCAL_RANK": str(number)}
            started.append(PROCESSES.Process(target=rank, args=(module, out, arguments, environment)))
            started[-1].start()
        for process in started:
            process.join(max(0.0, end - time.monotonic()))
            if process.exitcode != 0:
                break
    finally:
        for process in started:
            process.kill()
            process.join()
    said = {number: out.with_suffix(f".{number}.log").read_text() for number in range(ranks)}
    assert all(process.exitcode == 0 for process in started), said
    return json.loads(out.read_text())
