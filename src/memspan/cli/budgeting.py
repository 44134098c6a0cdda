"""The byte budget of `memspan ask`, checked before any model is loaded.

At most at once there are: the store's index, the weights of all models, and what one of them works with (the embedder
and the language model do not work at the same time). What Python and its libraries take is no part of the budget.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from memspan.core.errors import BudgetError, InputError, MissingExtraError

if TYPE_CHECKING:
    from memspan.core.budget import Budget
    from memspan.longterm.base import Episode
    from memspan.longterm.memory import Memory
    from memspan.models.plan import EmbedderPlan, LanguageModelPlan

_SCRIBE_TOKENS = 2048  # prompt and answer of a model scribe's longest task, with room


class AskPlan:
    """What one `ask` will take, from the configurations of the models that its options name.

    Args:
        options: of the command line; `model` is already resolved ("none" when there is no language model).
        budget: of all tiers together.
    """

    def __init__(self, options: argparse.Namespace, budget: Budget) -> None:
        from memspan.longterm.knowledge_survey.reader import most_tokens
        from memspan.models.plan import plan_language_model

        self.budget = budget
        self.model: LanguageModelPlan | None = None
        self.scribe: LanguageModelPlan | None = None
        self.embedder = _embedder(options.embedder)
        self._tokens = 0
        self._context = context_bytes(options)
        if options.model != "none":
            self.model = plan_language_model(options.model)
        if self.model is not None:
            self._tokens = most_tokens(self.model.window, options.question)
        kind, _, spec = options.scribe.partition(":")
        if kind == "model" and options.organizer != "plain":
            self.scribe = plan_language_model(spec or "bundled")

    def needed(self, dtype: str | None, *, embedder: bool = True) -> int:
        """Bytes without the store: with the language model in `dtype`, or with none; with the embedder, or without."""
        weights, working = 0, [0]
        if self.embedder is not None and embedder:
            weights += self.embedder.weights
            working.append(self.embedder.activations)
        if self.model is not None and dtype is not None:
            weights += self.model.weights[dtype]
            working.append(self.model.working_bytes(dtype, self._tokens, self._context))
        if self.scribe is not None:
            first = next(iter(self.scribe.weights))
            weights += self.scribe.weights[first]
            working.append(self.scribe.working_bytes(first, _SCRIBE_TOKENS))
        return weights + max(working)

    def require(self, store: int) -> int:
        """Bytes that the language model's weights may take beside `store` bytes and everything else.

        Raises:
            BudgetError: even the smallest dtype leaves too little; names what would fit.
        """
        dtypes: list[str | None] = list(self.model.weights) if self.model is not None else [None]
        for dtype in dtypes:
            needed = store + self.needed(dtype)
            if needed <= self.budget.total:
                own = self.model.weights[dtype] if self.model is not None and dtype is not None else 0
                return self.budget.total - needed + own
        smallest = min(store + self.needed(dtype) for dtype in dtypes)
        raise BudgetError(
            "the store, the models and what they work with",
            needed=smallest,
            allowed=self.budget.total,
            advice=self._advice(store, smallest),
        )

    def _advice(self, store: int, smallest: int) -> str:
        said = [f"raise --budget to at least {smallest:,}"]
        if self.model is not None and (bare := store + self.needed(None)) < smallest:
            said.append(f"use --model none ({bare:,})")
        if self.embedder is not None and (least := store + self.needed(None, embedder=False)) < smallest:
            said.append(f"--model none with --embedder none ({least:,})")
        return ", or ".join(said)

    def fit(self, memory: Memory, episodes: Sequence[Episode]) -> int:
        """What `require` gives with the store's index in RAM, or where that is too much, on disk as far as can be.

        In the second case the memory may hold no more than that from then on.

        Raises:
            BudgetError: see `require`.
        """
        from memspan.core.budget import Budget

        dim = 0 if self.embedder is None else self.embedder.dim
        try:
            return self.require(memory.expected_ram(episodes, dim=dim))
        except BudgetError:
            least = memory.expected_ram(episodes, dim=dim, least=True)
            weights = self.require(least)
        embedder = 0 if self.embedder is None else self.embedder.weights + self.embedder.activations
        memory.budget = Budget(least + embedder)
        return weights


def context_bytes(options: argparse.Namespace) -> int | None:
    """What --context-budget says, None where it is not given; looks up the system that --context names.

    Raises:
        InputError: an unknown system, no language model to read through it, or a budget without a system.
    """
    if options.context is None:
        if options.context_budget is not None:
            raise InputError("--context-budget goes with --context: name the system that keeps to it, as sirllm")
        return None
    if options.model == "none":
        raise InputError("--context goes with a language model, and there is none (--model none)")
    from memspan.context.reader import find_system
    from memspan.core.budget import parse_bytes

    find_system(options.context)
    return None if options.context_budget is None else parse_bytes(options.context_budget)


def _embedder(spec: str) -> EmbedderPlan | None:
    from memspan.models.plan import plan_embedder

    if spec == "none":
        return None
    try:
        return plan_embedder("bundled" if spec == "auto" else spec)
    except MissingExtraError:
        if spec != "auto":
            raise
        return None
