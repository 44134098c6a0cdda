"""Several tokens a pass: they are those of plain decoding, over every cache that can take guesses back."""

from __future__ import annotations

import pytest
import torch

import memspan
from memspan.context.decoding import TreeDraft, accept_rows, decode, run_draft, typical, walk
from memspan.core.errors import InputError
from memspan.core.testing import tiny_llama
from tests.context.test_families import tiny
from tests.context.test_reader import SMALL

GENERATE = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
CACHES = ["full", "window", "random", "lm-infinite", "sirllm"]


def ids(count, seed=0):
    return torch.randint(1, 64, (1, count), generator=torch.Generator().manual_seed(seed))


class Guesser:
    """Guesses by chance, and now and then, at any depth, what it was told comes next."""

    def __init__(self, truth=(), seed=0, embeds=True, vocabulary=64):
        self.truth, self.embeds, self.vocabulary = list(truth), embeds, vocabulary
        self.chance = torch.Generator().manual_seed(seed)
        self.paths, self.rows, self.deepest = [], [], []

    def draw(self, n):
        return int(torch.randint(n, (1,), generator=self.chance))

    def draft(self, state):
        tokens, parents, embeds, depths = [int(state.ids[0, -1])], [-1], [], [0]
        at = state.ids.shape[1]
        size = 1 + self.draw(min(state.rows, 9))
        while len(tokens) < size:
            parent = self.draw(len(tokens))
            depth = depths[parent] + 1
            if depth > state.depth or tokens[parent] < 0:
                break
            known = at + depth - 1 < len(self.truth) and self.draw(3) > 0
            tokens.append(self.truth[at + depth - 1] if known else self.draw(self.vocabulary))
            parents.append(parent)
            depths.append(depth)
        if self.embeds and len(tokens) < state.rows:
            tokens.append(-1)
            parents.append(self.draw(len(tokens) - 1))
            embeds.append(torch.randn(32, generator=self.chance))
        self.deepest.append(max(depths))
        self.rows.append(len(tokens))
        return TreeDraft(tokens=tokens, parents=parents, embeds=torch.stack(embeds) if embeds else None)

    def accept(self, state, logits):
        return walk(state, logits)

    def passed(self, state, accepted, logits):
        self.paths.append(len(accepted.rows))

    def __call__(self, model, input_ids, *, on_tokens=None, **words):
        return decode(self, model, input_ids, on_tokens=on_tokens, **words)


@pytest.fixture(scope="module")
def model():
    return tiny_llama(positions=256)


@pytest.mark.parametrize("slug", CACHES)
@pytest.mark.parametrize("seed", range(3))
def test_over_every_cache_it_is_plain_decoding(model, slug, seed):
    tokens = ids(30, seed)
    options = SMALL.get(slug, {})
    with memspan.context(slug, model, **options) as reader:
        plain = model.generate(tokens, **GENERATE)
        before = reader.slots()
    guesser = Guesser(plain[0].tolist(), seed)
    with memspan.context(slug, model, **options) as reader:
        said = model.generate(tokens, custom_generate=guesser, **GENERATE)
        after = reader.slots()
    assert torch.equal(said, plain)
    assert sum(guesser.paths) == 39 and max(guesser.paths) > 2 and len(guesser.paths) < 35
    assert [slot.position for slot in after] == [slot.position for slot in before]
    assert [slot.score for slot in after] == pytest.approx([slot.score for slot in before], abs=1e-4)


def test_without_a_reader_it_is_plain_decoding_and_leaves_nothing(model):
    tokens = ids(20)
    plain = model.generate(tokens, **GENERATE)
    assert torch.equal(model.generate(tokens, custom_generate=Guesser(plain[0].tolist()), **GENERATE), plain)
    assert not model.model._forward_pre_hooks


@pytest.mark.parametrize("kind", ["gemma2", "mistral", "phi", "qwen3", "smollm3", "gemma3_text"])
def test_windows_caps_and_partial_rotation_are_kept(kind):
    model = tiny(kind)
    tokens = torch.randint(3, 96, (1, 20), generator=torch.Generator().manual_seed(1))
    plain = model.generate(tokens, **GENERATE)
    guesser = Guesser(plain[0].tolist())
    assert torch.equal(model.generate(tokens, custom_generate=guesser, **GENERATE), plain)
    assert max(guesser.paths) > 1


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_no_token_too_many(model, most):
    tokens = ids(12)
    plain = model.generate(tokens, **{**GENERATE, "max_new_tokens": most})
    guesser = Guesser(model.generate(tokens, **GENERATE)[0].tolist())
    said = model.generate(tokens, custom_generate=guesser, **{**GENERATE, "max_new_tokens": most})
    assert torch.equal(said, plain)


