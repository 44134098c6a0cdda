"""Predictors of which blocks of tokens matter to a layer, in place of its scores.

Two networks for each layer, one for queries and one for keys: from a block of B tokens' normalized hidden states, cut
into H heads of width D, to D numbers for each head; weights are shared over heads, and there are no biases. Products of
both, summed over heads, predict the pooled scores of the layer's attention.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError, UnsupportedModelError
from memspan.training.base import has_values
from memspan.training.lemo.scores import normed, pooled_scores, queries_and_keys
from memspan.training.ordinary import language_model

_FORMAT = "memspan-lemo-1"


class _Half(nn.Module):
    """Three linear layers with ReLU between: [..., B * D] to [..., D]."""

    def __init__(self, wide: int, hidden: int, inner: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(wide, hidden, bias=False)
        self.second = nn.Linear(hidden, inner, bias=False)
        self.third = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x).relu()).relu())  # type: ignore[no-any-return]

    def active(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """How often each unit of the two hidden layers is above 0."""
        one = self.first(x).relu()
        two = self.second(one)
        return (one > 0).flatten(0, -2).sum(0), (two > 0).flatten(0, -2).sum(0)

    def pruned(self, first: Tensor, second: Tensor) -> _Half:
        """With these units of the hidden layers only; bool [units]."""
        smaller = _Half(self.first.in_features, int(first.sum()), int(second.sum()), self.third.out_features)
        with torch.no_grad():
            smaller.first.weight.copy_(self.first.weight[first])
            smaller.second.weight.copy_(self.second.weight[second][:, first])
            smaller.third.weight.copy_(self.third.weight[:, second])
        return smaller


class LayerPredictor(nn.Module):
    """Predicts the pooled scores of one layer.

    Args:
        block: B.
        heads: H.
        query, key: the networks.
    """

    def __init__(self, block: int, heads: int, query: _Half, key: _Half) -> None:
        super().__init__()
        self.block, self.heads, self.query, self.key = block, heads, query, key

    def blocks(self, x: Tensor) -> Tensor:
        """Normalized hidden states [batch, tokens, H * D] as [batch, H, N, B * D]; a last block is filled with 0."""
        x = nn.functional.pad(x, (0, 0, 0, -x.shape[1] % self.block))
        x = x.view(x.shape[0], -1, self.block, self.heads, x.shape[-1] // self.heads)
        return x.permute(0, 3, 1, 2, 4).flatten(3)

    def forward(self, x: Tensor) -> Tensor:
        """Predicted scores of pairs of blocks, [batch, N, N], 0 above the diagonal; for x [batch, tokens, width]."""
        return self.of_blocks(self.blocks(x))

    def of_blocks(self, blocks: Tensor) -> Tensor:
        """The same from what `blocks` gives."""
        query, key = self.query(blocks), self.key(blocks)
        return (query @ key.transpose(-1, -2)).sum(1).tril()  # type: ignore[no-any-return]


class Predictors(nn.Module):
    """Predictors of all layers.

    Attributes:
        block: tokens of a block.
        heads: into which hidden states are cut.
        uniform: all layers' networks have the same shapes, as they have until they are pruned.
    """

    def __init__(self, block: int, heads: int, layers: Sequence[LayerPredictor]) -> None:
        super().__init__()
        self.block, self.heads = block, heads
        self.layers = nn.ModuleList(layers)
        self.requires_grad_(False)

    @property
    def uniform(self) -> bool:
        shapes = {tuple(one.shape for one in layer.parameters()) for layer in self.layers}
        return len(shapes) <= 1

    @property
    def size(self) -> int:
        """Parameters of all."""
        return sum(one.numel() for one in self.parameters())

    def place(self, layers: Sequence[nn.Module]) -> None:
        """Hang each predictor into its layer, as `lemo_predictor`, in the layer's dtype; fewer layers take the first.

        Raises:
            InputError: they are for fewer layers, or for another width.
        """
        if len(layers) > len(self.layers):
            raise InputError(f"there are predictors for {len(self.layers)} layers, and the model has {len(layers)}")
        for layer, found in zip(layers, self.layers, strict=False):
            weight = next(one for one in layer.parameters() if one.is_floating_point())
            made = _layer(self.block, self.heads, {name: one.shape for name, one in found.named_parameters()})
            if has_values(weight):
                made.load_state_dict(found.state_dict())
            layer.lemo_predictor = made.to(device=weight.device, dtype=weight.dtype).requires_grad_(False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them as safetensors."""
        from safetensors.torch import save_file

        about = json.dumps({"format": _FORMAT, "block": self.block, "heads": self.heads, "layers": len(self.layers)})
        save_file({name: one.contiguous() for name, one in self.state_dict().items()}, path, {"memspan": about})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictors:
        """Read what `save` wrote.

        Raises:
            InputError: there is no such file, or it is none of predictors.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise InputError(f"the file of predictors {path} does not exist")
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("memspan", "{}"))
                if about.get("format") != _FORMAT:
                    raise InputError(f"{path} holds no predictors of lemo")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the predictors {path} cannot be read: {error}") from error
        layers = []
        for number in range(about["layers"]):
            start = f"layers.{number}."
            own = {name.removeprefix(start): one for name, one in tensors.items() if name.startswith(start)}
            layers.append(_layer(about["block"], about["heads"], {name: one.shape for name, one in own.items()}))
            layers[-1].load_state_dict(own)
        return cls(about["block"], about["heads"], layers)

    def pruned(self, seen: Mapping[int, Tensor], share: float = 0.8) -> Predictors:
        """Without the hidden units that are 0 in at least this share of the blocks (elastic size transformation).

        Args:
            seen: by layer, blocks as `collect` gives them, [rows, H, N, B * D].
            share: of blocks at which a unit is dropped; one unit of each layer always stays.
        """
        layers = []
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, LayerPredictor)
            halves = []
            for half in (layer.query, layer.key):
                count = seen[number].flatten(0, -2).shape[0]
                chosen = []
                with torch.no_grad():
                    for active in half.active(seen[number]):
                        wanted = active > (1 - share) * count
                        wanted[active.argmax()] = True
                        chosen.append(wanted)
                halves.append(half.pruned(*chosen))
            layers.append(LayerPredictor(self.block, self.heads, *halves))
        return Predictors(self.block, self.heads, layers)


def _layer(block: int, heads: int, shapes: Mapping[str, Sequence[int]]) -> LayerPredictor:
    halves = []
    for name in ("query", "key"):
        hidden, wide = shapes[f"{name}.first.weight"]
        width, inner = shapes[f"{name}.third.weight"]
        halves.append(_Half(wide, hidden, inner, width))
    return LayerPredictor(block, heads, *halves)


def new_layer(block: int, heads: int, width: int, hidden: int) -> LayerPredictor:
    """An untrained predictor of one layer, for B, H, D and units of the first hidden layer."""
    halves = (_Half(block * width, hidden, block * width, width) for _ in range(2))
    return LayerPredictor(block, heads, *halves)


# --- training them ---------------------------------------------------------------------------------------------------


def collect(
    model: nn.Module, batches: Sequence[Mapping[str, Any]], block: int, layers: Sequence[int] | None = None
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """What predictors see and what they should say, from a model that stays as it is.

    Args:
        model: a language model.
        batches: with input_ids [batch, tokens], all of one length.
        block: B.
        layers: numbers of layers; None means all.

    Returns:
        By layer: blocks of normalized hidden states [rows, H, N, B * D], and pooled scores [rows, N, N].

    Raises:
        UnsupportedModelError: the layers have no queries and keys that are known.
    """
    from memspan.training.lemo.saver import decoder_layers

    inner: Any = language_model(model)
    heads = _heads(inner)
    seen: dict[int, list[Tensor]] = {}
    wanted: dict[int, list[Tensor]] = {}
    shape = LayerPredictor(block, heads, nn.Module(), nn.Module())  # type: ignore[arg-type]

    def hook(number: int) -> Callable[..., None]:
        def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = normed(layer, args[0] if args else kwargs["hidden_states"])
            query, key = queries_and_keys(layer, x, kwargs.get("position_embeddings"))
            seen.setdefault(number, []).append(shape.blocks(x))
            wanted.setdefault(number, []).append(pooled_scores(query, key, block))

        return before

    hooks = [
        layer.register_forward_pre_hook(hook(number), with_kwargs=True)
        for number, layer in enumerate(decoder_layers(inner))
        if layers is None or number in layers
    ]
    training = inner.training
    inner.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                inner(input_ids=batch["input_ids"], use_cache=False, logits_to_keep=1)
    finally:
        inner.train(training)
        for one in hooks:
            one.remove()
    return {n: torch.cat(rows) for n, rows in seen.items()}, {n: torch.cat(rows) for n, rows in wanted.items()}


def _heads(model: Any) -> int:
    config = model.config.get_text_config()
    heads = int(config.num_attention_heads)
    if config.hidden_size % heads:
        raise UnsupportedModelError(f"lemo cannot cut a width of {config.hidden_size} into {heads} heads")
    return heads


def fit_predictors(
    model: nn.Module,
    batches: Sequence[Mapping[str, Any]],
    *,
    block: int = 64,
    hidden: int = 32,
    epochs: int = 200,
    rows: int = 8,
    lr: float = 1e-3,
    prune: float | None = 0.8,
    seed: int = 0,
) -> Predictors:
    """Train predictors of a frozen model's scores, each layer's by itself, with Adam on the mean squared error.

    Targets are divided by their mean over a layer, since they are sums without a scale.

    Args:
        model: a language model, as it is before training.
        batches: with input_ids [batch, tokens], all of one length.
        block: B.
        hidden: units of the first hidden layer (paper: about 320 for 128 x 64 inputs).
        epochs: passes over the batches (paper: fewer than 400).
        rows: texts of a training step.
        lr: learning rate.
        prune: drop units that are 0 in this share of blocks, when half of the epochs are done; None keeps all.
        seed: of weights and order.

    Raises:
        InputError: there are no batches, or a setting is out of range.
        UnsupportedModelError: the layers have no queries and keys that are known.
    """
    from memspan.training.lemo.saver import decoder_layers

    if not batches or min(hidden, epochs, rows, block) < 1:
        raise InputError("predictors need batches, and block, hidden, epochs and rows of at least 1")
    inner: Any = language_model(model)
    heads = _heads(inner)
    width = inner.config.get_text_config().hidden_size // heads
    layers: list[LayerPredictor] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number in range(len(decoder_layers(inner))):
            seen, wanted = collect(inner, batches, block, [number])
            layer = new_layer(block, heads, width, hidden).to(seen[number].device)
            if prune is None:
                fit_layer(layer, seen[number].float(), wanted[number].float(), epochs, rows, lr)
            else:
                fit_layer(layer, seen[number].float(), wanted[number].float(), -(-epochs // 2), rows, lr)
                found = Predictors(block, heads, [layer]).pruned({0: seen[number].float()}, prune).layers[0]
                assert isinstance(found, LayerPredictor)
                layer = found.requires_grad_(True)
                fit_layer(layer, seen[number].float(), wanted[number].float(), epochs // 2, rows, lr)
            layers.append(layer)
    return Predictors(block, heads, layers)


def fit_layer(layer: LayerPredictor, seen: Tensor, wanted: Tensor, epochs: int, rows: int, lr: float) -> float:
    """Train one layer's predictor; its least mean squared error on an eighth of the texts, which is held back.

    The weights are those of that epoch. Fewer than 16 texts are all trained on, and the last epoch counts.
    """
    total = wanted.shape[-1]
    below = torch.ones(total, total, dtype=torch.bool, device=wanted.device).tril()
    target = wanted / wanted[:, below].mean().clamp(min=torch.finfo(wanted.dtype).tiny)
    back = len(seen) // 8 if len(seen) >= 16 else 0
    adam = torch.optim.Adam(layer.parameters(), lr=lr)
    least, kept = float("inf"), {}

    def error(chosen: Tensor | slice) -> Tensor:
        return (layer.of_blocks(seen[chosen]) - target[chosen])[:, below].square().mean()

    for epoch in range(epochs):
        for part in torch.split(torch.randperm(len(seen) - back, device=seen.device) + back, rows):
            adam.zero_grad()
            error(part).backward()  # type: ignore[no-untyped-call]
            adam.step()
        with torch.no_grad():
            now = float(error(slice(back) if back else slice(None)))
        if now < least or (not back and epoch == epochs - 1):
            least = now
            kept = {name: one.detach().clone() for name, one in layer.named_parameters()} if back else {}
    if kept:
        layer.load_state_dict(kept)
    return least
