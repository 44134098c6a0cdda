"""What every language model and every embedder answers, wherever it runs.

A local model and a remote endpoint are used through the same two protocols, so the rest of memspan never asks which
one it holds. What only local models have (`.model`, `.tokenizer`) is in `LocalLanguageModel`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import InputError
from memspan.core.footprint import Footprint

Vectors: TypeAlias = NDArray[np.float32]
"""Embeddings: float32, shape `[texts, dim]`, each row of length 1 (an empty text still gets a row)."""

Prompt: TypeAlias = str | Sequence[Mapping[str, str]]
"""One user message as a string, or a conversation as `{"role": …, "content": …}` mappings."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What a language model wrote, and what it took.

    Attributes:
        text: the new text only, cut before the first stop string.
        prompt_tokens: tokens read, the chat template's included.
        new_tokens: tokens written.
        seconds: wall time from the call to its answer, retries included.
        context: bytes that the context held at the end, where a context system counted them.
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    seconds: float
    context: Footprint | None = None


@runtime_checkable
class LanguageModel(Protocol):
    """Writes text and weighs text."""

    @property
    def name(self) -> str:
        """The spec it was loaded from, as messages show it."""

    @property
    def fingerprint(self) -> str:
        """Changes when the model changes; equal for equal weights and configuration."""

    @property
    def context_window(self) -> int | None:
        """Most tokens of prompt and answer together; None when an endpoint does not say."""

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
    ) -> Generation:
        """Continue the conversation. Temperature 0 is greedy.

        Args:
            prompt: one user message, or a conversation.
            max_new_tokens: most tokens to write.
            temperature: of sampling.
            stop: strings before which the text ends.
            schema: a JSON schema (see `memspan.models.schema` for its keywords): the text is then one JSON value that
                fits it. A local model can write nothing else; an endpoint is told, checked, and asked again.

        Raises:
            InputError: the prompt is malformed or leaves no room for an answer in the context window or in
                `max_new_tokens`, or the schema is unusable.
            ModelError: the endpoint failed, or gave no answer that fits the schema.
        """

    def loglik(self, prompt: str, options: Sequence[str]) -> list[float]:
        """For each option the summed natural log-probability of its tokens when it follows the prompt directly.

        No chat template is applied. Raises UnsupportedModelError where log-probabilities are not to be had.
        """

    def count_tokens(self, text: str) -> int:
        """Tokens of a bare text, no special tokens; an estimate on endpoints, whose tokenizer is not known."""

    def footprint(self) -> Footprint:
        """Bytes of weights this process holds."""


@runtime_checkable
class LocalLanguageModel(LanguageModel, Protocol):
    """A language model in this process, open to systems that look inside."""

    @property
    def model(self) -> Any:
        """The `transformers.PreTrainedModel`."""

    @property
    def tokenizer(self) -> Any:
        """Its `transformers.PreTrainedTokenizerBase`."""


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into unit vectors whose dot product is their similarity."""

    @property
    def name(self) -> str:
        """The spec it was loaded from, as messages show it."""

    @property
    def fingerprint(self) -> str:
        """Identity of the vector space: stores keep it, and refuse to mix vectors of two models."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def max_tokens(self) -> int | None:
        """Tokens read of each text; what follows is ignored. None when an endpoint does not say."""

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> Vectors:
        """Embed texts; row i belongs to text i. `progress` shows a bar on stderr.

        Raises:
            InputError: an element is not a string.
            ModelError: the endpoint failed.
        """

    def footprint(self) -> Footprint:
        """Bytes of weights this process holds."""


def checked_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list; a lone string, or an element that is no string, is an InputError."""
    if isinstance(texts, (str, bytes)):
        raise InputError("embed takes a sequence of texts, and one string was given: put it in a list")
    checked = list(texts)
    for i, text in enumerate(checked):
        if not isinstance(text, str):
            raise InputError(f"text {i} is {type(text).__name__}, not a string")
    return checked


def checked_messages(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt as chat messages; a string becomes one user message."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    messages = []
    for i, message in enumerate(prompt):
        if not isinstance(message, Mapping):
            raise InputError(f"message {i} is {type(message).__name__}: a mapping with role and content is needed")
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise InputError(f"message {i} needs a role and a content, both strings")
        messages.append({"role": role, "content": content})
    if not messages:
        raise InputError("the prompt holds no message")
    return messages


def check_generation(
    max_new_tokens: int, temperature: float, stop: Sequence[str], schema: Mapping[str, Any] | None
) -> None:
    """Raise InputError when the options of `generate` cannot be."""
    if max_new_tokens < 1 or temperature < 0:
        raise InputError("max_new_tokens must be at least 1, and temperature at least 0")
    if schema is not None and any(stop):
        raise InputError("a schema already says where the answer ends: leave stop out")


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the earliest stop string."""
    found = [at for word in stop if word and (at := text.find(word)) >= 0]
    return text[: min(found)] if found else text
