"""Marginal access: the retrieved document is a latent variable, so that the retriever learns from the answer alone.

RAG-Sequence (Lewis et al. 2020, section 2.1; REALM, Guu et al. 2020):

    p(z|x) = softmax over the top k of q(x)·d(z) / T
    p(y|x) = sum_z p(z|x) prod_t p(y_t | x, z, y_<t)

Only a linear adapter on the query side is trained; the documents' vectors stay frozen, so nothing is indexed anew.

Shapes: B questions, K documents each, T tokens of the answer, D dimensions, N documents in all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import InputError, MissingExtraError
from memspan.core.footprint import Footprint

if TYPE_CHECKING:
    import torch

    from memspan.models.base import Embedder, LanguageModel

F32 = NDArray[np.float32]


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "pip install 'memspan[local]'") from error
    return torch


def retrieval_log_probs(query: torch.Tensor, documents: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """log p(z|x), `[B, K]`, of queries `[B, D]` and their documents `[B, K, D]`; float32 or finer.

    Raises:
        InputError: a temperature that is not positive.
    """
    th = _torch()
    if not temperature > 0:
        raise InputError(f"temperature must be above 0, not {temperature!r}")
    wide = th.promote_types(th.promote_types(query.dtype, documents.dtype), th.float32)
    scores = th.einsum("bd,bkd->bk", query.to(wide), documents.to(wide)) / temperature
    log_probs: torch.Tensor = th.log_softmax(scores, dim=-1)
    return log_probs


def marginal_log_likelihood(
    retrieval: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor | None = None, *, per_token: bool = False
) -> torch.Tensor:
    """log p(y|x), `[B]`.

    Args:
        retrieval: log p(z|x), `[B, K]`.
        tokens: log p(y_t | x, z, y_<t), `[B, K, T]`.
        mask: `[B, T]`, true where there is a token; None is everywhere.
        per_token: RAG-Token: every token is marginalised on its own, instead of the whole answer.
    """
    th = _torch()
    wide = th.promote_types(th.promote_types(retrieval.dtype, tokens.dtype), th.float32)
    retrieval, tokens = retrieval.to(wide), tokens.to(wide)
    if mask is not None:
        tokens = tokens.masked_fill(~mask[:, None, :], 0.0)
    if per_token:
        each = th.logsumexp(retrieval[:, :, None] + tokens, dim=1)
        if mask is not None:
            each = each.masked_fill(~mask, 0.0)
        total: torch.Tensor = each.sum(-1)
        return total
    total = th.logsumexp(retrieval + tokens.sum(-1), dim=-1)
    return total


@dataclass(frozen=True, slots=True)
class QueryAdapter:
    """A linear map on the query side.

    Attributes:
        matrix: `[D, D]`; the identity leaves retrieval as it is.
        losses: mean −log p(y|x) of each epoch of the training.
    """

    matrix: F32
    losses: tuple[float, ...] = ()

    def __call__(self, queries: F32) -> F32:
        """Adapted unit vectors, `[n, D]`, of queries `[n, D]` (or `[D]`)."""
        if queries.shape[-1] != self.matrix.shape[0]:
            raise InputError(f"the adapter is for {self.matrix.shape[0]} dimensions, and got {queries.shape[-1]}")
        adapted = queries @ self.matrix.T
        return np.asarray(adapted / np.maximum(np.linalg.norm(adapted, axis=-1, keepdims=True), 1e-12), np.float32)


def train_query_adapter(
    queries: F32,
    documents: F32,
    answer_log_probs: F32,
    candidates: NDArray[np.int64],
    *,
    temperature: float = 0.02,
    learning_rate: float = 1e-4,
    epochs: int = 15,
    batch: int = 32,
    decay: float = 1e-2,
    seed: int = 0,
) -> QueryAdapter:
    """Train a query adapter by marginal likelihood; documents and reader are frozen.

    Args:
        queries: `[B, D]` unit vectors of the questions.
        documents: `[N, D]` unit vectors of the documents.
        answer_log_probs: `[B, K]`, log p(y|x,z) of each question's answer under each of its candidates; see
            `answer_log_likelihoods`.
        candidates: `[B, K]`, rows of `documents`.
        temperature: of p(z|x). Unit vectors need a small one: cosines lie within a few tenths of each other.
        learning_rate, epochs, batch, decay, seed: of AdamW. `decay` pulls towards the identity, not towards 0. The
            defaults were chosen on made-up statements and on XQuAD, with both halves in view: ten times the rate learns
            the training's documents by heart and finds others worse than before.

    Raises:
        InputError: shapes that do not fit, no question, or a value that is not finite.
    """
    th = _torch()
    size, dim = queries.shape if queries.ndim == 2 else (0, 0)
    if size == 0 or documents.ndim != 2 or documents.shape[1] != dim:
        raise InputError(
            f"queries {queries.shape} and documents {documents.shape} must be [B, D] and [N, D], B at least 1"
        )
    if candidates.shape != answer_log_probs.shape or candidates.ndim != 2 or len(candidates) != size:
        raise InputError(f"candidates {candidates.shape} and answer_log_probs {answer_log_probs.shape} must be [B, K]")
    if not np.isfinite(answer_log_probs).all():
        raise InputError("answer_log_probs holds values that are not finite")
    if candidates.min() < 0 or candidates.max() >= len(documents):
        raise InputError("candidates names rows that documents does not have")
    generator = th.Generator().manual_seed(seed)
    change = th.zeros(dim, dim, requires_grad=True)  # from the identity, so that decay pulls towards it
    optimizer = th.optim.AdamW([change], lr=learning_rate, weight_decay=decay)
    x, z = th.from_numpy(np.asarray(queries, np.float32)), th.from_numpy(np.asarray(documents, np.float32))
    y, places = th.from_numpy(np.asarray(answer_log_probs, np.float32)), th.from_numpy(candidates)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for part in th.randperm(size, generator=generator).split(batch):
            adapted = th.nn.functional.normalize(x[part] + x[part] @ change.T, dim=-1)
            retrieval = retrieval_log_probs(adapted, z[places[part]], temperature)
            loss = -marginal_log_likelihood(retrieval, y[part][:, :, None]).mean()
            optimizer.zero_grad()
            th.autograd.backward(loss)
            optimizer.step()
            total += float(loss.detach()) * len(part)
        losses.append(total / size)
    matrix = (th.eye(dim) + change.detach()).numpy()
    return QueryAdapter(np.asarray(matrix, np.float32), tuple(losses))


def adapter_from_pairs(
    embedder: Embedder,
    documents: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    *,
    model: LanguageModel | None = None,
    k: int = 16,
    **training: Any,
) -> QueryAdapter:
    """Learn a query adapter from questions with their answers; which document holds an answer need not be known.

    Args:
        documents: the texts to retrieve from.
        pairs: (question, answer).
        model: reads the answers' likelihoods, in `len(pairs) · k` forward passes; None is the extractive reader, see
            `extractive_log_likelihoods`.
        k: documents over which each answer is marginalised: the k nearest before the training.
        training: of `train_query_adapter`.

    Raises:
        InputError: no document, no pair, or k below 1.
    """
    if not documents or not pairs or k < 1:
        raise InputError(f"{len(documents)} documents, {len(pairs)} pairs and k {k} must all be at least 1")
    questions, answers = [question for question, _ in pairs], [answer for _, answer in pairs]
    queries, vectors = embedder.embed(questions), embedder.embed(documents)
    candidates = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k].astype(np.int64)
    passages = [[documents[place] for place in row] for row in candidates.tolist()]
    if model is None:
        read = extractive_log_likelihoods(answers, passages)
    else:
        read = answer_log_likelihoods(model, questions, answers, passages)
    return train_query_adapter(queries, vectors, read, candidates, **training)


class AdaptedEmbedder:
    """An embedder whose questions pass through an adapter; documents' vectors, and so a store's, stay as they are.

    Example:
        `Memory.open(path, embedder=AdaptedEmbedder(embedder, adapter))` asks an existing store in the learnt way.

    Raises:
        InputError: the adapter is for another number of dimensions.
    """

    def __init__(self, embedder: Embedder, adapter: QueryAdapter) -> None:
        if adapter.matrix.shape != (embedder.dim, embedder.dim):
            raise InputError(
                f"the adapter is for {adapter.matrix.shape[0]} dimensions, {embedder.name} has {embedder.dim}"
            )
        self.embedder, self.adapter = embedder, adapter
        self.name, self.fingerprint = embedder.name, embedder.fingerprint
        self.dim, self.max_tokens = embedder.dim, embedder.max_tokens

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> F32:
        """Vectors of documents, `[texts, D]`."""
        return self.embedder.embed(texts, progress=progress)

    def embed_queries(self, texts: Sequence[str]) -> F32:
        """Vectors of questions, `[texts, D]`, adapted."""
        return self.adapter(self.embedder.embed(texts))

    def footprint(self) -> Footprint:
        """Bytes of the weights, the adapter's included."""
        return self.embedder.footprint() + Footprint.of("weights", "ram", self.adapter.matrix.nbytes)


