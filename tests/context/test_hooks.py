"""What a system may do: plan passes, change hidden states, take over what is dropped, keep a state of its own."""

from __future__ import annotations

import pytest
import torch

import memspan
from memspan.context.base import ContextSystem
from memspan.context.step import Segment
from memspan.core.errors import InputError
from memspan.core.testing import tiny_llama

GENERATE = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}


def ids(count, batch=1, seed=0):
    return torch.randint(1, 64, (batch, count), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


# --- plan ------------------------------------------------------------------------------------------------------------


class Segments(ContextSystem):
    """Segments of 10 tokens, each by itself, between two made-up embeddings; the closing one ends a whole segment."""

    bounded = False

    def plan(self, ids, state):
        at = 0
        while at < state.count:
            inside = state.cache.notes.get("inside", 0)
            take = min(10 - inside, state.count - at)
            whole = inside + take == 10
            yield Segment(
                begin=at,
                end=at + take,
                before=self.prompt() if inside == 0 else None,
                after=self.prompt() if whole else None,
                fresh=inside == 0,
            )
            state.cache.notes["inside"] = 0 if whole else inside + take
            at += take

    def prompt(self):
        return torch.full((1, 1, 32), 0.1)


def test_passes_are_run_as_planned(model):
    tokens = ids(34)
    embed, prompt = model.get_input_embeddings(), torch.full((1, 1, 32), 0.1)
    with torch.no_grad():
        rows = []
        for at in range(0, 34, 10):
            alone = torch.cat((prompt, embed(tokens[:, at : at + 10])), 1)
            rows.append(model(inputs_embeds=alone).logits[:, 1:])
        plain = torch.cat(rows, 1)
        with memspan.context(Segments(), model) as reader:
            read = model(tokens).logits
            assert reader.seen == 34
            assert [slot.position for slot in reader.slots() if slot.token >= 0] == [31, 32, 33, 34]
        with memspan.context(Segments(), model) as reader:
            reader.feed(tokens[:, :15])
            reader.feed(tokens[:, 15:33])
            assert torch.allclose(model(tokens[:, 33:]).logits, plain[:, 33:], atol=1e-5)
            assert reader.seen == 34
    assert torch.allclose(read, plain, atol=1e-5)


def test_the_surprisal_of_a_segments_first_token_is_what_its_prompt_foretold(model):
    tokens = ids(20)
    prompt = torch.full((1, 1, 32), 0.1)
    with torch.no_grad(), memspan.context(Segments(), model) as reader:
        said = reader.feed(tokens, nll=True)
    with torch.no_grad():
        first = model(inputs_embeds=prompt).logits[0, 0].log_softmax(-1)
    assert said.isfinite().all()
    assert said[0, 10] == pytest.approx(-float(first[tokens[0, 10]]), abs=1e-5)


class Librarian(ContextSystem):
    """Reads nothing until asked; then the second half of what it was given, and the question."""

    bounded = False

    def plan(self, ids, state):
        held = state.cache.extra.get("tokens")
        if not state.asking:
            state.cache.extra["tokens"] = ids if held is None else torch.cat((held, ids), 1)
            return
        if state.count > 1 and held is not None:
            state.cache.notes["hidden"] = float(state.run(held[:, :3]).sum())
            yield Segment(ids=held[:, held.shape[1] // 2 :], fresh=True)
        yield Segment(begin=0, end=state.count)


def test_a_plan_may_put_off_reading_and_look_aside(model):
    tokens, question = ids(20), ids(5, seed=1)
    plain = model.generate(torch.cat((tokens[:, 10:], question), 1), **GENERATE)[:, 10:]
    with torch.no_grad():
        alone = float(model.model(tokens[:, :3]).last_hidden_state.sum())
    with memspan.context(Librarian(), model) as reader:
        reader.feed(tokens[:, :8])
        reader.feed(tokens[:, 8:])
        assert reader.seen == 20 and reader.cache.tracks[0].n == 0
        said = model.generate(question, **GENERATE)
        assert reader.cache.notes["hidden"] == pytest.approx(alone, abs=1e-4)
        assert reader.seen == 20 + 5 + 9
    assert torch.equal(said, plain)


def test_a_plan_without_the_last_token_is_refused(model):
    class Lazy(ContextSystem):
        def plan(self, ids, state):
            yield Segment(begin=0, end=1)

    with memspan.context(Lazy(), model), pytest.raises(InputError, match="no pass over the last token"):
        model(ids(4))


# --- inside a pass ---------------------------------------------------------------------------------------------------


class Louder(ContextSystem):
    needs = frozenset({"hidden"})

    def hidden(self, layer, h, step):
        step.scratch[layer] = h
        return 2 * h if layer == 0 else h + 1 if layer == -1 else h

    def output(self, h, step):
        return h - step.scratch[1]


def test_hidden_states_are_seen_and_replaced(model):
    tokens = ids(12)
    with torch.no_grad():
        with memspan.context(Louder(chunk=5), model):
            read = model.model(tokens).last_hidden_state
        embeds = model.get_input_embeddings()(tokens) + 1
        hook = model.model.layers[0].register_forward_hook(lambda module, args, output: 2 * output)
        last = []
        other = model.model.layers[1].register_forward_hook(lambda module, args, output: last.append(output))
        plain = model.model(inputs_embeds=embeds).last_hidden_state - last[0]
        hook.remove()
        other.remove()
    assert torch.allclose(read, plain, atol=1e-5)


def test_a_hook_is_gone_after_the_block(model):
    with memspan.context(Louder(), model):
        pass
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.model.layers)


def test_begin_may_give_embeddings_and_a_mask(model):
    class Blind(ContextSystem):
        """Every token is read as the first one, and sees itself alone."""

        def begin(self, step, cache):
            super().begin(step, cache)
            step.inputs_embeds = model.get_input_embeddings()(step.ids[:, :1].expand_as(step.ids))
            step.mask = torch.eye(step.count, dtype=torch.bool)[None, None]

    tokens = ids(6)
    with torch.no_grad():
        plain = model(tokens[:, :1]).logits
        with memspan.context(Blind(), model):
            read = model(tokens).logits
    assert torch.allclose(read, plain.expand_as(read), atol=1e-5)


# --- what is dropped -------------------------------------------------------------------------------------------------


class Heir(ContextSystem):
    """Sums up, for every layer, what the window lets go; keeps its values in a zone."""

    needs = frozenset({"evicted"})
    as_slots = True

    def zones(self):
        return {"old": None}

    def attend(self, layer, q, k, v, slots, step, call):
        step.cache.notes.setdefault("read", []).append([layer, float(k.sum()), float(v.sum())])
        return super().attend(layer, q, k, v, slots, step, call)

    def on_evict(self, layer, k, v, pos, cache):
        name = f"sum.{layer}"
        cache.extra[name] = cache.extra.get(name, 0) + k.sum((1, 2))
        cache.notes["evicted"] = sorted(set(cache.notes.get("evicted", [])) | set(pos[0, 0].tolist()))
        zone = cache.zones["old"]
        if layer == 0:
            zone.append(pos[:, 0], pos[:, 0])
        zone.layers[layer].write(k, v)


class HeirPerHead(Heir):
    per_head = True

    def on_evict(self, layer, k, v, pos, cache):
        assert pos.shape[1] == k.shape[1] == 2
        cache.extra["sum"] = cache.extra.get("sum", 0) + k.sum((1, 2))


def test_what_is_dropped_is_told_once_with_keys_as_they_were_projected(model):
    with memspan.context(Heir(slots=16, chunk=8), model) as reader:
        for part in range(4):
            reader.feed(ids(25, seed=part))
        notes, kept = reader.cache.notes, [slot.position for slot in reader.slots()]
        assert sorted(notes["evicted"] + kept) == list(range(100))
        for layer in range(2):
            read = sum(row[1] for row in notes["read"] if row[0] == layer)
            slots = reader.cache.layers[layer]
            held = slots.at(torch.arange(slots.track.n)[None, None])[0].sum()
            assert float(reader.cache.extra[f"sum.{layer}"].sum() + held) == pytest.approx(read, abs=1e-2)
            zone = reader.cache.zones["old"].layers[layer]
            assert float(zone.view()[0].sum() + held) == pytest.approx(read, abs=1e-2)


def test_heads_that_keep_their_own_drop_their_own(model):
    with memspan.context(HeirPerHead(slots=16, chunk=8), model) as reader:
        reader.feed(ids(60))
        assert reader.cache.extra["sum"].shape == (1, 8)


# --- a state of its own ----------------------------------------------------------------------------------------------


def test_a_state_is_counted_saved_forked_and_reset(model, tmp_path):
    with memspan.context(Heir(slots=16, chunk=8), model) as reader, memspan.Ledger(model) as ledger:
        reader.feed(ids(60))
        ledger.watch_context(reader.cache)
        assert ledger.now.by_tier["context"] == reader.footprint().total
        zone = reader.cache.zones["old"]
        assert reader.footprint().total > zone.nbytes > 0
        before, held = dict(reader.cache.notes), zone.layers[1].view()[0].clone()
        with reader.fork():
            reader.feed(ids(60, seed=1))
            assert len(reader.cache.notes["evicted"]) > len(before["evicted"])
        assert reader.cache.notes["evicted"] == before["evicted"]
        reader.save(tmp_path / "context")
        reader.feed(ids(40, seed=2))
        went_on = {name: tensor.clone() for name, tensor in reader.cache.extra.items()}
    with memspan.context(Heir(slots=16, chunk=8), model) as reader:
        reader.load(tmp_path / "context")
        assert torch.equal(reader.cache.zones["old"].layers[1].view()[0], held)
        reader.feed(ids(40, seed=2))
        assert reader.cache.extra.keys() == went_on.keys()
        assert all(torch.allclose(reader.cache.extra[name], went_on[name], atol=1e-5) for name in went_on)
        reader.reset()
        assert not reader.cache.extra and not reader.cache.notes and reader.cache.zones["old"].tracks[0].n == 0


def test_a_state_goes_with_its_row(model):
    class Mean(ContextSystem):
        """Remembers the sum of the tokens of each row."""

        bounded = False

        def end(self, step, cache, surprisal):
            cache.extra["sum"] = cache.extra.get("sum", torch.zeros(cache.batch)) + step.ids.sum(1)

    with memspan.context(Mean(), model, batch=4) as reader:
        out = model.generate(ids(9), num_beams=4, num_return_sequences=4, **GENERATE)
        rows = sorted(reader.cache.extra["sum"].tolist())
        read = reader.cache.tracks[0].token[:, 0, : reader.seen].sum(1).tolist()
    assert rows == sorted(float(row) for row in read)
    assert len(out) == 4


def test_an_interrupted_pass_takes_back_what_it_put_in_a_zone(model):
    class Twice(ContextSystem):
        bounded = False

        def zones(self):
            return {"copy": None}

        def attend(self, layer, q, k, v, slots, step, call):
            zone = step.cache.zones["copy"]
            if layer == 0:
                zone.append(step.pos, step.pos)
            zone.layers[layer].write(k, v)
            return super().attend(layer, q, k, v, slots, step, call)

    def stop(*_):
        raise KeyboardInterrupt

    with memspan.context(Twice(), model) as reader:
        reader.feed(ids(8))
        hook = model.model.layers[1].register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            reader.feed(ids(8, seed=1))
        hook.remove()
        reader.feed(ids(4, seed=2))
        assert reader.seen == reader.cache.zones["copy"].tracks[0].n == 12


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", ["full", "window"])
def test_gradients_flow_through_chunks_as_through_one_pass(slug):
    model = tiny_llama()
    tokens = ids(24)
    embeds = model.get_input_embeddings()(tokens).detach().requires_grad_()
    (plain,) = torch.autograd.grad(model(inputs_embeds=embeds).logits[0, -1].square().sum(), embeds)
    with memspan.context(slug, model, chunk=7):
        (read,) = torch.autograd.grad(model(inputs_embeds=embeds).logits[0, -1].square().sum(), embeds)
    assert torch.allclose(read, plain, atol=1e-5)
    with memspan.context(slug, model, chunk=7) as reader:
        model(inputs_embeds=embeds[:, :14])
        reader.cache.detach()
        loss = model(inputs_embeds=embeds[:, 14:]).logits.square().sum()
        (cut,) = torch.autograd.grad(loss, embeds)
        reader.feed(tokens)
    assert (cut[:, :14] == 0).all() and (cut[:, 14:] != 0).any()
