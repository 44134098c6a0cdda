"""`memspan index`: what its actions print and leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memspan.cli import main
from tests.longterm.spann.rows import clustered


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = clustered(1300, 16)
    np.save("rows.npy", rows[:1200])
    np.save("more.npy", rows[1200:])
    np.save("ids.npy", np.arange(5000, 5100))
    np.save("queries.npy", rows[1200:1203])
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert main(["index", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_built_added_to_searched_deleted_compacted_and_verified(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert said(capsys, "build", "rows.npy", "ix")["rows"] == 1200
    assert said(capsys, "add", "ix", "more.npy", "--ids", "ids.npy")["rows"] == 1300
    found = said(capsys, "search", "ix", "queries.npy", "-k", "3")
    assert [row[0] for row in found["ids"]] == [5000, 5001, 5002]
    assert found["stats"]["queries"] == 3
    assert said(capsys, "delete", "ix", "5000", "77777") == {"deleted": 1, "rows": 1299}
    assert 5000 not in said(capsys, "search", "ix", "queries.npy", "-k", "3")["ids"][0]
    assert said(capsys, "compact", "ix")["after"] > 0
    assert said(capsys, "verify", "ix") == {"problems": [], "repaired": False}
    assert said(capsys, "stats", "ix")["rows"] == 1299


def test_tables_are_for_reading(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["index", "build", "rows.npy", "ix", "--quiet"]) == 0
    assert "recall of 10 neighbours" in capsys.readouterr().out
    assert main(["index", "search", "ix", "queries.npy", "-k", "2"]) == 0
    out = capsys.readouterr().out
    assert "query  rank" in out and "3 queries in" in out
    assert main(["index", "verify", "ix"]) == 0
    assert capsys.readouterr().out == "nothing is wrong\n"


def test_fvecs_are_read(folder: Path, capsys: pytest.CaptureFixture[str]):
    rows = np.load("rows.npy")
    np.hstack([np.full((len(rows), 1), 16, np.int32).view(np.float32), rows]).tofile("rows.fvecs")
    assert said(capsys, "build", "rows.fvecs", "ix")["rows"] == 1200
    assert said(capsys, "search", "ix", "rows.npy", "-k", "1")["ids"][7] == [7]


@pytest.mark.parametrize(
    ("words", "about"),
    [
        (["build", "nowhere.npy", "ix"], "no such file"),
        (["build", "text.npy", "ix"], "cannot be read as .npy"),
        (["build", "bad.fvecs", "ix"], "no .fvecs file"),
        (["build", "rows.npy", "ix", "--ram-budget", "12 apples"], "apples"),
        (["add", "ix", "more.npy", "--ids", "rows.npy"], "1 dimensions at most"),
    ],
)
def test_bad_input_is_one_line(folder: Path, words: list[str], about: str, capsys: pytest.CaptureFixture[str]):
    Path("text.npy").write_text("no array")
    Path("bad.fvecs").write_bytes(b"\x05\0\0\0\0")
    assert main(["index", *words]) == 2
    error = capsys.readouterr().err
    assert about in error and error.count("\n") == 1 and not Path("ix").exists()


def test_a_damaged_list_is_told_and_repaired(folder: Path, capsys: pytest.CaptureFixture[str]):
    said(capsys, "build", "rows.npy", "ix")
    lists = Path("ix/lists.bin")
    data = bytearray(lists.read_bytes())
    data[100] ^= 255
    lists.write_bytes(bytes(data))
    assert said(capsys, "verify", "ix", code=4)["problems"]
    assert said(capsys, "verify", "ix", "--repair")["repaired"] is True
    assert said(capsys, "verify", "ix")["problems"] == []
