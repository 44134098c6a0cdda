"""Programs run only when allowed, and reach nothing but their data."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from memspan import InputError
from memspan.longterm.amadeusgpt import (
    CodeNotAllowedError,
    Pose,
    Program,
    ProgramError,
    Sandbox,
    SandboxError,
    demo_pose,
    read_program,
)

LINUX = sys.platform.startswith("linux")
REACH = "import json\n\ndef f(data):\n    reach = json.codecs.sys.modules.__getitem__\n    "


def program(body: str) -> Program:
    """A function whose body can reach every loaded module."""
    return read_program(REACH + body.replace("\n", "\n    "))


def run(body: str, data: object = None, **limits: object) -> object:
    return Sandbox(**limits).run(program(body), data, allow_code=True).value  # type: ignore[arg-type]


def test_nothing_runs_unless_allowed(tmp_path):
    with pytest.raises(CodeNotAllowedError, match="allow_code"):
        Sandbox().run(program("return 1"), None)


def test_data_goes_in_and_results_come_out():
    data = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": [1.5, None, "x", True], "c": {}}
    value = run("return {'a': data['a'] * 2, 'b': data['b'], 'n': np.float64('nan'), 'm': data['a'] > 1}", data)
    assert np.array_equal(value["a"], data["a"] * 2) and value["a"].dtype == np.int16
    assert value["b"] == [1.5, None, "x", True] and value["n"] is None and value["m"].dtype == bool
    assert run("return data[0].shape, np.zeros(0)", [np.zeros((0, 4))])[0] == [0, 4]


def test_a_pose_is_the_same_class_on_both_sides():
    pose = demo_pose()
    mask = Sandbox().run(
        read_program("def f(p): return p.every(p.closest_distance() < 40, p.speed() > 2)"), pose, allow_code=True
    )
    assert np.array_equal(mask.value, pose.every(pose.closest_distance() < 40, pose.speed() > 2))
    assert mask.seconds > 0 and mask.printed == ""


def test_what_it_prints_is_kept_and_cut():
    done = Sandbox().run(program("print('hello'); print('x' * 10**6); return 1"), None, allow_code=True)
    assert done.printed.startswith("hello\nxxx") and len(done.printed) == 10_000


def test_helpers_can_be_called():
    helper = read_program("def twice(x): return 2 * x")
    assert Sandbox().run(read_program("def f(x): return twice(x) + 1"), 4, helpers=[helper], allow_code=True).value == 9


def test_the_environment_is_empty_and_the_folder_is_gone(monkeypatch):
    monkeypatch.setenv("A_SECRET", "hunter2")
    names = run("return list(reach('os').environ)")
    assert set(names) <= {
        "OPENBLAS_NUM_THREADS",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "LC_CTYPE",
        "__CF_USER_TEXT_ENCODING",
    }


FORBIDDEN = {
    "read": "return open(data).read()",
    "write": "open(data + '.new', 'w').write('x')",
    "os.open": "return reach('os').open(data, 0)",
    "io": "return reach('io').FileIO(data).read()",
    "list": "return reach('os').listdir('/')",
    "remove": "reach('os').remove(data)",
    "import": "import datetime as d\nreturn __import__('socket')",
    "fork": "return reach('os').fork()",
    "exec": "reach('os').execv('/bin/true', ['true'])",
    "kill": "reach('os').kill(reach('os').getppid(), 9)",
    "native": "return reach('ctypes').CDLL(None).getppid()",
}


@pytest.mark.parametrize("body", FORBIDDEN.values(), ids=FORBIDDEN)
def test_attempts_to_get_out_are_refused(tmp_path, body):
    target = tmp_path / "secret.txt"
    target.write_text("secret")
    with pytest.raises(ProgramError) as error:
        run(body, str(target))
    assert error.value.kind == "refused"
    assert target.read_text() == "secret" and len(list(tmp_path.iterdir())) == 1


KERNEL = {
    "file": "return reach('os').open(data[0], 0)",
    "socket": "s = reach('_socket').socket()\ns.connect(('127.0.0.1', data[1]))\nreturn 1",
    "fork": "import itertools\nfor _ in itertools.count(): reach('os').fork()",
}


@pytest.mark.skipif(not LINUX, reason="these fences are Linux's")
@pytest.mark.parametrize(
    ("fences", "body"),
    [
        (("seccomp",), "file"),
        (("seccomp",), "socket"),
        (("seccomp",), "fork"),
        (("landlock", "namespaces"), "file"),
        (("landlock", "namespaces"), "socket"),
    ],
)
def test_the_kernel_refuses_without_the_audit_hook(tmp_path, monkeypatch, fences, body):
    from memspan.longterm.amadeusgpt import worker

    target = tmp_path / "secret.txt"
    target.write_text("secret")
    # The worker with sockets loaded, so that only the kernel stands between a program and the network.
    folder = tmp_path / "worker"
    folder.mkdir()
    here = Path(worker.__file__)
    for name in ("fences.py", "kinematics.py"):
        (folder / name).write_text(here.with_name(name).read_text())
    (folder / "worker.py").write_text(here.read_text().replace("import struct\n", "import struct\nimport _socket\n", 1))
    monkeypatch.setattr("memspan.longterm.amadeusgpt.sandbox._WORKER", folder / "worker.py")
    with socket.create_server(("127.0.0.1", 0)) as server:
        sandbox = Sandbox(wall_seconds=20)
        sandbox._fences = fences
        run_it = program(KERNEL[body])
        try:
            sandbox.run(program("return 1"), None, allow_code=True)
        except SandboxError:
            pytest.skip(f"this kernel, or the container around it, does not offer {' and '.join(fences)}")
        with pytest.raises(ProgramError) as error:
            sandbox.run(run_it, [str(target), server.getsockname()[1]], allow_code=True)
        assert error.value.kind in ("refused", "error"), str(error.value)
        assert any(word in str(error.value) for word in ("PermissionError", "OSError", "BlockingIOError"))
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()


def test_without_a_kernel_fence_nothing_runs():
    sandbox = Sandbox()
    sandbox._fences = ("audit_hook",)
    with pytest.raises(SandboxError, match="weak=True"):
        sandbox.run(program("return 1"), None, allow_code=True)
    weak = Sandbox(weak=True)
    weak._fences = ("audit_hook",)
    done = weak.run(program("return 1"), None, allow_code=True)
    assert done.value == 1 and done.fences == ("audit_hook",)
    with pytest.raises(ProgramError, match="not allowed in the sandbox: open"):
        weak.run(program("return open('/etc/passwd')"), None, allow_code=True)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("while True: pass", "cpu"),
        ("reach('time').sleep(60)", "wall"),
        ("x = []\nwhile True: x.append(np.ones(10**6))", "memory"),
        ("while True: reach('os').write(1, b'x' * 10**6)", "output"),
        ("return np.zeros(3 * 10**6)", "output"),
        ("reach('os')._exit(3)", "killed"),
        ("return np.lib.stride_tricks.as_strided(np.zeros(1), (10**9,), (8,)).sum()", "killed"),
        ("return object()", "result"),
        ("x = []\nx.append(x)\nreturn x", "result"),
        ("return np.array(['a'])", "result"),
        ("reach('os').write(1, b'no frame at all')\nreach('os')._exit(0)", "result"),
        ("reach('os').write(1, bytes(7) + b'\\x02{}')\nreach('os')._exit(0)", "result"),
        ("reach('os').write(1, bytes(7) + b'\\x02[]')\nreach('os')._exit(0)", "result"),
        ("return 1 / 0", "error"),
        ("raise SystemExit", "error"),
    ],
)
def test_limits_and_results_that_cannot_be(body, kind):
    begun = time.monotonic()
    limits = {"cpu": {"cpu_seconds": 1, "wall_seconds": 60.0}, "wall": {"wall_seconds": 1.5}}.get(kind, {})
    with pytest.raises(ProgramError) as error:
        run(body, memory=64 * 2**20, max_output=16 * 2**20, **limits)
    assert error.value.kind == kind, str(error.value)
    assert time.monotonic() - begun < 60


def test_an_error_names_its_line():
    with pytest.raises(ProgramError, match=r"f, line 5: ZeroDivisionError: division by zero"):
        run("return 1 / 0")


@pytest.mark.parametrize("data", [float("nan"), {1, 2}, object(), np.array(["a"]), [np.array([None])]])
def test_data_that_cannot_be_passed(data):
    with pytest.raises(InputError):
        Sandbox().run(program("return 1"), data, allow_code=True)


@pytest.mark.parametrize("limits", [{"cpu_seconds": 0}, {"wall_seconds": 0}, {"memory": 5}, {"max_output": 1}])
def test_limits_that_cannot_be(limits):
    with pytest.raises(InputError, match="a sandbox needs"):
        Sandbox(**limits)


def test_no_thread_can_be_started():
    with pytest.raises(ProgramError, match=r"not allowed|start new thread"):
        run("reach('_thread').start_new_thread(print, ())")


def test_no_process_and_no_folder_is_left_behind(monkeypatch):
    started = []

    class Watched(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append((self.pid, Path(options["cwd"])))
            assert started[0][1].is_dir()

    monkeypatch.setattr(subprocess, "Popen", Watched)
    with pytest.raises(ProgramError):
        run("while True: pass", cpu_seconds=1, wall_seconds=0.5)
    [(pid, folder)] = started
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
    assert not folder.exists()


def test_a_large_track_passes():
    xy = np.random.default_rng(0).normal(size=(20_000, 3, 8, 2)) * 100
    pose = Pose(xy, ("a", "b", "c"), tuple("abcdefgh"))
    assert Sandbox().run(read_program("def f(p): return len(p)"), pose, allow_code=True).value == 20_000
