"""Tensors that are kept for the backward pass, as 8-bit floats, each as the module that keeps it wants it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.codecs import Codec, Packed
from memspan.core.errors import UnsupportedModelError
from memspan.training.ordinary import language_model

WHOLE, TENSOR, GROUPS = "whole", "tensor", "groups"
"""How what a module keeps is kept: as it is, with one scale for all of it, or with one scale for each few values."""

_CODED = frozenset({torch.float32, torch.bfloat16, torch.float16})


class _Held:
    """A tensor, coded."""

    __slots__ = ("__weakref__", "codec", "dtype", "packed", "shape")

    def __init__(self, tensor: Tensor, codec: Codec) -> None:
        self.packed: Packed = codec.encode(tensor)
        self.codec, self.shape, self.dtype = codec, tensor.shape, tensor.dtype

    def decoded(self) -> Tensor:
        return self.codec.decode(self.packed, self.shape, self.dtype)


class SavedTensors:
    """Codes what the modules of a model keep for the backward pass, for as long as it is attached.

    What a module keeps is coded as its kind says; it is the innermost module that runs which counts. Linear layers keep
    their input with one scale for all; attention, the output head and the loss keep everything as it is; normalizations
    keep their input alone, in groups, and are computed again from it in the backward pass; all others keep groups. What
    is there anyway is not coded: parameters, buffers, and tensors that attention keeps. A tensor that is kept more than
    once is coded once.

    Args:
        model: whose modules are watched.
        codecs: of the kinds `TENSOR` and `GROUPS`.

    Attributes:
        count, coded, before: tensors coded since `watching` was entered, their bytes, and what these were before.
    """

    def __init__(self, model: nn.Module, codecs: dict[str, Codec]) -> None:
        self._codecs = codecs
        self._running: list[str] = []
        self._weights: set[int] = set()
        self._model = weakref.ref(model)
        self._undo: list[Callable[[], Any]] = []
        self._held: dict[Any, tuple[Any, Any]] = {}
        self._whole: dict[int, Any] = {}
        self.count = self.coded = self.before = 0
        self._attach(model)

    def detach(self) -> None:
        """Leave the model as it was."""
        for undo in self._undo:
            undo()
        self._undo.clear()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around a forward and a backward pass."""
        model = self._model()
        tensors = [] if model is None else [*model.parameters(), *model.buffers()]
        self._weights = {_key(tensor) for tensor in tensors}
        self.count = self.coded = self.before = 0
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            self._held.clear()
            self._whole.clear()
            self._weights.clear()
            self._running.clear()

    # --- hooks -------------------------------------------------------------------------------------------------------

    def _attach(self, model: nn.Module) -> None:
        outside = {id(one) for one in _loss_and_head(model)}
        for module in model.modules():
            kind = WHOLE if id(module) in outside else _kind(module)
            if kind == GROUPS and _is_norm(module):
                module.forward = _again(module.forward)
                self._undo.append(partial(module.__dict__.pop, "forward", None))
            self._undo.append(module.register_forward_pre_hook(self._enter(kind)).remove)
            # Called after a forward pass that failed, too.
            self._undo.append(module.register_forward_hook(self._leave, always_call=True).remove)

    def _enter(self, kind: str) -> Callable[..., None]:
        def enter(*args: Any) -> None:
            self._running.append(kind)

        return enter

    def _leave(self, *args: Any) -> None:
        if self._running:
            self._running.pop()

    def _pack(self, tensor: Tensor) -> Any:
        if tensor.dtype not in _CODED or _key(tensor) in self._weights:
            return tensor
        storage, key = tensor.untyped_storage(), _key(tensor)
        known = self._whole.get(key)
        if known is not None and known() is storage:
            return tensor
        kind = self._running[-1] if self._running else WHOLE
        if kind == WHOLE:
            self._whole[key] = weakref.ref(storage)
            return tensor
        codec = self._codecs[kind]
        width = codec.group or self._codecs[GROUPS].group or 1
        if tensor.ndim == 0 or tensor.shape[-1] < width:  # a number for each token, such as its norm, is as short
            return tensor
        layout = tensor.numel() if tensor.is_contiguous() else (tensor.shape, tensor.stride())
        place = (key, tensor.storage_offset(), tensor._version, tensor.dtype, kind, layout)
        of, held = self._held.get(place, (_nothing, _nothing))
        found = held()
        if of() is not storage or found is None:
            found = _Held(tensor, codec)
            self._held[place] = (weakref.ref(storage), weakref.ref(found))
            self.count += 1
            self.coded += sum(one.numel() * one.element_size() for one in found.packed.values())
            self.before += tensor.numel() * tensor.element_size()
        return found, tensor.shape

    def _unpack(self, kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        held, shape = kept
        decoded: Tensor = held.decoded().view(shape)
        return decoded


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key


def _nothing() -> None:
    return None


def _kind(module: nn.Module) -> str:
    name = type(module).__name__.lower()
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) or "linear" in name or name == "conv1d":
        return TENSOR
    return WHOLE if "attention" in name or "attn" in name else GROUPS


def _is_norm(module: nn.Module) -> bool:
    """A normalization of its own input alone, which may be computed twice: without statistics that it gathers."""
    leaf = next(module.children(), None) is None and next(module.buffers(), None) is None
    return leaf and "norm" in type(module).__name__.lower()


def _loss_and_head(model: nn.Module) -> list[nn.Module]:
    """The language model, in whose own forward pass the loss is computed, and its head."""
    with suppress(UnsupportedModelError, ImportError):
        inner = language_model(model)
        return [inner, inner.get_output_embeddings()]  # type: ignore[operator]
    return []


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward pass of a module of one tensor, which keeps this tensor alone."""
    module = forward.__self__  # type: ignore[attr-defined]

    def compute(*args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or kwargs or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return _Again.apply(forward, args[0], *module.parameters())  # type: ignore[no-untyped-call]

    return compute


class _Again(torch.autograd.Function):
    """Computes a function in the forward pass and, for its gradients, again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.function, ctx.parameters = function, parameters
        ctx.save_for_backward(x)
        return function(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            x = x.detach().requires_grad_(wanted[0])
            result = ctx.function(x)
        inputs = [one for one, wants in zip((x, *ctx.parameters), wanted, strict=True) if wants]
        found = iter(torch.autograd.grad(result, inputs, delta, allow_unused=True))
        return (None, *(next(found) if wants else None for wants in wanted))
