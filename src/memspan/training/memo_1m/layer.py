"""One layer between its forward and its backward pass: what autograd saved of it, kept, dropped and made again.

All in a layer but attention works on each token alone. So the layer's own code, run on some of the tokens with the
attention output that is at hand, saves the same tensors in the same order, only shorter. That shows where the tokens
are in each of them, and makes those of dropped tokens again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from memspan.core.errors import InputError, UnsupportedModelError
from memspan.training.base import has_values

PROBED = 2  # tokens on which a layer is run to see where the tokens are in what it saves
ALIGNED = 64  # bytes; a storage begins at a multiple of them
# How far what is recomputed may lie from what was computed, relative to the largest value: a product of fewer rows is
# rounded otherwise.
_NEAR = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_ATTENTION = nn.functional.scaled_dot_product_attention

Source = tuple[str, int, int]
"""What makes a storage: ("saved", number of a tensor saved outside of attention, 0), or ("attention", which call, which
of query, key and value)."""


class _EnoughError(Exception):
    """All that is to be made again is there: the rest of the layer need not run."""


class View(NamedTuple):
    """How a tensor looks at its storage."""

    storage: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> View:
        """A tensor's."""
        return cls(storage_key(tensor), tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()))

    def on(self, flat: Tensor) -> Tensor:
        """The same look at other numbers, flat [numbers]."""
        return flat.as_strided(self.shape, self.stride, int(flat.storage_offset()) + self.offset)


class Handle:
    """Stands in autograd's graph for a saved tensor until the backward pass asks for it, and goes with its node."""

    __slots__ = ("__weakref__", "layer", "tensor", "view")

    def __init__(self, layer: LayerPass, view: View) -> None:
        self.layer, self.view = layer, view
        self.tensor: Tensor | None = None


class Saved(NamedTuple):
    """A tensor that autograd saved; its handle is None where it stays as it is."""

    handle: weakref.ref[Handle] | None
    tensor: Tensor
    version: int


class Call(NamedTuple):
    """A call of attention: query, key and value [batch, heads, tokens, width], its output, and the work it was."""

    inputs: tuple[Tensor, ...]
    output: Tensor
    flops: int


@dataclass
class Storage:
    """Numbers that the backward pass needs.

    Attributes:
        flat: all of them, [numbers], until they are in the buffer.
        dtype, count: of what kind, and how many.
        inner: numbers from one token to the next; 0 where it is kept whole.
        part: "inputs", "attention" or "others", as in `LayerCost`.
        source: what makes it again; None where it is kept whole.
        at, nbytes: where it is in the buffer, and how much of it.
    """

    flat: Tensor | None
    dtype: torch.dtype
    count: int
    inner: int
    part: str
    source: Source | None
    at: int = 0
    nbytes: int = 0

    def rows(self, flat: Tensor, tokens: int) -> Tensor:
        """Flat numbers of so many tokens as [outer, tokens, inner]."""
        return flat.view(-1, tokens, self.inner)


