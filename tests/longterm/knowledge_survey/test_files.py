"""Files that are read again: what changed is a new version, what is gone is withdrawn, what was said stays askable."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from memspan.core.errors import InputError
from memspan.longterm.base import Episode
from memspan.longterm.knowledge_survey.documents import documents, forget_document, read, versions, withdraw
from memspan.longterm.knowledge_survey.files import remember_files
from memspan.longterm.memory import Memory

OLD = "The mayor of Barby is Ann Holm.\n\nThe town has 300 people.\n"
NEW = OLD.replace("Ann Holm", "Bo Lind")
QUESTION = "Who is the mayor of Barby?"


class Clock:
    """A store's clock that is set by hand."""

    moment = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> Iterator[Memory]:
    with Memory.open(":memory:", embedder=None, now=clock, organizer="plain") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "towns"
    made.mkdir()
    (made / "barby.md").write_text(OLD)
    (made / "corby.txt").write_text("The mayor of Corby is Cleo Stone.\n")
    (made / "photo.png").write_bytes(b"\x89PNG")
    return made


def texts(memory: Memory, query: str = QUESTION, **options: object) -> set[str]:
    return {hit.text for hit in memory.recall(query, **options)}  # type: ignore[arg-type]


def test_a_changed_file_replaces_what_it_said_before(memory: Memory, clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "barby.md"
    file.write_text(OLD)
    assert remember_files(memory, file).added == ("barby.md",)
    assert memory.recall(QUESTION)[0].id == "barby:1"
    assert remember_files(memory, file).unchanged == ("barby.md",)
    file.write_text(NEW)
    clock.moment = datetime(2026, 2, 1, tzinfo=UTC)
    assert remember_files(memory, file).changed == ("barby.md",)
    clock.moment = datetime(2026, 3, 1, tzinfo=UTC)
    assert "The mayor of Barby is Ann Holm." not in texts(memory)
    assert "The mayor of Barby is Ann Holm." in texts(memory, superseded=True)
    assert "Bo Lind" in memory.ask(QUESTION).text
    earlier = memory.ask(QUESTION, as_of="2026-01-15")
    assert "Ann Holm" in earlier.text
    source = earlier.citations[0].source
    assert (source["version"], source["superseded_by"]) == (1, 2)
    assert source["valid_until"].startswith("2026-02-01")
    assert "superseded_by" not in memory.ask(QUESTION).citations[0].source
    hit = next(h for h in memory.recall(QUESTION, superseded=True) if "Ann Holm" in h.text)
    assert hit.invalid_at == datetime(2026, 2, 1, tzinfo=UTC)
    assert [v.number for v in versions(memory, "barby.md")] == [1, 2]
    assert read(memory, "barby.md", version=1) == OLD.strip()
    assert memory.check() == []


def test_a_change_back_is_a_version_too(memory: Memory, tmp_path: Path) -> None:
    file = tmp_path / "barby.md"
    for text in (OLD, NEW, OLD):
        file.write_text(text)
        remember_files(memory, file)
    assert [v.number for v in versions(memory, "barby.md")] == [1, 2, 3]
    assert "Ann Holm" in memory.ask(QUESTION).text


def test_a_folder_is_pruned_only_when_asked(memory: Memory, clock: Clock, folder: Path) -> None:
    done = remember_files(memory, folder)
    assert (done.added, done.episodes) == (("towns/barby.md", "towns/corby.txt"), 3)
    (folder / "corby.txt").unlink()
    clock.moment = datetime(2026, 2, 1, tzinfo=UTC)
    assert remember_files(memory, folder).withdrawn == ()
    assert "Cleo Stone" in memory.ask("Who is the mayor of Corby?").text
    assert remember_files(memory, folder, prune=True).withdrawn == ("towns/corby.txt",)
    assert remember_files(memory, folder, prune=True).withdrawn == ()
    assert documents(memory) == ["towns/barby.md"]
    assert "The mayor of Corby is Cleo Stone." not in texts(memory, "mayor of Corby")
    assert texts(memory, "withdrawn", superseded=True).isdisjoint({"(withdrawn)"})
    with pytest.raises(InputError, match="was withdrawn"):
        read(memory, "towns/corby.txt")
    clock.moment = datetime(2026, 3, 1, tzinfo=UTC)
    then = memory.ask("Who is the mayor of Corby?", as_of="2026-01-15")
    assert "Cleo Stone" in then.text
    assert then.citations[0].source["withdrawn"] == 2
    (folder / "corby.txt").write_text("The mayor of Corby is Cleo Stone.\n")
    assert remember_files(memory, folder).added == ("towns/corby.txt",)
    assert "Cleo Stone" in memory.ask("Who is the mayor of Corby?").text


def test_forgetting_a_document_leaves_no_version(memory: Memory, folder: Path) -> None:
    remember_files(memory, folder)
    (folder / "barby.md").write_text(NEW)
    remember_files(memory, folder)
    withdraw(memory, "towns/barby.md")
    assert forget_document(memory, "towns/barby.md").episodes == 5  # two versions of two paragraphs, one withdrawal
    assert texts(memory, superseded=True) == {"The mayor of Corby is Cleo Stone."}
    with pytest.raises(InputError, match="no document"):
        forget_document(memory, "towns/barby.md")


def test_an_interrupted_first_reading_goes_on(memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "long.txt"
    file.write_text("\n\n".join(f"Paragraph number {n}." for n in range(5)))
    monkeypatch.setattr("memspan.longterm.knowledge_survey.files.BATCH", 2)
    whole, calls = Memory.add, []

    def interrupted(self: Memory, episodes: list[Episode], **options: object) -> list[str]:
        calls.append(len(episodes))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, episodes, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Memory, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        remember_files(memory, file)
    remember_files(memory, file)
    assert len(versions(memory, "long.txt")[0].episodes) == 5


def test_the_session_filter_knows_documents(memory: Memory, folder: Path) -> None:
    remember_files(memory, folder)
    assert texts(memory, "mayor", session="towns/corby.txt") == {"The mayor of Corby is Cleo Stone."}


def test_facts_of_a_superseded_version_do_not_come_up(tmp_path: Path) -> None:
    pytest.importorskip("spacy")
    file = tmp_path / "ann.txt"
    with Memory.open(":memory:", organizer="zep", embedder=None) as memory:
        for city in ("Lisbon", "Porto"):
            file.write_text(f"Ann Holm lives in {city}.\n")
            remember_files(memory, file)
        facts = {hit.text for hit in memory.recall("Where does Ann Holm live?", kinds=["fact"])}
        assert facts
        assert not any("Lisbon" in fact for fact in facts)


def test_bad_input(memory: Memory, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a folder"):
        remember_files(memory, folder / "barby.md", prune=True)
    with pytest.raises(InputError, match="holds no file"):
        (tmp_path / "empty").mkdir()
        remember_files(memory, tmp_path / "empty")
    remember_files(memory, folder / "barby.md")
    other = tmp_path / "barby.md"
    other.write_text(NEW)
    with pytest.raises(InputError, match="say moved"):
        remember_files(memory, other)
    assert remember_files(memory, other, moved=True).changed == ("barby.md",)
    with pytest.raises(InputError, match="no document"):
        withdraw(memory, "nope")
