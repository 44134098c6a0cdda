"""The losses: gradients, limits and invariances that their definitions promise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan.core.errors import InputError
from memspan.longterm.retriever import InfoNCE, KLDistill, OrthogonalProjection, StableDistill, text_ids

TAU = 0.2
DISTILLED = [StableDistill(tau=TAU), StableDistill(tau=TAU, force_positive_first=False), KLDistill(tau=TAU)]
ALL = [InfoNCE(tau=TAU), OrthogonalProjection(), *DISTILLED, KLDistill(tau=TAU, contrastive=0.2)]


def drawn(seed=0, batch=3, keys=4, dim=5, dtype=torch.float64):
    chance = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, dim, generator=chance, dtype=dtype)
    k = torch.randn(batch, keys, dim, generator=chance, dtype=dtype)
    return q, k, torch.randn(batch, keys, generator=chance, dtype=dtype)


def naive_stable(q, k, r, tau, ids=None):
    """The definition, one query and one step at a time."""
    q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    total = 0.0
    for b in range(len(q)):
        order = [0, *sorted(range(1, k.shape[1]), key=lambda i: -r[b, i])]
        weights = r[b].softmax(0)
        gone = set()
        for i in order:
            left = [(x, j) for x in range(len(q)) for j in range(k.shape[1]) if (x, j) not in gone]
            scores = torch.stack([q[b] @ k[x, j] / tau for x, j in left])
            total -= weights[i] * scores.log_softmax(0)[left.index((b, i))]
            gone.add((b, i))
    return total / len(q)


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_gradients_match_finite_differences(loss):
    q, k, r = drawn()
    q.requires_grad_(), k.requires_grad_()
    ids = text_ids(["a", "b", "c", "d", "e", "f", "b", "a", "g", "h", "h", "i"]).view(3, 4)
    assert torch.autograd.gradcheck(lambda x, y: loss(x, y, r, ids), (q, k))


def test_stable_distillation_is_its_definition():
    q, k, r = drawn(3, batch=4, keys=5)
    torch.testing.assert_close(StableDistill(tau=TAU)(q, k, r), naive_stable(q, k, r, TAU))


def test_one_hot_rewards_and_single_keys_give_infonce():
    q, k, _ = drawn()
    one_hot = torch.zeros(3, 4, dtype=torch.float64)
    one_hot[:, 0] = 1e4
    torch.testing.assert_close(StableDistill(tau=TAU)(q, k, one_hot), InfoNCE(tau=TAU)(q, k), atol=1e-6, rtol=0)
    q, k, r = drawn(keys=1)
    torch.testing.assert_close(StableDistill(tau=TAU)(q, k, r), InfoNCE(tau=TAU)(q, k), atol=1e-6, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-50, 50))
def test_a_constant_on_the_rewards_changes_nothing(seed, constant):
    q, k, r = drawn(seed)
    for loss in DISTILLED:
        torch.testing.assert_close(loss(q, k, r + constant), loss(q, k, r), atol=1e-9, rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_negatives_and_of_queries_does_not_matter(seed):
    q, k, r = drawn(seed)
    chance = torch.Generator().manual_seed(seed)
    keys = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(3, generator=chance)])
    rows = torch.randperm(3, generator=chance)
    for loss in ALL:
        moved = loss(q[rows], k[rows][:, keys], r[rows][:, keys])
        torch.testing.assert_close(moved, loss(q, k, r))
        torch.testing.assert_close(loss(3 * q, 7 * k, r), loss(q, k, r))


def test_where_student_and_teacher_agree_only_plain_distillation_stops():
    """There, ten times the rewards wake (b)'s gradient from nothing; (c) has one in both cases, of about one size."""
    q, k, _ = drawn(batch=8, keys=8, dim=16)
    own = torch.nn.functional.cosine_similarity(q[:, None], k, dim=-1) / TAU
    norms = {}
    for loss in (StableDistill(tau=TAU, force_positive_first=False), KLDistill(tau=TAU)):
        for scale in (1.0, 10.0):
            x = q.clone().requires_grad_()
            norms[type(loss), scale] = torch.autograd.grad(loss(x, k, scale * own), x)[0].norm().item()
    assert norms[KLDistill, 1.0] < 1e-9 < 1e-2 < norms[KLDistill, 10.0]
    assert 0.2 < norms[StableDistill, 1.0] / norms[StableDistill, 10.0] < 5