class LayerPass:
    """One layer in one forward and backward pass.

    Args:
        index: number of the layer.
        plain: its forward method.
        args, kwargs: what it is called with.
        weights: keys of the storages of its parameters and buffers.

    Attributes:
        tokens: of a row.
        kept: tokens, the first ones, of which everything is in the buffer.
        storages: what the backward pass needs, by key.
        calls: of attention, as long as nothing is stowed.
        over: its backward pass is done.
        fetch: brings the buffer's contents back, and calls `restore`.

    Raises:
        UnsupportedModelError: the layer is not called with hidden states [batch, tokens, width].
    """

    def __init__(
        self, index: int, plain: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], weights: set[int]
    ) -> None:
        self.index, self._plain = index, plain
        first = bool(args)
        hidden = args[0] if first else kwargs.get("hidden_states")
        if not (isinstance(hidden, Tensor) and hidden.ndim == 3 and hidden.is_floating_point()):
            raise UnsupportedModelError(
                "memo-1m needs layers that are called with hidden states [batch, tokens, width]"
            )
        self._args = args[1:] if first else args
        self._kwargs = {name: value for name, value in kwargs.items() if first or name != "hidden_states"}
        self._first = first
        self._hidden: Tensor | None = hidden
        self._wants = hidden.requires_grad
        self.batch, self.tokens = int(hidden.shape[0]), int(hidden.shape[1])
        self.kind = (hidden.dtype, self.batch, self._wants)
        self._known = set(weights)
        tree_map_only(Tensor, lambda one: self._known.add(storage_key(one)), (self._args, self._kwargs))
        self._known.discard(storage_key(hidden))
        device = hidden.device.type
        self._autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        self._device = device
        self._saved: list[Saved] = []
        self._within: list[Saved] = []
        self._input = View.of(hidden)
        self._outputs: list[tuple[View, bool]] = []
        self._inside = False
        self.calls: list[Call] = []
        self.storages: dict[int, Storage] = {}
        self.kept = self.tokens
        self.over = False
        self.fetch: Callable[[LayerPass], None] | None = None

    # --- forward -----------------------------------------------------------------------------------------------------

    def forward(self) -> Any:
        """The layer's output; what autograd saves of it is caught."""
        hidden = self._hidden
        assert hidden is not None
        with _Attentions(self._attend), torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack):
            return self._called(hidden, self._args, self._kwargs)

    def _called(self, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._first:
            return self._plain(hidden, *args, **kwargs)
        return self._plain(*args, hidden_states=hidden, **kwargs)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, causal: bool, attend: Callable[[], Tensor]) -> Tensor:
        for one in (query, key):
            if one.ndim != 4 or one.shape[-2] != self.tokens:
                raise UnsupportedModelError(
                    f"memo-1m: attention of layer {self.index} has {one.shape[-2]} tokens where the layer has"
                    f" {self.tokens}"
                )
        self._inside = True
        try:
            output = attend()
        finally:
            self._inside = False
        flops = 2 * query.shape[0] * query.shape[1] * self.tokens**2 * (query.shape[-1] + value.shape[-1])
        inputs = tuple(one.detach() for one in (query, key, value))
        self.calls.append(Call(inputs, output.detach(), flops // 2 if causal else flops))
        self._outputs.append((View.of(output), output.requires_grad))
        return output

    def _pack(self, tensor: Tensor) -> Handle | Tensor:
        tensor = tensor.detach()
        view = View.of(tensor)
        known = view.storage in self._known
        handle = None if known else Handle(self, view)
        row = Saved(None if handle is None else weakref.ref(handle), tensor, tensor._version)
        (self._within if self._inside else self._saved).append(row)
        return tensor if handle is None else handle

    @property
    def empty(self) -> bool:
        """Whether nothing was saved that could be moved."""
        return all(row.handle is None for row in (*self._saved, *self._within))

    @property
    def live(self) -> bool:
        """Whether a backward pass can still ask for something."""
        return any(row.handle is not None and row.handle() is not None for row in (*self._saved, *self._within))

    # --- what is what ------------------------------------------------------------------------------------------------

    def scheme(self) -> tuple[int, ...]:
        """For each tensor saved outside of attention: numbers from one token to the next; 0 where it has no tokens.

        The layer is run again on the last tokens, and what it saves is compared with what it saved.

        Raises:
            UnsupportedModelError: the layer does not work on each token alone, or has no attention that is known.
        """
        if not self.calls:
            raise UnsupportedModelError(
                f"memo-1m: layer {self.index} does not call torch's scaled_dot_product_attention; use attention sdpa"
            )
        start = self.tokens - PROBED
        if start < 1:
            return (0,) * len(self._saved)
        hidden = self._hidden
        assert hidden is not None
        again = self._again(hidden, [call.output for call in self.calls], start, None)
        if len(again) != len(self._saved) + 3 * len(self.calls):
            self._refuse("saves other tensors for some tokens than for all")
        whole = {self._input.storage, *(view.storage for view, _ in self._outputs)}
        return tuple(
            self._inner(row, again["saved", number, 0], whole, start) for number, row in enumerate(self._saved)
        )

    def _inner(self, row: Saved, small: Tensor, whole: set[int], start: int) -> int:
        large = row.tensor
        if row.handle is None or large.shape == small.shape:
            return 0
        if large.ndim != small.ndim:
            self._refuse("saves tensors of other dimensions for some tokens than for all")
        at = [d for d, (n, m) in enumerate(zip(large.shape, small.shape, strict=True)) if n != m]
        if len(at) != 1 or large.shape[at[0]] * PROBED != small.shape[at[0]] * self.tokens:
            self._refuse("saves tensors that do not grow with the tokens")
        inner = int(large.stride(at[0]))
        if storage_key(large) in whole:
            return inner
        flat, other = flattened(large), flattened(small)
        if inner < 1 or len(flat) % (self.tokens * inner) or len(flat) * PROBED != len(other) * self.tokens:
            return 0
        if has_values(large) and large.is_floating_point():
            a = flat.view(-1, self.tokens, inner)[:, start:].float()
            b = other.view(-1, PROBED, inner).float()
            near = _NEAR.get(large.dtype, 1e-2)
            if not torch.allclose(a, b, rtol=near, atol=near * float(a.abs().max()), equal_nan=True):
                self._refuse("computes other values for some tokens than for all")
        return inner

    def _refuse(self, what: str) -> None:
        raise UnsupportedModelError(
            f"memo-1m: layer {self.index} {what}, so that they cannot be recomputed token by token"
        )

    def sort(self, scheme: Sequence[int]) -> None:
        """Find the storages that are needed, and where the tokens are in each."""
        if len(scheme) != len(self._saved):
            self._refuse("saves other tensors than a layer of its kind before")
        hidden = self._hidden
        assert hidden is not None
        self._add(hidden, 0, "inputs", None)
        for call in self.calls:
            self._add(call.output, 0, "attention", None)
        taken: dict[int, tuple[int, Source]] = {}
        for number, call in enumerate(self.calls):
            for which, one in enumerate(call.inputs):
                taken.setdefault(storage_key(one), (int(one.stride(-2)), ("attention", number, which)))
        for row in self._within:
            inner, source = taken.get(storage_key(row.tensor), (0, ("attention", 0, 0)))
            self._take(row, inner, source)
        for number, (row, inner) in enumerate(zip(self._saved, scheme, strict=True)):
            handle = None if row.handle is None else row.handle()
            if handle is not None and not inner and storage_key(row.tensor) not in self.storages:
                handle.tensor = row.tensor  # it does not grow with the tokens: it stays where it is
            else:
                self._take(row, inner, ("saved", number, 0))

    def _take(self, row: Saved, inner: int, source: Source) -> None:
        if row.handle is not None and row.handle() is not None and storage_key(row.tensor) not in self.storages:
            count = len(flattened(row.tensor))
            tokenwise = inner > 0 and count % (self.tokens * inner) == 0
            part = "others" if tokenwise or source[0] == "saved" else "attention"
            self._add(row.tensor, inner if tokenwise else 0, part, source if tokenwise else None)

    def _add(self, tensor: Tensor, inner: int, part: str, source: Source | None) -> None:
        flat = flattened(tensor)
        self.storages.setdefault(storage_key(tensor), Storage(flat, flat.dtype, len(flat), inner, part, source))

    def sizes(self) -> dict[str, int]:
        """Bytes by part, of all tokens."""
        found = {"inputs": 0, "attention": 0, "others": 0}
        for one in self.storages.values():
            found[one.part] += one.count * one.dtype.itemsize
        return found

    # --- into the buffer and back ------------------------------------------------------------------------------------

    def lay_out(self, kept: int) -> int:
        """Decide that so many tokens are kept; the bytes that this takes in a buffer."""
        self.kept = kept
        at = 0
        for one in self.storages.values():
            one.at = at
            one.nbytes = one.count * one.dtype.itemsize
            if one.inner:
                one.nbytes = one.nbytes // self.tokens * kept
            at += -(-one.nbytes // ALIGNED) * ALIGNED
        return at

    def stow(self, buffer: Tensor) -> None:
        """Copy what is kept into a buffer, uint8 [bytes], and let go of everything.

        Raises:
            InputError: a tensor was changed in place after autograd saved it.
        """
        if any(row.tensor._version != row.version for row in (*self._saved, *self._within) if row.handle is not None):
            raise InputError(f"layer {self.index} changes a tensor in place that its backward pass needs")
        for one in self.storages.values():
            flat, one.flat = one.flat, None
            assert flat is not None
            if not one.nbytes:
                continue
            target = buffer[one.at : one.at + one.nbytes].view(one.dtype)
            if one.inner:
                one.rows(target, self.kept).copy_(one.rows(flat, self.tokens)[:, : self.kept])
            else:
                target.copy_(flat)
            del flat
        self._saved = [Saved(row.handle, _NONE, 0) for row in self._saved]
        self._within = [Saved(row.handle, _NONE, 0) for row in self._within]
        self.calls = []
        self._hidden = None

    def restore(self, buffer: Tensor) -> int:
        """Give every handle its tensor again; returns how many tokens were recomputed.

        What is kept whole is looked at in the buffer, which must stay as it is until the layer's backward pass is over.
        """
        handles = [row.handle() for row in (*self._saved, *self._within) if row.handle is not None]
        waiting = [handle for handle in handles if handle is not None and handle.tensor is None]
        needed = {handle.view.storage for handle in waiting}
        storages = {key: one for key, one in self.storages.items() if key in needed}
        dropped = self.tokens - self.kept
        again: dict[Source, Tensor] = {}
        wanted = {one.source for one in storages.values() if one.source is not None} if dropped else set()
        if wanted:
            hidden = self._input.on(self._kept(self.storages[self._input.storage], buffer))
            outputs = [view.on(self._kept(self.storages[view.storage], buffer)) for view, _ in self._outputs]
            again = self._again(hidden, outputs, self.kept, wanted)
        full: dict[int, Tensor] = {}
        for key, one in storages.items():
            if one.source is None or not dropped:
                full[key] = self._kept(one, buffer)
                continue
            rest = flattened(again.pop(one.source))
            if len(rest) * self.tokens != one.count * dropped:
                self._refuse("lays out tensors of some tokens otherwise than of all")
            if not self.kept:
                full[key] = rest
                continue
            flat = full[key] = torch.empty(one.count, dtype=one.dtype, device=buffer.device)
            rows = one.rows(flat, self.tokens)
            rows[:, : self.kept].copy_(one.rows(self._kept(one, buffer), self.kept))
            rows[:, self.kept :].copy_(one.rows(rest, dropped))
            del rest
        for handle in waiting:
            handle.tensor = handle.view.on(full[handle.view.storage])
        return self.batch * dropped if wanted else 0

    @staticmethod
    def _kept(one: Storage, buffer: Tensor) -> Tensor:
        return buffer[one.at : one.at + one.nbytes].view(one.dtype)

    def _again(
        self, hidden: Tensor, outputs: Sequence[Tensor], start: int, wanted: set[Source] | None
    ) -> dict[Source, Tensor]:
        """Run the layer on the tokens from `start` on; what it saves, and what goes into attention.

        Stops when all that is `wanted` is there; None wants everything.
        """
        found: dict[Source, Tensor] = {}
        counts = {"saved": 0, "attention": 0}

        def note(kind: str, *tensors: Tensor) -> None:
            number = counts[kind]
            counts[kind] += 1
            for which, tensor in enumerate(tensors):
                if wanted is None or (kind, number, which) in wanted:
                    found[kind, number, which] = tensor.detach()
            if wanted is not None and len(found) == len(wanted):
                raise _EnoughError

        def attend(query: Tensor, key: Tensor, value: Tensor, causal: bool, attend: Any) -> Tensor:
            number = counts["attention"]
            note("attention", query, key, value)
            output = _dense(outputs[number].narrow(-2, start, self.tokens - start)).detach()
            return output.requires_grad_(self._outputs[number][1])

        def pack(tensor: Tensor) -> None:
            note("saved", tensor)

        def part(tensor: Tensor) -> Tensor:
            cut = _cut(tensor, self.tokens, start)
            return cut.detach().requires_grad_(tensor.requires_grad) if cut is not tensor else tensor

        args, kwargs = tree_map_only(Tensor, part, (self._args, self._kwargs))
        rows = _dense(hidden[:, start:]).detach().requires_grad_(self._wants)
        cast: Any = nullcontext() if self._autocast is None else torch.autocast(self._device, self._autocast)
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed)
        try:
            with torch.enable_grad(), cast, _Attentions(attend), hooks:
                self._called(rows, args, kwargs)
        except _EnoughError:
            return found
        if wanted is not None:
            self._refuse("saves other tensors for some tokens than for all")
        return found

    def close(self) -> None:
        """Its backward pass is done, or will not be: let go of all."""
        self.over = True
        self.fetch = None
        self.storages = {}
        self._args, self._kwargs = (), {}


_NONE = torch.empty(0)


class _Attentions(TorchFunctionMode):
    """Calls of attention go to `attend(query, key, value, causal, the call itself)`."""

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self._attend = attend

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not _ATTENTION:
            return func(*args, **kwargs)
        named = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False)) | kwargs
        causal = bool(named.get("is_causal", False))
        return self._attend(named["query"], named["key"], named["value"], causal, lambda: func(*args, **kwargs))


