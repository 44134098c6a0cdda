"""Compiles the kernels beside this file: `python build_native.py`.

Run by the wheel's build too, so it needs nothing installed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

HERE = Path(__file__).parent
# No contraction: every instruction set must round alike.
FLAGS = ("-O3", "-std=c++17", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden")


def source_crc() -> int:
    """CRC-32 of the native sources: a library that was made from others is not used."""
    crc = 0
    for path in sorted((HERE / "native").iterdir()):
        crc = zlib.crc32(path.read_bytes(), crc)
    return crc


def compile_kernels(out: Path = HERE / "_kernels.so") -> Path | None:
    """The library, or None with a word on standard error when there is no compiler or it fails."""
    named = shlex.split(os.environ.get("CXX", ""))
    compiler = named or [found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))][:1]
    made = out.with_suffix(f".{os.getpid()}.so")
    sources = map(str, sorted((HERE / "native").glob("*.cpp")))
    command = [*compiler, *FLAGS, f"-DSPANN_SOURCE_CRC={source_crc()}u", *sources, "-o", str(made)]
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
