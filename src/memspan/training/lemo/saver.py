"""LeMo (Wang et al., "LeMo: Enabling LEss Token Involvement for MOre Context Fine-tuning", arXiv 2501.09767; as
"JENGA", USENIX ATC 2025): blocks of tokens that say little to a layer pass it by.

Sparse attention keeps every token's activations, since some other token asks for it. Here a block of tokens that the
layer's queries ask for least leaves the layer altogether: it is no query, no key, and no input of the MLP; the residual
stream carries it on, and the next layer chooses anew. What a layer saves for the backward pass, and its products, thus
shrink with the tokens it keeps. Positions stay those of the whole text, and attention stays causal.

A token's informativeness is the sum of its key's scores with the queries after it, before the softmax: positive parts,
mean over heads, the largest of each block of queries and block of keys, and over the blocks of queries. They are found
without gradients, for the queries of one block at a time, or told by predictors (`fit_predictors`).

Notable choices. A fixed share of blocks is kept in place of all above a threshold, so that bytes can be planned;
`profile_keep` turns the paper's thresholds into a share for each layer and `refine_keep` has the finite differences.
A block's score is the mean over the blocks of queries that see it: the paper's sum (`pool="sum"`) grows with their
number, and under causal attention comes close to keeping the beginning of every text.
First and last block are always kept (attention sinks, the end of the text), as is a last block that is not full. Tokens
pass by a whole layer by default; with `mlp="own"`, as in the paper, the MLP keeps the blocks of its own largest
intermediate activations. The fused kernel that loads kept tokens by index and adds its output in place is a selection
and a replacement of rows, neither of which saves anything of the whole length; where the paper subtracts to have a
layer's input again, the kept rows are saved, since they are few and subtraction drifts. The loss in segments is
`chunked-loss`, to be named beside this. In evaluation mode, and outside of a step, the model is dense. A recomputation
in the backward pass uses the choice of the forward pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError, UnsupportedModelError
from memspan.training.base import Saver
from memspan.training.lemo.blocks import Kept, choose, counted
from memspan.training.lemo.halves import Branches, join, split
from memspan.training.lemo.predictors import LayerPredictor, Predictors
from memspan.training.lemo.scores import attention_of, by_block, mlp_scores, normed, pooled_scores, queries_and_keys
from memspan.training.ordinary import language_model
from memspan.training.spec import Spec

_SCORES = ("attention", "predicted", "random")
_MLPS = ("same", "own")
_POOLS = ("mean", "sum")
_ATTENTIONS = ("sdpa", "eager")


@dataclass(frozen=True, kw_only=True)
class LemoConfig:
    """Settings of LeMo.

    Raises:
        InputError: a value is out of range; the message names it.
    """

    keep: float | Sequence[float] = 0.5  # share of blocks that a layer keeps, or one for each layer
    block: int = 64  # tokens of a block (paper)
    score: str = "attention"  # "attention"; "predicted" by predictors; "random" blocks, to compare with
    pool: str = "mean"  # over the blocks of queries: "mean" (ours), or "sum" (paper)
    mlp: str = "same"  # tokens of the MLP: the "same" as the attention's, or its "own" (paper)
    ends: bool = True  # always keep the first and the last block (ours)
    predictors: str | os.PathLike[str] | None = None  # file that `Predictors.save` wrote, for score "predicted"

    def __post_init__(self) -> None:
        for name, known in (("score", _SCORES), ("pool", _POOLS), ("mlp", _MLPS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(known)}")
        if self.block < 1:
            raise InputError(f"block is {self.block}: it must be at least 1")
        for share in self.shares or (self.keep,):
            if not (isinstance(share, int | float) and 0 < share <= 1):
                raise InputError(f"keep is {share}: it must lie in (0, 1]")
        if (self.predictors is not None) != (self.score == "predicted"):
            raise InputError("score 'predicted' and a file of predictors go together: fit_predictors(…).save(file)")

    @property
    def shares(self) -> tuple[float, ...]:
        """One share for each layer; empty where all have the same."""
        return () if isinstance(self.keep, int | float) else tuple(self.keep)

    def share(self, layer: int) -> float:
        """The share of a layer."""
        return self.shares[layer] if self.shares else float(self.keep)  # type: ignore[arg-type]


class Lemo(Saver):
    """Lets blocks of tokens of low score pass layers by, separately in each layer.

    Args:
        config: a `LemoConfig`.

    Raises:
        InputError: in `change`: shares or predictors are for another model.
        UnsupportedModelError: in `change`: the model's layers cannot be reached, or have no queries and keys that are
            known. In a step: a layer is given something whose tokens cannot be told.
    """

    slug = "lemo"
    Config = LemoConfig
    touches = frozenset({"tokens"})
    tasks = frozenset({"finetune", "lora"})
    exact = False
    quality: ClassVar[str] = "tokens of low score pass layers by"

    def __init__(self, config: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        path = self.config.predictors
        self._predictors = None if path is None else Predictors.load(path)
        if self._predictors is not None and self._predictors.block != self.config.block:
            raise InputError(f"the predictors are for blocks of {self._predictors.block}, not of {self.config.block}")
        alike = self._predictors is None or self._predictors.uniform
        self.uniform = alike and not self.config.shares
        if self.config.mlp == "own":
            # Recomputed token by token, a layer must have as many tokens inside as outside.
            self.excludes = frozenset({"memo-1m"})
        self._reset()

    def _reset(self) -> None:
        self._layers: list[Any] = []
        self._hooks: list[Any] = []
        self._active = False
        self._passing: list[Kept | None] = []
        self._past: dict[tuple[int, str], list[Tensor | None]] = {}
        self._counts: dict[int, tuple[int, int, int]] = {}

    # --- before the first step ---------------------------------------------------------------------------------------

    def check(self, spec: Spec) -> None:
        """Refuse other attention than torch's or eager, and shares for another number of layers."""
        if spec.config is None:
            raise UnsupportedModelError("lemo needs a transformers language model: leave it out")
        if spec.attention not in _ATTENTIONS:
            raise InputError(f"lemo works with the attention {' or '.join(_ATTENTIONS)}, not with {spec.attention}")
        if self.config.shares and spec.layers is not None and len(self.config.shares) != spec.layers:
            raise InputError(f"keep has {len(self.config.shares)} shares for {spec.layers} layers")

    def change(self, model: nn.Module) -> nn.Module:
        """Hook into the layers."""
        self._reset()
        inner: Any = language_model(model)
        attention = getattr(inner.config, "_attn_implementation", None)
        if attention not in _ATTENTIONS:
            raise UnsupportedModelError(f"lemo works with the attention {' or '.join(_ATTENTIONS)}, not {attention}")
        layers = decoder_layers(inner)
        config = self.config
        if config.shares and len(config.shares) != len(layers):
            raise InputError(f"keep has {len(config.shares)} shares for {len(layers)} layers")
        if config.score == "attention":
            for layer in layers:
                attention_of(layer)
        if self._predictors is not None:
            self._predictors.place(list(layers))
        self._layers = list(layers)
        for number, layer in enumerate(self._layers):
            if config.mlp == "own":
                split(layer, self._chooser(number, layer, Branches(layer)), lambda: self._active)
            else:
                chooser = self._chooser(number, layer, None)
                self._hooks += [
                    layer.register_forward_pre_hook(self._before(chooser), with_kwargs=True),
                    layer.register_forward_hook(self._after(), with_kwargs=True, always_call=True),
                ]
        return model

    def finish(self, model: nn.Module) -> nn.Module:
        """Take the hooks out."""
        for hook in self._hooks:
            hook.remove()
        for layer in self._layers:
            join(layer)
            layer._modules.pop("lemo_predictor", None)
        counts = self._counts
        self._reset()
        self._counts = counts  # for `report`
        return model

    # --- in every step -----------------------------------------------------------------------------------------------

    @contextmanager
    def step_context(self) -> Iterator[None]:
        """Layers that run inside in training mode drop tokens."""
        self._active = True
        try:
            yield
        finally:
            self._active = False
            self._passing.clear()
            self._past.clear()

    def _before(self, chooser: Any) -> Any:
        """Hook before a layer: its arguments for the kept tokens."""

        def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not (self._active and layer.training):
                self._passing.append(None)
                return None
            named = not args
            x: Tensor = kwargs["hidden_states"] if named else args[0]
            index = chooser("attention", x, kwargs)
            kept = None if index is None else Kept(x, index)
            self._passing.append(kept)
            if kept is None:
                return None
            others = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            given = kept.of(others)
            if named:
                return (), {"hidden_states": kept.rows, **given}
            return (kept.rows, *kept.of(args[1:])), given

        return before

    def _after(self) -> Any:
        """Hook behind a layer: the kept tokens back into the residual stream."""

        def after(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            kept = self._passing.pop() if self._passing else None
            if kept is None or output is None:
                return None
            if isinstance(output, tuple):
                return (kept.put(output[0]), *output[1:])
            return kept.put(output)

        return after

    def _chooser(self, number: int, layer: Any, branches: Branches | None) -> Any:
        """What finds the places of a layer's kept tokens; None where all are kept."""
        config = self.config

        def chooser(part: str, x: Tensor, kwargs: dict[str, Any]) -> Tensor | None:
            past = self._past.setdefault((number, part), [])
            if past and _in_backward():
                return past.pop()
            tokens = int(x.shape[1])
            total, kept, always = counted(tokens, config.block, config.share(number), config.ends)
            index = None
            if kept < total:
                with torch.no_grad():
                    scores = self._scores(part, layer, branches, x.detach(), kwargs, total)
                    index = choose(scores, tokens, config.block, kept, always)
            self._counts[number] = (tokens, tokens if index is None else int(index.shape[1]), kept)
            if _recomputed(layer, inside=branches is not None):
                past.append(index)
            return index

        return chooser

    def _scores(
        self, part: str, layer: Any, branches: Branches | None, x: Tensor, kwargs: dict[str, Any], total: int
    ) -> Tensor:
        """Of the blocks, [batch, total]."""
        config = self.config
        if config.score == "random":
            return torch.rand(x.shape[0], total, device=x.device)
        if part == "mlp":
            assert branches is not None
            return mlp_scores(branches.hidden, branches.mlp_norm(x), config.block)
        x = normed(layer, x)
        if config.score == "predicted":
            predictor: LayerPredictor = layer.lemo_predictor
            return by_block(predictor(x), config.pool)
        query, key = queries_and_keys(layer, x, kwargs.get("position_embeddings"))
        mask = kwargs.get("attention_mask")
        pooled = pooled_scores(query, key, config.block, mask if isinstance(mask, Tensor) else None)
        return by_block(pooled, config.pool)

    # --- besides -----------------------------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Of the last step, by layer: tokens, and how many of them the attention kept."""
        rows = [self._counts[number] for number in sorted(self._counts)]
        return {"tokens": rows[0][0] if rows else 0, "kept": [kept for _, kept, _ in rows]}


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder layers of a transformers language model.

    Raises:
        UnsupportedModelError: there is no list of as many layers as the configuration names.
    """
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UnsupportedModelError(f"lemo finds no list of {count} layers in {type(model).__name__}")


def _recomputed(layer: Any, *, inside: bool) -> bool:
    """Whether the choice is made again when the layer is recomputed in the backward pass.

    Args:
        layer: a decoder layer.
        inside: the choice is made in its forward method, not in a hook. Hooks are recomputed where transformers, before
            5.24, recomputes the call and not the forward method.
    """
    return bool(getattr(layer, "gradient_checkpointing", False)) and (
        inside or type(layer).__call__ is not nn.Module.__call__
    )


def _in_backward() -> bool:
    """Whether autograd's backward pass runs, as it does around a recomputation."""
    number: int = torch._C._current_graph_task_id()
    return number != -1
