"""The ordinary savers, which no paper of the catalogue stands for: every plan is held against them."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError, MissingExtraError, UnsupportedModelError
from memspan.training.base import Saver, has_values
from memspan.training.spec import Spec

IGNORED = -100  # the label that transformers leaves out of the loss
_SAME = 1e-3  # how far head(decoder(x)) may lie from model(x), relative to the largest logit, to be taken for the same
# Names under which configurations scale or squash logits; a head applied by itself would leave that out.
_SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier_alpha")


class Checkpointing(Saver):
    """Keeps only the input of each layer, and computes the layer again in the backward pass (arXiv 1604.06174)."""

    slug = "checkpointing"
    touches = frozenset({"activations"})
    uniform = True

    def change(self, model: nn.Module) -> nn.Module:
        """Switch it on in the transformers model.

        Raises:
            UnsupportedModelError: the model has no checkpointing of its own.
        """
        inner: Any = language_model(model)
        if not getattr(inner, "supports_gradient_checkpointing", False):
            raise UnsupportedModelError(f"{type(inner).__name__} cannot recompute its layers: leave checkpointing out")
        # The non-reentrant kind also works where the inputs of a layer need no gradient, as with frozen embeddings.
        settings = {"use_reentrant": False}
        if hasattr(inner, "activation_checkpointing_enable"):  # its name from transformers 5.24 on
            inner.activation_checkpointing_enable(settings)
        else:
            inner.gradient_checkpointing_enable(settings)
        # transformers has made the embeddings' output require a gradient, for the other kind: below the lowest layer
        # that trains, nothing needs to be kept or computed again.
        inner.disable_input_require_grads()
        return model

    def finish(self, model: nn.Module) -> nn.Module:
        """Switch it off."""
        inner: Any = language_model(model)
        if hasattr(inner, "activation_checkpointing_disable"):
            inner.activation_checkpointing_disable()
        else:
            inner.gradient_checkpointing_disable()
        return model


@dataclass(frozen=True, kw_only=True)
class ChunkedLossConfig:
    """Settings of `chunked-loss`."""

    tokens: int = 256  # whose logits are held at once

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise InputError(f"tokens is {self.tokens}: it must be at least 1")


class ChunkedLoss(Saver):
    """Computes the loss and its gradient some tokens at a time, so that the logits are never held whole.

    The output embedding is applied outside of the model's own forward pass, which returns no logits when it trains with
    labels. Models that scale or squash their logits are refused.
    """

    slug = "chunked-loss"
    Config = ChunkedLossConfig
    touches = frozenset({"loss"})
    uniform = True

    def check(self, spec: Spec) -> None:
        """Refuse models without a language model's head, and those whose logits are not the head's output."""
        if spec.config is None:
            raise UnsupportedModelError("chunked-loss needs a transformers language model: leave it out")
        text = spec.config.get_text_config()
        for name in _SCALED:
            value = getattr(text, name, None)
            if value is not None and value != 1:
                raise UnsupportedModelError(f"chunked-loss does not know the model's {name} of {value}: leave it out")

    def change(self, model: nn.Module) -> nn.Module:
        """Give the language model inside a forward pass that returns the loss alone."""
        inner = language_model(model)
        head: Any = inner.get_output_embeddings()  # type: ignore[operator]
        base: Any = getattr(inner, "base_model", None)
        if not isinstance(head, nn.Linear) or base is None or base is inner:
            raise UnsupportedModelError(f"{type(inner).__name__} has no linear head over a base model")
        plain = inner.forward
        _check_head(inner, base, head)
        size = self.config.tokens

        @functools.wraps(plain)
        def forward(*args: Any, labels: Tensor | None = None, shift_labels: Tensor | None = None, **kwargs: Any) -> Any:
            from transformers.modeling_outputs import CausalLMOutput

            given = {"labels": labels, "shift_labels": shift_labels}
            if labels is None or not inner.training:
                return plain(*args, **kwargs, **{name: one for name, one in given.items() if one is not None})
            items = kwargs.pop("num_items_in_batch", None)
            kwargs.pop("logits_to_keep", None)
            hidden = base(*args, **kwargs)[0]
            if shift_labels is None:
                shift_labels = nn.functional.pad(labels, (0, 1), value=IGNORED)[..., 1:]
            target = shift_labels.reshape(-1)
            count = (target != IGNORED).sum() if items is None else torch.as_tensor(items, device=hidden.device)
            loss = _ChunkedLoss.apply(hidden.flatten(0, -2), head.weight, head.bias, target, count, size)  # type: ignore[no-untyped-call]
            make: Any = CausalLMOutput
            return make(loss=loss)

        inner.forward = forward
        return model

    def finish(self, model: nn.Module) -> nn.Module:
        """Give the model its own forward pass again."""
        inner = language_model(model)
        inner.__dict__.pop("forward", None)
        return model


class _ChunkedLoss(torch.autograd.Function):
    """Cross entropy of a linear head, summed and divided by `count`.

    Gradients are computed with the loss, while a chunk's logits are at hand; the backward pass only scales them. hidden
    [tokens, width], weight [vocabulary, width], target [tokens].
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, count: Tensor, size: int
    ) -> Tensor:
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = torch.zeros_like(weight) if wants_weight else None
        d_bias = torch.zeros_like(bias) if wants_bias and bias is not None else None
        total = hidden.new_zeros((), dtype=torch.float32)
        for at in range(0, hidden.shape[0], size):
            rows, wanted = hidden[at : at + size], target[at : at + size]
            scores = nn.functional.linear(rows, weight, bias).float()
            kept = (wanted != IGNORED).unsqueeze(1)
            index = wanted.clamp(min=0).unsqueeze(1)
            log_sum = scores.logsumexp(-1, keepdim=True)
            total += ((log_sum - scores.gather(1, index)) * kept).sum()
            scores.sub_(log_sum).exp_()
            scores.scatter_add_(1, index, scores.new_full(index.shape, -1.0))
            scores.mul_(kept / count)
            delta = scores.to(hidden.dtype)
            if d_hidden is not None:
                torch.mm(delta, weight, out=d_hidden[at : at + size])
            if d_weight is not None:
                d_weight.addmm_(delta.t(), rows)
            if d_bias is not None:
                d_bias += delta.sum(0)
        ctx.gradients = [d_hidden, d_weight, d_bias]
        return total / count

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        scaled = [None if one is None else one.mul_(upstream[0].to(one.dtype)) for one in ctx.gradients]
        ctx.gradients = None
        return (*scaled, None, None, None)


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Settings of `lora`."""

    rank: int = 8  # r
    alpha: int = 16  # the update is scaled by alpha / rank
    dropout: float = 0.0  # of the adapters' input
    targets: str = "all-linear"  # names of linear layers with commas between, or all-linear: all but the head

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"rank is {self.rank}: it must be at least 1")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}: it must lie in [0, 1)")


class Lora(Saver):
    """Freezes the model and trains a low-rank update beside each linear layer (arXiv 2106.09685), with PEFT.

    Args:
        config: a `LoraConfig`.

    Raises:
        MissingExtraError: peft is not installed.
    """

    slug = "lora"
    Config = LoraConfig
    touches = frozenset({"weights"})
    brings = frozenset({"adapters"})
    tasks = frozenset({"finetune", "lora"})
    exact = False
    quality: ClassVar[str] = "updates of low rank only"
    uniform = True

    def __init__(self, config: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        if importlib.util.find_spec("peft") is None:
            raise MissingExtraError("peft, which lora needs,", "pip install 'memspan[train]'")

    def change(self, model: nn.Module) -> nn.Module:
        """Put the adapters in."""
        import peft

        targets = self.config.targets
        settings = peft.LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.alpha,
            lora_dropout=self.config.dropout,
            target_modules=targets if targets == "all-linear" else [name.strip() for name in targets.split(",")],
            task_type="CAUSAL_LM",
        )
        try:
            with warnings.catch_warnings():  # PEFT asks for a name that transformers 5.24 deprecates
                warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
                warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
                adapted: nn.Module = peft.get_peft_model(language_model(model), settings)
        except ValueError as error:
            raise InputError(f"lora: {error}") from error
        return adapted

    def finish(self, model: nn.Module) -> nn.Module:
        """The base model with the updates added to its weights."""
        adapted: Any = model
        merged: nn.Module = adapted.merge_and_unload()
        return merged


ORDINARY: dict[str, type[Saver]] = {kind.slug: kind for kind in (Checkpointing, ChunkedLoss, Lora)}


def language_model(module: nn.Module) -> nn.Module:
    """The transformers language model that a module is, or holds.

    Raises:
        UnsupportedModelError: there is none.
    """
    from transformers import PreTrainedModel

    kind: Any = PreTrainedModel
    for inner in module.modules():
        if isinstance(inner, kind) and inner.get_output_embeddings() is not None:
            found: nn.Module = inner
            return found
    raise UnsupportedModelError(f"{type(module).__name__} holds no transformers language model with a head")


def _check_head(model: nn.Module, base: Any, head: nn.Linear) -> None:
    """Refuse a model whose logits are something else than its head's output, as far as two tokens show."""
    if not has_values(head.weight):
        return
    ids = torch.zeros(1, 2, dtype=torch.long, device=head.weight.device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits.float()
            ours = head(base(input_ids=ids, use_cache=False)[0]).float()
    finally:
        model.train(training)
    if (logits - ours).abs().max() > _SAME * logits.abs().max():
        raise UnsupportedModelError(f"the logits of {type(model).__name__} are not its head's output: no chunked-loss")
