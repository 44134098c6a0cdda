"""HMT: segments against a plain reference, what is recalled, bytes, and memories that do not depend on the calls."""

from __future__ import annotations

import math

import pytest
import torch

import memspan
from memspan.context.hmt import Hmt, SegmentMemory
from memspan.core.errors import BudgetError, InputError
from memspan.core.testing import tiny_llama

# 12 tokens in a segment, of which a query reads 6.
SMALL = {"segment": 18, "sensory": 4, "store": 5, "recall_dim": 16}
GENERATE = {"max_new_tokens": 30, "do_sample": False, "pad_token_id": 0}


def ids(count, batch=1, seed=0):
    return torch.randint(1, 64, (batch, count), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


def made(model, **options):
    system = Hmt(**{**SMALL, **options})
    system.prepare(model)
    return system


def plainly(model, system, tokens):
    """Logits of whole segments, all memories, and the shares of the last recall; segment by segment, written out."""
    config, embed, base = system.config, model.get_input_embeddings(), model.model
    m, k, s = config.memory, config.sensory, config.tokens
    memories, logits, shares = [], [], None
    for at in range(0, tokens.shape[1], s):
        x = tokens[:, at : at + s]
        chosen = system.first_memory[None]
        if memories and config.recall:
            t = system.summary[None]
            query = base(inputs_embeds=torch.cat((t, embed(x[:, : s // 2]), t), 1)).last_hidden_state[:, -1]
            kept = torch.stack(memories[-config.store :], 1)
            products = [system.query(query) @ system.key(row.mean(0)) for row in kept[0]]
            shares = torch.stack(products, 1).div(math.sqrt(config.recall_dim)).softmax(1)
            chosen = sum(share * row for share, row in zip(shares[0], kept[0], strict=True))[None]
        elif memories:
            chosen = memories[-1]
        if config.fitting != "none":
            chosen = chosen / chosen.square().mean(-1, keepdim=True).sqrt() * system.scale
        before = embed(tokens[:, max(0, at - k) : at])
        hidden = base(inputs_embeds=torch.cat((chosen, before, embed(x), chosen), 1)).last_hidden_state
        memories.append(hidden[:, -m:])
        logits.append(model.lm_head(hidden[:, m + before.shape[1] : -m]))
    return torch.cat(logits, 1), torch.cat(memories, 0)[-config.store :], shares


@pytest.mark.parametrize("options", [{}, {"recall": False}, {"memory": 2, "segment": 20}, {"fitting": "none"}])
def test_segments_are_read_as_written_out(model, options):
    system, tokens = made(model, **options), ids(84)
    with torch.no_grad():
        logits, memories, shares = plainly(model, system, tokens)
        with memspan.context(system, model) as reader:
            assert torch.allclose(model(tokens).logits, logits, atol=1e-5)
            assert torch.allclose(reader.cache.extra["memories"][0], memories, atol=1e-5)
            kept = system.memories(reader)
    assert [(row.begin, row.end) for row in kept] == [(at, at + 12) for at in range(24, 84, 12)]
    assert all(isinstance(row, SegmentMemory) for row in kept)
    if shares is not None:
        # The newest memory was made after the recall, and the oldest of that time has gone.
        assert [row.share for row in kept] == pytest.approx([*shares[0, 1:].tolist(), 0.0], abs=1e-5)


@pytest.mark.parametrize("chunk", [5, 12])
@pytest.mark.parametrize("piece", [1, 4, 7, 31, 90])
def test_memories_do_not_depend_on_how_a_text_is_cut(model, chunk, piece):
    system, tokens = made(model, chunk=chunk), ids(90)
    with torch.no_grad():
        _, memories, _ = plainly(model, system, tokens[:, :84])
        with memspan.context(system, model) as reader:
            for at in range(0, 90, piece):
                reader.feed(tokens[:, at : at + piece])
            assert reader.seen == 90
            assert torch.allclose(reader.cache.extra["memories"][0], memories, atol=1e-4)


def test_the_second_half_of_a_segment_is_read_alike_in_any_pieces(model):
    system, tokens = made(model), ids(36)
    with torch.no_grad(), memspan.context(system, model) as reader:
        at_once = reader.feed(tokens, nll=True)
        reader.reset()
        pieces = torch.cat([reader.feed(tokens[:, at : at + 2], nll=True) for at in range(0, 36, 2)], 1)
    assert at_once.isfinite()[0, 1:].all() and at_once.shape == pieces.shape == (1, 36)
    for segment in range(3):
        # The two tokens that complete the first half are read with what they let recall.
        half = slice(12 * segment + 6, 12 * segment + 12)
        assert torch.allclose(at_once[:, half], pieces[:, half], atol=1e-4)


def test_what_is_asked_last_is_what_is_recalled_for(model):
    system, tokens, question = made(model), ids(40), ids(5, seed=1)
    with torch.no_grad(), memspan.context(system, model) as reader:
        reader.feed(tokens)
        before = reader.cache.extra["share"].clone()
        with reader.fork():
            model(question)
            asked = reader.cache.extra["share"]
        assert torch.equal(reader.cache.extra["share"], before)
        heard = torch.cat((tokens, question), 1)[:, -6:]
        t = system.summary[None]
        state = model.model.embed_tokens(heard)
    with torch.no_grad():
        query = model.model(inputs_embeds=torch.cat((t, state, t), 1)).last_hidden_state[:, -1]
        _, memories, _ = plainly(model, system, tokens[:, :36])
        shares = (system.key(memories.mean(1)) @ system.query(query)[0] / math.sqrt(16)).softmax(0)
    assert torch.allclose(asked[0, -3:], shares, atol=1e-5)


def test_it_writes_on_over_many_segments(model):
    system = made(model)
    with memspan.context(system, model) as reader:
        reader.feed(ids(50))
        out = model.generate(ids(3, seed=1), **GENERATE)
        assert out.shape == (1, 33) and reader.seen == 50 + 3 + 29
        assert [row.end for row in system.memories(reader)] == [24, 36, 48, 60, 72]
        reader.reset()
        assert model.generate(ids(20), **GENERATE, num_beams=2).shape == (1, 50)


def test_one_token_is_enough(model):
    with memspan.context(made(model), model) as reader:
        assert model(ids(1)).logits.isfinite().all()
        reader.feed([5])
        assert reader.seen == 2 and reader.system.memories(reader) == []


def test_left_padding_is_not_read_and_not_remembered(model):
    tokens, mask = ids(29, batch=2), torch.ones(2, 29, dtype=torch.long)
    mask[0, :17] = 0
    system = made(model)
    with torch.no_grad(), memspan.context(system, model, batch=2) as reader:
        before = reader.feed(tokens, mask=mask, nll=True)
        assert [(row.begin, row.end) for row in system.memories(reader, 0)] == [(0, 7)]
        assert [(row.begin, row.end) for row in system.memories(reader, 1)] == [(0, 12), (12, 24)]
        assert reader.cache.tracks[0].real.tolist() == [12, 29]
        changed = tokens.clone()
        changed[0, :17] = 7
        reader.reset()
        assert torch.equal(reader.feed(changed, mask=mask, nll=True).nan_to_num(9), before.nan_to_num(9))
        assert before[0, :18].isnan().all() and before[0, 18:].isfinite().all()
        out = model.generate(tokens, attention_mask=mask, **GENERATE)
        assert out.shape == (2, 59)


# --- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2])
def test_bytes_are_counted_flat_and_in_the_budget(model, batch):
    with pytest.raises(BudgetError, match="raise the budget") as error:
        memspan.context("hmt", model, budget=100, batch=batch, **SMALL).__enter__()
    needed = error.value.needed
    with (
        memspan.context("hmt", model, budget=needed, batch=batch, **SMALL) as reader,
        memspan.Ledger(model) as ledger,
    ):
        held = set()
        for part in range(8):
            reader.feed(ids(25, batch, seed=part))
            held.add(reader.footprint().by_tier["context"])
        model.generate(ids(9, batch), **GENERATE)
        ledger.watch_context(reader.cache)
        held.add(ledger.now.by_tier["context"])
        assert len(held) == 1 and held.pop() == needed
        assert reader.cache.extra["memories"].nbytes == batch * 5 * 32 * 4
        learned = sum(p.nbytes for p in reader.system.parameters())
        assert reader.footprint().by_tier["weights"] == learned == 4 * (32 + 32 + 1 + 2 * 32 * 16)


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_saved_context_goes_on_as_if_never_stopped(model, tmp_path):
    with memspan.context("hmt", model, **SMALL) as reader:
        reader.feed(ids(41))
        reader.save(tmp_path / "context")
        went_on = reader.feed(ids(40, seed=1), nll=True)
    with memspan.context("hmt", model, **SMALL) as reader:
        reader.load(tmp_path / "context")
        with reader.fork():
            reader.feed(ids(30, seed=2))
        assert torch.equal(reader.feed(ids(40, seed=1), nll=True), went_on)


def test_an_interrupted_pass_is_taken_back(model):
    system = made(model)

    def stop(*_):
        raise KeyboardInterrupt

    with memspan.context(system, model) as reader:
        reader.feed(ids(16))
        reader.feed(ids(40, seed=1))
        wanted = reader.cache.extra["memories"].clone()
        for passes in (1, 2, 3):  # the query's, and the segment's, which has been emptied by then
            reader.reset()
            reader.feed(ids(16))
            left = [passes]

            def count(*_, left=left):
                left[0] -= 1
                if left[0] == 0:
                    stop()

            hook = model.model.layers[1].register_forward_pre_hook(count)
            with pytest.raises(KeyboardInterrupt):
                reader.feed(ids(40, seed=1))
            hook.remove()
            assert len(reader.slots()) == (18 if passes == 3 else 9 if passes == 1 else 0)
            assert reader.seen == (24 if passes == 3 else 16)
            reader.feed(ids(40, seed=1)[:, reader.seen - 16 :])
            assert torch.allclose(reader.cache.extra["memories"], wanted, atol=1e-5)


# --- learning --------------------------------------------------------------------------------------------------------


def said_twice(count):
    """Segments of 12 whose second half repeats the one before."""
    chance, out = torch.Generator().manual_seed(0), []
    half = torch.randint(1, 64, (6,), generator=chance)
    for _ in range(count):
        new = torch.randint(1, 64, (6,), generator=chance)
        out += [new, half]
        half = new
    return torch.cat(out)


FIT = {"steps": 10, "batch": 2, "lr": 0.01, "every": 4}


@pytest.mark.parametrize("options", [{"loss": "all"}, {"backbone": "lora", "rank": 2, "fitting": "linear"}])
def test_it_learns_and_what_it_learned_is_used(model, tmp_path, options):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    system = Hmt(**SMALL, unroll=(2, 3), **options)
    done = system.fit(model, said_twice(60), out=tmp_path / "hmt", **{**FIT, "steps": 40})
    assert done.after < done.before
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    tokens = ids(40)
    with torch.no_grad(), memspan.context(system, model):
        wanted = model(tokens).logits
    with torch.no_grad(), memspan.context("hmt", model, weights=tmp_path / "hmt"):
        assert torch.allclose(model(tokens).logits, wanted, atol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_training_taken_up_again_has_the_same_losses(model, tmp_path):
    def stop(step, loss):
        if step == 6:
            raise RuntimeError("on purpose")

    whole = Hmt(**SMALL, unroll=(2, 3)).fit(model, said_twice(60), **FIT)
    with pytest.raises(RuntimeError, match="on purpose"):
        Hmt(**SMALL, unroll=(2, 3)).fit(model, said_twice(60), out=tmp_path / "hmt", on_step=stop, **FIT)
    again = Hmt(**SMALL, unroll=(2, 3)).fit(model, said_twice(60), out=tmp_path / "hmt", **FIT)
    assert again.resumed_at == 4 and again.losses == pytest.approx(whole.losses, abs=1e-5)


def gradient(model, **options):
    """Of the prompt of a text without memories, from the loss of the fourth segment."""
    system = made(model, recall=False, **options)
    with memspan.context(system, model) as reader:
        system.segments_loss(reader, ids(48)).backward()
    return system.first_memory.grad


def test_the_gradient_flows_through_all_memories_up_to_the_horizon(model):
    assert bool((gradient(model) != 0).any())
    assert bool((gradient(model, horizon=3) != 0).any())
    assert gradient(model, horizon=2) is None or bool((gradient(model, horizon=2) == 0).all())


def test_the_right_segment_can_be_taught(model):
    system = made(model, passed_on=0.0, retrieval=1.0)
    gold = torch.full((8, 4), -1)
    gold[:, 3] = 1
    optimizer = torch.optim.Adam([*system.query.parameters(), *system.key.parameters()], lr=0.02)
    with memspan.context(system, model, batch=8) as reader:
        for _ in range(20):
            reader.reset()
            loss = system.segments_loss(reader, ids(48, batch=8, seed=0), gold=gold)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            reader.reset()
            reader.feed(ids(48, batch=8))
        assert all(system.memories(reader, row)[1].share > 0.6 for row in range(8))


def test_sixteen_bits(model):
    half = tiny_llama().to(torch.bfloat16)
    system, tokens = made(half), ids(60)
    with torch.no_grad():
        logits, _, _ = plainly(model, made(model), tokens)
        with memspan.context(system, half) as reader:
            assert float((half(tokens).logits - logits).abs().max()) < 0.02
            assert reader.cache.extra["memories"].dtype == torch.float32


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment": 35}, "2 × 1 memory embeddings and 32 sensory tokens it must be at least 36"),
        ({"segment": 300}, "trained on 128"),
        ({"memory": 0}, "memory"),
        ({"store": 0}, "store"),
        ({"slots": 9}, "give segment"),
        ({"sinks": 4}, "give segment"),
        ({"chunk": 13, **SMALL}, "a segment has 12"),
        ({"summarized": 0.0}, "summarized"),
        ({"unroll": ()}, "unroll"),
        ({"passed_on": 2.0}, "passed_on"),
        ({"horizon": 0}, "horizon"),
        ({"fitting": "tight"}, "scale or linear or none"),
        ({"backbone": "full"}, "frozen or lora"),
        ({"backbone": "lora", "targets": ("nowhere",), **SMALL}, "no linear layer"),
    ],
)
def test_unusable_options_are_said(model, options, message):
    with pytest.raises(InputError, match=message), memspan.context("hmt", model, **options):
        pass


def test_what_it_cannot_read_is_said(model):
    with memspan.context(made(model), model) as reader:
        with pytest.raises(InputError, match="token ids"):
            model(inputs_embeds=torch.zeros(1, 4, 32))
        with pytest.raises(InputError, match="four dimensions"):
            model(ids(4), attention_mask=torch.ones(1, 1, 4, 4, dtype=torch.bool))
        with pytest.raises(InputError, match="nothing to read"):
            reader.feed([])
        reader.feed(ids(4))
        assert reader.seen == 4
    with pytest.raises(InputError, match="shorter than a segment"):
        Hmt(**SMALL).fit(model, ids(200)[0], length=8, **FIT)
