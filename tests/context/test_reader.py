"""The reader: exactness, bytes, batches, interruption, saving, undo, and errors."""

from __future__ import annotations

import re

import pytest
import torch

import memspan
from memspan.context.baselines import BASELINES
from memspan.context.reader import find_system
from memspan.core.errors import BudgetError, InputError, UnsupportedModelError
from memspan.core.testing import tiny_llama

SYSTEMS = [
    *BASELINES,
    "cca-attention",
    "lm-infinite",
    "locret",
    "longmem",
    "memory-reweaving",
    "sirllm",
    "synaptic-resonance",
]
EXACT = [slug for slug in SYSTEMS if find_system(slug).exact]
BOUNDED = [slug for slug in SYSTEMS if slug != "full"]
SMALL = {
    "window": {"slots": 24, "chunk": 8},
    "random": {"slots": 24, "chunk": 8, "recent": 4},
    "snapkv": {"slots": 24, "chunk": 8, "recent": 4},
    "h2o": {"slots": 24, "chunk": 8, "recent": 4},
    "lm-infinite": {"window": 20, "sinks": 4, "chunk": 8},
    "locret": {"slots": 24, "chunk": 8, "stabilizers": 6, "tail": 4},
    "longmem": {"slots": 24, "chunk": 8, "capacity": 16, "top_k": 8},
    "sirllm": {"slots": 24, "chunk": 8, "guard": 4},
    "cca-attention": {"local": 16, "group": 4, "cores": 6, "chunk": 8},
    "memory-reweaving": {"slots": 24, "chunk": 8, "period": 8, "capture": 3, "ring": 10},
    "synaptic-resonance": {"slots": 24, "chunk": 8, "write": 4, "history": 4},
}
GENERATE = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}


def ids(count, batch=1, seed=0):
    return torch.randint(1, 64, (batch, count), generator=torch.Generator().manual_seed(seed))


def context_bytes(reader):
    """What a budget bounds: what a system has learned is counted apart, as weights."""
    return reader.footprint().by_tier["context"]


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


# --- exact -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", EXACT)
@pytest.mark.parametrize("chunk", [7, 64])
def test_with_room_for_everything_it_is_plain_generate(model, slug, chunk):
    tokens = ids(40)
    with torch.no_grad():
        plain = model(tokens).logits
        with memspan.context(slug, model, chunk=chunk, **({"window": 100} if slug == "lm-infinite" else {})) as reader:
            assert float((model(tokens).logits - plain).abs().max()) <= 1e-5
            reader.reset()
            said = model.generate(tokens, **GENERATE)
    assert torch.equal(said, model.generate(tokens, **GENERATE))


@pytest.mark.parametrize("slug", SYSTEMS)
def test_left_padded_rows_are_read_as_if_alone(model, slug):
    tokens, mask = ids(30, batch=3), torch.ones(3, 30, dtype=torch.long)
    mask[0, :9], mask[1, :3] = 0, 0
    with torch.no_grad(), memspan.context(slug, model, chunk=7, batch=3) as reader:
        together = model(tokens, attention_mask=mask).logits
        assert together.isfinite().all()
        for row in range(3):
            alone = tokens[row : row + 1, int((mask[row] == 0).sum()) :]
            reader.cache = reader._new_cache(1)
            said = model(alone).logits
            assert float((said - together[row : row + 1, -alone.shape[1] :]).abs().max()) <= 1e-5


@pytest.mark.parametrize("slug", BOUNDED)
def test_padded_rows_stay_finite_after_eviction(model, slug):
    tokens, mask = ids(60, batch=2), torch.ones(2, 60, dtype=torch.long)
    mask[0, :37] = 0
    with memspan.context(slug, model, batch=2, **SMALL[slug]) as reader:
        out = model.generate(tokens, attention_mask=mask, **GENERATE)
        assert out.shape == (2, 70)
        kept = reader.cache.tracks[0].pos[1, 0, : reader.cache.tracks[0].n]
        assert (kept >= 0).all() and (kept.diff() > 0).all()


def test_chunked_prefill_and_going_on_from_the_cache_are_plain_generate(model):
    tokens = ids(40)
    plain = model.generate(tokens, **GENERATE)
    with memspan.context("full", model) as reader:
        cache = {reader.family.cache_word: reader.cache}
        chunked = model.generate(tokens, prefill_chunk_size=6, **cache, **GENERATE)
        assert torch.equal(chunked, plain)
        reader.reset()
        reader.feed(tokens[:, :25])
        cache = {reader.family.cache_word: reader.cache}
        assert torch.equal(model.generate(tokens, **cache, **GENERATE), plain)


