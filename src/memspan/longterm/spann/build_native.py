"""Compiles the kernels beside this file: `python build_native.py`.

Run by the wheel's build too, so it needs nothing installed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# No contraction: every instruction set must round alike.
FLAGS = ("-O3", "-std=c++17", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden")


def compile_kernels(out: Path = HERE / "_kernels.so") -> Path | None:
    """The library, or None with a word on standard error when there is no compiler or it fails."""
    named = shlex.split(os.environ.get("CXX", ""))
    compiler = named or [found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))][:1]
    made = out.with_suffix(f".{os.getpid()}.so")
    command = [*compiler, *FLAGS, str(HERE / "native" / "search.cpp"), "-o", str(made)]
    try:
        failure = None if compiler else "there is no C++ compiler (on Debian: apt-get install g++)"
        if not failure and (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
            failure = f"{shlex.join(command)} failed: {' '.join(done.stderr.split())[:300]}"
    except OSError as e:
        failure = f"{compiler[0]} cannot be run ({e.strerror})"
    if failure:
        made.unlink(missing_ok=True)
        print(f"memspan: the vector index will run in numpy, slower: {failure}", file=sys.stderr)
        return None
    made.replace(out)
    return out


if __name__ == "__main__":
    sys.exit(compile_kernels() is None)
