"""kNN-LM: equal to its plain formula, the identity where it must be, and every vote traceable."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from memspan.core.errors import InputError, ModelError
from memspan.longterm.knowledge_survey import knn_lm
from memspan.longterm.knowledge_survey.knn_lm import KNNDatastore, hidden_states, model_fingerprint

torch = pytest.importorskip("torch")
TEXTS = ["the cat sat on the mat", "a dog ran to the cat and the dog sat", "no"]


class Words:
    """A tokenizer of words; ids by first appearance."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [self.known.setdefault(w, len(self.known)) for w in re.findall(r"\w+", text)]}


@pytest.fixture(scope="module")
def model() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def store(model: Any) -> KNNDatastore:
    return KNNDatastore.build(model, Words(), TEXTS, k=5)


def states(model: Any, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        out = model(torch.tensor([ids]), output_hidden_states=True)
    return out.logits[0], out.hidden_states[-1][0]


def test_every_position_but_the_last_is_stored(store: KNNDatastore) -> None:
    counts = [len(text.split()) - 1 for text in TEXTS]
    assert len(store) == sum(counts)
    assert store.footprint().total == len(store) * (16 * 2 + 8 + 16)
    tokenizer = Words()
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    for value, (text, position) in zip(store.values, store.origin, strict=True):
        assert ids[text][position] == value


def test_the_mixture_equals_the_plain_formula(model: Any, store: KNNDatastore) -> None:
    ids = Words()(TEXTS[1])["input_ids"]
    logits, hidden = states(model, ids)
    got = store.interpolate(logits, hidden, 0.3).exp()
    for place in range(len(ids)):
        distances = ((store.keys.astype(np.float32) - hidden[place].numpy()) ** 2).sum(1)
        order = np.argsort(distances)[:5]
        share = np.exp(-(distances[order] - distances[order].min()) / store.temperature)
        expected = 0.7 * torch.softmax(logits[place], -1).numpy()
        np.add.at(expected, store.values[order], 0.3 * share / share.sum())
        np.testing.assert_allclose(got[place].numpy(), expected, atol=1e-5)
    assert got.sum(-1).numpy() == pytest.approx(1, abs=1e-5)


def test_no_share_or_an_empty_datastore_is_the_identity(model: Any, store: KNNDatastore) -> None:
    logits, hidden = states(model, [1, 2, 3])
    assert torch.equal(store.interpolate(logits, hidden, 0.0), logits)
    empty = KNNDatastore.build(model, Words(), [])
    assert len(empty) == 0
    assert torch.equal(empty.interpolate(logits, hidden, 0.5), logits)
    assert empty.votes(hidden[0]) == []


def test_a_seen_context_predicts_what_followed_and_says_where(model: Any) -> None:
    store = KNNDatastore.build(model, Words(), TEXTS, k=5, temperature=0.05)
    tokenizer = Words()
    ids = [tokenizer(text)["input_ids"] for text in TEXTS][1]
    logits, hidden = states(model, ids)
    mixed = store.interpolate(logits, hidden, 1.0)
    assert mixed[:-1].argmax(-1).tolist() == ids[1:]
    vote = store.votes(hidden[3])[0]
    assert (vote.token, vote.text, vote.position) == (ids[4], 1, 4)
    assert sum(v.weight for v in store.votes(hidden[3])) == pytest.approx(1)


def test_windows_cover_every_position_once(model: Any) -> None:
    ids = list(range(20))
    parts = list(hidden_states(model, ids, window=8, stride=3))
    covered = [first + place for first, part in parts for place in range(len(part))]
    assert covered == ids
    whole = states(model, ids)[1]
    torch.testing.assert_close(parts[0][1], whole[:8], atol=1e-5, rtol=1e-4)


def test_blocks_of_the_search_agree(store: KNNDatastore, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = torch.from_numpy(store.keys[:3]).float()
    distances, places = store.nearest(hidden)
    monkeypatch.setattr(knn_lm, "_BLOCK", 4)
    again = store.nearest(hidden)
    torch.testing.assert_close(again[0], distances)
    assert torch.equal(again[1], places)


def test_many_queries_are_searched_in_parts(store: KNNDatastore, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = torch.from_numpy(store.keys).float()
    distances, places = store.nearest(hidden)
    monkeypatch.setattr(knn_lm, "_ROWS", 2)
    again = store.nearest(hidden)
    torch.testing.assert_close(again[0], distances)
    assert torch.equal(again[1], places)


def test_the_loss_is_that_of_the_mixture(model: Any, store: KNNDatastore) -> None:
    logits, hidden = states(model, [1, 2, 3, 4])
    targets = torch.tensor([2, 3, 4, 5])
    for lam in (0.0, 0.3, 1.0):
        mixed = torch.log_softmax(store.interpolate(logits, hidden, lam).float(), -1)
        expected = -float(mixed.gather(1, targets[:, None]).mean())
        assert store.loss(logits, hidden, targets, lam) == pytest.approx(expected, rel=1e-5)
    empty = KNNDatastore.build(model, Words(), [])
    assert empty.loss(logits, hidden, targets, 0.5) == store.loss(logits, hidden, targets, 0.0)


def test_tuning_takes_the_best_of_what_it_tries(model: Any) -> None:
    store = KNNDatastore.build(model, Words(), TEXTS, k=5)
    tokenizer = Words()
    ids = [tokenizer(text)["input_ids"] for text in TEXTS][1]
    logits, hidden = states(model, ids)
    text = logits[:-1], hidden[:-1], torch.tensor(ids[1:])
    first = store.temperature
    tried = {}
    for store.k in (1, 4):
        for scale in (0.01, 1.0):
            store.temperature = first * scale
            tried |= {(store.k, scale, lam): store.loss(*text, lam) for lam in (0.1, 0.9)}
    store.temperature = first
    lam = store.tune(*text, scales=(0.01, 1.0), lams=(0.1, 0.9), ks=(1, 4))
    assert store.loss(*text, lam) == pytest.approx(min(tried.values()))
    assert tried[store.k, store.temperature / first, lam] == pytest.approx(min(tried.values()))
    wrong = text[0], text[1], torch.full((len(ids) - 1,), 31)  # what never followed in the datastore
    assert store.tune(*wrong) == 0.0


def test_a_saved_datastore_comes_back_for_its_own_model_only(model: Any, store: KNNDatastore, tmp_path: Path) -> None:
    store.temperature = 0.7
    store.save(tmp_path / "store.npz")
    back = KNNDatastore.load(tmp_path / "store.npz", model)
    assert (back.k, back.temperature, back.fingerprint) == (5, 0.7, store.fingerprint)
    logits, hidden = states(model, [1, 2, 3])
    assert torch.equal(back.interpolate(logits, hidden), store.interpolate(logits, hidden))
    store.fingerprint = "another"
    store.save(tmp_path / "other.npz")
    with pytest.raises(ModelError, match="another model"):
        KNNDatastore.load(tmp_path / "other.npz", model)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match="no datastore"):
        KNNDatastore.load(tmp_path / "text.npz", model)


def test_another_model_is_refused(model: Any, store: KNNDatastore) -> None:
    store.check(model)
    before = model_fingerprint(model)
    weight = next(model.parameters())
    with torch.no_grad():
        weight[0, 0] += 1
    try:
        assert model_fingerprint(model) != before
        with pytest.raises(ModelError, match="another model"):
            store.check(model)
    finally:
        with torch.no_grad():
            weight[0, 0] -= 1


def test_too_large_a_datastore_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 1)
    body = SimpleNamespace(config=SimpleNamespace(hidden_size=16, to_dict=dict), named_parameters=lambda: [])
    with pytest.warns(ResourceWarning, match="quarter"), pytest.raises(AttributeError):
        KNNDatastore.build(body, Words(), ["word " * 100])


def test_bad_input(model: Any, store: KNNDatastore) -> None:
    logits, hidden = states(model, [1, 2])
    for lam in (-0.1, 1.1):
        with pytest.raises(InputError, match="lam"):
            store.interpolate(logits, hidden, lam)
    with pytest.raises(InputError, match="hidden"):
        store.nearest(torch.zeros(2, 3))
    with pytest.raises(InputError, match="k must"):
        KNNDatastore.build(model, Words(), TEXTS, k=0)
    with pytest.raises(InputError, match="temperature"):
        KNNDatastore.build(model, Words(), TEXTS, temperature=0)
    with pytest.raises(InputError, match="scales"):
        store.tune(logits, hidden, torch.tensor([1, 2]), scales=(0.0,))
    with pytest.raises(InputError, match="ks"):
        store.tune(logits, hidden, torch.tensor([1, 2]), ks=(0,))
    with pytest.raises(InputError, match="targets"):
        store.loss(logits, hidden, torch.tensor([1]))
    with pytest.raises(InputError, match="lam"):
        store.loss(logits, hidden, torch.tensor([1, 2]), 2.0)
    with pytest.raises(InputError, match="one string"):
        KNNDatastore.build(model, Words(), "text")
    with pytest.raises(InputError, match="stride"):
        KNNDatastore.build(model, Words(), TEXTS, window=4, stride=5)