def test_beam_search_and_prompt_lookup_are_plain_generate(model):
    tokens = ids(20).repeat(1, 2)
    for more in ({"num_beams": 3}, {"prompt_lookup_num_tokens": 3}):
        plain = model.generate(tokens, **GENERATE, **more)
        with memspan.context("full", model, batch=more.get("num_beams", 1)):
            assert torch.equal(model.generate(tokens, **GENERATE, **more), plain)


def test_bfloat16_is_close_to_plain(model):
    half = tiny_llama().to(torch.bfloat16)
    tokens = ids(40)
    with torch.no_grad():
        plain = half(tokens).logits
        with memspan.context("full", half, chunk=7):
            assert float((half(tokens).logits - plain).abs().max()) < 0.02


def test_surprisal_is_the_models_own(model):
    tokens = ids(30)
    with torch.no_grad(), memspan.context("full", model, chunk=7) as reader:
        said = reader.feed(tokens, nll=True)
    with torch.no_grad():
        logs = model(tokens).logits.log_softmax(-1)
    assert said[0, 0].isnan()
    assert torch.allclose(said[0, 1:], -logs[0, :-1].gather(1, tokens[0, 1:, None])[:, 0], atol=1e-5)


# --- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", ["full", "window", "sirllm"])
def test_an_answer_is_scored_and_the_reader_stays_where_it_was(model, slug):
    text, question, answer = ids(30), ids(5, seed=1), ids(4, seed=2)
    with memspan.context(slug, model) as reader:
        reader.feed(text)
        nats, other = reader.score(question, [answer, answer[:, :1]])
        assert reader.seen == 30
        torch.testing.assert_close(other, nats[:, :1])
        torch.testing.assert_close(nats, reader.score(question[0].tolist(), [answer[0].tolist()])[0])
    with torch.no_grad():
        logs = model(torch.cat((text, question, answer), 1)).logits[:, -5:-1].log_softmax(-1)
    torch.testing.assert_close(nats, -logs.gather(2, answer[..., None])[..., 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_the_footprint_is_what_the_ledger_counts_and_stays_in_the_budget(model, slug):
    budget = 60_000
    with memspan.context(slug, model, budget=budget) as reader, memspan.Ledger(model) as ledger:
        for part in range(6):
            reader.feed(ids(20, seed=part))
            assert context_bytes(reader) <= budget
        model.generate(ids(5), **GENERATE)
        ledger.watch_context(reader.cache)
        assert ledger.now.by_tier["context"] == context_bytes(reader)


@pytest.mark.parametrize("slug", BOUNDED)
def test_bytes_do_not_grow_with_the_stream(model, slug):
    with memspan.context(slug, model, **SMALL[slug]) as reader:
        held = set()
        for part in range(6):
            reader.feed(ids(50, seed=part))
            held.add(reader.footprint().total)
        assert len(held) == 1 and reader.seen == 300


@pytest.mark.parametrize("slug", SYSTEMS)
def test_a_budget_too_small_says_what_would_do(model, slug):
    with pytest.raises(BudgetError) as error, memspan.context(slug, model, budget=100):
        pass
    with memspan.context(slug, model, budget=error.value.needed) as reader:
        reader.feed(ids(1))
        assert context_bytes(reader) <= error.value.needed


def test_the_full_cache_refuses_what_the_budget_cannot_hold_and_keeps_what_it_has(model):
    with memspan.context("full", model, budget=20_000) as reader:
        reader.feed(ids(30))
        with pytest.raises(BudgetError, match="raise the budget"):
            reader.feed(ids(60))
        assert reader.seen == 30 and reader.footprint().total <= 20_000


# --- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", SYSTEMS)
def test_a_saved_context_goes_on_as_if_never_stopped(model, slug, tmp_path):
    options = SMALL.get(slug, {})
    with memspan.context(slug, model, **options) as reader:
        reader.feed(ids(70))
        reader.save(tmp_path / "context")
        went_on = reader.feed(ids(30, seed=1), nll=True)
        before = reader.slots()
    with memspan.context(slug, model, **options) as reader:
        reader.load(tmp_path / "context")
        assert torch.equal(reader.feed(ids(30, seed=1), nll=True), went_on)
        assert [slot.position for slot in reader.slots()] == [slot.position for slot in before]


def test_a_context_of_another_model_or_system_is_refused(model, tmp_path):
    with memspan.context("window", model, slots=24) as reader:
        with pytest.raises(InputError, match="nothing was read"):
            reader.save(tmp_path / "context")
        reader.feed(ids(30))
        reader.save(tmp_path / "context")
    with memspan.context("window", tiny_llama(seed=1), slots=24) as reader, pytest.raises(InputError, match="model"):
        reader.load(tmp_path / "context")
    with memspan.context("sirllm", model) as reader, pytest.raises(InputError, match="system"):
        reader.load(tmp_path / "context")
    (tmp_path / "noise").write_bytes(b"noise")
    with memspan.context("window", model) as reader, pytest.raises(InputError, match="cannot be read"):
        reader.load(tmp_path / "noise")


@pytest.mark.parametrize("slug", SYSTEMS)
def test_an_interrupted_pass_is_taken_back(model, slug):
    options = SMALL.get(slug, {"chunk": 8})
    with memspan.context(slug, model, **options) as reader:
        reader.feed(ids(40))
        reader.feed(ids(8, seed=1))
        whole = reader.feed(ids(8, seed=2), nll=True)
    with memspan.context(slug, model, **options) as reader:
        reader.feed(ids(40))

        def stop(*_):
            raise KeyboardInterrupt

        hook = model.model.layers[1].register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            model(ids(8, seed=1))
        hook.remove()
        reader.feed(ids(8, seed=1))
        assert reader.seen == 48
        assert torch.allclose(reader.feed(ids(8, seed=2), nll=True), whole, atol=1e-5)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_a_fork_leaves_no_trace(model, slug):
    with memspan.context(slug, model, **SMALL.get(slug, {})) as reader:
        reader.feed(ids(50))
        before = reader.slots()
        with reader.fork():
            reader.feed(ids(50, seed=3))
            model.generate(ids(4), **GENERATE)
        assert reader.slots() == before and reader.seen == 50


def test_leaving_the_block_leaves_nothing(model):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    tokens, names = ids(20), set(ALL_ATTENTION_FUNCTIONS)
    before, implementation = model.generate(tokens, **GENERATE), model.config._attn_implementation
    model.train()
    with pytest.raises(RuntimeError, match="on purpose"), memspan.context("window", model):
        raise RuntimeError("on purpose")
    assert model.training
    model.eval()
    assert set(ALL_ATTENTION_FUNCTIONS) == names and model.config._attn_implementation == implementation
    assert not model.model._forward_pre_hooks and not model.model._forward_hooks
    assert torch.equal(model.generate(tokens, **GENERATE), before)


def test_a_stream_and_one_token_at_a_time_are_read_alike(model):
    tokens = ids(30)[0].tolist()
    with memspan.context("full", model) as reader:
        reader.feed(iter([tokens[:11], tokens[11:]]))
        at_once = model.generate(ids(2), **GENERATE)
        reader.reset()
        for token in tokens:
            reader.feed([token])
        assert torch.equal(model.generate(ids(2), **GENERATE), at_once)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "nothing to read"),
        ("text", "tokenizer"),
        ([64], "from 0 to 63"),
        ([0.5], "whole numbers"),
        (7, "cannot be"),
    ],
)
def test_what_cannot_be_read_is_said(model, data, message):
    with memspan.context("full", model) as reader, pytest.raises(InputError, match=message):
        reader.feed(data)


def test_unusable_options_are_said(model):
    for slug, options, message in (
        ("sirllm", {"decay": 0.0}, "decay"),
        ("sirllm", {"whole_words": "sum"}, "word_starts"),
        ("lm-infinite", {"window": 1}, "window"),
        ("window", {"sinks": -1}, "sinks"),
        ("window", {"nonsense": 1}, "nonsense"),
        ("nowhere", {}, "no system is called"),
    ):
        with pytest.raises(InputError, match=message):
            memspan.context(slug, model, **options)
    with pytest.raises(InputError, match="in this process"):
        memspan.context("window", object())
    with memspan.context("window", model), pytest.raises(InputError, match="already has"):
        memspan.context("window", model).__enter__()
    with pytest.raises(InputError, match="with block"):
        memspan.context("window", model).feed([1])


def test_a_compiled_model_is_refused():
    compiled = torch.compile(tiny_llama(), backend="eager")
    with pytest.raises(UnsupportedModelError, match=re.escape("torch.compile")), memspan.context("full", compiled):
        pass