def extractive_log_likelihoods(answers: Sequence[str], passages: Sequence[Sequence[str]]) -> F32:
    """log p(y|x,z), `[B, K]`, of a reader that copies: −1 where the passage holds the answer's words, else −8."""
    return np.array(
        [
            [-1.0 if _holds(passage, answer) else -8.0 for passage in row]
            for answer, row in zip(answers, passages, strict=True)
        ],
        np.float32,
    )


def _holds(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None


def answer_log_likelihoods(
    model: LanguageModel, questions: Sequence[str], answers: Sequence[str], passages: Sequence[Sequence[str]]
) -> F32:
    """log p(y|x,z), `[B, K]`, of each question's answer under each of its K passages, by the model's own likelihood.

    Costs B·K forward passes.

    Raises:
        InputError: as many answers and lists of passages as questions are needed, all lists of one length.
        UnsupportedModelError: the model gives no log-probabilities.
    """
    if not len(questions) == len(answers) == len(passages) or len({len(row) for row in passages}) > 1:
        raise InputError("give one answer and one list of K passages for each question")
    rows = [
        [model.loglik(f"{passage}\n\nQuestion: {question}\nAnswer:", [f" {answer}"])[0] for passage in row]
        for question, answer, row in zip(questions, answers, passages, strict=True)
    ]
    return np.asarray(rows, np.float32)


def marginal_answer(log_p_z: Sequence[float], log_p_y: Sequence[Sequence[float]]) -> int:
    """Which of several answers is likeliest when the document is marginalised out.

    Args:
        log_p_z: `[K]`, log p(z|x).
        log_p_y: for each answer, `[K]`, log p(y|x,z).
    """

    def total(row: Sequence[float]) -> float:
        sums = [a + b for a, b in zip(log_p_z, row, strict=True)]
        top = max(sums)
        return top + math.log(math.fsum(math.exp(value - top) for value in sums))

    return max(range(len(log_p_y)), key=lambda i: total(log_p_y[i]))
