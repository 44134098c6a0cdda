"""Compiles the packing search beside this file: `python build_native.py`.

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
SOURCE = HERE / "native" / "pack.cpp"
FLAGS = ("-O3", "-std=c++17", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden")


def source_crc() -> int:
    """CRC-32 of the native source: a library that was made from another is not used."""
    return zlib.crc32(SOURCE.read_bytes())


def compile_kernels(out: Path = HERE / "_pack.so") -> Path | None:
    """The library, or None with a word on standard error when there is no compiler or it fails."""
    named = shlex.split(os.environ.get("CXX", ""))
    compiler = named or [found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))][:1]
    made = out.with_suffix(f".{os.getpid()}.so")
    command = [*compiler, *FLAGS, f"-DPACK_SOURCE_CRC={source_crc()}u", str(SOURCE), "-o", str(made)]
    try:
        failure = None if compiler else "there is no C++ compiler (on Debian: apt-get install g++)"
        if not failure and (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
            failure = f"{shlex.join(command)} failed: {' '.join(done.stderr.split())[:300]}"
    except OSError as e:
        failure = f"{compiler[0]} cannot be run ({e.strerror})"
    if failure:
        made.unlink(missing_ok=True)
        print(f"memspan: buffers will be packed in numpy, slower: {failure}", file=sys.stderr)
        return None
    made.replace(out)
    return out


if __name__ == "__main__":
    sys.exit(compile_kernels() is None)
