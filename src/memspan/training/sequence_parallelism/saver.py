"""The saver `sequence-parallelism`, and its settings."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from memspan.core.budget import format_bytes, parse_bytes
from memspan.core.errors import InputError, UnsupportedModelError
from memspan.training import ranks
from memspan.training.base import Batch, Loss, OptimizerFactory, OtherOptimizer, Saver, has_values
from memspan.training.estimate import Estimate, split_sequence
from memspan.training.ordinary import IGNORED, language_model
from memspan.training.reducing import GradientReducer
from memspan.training.sequence_parallelism.layout import ORDERS, Layout
from memspan.training.sequence_parallelism.ring import Ring, Seen, ring_attention
from memspan.training.spec import Spec

METHODS = ("rsa", "ring")
_NUMBERS = itertools.count()


@dataclass(frozen=True, kw_only=True)
class SequenceParallelismConfig:
    """Settings of sequence parallelism.

    Raises:
        InputError: a value is out of range; the message names it.
    """

    method: str = "ring"  # or "rsa", the paper's, which keeps the scores of all tokens
    order: str = "contiguous"  # or "zigzag", so that causal attention is as much work on every rank
    bucket: str | int = "25MiB"  # of the buffer for gradients

    def __post_init__(self) -> None:
        for name, known in (("method", METHODS), ("order", ORDERS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(known)}")
        parse_bytes(self.bucket)


class SequenceParallelism(Saver):
    """Splits every row of a batch over the ranks; keys and values travel round a ring.

    When to use: rows so long that their activations do not fit in one device. Relations: `zero` splits the model's
    states and gives every rank whole rows; `checkpointing` and `chunked-loss` work together with this one.

    Cost: of activations 1/N, and a chunk of keys and values twice; with "rsa" scores of B Z L²/N numbers besides. Sent
    are 6 (N - 1) + 2 chunks of keys or values a layer and step, and the gradients once around.

    Args:
        config: a `SequenceParallelismConfig`.

    Raises:
        UnsupportedModelError: attention does not go through transformers' AttentionInterface, or is not full.
        InputError: there are more ranks than tokens.
    """

    slug = "sequence-parallelism"
    Config = SequenceParallelismConfig
    touches = frozenset({"distribution"})
    exact: ClassVar[bool] = True
    uniform = True
    runs_alone: ClassVar[bool] = True

    def __init__(self, config: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        self._ring: Ring | None = None  # None while there is nothing to share
        self._layout: Layout | None = None  # of the batch at hand
        self._keep: Tensor | None = None
        self._reducer: GradientReducer | None = None
        self._name = self._before = ""

    def check(self, spec: Spec) -> None:
        """Refuse other models than language models, attention in windows, and rows that are too short."""
        if spec.config is None:
            raise UnsupportedModelError("sequence-parallelism needs a transformers language model: leave it out")
        text = spec.config.get_text_config()
        others = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
        if others:
            raise UnsupportedModelError(f"sequence-parallelism knows full attention, not {', '.join(sorted(others))}")
        if self.config.method == "ring" and getattr(text, "attention_dropout", 0.0):
            raise UnsupportedModelError('blockwise attention has no dropout: set it to 0, or method to "rsa"')
        self._check_length(spec.seq, spec.devices)

    def _check_length(self, length: int, count: int) -> None:
        if length < count:
            raise InputError(f"{count} ranks are more than the {length} tokens of a row: start fewer")

    # --- before the first step ---------------------------------------------------------------------------------------

    def change(self, model: nn.Module) -> nn.Module:
        """Give all ranks the first one's weights, and the model another attention."""
        self._ring = None
        if not ranks.shares(model):
            if ranks.count() == 1 and all(has_values(one) for one in model.parameters()):
                warnings.warn(
                    "sequence-parallelism: there is one rank, nothing is split; start several with torchrun",
                    stacklevel=2,
                )
            return model
        from transformers import AttentionInterface

        inner: Any = language_model(model)
        if not getattr(inner, "_supports_attention_backend", False) and not getattr(inner, "_supports_sdpa", False):
            raise UnsupportedModelError(f"the attention of {type(inner).__name__} cannot be replaced")
        ranks.copy_first(model)
        self._ring = Ring()
        self._before = inner.config._attn_implementation
        self._name = f"memspan-ring-{next(_NUMBERS)}"
        AttentionInterface.register(self._name, self._attend)
        inner.config._attn_implementation = self._name
        return model

    def optimizer(self, factory: OptimizerFactory) -> OptimizerFactory:
        """The same, once what averages the gradients is attached to the parameters that it trains."""
        return factory if self._ring is None else OtherOptimizer(self._make, factory)

    def _make(self, model: nn.Module, factory: OptimizerFactory) -> torch.optim.Optimizer:
        """The factory's own optimizer; gradients are averaged over the ranks from then on."""
        made = factory(model)
        assert self._ring is not None
        group = self._ring.group if self._ring.group is not None else dist.group.WORLD
        self._reducer = GradientReducer(list(model.parameters()), group, bucket=parse_bytes(self.config.bucket))
        return made

    # --- in every step -----------------------------------------------------------------------------------------------

    def batch(self, batch: Batch) -> Batch:
        """This rank's tokens of every row, with their places in it, and labels that are shifted already.

        `input_ids` and `labels` [B, L], `attention_mask` [B, L] where rows are padded; all else is left as it is.

        Raises:
            InputError: there are no `input_ids` [B, L], more ranks than tokens, or a mask of another shape.
        """
        if self._ring is None:
            return batch
        ids = batch.get("input_ids")
        if not isinstance(ids, Tensor) or ids.ndim != 2:
            raise InputError("sequence-parallelism splits input_ids [rows, tokens], and the batch has none")
        ring, length = self._ring, ids.shape[1]
        self._check_length(length, ring.size)
        parts = ring.size * (2 if self.config.order == "zigzag" else 1)
        padding = -length % parts
        layout = self._layout = Layout(length + padding, ring.size, self.config.order)
        part: dict[str, Any] = dict(batch)

        def own(tensor: Tensor, fill: int) -> Tensor:
            padded = nn.functional.pad(tensor, (0, padding), value=fill) if padding else tensor
            return layout.take(padded, ring.rank)

        mask = part.pop("attention_mask", None)
        if mask is not None and mask.shape != ids.shape:
            raise InputError(f"attention_mask is {tuple(mask.shape)}: it must be that of input_ids, {tuple(ids.shape)}")
        self._keep = None if mask is None else nn.functional.pad(mask.bool(), (0, padding))
        part["input_ids"] = own(ids, 0)
        places = part.get("position_ids")
        if places is None:
            part["position_ids"] = layout.positions(ring.rank, ids.device)[None]
        else:
            part["position_ids"] = own(places, 0)
        labels = part.get("labels")
        if labels is not None:
            shifted = nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
            part["labels"] = part["shift_labels"] = own(shifted, IGNORED).contiguous()
        return part

    def loss(self, loss: Loss) -> Loss:
        """The mean over the tokens of all ranks."""
        if self._ring is None:
            return loss

        def common(model: nn.Module, batch: Batch) -> Tensor:
            assert self._ring is not None
            labels = batch.get("shift_labels")
            kept = (labels != IGNORED).sum() if isinstance(labels, Tensor) else None
            return ranks.common_mean(loss(model, batch), kept, self._ring.group)

        return common

    def _attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Attention as transformers calls it: query [B, Z, c, A], what is returned [B, c, Z, A]."""
        assert self._ring is not None and self._layout is not None
        for name in ("sliding_window", "softcap", "s_aux", "position_bias"):
            if kwargs.get(name) is not None:
                raise UnsupportedModelError(f"sequence-parallelism knows no attention with {name}")
        if dropout and self.config.method == "ring":
            raise UnsupportedModelError('blockwise attention has no dropout: set it to 0, or method to "rsa"')
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        keep = self._keep
        if keep is None and not causal and self._layout.length > query.shape[2] * self._ring.size:
            raise UnsupportedModelError("give an attention_mask: the padding of the last tokens would be seen")
        seen = Seen(self._layout, self._ring.rank, causal=causal, keep=keep)
        found = ring_attention(
            query,
            key,
            value,
            self._ring,
            seen,
            scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
            method=self.config.method,
            dropout=dropout,
        )
        return found.transpose(1, 2).contiguous(), None

    @contextmanager
    def step_context(self) -> Iterator[None]:
        """Sees to the gradients that are left after the backward pass."""
        try:
            yield
        except BaseException:
            if self._reducer is not None:
                self._reducer.reset()
            raise
        if self._reducer is not None:
            self._reducer.settle()

    # --- besides -----------------------------------------------------------------------------------------------------

    def estimate(self, spec: Spec, before: Estimate) -> Estimate:
        """By formula, where a rank's step cannot be run."""
        return split_sequence(spec, before, degree=spec.devices)

    def explain(self, spec: Spec, estimate: Estimate) -> list[str]:
        """What a rank holds of a layer, and from which length on that is less than by splitting the weights."""
        if spec.devices == 1:
            return []
        text = spec.config.get_text_config()
        heads, width = text.num_attention_heads, text.hidden_size
        size = getattr(text, "head_dim", None) or width // heads
        rows, length, count = spec.batch, spec.seq, spec.devices
        lines = [f"  sequence     N = {count}, c = L/N = {-(-length // count):,} tokens of each of B = {rows} rows"]
        if self.config.method == "rsa":
            scores = rows * heads * length * -(-length // count) * spec.torch_dtype.itemsize
            lines.append(f"    scores kept by a layer: BZL²/N = {format_bytes(scores)}")
        for part, least, formula in (("MLP", 32 * width, "32H"), ("attention", 16 * size * heads, "16AZ")):
            wins = "is" if rows * length > least else "is not"
            lines.append(f"    {part}: BL = {rows * length:,} {wins} above {formula} = {least:,}, from where on")
            lines[-1] += " splitting the tokens holds less than splitting the weights"
        return lines

    def report(self) -> dict[str, Any]:
        """How sequences were split."""
        count = 1 if self._layout is None else self._layout.ranks
        return {"method": self.config.method, "order": self.config.order, "ranks": count}

    def finish(self, model: nn.Module) -> nn.Module:
        """The model with the attention that it had; every rank has all of it."""
        if self._reducer is not None:
            self._reducer.close()
        if self._ring is not None:
            from transformers import AttentionInterface

            inner: Any = language_model(model)
            inner.config._attn_implementation = self._before
            AttentionInterface._global_mapping.pop(self._name, None)
        self._ring = self._reducer = self._keep = None
        return model
