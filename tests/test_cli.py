"""The command line: every verb, its JSON, its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memspan.cli import main

CHAT = [
    {"text": "I live in Lisbon.", "speaker": "Ann", "at": "2024-03-01T10:00:00", "session": "s1", "id": "a"},
    {"text": "My dog is called Biscuit.", "speaker": "Bo", "at": "2024-03-01T10:01:00", "session": "s1", "id": "b"},
]


@pytest.fixture
def chat(tmp_path: Path) -> str:
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in CHAT))
    return str(path)


@pytest.fixture
def store(tmp_path: Path, chat: str) -> str:
    path = str(tmp_path / "a.db")
    assert main(["remember", "--store", path, chat, "--organizer", "plain", "--embedder", "none", "--quiet"]) == 0
    return path


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> object:
    capsys.readouterr()
    assert main([*arguments, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def test_ask_answers_with_a_citation_and_the_cost(capsys, chat):
    plain = ("--organizer", "plain", "--embedder", "none", "--model", "none")
    answer = run_json(capsys, "ask", *plain, "--read", chat, "What is Bo's dog called?")
    assert "Biscuit" in answer["text"] and answer["citations"][0]["episode"] == "b" and not answer["abstained"]
    assert answer["budget"] == 2**30 and answer["cost"]["process_rss"] > 10**7
    capsys.readouterr()
    assert main(["ask", *plain, "--read", chat, "--quiet", "What is Bo's dog called?"]) == 0
    text = capsys.readouterr().out
    assert "[1] b" in text and "store" in text and "of 1.00 GiB" in text


def test_recall_and_stats(capsys, store):
    (hit, *_) = run_json(capsys, "recall", "--store", store, "--organizer", "plain", "--embedder", "none", "dog")
    assert (hit["kind"], hit["id"], hit["episodes"]) == ("episode", "b", ["b"])
    stats = run_json(capsys, "stats", "--store", store)
    assert stats["records"] == {"episode": 2} and stats["problems"] == []


def test_forget_export_import(capsys, store, tmp_path):
    plain = ("--store", store)
    assert run_json(capsys, "forget", *plain, "--organizer", "plain", "a")["episodes"] == 1
    out = str(tmp_path / "x.jsonl")
    assert run_json(capsys, "export", *plain, out)["rows"] > 0
    other = str(tmp_path / "b.db")
    run_json(capsys, "import", "--store", other, out)
    assert run_json(capsys, "stats", "--store", other)["records"] == {"episode": 1}


def test_systems(capsys):
    rows = run_json(capsys, "systems")
    assert len(rows) == 68 and all({"slug", "title", "folder", "status"} <= set(row) for row in rows)
    assert run_json(capsys, "systems", "show", "zep")["status"] == "working"
    assert main(["systems"]) == 0 and "zep" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["recall", "--store", "/no/such/folder/a.db", "x"], 4, "no store at"),
        (["ask", "--read", "/no/such/file.txt", "x", "--organizer", "plain"], 2, "no/such/file.txt"),
        (["ask", "--budget", "lots", "x"], 2, "not a number of bytes"),
        (["systems", "show", "zepp"], 2, "zep"),
        (["ask"], 2, "say what to ask"),
        (["remember", "--store", "a.db", "--organizer", "nope", "demo"], 2, "nope"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(capsys, arguments, code, message):
    assert main([*arguments, "--quiet"]) == code
    err = capsys.readouterr().err
    assert err.startswith("memspan: ") and err.count("\n") == 1 and message in err


def test_nothing_is_half_ingested(capsys, store, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"text": "fine", "id": "z"}) + "\n{not json\n")
    assert main(["remember", "--store", store, str(bad), "--organizer", "plain", "--embedder", "none", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert "bad.jsonl" in err and "2" in err
    fresh = tmp_path / "fresh.db"
    assert main(["remember", "--store", str(fresh), str(bad), "--organizer", "plain", "--quiet"]) == 2
    assert not fresh.exists()
    assert run_json(capsys, "stats", "--store", store)["records"] == {"episode": 2}
