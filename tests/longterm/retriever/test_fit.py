"""The training loop: it learns, it can be stopped anywhere, and taken up again it ends the same."""

import os
import signal

import pytest
import torch
from torch import nn

from memspan.core.errors import InputError
from memspan.longterm.retriever import (
    Example,
    HomogeneousBatches,
    InfoNCE,
    OrthogonalProjection,
    StableDistill,
    TaskSet,
    fit_retriever,
)

WORDS = [f"w{i}" for i in range(40)]


class Bag(nn.Module):
    """A bag of words, with dropout, so that a step draws something."""

    def __init__(self, dim=8):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.table = nn.Parameter(torch.randn(80, dim, generator=generator))
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(0.1)

    def encode_texts(self, texts, tasks, side):
        rows = []
        for text in texts:
            places = [int(word[1:]) + 40 * (word[0] == "k") for word in text.split()]
            rows.append(self.table[torch.tensor(places)].mean(0))
        return self.norm(self.dropout(torch.stack(rows)))


def data(rewards=True):
    return [
        Example(
            query=f"q{i}",
            positives=(f"k{i}",),
            negatives=tuple(f"k{(i + j) % 40}" for j in (1, 2, 3)),
            rewards=(0.0, -1.0, -2.0, -3.0) if rewards else None,
        )
        for i in range(40)
    ]


def batches(batch=8, **options):
    return HomogeneousBatches([TaskSet("t", data(**options))], batch=batch, keys=4)


def accuracy(encoder):
    names = [str(i) for i in range(40)]
    q = nn.functional.normalize(encoder.encode_texts([f"q{n}" for n in names], names, "query"), dim=-1)
    k = nn.functional.normalize(encoder.encode_texts([f"k{n}" for n in names], names, "key"), dim=-1)
    return ((q @ k.T).argmax(1) == torch.arange(40)).float().mean().item()


def fit(encoder, steps=30, loss=None, **options):
    return fit_retriever(encoder, batches(), loss or StableDistill(tau=0.1), lr=0.05, steps=steps, **options)


@pytest.mark.parametrize("loss", [StableDistill(tau=0.1), InfoNCE(tau=0.1)])
def test_it_learns(loss):
    encoder = Bag()
    assert accuracy(encoder.eval()) < 0.2
    fitted = fit(encoder, 150, loss)
    assert not encoder.training and accuracy(encoder) > 0.9
    assert len(fitted.losses) == 150 and sum(fitted.losses[-10:]) < 0.7 * sum(fitted.losses[:10])


def test_a_batch_of_one_pair_is_enough_for_orthogonal_projection():
    encoder = Bag(32)
    pairs = HomogeneousBatches([TaskSet("t", data(rewards=False))], batch=1, keys=2)
    fit_retriever(encoder, pairs, OrthogonalProjection(), lr=0.02, steps=400)
    assert accuracy(encoder) > 0.6


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_a_run_taken_up_again_ends_as_one_without_a_break(tmp_path):
    whole, broken = Bag(), Bag()
    expected = fit(whole)

    def stop(step, loss):
        if step == 13:
            os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "run" / "checkpoint.safetensors"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, checkpoint=path, on_step=stop)
    assert signal.getsignal(signal.SIGINT) is before
    again = Bag()
    torch.manual_seed(99)  # what is drawn elsewhere plays no part
    fitted = fit(again, checkpoint=path)
    assert fitted.resumed_at == 13 and fitted.losses == expected.losses and same(whole, again)
    done = fit(Bag(), checkpoint=path)
    assert done.resumed_at == 30 and done.losses == expected.losses
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.safetensors"]


def test_outside_draws_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(Bag(), 3)
    assert torch.equal(torch.rand(3), expected)


def test_the_rate_rises_and_falls():
    from memspan.longterm.retriever.fit import _rate

    rates = [_rate(step, 100, 0.1) for step in range(100)]
    assert max(rates) == rates[10] == 1 and 0 < rates[0] < 0.1 and 0 < rates[-1] < 0.02
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert _rate(0, 1, 0.1) > 0 and _rate(0, 10, 0) == 1


def test_bad_input(tmp_path):
    path = tmp_path / "c.safetensors"
    fit(Bag(), 2, checkpoint=path)
    with pytest.raises(InputError, match="steps 2, not 3"):
        fit(Bag(), 3, checkpoint=path)
    with pytest.raises(InputError, match="another encoder"):
        fit(Bag(4), 2, checkpoint=path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="cannot be read"):
        fit(Bag(), 2, checkpoint=path)
    for wrong in ({"steps": 0}, {"warmup": 1.0}, {"clip": 0.0}):
        with pytest.raises(InputError, match="out of range"):
            fit(Bag(), **wrong)
    encoder = Bag().requires_grad_(False)
    with pytest.raises(InputError, match="no parameter"):
        fit(encoder)
    encoder = Bag()
    with torch.no_grad():
        encoder.table.fill_(float("nan"))
    with pytest.raises(InputError, match="lower the learning rate"):
        fit(encoder)
