"""`Spec`: what is to be trained, on how much at a time, and where; all that a prediction needs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError, UnsupportedModelError

TASKS = ("pretrain", "finetune", "lora")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A training job, without its data.

    Attributes:
        config: a transformers configuration of a causal language model; or None, with `make_model` and `make_batch`.
        task: "pretrain" (from random weights), "finetune", or "lora" (the base model stays frozen).
        batch: rows of a batch, on each device.
        seq: tokens of a row.
        dtype: of weights, and thereby of gradients and activations: "float32" or "bfloat16".
        attention: as transformers names it: "sdpa", "eager".
        devices: ranks that share the job.
        device: "cpu", or what accelerators are called ("cuda"); says only where bytes are counted.
        make_model: makes another module than a language model of `config`.
        make_batch: makes one of its batches.

    Raises:
        InputError: a value is out of range; the message names it.
    """

    config: Any = None
    task: str = "finetune"
    batch: int = 1
    seq: int = 512
    dtype: str = "float32"
    attention: str = "sdpa"
    devices: int = 1
    device: str = "cpu"
    make_model: Callable[[], nn.Module] | None = None
    make_batch: Callable[[], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "seq", "devices"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} is {value!r}: it must be a whole number of at least 1")
        for name, known in (("task", TASKS), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(known)}")
        if (self.config is None) == (self.make_model is None) or (self.make_model is None) != (self.make_batch is None):
            raise InputError("a spec needs a config, or make_model and make_batch together")
        if self.config is not None:
            longest = getattr(self.config.get_text_config(), "max_position_embeddings", None)
            if isinstance(longest, int) and self.seq > longest:
                raise InputError(f"seq is {self.seq}: the model's positions end at {longest}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as PyTorch has it."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def build(self) -> nn.Module:
        """The model with random weights, in training mode.

        Raises:
            UnsupportedModelError: the configuration is of no causal language model, or has no such attention.
        """
        if self.make_model is not None:
            return self.make_model().train()
        from transformers import AutoModelForCausalLM

        from memspan.models.configuration import name_loss
        from memspan.models.spec import quiet_transformers

        auto: Any = AutoModelForCausalLM
        try:
            with quiet_transformers():
                # A copy, since transformers writes dtype and attention into what it is given.
                model: nn.Module = auto.from_config(
                    copy.deepcopy(self.config), dtype=self.torch_dtype, attn_implementation=self.attention
                )
        except (ValueError, ImportError) as error:
            raise UnsupportedModelError(f"{type(self.config).__name__}: {error}") from error
        name_loss(model)
        return model.train()

    def random_batch(self, generator: torch.Generator | None = None) -> Mapping[str, Any]:
        """A batch of this job's shape: `input_ids` and `labels` [batch, seq], the same tensor."""
        if self.make_batch is not None:
            return self.make_batch()
        vocabulary = self.config.get_text_config().vocab_size
        ids: Tensor = torch.randint(0, vocabulary, (self.batch, self.seq), generator=generator)
        return {"input_ids": ids, "labels": ids}

    # --- depth -------------------------------------------------------------------------------------------------------

    @property
    def layers(self) -> int | None:
        """Decoder layers, where the configuration tells."""
        if self.config is None:
            return None
        found = getattr(self.config.get_text_config(), "num_hidden_layers", None)
        return found if isinstance(found, int) else None

    def with_layers(self, layers: int) -> Spec:
        """The same job on the model's first layers."""
        config = copy.deepcopy(self.config)
        text = config.get_text_config()
        text.num_hidden_layers = layers
        kinds = getattr(text, "layer_types", None)
        if isinstance(kinds, list):
            text.layer_types = kinds[:layers]
        return replace(self, config=config)
