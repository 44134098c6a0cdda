"""The zero-position seam on tiny random models of every family it was promised for, and clear refusals of others."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

import memspan
from memspan.context.base import ContextSystem
from memspan.core.errors import UnsupportedModelError

FAMILIES = (
    "llama mistral ministral mixtral qwen2 qwen3 qwen3_moe gemma gemma2 gemma3_text phi phi3 stablelm cohere glm glm4 "
    "olmo2 granite smollm3 starcoder2 exaone4 ernie4_5 helium persimmon gpt_neox"
).split()
REFUSED = {
    "gpt2": "rotary",
    "opt": "rotary",
    "bloom": "rotary|AttentionInterface",
}


def tiny(kind: str, layers: int = 4):
    """A random model whose layers, where its family mixes kinds, are of every kind."""
    settings = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if kind == "persimmon" or kind == "gpt_neox":
        settings.pop("num_key_value_heads")
    if kind in ("mixtral", "qwen3_moe"):
        settings |= {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    if kind in ("gemma2", "gemma3_text", "mistral", "ministral", "exaone4"):
        settings |= {"sliding_window": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **settings)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model.eval()


@pytest.mark.parametrize("kind", FAMILIES)
def test_reads_in_chunks_as_the_plain_model_does_and_leaves_it_as_it_was(kind):
    model = tiny(kind)
    ids = torch.randint(3, 96, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model(ids).logits
        with memspan.context("full", model, chunk=7):
            read = model(ids).logits
        after = model(ids).logits
    assert float((read - plain).abs().max()) <= 1e-5
    assert torch.equal(after, plain)


class Watching(ContextSystem):
    needs = frozenset({"hidden"})

    def hidden(self, layer, h, step):
        step.cache.notes[str(layer)] = list(h.shape)
        return h


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_decoder_layer_is_found(kind):
    model = tiny(kind)
    tokens = torch.randint(3, 96, (1, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model(tokens).logits
        with memspan.context(Watching(), model) as reader:
            assert torch.allclose(model(tokens).logits, plain, atol=1e-5)
            assert reader.cache.notes == {str(layer): [1, 12, 32] for layer in range(-1, 4)}


@pytest.mark.parametrize("kind", REFUSED)
def test_models_without_rotary_positions_are_refused_with_the_reason(kind):
    config = AutoConfig.for_model(kind, vocab_size=96)
    for name in ("n_layer", "num_hidden_layers"):
        if hasattr(config, name):
            setattr(config, name, 1)
    with torch.device("cpu"):
        model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UnsupportedModelError, match=REFUSED[kind]), memspan.context("full", model):
        pass


def test_layers_without_rotary_positions_are_found():
    with memspan.context("full", tiny("smollm3")) as reader:
        assert [info.rotary for info in reader.family.layers] == [8, 8, 8, 0]


def test_frequencies_that_change_with_the_length_are_refused():
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=32,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with pytest.raises(UnsupportedModelError, match="change with the length"), memspan.context("full", model):
        pass
