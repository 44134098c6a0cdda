"""What papers say that a large model takes, predicted from its configuration."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from memspan.planner.imagine import imagine  # noqa: E402
from memspan.training import Spec, Stack  # noqa: E402
from memspan.training.estimate import memory  # noqa: E402
from memspan.training.q_galore import QGaLore  # noqa: E402

SEVEN_BILLION = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 32_000,
}


def test_q_galore_trains_seven_billion_parameters_on_a_card_of_16_gb():
    """15.26 GB, at batch 16 with checkpointing, says the code of arXiv 2407.08296."""
    config = transformers.LlamaConfig(**SEVEN_BILLION)
    spec = Spec(config=config, task="pretrain", batch=16, seq=256, dtype="bfloat16")
    found, how = imagine(spec, Stack(["checkpointing", "chunked-loss", QGaLore(rank=1024)]))
    assert how == "repeated"
    assert memory(found.peak) == pytest.approx(15.26e9, rel=0.1)
    assert memory(found.peak) < 16e9


def test_activations_of_llama_2_in_16_bits_are_those_that_coat_measured():
    """25.8 GB at 2 rows of 2,048 tokens (table 7), 22.66 times batch x tokens x width x 2 bytes a layer (table 2)."""
    spec = Spec(config=transformers.LlamaConfig(**SEVEN_BILLION), batch=2, seq=2048, dtype="bfloat16")
    found, _ = imagine(spec, Stack())
    assert found.highest.by_tier["activations"] == pytest.approx(25.8e9, rel=0.1)
    assert found.saved_by_layer == pytest.approx(22.66 * 2 * 2048 * 4096 * 2, rel=0.02)
