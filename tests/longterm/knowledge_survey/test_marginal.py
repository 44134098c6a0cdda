"""Marginal likelihood: equal to its plain formula, right gradients, and it learns."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memspan.core.errors import InputError
from memspan.longterm.base import Episode
from memspan.longterm.knowledge_survey.marginal import (
    AdaptedEmbedder,
    QueryAdapter,
    adapter_from_pairs,
    extractive_log_likelihoods,
    marginal_answer,
    marginal_log_likelihood,
    retrieval_log_probs,
    train_query_adapter,
)
from memspan.longterm.memory import Memory
from tests.longterm.doubles import HashEmbedder

torch = pytest.importorskip("torch")


def naive(query: list[float], documents: list[list[float]], tokens: list[list[float]], temperature: float) -> float:
    """log p(y|x) for one question, term by term."""
    scores = [math.exp(sum(a * b for a, b in zip(query, d, strict=True)) / temperature) for d in documents]
    total = sum(scores)
    return math.log(sum(s / total * math.exp(sum(row)) for s, row in zip(scores, tokens, strict=True)))


def toy() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    documents = torch.randn(1, 3, 4, generator=generator, dtype=torch.float64)
    tokens = -torch.rand(1, 3, 5, generator=generator, dtype=torch.float64)
    return query, documents, tokens


def test_equals_the_plain_formula() -> None:
    query, documents, tokens = toy()
    got = marginal_log_likelihood(retrieval_log_probs(query, documents, 0.7), tokens)
    assert got.item() == pytest.approx(naive(query[0].tolist(), documents[0].tolist(), tokens[0].tolist(), 0.7))


@pytest.mark.parametrize("per_token", [False, True])
def test_gradients_match_finite_differences(per_token: bool) -> None:
    query, documents, tokens = toy()
    matrix = torch.eye(4, dtype=torch.float64).requires_grad_()

    def value(adapter: torch.Tensor) -> torch.Tensor:
        return marginal_log_likelihood(
            retrieval_log_probs(query @ adapter.T, documents, 0.5), tokens, per_token=per_token
        ).sum()

    value(matrix).backward()
    assert matrix.grad is not None
    step = 1e-5
    for row in range(4):
        for column in range(4):
            moved = torch.zeros(4, 4, dtype=torch.float64)
            moved[row, column] = step
            base = matrix.detach()
            expected = (value(base + moved) - value(base - moved)) / (2 * step)
            assert matrix.grad[row, column].item() == pytest.approx(expected.item(), abs=1e-4)


def test_masked_tokens_do_not_count() -> None:
    query, documents, tokens = toy()
    retrieval = retrieval_log_probs(query, documents)
    mask = torch.tensor([[True, True, True, False, False]])
    padded = tokens.clone()
    padded[..., 3:] = float("nan")
    for per_token in (False, True):
        kept = marginal_log_likelihood(retrieval, padded, mask, per_token=per_token)
        cut = marginal_log_likelihood(retrieval, tokens[..., :3], per_token=per_token)
        assert torch.equal(kept, cut)


def test_half_precision_is_summed_in_float32() -> None:
    query, documents, tokens = toy()
    got = marginal_log_likelihood(retrieval_log_probs(query.half(), documents.half()), (tokens * 1000).half())
    assert got.dtype == torch.float32
    assert torch.isfinite(got).all()


def test_training_raises_the_right_documents() -> None:
    generator = np.random.default_rng(0)
    documents = generator.normal(size=(24, 16)).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    turn = np.linalg.qr(generator.normal(size=(16, 16)))[0].astype(np.float32)
    queries = documents @ turn + 0.05 * generator.normal(size=(24, 16)).astype(np.float32)  # a rotated space
    candidates = np.tile(np.arange(24), (24, 1))
    likelihoods = np.where(np.eye(24, dtype=bool), -1.0, -8.0).astype(np.float32)
    adapter = train_query_adapter(
        queries, documents, likelihoods, candidates, learning_rate=0.03, epochs=60, temperature=0.1
    )
    before = (np.argmax(queries @ documents.T, 1) == np.arange(24)).mean()
    after = (np.argmax(adapter(queries) @ documents.T, 1) == np.arange(24)).mean()
    assert before < 0.3
    assert after > 0.9
    assert adapter.losses[-1] < adapter.losses[0]


def test_an_adapter_is_learnt_from_answers_and_asks_a_store_in_its_way() -> None:
    colours = ("red", "blue", "green", "white", "black", "brown")
    documents = [f"tower {colour} holds the treasure of {colour}" for colour in colours]
    secret = dict(zip(colours, ("ruber", "azul", "viridis", "albus", "niger", "fuscus"), strict=True))
    pairs = [(f"where is {word}", f"treasure of {colour}") for colour, word in secret.items()]
    embedder = HashEmbedder()
    adapter = adapter_from_pairs(embedder, documents, pairs, k=6, learning_rate=0.03, epochs=80, temperature=0.1)
    adapted = AdaptedEmbedder(embedder, adapter)
    vectors = embedder.embed(documents)
    questions = [question for question, _ in pairs]
    assert np.array_equal(adapted.embed(documents), vectors)
    assert (np.argmax(embedder.embed(questions) @ vectors.T, 1) == np.arange(6)).mean() < 0.5
    assert (np.argmax(adapted.embed_queries(questions) @ vectors.T, 1) == np.arange(6)).mean() > 0.8
    assert adapted.footprint().total == embedder.footprint().total + 64 * 64 * 4
    with Memory.open(":memory:", embedder=adapted, organizer="plain") as memory:
        memory.add([Episode(text=text, id=f"d{number}") for number, text in enumerate(documents)])
        memory.embed_pending()
        first = [memory.recall(question, k=1)[0].id for question in questions]
    assert sum(uid == f"d{number}" for number, uid in enumerate(first)) >= 5


def test_a_reader_that_copies_wants_whole_words() -> None:
    got = extractive_log_likelihoods(["art", "3 cats"], [["An Art.", "A cart."], ["13 cats", "the 3 cats"]])
    assert got.tolist() == [[-1, -8], [-8, -1]]


def test_the_likeliest_answer_over_all_documents() -> None:
    log_p_z = [math.log(0.6), math.log(0.4)]
    assert marginal_answer(log_p_z, [[math.log(0.5), math.log(0.1)], [math.log(0.3), math.log(0.9)]]) == 1


def test_bad_input() -> None:
    query, documents, _ = toy()
    with pytest.raises(InputError, match="temperature"):
        retrieval_log_probs(query, documents, 0)
    with pytest.raises(InputError, match="dimensions"):
        QueryAdapter(np.eye(3, dtype=np.float32))(np.ones((1, 4), np.float32))
    ones = np.ones((2, 4), np.float32)
    with pytest.raises(InputError, match="candidates"):
        train_query_adapter(ones, ones, ones, np.zeros((2, 3), np.int64))
    with pytest.raises(InputError, match="at least 1"):
        adapter_from_pairs(HashEmbedder(), [], [("a", "b")])
    with pytest.raises(InputError, match="dimensions"):
        AdaptedEmbedder(HashEmbedder(), QueryAdapter(np.eye(3, dtype=np.float32)))
    with pytest.raises(InputError, match="rows"):
        train_query_adapter(ones, ones, np.zeros((2, 1), np.float32), np.full((2, 1), 9))
    with pytest.raises(InputError, match="finite"):
        train_query_adapter(ones, ones, np.full((2, 1), -np.inf, np.float32), np.zeros((2, 1), np.int64))
