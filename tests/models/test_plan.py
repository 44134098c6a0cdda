"""What models will take, foretold from their configurations."""

import pytest

from memspan.core.errors import ModelError
from memspan.models.plan import activation_bytes, kv_bytes, plan_embedder, plan_language_model

pytest.importorskip("torch")
pytest.importorskip("transformers")


def config(**changes):
    from transformers import LlamaConfig

    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
    return LlamaConfig(**{**sizes, "num_key_value_heads": 2, "vocab_size": 100, **changes})


def test_kv_bytes_are_those_of_a_real_cache():
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config())
    with torch.inference_mode():
        output = model(torch.ones((1, 7), dtype=torch.long), use_cache=True)
    cache = output["past_key_values"] if "past_key_values" in output else output["cache"]
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert kv_bytes(model.config, 7, 4) == held
    assert kv_bytes(object(), 7, 4) == 0


def test_activations_grow_with_tokens_and_with_the_widest_layer():
    assert activation_bytes(config(), 10, 2, streams=3) == 10 * 2 * (2 * 64 + 3 * 160)
    assert activation_bytes(config(intermediate_size=8), 10, 2, streams=3) == 10 * 2 * 6 * 64


def test_weights_are_those_that_loading_finds(tmp_path):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(config()).save_pretrained(tmp_path)
    plan = plan_language_model(tmp_path)
    values = sum(p.numel() for p in AutoModelForCausalLM.from_config(config()).parameters())
    assert 0 <= plan.weights["bfloat16"] - 2 * values < 200  # buffers count as well
    assert plan.weights["int8"] < plan.weights["bfloat16"] and plan.window == 2048
    assert plan_embedder(tmp_path).weights == 4 * values
    next(tmp_path.glob("*.safetensors")).write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(ModelError, match="safetensors"):
        plan_embedder(tmp_path)


def test_endpoints_take_nothing():
    assert plan_language_model("openai:http://localhost:1/v1#m") is None
    assert plan_embedder("openai:http://localhost:1/v1#m") is None


@pytest.mark.real
def test_the_bundled_embedder(embedder):
    plan = plan_embedder("bundled", threads=2)
    assert abs(plan.weights - embedder.footprint().total) < 10_000 and plan.dim == embedder.dim
    assert plan.activations == 2 * activation_bytes(embedder.model.config, 4096, 4, streams=2)
