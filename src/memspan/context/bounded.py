"""A local language model whose context stays inside a byte budget, to be used wherever a language model is."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from memspan.context.reader import open_reader
from memspan.core.budget import Budget
from memspan.core.errors import UnsupportedModelError
from memspan.core.footprint import Footprint
from memspan.models.base import Generation, LanguageModel, LocalLanguageModel, Prompt
from memspan.models.hardware import torch_threads

_ASKING = 64  # tokens at the end of a prompt that are taken for its question


class BoundedLanguageModel:
    """Every prompt is read through a context system of its own, so that any length goes in.

    Args:
        model: a model in this process.
        system: slug of a context system, or a baseline; see `memspan.context`.
        budget: bytes that the context may hold; None lets the system choose.
        options: of the system's configuration.

    Raises:
        UnsupportedModelError: the model is remote, or its attention cannot be reached.
        BudgetError: the budget is too small for the system.
        InputError: an unknown system or option.
    """

    def __init__(
        self, model: LanguageModel, system: str, budget: str | int | Budget | None = None, **options: Any
    ) -> None:
        local: Any = model
        if not isinstance(model, LocalLanguageModel):
            raise UnsupportedModelError(f"{local.name} is remote: a context system needs a model in this process")
        self._model = copy.copy(local)
        self._make: dict[str, Any] = {"slug": system, "budget": budget, **options}
        self._lock = threading.Lock()  # a model has one context system at a time
        self.context_held: Footprint | None = None  # at the end of the last prompt
        with open_reader(model=self._model, **self._make) as reader:  # what cannot work says so before it is used
            if reader.sizes.slots is not None:
                self._model.context_window = None

    @property
    def name(self) -> str:
        """The model's."""
        return str(self._model.name)

    @property
    def fingerprint(self) -> str:
        """The model's: it is the same, only read through."""
        return str(self._model.fingerprint)

    @property
    def context_window(self) -> int | None:
        """None: any length can be read; the model's own with a system that keeps everything."""
        window: int | None = self._model.context_window
        return window

    @property
    def model(self) -> Any:
        """The `transformers` model."""
        return self._model.model

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self._model.tokenizer

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
    ) -> Generation:
        """As the model does, with `Generation.context` the bytes that the context held at the end."""
        with self._lock, open_reader(model=self._model, **self._make) as reader:
            written: Generation = self._model.generate(
                prompt, max_new_tokens=max_new_tokens, temperature=temperature, stop=stop, schema=schema
            )
            self.context_held = reader.footprint()
            return replace(written, context=self.context_held)

    def loglik(self, prompt: str, options: Sequence[str]) -> list[float]:
        """As the model does, with the prompt read through the context system.

        Prompt and option are tokenized apart, as the prompt is read before the options are known.
        """
        if not prompt:
            scores: list[float] = self._model.loglik(prompt, options)
            return scores
        said = [option for option in options if option]
        with self._lock, torch_threads(self._model.threads), open_reader(model=self._model, **self._make) as reader:
            ids = reader.encode(prompt)
            if len(ids) > _ASKING:
                reader.feed(ids[:-_ASKING])
            found = iter(reader.score(ids[-_ASKING:], said) if said else [])
            self.context_held = reader.footprint()
            return [-float(next(found).sum()) if option else 0.0 for option in options]

    def count_tokens(self, text: str) -> int:
        """Tokens of the text alone."""
        return int(self._model.count_tokens(text))

    def footprint(self) -> Footprint:
        """Bytes of the weights."""
        held: Footprint = self._model.footprint()
        return held
