"""The process in which a program runs: read a job, put up the fences, run, write one frame, end.

Started by path as `python -I -B worker.py`, never imported. A frame is eight bytes of length, a JSON header, and the
raw bytes of the arrays that the header describes.
"""

from __future__ import annotations

import collections
import datetime
import functools
import importlib.util
import io
import itertools
import json
import math
import os
import re
import statistics
import struct
import sys
import types
import typing

_PRELOADED = (collections, datetime, functools, itertools, math, re, statistics, typing)
_PRINTED = 10_000  # characters of what a program prints that are kept
_DEPTH = 12
_here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 (as few imports as possible)


def _beside(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, os.path.join(_here, f"{name}.py"))  # noqa: PTH118
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class _Printed(io.StringIO):
    """Keeps the first characters and drops the rest."""

    def write(self, text: str) -> int:
        room = _PRINTED - self.tell()
        if room > 0:
            super().write(text[:room])
        return len(text)


class _Unusable(Exception):
    """A result that cannot be handed over."""


def _read(stream: typing.BinaryIO) -> tuple[dict[str, typing.Any], bytes]:
    (size,) = struct.unpack("!Q", stream.read(8))
    header = json.loads(stream.read(size))
    return header, stream.read()


def _unpack(value: typing.Any, arrays: list[typing.Any]) -> typing.Any:
    if isinstance(value, dict):
        if set(value) == {"$array"}:
            return arrays[value["$array"]]
        return {key: _unpack(item, arrays) for key, item in value.items()}
    return [_unpack(item, arrays) for item in value] if isinstance(value, list) else value


def _pack(value: typing.Any, arrays: list[typing.Any], np: types.ModuleType, depth: int = 0) -> typing.Any:
    if depth > _DEPTH:
        raise _Unusable("it is nested too deeply")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise _Unusable(f"an array of {value.dtype} is not numbers")
        arrays.append(np.ascontiguousarray(value))
        return {"$array": len(arrays) - 1}
    if isinstance(value, dict):
        return {str(key): _pack(item, arrays, np, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item, arrays, np, depth + 1) for item in value]
    raise _Unusable(f"a {type(value).__name__} is neither numbers, text, list nor mapping")


def _line_of(error: BaseException) -> int | None:
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith("<program"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _kind_of(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    refused = isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno in (1, 13, 24))
    return "refused" if refused else "result" if isinstance(error, _Unusable) else "error"


def main() -> None:
    """Run one job."""
    stdin, out = sys.stdin.buffer, sys.stdout.fileno()
    job, raw = _read(stdin)
    fences = _beside("fences")
    up = []
    if "namespaces" in job["fences"] and fences.namespaces():  # before numpy, which may start threads
        up.append("namespaces")
    for path in job["paths"]:
        if path not in sys.path:
            sys.path.append(path)
    import numpy as np
    import numpy.fft
    import numpy.lib.stride_tricks
    import numpy.linalg
    import numpy.ma
    import numpy.polynomial
    import numpy.random

    kinematics = _beside("kinematics")
    arrays, at = [], 0
    for spec in job["arrays"]:
        dtype, shape = np.dtype(spec["dtype"]), tuple(spec["shape"])
        count = math.prod(shape)
        arrays.append(np.frombuffer(raw, dtype, count, at).reshape(shape).copy())
        at += count * dtype.itemsize
    data = _unpack(job["data"], arrays)
    if job["as_pose"]:
        data = kinematics.Pose(**data)
    del raw
    printed = _Printed()
    sys.stdout = printed
    os.close(0)
    os.closerange(3, 4096)
    fences.limits(job["cpu_seconds"], job["memory"], processes="nproc" in job["fences"])
    if fences.no_new_privileges():
        up += [name for name in ("landlock", "seccomp") if name in job["fences"] and getattr(fences, name)()]
    enough = "seccomp" in up or {"landlock", "namespaces"} <= set(up)
    if "audit_hook" in job["fences"] and fences.audit_hook():
        up.append("audit_hook")
    header: dict[str, typing.Any] = {"fences": up}
    found: list[typing.Any] = []
    if not enough and not job["weak"]:
        header["no_fence"] = True
    else:
        try:
            scope: dict[str, typing.Any] = {"__name__": "program", "np": np, "numpy": np, "math": math}
            for number, source in enumerate(job["sources"]):
                exec(compile(source, f"<program {number}>", "exec"), scope)
            header["result"] = _pack(scope[job["function"]](data), found, np)
        except BaseException as error:
            found.clear()
            header["error"] = {
                "type": type(error).__name__,
                "message": str(error)[:500],
                "line": _line_of(error),
                "kind": _kind_of(error),
            }
    header["printed"] = printed.getvalue()
    header["arrays"] = [{"dtype": array.dtype.str, "shape": list(array.shape)} for array in found]
    text = json.dumps(header).encode()
    for part in (struct.pack("!Q", len(text)), text, *(array.tobytes() for array in found)):
        view = memoryview(part)
        while view:
            view = view[os.write(out, view) :]
    os._exit(0)


if __name__ == "__main__":
    main()
