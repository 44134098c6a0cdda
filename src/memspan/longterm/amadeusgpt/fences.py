"""The fences around a program's process, put up from inside it before the program starts.

Stands alone: the sandbox's worker loads this file by its path and nothing else of memspan. Every fence is kept by the
kernel and cannot be taken down again by the process, except the audit hook, which a program that reaches native code
can get around.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from typing import Any

# Calls that computing needs, and no other: no file, no socket, no process, no signal to others. In this order:
# read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn mremap madvise
# nanosleep getpid exit gettimeofday getrusage times gettid futex sched_getaffinity restart_syscall clock_gettime
# clock_getres clock_nanosleep exit_group getrandom sched_yield sigaltstack membarrier rseq. The numbers are Linux's
# (asm/unistd_64.h, asm-generic/unistd.h), behind the processor's audit code.
_NUMBERS = {
    "x86_64": (
        0xC000003E,
        "0 1 3 5 8 9 10 11 12 13 14 15 25 28 35 39 60 96 98 100 186 202 204 219 228 229 230 231 318 24 131 324 334",
    ),
    "aarch64": (
        0xC00000B7,
        "63 64 57 80 62 222 226 215 214 134 135 139 216 233 101 172 93 169 165 153 178 98 123 128 113 114 115 94 278"
        " 124 132 283 293",
    ),
}
_NEW_NAMESPACES = 0x10000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x00020000  # user, net, ipc, uts, mount
_REFUSED_EVENTS = (
    "open os. socket. subprocess. ctypes. import shutil. sqlite3. mmap. signal. pty. fcntl. resource. syslog. tempfile."
    " glob. pathlib. _thread. sys.addaudithook sys.settrace sys.setprofile sys.unraisablehook urllib. http. ftplib."
    " smtplib. imaplib. poplib. telnetlib. nntplib. webbrowser. gc. faulthandler. cpython._PySys_ClearAuditHooks"
)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def namespaces() -> bool:
    """An own user, network, IPC, host name and mount namespace: no route to any network, not even to this machine."""
    if not sys.platform.startswith("linux"):
        return False
    return bool(_libc().unshare(_NEW_NAMESPACES) == 0)


def limits(cpu_seconds: int, memory: int, *, processes: bool = True) -> None:
    """Bounds that hold from here on; `memory` is on top of what the process has mapped already."""
    wanted = {
        "RLIMIT_CPU": (cpu_seconds, cpu_seconds + 1),
        "RLIMIT_AS": (_mapped() + memory,) * 2,
        "RLIMIT_FSIZE": (0, 0),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_NOFILE": (3, 3),
        "RLIMIT_NPROC": (0, 0),
    }
    for name, bounds in wanted.items():
        if not hasattr(resource, name) or (name == "RLIMIT_NPROC" and not processes):
            continue
        try:
            resource.setrlimit(getattr(resource, name), bounds)
        except (ValueError, OSError):
            if sys.platform.startswith("linux"):  # elsewhere some of these bounds cannot be set
                raise


def _mapped() -> int:
    """Bytes of address space in use; 0 where that cannot be read, so that the limit is the stricter."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 (this file imports as little as it can)
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def no_new_privileges() -> bool:
    """No program with more rights can be started; the process dies with its parent and cannot be traced."""
    if not sys.platform.startswith("linux"):
        return False
    libc = _libc()
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    return bool(libc.prctl(38, 1, 0, 0, 0) == 0)  # PR_SET_NO_NEW_PRIVS


def landlock() -> bool:
    """No file can be opened, made or removed, no TCP port bound or reached (Linux 5.13 on, ports from 6.7 on)."""
    if not sys.platform.startswith("linux"):
        return False
    libc = _libc()
    version = libc.syscall(444, None, 0, 1)
    if version < 1:
        return False
    files = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    rules = struct.pack("QQQ", (1 << files) - 1, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    handle = libc.syscall(444, rules, size, 0)
    if handle < 0:
        return False
    done = bool(libc.syscall(446, handle, 0) == 0)
    os.close(handle)
    return done


def seccomp() -> bool:
    """Every system call that computing does not need is answered with EPERM."""
    known = _NUMBERS.get(platform.machine())
    if known is None or not sys.platform.startswith("linux") or struct.calcsize("P") != 8:
        return False
    audit, numbers = known[0], [int(number) for number in known[1].split()]
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | 1, 0x80000000
    steps = [(0x20, 0, 0, 4), (0x15, 1, 0, audit), (0x06, 0, 0, kill), (0x20, 0, 0, 0)]
    for place, number in enumerate(numbers):
        steps.append((0x15, len(numbers) - place, 0, number))
    steps += [(0x06, 0, 0, refuse), (0x06, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code))
    return bool(_libc().prctl(22, 2, program, 0, 0) == 0)


def audit_hook() -> bool:
    """Python itself refuses files, sockets, processes, native code and modules that are not loaded yet."""
    refused = tuple(_REFUSED_EVENTS.split())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(refused):
            what = f" {arguments[0]!r}" if event in ("open", "import") and arguments else ""
            raise PermissionError(f"not allowed in the sandbox: {event}{what}")

    sys.addaudithook(hook)
    return True
