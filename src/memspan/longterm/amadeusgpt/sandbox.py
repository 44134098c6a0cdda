"""Running a stored program: only when allowed, in a process of its own, inside limits and fences.

What it is given goes in through a pipe and what it returns comes back through one; nothing is pickled.

Kept by the kernel: CPU seconds, wall time, address space, file size 0, no open files beside the pipes, no new
processes, an empty environment and an empty temporary working directory; user, network, IPC and mount namespaces of its
own; Landlock (no file); and a seccomp filter that answers every call but some thirty that computing needs with EPERM. A
second fence inside Python, an audit hook, gives clear messages.

What this does not stop:
- a bug of the kernel in one of the calls that stay allowed, and what a processor gives away by its timing or caches;
- using up the CPU seconds and the memory that were allowed;
- a result that is wrong, or made to mislead: it is checked to be data of the right form, not to be true;
- reading what the process itself holds: the data that was passed, and where Python is installed;
- anything at all where neither seccomp (Linux on x86-64 or arm64) nor Landlock with namespaces is to be had: there
  only the audit hook and some of the limits stand, which a program made for it can get around. Programs are refused on
  such a machine unless `weak=True`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np

from memspan.core.errors import InputError
from memspan.longterm.amadeusgpt.errors import CodeNotAllowedError, ProgramError, SandboxError
from memspan.longterm.amadeusgpt.kinematics import Pose
from memspan.longterm.amadeusgpt.programs import Program

FENCES = ("namespaces", "nproc", "landlock", "seccomp", "audit_hook")
_WORKER = Path(__file__).with_name("worker.py")
_NUMBERS = "biuf"
_HEADER = 4 * 2**20  # most bytes of a result's JSON part


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a program returned.

    Attributes:
        value: numbers, text, lists, mappings, and numpy arrays of numbers.
        printed: the first 10,000 characters that it printed.
        fences: the ones that stood.
        seconds: wall time, starting the process included.
    """

    value: Any
    printed: str
    fences: tuple[str, ...]
    seconds: float


