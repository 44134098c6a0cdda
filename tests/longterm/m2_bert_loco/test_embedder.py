"""Pre-training, saving and use as an embedder, with the bundled tokenizer."""

import json
import os
import signal
from itertools import islice

import numpy as np
import pytest
import torch

from memspan import Episode, Memory, load_embedder
from memspan.cli import main
from memspan.core.catalog import load as load_system
from memspan.core.errors import InputError, MissingExtraError, ModelError, StoreError, UnsupportedModelError
from memspan.longterm.m2_bert_loco import (
    M2Config,
    M2Embedder,
    M2Encoder,
    M2Retriever,
    PretrainConfig,
    mixed_length_batches,
    pretrain,
    save,
)
from memspan.longterm.m2_bert_loco.mlm import CHECKPOINT, MixedLengths, masked, rate_factor
from memspan.longterm.m2_bert_loco.tokens import WordPieces
from memspan.longterm.retriever import Example, HomogeneousBatches, OrthogonalProjection, TaskSet, fit_retriever
from memspan.models import Embedder
from memspan.models.plan import plan_embedder

pytestmark = pytest.mark.real

SHAPE = M2Config(hidden=16, layers=1, max_len=64, filter_order=8, dropout=0.1)
TRAIN = PretrainConfig(steps=8, batch_tokens=128, short_len=16, lr=5e-3)
TEXTS = ["The ferry to the island leaves at nine. " * 12, "A lighthouse stands near the harbour. " * 20, "Short note."]


@pytest.fixture(scope="module")
def pieces():
    try:
        return WordPieces()
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def saved(pieces, tmp_path_factory):
    torch.manual_seed(0)
    return save(M2Encoder(SHAPE), tmp_path_factory.mktemp("m2"), pieces)


def test_saved_and_loaded_gives_the_same_vectors(saved):
    embedder = M2Embedder(saved)
    assert isinstance(embedder, Embedder)
    assert (embedder.dim, embedder.max_tokens) == (16, 64)
    texts = ["Where does the ferry go?", "", "half an emoji \ud83d", "The lighthouse. " * 10]
    vectors = embedder.embed(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_allclose(M2Embedder(saved).embed([text])[0], vector, atol=1e-5)
    assert embedder.embed([]).shape == (0, 16)
    weights = (saved / "model.safetensors").stat().st_size
    assert weights * 0.99 < embedder.footprint().total < weights * 1.5


def test_too_long_is_an_error_unless_it_may_be_cut(saved):
    long = "word " * 100
    with pytest.raises(InputError, match=r"text 1 has 102 tokens .* 64"):
        M2Embedder(saved).embed(["short", long])
    by_name = load_embedder(saved)
    np.testing.assert_allclose(by_name.embed([long])[0], M2Embedder(saved).embed(["word " * 62])[0], atol=1e-5)
    with pytest.raises(InputError, match="too_long"):
        M2Embedder(saved, too_long="shrug")


def test_a_store_uses_it_by_name(saved, tmp_path):
    path = tmp_path / "store.db"
    with Memory.open(path, embedder=str(saved), organizer="plain") as memory:
        memory.add([Episode("The ferry leaves at nine.", id="a"), Episode("I like chess.", id="b")])
        memory.embed_pending()
        kept = [row[0] for row in memory.store.connection.execute("SELECT data FROM vector ORDER BY passage")]
        assert {hit.id for hit in memory.recall("When does the ferry leave?", k=2)} == {"a", "b"}
    wanted = M2Embedder(saved).embed(["The ferry leaves at nine.", "I like chess."])
    np.testing.assert_allclose([np.frombuffer(data, np.float16) for data in kept], wanted, atol=1e-3)
    torch.manual_seed(1)
    other = save(M2Encoder(SHAPE), tmp_path / "other")
    with (
        Memory.open(path, embedder=str(other), organizer="plain") as memory,
        pytest.raises(StoreError, match="holds vectors"),
    ):
        memory.recall("chess", k=1)


def test_the_command_line_takes_it_and_plans_its_bytes(saved, tmp_path, capsys):
    plan = plan_embedder(str(saved))
    embedder = load_embedder(saved)
    embedder.embed(["a ferry", "word " * 60])
    assert (plan.dim, plan.weights) == (16, sum(4 * p.numel() for p in embedder.model.parameters()))
    assert embedder.footprint().total - plan.weights < plan.activations
    note = tmp_path / "note.txt"
    note.write_text("The ferry leaves at nine.")
    store = str(tmp_path / "store.db")
    assert main(["remember", "--store", store, "--embedder", str(saved), str(note)]) == 0
    assert main(["recall", "--store", store, "--embedder", str(saved), "ferry"]) == 0
    assert "leaves at nine" in capsys.readouterr().out


def test_a_checkpoint_is_no_part_of_the_embedder(pieces, tmp_path):
    pretrain(TEXTS, tmp_path, SHAPE, PretrainConfig(steps=1, batch_tokens=64, short_len=16))
    before = load_embedder(tmp_path).fingerprint
    (tmp_path / CHECKPOINT).unlink()
    assert load_embedder(tmp_path).fingerprint == before


def test_other_weights_are_another_embedder(saved, tmp_path):
    torch.manual_seed(1)
    other = save(M2Encoder(SHAPE), tmp_path)
    assert M2Embedder(other).fingerprint != M2Embedder(saved).fingerprint


def test_the_catalogue_knows_it():
    assert load_system("m2-bert-loco") is M2Encoder


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("config.json", "{", ModelError),
        ("config.json", "[]", ModelError),
        ("model.safetensors", "nothing", ModelError),
        ("tokenizer.json", "{}", ModelError),
    ],
)
def test_damaged_directories_are_named(saved, tmp_path, name, text, error):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_text(text)
    with pytest.raises(error):
        load_embedder(tmp_path)


