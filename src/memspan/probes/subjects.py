"""Subjects that need nothing but a language model, or nothing at all.

Context systems and stores sit exams too: a model behind a context system is a language model, and a store brings a
subject of its own (`memspan.longterm.examined`).
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from memspan.core.errors import InputError, UnsupportedModelError
from memspan.core.footprint import Footprint
from memspan.models.base import LanguageModel, LocalLanguageModel
from memspan.probes.base import Choice, Exam, Form, Item
from memspan.probes.turns import transcript


class ModelSubject:
    """A language model that is shown the context and the question in one prompt.

    Args:
        model: local, remote, or behind a context system.
        name: as reports show it; the model's by default.
    """

    def __init__(self, model: LanguageModel, name: str | None = None) -> None:
        self.model, self.name = model, name or model.name
        self.forms: tuple[Form, ...] = ("likelihood", "text")
        self._context = ""
        self._along: tuple[Choice, ...] = ()
        self._weighed: dict[Choice, list[float]] = {}
        try:
            model.loglik("a", [" b"])
        except UnsupportedModelError:
            self.forms = ("text",)

    def read(self, item: Item) -> None:
        """Keeps the text: a prompt is read when it is asked about."""
        window = self.model.context_window
        self._context = item.context
        self._along, self._weighed = tuple(c for c in item.choices if c.upto is not None and not c.question), {}
        if window is not None:
            longest = max((c.question + max(c.options, key=len) for c in item.choices), key=len, default="")
            needed = self.model.count_tokens(item.context) + max(
                self.model.count_tokens(item.question) + item.new_tokens, self.model.count_tokens(longest)
            )
            if needed > window:
                raise InputError(
                    f"item {item.id} takes {needed:,} tokens and {self.name} has a window of {window:,}, and nothing "
                    "is cut off silently: ask for a smaller --length, or for a context system (context:SLUG)"
                )

    def write(self, item: Item) -> str:
        """Context and question as one user message."""
        said = self.model.generate(f"{self._context}\n\n{item.question}", max_new_tokens=item.new_tokens)
        return said.text

    def weigh(self, choice: Choice) -> list[float]:
        """Mean log-probability of each option's tokens, without a chat template."""
        if choice in self._along and self._context and hasattr(self.model, "loglik_along"):
            if not self._weighed:
                places = [(one.upto, one.options) for one in self._along]
                figures = self.model.loglik_along(self._context, places)
                self._weighed = dict(zip(self._along, figures, strict=True))
            sums = self._weighed[choice]
        else:
            sums = self.model.loglik(f"{self._context[: choice.upto]}{choice.question}", choice.options)
        return [
            total / max(1, self.model.count_tokens(option)) for total, option in zip(sums, choice.options, strict=True)
        ]

    def held(self) -> Footprint | None:
        """Bytes of keys and values: as a context system counted them, else those of the whole context, foretold."""
        model: Any = self.model
        if hasattr(model, "context_held"):
            counted: Footprint | None = model.context_held
            return counted
        if not isinstance(model, LocalLanguageModel):
            return None
        from memspan.models.plan import kv_bytes

        size = 4 if getattr(model, "dtype", "float32") == "float32" else 2
        return Footprint.of("context", "ram", kv_bytes(model.model.config, self.count_tokens(self._context), size))

    def count_tokens(self, text: str) -> int:
        """The model's tokenizer."""
        return self.model.count_tokens(text)


class _Known:
    """A subject that knows the right answers."""

    forms: tuple[Form, ...] = ("text", "likelihood")

    def __init__(self, exam: Exam, seed: int = 0) -> None:
        self._exam = exam
        self._chance = random.Random(seed)

    def read(self, item: Item) -> None:
        """Nothing is needed."""

    def count_tokens(self, text: str) -> None:
        """No tokenizer."""
        return


class Oracle(_Known):
    """Answers everything rightly: an exam that it does not pass with 100 % is broken."""

    name = "oracle"

    def write(self, item: Item) -> str:
        """The right answer."""
        return self._exam.oracle(item)

    def weigh(self, choice: Choice) -> list[float]:
        """Certain of the right option."""
        return [0.0 if i == choice.right else -1.0 for i in range(len(choice.options))]


class Guesser(_Known):
    """Answers by lot: an exam on which it is better than chance gives its answers away."""

    name = "guesser"

    def write(self, item: Item) -> str:
        """By lot, from what the item shows."""
        return self._exam.guess(item, self._chance)

    def weigh(self, choice: Choice) -> list[float]:
        """By lot."""
        return [self._chance.random() for _ in choice.options]


class _Around:
    """A subject in front of another, which it shows something else."""

    def __init__(self, subject: Any, name: str) -> None:
        self._inner, self.name, self.forms = subject, f"{subject.name}, {name}", subject.forms
        for optional in ("recalled", "held"):
            if hasattr(subject, optional):
                setattr(self, optional, getattr(subject, optional))

    def write(self, item: Item) -> str:
        """As the subject does."""
        said: str = self._inner.write(item)
        return said

    def weigh(self, choice: Choice) -> list[float]:
        """As the subject does.

        Raises:
            InputError: the choice is about a place of the context, which is another one after shuffling.
        """
        if choice.upto is not None:
            raise InputError(f"{self.name}: this exam weighs at places of the context; let it write (--form text)")
        weighed: list[float] = self._inner.weigh(choice)
        return weighed

    def count_tokens(self, text: str) -> int | None:
        """The subject's."""
        counted: int | None = self._inner.count_tokens(text)
        return counted


class Blind(_Around):
    """A subject that is not shown the context: what it scores, the question alone gives away."""

    def __init__(self, subject: Any) -> None:
        super().__init__(subject, "blind")

    def read(self, item: Item) -> None:
        """Nothing of it."""
        self._inner.read(replace(item, context="", pieces=(), turns=()))


class Undated(_Around):
    """A subject that is not told when anything was said: what it loses, it owed to dates."""

    def __init__(self, subject: Any) -> None:
        super().__init__(subject, "no dates")

    def read(self, item: Item) -> None:
        """The same turns without their times."""
        turns = tuple(replace(turn, at=None) for turn in item.turns)
        pieces = transcript(turns)
        self._inner.read(replace(item, context="\n\n".join(pieces), pieces=pieces, turns=turns) if turns else item)


class Shuffled(_Around):
    """A subject that is shown the pieces of each item in another order: what it loses, it owed to their order."""

    def __init__(self, subject: Any, seed: int = 0) -> None:
        super().__init__(subject, "pieces shuffled")
        self._chance = random.Random(seed)

    def read(self, item: Item) -> None:
        """The pieces, by lot."""
        pieces = list(item.pieces)
        self._chance.shuffle(pieces)
        joined = "".join(pieces) if "".join(item.pieces) == item.context else "\n".join(pieces)
        turns = list(item.turns)
        self._chance.shuffle(turns)
        context = joined if pieces else item.context
        self._inner.read(replace(item, context=context, pieces=tuple(pieces), turns=tuple(turns)))
