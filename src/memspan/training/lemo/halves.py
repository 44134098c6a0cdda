"""Attention and MLP with a choice of tokens each, as in the paper: the layer's two residual branches, one by one.

The layer becomes an object of a subclass of its own class, so that whatever is around its forward method, such as
checkpointing, stays there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from memspan.core.errors import UnsupportedModelError
from memspan.training.lemo.blocks import Kept

Chooser = Callable[[str, Tensor, Any], Tensor | None]
"""From "attention" or "mlp", hidden states and the other arguments: the places of kept tokens, or None for all."""

_GATED = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
_PLAIN = {"self_attn_layer_norm", "self_attn", "fc1", "fc2", "final_layer_norm"}


class Branches:
    """The parts of a decoder layer, under one name for the kinds that are known.

    Raises:
        UnsupportedModelError: the layer has other parts than Llama's or OPT's.
    """

    def __init__(self, layer: Any) -> None:
        children = {name for name, child in layer.named_children() if not name.startswith("lemo")}
        self._layer, self.gated = layer, children == _GATED and hasattr(layer.mlp, "gate_proj")
        plain = {name for name in children if name != "activation_fn"} == _PLAIN
        if not self.gated and not (plain and layer.do_layer_norm_before):
            raise UnsupportedModelError(
                f"lemo: {type(layer).__name__} has other branches than Llama's or OPT's: use mlp='same'"
            )
        self.attention_norm = layer.input_layernorm if self.gated else layer.self_attn_layer_norm
        self.mlp_norm = layer.post_attention_layernorm if self.gated else layer.final_layer_norm

    def hidden(self, x: Tensor) -> Tensor:
        """Intermediate activations of the MLP, [..., units]."""
        layer = self._layer
        if self.gated:
            found: Tensor = layer.mlp.act_fn(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x)
            return found
        found = layer.activation_fn(layer.fc1(x))
        return found

    def attention(self, x: Tensor, arguments: dict[str, Any]) -> Tensor:
        """The attention branch, without its residual."""
        return self._dropped(self._layer.self_attn(hidden_states=self.attention_norm(x), **arguments)[0])

    def mlp(self, x: Tensor) -> Tensor:
        """The MLP branch, without its residual."""
        x = self.mlp_norm(x)
        return self._layer.mlp(x) if self.gated else self._dropped(self._layer.fc2(self.hidden(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        layer = self._layer
        return x if self.gated else nn.functional.dropout(x, p=layer.dropout, training=layer.training)


def split(layer: nn.Module, choose: Chooser, active: Callable[[], bool]) -> None:
    """Make a layer choose tokens for its two branches, wherever `active` and in training mode.

    Raises:
        UnsupportedModelError: see `Branches`.
    """
    branches = Branches(layer)
    plain = type(layer)

    def forward(self: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not (active() and self.training) or args:
            found: Tensor = plain.forward(self, hidden_states, *args, **kwargs)
            return found
        x = hidden_states
        for part in ("attention", "mlp"):
            index = choose(part, x, kwargs)
            kept = None if index is None else Kept(x, index)
            rows = x if kept is None else kept.rows
            if part == "mlp":
                rows = rows + branches.mlp(rows)
            else:
                given = kwargs if kept is None else kept.of(kwargs)
                rows = rows + branches.attention(rows, given)
            x = rows if kept is None else kept.put(rows)
        return x

    layer.__class__ = type(plain.__name__, (plain,), {"forward": forward, "_lemo_plain": plain})


def join(layer: nn.Module) -> None:
    """Undo `split`."""
    layer.__class__ = getattr(type(layer), "_lemo_plain", type(layer))
