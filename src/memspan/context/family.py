"""`Family`: what a model's attention is like, found by asking the model, not by its name.

With position ids of 0 a rotary embedding is the identity, so queries and keys reach the attention function as they
were projected. Two single tokens tell the rest: a token alone attends to itself, whatever its position, so that the
hidden states of all layers agree, and each layer's query at position p must be its query at 0, rotated by p with the
model's own functions. A layer whose query does not change has no rotary positions; a model for which the rule fails
is refused. Nothing here names a family.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from memspan.core.errors import UnsupportedModelError

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the largest entry
_ROUNDED = 2e-2  # where the model itself rotates in 16 bits

Angles = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Cosines and sines of one pass's positions, by the kind of layer."""


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One attention layer.

    Attributes:
        kv_heads, query_heads: numbers of heads; key_dim, value_dim: their dimensions.
        rotary: leading dimensions of a head that are rotated, 0 for a layer without rotary positions.
        kind: the layer's type where the rotary embedding asks for it, else "".
    """

    kv_heads: int
    query_heads: int
    key_dim: int
    value_dim: int
    rotary: int
    kind: str


class Family:
    """The attention of one transformers model.

    Args:
        model: a causal language model in evaluation mode.

    Raises:
        UnsupportedModelError: the model's positions or its attention cannot be reached; the message says which.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.base = model, model.base_model
        self.name = type(model).__name__
        self.config = model.config.get_text_config()
        if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
            raise self._unsupported("it was compiled by torch.compile, which hides its layers: pass it uncompiled")
        if getattr(model.config, "is_encoder_decoder", False):
            raise self._unsupported("it is an encoder-decoder")
        parameters = inspect.signature(self.base.forward).parameters
        self.words = list(parameters)
        self.cache_word = next((word for word in ("cache", "past_key_values") if word in parameters), "")
        if "position_ids" not in parameters or not self.cache_word:
            raise self._unsupported("its forward takes no position_ids or no cache, so its positions are not rotary")
        self._rotary: Any = getattr(self.base, "rotary_emb", None)
        if self._rotary is None:
            raise self._unsupported("it has no rotary position embedding")
        self._check_rope_types()
        self._by_kind = "layer_type" in inspect.signature(self._rotary.forward).parameters
        self._apply: dict[int, Callable[..., Any]] = {}
        self._scales: dict[str, float] = {}
        first = next(model.parameters())
        self.device, self.dtype = first.device, model.dtype
        self.layers = self._probe()

    def still_of(self, model: Any) -> bool:
        """Whether this was found of the very model, as it is now."""
        first = next(model.parameters())
        return model is self.model and first.device == self.device and model.dtype == self.dtype

    @property
    def trained_length(self) -> int:
        """Positions that the model was trained on."""
        return int(getattr(self.config, "max_position_embeddings", 0) or 2048)

    def slot_bytes(self, *, per_head: bool, track: int) -> int:
        """Bytes of one slot over all layers for one batch row; `track` bytes are kept beside each."""
        kv = sum(layer.kv_heads * (layer.key_dim + layer.value_dim) for layer in self.layers)
        tracks = sum(layer.kv_heads for layer in self.layers) if per_head else 1
        return int(kv * self.dtype.itemsize + tracks * track)

    def rotate(self, layer: int, x: torch.Tensor, pos: torch.Tensor) -> torch.Tensor:
        """Rotate heads [B, H, T, D] by positions, which may be negative: [B, T], [1, T], or [B, P, T] with P 1 or H.

        The angles are float32, whatever the dtype of `x`; the attention factor of YaRN is left out, since it is in
        `x` already.
        """
        info = self.layers[layer]
        if info.rotary == 0:
            return x
        shape = x.shape
        if pos.dim() == 3:
            if pos.shape[1] == 1:
                pos = pos[:, 0]
            else:
                x = x.reshape(shape[0] * shape[1], 1, *shape[2:])
                pos = pos.reshape(shape[0] * shape[1], -1)
        cos, sin = self.angles(info.kind, pos)
        return self._turn(self._apply[layer], x, x[:, :1], cos, sin, info.rotary)[0].reshape(shape)

    def rotate_both(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, pos: torch.Tensor, angles: Angles
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`rotate` of queries and keys by positions [B, T]; `angles` keeps what the layers of one pass share."""
        info = self.layers[layer]
        if info.rotary == 0:
            return q, k
        if info.kind not in angles:
            angles[info.kind] = self.angles(info.kind, pos)
        return self._turn(self._apply[layer], q, k, *angles[info.kind], info.rotary)

    def angles(self, kind: str, pos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines in float32 as the model's own function gives them for positions [B, T]."""
        like = torch.empty(0, dtype=torch.float32, device=pos.device)
        extra = {"layer_type": kind} if self._by_kind else {}
        cos, sin = self._rotary(like, pos, **extra)
        if kind not in self._scales:
            zero = torch.zeros(1, 1, dtype=torch.int64, device=pos.device)
            self._scales[kind] = float(self._rotary(like, zero, **extra)[0].flatten()[0])
        scale = self._scales[kind]
        return (cos, sin) if scale == 1.0 else (cos / scale, sin / scale)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores over the vocabulary, float32, of last hidden states [..., d]."""
        scores = self.model.get_output_embeddings()(hidden)
        scale = getattr(self.config, "logit_scale", None)
        if scale is not None:
            scores = scores * scale
        scaling = getattr(self.config, "logits_scaling", None)
        if scaling is not None:
            scores = scores / scaling
        cap = getattr(self.config, "final_logit_softcapping", None)
        if cap is not None:
            scores = torch.tanh(scores / cap) * cap
        out: torch.Tensor = scores.float()
        return out

    def check_logits(self) -> None:
        """Raise UnsupportedModelError when `logits` is not what the model computes."""
        with torch.no_grad():
            said = self.model(inputs_embeds=self._made_up(2), use_cache=False).logits.float()
            ours = self.logits(self.base(inputs_embeds=self._made_up(2), use_cache=False).last_hidden_state)
        if not torch.allclose(said, ours, atol=_TOLERANCE.get(self.dtype, _ROUNDED) * float(said.abs().max()), rtol=0):
            raise self._unsupported("its logits are not its output embedding of the last hidden state")

    def attention_modules(self) -> list[torch.nn.Module]:
        """The attention modules, in the order of the layers."""
        return [self._modules[i] for i in range(len(self.layers))]

    def decoder_layers(self) -> list[torch.nn.Module]:
        """The decoder layers in order: the modules of the one list whose members hold the attention modules.

        Raises:
            UnsupportedModelError: the base model has no such list.
        """
        attention = self.attention_modules()
        for module in self.base.modules():
            if isinstance(module, torch.nn.ModuleList) and len(module) == len(attention):
                pairs = zip(module, attention, strict=True)
                if all(any(inner is own for own in layer.modules()) for layer, inner in pairs):
                    return list(module)
        raise self._unsupported("its decoder layers do not stand in one list")

    def _made_up(self, count: int) -> torch.Tensor:
        """Embeddings [1, count, d] that are no token's: a padding token's would be zero and show nothing."""
        width = self.model.get_input_embeddings().weight.shape[1]
        chance = torch.Generator().manual_seed(0)
        return torch.randn(1, count, width, generator=chance).to(self.device, self.dtype)

    # --- asking the model --------------------------------------------------------------------------------------------

    def _unsupported(self, why: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self.name} cannot be read with a context system: {why}")

    def _check_rope_types(self) -> None:
        said = getattr(self.config, "rope_parameters", None) or {}
        rows = [said, *(row for row in said.values() if isinstance(row, dict))]
        for kind in {row.get("rope_type") for row in rows} & {"dynamic", "longrope"}:
            raise self._unsupported(f"its rotary frequencies change with the length ({kind})")

    def _probe(self) -> list[LayerInfo]:
        far = 2 * self.trained_length + 5
        at_zero, modules = self._queries(0)
        self._modules = modules
        near, _ = self._queries(11)
        distant, _ = self._queries(far)
        layers = []
        for index in sorted(at_zero):
            q, k, v = at_zero[index]
            for other in (near, distant):
                if not _close(other[index][2], v):
                    raise self._unsupported("positions are added to its hidden states")
            layers.append(LayerInfo(k.shape[1], q.shape[1], k.shape[3], v.shape[3], 0, self._kind(index)))
        if sorted(at_zero) != list(range(len(layers))):
            raise self._unsupported("some of its layers have no softmax attention")
        for index, info in enumerate(layers):
            q, k, _ = at_zero[index]
            if _close(near[index][0], q) and _close(distant[index][0], q):
                continue
            apply = getattr(sys.modules[type(modules[index]).__module__], "apply_rotary_pos_emb", None)
            if apply is None:
                raise self._unsupported("its attention module has no apply_rotary_pos_emb")
            self._apply[index] = apply
            layers[index] = self._rotating(index, info, [(at_zero, near, 11), (at_zero, distant, far)])
        return layers

    def _rotating(self, index: int, info: LayerInfo, pairs: list[Any]) -> LayerInfo:
        width = self.angles(info.kind, torch.zeros(1, 1, dtype=torch.int64, device=self.device))[0].shape[-1]
        for rotary in dict.fromkeys((info.key_dim, width)):
            try:
                if all(
                    _close(self._by_hand(index, info.kind, before[index][part], at, rotary), after[index][part])
                    for before, after, at in pairs
                    for part in (0, 1)
                ):
                    return LayerInfo(info.kv_heads, info.query_heads, info.key_dim, info.value_dim, rotary, info.kind)
            except (RuntimeError, TypeError):
                continue
        raise self._unsupported(f"the queries of layer {index} do not follow from its rotary embedding alone")

    def _by_hand(self, index: int, kind: str, x: torch.Tensor, at: int, rotary: int) -> torch.Tensor:
        cos, sin = self.angles(kind, torch.full((1, 1), at, dtype=torch.int64, device=self.device))
        return self._turn(self._apply[index], x, x[:, :1], cos, sin, rotary)[0]

    @staticmethod
    def _turn(
        apply: Callable[..., Any], q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rotary: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if rotary == q.shape[-1]:
            turned = apply(q.float(), k.float(), cos, sin)
        else:
            parts = apply(q[..., :rotary].float(), k[..., :rotary].float(), cos, sin)
            turned = [torch.cat((part, x[..., rotary:].float()), -1) for part, x in zip(parts, (q, k), strict=True)]
        return turned[0].to(q.dtype), turned[1].to(k.dtype)

    def _kind(self, index: int) -> str:
        kinds = getattr(self.config, "layer_types", None) or []
        return str(kinds[index]) if self._by_kind and index < len(kinds) else ""

    def _queries(self, at: int) -> tuple[dict[int, tuple[torch.Tensor, ...]], dict[int, Any]]:
        """Query, key and value of every layer for one token at position `at`, and the attention modules."""
        found: dict[int, tuple[torch.Tensor, ...]] = {}
        modules: dict[int, Any] = {}

        def record(module: Any, q: Any, k: Any, v: Any, mask: Any, **_: Any) -> tuple[torch.Tensor, None]:
            found[int(module.layer_idx)] = (q, k, v)
            modules[int(module.layer_idx)] = module
            return v.repeat_interleave(q.shape[1] // v.shape[1], 1).transpose(1, 2).contiguous(), None

        place = torch.full((1, 1), at, dtype=torch.int64, device=self.device)
        with attention_function(self.model, record), torch.no_grad():
            try:
                self.base(inputs_embeds=self._made_up(1), position_ids=place, use_cache=False)
            except IndexError:
                raise self._unsupported("it learned an embedding for each position and has no more of them") from None
        if not found:
            raise self._unsupported("its attention does not go through transformers' AttentionInterface")
        return found, modules


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    tolerance = _TOLERANCE.get(a.dtype, _ROUNDED)
    return bool((a - b).abs().max() <= tolerance * (1e-3 + float(b.abs().max())))


class attention_function:
    """Let `function` compute a model's attention inside the block; afterwards nothing of it is left.

    The name is registered in transformers' own instance of the interface and taken off it again. No mask function of
    that name exists, so that transformers builds no mask.
    """

    def __init__(self, model: Any, function: Callable[..., Any]) -> None:
        self._model, self._function = model, function
        self._name = f"memspan_{id(self)}"

    def __enter__(self) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        self._before = self._model.config._attn_implementation
        ALL_ATTENTION_FUNCTIONS[self._name] = self._function
        try:
            self._model.set_attn_implementation(self._name)
        except BaseException:
            del ALL_ATTENTION_FUNCTIONS[self._name]
            raise

    def __exit__(self, *exc: object) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        self._model.set_attn_implementation(self._before)
        del ALL_ATTENTION_FUNCTIONS[self._name]
