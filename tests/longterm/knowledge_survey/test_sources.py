"""A search engine's documents become memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from memspan.core.errors import InputError
from memspan.longterm.knowledge_survey.documents import versions
from memspan.longterm.knowledge_survey.sources import Found, SearchEngine, remember_search
from memspan.longterm.memory import Memory


class Shelf:
    """Finds every page that has a word of the query."""

    def __init__(self, *pages: Found) -> None:
        self.pages = list(pages)

    def search(self, query: str, k: int) -> Sequence[Found]:
        wanted = set(query.lower().split())
        return [page for page in self.pages if wanted & set(page.text.lower().split())][:k]


MAYOR = Found(
    id="towns/barby", text="The mayor of Barby is Ann Holm.", source="https://towns.example/barby", at="2020-01-01"
)
BLANK = Found(id="blank", text="  ")


@pytest.fixture
def memory() -> Iterator[Memory]:
    with Memory.open(":memory:", embedder=None, organizer="plain") as opened:
        yield opened


def test_what_is_found_answers_with_its_address(memory: Memory) -> None:
    engine = Shelf(MAYOR)
    assert isinstance(engine, SearchEngine)
    (kept,) = remember_search(memory, engine, "mayor Barby")
    assert (kept.document, kept.number) == ("towns/barby", 1)
    answer = memory.ask("Who is the mayor of Barby?")
    assert "Ann Holm" in answer.text
    assert answer.citations[0].source["source"] == "https://towns.example/barby"


def test_a_page_that_changed_becomes_a_version_and_an_equal_one_adds_nothing(memory: Memory) -> None:
    remember_search(memory, Shelf(MAYOR), "mayor")
    remember_search(memory, Shelf(MAYOR), "mayor")
    assert len(versions(memory, "towns/barby")) == 1
    changed = Found(id="towns/barby", text="The mayor of Barby is Bo Lind.", at="2022-01-01")
    remember_search(memory, Shelf(changed), "mayor")
    assert "Bo Lind" in memory.ask("Who is the mayor of Barby?").text
    assert "Ann Holm" in memory.ask("Who is the mayor of Barby?", as_of="2021-01-01").text


def test_blank_pages_are_left_out(memory: Memory) -> None:
    class Everything(Shelf):
        def search(self, query: str, k: int) -> Sequence[Found]:
            return self.pages[:k]

    assert [v.document for v in remember_search(memory, Everything(BLANK, MAYOR), "x")] == ["towns/barby"]
    with pytest.raises(InputError, match="asked for 1 documents and gave 2"):
        remember_search(memory, Greedy(BLANK, MAYOR), "x", 1)


class Greedy(Shelf):
    """Gives more than it was asked for."""

    def search(self, query: str, k: int) -> Sequence[Found]:
        return self.pages


def test_bad_input(memory: Memory) -> None:
    with pytest.raises(InputError, match="query"):
        remember_search(memory, Shelf(), " ")
    with pytest.raises(InputError, match="k must"):
        remember_search(memory, Shelf(), "x", 0)