def _unpack(packed: Handle | Tensor) -> Tensor:
    if not isinstance(packed, Handle):
        return packed
    layer = packed.layer
    if packed.tensor is None and layer.fetch is not None:
        layer.fetch(layer)
    if packed.tensor is None or layer.over:
        raise InputError(
            f"memo-1m: what layer {layer.index} needs is gone: run one backward pass, inside of the step's context"
        )
    return packed.tensor


def _cut(tensor: Tensor, tokens: int, start: int) -> Tensor:
    """The part of an argument that belongs to the tokens from `start` on: positions, rotations; others are left."""
    if tensor.ndim in (2, 3) and tensor.shape[1] == tokens:
        return tensor[:, start:]
    if tensor.ndim in (1, 2) and tensor.shape[0] == tokens:
        return tensor[start:]
    return tensor


def _dense(tensor: Tensor) -> Tensor:
    """A part of a tensor as the tensor itself would be laid out with fewer tokens: some operations save other things
    of tensors with gaps."""
    span = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor if span == tensor.numel() else tensor.clone()


def storage_key(tensor: Tensor) -> int:
    """What identifies a tensor's storage, while it lives."""
    return int(tensor.untyped_storage()._cdata)


def flattened(tensor: Tensor) -> Tensor:
    """All numbers of a tensor's storage, [numbers]."""
    return tensor.detach().as_strided((tensor.untyped_storage().nbytes() // tensor.dtype.itemsize,), (1,), 0)
