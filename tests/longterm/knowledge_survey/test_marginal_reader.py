"""Marginal mode: what every passage proposes is weighed over all passages, and attributed like any other answer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from memspan.core.errors import InputError
from memspan.longterm.base import Episode
from memspan.longterm.knowledge_survey import GroundedAnswerer
from memspan.longterm.memory import Memory
from tests.longterm.knowledge_survey.test_knowledge_survey import Parrot

PAGES = {
    "a": "The ferry to Oslo leaves at nine.",
    "b": "The ferry to Oslo leaves at seven in winter.",
}


class Weighing(Parrot):
    """Likes one of the answers under every passage."""

    def __init__(self, liked: str, *answers: str) -> None:
        super().__init__(*answers)
        self.liked = liked

    def loglik(self, prompt: str, options: Sequence[str]) -> list[float]:
        return [-1.0 if self.liked in option else -20.0 for option in options]


@pytest.mark.parametrize("liked", ["nine", "seven"])
def test_the_likeliest_over_all_passages_is_given(liked: str) -> None:
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add([Episode(text=text, id=uid) for uid, text in PAGES.items()])
        first = memory.ask("When does the ferry to Oslo leave?", abstain_below=0.0).citations[0].episode
        order = ["a", "b"] if first == "a" else ["b", "a"]
        model = Weighing(liked, *(PAGES[uid] for uid in order))
        answer = memory.ask("When does the ferry to Oslo leave?", model=model, mode="marginal", abstain_below=0.0)
    assert liked in answer.text
    assert answer.reader == "parrot"
    assert answer.citations[0].text == next(text for text in PAGES.values() if liked in text)
    assert len(model.prompts) == 2
    assert all(sum(text in prompt for text in PAGES.values()) == 1 for prompt in model.prompts)


def test_what_no_passage_supports_is_not_given() -> None:
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add([Episode(text=text, id=uid) for uid, text in PAGES.items()])
        model = Weighing("noon", "It leaves at noon.", "It leaves at noon.")
        answer = memory.ask("When does the ferry to Oslo leave?", model=model, mode="marginal", abstain_below=0.0)
    assert answer.reader == "evidence sentence"
    assert "noon" not in answer.text


def test_bad_input() -> None:
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        with pytest.raises(InputError, match="needs a language model"):
            GroundedAnswerer(memory, mode="marginal")
        with pytest.raises(InputError, match="mode"):
            GroundedAnswerer(memory, mode="both")  # type: ignore[arg-type]
