"""SirLLM: what stays is what surprised; scores fade; words stay whole."""

from __future__ import annotations

import pytest
import torch

import memspan
from memspan.context.sirllm import SirLlm
from memspan.core.testing import tiny_llama


def ids(count, seed=0):
    return torch.randint(1, 64, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


def test_the_most_surprising_tokens_stay(model):
    with memspan.context("sirllm", model, slots=20, chunk=30, sinks=2, guard=3, first="true") as reader:
        nll = reader.feed(ids(30), nll=True)[0]
        reader.feed(ids(30, seed=1))
        kept = [slot.position for slot in reader.slots() if slot.position < 30]
    best = nll[2:27].argsort(descending=True)[:15] + 2
    assert kept == sorted([0, 1, 27, 28, 29, *best.tolist()])


def test_the_first_token_of_a_turn_has_its_highest_score(model):
    with memspan.context("sirllm", model, chunk=16) as reader:
        reader.feed(ids(10))
        reader.feed(ids(10, seed=1))
        scores = [slot.score for slot in reader.slots()]
    assert scores[0] == max(scores[:10]) and scores[10] == max(scores[10:])


def test_scores_fade_once_a_turn(model):
    with memspan.context("sirllm", model, decay=0.5) as reader:
        reader.feed(ids(10))
        before = [slot.score for slot in reader.slots()]
        reader.feed(ids(5, seed=1))
        after = reader.slots()[:10]
    assert [slot.score for slot in after] == pytest.approx([score / 2 for score in before])
    assert {slot.age for slot in after} == {1}


@pytest.mark.parametrize(("how", "total"), [("max", max), ("sum", sum)])
def test_the_pieces_of_a_word_have_one_score(model, how, total):
    starts = tuple(i % 3 == 0 for i in range(64))
    tokens = [3, 4, 5, 6, 7, 9, 10, 11, 12]
    options = {"word_starts": starts, "first": "true"}
    with memspan.context(SirLlm(**options), model) as reader:
        reader.feed(tokens)
        single = [slot.score for slot in reader.slots()]
    with memspan.context(SirLlm(**options, whole_words=how), model) as reader:
        reader.feed(tokens)
        whole = [slot.score for slot in reader.slots()]
    expected = [total(single[a:b]) for a, b in ((0, 3), (3, 5), (5, 8), (8, 9)) for _ in range(b - a)]
    assert whole == pytest.approx(expected)


def test_why_a_token_is_kept(model):
    with memspan.context("sirllm", model, slots=20, chunk=10, sinks=2, guard=3) as reader:
        reader.feed(ids(60))
        slots = reader.slots()
    assert [slot.reason for slot in slots[:2]] == ["first", "first"]
    assert {slot.reason for slot in slots[2:-3]} == {"surprising"}
    assert {slot.reason for slot in slots[-3:]} == {"recent"}


def test_no_key_is_rotated_beyond_the_capacity(model):
    with memspan.context("sirllm", model, slots=20, chunk=10, guard=3) as reader:
        reader.feed(ids(200))
        track = reader.cache.tracks[0]
        assert track.rope[0, 0, : track.n].tolist() == list(range(track.n))
        assert track.n <= reader.sizes.capacity == 30
