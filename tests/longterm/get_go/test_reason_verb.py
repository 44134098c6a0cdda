"""`memspan reason`: training into a directory, and answers over files and stores."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from memspan import Episode, Memory
from memspan.cli import main
from memspan.longterm.get_go import SmallWindowReasoner
from memspan.longterm.scribe.structured import StructuredScribe
from memspan.longterm.zep import Zep


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("reason") / "policy"
    train = ["reason", "train", "--out", str(folder), "--hops", "2", "--budget-seconds", "60", "--seed", "0"]
    assert main([*train, "--quiet"]) == 0
    return str(folder)


def solve(capsys, model: str, *arguments: str) -> dict:
    capsys.readouterr()
    assert main(["reason", "solve", "--model", model, *arguments, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'Ada,employer,"Acme, Inc.",e1\n"Acme, Inc.",located_in,Oslo,e2\n'),
        ("a.tsv", "Ada\temployer\tAcme, Inc.\te1\nAcme, Inc.\tlocated_in\tOslo\te2\n"),
        (
            "a.jsonl",
            '{"subject": "Ada", "relation": "employer", "object": "Acme, Inc.", "source": "e1"}\n\n'
            '["Acme, Inc.", "located_in", "Oslo", "e2"]\n',
        ),
    ],
)
def test_a_path_is_followed_over_a_file_and_sources_are_named(capsys, tmp_path, model, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    given = ("--triples", str(tmp_path / name), "--start", "ada", "--path", "employer, Located in")
    found = solve(capsys, model, *given)
    assert (found["value"], found["peak_window"], found["names"]) == ("Oslo", 1, {})
    reads = [(item["read"], item["source"]) for item in found["trace"] if item["op"] == "lookup"]
    assert reads == [("Acme, Inc.", ["e1"]), ("Oslo", ["e2"])]
    assert main(["reason", "solve", "--model", model, *given, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Oslo" and any(line.split()[-1:] == ["e2"] for line in lines)


def test_a_triple_without_a_source_names_its_line(capsys, tmp_path, model):
    (tmp_path / "a.csv").write_text("Ada,employer,Acme\nAcme,located_in,Oslo\n", encoding="utf-8")
    found = solve(
        capsys, model, "--triples", str(tmp_path / "a.csv"), "--start", "Ada", "--path", "employer,located_in"
    )
    assert [item["source"] for item in found["trace"] if item["op"] == "lookup"] == [["a.csv:1"], ["a.csv:2"]]


def test_what_is_not_held_is_null(capsys, tmp_path, model):
    (tmp_path / "a.csv").write_text("Ada,employer,Acme\nBo,located_in,Oslo\n")
    given = ("--triples", str(tmp_path / "a.csv"), "--start", "Ada", "--path", "employer,located_in")
    assert solve(capsys, model, *given)["value"] is None
    assert main(["reason", "solve", "--model", model, *given, "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("NULL")


def test_a_memory_s_facts_are_a_bank(capsys, tmp_path, model):
    path = tmp_path / "a.db"
    with Memory.open(path, organizer=Zep(StructuredScribe(["EMPLOYER", "BASED_IN"])), embedder=None) as memory:
        for number, facts in enumerate([("Ada", "EMPLOYER", "Acme"), ("Acme", "BASED_IN", "Oslo")]):
            row = dict(zip(("subject", "relation", "object"), facts, strict=True))
            memory.add(Episode(" ".join(facts), at=datetime(2024, 1, 1), id=f"e{number}", metadata={"facts": [row]}))
    found = solve(capsys, model, "--store", str(path), "--start", "Ada", "--path", "employer,based in")
    assert found["value"] == "Oslo"
    assert [item["source"] for item in found["trace"] if item["op"] == "lookup"] == [["e0"], ["e1"]]
    given = ["reason", "solve", "--model", model, "--store", str(path), "--start", "Ada", "--path", "employer"]
    assert main([*given, "--as-of", "2020-01-01", "--quiet"]) == 2
    assert "holds no facts" in capsys.readouterr().err


def test_an_interrupted_training_is_kept_and_goes_on(capsys, tmp_path, monkeypatch):
    from memspan.longterm.get_go.training import Trainer

    whole, count = Trainer._update, [0]

    def interrupted(self, **options):
        count[0] += 1
        if count[0] == 12:
            raise KeyboardInterrupt
        return whole(self, **options)

    monkeypatch.setattr(Trainer, "_update", interrupted)
    train = ["reason", "train", "--out", str(tmp_path / "p"), "--json", "--quiet", "--budget-seconds"]
    assert main([*train, "120"]) == 130
    told = json.loads(capsys.readouterr().out)
    assert (told["updates"], told["interrupted"]) == (11, True)
    assert main([*train, "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["updates"] > 11 and not told["interrupted"]
    loaded = SmallWindowReasoner.load(tmp_path / "p" / "policy.safetensors")
    assert loaded.trainer.updates == told["updates"]


def test_errors_are_one_line(capsys, tmp_path, model):
    good = tmp_path / "a.csv"
    good.write_text("Ada,employer,Acme\n")
    files = {"b.csv": "a,b,c\na,b\n", "c.txt": "a b c", "d.jsonl": "[1, 2, 3]\n", "e.csv": "\n", "f.jsonl": "{no\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    ask = ["reason", "solve", "--model", model, "--start", "Ada", "--path", "employer"]
    for arguments, message in (
        (["reason", "train"], "--out DIR"),
        (["reason", "train", "--out", str(tmp_path / "o"), "--window", "0"], "window must be at least 1"),
        (["reason", "train", "--out", str(good / "o")], "cannot write"),
        (["reason", "train", "--out", model, "--hops", "3"], "made with other settings"),
        (["reason", "solve", "--start", "Ada", "--path", "employer"], "solve needs --model"),
        (ask, "--triples FILE or --store PATH"),
        ([*ask, "--triples", str(tmp_path / "none.csv")], "cannot read"),
        ([*ask, "--triples", str(tmp_path / "b.csv")], "b.csv, line 2"),
        ([*ask, "--triples", str(tmp_path / "c.txt")], "must end in .csv"),
        ([*ask, "--triples", str(tmp_path / "d.jsonl")], "d.jsonl, line 1"),
        ([*ask, "--triples", str(tmp_path / "e.csv")], "holds no triples"),
        ([*ask, "--triples", str(tmp_path / "f.jsonl")], "not JSON"),
        ([*ask, "--triples", str(good), "--start", "Bo"], "no entity 'Bo'"),
        ([*ask, "--triples", str(good), "--path", "boss"], "relations: employer"),
        ([*ask, "--triples", str(good), "--path", "employer,,employer"], "empty step"),
        ([*ask, "--triples", str(good), "--model", str(tmp_path)], "cannot be read as a policy"),
    ):
        assert main([*arguments, "--quiet"]) == 2, arguments
        err = capsys.readouterr().err
        assert err.startswith("memspan: ") and err.count("\n") == 1 and message in err, err
