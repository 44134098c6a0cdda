"""The task "can this text answer the question?": by the question's words, or by a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from memspan.core.errors import InputError, ModelError
from memspan.longterm.prompts import Writer, ask_json, object_schema
from memspan.longterm.scm.extract import coverage, stems

SCHEMA = object_schema(choice={"enum": ["A", "B"]})
_PROMPT = """TEXT:
{text}

QUESTION: {question}

Can the question be answered from the text?
(A) yes
(B) no
Answer: {{"choice": "A" or "B"}}"""


@runtime_checkable
class Judge(Protocol):
    """Decides whether a text can answer a question."""

    def answers(self, question: str, text: str, weights: Mapping[int, float]) -> tuple[bool, str]:
        """The decision and its reason; `weights` are the rarity of stems among the candidates."""


class RuleJudge:
    """A text answers when it has enough of the question's words, weighted by rarity.

    Args:
        least_coverage: the share it must have.
    """

    def __init__(self, least_coverage: float = 0.5) -> None:
        if not 0 <= least_coverage <= 1:
            raise InputError(f"least_coverage must be between 0 and 1, not {least_coverage!r}")
        self.least_coverage = least_coverage

    def answers(self, question: str, text: str, weights: Mapping[int, float]) -> tuple[bool, str]:
        """By coverage."""
        share = coverage(stems(question), stems(text), weights)
        return share >= self.least_coverage, f"has {share:.2f} of the question's words"


class ModelJudge:
    """Asks a language model, once for each pair of text and question.

    Args:
        model: what answers.
        attempts: how often one question is put before the rules decide in its place.
        rules: who decides then.

    Attributes:
        fallbacks: how often the rules had to decide.
    """

    def __init__(self, model: Writer, *, attempts: int = 3, rules: Judge | None = None) -> None:
        self.model = model
        self.attempts = attempts
        self.rules = rules or RuleJudge()
        self.fallbacks = 0
        self._question = ""
        self._known: dict[str, tuple[bool, str]] = {}

    def answers(self, question: str, text: str, weights: Mapping[int, float]) -> tuple[bool, str]:
        """The model's choice, else the rules'. Answers are kept as long as the question is the same."""
        if question != self._question:
            self._question = question
            self._known.clear()
        if text not in self._known:
            self._known[text] = self._ask(question, text, weights)
        return self._known[text]

    def _ask(self, question: str, text: str, weights: Mapping[int, float]) -> tuple[bool, str]:
        prompt = _PROMPT.format(text=text, question=question)
        try:
            yes = ask_json(self.model, prompt, SCHEMA, choice, attempts=self.attempts, max_new_tokens=30)
        except (InputError, ModelError):  # InputError: the text leaves no room in the context window
            self.fallbacks += 1
            answered, why = self.rules.answers(question, text, weights)
            return answered, f"{why} (the language model was of no use)"
        return yes, f"the language model says that it {'answers' if yes else 'does not answer'}"


def choice(answer: Mapping[str, Any]) -> bool:
    """Whether A was chosen."""
    chosen = answer.get("choice")
    if chosen not in ("A", "B"):
        raise ValueError('choice must be "A" or "B"')
    return bool(chosen == "A")