@pytest.mark.parametrize("loss", ALL, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_copies_and_low_precision_give_no_nan(loss, dtype):
    q, k, _ = drawn(dtype=dtype)
    q.requires_grad_()
    ids = torch.zeros(3, 4, dtype=torch.int64)  # every key the same text
    for tau_loss in (loss, InfoNCE(tau=0.01), StableDistill(tau=0.01), KLDistill(tau=0.01)):
        for rewards in (torch.zeros(3, 4), torch.full((3, 4), -1e4), torch.tensor([[1e4, 0, -1e4, 0.0]] * 3)):
            for texts in (ids, None):
                value = tau_loss(q, k, rewards, texts)
                assert value.dtype == torch.float32 and value.isfinite()
                assert torch.autograd.grad(value, q, retain_graph=True)[0].isfinite().all()


def test_copies_of_better_keys_are_no_negatives():
    q, k, r = drawn(batch=2, keys=3)
    k[1, 2] = k[0, 0]  # the second query's last key is the first query's positive
    ids = torch.tensor([[0, 1, 2], [3, 4, 0]])
    alone = torch.cat([k[0], k[1, :2]])
    scores = torch.nn.functional.normalize(q, dim=-1) @ torch.nn.functional.normalize(alone, dim=-1).T / TAU
    expected = -scores.log_softmax(-1)[0, 0] - scores.log_softmax(-1)[1, 3]  # five texts for both
    torch.testing.assert_close(InfoNCE(tau=TAU)(q, k, ids=ids), expected / 2)
    # A key that one query has twice weighs as one.
    twice, r2 = torch.cat([k[:, :2], k[:, 1:2]], 1), torch.cat([r[:, :2], r[:, 1:2]], 1)
    twice_ids = torch.tensor([[0, 1, 1], [3, 4, 4]])
    for loss in ALL:
        torch.testing.assert_close(loss(q, twice, r2, twice_ids), loss(q, k[:, :2], r[:, :2], twice_ids[:, :2]))


def test_kl_is_zero_where_student_and_teacher_agree():
    q, k, _ = drawn()
    scores = torch.nn.functional.cosine_similarity(q[:, None], k, dim=-1) / TAU
    assert KLDistill(tau=TAU, teacher_tau=0.5)(q, k, 0.5 * scores).abs() < 1e-12
    assert StableDistill(tau=TAU)(q, k, scores) > 0


def test_orthogonal_projection_by_hand():
    q = torch.tensor([[1.0, 0.0]])
    k = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]])
    torch.testing.assert_close(OrthogonalProjection()(q, k), torch.tensor(0.5 / 3))
    assert OrthogonalProjection()(q, k[:, :1]).abs() < 1e-12


def test_positive_first_is_a_choice():
    q, k, r = drawn()
    r[:, 0] = -5
    assert StableDistill(tau=TAU)(q, k, r) != StableDistill(tau=TAU, force_positive_first=False)(q, k, r)
    r[:, 0] = 5
    torch.testing.assert_close(
        StableDistill(tau=TAU)(q, k, r), StableDistill(tau=TAU, force_positive_first=False)(q, k, r)
    )


def test_bad_input():
    q, k, r = drawn()
    with pytest.raises(InputError, match="one reward a key"):
        StableDistill()(q, k)
    with pytest.raises(InputError, match="one reward a key"):
        KLDistill()(q, k, r[:, :2])
    with pytest.raises(InputError, match="finite"):
        StableDistill()(q, k, r / 0)
    with pytest.raises(InputError, match=r"\[B, N, D\]"):
        InfoNCE()(q, k[0])
    with pytest.raises(InputError, match="ids"):
        InfoNCE()(q, k, ids=torch.zeros(3, 1))
    for wrong in (lambda: InfoNCE(tau=0), lambda: StableDistill(tau=-1), lambda: KLDistill(teacher_tau=float("inf"))):
        with pytest.raises(InputError, match="above 0"):
            wrong()
