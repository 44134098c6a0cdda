"""Locret: what a head foretells is kept, head by head; stabilizers, tails, and what the heads learn from."""

from __future__ import annotations

import pytest
import torch

import memspan
from memspan.context.locret import Locret, overlap
from memspan.core.errors import BudgetError, InputError
from memspan.core.testing import tiny_llama

SMALL = {"slots": 24, "chunk": 8, "stabilizers": 6, "tail": 4, "sinks": 2, "hidden": 16}


def ids(count, batch=1, seed=0):
    return torch.randint(1, 64, (batch, count), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return tiny_llama(initializer_range=0.3)


def kept(reader, layer, head):
    track = reader.cache.tracks[layer]
    return track.pos[0, head, : track.n].tolist()


class Recording(Locret):
    """Remembers what reached the heads."""

    def attend(self, layer, q, k, v, slots, step, call):
        self.seen = {**getattr(self, "seen", {}), (layer, step.start): (q, k, v)}
        return super().attend(layer, q, k, v, slots, step, call)


def test_a_score_is_what_the_head_makes_of_query_key_and_value_before_rotation(model):
    system = Recording(**SMALL)
    with torch.no_grad(), memspan.context(system, model) as reader:
        reader.feed(ids(8))
        for layer in range(2):
            q, k, v = system.seen[layer, 0]
            attention = model.model.layers[layer].self_attn
            if layer == 0:
                x = model.model.layers[0].input_layernorm(model.get_input_embeddings()(ids(8)))
                assert torch.allclose(k, attention.k_proj(x).view(1, 8, 2, 8).transpose(1, 2), atol=1e-5)
            for t in range(8):
                x = torch.cat((q[0, :, t].flatten(), k[0, :, t].flatten(), v[0, :, t].flatten()))
                head = system.heads[layer]
                wanted = head.outer.weight @ torch.nn.functional.silu(head.inner.weight @ x)
                assert torch.allclose(reader.cache.tracks[layer].score[0, :, t], wanted, atol=1e-5)


def test_each_head_keeps_sinks_stabilizers_and_its_best_in_order(model):
    with memspan.context("locret", model, **SMALL) as reader:
        reader.feed(ids(32))
        before = [[(track.score[0, h, :32]).clone() for h in range(2)] for track in reader.cache.tracks]
        reader.feed(ids(8, seed=1))
        for layer in range(2):
            for head in range(2):
                best = before[layer][head][2:26].argsort(descending=True)[:16] + 2
                assert kept(reader, layer, head)[:24] == sorted([0, 1, *best.tolist(), *range(26, 32)])
                scores = reader.cache.tracks[layer].score[0, head, :24]
                assert torch.equal(scores, before[layer][head][kept(reader, layer, head)[:24]])
        assert kept(reader, 0, 0) != kept(reader, 0, 1)
        assert [slot.reason for slot in reader.slots()][:2] == ["first", "first"]
        assert {slot.reason for slot in reader.slots()[2:-6]} == {"foretold"}
        assert {slot.reason for slot in reader.slots()[-6:]} == {"recent"}


def test_before_the_tail_of_a_prompt_the_score_alone_decides(model):
    def after_the_body(asking):
        with torch.no_grad(), memspan.context("locret", model, **SMALL) as reader:
            reader.feed(ids(36)[:, :32])
            scores = reader.cache.tracks[0].score[0, 0, :32].clone()
            reader.reset()
            if asking:
                model(ids(36))
            else:
                reader.feed(ids(36))
            return scores, kept(reader, 0, 0)

    scores, positions = after_the_body(asking=True)
    best = scores[2:].argsort(descending=True)[:22] + 2
    assert positions == [*sorted([0, 1, *best.tolist()]), 32, 33, 34, 35]
    _, positions = after_the_body(asking=False)
    assert set(range(26, 36)) <= set(positions)
    assert not set(range(26, 32)) <= set(best.tolist())


def test_chunks_and_prompts_of_any_length_are_read(model):
    with memspan.context("locret", model, **{**SMALL, "tail": 50}) as reader:
        for count in (1, 2, 7, 8, 9, 16, 17, 70):
            reader.reset()
            out = model.generate(ids(count), max_new_tokens=30, do_sample=False, pad_token_id=0)
            assert out.shape[1] == count + 30 and reader.cache.tracks[0].n <= 32


def test_keys_are_rotated_to_their_place_in_the_buffer(model):
    system = Recording(**SMALL)
    with torch.no_grad(), memspan.context(system, model) as reader:
        reader.feed(ids(32))
        raw = torch.cat([system.seen[0, start][1] for start in (0, 8, 16, 24)], 2)
        reader.feed(ids(1, seed=1))
        for head in range(2):
            chosen = raw[:, head : head + 1, kept(reader, 0, head)[:24]]
            wanted = reader.family.rotate(0, chosen, torch.arange(24)[None])
            assert torch.allclose(reader.cache.layers[0].keys[:, head : head + 1, :24], wanted, atol=1e-5)


def test_labels_are_the_highest_logit_of_the_answers_queries(model):
    system = Locret(hidden=16, answer=5)
    window = ids(20, batch=2)
    recording = Recording(hidden=16, answer=5)
    with torch.no_grad(), memspan.context(recording, model) as reader:
        reader.feed(window)
        seen = recording.seen
        rotate = reader.family.rotate
    with memspan.context(system, model) as reader:
        pairs = system.pairs(reader, window)
    places = torch.arange(20)[None]
    for layer, (score, label) in enumerate(pairs):
        q, k, _ = seen[layer, 0]
        q, k = rotate(layer, q, places), rotate(layer, k, places)
        assert score.shape == label.shape == (2, 2, 15)
        for row in range(2):
            for head in range(2):
                for i in range(15):
                    group = q[row, 2 * head : 2 * head + 2, 15:]
                    wanted = max(float(x @ k[row, head, i]) for x in group.flatten(0, 1)) / 8**0.5
                    assert float(label[row, head, i]) == pytest.approx(wanted, abs=1e-4)


def test_fit_brings_scores_nearer_to_labels_and_goes_on_where_it_stopped(model, tmp_path):
    text, settings = ids(3_000)[0], {"length": 32, "batch": 4, "lr": 0.01, "every": 5}
    options = {"hidden": 32, "answer": 8}
    system = Locret(**options)
    done = system.fit(model, text, steps=60, **settings)
    assert done.after < 0.6 * done.before
    system.prepare(model)
    fresh = Locret(**options)
    fresh.prepare(model)

    def found(heads):
        with torch.no_grad(), memspan.context(heads, model) as reader:
            pairs = heads.pairs(reader, ids(48, batch=4, seed=7))
        return float(torch.stack([overlap(*pair, share=0.2).mean() for pair in pairs]).mean())

    assert found(system) > found(fresh) + 0.1
    whole = Locret(**options).fit(model, text, steps=12, **settings)

    def stop(step, loss):
        if step == 7:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        Locret(**options).fit(model, text, steps=12, out=tmp_path / "heads", on_step=stop, **settings)
    again = Locret(**options).fit(model, text, steps=12, out=tmp_path / "heads", **settings)
    assert again.resumed_at == 5 and again.losses == pytest.approx(whole.losses, abs=1e-6)
    with memspan.context("locret", model, weights=tmp_path / "heads", slots=30) as reader:
        reader.feed(ids(50))
        assert reader.system.config.hidden == 32 and reader.sizes.slots == 30
        assert reader.footprint().by_tier["weights"] == again.parameters * 4 == 2 * (64 * 32 + 32 * 2) * 4


def test_heads_of_another_model_are_refused(model, tmp_path):
    system = Locret(hidden=16)
    system.prepare(model)
    system.save(tmp_path, model)
    with pytest.raises(InputError, match="another model"):
        memspan.context("locret", tiny_llama(seed=3), weights=tmp_path)


def test_windows_without_a_prompt_cannot_be_learned_from(model):
    with pytest.raises(InputError, match="longer than answer"):
        Locret(hidden=16, answer=16).fit(model, ids(400)[0], steps=1, length=16)


def test_sliding_layers_learn_from_what_they_see():
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sliding = Gemma3ForCausalLM(
            Gemma3TextConfig(
                vocab_size=64,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                sliding_window=6,
                max_position_embeddings=128,
                layer_types=["sliding_attention", "full_attention"],
            )
        ).eval()
    system = Locret(hidden=16, answer=4)
    with torch.no_grad(), memspan.context(system, sliding) as reader:
        (_, near), (_, far) = system.pairs(reader, ids(20))
        assert near[..., :11].isinf().all() and near[..., 11:].isfinite().all() and far.isfinite().all()
    done = system.fit(sliding, ids(600)[0], steps=4, length=20)
    assert all(loss == loss for loss in done.losses)


def test_bfloat16_reads_and_learns():
    half = tiny_llama().to(torch.bfloat16)
    system = Locret(**{**SMALL, "answer": 4})
    done = system.fit(half, ids(600)[0], steps=3, length=24)
    with memspan.context(system, half) as reader:
        reader.feed(ids(100))
        assert reader.cache.tracks[0].n <= 32 and reader.cache.layers[0].keys.dtype == torch.bfloat16
    assert all(loss == loss for loss in done.losses)


def test_bytes_are_the_paper_s_formula_and_what_is_kept_beside(model):
    with memspan.context("locret", model, **SMALL) as reader:
        reader.feed(ids(300))
        tracks = sum(track.nbytes for track in reader.cache.tracks)
        held = reader.footprint().by_tier["context"] - tracks - 32 * 4
        assert held == 2 * 2 * 2 * 8 * (24 + 8) * 4  # 2 · layers · key/value heads · width · (b + B) · bytes a number


def test_unusable_options_are_said(model):
    for options, message in (
        ({"stabilizers": -1}, "stabilizers"),
        ({"tail": -1}, "tail"),
        ({"hidden": 0}, "hidden"),
        ({"answer": 0}, "answer"),
        ({"smoothness": -1.0}, "smoothness"),
    ):
        with pytest.raises(InputError, match=message):
            memspan.context("locret", model, **options)
    with pytest.raises(InputError, match="needs at least"), memspan.context("locret", model, slots=10, stabilizers=10):
        pass
    with (
        pytest.raises(BudgetError, match="bytes") as error,
        memspan.context("locret", model, stabilizers=40, chunk=8, budget=10_000),
    ):
        pass
    with memspan.context("locret", model, stabilizers=40, chunk=8, budget=error.value.needed) as reader:
        reader.feed(ids(100))
        assert reader.footprint().by_tier["context"] <= error.value.needed
