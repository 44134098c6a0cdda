"""Parallel prompt decoding: exact, learned, its trees and their promises, what it keeps, what it refuses."""

from __future__ import annotations

import itertools

import pytest
import torch

import memspan
from memspan.context import ppd
from memspan.context.ppd.prompts import accuracies, own_text
from memspan.context.ppd.search import Tree, best_plan, likeliest_paths, plan_of, promised, tuned
from memspan.core.errors import InputError
from memspan.core.testing import tiny_llama
from tests.context.test_reader import SMALL

GENERATE = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
CONFIG = ppd.PpdConfig(prompt=4, own=20, cuts=4)
ACCURACY = [[0.48, 0.14, 0.07, 0.05], [0.26, 0.15, 0.08, 0.05], [0.2, 0.1, 0.07, 0.05]]
FLAT = {size: 1.0 + 0.01 * size for size in (1, 2, 4, 8, 16, 32)}


def ids(count, seed=0):
    return torch.randint(1, 64, (1, count), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return tiny_llama(positions=256)


@pytest.fixture(scope="module")
def decoder(model):
    made = ppd.fit(model, ids(400)[0], steps=40, rows=24, batch=2, config=CONFIG)
    made.tune(model, latency=FLAT, size=16)
    return made


# --- exact -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", ["full", "window", "lm-infinite", "sirllm"])
def test_over_every_cache_it_is_plain_decoding(model, decoder, slug):
    for seed in range(2):
        with memspan.context(slug, model, **SMALL.get(slug, {})):
            plain = model.generate(ids(20, seed), **GENERATE)
        with memspan.context(slug, model, **SMALL.get(slug, {})):
            said = model.generate(ids(20, seed), custom_generate=decoder, **GENERATE)
        assert torch.equal(said, plain)


def test_untrained_and_untuned_it_is_plain_decoding(model):
    prompts = ppd.PromptTokens(CONFIG)
    prompts.prepare(model)
    made = ppd.ParallelPromptDecoder(prompts)
    tokens = ids(12)
    plain = model.generate(tokens, **GENERATE)
    assert torch.equal(model.generate(tokens, custom_generate=made, **GENERATE), plain)
    assert made.report().tokens_per_pass == 1 and "nothing was measured" in made.report().why
    made.accuracy, made.latency = ACCURACY, FLAT
    made.replan(size=16)
    assert torch.equal(model.generate(tokens, custom_generate=made, **GENERATE), plain)


def test_it_puts_out_more_than_one_token_a_pass_as_foretold(model, decoder):
    plan = decoder.replan(size=16)
    for seed in range(20, 28):
        model.generate(ids(4, seed), custom_generate=decoder, **GENERATE)
    report = decoder.report()
    assert report.tokens == 8 * 23 and report.passes < report.tokens
    assert report.tokens_per_pass > 1.05
    assert report.tokens_per_pass == pytest.approx(plan.tokens, rel=0.25)
    assert report.rows_per_pass <= 16
    assert report.measured_speedup > 0


def test_sampling_stays_inside_what_was_asked(model, decoder):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {**GENERATE, "do_sample": True, "max_new_tokens": 9}
        assert model.generate(ids(8), custom_generate=decoder, **settings).shape == (1, 17)
        exact = ppd.ParallelPromptDecoder(ppd.PromptTokens(ppd.PpdConfig(prompt=4, own=20, acceptance="exact")))
        exact.prompts.embeddings, exact.plan = decoder.prompts.embeddings, decoder.plan
        assert model.generate(ids(8), custom_generate=exact, **settings).shape == (1, 17)


# --- learning --------------------------------------------------------------------------------------------------------


def test_prompt_tokens_learn_to_guess(model, decoder):
    rows = own_text(model, ids(400, seed=9)[0], 12, CONFIG, seed=5)
    untrained = ppd.PromptTokens(CONFIG)
    untrained.prepare(model)
    before, after = accuracies(untrained, model, rows), accuracies(decoder.prompts, model, rows)
    assert sum(after[0]) > sum(before[0]) + 0.05


def test_the_models_own_text_is_its_own_and_is_kept(model, tmp_path):
    stream = ids(100)[0]
    rows = own_text(model, stream, 5, CONFIG, batch=2)
    for row in rows:
        plain = model.generate(row[None, :4], **{**GENERATE, "max_new_tokens": 20})
        assert torch.equal(plain[0], row)
    kept = tmp_path / "own.safetensors"
    part = own_text(model, stream, 5, CONFIG, batch=2, keep=kept)
    assert torch.equal(part, rows) and kept.exists()
    assert torch.equal(own_text(None, stream, 5, CONFIG, keep=kept), rows)
    assert torch.equal(
        own_text(model, stream, 3, CONFIG, keep=kept, seed=1), own_text(model, stream, 3, CONFIG, seed=1)
    )


def test_guesses_at_many_places_are_those_at_one(model, decoder):
    row = ids(24)
    with decoder.prompts.reader(model, 3) as reader, torch.no_grad():
        cuts = torch.tensor([5, 9, 17])
        together, truth = decoder.prompts.guess(reader, row, cuts)
    with torch.no_grad():
        embeds = model.get_input_embeddings()(row)
        for i, cut in enumerate(cuts.tolist()):
            behind = torch.cat((embeds[:, : cut + 1], decoder.prompts.embeddings[None]), 1)
            alone = model(inputs_embeds=behind).logits[0, -3:]
            assert torch.allclose(together[0, i], alone, atol=1e-4)
        hidden = model.model(row).last_hidden_state
    assert torch.allclose(truth[0, 1], hidden[0, 10:13], atol=1e-4)


# --- trees -----------------------------------------------------------------------------------------------------------


def test_the_likeliest_paths_are_the_likeliest():
    found = likeliest_paths(ACCURACY, 3, 20)
    every = {}
    for depth in (1, 2, 3):
        for path in itertools.product(range(4), repeat=depth):
            chance = 1.0
            for level, rank in enumerate(path):
                chance *= ACCURACY[level][rank]
            every[path] = chance
    best = sorted(every.values(), reverse=True)[:20]
    assert [chance for _, chance in found] == pytest.approx(best)
    assert all(every[path] == pytest.approx(chance) for path, chance in found)
    for i, (path, _) in enumerate(found):
        assert len(path) == 1 or path[:-1] in [other for other, _ in found[:i]]


def test_trees_fit_and_their_states_are_a_chain():
    for size in (2, 5, 16, 40):
        plan = best_plan(ACCURACY, size)
        assert all(tree.rows <= size for tree in plan.trees) and sum(plan.states) == pytest.approx(1)
        assert 1 <= plan.tokens <= 4
    trees, moves, worth = promised(ACCURACY, (4, 6, 8), 20)
    assert moves.sum(1) == pytest.approx([1, 1, 1, 1])
    assert worth[1] == pytest.approx(0.74) and list(worth) == sorted(worth)
    assert [len(tree.paths) for tree in trees] == [1, 5, 7, 9]


def test_the_promise_is_what_a_simulation_of_it_brings():
    plan = plan_of(ACCURACY, (4, 6, 8), 20)
    chance = torch.Generator().manual_seed(0)
    state, tokens, passes = 0, 0, 5_000
    for _ in range(passes):
        tree = plan.trees[state]
        path = ()
        while len(path) < state:
            shares = torch.tensor([*ACCURACY[len(path)], 1 - sum(ACCURACY[len(path)])])
            rank = int(torch.multinomial(shares, 1, generator=chance))
            if (*path, rank) not in tree.paths:
                break
            path = (*path, rank)
        tokens += 1 + len(path)
        state = tree.prompts[tree.paths.index(path)]
    assert tokens / passes == pytest.approx(plan.tokens, rel=0.05)


def test_prompt_tokens_go_first_from_where_they_are_worth_least():
    trees, _, _ = promised(ACCURACY, (4, 6, 8), 20)
    full = trees[3]
    where = dict(zip(full.paths, full.prompts, strict=True))
    assert where[()] >= where[(0,)] >= where[(0, 0)] >= 0 and full.rows == 20


def test_more_rows_promise_more_and_a_steep_curve_promises_plain_decoding():
    tokens = [best_plan(ACCURACY, size).tokens for size in (1, 2, 4, 8, 16, 32)]
    assert tokens == sorted(tokens) and tokens[0] == 1
    assert tuned(ACCURACY, FLAT).size > 8
    steep = {size: float(size) for size in FLAT}
    assert tuned(ACCURACY, steep).size == 1 and tuned(ACCURACY, steep).speedup == 1


def test_a_tree_that_must_be_smaller_keeps_its_likeliest_nodes():
    tree = Tree(((), (0,), (1,), (0, 0)), (2, 1, 0, 0))
    assert tree.within(100, 9) == tree
    assert tree.within(5, 9) == Tree(tree.paths, (1, 0, 0, 0))
    assert tree.within(2, 9) == Tree(((), (0,)), (0, 0))
    assert tree.within(100, 1).paths == ((), (0,), (1,))
    assert tree.within(1, 0) == Tree(((),), (0,))


# --- keeping, counting, refusing -------------------------------------------------------------------------------------


def test_what_was_learned_and_tuned_is_kept(model, decoder, tmp_path):
    decoder.save(tmp_path / "ppd", model)
    loaded = ppd.ParallelPromptDecoder.load(tmp_path / "ppd", model)
    assert loaded.plan == decoder.plan and loaded.latency == decoder.latency
    assert torch.equal(loaded.prompts.embeddings, decoder.prompts.embeddings)
    tokens = ids(10)
    said = [model.generate(tokens, custom_generate=each, **GENERATE) for each in (decoder, loaded)]
    assert torch.equal(*said)
    with pytest.raises(InputError, match="another model"):
        ppd.ParallelPromptDecoder.load(tmp_path / "ppd", tiny_llama(seed=1))


def test_its_bytes_are_the_prompt_tokens_and_the_slots_of_a_tree(model, decoder):
    plan = decoder.replan(size=16)
    with memspan.context("full", model) as reader:
        one = reader.family.slot_bytes(per_head=False, track=28)
    said = decoder.footprint(model).by_tier
    assert said["weights"] == 3 * 32 * 4
    assert said["context"] == (max(tree.rows for tree in plan.trees) - 1) * one


def test_the_latency_curve_is_measured(model):
    curve = ppd.decoder.measure_latency(model, (1, 4), cache=16, repeats=2)
    assert sorted(curve) == [1, 4] and all(seconds > 0 for seconds in curve.values())
    assert not model.model._forward_pre_hooks


def test_what_cannot_be_is_said(model, decoder):
    with pytest.raises(InputError, match="learned for another model"):
        tiny_llama(hidden=16).generate(ids(4), custom_generate=decoder, **GENERATE)
    with pytest.raises(InputError, match="4 rows"):
        model.generate(ids(4).repeat(4, 1), custom_generate=decoder, **GENERATE)
    with pytest.raises(InputError, match="fewer than a prompt"):
        ppd.fit(model, [[1, 2]], steps=1, config=CONFIG)
    prompts = ppd.PromptTokens(CONFIG)
    prompts.prepare(model)
    with pytest.raises(InputError, match="nothing to measure on"):
        ppd.ParallelPromptDecoder(prompts).tune(model)
    with pytest.raises(InputError, match="tune first"):
        ppd.ParallelPromptDecoder(prompts).replan()
    for changed in ({"n": 0}, {"own": 3}, {"acceptance": "all"}, {"decay": 0.0}):
        with pytest.raises(InputError, match=next(iter(changed))):
            ppd.PpdConfig(**changed)
    with pytest.raises(InputError, match="one row"):
        best_plan(ACCURACY, 4, {2: 1.0})
