"""How the kernels are built and found."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from memspan.longterm.spann import build_native, native


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The library is looked for in a directory of the test's own."""
    monkeypatch.delenv("MEMSPAN_NATIVE", raising=False)
    monkeypatch.setattr(native, "library_path", lambda: tmp_path / "_kernels.so")
    native.library.cache_clear()
    yield tmp_path / "_kernels.so"
    native.library.cache_clear()


@pytest.mark.parametrize("compiler", ["/nonexistent/c++", "false"])
def test_a_compiler_that_is_missing_or_fails_is_one_line_and_no_library(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("CXX", compiler)
    assert build_native.compile_kernels(tmp_path / "_kernels.so") is None
    said = capsys.readouterr().err
    assert said.startswith("memspan: the vector index will run in numpy") and said.count("\n") == 1
    assert compiler in said and list(tmp_path.iterdir()) == []


def test_without_any_compiler_the_line_tells_how_to_get_one(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(Path(build_native.__file__))],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "apt-get install g++" in done.stderr


def test_without_a_library_the_index_runs_in_numpy(elsewhere: Path):
    assert not elsewhere.exists() and native.library() is None and native.level() == 0


def test_a_library_that_cannot_be_loaded_is_left_out(elsewhere: Path, caplog: pytest.LogCaptureFixture):
    elsewhere.write_bytes(b"not a library")
    with caplog.at_level(logging.WARNING):
        assert native.library() is None
    assert "install memspan again" in caplog.text


@pytest.mark.usefixtures("compiled")
def test_a_library_of_other_sources_is_left_out(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    shutil.copy(Path(build_native.__file__).with_name("_kernels.so"), elsewhere)
    assert native.library() is not None
    native.library.cache_clear()
    monkeypatch.setattr(native, "source_crc", lambda: build_native.source_crc() ^ 1)
    with caplog.at_level(logging.WARNING):
        assert native.library() is None
    assert "build_native.py" in caplog.text
