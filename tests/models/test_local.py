"""Local language models: text, likelihoods, bytes, and refusals before any work."""

import math

import pytest

from memspan.core.errors import BudgetError, InputError, ModelError, UnsupportedModelError
from memspan.models import LocalLanguageModel, load_language_model
from memspan.models.gguf import converted
from memspan.models.local import TransformersLanguageModel, predicted_bytes
from tests.word_model import make_word_model

pytest.importorskip("torch")
pytest.importorskip("transformers")
real = pytest.mark.real


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """See `make_word_model`."""
    return make_word_model(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_predicted_bytes_are_the_loaded_ones(tiny, dtype):
    model = load_language_model(tiny, dtype=dtype)
    assert isinstance(model, LocalLanguageModel)
    assert model.footprint().total == predicted_bytes(model.model.config, dtype)
    assert model.generate("the cat", max_new_tokens=3).new_tokens >= 1


def test_loglik_is_the_sum_over_the_options_tokens(tiny):
    import torch

    model = load_language_model(tiny, dtype="float32")
    options = [" sat on", " dog", " mat and a"]
    together = model.loglik("the cat", options)
    for option, value in zip(options, together, strict=True):
        ids = model.tokenizer("the cat" + option)["input_ids"]
        with torch.inference_mode():
            logs = model.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = sum(float(logs[i - 1, ids[i]]) for i in range(2, len(ids)))
        assert value == pytest.approx(expected, abs=1e-4)
        assert model.loglik("the cat", [option]) == pytest.approx([value], abs=1e-4)
    assert model.loglik("the cat", []) == []
    assert model.loglik("the cat", [""]) == [0.0]
    everything = model.loglik("the", [" " + word for word in model.tokenizer.get_vocab() if word.isalpha()])
    assert sum(map(math.exp, everything)) < 1


def test_context_window(tiny):
    model = load_language_model(tiny, dtype="float32")
    assert model.context_window == 24
    assert model.generate("the " * 20, max_new_tokens=100).new_tokens <= 4
    with pytest.raises(InputError, match=r"24 tokens.*window.*24"):
        model.generate("the " * 24, max_new_tokens=1)
    with pytest.raises(InputError, match="window"):
        model.loglik("the " * 24, [" cat"])


def test_sampling_follows_its_seed_and_leaves_the_global_one_alone(tiny):
    import torch

    def sample(seed):
        model = load_language_model(tiny, dtype="float32", seed=seed)
        return [model.generate("the", max_new_tokens=8, temperature=2.0).text for _ in range(3)]

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = sample(1)
    assert first == sample(1) != sample(2)
    assert len(set(first)) > 1
    assert torch.equal(state, torch.get_rng_state())


def test_bad_arguments(tiny):
    model = load_language_model(tiny, dtype="float32")
    for arguments in ({"max_new_tokens": 0}, {"max_new_tokens": 1, "temperature": -1}):
        with pytest.raises(InputError):
            model.generate("the", **arguments)
    for prompt in ("", [], [{"role": "user"}]):
        with pytest.raises(InputError):
            model.generate(prompt, max_new_tokens=1)
    for options in ({"dtype": "int4"}, {"threads": 0}, {"dtype": "int8", "device": "cuda"}):
        with pytest.raises(InputError):
            load_language_model(tiny, **options)


@pytest.mark.parametrize("device", ["cuda:97", "xyz", "meta"])
def test_devices_that_are_not_there(tiny, device):
    with pytest.raises(InputError, match="device"):
        load_language_model(tiny, device=device)


def test_the_cpu_by_any_name(tiny):
    assert load_language_model(tiny, device="cpu:0").footprint().by_place.keys() == {"ram"}


def test_budget_is_checked_before_weights_are_read(tiny, tmp_path):
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())  # and no weights at all
    with pytest.raises(BudgetError, match="int8") as caught:
        load_language_model(tmp_path, budget=1000)
    assert caught.value.allowed == 1000 < caught.value.needed
    full = predicted_bytes(load_language_model(tiny, dtype="float32").model.config, "float32")
    with pytest.raises(BudgetError, match="dtype"):
        load_language_model(tiny, dtype="float32", budget=full - 1)
    assert load_language_model(tiny, dtype="float32", budget=full).dtype == "float32"
    assert load_language_model(tiny, budget=full // 3).dtype == "int8"


def test_unusable_files(tiny, tmp_path):
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    with pytest.raises(UnsupportedModelError, match="safetensors"):
        load_language_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-thing"}')
    with pytest.raises(ModelError, match="configuration"):
        load_language_model(tmp_path)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        load_language_model(tmp_path / "broken.gguf")


@real
def test_bundled_model_answers(language_model):
    answer = language_model.generate("What is the capital of France?", max_new_tokens=20)
    assert "Paris" in answer.text
    assert answer.prompt_tokens > 10 and 1 < answer.new_tokens <= 20 and answer.seconds > 0
    again = language_model.generate([{"role": "user", "content": "What is the capital of France?"}], max_new_tokens=20)
    assert again.text == answer.text
    cut = language_model.generate("What is the capital of France?", max_new_tokens=20, stop=[" Paris", ""])
    assert cut.text == answer.text[: answer.text.index(" Paris")] and cut.new_tokens < answer.new_tokens


@real
def test_bundled_model_weighs_options(language_model):
    paris, banana = language_model.loglik("The capital of France is", [" Paris", " banana"])
    assert banana + 5 < paris < 0
    # A space may stand on either side of the boundary: the token " Paris" reaches over it.
    assert language_model.loglik("The capital of France is ", ["Paris"]) == pytest.approx([paris], abs=0.1)
    assert language_model.count_tokens("") == 0 < language_model.count_tokens("Paris, of course") <= 5


@real
def test_gguf_is_converted_once_and_mapped(language_model, cache_folder):
    path = language_model.model.config._name_or_path
    folder = cache_folder / "memspan" / "gguf"
    assert [entry.name for entry in folder.iterdir() if entry.name.startswith(".")] == []
    assert str(folder) in str(path)
    from memspan.models.spec import bundled_language_model

    before = (folder / path).stat().st_mtime_ns
    assert converted(bundled_language_model(), "bfloat16") == folder / path
    assert (folder / path).stat().st_mtime_ns == before
    other = TransformersLanguageModel(bundled_language_model(), budget=200_000_000)
    assert (other.dtype, other.fingerprint) == ("int8", language_model.fingerprint)
    assert "Paris" in other.generate("What is the capital of France?", max_new_tokens=20).text


@real
def test_bundled_budget(language_model):
    with pytest.raises(BudgetError) as caught:
        load_language_model("bundled", budget=1 << 20)
    assert caught.value.needed > caught.value.allowed == 1 << 20
