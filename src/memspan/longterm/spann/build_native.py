"""Compiles the kernels beside this file: `python build_native.py`.

Run by the wheel's build too, so it needs nothing installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# No contraction: every instruction set must round alike.
FLAGS = ("-O3", "-std=c++17", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden")


def compile_kernels(out: Path = HERE / "_kernels.so") -> Path | None:
    """The library, or None with a word on standard error when there is no compiler or it fails."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        print("memspan: no C++ compiler; the vector index will run in numpy", file=sys.stderr)
        return None
    made = out.with_suffix(f".{os.getpid()}.so")
    done = subprocess.run(
        [compiler, *FLAGS, str(HERE / "native" / "search.cpp"), "-o", str(made)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"memspan: {compiler} failed; the vector index will run in numpy\n{done.stderr}", file=sys.stderr)
        made.unlink(missing_ok=True)
        return None
    made.replace(out)
    return out


if __name__ == "__main__":
    sys.exit(compile_kernels() is None)