class Sandbox:
    """Runs programs in processes of their own.

    Args:
        cpu_seconds: of processor time, whole seconds.
        wall_seconds: from the start of the process to its end.
        memory: bytes beside what Python and numpy take.
        max_output: bytes of a result.
        weak: run also where the kernel offers no fence (see above).

    Raises:
        InputError: a limit that cannot be.
    """

    def __init__(
        self,
        *,
        cpu_seconds: int = 10,
        wall_seconds: float = 30.0,
        memory: int = 512 * 2**20,
        max_output: int = 64 * 2**20,
        weak: bool = False,
    ) -> None:
        if cpu_seconds < 1 or not wall_seconds > 0 or memory < 2**20 or max_output < 1024:
            raise InputError(
                "a sandbox needs at least 1 CPU second, some wall time, 1 MiB of memory and 1 KiB of output"
            )
        self.cpu_seconds = int(cpu_seconds)
        self.wall_seconds = float(wall_seconds)
        self.memory = int(memory)
        self.max_output = int(max_output)
        self.weak = weak
        self._fences = FENCES

    def run(self, program: Program, data: Any, *, helpers: Sequence[Program] = (), allow_code: bool = False) -> Run:
        """Call the program's function with the data.

        Args:
            program: what to run.
            data: a `Pose`, or numbers, text, lists, mappings and numpy arrays of numbers.
            helpers: programs that this one may call by their functions' names.
            allow_code: the caller allows stored code to run.

        Raises:
            CodeNotAllowedError: `allow_code` is False.
            InputError: the data cannot be passed.
            ProgramError: it failed, broke a limit or a rule, or returned what cannot be used.
            SandboxError: the process cannot be started, or no kernel fence is to be had here.
        """
        if not allow_code:
            raise CodeNotAllowedError(f"the program {program.signature}")
        arrays: list[np.ndarray[Any, Any]] = []
        given = asdict_of_pose(data) if isinstance(data, Pose) else data
        job = {
            "data": _pack(given, arrays),
            "as_pose": isinstance(data, Pose),
            "arrays": [{"dtype": array.dtype.str, "shape": list(array.shape)} for array in arrays],
            "sources": [*(helper.source for helper in helpers), program.source],
            "function": program.name,
            "paths": [str(Path(np.__file__).parents[1])],
            "cpu_seconds": self.cpu_seconds,
            "memory": self.memory,
            "fences": list(self._fences),
            "weak": self.weak,
        }
        text = json.dumps(job, allow_nan=False).encode()
        frame = b"".join([struct.pack("!Q", len(text)), text, *(array.tobytes() for array in arrays)])
        begun = time.monotonic()
        out, err, code = self._process(frame, begun)
        header, raw = _frame(out, err, code, self)
        if header.get("no_fence"):
            raise SandboxError(
                "this machine offers neither seccomp nor Landlock with namespaces, so a program could not be held;"
                " Sandbox(weak=True) runs it behind Python's own audit hook alone"
            )
        if isinstance(error := header.get("error"), Mapping):
            line = f", line {error['line']}" if isinstance(error.get("line"), int) else ""
            raise ProgramError(
                f"{program.name}{line}: {error.get('type')}: {error.get('message')}", str(error.get("kind", "error"))
            )
        return Run(
            value=_result(header, raw),
            printed=str(header.get("printed", ""))[:10_000],
            fences=tuple(name for name in FENCES if name in header.get("fences", ())),
            seconds=time.monotonic() - begun,
        )

    def _process(self, frame: bytes, begun: float) -> tuple[bytes, bytes, int]:
        """Feed the worker and read what it writes, until it ends or breaks a limit."""
        with tempfile.TemporaryDirectory(prefix="memspan-sandbox-") as folder:
            try:
                child = subprocess.Popen(
                    [sys.executable, "-I", "-B", str(_WORKER)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=folder,
                    env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                    start_new_session=True,
                )
            except OSError as error:
                raise SandboxError(f"no process could be started for the program: {error}") from error
            try:
                return self._exchange(child, frame, begun)
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                for pipe in (child.stdin, child.stdout, child.stderr):
                    if pipe is not None:
                        with contextlib.suppress(BrokenPipeError):
                            pipe.close()

    def _exchange(self, child: subprocess.Popen[bytes], frame: bytes, begun: float) -> tuple[bytes, bytes, int]:
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        kept: dict[int, bytearray] = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
        most = {child.stdout.fileno(): self.max_output + _HEADER, child.stderr.fileno(): 2**16}
        left = memoryview(frame)
        os.set_blocking(child.stdin.fileno(), False)
        with selectors.DefaultSelector() as waiting:
            waiting.register(child.stdin, selectors.EVENT_WRITE)
            waiting.register(child.stdout, selectors.EVENT_READ)
            waiting.register(child.stderr, selectors.EVENT_READ)
            while waiting.get_map():
                remaining = begun + self.wall_seconds - time.monotonic()
                if remaining <= 0:
                    raise ProgramError(f"the program took longer than {self.wall_seconds:g} s", "wall")
                for key, _ in waiting.select(remaining):
                    if key.fileobj is child.stdin:
                        with contextlib.suppress(BlockingIOError, BrokenPipeError):
                            left = left[os.write(key.fd, left[: 2**16]) :]
                            if left:
                                continue
                        if not left or child.poll() is not None:
                            waiting.unregister(child.stdin)
                            with contextlib.suppress(BrokenPipeError):
                                child.stdin.close()
                        continue
                    part = os.read(key.fd, 2**16)
                    kept[key.fd] += part
                    if not part:
                        waiting.unregister(key.fileobj)
                    elif len(kept[key.fd]) > most[key.fd]:
                        raise ProgramError(f"the program wrote more than {self.max_output:,} bytes", "output")
        try:
            code = child.wait(max(0.1, begun + self.wall_seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise ProgramError(f"the program took longer than {self.wall_seconds:g} s", "wall") from None
        return bytes(kept[child.stdout.fileno()]), bytes(kept[child.stderr.fileno()]), code


def asdict_of_pose(pose: Pose) -> dict[str, Any]:
    """The fields of a pose, as they are passed to the worker."""
    assert is_dataclass(pose)
    return {name: getattr(pose, name) for name in pose.__dataclass_fields__ if not name.startswith("_")}


def _pack(value: Any, arrays: list[np.ndarray[Any, Any]], where: str = "the data") -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _NUMBERS:
            raise InputError(f"{where}: an array of {value.dtype} cannot be passed to a program; use numbers")
        arrays.append(np.ascontiguousarray(value))
        return {"$array": len(arrays) - 1}
    if isinstance(value, Mapping):
        return {str(key): _pack(item, arrays, f"{where}, {key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item, arrays, f"{where}, {place}") for place, item in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return _pack(asdict(value), arrays, where)
    if isinstance(value, float) and not isfinite(value):
        raise InputError(f"{where}: {value} is no JSON number; pass it in an array")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"{where}: a {type(value).__name__} cannot be passed to a program")


def _frame(out: bytes, err: bytes, code: int, limits: Sandbox) -> tuple[Mapping[str, Any], bytes]:
    """Header and arrays of what the worker wrote, or what its end means."""
    if code == -signal.SIGXCPU:
        raise ProgramError(f"the program took more than {limits.cpu_seconds} s of processor time", "cpu")
    last = err.decode(errors="replace").strip().splitlines()[-1:] or [""]
    if code < 0:
        # The kernel's limit on the processor ends with SIGKILL one second later where SIGXCPU was held back.
        raise ProgramError(f"the program was ended by {signal.Signals(-code).name} {last[0]}".strip(), "killed")
    if len(out) < 8:
        kind = "memory" if "MemoryError" in last[0] else "killed"
        raise ProgramError(f"the program ended without a result (exit code {code}) {last[0]}".strip(), kind)
    (size,) = struct.unpack("!Q", out[:8])
    if size > min(len(out) - 8, _HEADER):
        raise ProgramError("the program wrote something that is no result", "result")
    try:
        header = json.loads(out[8 : 8 + size])
    except (ValueError, RecursionError):
        raise ProgramError("the program wrote something that is no result", "result") from None
    if not isinstance(header, dict):
        raise ProgramError("the program wrote something that is no result", "result")
    return header, out[8 + size :]


def _result(header: Mapping[str, Any], raw: bytes) -> Any:
    """The value, every part of it checked: the process may have written anything."""
    arrays, at = [], 0
    try:
        for spec in header["arrays"]:
            dtype, shape = np.dtype(str(spec["dtype"])), tuple(int(n) for n in spec["shape"])
            size = prod(shape) * dtype.itemsize
            if dtype.kind not in _NUMBERS or min(shape, default=0) < 0 or at + size > len(raw):
                raise ValueError("not an array of numbers")
            arrays.append(np.frombuffer(raw, dtype, prod(shape), at).reshape(shape).copy())
            at += size
        if at != len(raw):
            raise ValueError("bytes are left over")
        return _unpack(header["result"], arrays)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RecursionError) as error:
        raise ProgramError(f"the program wrote something that is no result ({error})", "result") from None


def _unpack(value: Any, arrays: Sequence[np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"$array"}:
            return arrays[value["$array"]]
        return {str(key): _unpack(item, arrays) for key, item in value.items()}
    return [_unpack(item, arrays) for item in value] if isinstance(value, list) else value
