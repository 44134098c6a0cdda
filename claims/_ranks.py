"""Starts processes as the ranks of a training, for claims."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def launch(script: str, ranks: int, *arguments: object) -> Any:
    """Run a script of this folder as so many ranks: `script OUT arguments`; what the first wrote into OUT, as JSON."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="memspan-ranks-") as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, str(Path(__file__).with_name(script)), str(out), *map(str, arguments)]
        shared = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        started = []
        try:
            for rank in range(ranks):
                started.append(subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}))
            for process in started:
                if process.wait() != 0:
                    raise RuntimeError(f"a rank of {script} ended with code {process.returncode}")
        finally:
            for process in started:
                process.kill()
                process.wait()
        return json.loads(out.read_text())