def test_a_directory_with_another_padding_is_refused(saved, tmp_path):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    said = json.loads((tmp_path / "config.json").read_text())
    assert said["padding"] == "masked"
    (tmp_path / "config.json").write_text(json.dumps({**said, "padding": "max_length"}))
    with pytest.raises(UnsupportedModelError, match="max_length"):
        load_embedder(tmp_path)


def test_an_unknown_kind_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"kind": "no-such-system"}')
    with pytest.raises(InputError, match="no-such-system"):
        load_embedder(tmp_path)


# --- pre-training ----------------------------------------------------------------------------------------------------


def test_it_learns(pieces, tmp_path):
    done = pretrain(TEXTS, tmp_path, SHAPE, PretrainConfig(steps=60, batch_tokens=256, short_len=16, lr=1e-2))
    assert sum(done.losses[-5:]) < 0.6 * sum(done.losses[:5])
    assert json.loads((tmp_path / "config.json").read_text())["training"]["texts"] == 3
    assert load_embedder(tmp_path).embed(["ferry"]).shape == (1, 16)


def test_stopped_by_ctrl_c_and_taken_up_it_ends_the_same(pieces, tmp_path, monkeypatch):
    whole = pretrain(TEXTS, tmp_path / "whole", SHAPE, TRAIN)
    count = 0

    def press(*args):
        nonlocal count
        count += 1
        if count == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return rate_factor(*args)

    monkeypatch.setattr("memspan.longterm.m2_bert_loco.mlm.rate_factor", press)
    with pytest.raises(KeyboardInterrupt):
        pretrain(TEXTS, tmp_path / "cut", SHAPE, TRAIN)
    assert (tmp_path / "cut" / CHECKPOINT).exists() and not (tmp_path / "cut" / "config.json").exists()
    done = pretrain(TEXTS, tmp_path / "cut", SHAPE, TRAIN)
    assert done.resumed_at == 4 and done.losses == whole.losses
    for (name, a), b in zip(whole.model.state_dict().items(), done.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_checkpoint_of_other_settings_is_refused(pieces, tmp_path):
    pretrain(TEXTS, tmp_path, SHAPE, PretrainConfig(steps=1, batch_tokens=64, short_len=16))
    with pytest.raises(InputError, match="mask_rate"):
        pretrain(TEXTS, tmp_path, SHAPE, PretrainConfig(steps=1, batch_tokens=64, short_len=16, mask_rate=0.2))
    with pytest.raises(InputError, match="another encoder"):
        pretrain(TEXTS, tmp_path, M2Config.small(hidden=32), PretrainConfig(steps=1, batch_tokens=64, short_len=16))


def test_no_text_is_refused(pieces, tmp_path):
    with pytest.raises(InputError, match="at least one text"):
        pretrain(["", " "], tmp_path, SHAPE, TRAIN)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_the_share_of_long_examples_is_as_asked(pieces, share):
    batches = MixedLengths(pieces.ids(TEXTS), max_len=64, long_fraction=share, batch_tokens=128, short_len=16)
    lengths = [len(row) for step in range(1500) for row in batches[step]]
    assert abs(sum(length == 64 for length in lengths) / len(lengths) - share) < 0.05
    assert all(length == 64 or length <= 16 for length in lengths)
    assert batches[7] == batches[7]


def test_mixed_batches_are_padded_at_the_end(pieces):
    for ids, mask in islice(mixed_length_batches(TEXTS, 0.5, max_len=64, batch_tokens=256), 20):
        assert ids.shape == mask.shape and ids.shape[1] <= 64
        assert bool((ids[:, 0] == pieces.cls).all()) and bool((ids[~mask] == pieces.pad).all())
        assert bool((ids.gather(1, mask.sum(1, keepdim=True) - 1) == pieces.sep).all())


def test_what_is_hidden(pieces):
    ids, keep = pieces.batch(pieces.ids(["The ferry to the island leaves at nine in the morning. " * 400, "no"]))
    shown, chosen = masked(ids, keep, pieces, 0.3, seed=1)
    assert not bool(chosen[~keep].any()) and not bool(chosen[:, 0].any())
    assert torch.equal(shown[~chosen], ids[~chosen])
    assert abs(float(chosen[0].float().mean()) - 0.3) < 0.03
    assert abs(float((shown[chosen] == pieces.mask).float().mean()) - 0.8) < 0.04
    assert bool(masked(*pieces.batch(pieces.ids(["no"])), pieces, 0.01, seed=1)[1].any())


def test_the_rate_rises_and_falls_to_its_floor():
    config = PretrainConfig(steps=100)
    factors = [rate_factor(step, config) for step in range(100)]
    assert max(factors) == factors[6] == 1.0 and factors[-1] == pytest.approx(0.02)
    assert factors[:7] == sorted(factors[:7]) and factors[6:] == sorted(factors[6:], reverse=True)


def test_orthogonal_projection_with_one_query_a_step(pieces):
    torch.manual_seed(0)
    encoder = M2Encoder(M2Config(hidden=16, layers=1, max_len=64, filter_order=8, dropout=0.0))
    examples = [
        Example(query="ferry", positives=("The ferry leaves at nine.",), negatives=("I like chess.",)),
        Example(query="chess", positives=("I like chess.",), negatives=("The ferry leaves at nine.",)),
    ]
    retriever = M2Retriever(encoder, pieces)
    batches = HomogeneousBatches([TaskSet("notes", examples)], batch=1, keys=2)
    done = fit_retriever(retriever, batches, OrthogonalProjection(), lr=5e-3, steps=60)
    assert sum(done.losses[-4:]) < 0.3 * sum(done.losses[:4])
