"""Local embedders: the same vectors as sentence-transformers gives, in order, whatever the text."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from memspan.core.errors import InputError, ModelError, UnsupportedModelError
from memspan.models import Embedder, load_embedder
from memspan.models.spec import bundled_embedder

pytestmark = pytest.mark.real

SENTENCES = ["Ann moved to Lisbon in May.", "The cat sleeps on the warm roof.", "Where does Ann live now?"]
# sentence-transformers 6.2.0, float32: SentenceTransformer(directory).encode(SENTENCES)[:, :6], and their products.
REFERENCE = np.array(
    [
        [0.03474099, -0.04124957, 0.07733145, 0.01723416, 0.04606226, 0.04665717],
        [0.10608704, 0.04651318, -0.00739239, 0.10429373, 0.0050268, -0.00116768],
        [-0.0022558, -0.02910765, 0.05801812, 0.01357387, 0.00734192, 0.05146728],
    ]
)
PRODUCTS = {(0, 1): -0.00561757, (0, 2): 0.72538084, (1, 2): 0.02065719}
# The same for "", "x " * 2000 (longer than the 256 tokens that are read) and "Grüße 你好 🎉", first four numbers.
ODD = ["", "x " * 2000, "Grüße 你好 🎉"]
ODD_REFERENCE = np.array(
    [
        [-0.11883841, 0.04829881, -0.00254804, -0.01101118],
        [-0.00206051, -0.03746859, -0.03149359, -0.04256407],
        [0.00521317, 0.0854747, 0.0250174, -0.00639244],
    ]
)


def test_agrees_with_sentence_transformers(embedder):
    vectors = embedder.embed(SENTENCES)
    assert vectors.dtype == np.float32 and vectors.shape == (3, 384)
    np.testing.assert_allclose(vectors[:, :6], REFERENCE, atol=1e-5)
    for (a, b), product in PRODUCTS.items():
        assert vectors[a] @ vectors[b] == pytest.approx(product, abs=1e-5)
    np.testing.assert_allclose(embedder.embed(ODD)[:, :4], ODD_REFERENCE, atol=1e-5)


def test_is_an_embedder(embedder):
    assert isinstance(embedder, Embedder)
    assert (embedder.name, embedder.dim, embedder.max_tokens, embedder.pooling) == ("bundled", 384, 256, "mean")
    weights = bundled_embedder() / "model.safetensors"
    assert embedder.footprint().total == pytest.approx(weights.stat().st_size, rel=1e-3)


def test_order_is_kept_in_many_batches(embedder):
    texts = [f"Sentence {i} " + "and so on " * (i * 7 % 23) for i in range(150)]
    together = embedder.embed(texts)
    for i in (0, 1, 77, 149):
        np.testing.assert_allclose(together[i], embedder.embed([texts[i]])[0], atol=1e-5)
    assert np.array_equal(together, embedder.embed(texts))


def test_few_lengths_reach_the_model(embedder):
    """A kernel is kept for every shape: lengths that differ by a token must not each make one."""
    shapes = set()
    hook = embedder.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.add(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        for words in range(1, 60):
            embedder.embed(["word " * words])
    finally:
        hook.remove()
    assert len(shapes) == 4


def test_empty_and_extreme_texts(embedder):
    assert embedder.embed([]).shape == (0, 384)
    vectors = embedder.embed(["", "word " * 100_000, "a" * 100_000, "half an emoji \ud83d", "\x00", " \n"])
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[1], embedder.embed(["word " * 1000])[0], atol=1e-5)


def test_bfloat16_agrees(embedder):
    texts = [f"{sentence} {i}" for i in range(20) for sentence in SENTENCES]
    fast = load_embedder("bundled", threads=2, dtype="bfloat16")
    assert fast.fingerprint == embedder.fingerprint
    assert (fast.embed(texts) * embedder.embed(texts)).sum(axis=1).min() > 0.9995


def test_threads_are_as_before(embedder):
    import torch

    before = torch.get_num_threads()
    embedder.embed(SENTENCES * 50)
    embedder.embed(SENTENCES[:1])
    assert torch.get_num_threads() == before


def test_bad_input(embedder):
    with pytest.raises(InputError, match="list"):
        embedder.embed("one string")
    with pytest.raises(InputError, match="text 1 is NoneType"):
        embedder.embed(["fine", None])
    for options in ({"batch_size": 0}, {"threads": 0}, {"dtype": "int4"}, {"timeout": 3}):
        with pytest.raises(InputError):
            load_embedder("bundled", **options)


@pytest.fixture
def copy_of_bundled(tmp_path):
    """The bundled directory with links to its weights, free to be changed."""
    source = bundled_embedder()
    target = tmp_path / "model"
    shutil.copytree(source, target, copy_function=lambda a, b: Path(b).symlink_to(a))
    return target


def rewrite(path: Path, content: object) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("form", ["old", "new"])
def test_pooling_of_modules_json(embedder, copy_of_bundled, form):
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    rewrite(copy_of_bundled / "1_Pooling/config.json", pooling if form == "old" else {"pooling_mode": "cls"})
    cls = load_embedder(copy_of_bundled, threads=1, dtype="float32")
    assert cls.pooling == "cls" and cls.fingerprint != embedder.fingerprint
    import torch

    tokens = torch.tensor([cls._encoder.encode(SENTENCES[0]).ids])
    with torch.inference_mode():
        first = cls.model(input_ids=tokens).last_hidden_state[0, 0].numpy()
    np.testing.assert_allclose(cls.embed(SENTENCES)[0], first / np.linalg.norm(first), atol=1e-5)


def test_max_pooling_ignores_padding(copy_of_bundled):
    rewrite(copy_of_bundled / "1_Pooling/config.json", {"pooling_mode": "max"})
    embedder = load_embedder(copy_of_bundled, threads=1, dtype="float32")
    short, long = "Yes.", "A much longer sentence stands beside it, so that the short one is padded."
    np.testing.assert_allclose(embedder.embed([short, long])[0], embedder.embed([short])[0], atol=1e-5)


def test_what_is_not_supported_is_refused(copy_of_bundled):
    rewrite(copy_of_bundled / "1_Pooling/config.json", {"pooling_mode": "lasttoken"})
    with pytest.raises(UnsupportedModelError, match="lasttoken"):
        load_embedder(copy_of_bundled)
    rewrite(copy_of_bundled / "modules.json", [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}])
    with pytest.raises(UnsupportedModelError, match="Dense"):
        load_embedder(copy_of_bundled)


def test_damaged_weights(copy_of_bundled):
    (copy_of_bundled / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_embedder(copy_of_bundled)
    (copy_of_bundled / "model.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_embedder(copy_of_bundled)


def test_a_gguf_file_is_no_embedder(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="GGUF"):
        load_embedder(tmp_path / "m.gguf")


def test_prompts_stand_before_texts_and_are_part_of_the_identity(embedder, tmp_path):
    def directory(name, content):
        folder = tmp_path / name
        folder.mkdir()
        for path in bundled_embedder().iterdir():
            (folder / path.name).symlink_to(path)
        (folder / "config_sentence_transformers.json").unlink()
        (folder / "config_sentence_transformers.json").write_text(json.dumps(content))
        return load_embedder(folder, threads=1, dtype="float32")

    apart = directory("apart", {"prompts": {"query": "ask: ", "document": "text: "}})
    text = "Ann moved."
    np.testing.assert_allclose(apart.embed([text]), embedder.embed(["text: " + text]), atol=1e-5)
    np.testing.assert_allclose(apart.embed_queries([text]), embedder.embed(["ask: " + text]), atol=1e-5)
    other = directory("other", {"prompts": {"query": "find: ", "document": "text: "}})
    assert len({apart.fingerprint, other.fingerprint, embedder.fingerprint}) == 3
    default = directory("default", {"prompts": {"it": "note: "}, "default_prompt_name": "it"})
    for embed in (default.embed, default.embed_queries):
        np.testing.assert_allclose(embed([text]), embedder.embed(["note: " + text]), atol=1e-5)
    np.testing.assert_array_equal(embedder.embed_queries([text]), embedder.embed([text]))