def test_an_end_inside_a_path_ends_it_and_the_cache_goes_on_as_after_plain_decoding(model):
    tokens = ids(12)
    free = model.generate(tokens, **GENERATE)[0].tolist()
    for stop in {free[14], free[17], free[25]}:
        settings = {**GENERATE, "eos_token_id": stop}
        with memspan.context("full", model) as reader:
            plain = model.generate(tokens, **settings)
            held = [slot.token for slot in reader.slots()]
        for seed in range(4):
            with memspan.context("full", model) as reader:
                said = model.generate(tokens, custom_generate=Guesser(free, seed), **settings)
                assert torch.equal(said, plain)
                assert [slot.token for slot in reader.slots()] == held


def test_processors_of_logits_are_those_of_plain_decoding(model):
    tokens = ids(12)
    settings = {**GENERATE, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2}
    plain = model.generate(tokens, **settings)
    assert torch.equal(model.generate(tokens, custom_generate=Guesser(plain[0].tolist()), **settings), plain)


def test_new_tokens_are_told_pass_by_pass(model):
    told = []
    tokens = ids(12)
    plain = model.generate(tokens, **GENERATE)
    model.generate(tokens, custom_generate=Guesser(plain[0].tolist()), on_tokens=told.append, **GENERATE)
    assert [token for part in told for token in part] == plain[0, 12:].tolist() and len(told) < 40


def test_sampling_draws_from_the_models_own_distribution():
    model = tiny_llama(vocabulary=8, seed=3)
    tokens = torch.tensor([[1, 2, 3]])
    settings = {"max_new_tokens": 3, "do_sample": True, "top_k": 0, "eos_token_id": None, "pad_token_id": 0}
    counts = torch.zeros(2, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for i in range(100):
            counts[0, model.generate(tokens, **settings)[0, -1]] += 1
            guesser = Guesser([1, 2, 3, *range(1, 4)], seed=i, embeds=False, vocabulary=8)
            counts[1, model.generate(tokens, custom_generate=guesser, **settings)[0, -1]] += 1
    assert float((counts[0] - counts[1]).abs().max()) < 30


def test_typical_acceptance_takes_the_longest_path_of_likely_tokens():
    class State:
        draft = TreeDraft(tokens=[0, 1, 2, 3, 4], parents=[-1, 0, 0, 1, 2])
        ids = torch.tensor([[0]])
        scores = staticmethod(lambda logits, ids: logits)
        longer = staticmethod(lambda ids, token: torch.cat((ids, torch.tensor([[token]])), 1))
        choose = staticmethod(lambda logits, ids: int(logits.argmax()))

    shares = torch.full((5, 6), 0.01)
    shares[0, 1], shares[0, 2] = 0.55, 0.41
    shares[1, 5] = 0.95  # after 1, the guess 3 is not typical
    shares[2, 4] = 0.95
    shares[4, 3] = 0.95
    taken = typical(State(), shares.log(), threshold=0.3, factor=0.5)
    assert taken.rows == [0, 2, 4] and taken.following == 3
    shares[2, 4], shares[2, 5] = 0.01, 0.95
    assert typical(State(), shares.log(), threshold=0.3, factor=0.5).rows == [0, 1]


@pytest.mark.parametrize("slug", ["snapkv", "h2o"])
def test_a_cache_that_scores_every_row_is_refused(model, slug):
    with memspan.context(slug, model), pytest.raises(InputError, match="take guesses back"):
        model.generate(ids(12), custom_generate=Guesser(), **GENERATE)


def test_what_cannot_be_decoded_is_said(model):
    for tokens, settings, message in (
        (ids(8).repeat(2, 1), {}, "2 rows"),
        (ids(8), {"num_beams": 2}, "2 rows"),
        (ids(8), {"return_dict_in_generate": True}, "return_dict_in_generate"),
        (ids(8), {"attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1]])}, "padded"),
    ):
        with pytest.raises(InputError, match=message):
            model.generate(tokens, custom_generate=Guesser(), **{**GENERATE, **settings})
    with pytest.raises(InputError, match="follow their parents"):
        TreeDraft(tokens=[1, 2], parents=[-1, 1])
    with memspan.context("full", model) as reader, pytest.raises(InputError, match="no draft"):
        accept_rows(reader, [0])


def test_a_draft_that_is_not_accepted_leaves_no_trace(model):
    with memspan.context("full", model) as reader, torch.no_grad():
        reader.feed(ids(10))
        before = reader.slots()
        run_draft(reader, TreeDraft(tokens=[3, 4, 5], parents=[-1, 0, 0]))
        assert reader.slots() == before and reader.seen == 10
