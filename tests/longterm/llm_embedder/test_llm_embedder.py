"""The encoder: the fast path's vectors, instructions that stay with the weights, a directory that any user takes."""

import json

import numpy as np
import pytest
import torch

from memspan import Episode, Memory
from memspan.core.errors import InputError, ModelError, StoreError
from memspan.longterm.llm_embedder import LLMEmbedder
from memspan.models import Embedder, load_embedder

ASKED = {"memory": ("question: ", "said: "), "lrlm": ("", "")}
TEXTS = ["Ann bought a boat.", "what", "", "I sold the goat and the sofa yesterday. " * 3]


@pytest.fixture
def encoder(tiny):
    return LLMEmbedder(tiny, instructions=ASKED, max_tokens=None)


def test_training_and_use_give_the_same_vectors(encoder):
    for task in ASKED:
        for side in ("query", "key"):
            trained = encoder.encode_texts(TEXTS, [task] * 4, side)
            assert trained.requires_grad
            vectors = encoder.encode(TEXTS, task, side)
            np.testing.assert_allclose(trained.detach().numpy(), vectors, atol=1e-5)
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert encoder.encode_texts([], [], "key").shape == (0, 32)


def test_gradients_reach_the_layers_and_not_the_table_of_words(encoder):
    encoder.encode_texts(TEXTS, ["memory"] * 4, "query")[:, 0].sum().backward()
    assert encoder.model.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0
    assert encoder.model.embeddings.word_embeddings.weight.grad is None


def test_layers_below_those_that_are_trained_stay_as_they_are(tiny):
    encoder = LLMEmbedder(tiny, instructions=ASKED, train_layers=1)
    before = {name: weight.clone() for name, weight in encoder.model.named_parameters()}
    loss = encoder.encode_texts(TEXTS, ["memory"] * 4, "query")[:, 0].sum()
    loss.backward()
    torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1.0).step()
    changed = {name for name, weight in encoder.model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all(name.startswith("encoder.layer.1.") for name in changed)
    for layers in (0, 3):
        with pytest.raises(InputError, match="has 2 layers"):
            LLMEmbedder(tiny, train_layers=layers)


def test_long_texts_are_cut_and_keep_their_end_mark(tiny):
    short = LLMEmbedder(tiny, instructions=ASKED, max_tokens=8)
    words = "boat cat dog farm goat hill inn jar kite".split()
    whole = short.encode_texts([" ".join(words)], ["lrlm"], "key")
    torch.testing.assert_close(whole, short.encode_texts([" ".join(words[:6])], ["lrlm"], "key"))


def test_a_saved_directory_reads_with_its_instructions(encoder, tmp_path):
    with torch.no_grad():
        encoder.model.encoder.layer[0].output.dense.weight.mul_(1.5)
    saved = encoder.save(tmp_path / "mine", task="memory", about={"queries": 3})
    loaded = load_embedder(saved, dtype="float32")
    assert isinstance(loaded, Embedder) and not list(tmp_path.glob("*.part"))
    np.testing.assert_allclose(loaded.embed(TEXTS), encoder.encode(TEXTS, "memory", "key"), atol=1e-6)
    np.testing.assert_allclose(loaded.embed_queries(TEXTS), encoder.encode(TEXTS, "memory", "query"), atol=1e-6)
    again = LLMEmbedder.load(saved)
    assert again.instructions == ASKED and again.tau == encoder.tau
    for name, tensor in encoder.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
    cached = load_embedder(saved, cache=tmp_path / "v.db", dtype="float32")
    for _ in range(2):
        np.testing.assert_allclose(cached.embed_queries(TEXTS[:1]), loaded.embed_queries(TEXTS[:1]), atol=1e-3)
        np.testing.assert_allclose(cached.embed(TEXTS[:1]), loaded.embed(TEXTS[:1]), atol=1e-3)
    assert len(cached) == 2 and cached.forget(TEXTS[:1]) == 2 and len(cached) == 0


def test_other_instructions_are_refused(encoder, tiny, tmp_path):
    saved = encoder.save(tmp_path / "mine", task="memory")
    with pytest.raises(InputError, match="as they were in training"):
        LLMEmbedder.load(saved, instructions={"memory": ("ask: ", "said: ")})
    assert LLMEmbedder.load(saved, instructions={"tool": ("want: ", "tool: ")}).prefix("tool", "key") == "tool: "
    with pytest.raises(InputError, match="no instructions for task 'qa'"):
        encoder.encode(TEXTS, "qa", "query")
    # A store whose keys were read with some instructions takes no others: they are part of the identity.
    store = tmp_path / "a.db"
    with Memory.open(store, embedder=str(saved), organizer="plain") as memory:
        memory.add([Episode(text="I bought a boat.", speaker="Ann", id="a")])
        assert memory.recall("What did Ann buy?")[0].id == "a"
    prompts = saved / "config_sentence_transformers.json"
    changed = json.loads(prompts.read_text())
    changed["prompts"]["query"] = "ask: "
    prompts.write_text(json.dumps(changed))
    with (
        Memory.open(store, embedder=str(saved), organizer="plain") as memory,
        pytest.raises(StoreError, match="holds vectors of"),
    ):
        memory.recall("What did Ann buy?")
    with pytest.raises(ModelError, match="train it anew"):
        LLMEmbedder.load(saved)
    with (
        Memory.open(store, embedder=str(tiny), organizer="plain") as memory,
        pytest.raises(StoreError, match="reembed"),
    ):
        memory.recall("What did Ann buy?")


def test_saving_overwrites_nothing(encoder, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        encoder.save(tmp_path / "full", task="memory")
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    encoder.save(tmp_path / "empty", task="lrlm")
    assert load_embedder(tmp_path / "empty").prompt == ""


def test_bad_input(tiny, tmp_path):
    with pytest.raises(InputError, match="cannot be trained"):
        LLMEmbedder.load("openai:http://localhost:1/v1#m")
    saved = LLMEmbedder(tiny, instructions=ASKED).save(tmp_path / "mine", task="memory")
    (saved / "llm_embedder.json").write_text('{"format": "memspan-llm-embedder-9"}')
    with pytest.raises(ModelError, match="does not know"):
        LLMEmbedder.load(saved)
    (saved / "llm_embedder.json").write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        LLMEmbedder.load(saved)
