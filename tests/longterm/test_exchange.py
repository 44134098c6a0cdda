"""Export and import round-trip everything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan import Episode, InputError, Memory
from memspan.longterm.zep import Zep
from tests.longterm.doubles import HashEmbedder, ToyScribe, day


def rows(memory: Memory) -> dict[str, list[tuple]]:
    tables = ("record", "source", "link", "fact", "version", "passage", "vector", "space")
    return {t: sorted(map(tuple, memory.store.connection.execute(f"SELECT * FROM {t}"))) for t in tables}


def test_everything_comes_back(tmp_path: Path):
    with Memory.open(tmp_path / "a.db", organizer=Zep(ToyScribe()), embedder=HashEmbedder()) as memory:
        memory.add([Episode("Ann lives in Lisbon", "Ann", day(1), "s", "one", {"role": "user", "n": [1, {"ü": None}]})])
        memory.add([Episode("Ann lives in Oslo", "Ann", day(9), "s", "two")])
        memory.add([Episode("other tenant")], space="b")
        memory.maintain()
        memory.export(tmp_path / "all.jsonl")
        with Memory.open(tmp_path / "b.db", organizer=Zep(ToyScribe()), embedder=HashEmbedder()) as copy:
            copy.import_(tmp_path / "all.jsonl")
            assert copy.check() == []
            assert rows(copy).keys() == rows(memory).keys()
            copy.export(tmp_path / "again.jsonl")
            for question in ("Where does Ann live?", "Lisbon"):
                for kinds in (["episode"], ["fact"]):
                    one = memory.recall(question, kinds=kinds, as_of=day(5))
                    two = copy.recall(question, kinds=kinds, as_of=day(5))
                    assert [(h.id, h.episodes, h.valid_at, h.invalid_at) for h in one] == [
                        (h.id, h.episodes, h.valid_at, h.invalid_at) for h in two
                    ]
            assert copy.recall("tenant", space="b")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(min_size=1).filter(lambda t: t.strip() and max(t) < "\ud800"), min_size=1, max_size=5))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]):
    folder = tmp_path_factory.mktemp("x")
    with (
        Memory.open(":memory:", embedder=None, organizer="plain") as memory,
        Memory.open(":memory:", embedder=None, organizer="plain") as copy,
    ):
        memory.add([Episode(text) for text in texts])
        memory.export(folder / "a.jsonl")
        copy.import_(folder / "a.jsonl")
        assert rows(copy)["record"] == rows(memory)["record"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", None),
        ("hello", "line 1: not JSON"),
        ('{"a": 1}', "not an export"),
        ('{"format": "memspan-export", "version": 9}', "upgrade memspan"),
        ('{"format": "memspan-export", "version": 1}\n{"table": "nope"}', "line 2: not a row"),
        ('{"format": "memspan-export", "version": 1}\n[]', "line 2: not an object"),
        (
            '{"format": "memspan-export", "version": 1}\n{"table": "space", "id": 1, "name": "x"}\n{"tab',
            "line 3: not JSON",
        ),
        ('{"format": "memspan-export", "version": 1}\n{"table": "link", "src": 1, "dst": 2, "kind": "k"}', "line 2"),
    ],
)
def test_damaged_files_change_nothing(tmp_path: Path, content: str, message: str | None):
    (tmp_path / "x.jsonl").write_text(content)
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(Episode("kept", id="k"))
        if message is not None:
            with pytest.raises(InputError, match=message):
                memory.import_(tmp_path / "x.jsonl")
        assert memory.stats()["spaces"] == ["default"]
        assert memory.recall("kept")[0].id == "k"


def test_a_taken_id_is_refused(tmp_path: Path):
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(Episode("kept", id="k"))
        memory.export(tmp_path / "x.jsonl")
        with pytest.raises(InputError, match="nothing was imported"):
            memory.import_(tmp_path / "x.jsonl")
        assert memory.stats()["records"] == {"episode": 1}


def test_an_export_is_plain_json_lines(tmp_path: Path):
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(Episode("hello", id="k"))
        count = memory.export(tmp_path / "x.jsonl")
        lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
        assert len(lines) == count + 1 and any(line.get("text") == "hello" for line in lines)
        with pytest.raises(InputError, match="cannot write"):
            memory.export(tmp_path / "no" / "x.jsonl")
