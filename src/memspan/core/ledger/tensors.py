"""Counts the storages behind tensors: one line per live storage, found through PyTorch's dispatcher.

Every operation that returns a new storage adds a line; a weak reference to the storage takes the line away the moment
it is freed. Views and aliases share a storage and thereby a line. `torch` is imported when a watch starts.
"""

from __future__ import annotations

import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from memspan.core.errors import InputError, MissingExtraError
from memspan.core.ledger.account import Account

if TYPE_CHECKING:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

_MANY = 3 << 14  # length of the list of events at which they are counted, which bounds the memory they take
_CACHE_WORDS = ("past_key_values", "cache", "cache_params")  # arguments and outputs of transformers models
_open: list[TensorWatch] = []  # those that hear of storages resized without an operation
_ALIAS, _FRESH, _RESIZED = range(3)  # an operation's outputs: views of its arguments, others, resized ones
_RESIZING = ("aten::resize_", "aten::resize_as_", "aten::set_", "aten::lift_fresh")


class StorageLine(weakref.ref):  # type: ignore[type-arg]
    """The line of one storage, and the weak reference that tells of its end.

    Attributes:
        at: where its first event was put in the list of events.
        key: identity of the storage.
        nbytes: the storage's size.
    """

    __slots__ = ("at", "booked", "key", "nbytes", "slot")
    at: int
    key: int
    nbytes: int
    slot: int
    booked: int


def require_torch() -> None:
    """Raise MissingExtraError unless torch can be imported."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("torch, which counting tensors needs,", "pip install 'memspan[local]'") from error


class TensorWatch:
    """Books every live storage of the watched models, and with `activations` every one made while it runs.

    Models and optimizers are held weakly: one that is deleted meanwhile leaves the books.

    Args:
        account: where the bytes are booked.
        models: modules whose parameters and buffers are weights.
        optimizer: an optimizer known from the start, or None; others that step a watched parameter are found.
        context: object whose tensors are context, or None.
        activations: watch every operation; otherwise only what can be reached from the roots is counted.
        tick: called after every forward pass of a model and every step of an optimizer.
    """

    def __init__(
        self,
        account: Account,
        models: Sequence[torch.nn.Module],
        optimizer: torch.optim.Optimizer | None,
        context: object,
        activations: bool,
        tick: Callable[[], None],
    ) -> None:
        self._account = account
        self._model_refs = [weakref.ref(model) for model in models]
        self._optimizers: dict[int, weakref.ref[torch.optim.Optimizer]] = {}
        self._contexts: dict[int, Callable[[], object]] = {}
        self._activations = activations
        self._outermost: torch.nn.Module | None = None  # the watched module whose forward pass runs
        self._tick = tick
        self._live: dict[int, StorageLine] = {}
        self._fresh_slots: dict[torch.device, int | None] = {}
        self._fake = False  # a fake mode holds over the whole block, so that fake tensors stand for real ones
        self._freed = self._make_freed()
        self._undo = ExitStack()
        if optimizer is not None:
            self._optimizers[id(optimizer)] = weakref.ref(optimizer)
        if context is not None:
            self.watch_context(context)

    def start(self) -> None:
        """Attach; if that fails, nothing stays attached."""
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self._fake = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
        with self._undo:
            if self._model_refs or self._optimizers:
                self._undo.callback(register_optimizer_step_post_hook(self._after_step).remove)
            for parameter in self._parameters():
                if parameter.requires_grad and parameter.is_leaf:
                    handle = parameter.register_post_accumulate_grad_hook(self._after_grad)
                    # The others are put in again, to come after it: an optimizer that works inside the backward pass
                    # frees the gradient in its hook. (PyTorch does not go by `move_to_end`.)
                    hooks = parameter._post_accumulate_grad_hooks
                    for number in [number for number in hooks if number != handle.id]:
                        hooks[number] = hooks.pop(number)
                    self._undo.callback(handle.remove)
            for module in self._cache_users():
                before, after = _ModuleHook(self._before_forward), _ModuleHook(self._after_forward)
                self._undo.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                # Called after a forward pass that failed, too: it must not count as still running.
                handle = module.register_forward_hook(after, with_kwargs=True, always_call=True)
                self._undo.callback(handle.remove)
            self.refresh()
            if self._activations:
                self._undo.callback(_hear_resizing(self))
                self._undo.enter_context(_mode(self))
            self._undo = self._undo.pop_all()

    def stop(self) -> None:
        """Count what is left and detach; weak references and hooks go too."""
        try:
            self.refresh()
        finally:
            self._undo.close()
            self._live.clear()
            self._contexts.clear()
            self._optimizers.clear()
            self._model_refs.clear()

    # --- roots: what decides the tier --------------------------------------------------------------------------------

    def watch_context(self, context: object) -> None:
        """Call the tensors inside an object context for as long as the object lives.

        Raises:
            InputError: it is a value that cannot hold tensors.
        """
        if isinstance(context, _closed_types()):
            raise InputError(
                f"context must be a cache or another object that holds tensors, not {type(context).__name__}"
            )
        known = self._contexts.get(id(context))
        if known is None or known() is not context:
            try:
                self._contexts[id(context)] = weakref.ref(context)
            except TypeError:  # lists, tuples and dictionaries cannot be referred to weakly
                self._contexts[id(context)] = lambda: context

    def refresh(self) -> None:
        """Look at all roots again, give every storage its tier, and count."""
        slot_of, place_of = self._account.slot, self._account.place
        found: dict[int, tuple[StorageLine, int]] = {}
        for tier, tensors in (
            ("weights", self._weights()),
            ("gradients", self._gradients()),
            ("optimizer", self._states()),
            ("context", self._in_contexts()),
        ):
            for line in self._lines(tensors):
                found.setdefault(line.key, (line, slot_of(tier, place_of(line.slot))))
        for line in list(self._live.values()):
            if line.key not in found:
                storage = line()
                if storage is not None and storage.nbytes() != line.nbytes:  # resized without an operation
                    self._account.book(line, storage.nbytes() - line.nbytes)
                    line.nbytes = storage.nbytes()
                found[line.key] = (line, slot_of("activations", place_of(line.slot)))
        self._account.move([(line, slot) for line, slot in found.values() if line.slot != slot])
        self._account.settle()

    def _models(self) -> list[torch.nn.Module]:
        return [model for ref in self._model_refs if (model := ref()) is not None]

    def _groups(self) -> Iterator[dict[str, Any]]:
        """The parameter groups of the optimizers."""
        for ref in list(self._optimizers.values()):
            optimizer = ref()
            if optimizer is not None:
                yield from optimizer.param_groups

    def _parameters(self) -> Iterator[Any]:
        """Every parameter of the models and the optimizers, once."""
        owners = (*(model.parameters() for model in self._models()), *(group["params"] for group in self._groups()))
        return iter({id(parameter): parameter for owner in owners for parameter in owner}.values())

    def _weights(self) -> Iterator[torch.Tensor]:
        for model in self._models():
            yield from model.parameters()
            yield from model.buffers()
        if not self._model_refs:
            yield from self._parameters()

    def _gradients(self) -> Iterator[torch.Tensor]:
        return (parameter.grad for parameter in self._parameters() if parameter.grad is not None)

    def _states(self) -> Iterator[torch.Tensor]:
        """Optimizer state, and the parameters that are no model's, such as the master copies of mixed precision."""
        for ref in list(self._optimizers.values()):
            optimizer = ref()
            if optimizer is not None:
                yield from tensors_in(list(optimizer.state.values()))
        yield from tensors_in(list(self._groups()))

    def _in_contexts(self) -> Iterator[torch.Tensor]:
        for key, refer in list(self._contexts.items()):
            context = refer()
            if context is None:
                del self._contexts[key]
            else:
                yield from tensors_in(context)

    def _tag(self, tier: str, tensors: Iterable[torch.Tensor]) -> None:
        """Give the storages of tensors a tier if they have none from another root."""
        tier_of, place_of, slot_of = self._account.tier, self._account.place, self._account.slot
        lines = [line for line in self._lines(tensors) if tier_of(line.slot) == "activations"]
        self._account.move([(line, slot_of(tier, place_of(line.slot))) for line in lines])

    # --- hooks -------------------------------------------------------------------------------------------------------

    def _cache_users(self) -> Iterator[torch.nn.Module]:
        """The models, and the transformers models inside them: whoever is called with a cache."""
        transformers = sys.modules.get("transformers.modeling_utils")
        for model in self._models():
            yield model
            if transformers is not None:
                inner = (module for module in model.modules() if isinstance(module, transformers.PreTrainedModel))
                yield from (module for module in inner if module is not model)

    def _before_forward(self, module: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        if self._outermost is None:
            self._outermost = module
        self._watch_caches(kwargs.items())

    def _after_forward(self, module: torch.nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        if isinstance(output, Mapping):
            self._watch_caches(output.items())
        elif isinstance(output, tuple):
            self._watch_caches(enumerate(output))
        if self._outermost in (None, module):
            self._outermost = None
            self._tag("context", self._in_contexts())
            self._tick()

    def _watch_caches(self, values: Iterable[tuple[object, object]]) -> None:
        """Watch the transformers caches among some arguments or outputs."""
        transformers = sys.modules.get("transformers.cache_utils")
        kind = transformers.Cache if transformers is not None else ()
        for name, value in values:
            if isinstance(value, kind) or (name in _CACHE_WORDS and not isinstance(value, _closed_types())):
                self.watch_context(value)

    def _after_grad(self, parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            self._tag("gradients", (parameter.grad,))

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        known = self._optimizers.get(id(optimizer))
        if known is None or known() is not optimizer:
            ours = {id(parameter) for model in self._models() for parameter in model.parameters()}
            if not any(id(parameter) in ours for group in optimizer.param_groups for parameter in group["params"]):
                return
            self._optimizers[id(optimizer)] = weakref.ref(optimizer)
        # Gradients that a wrapper such as FSDP sets itself never pass the hook on accumulation.
        self._tag("gradients", self._gradients())
        self._tag("optimizer", self._states())
        self._tick()

    # --- storages ----------------------------------------------------------------------------------------------------

    def _make_freed(self) -> Callable[[StorageLine], None]:
        # Closes over the books and not over `self`, for speed and so that a line does not keep the watch alive.
        live, events, clock = self._live, self._account.events, self._account.clock

        def freed(line: StorageLine) -> None:
            if live.pop(line.key, None) is not None:
                slot, at = line.slot, line.at
                # Of a line that comes and goes between two counts its slot is enough. Were the events to keep such
                # lines, the garbage collector would find ever more objects and run more often than without a ledger.
                if at < len(events) and events[at] is line:
                    events[at] = slot
                events.extend((slot, clock(), -line.nbytes))

        return freed

    def _lines(self, tensors: Iterable[torch.Tensor]) -> Iterator[StorageLine]:
        """The lines of tensors; a line comes as often as tensors share it."""
        for tensor in tensors:
            for storage in storages(tensor):
                line = self._line(storage, tensor.device)
                if line is not None:
                    yield line

    def resized(self, storage: torch.UntypedStorage) -> None:
        """Book a storage that was resized without an operation."""
        import torch

        self._line(storage, torch.device("cpu") if storage.device.type == "meta" else storage.device)

    def _line(self, storage: torch.UntypedStorage, device: torch.device | None = None) -> StorageLine | None:
        """The line of a storage, made if it has none, brought to its present size; None where it holds no bytes.

        `device` is that of the tensor: a fake tensor stands on a storage of the device "meta".
        """
        # PyTorch keeps one Python object per storage for as long as the storage lives, so its id names the storage.
        key = id(storage)
        line = self._live.get(key)
        nbytes = storage.nbytes()
        if line is None:
            home = storage.device
            slot = self._fresh_slot(device if self._fake and device is not None else home)
            if slot is None or nbytes == 0:
                return None
            line = StorageLine(storage, self._freed)
            line.key, line.nbytes, line.slot, line.booked = key, nbytes, slot, 0
            line.at = len(self._account.events)
            self._live[key] = line
            self._account.book(line, nbytes)
        elif line.nbytes != nbytes:
            self._account.book(line, nbytes - line.nbytes)
            line.nbytes = nbytes
        return line

    def _fresh_slot(self, device: torch.device) -> int | None:
        """The slot of a storage that no root is known to hold yet; None on the device "meta", which has no bytes."""
        try:
            return self._fresh_slots[device]
        except KeyError:
            place = {"cpu": "ram", "meta": None}.get(device.type, "device")
            slot = self._fresh_slots[device] = None if place is None else self._account.slot("activations", place)
            return slot


def _hear_resizing(watch: TensorWatch) -> Callable[[], None]:
    """Let a watch hear of every `storage.resize_`, which FSDP frees and allocates with; returns what ends that."""
    import torch

    kind: Any = torch.UntypedStorage
    if not _open:
        plain = kind.resize_

        def resize_(storage: Any, size: int) -> Any:
            result = plain(storage, size)
            for one in _open:
                one.resized(storage)
            return result

        kind.resize_ = resize_
    _open.append(watch)

    def undo() -> None:
        _open.remove(watch)
        if not _open:
            del kind.resize_  # what was there before is inherited

    return undo


class _ModuleHook:
    """A hook on a module. In a copy of the module, where nobody would take it off, it does nothing."""

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> None:
        self._call(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return _ModuleHook, (_nothing,)


def _nothing(*args: Any) -> None:
    """The hook of a copied module."""


def _mode(watch: TensorWatch) -> TorchDispatchMode:
    """A dispatch mode that books every storage that an operation makes or resizes."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    plain, strided = torch.Tensor, torch.strided
    live, events, book, refresh = watch._live, watch._account.events, watch._line, watch.refresh
    kinds: dict[Any, int] = {}

    class LedgerMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
        supports_higher_order_operators = True

        @classmethod
        def ignore_compile_internals(cls) -> bool:
            return True  # else functions compiled with fullgraph=True refuse to run

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = func(*args, **kwargs) if kwargs else func(*args)
            kind = kinds.get(func)
            if kind is None:
                kind = kinds[func] = _kind(func)
            if kind == _ALIAS:
                return output
            # This runs for every operation: the usual case, one new dense tensor, goes the short way.
            if kind == _FRESH and type(output) is plain and output.layout is strided:
                storage = output.untyped_storage()
                if id(storage) not in live:
                    book(storage)
            elif kind == _FRESH and type(output) is FakeTensor and output.layout is strided:
                book(output.untyped_storage(), output.fake_device)  # `device` would be another operation
            else:
                for value in tree_leaves(output):
                    if isinstance(value, plain):
                        for storage in storages(value):
                            book(storage, value.device)
            if len(events) > _MANY:
                refresh()
            return output

    return LedgerMode()  # type: ignore[no-untyped-call]


def _kind(func: Any) -> int:
    """What an operation returns, from its schema."""
    schema = getattr(func, "_schema", None)
    if schema is None:  # an operation of higher order
        return _RESIZED
    if schema.name in _RESIZING or any(argument.is_out for argument in schema.arguments):
        return _RESIZED
    return _ALIAS if all(value.alias_info is not None for value in schema.returns) else _FRESH


def storages(tensor: torch.Tensor) -> Sequence[torch.UntypedStorage]:
    """The storages a tensor stands on: its own, or those of its parts when it is sparse or wraps other tensors.

    Tensors whose bytes PyTorch does not show (MKL-DNN's layout) have none here.
    """
    import torch

    if type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided:
        return (tensor.untyped_storage(),)
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    layout = tensor.layout
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        # DTensor names its mesh of devices beside its local tensor.
        parts = [part for name in names if isinstance(part := getattr(tensor, name), torch.Tensor)]
    elif layout is torch.strided:
        try:
            return (tensor.untyped_storage(),)
        except (NotImplementedError, RuntimeError, ValueError):
            return ()
    elif layout is torch.sparse_coo:
        parts = [tensor._indices(), tensor._values()]
    elif layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    elif layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    else:
        parts = []
    return [storage for part in parts for storage in storages(part)]


def _closed_types() -> tuple[type, ...]:
    """What holds no tensors, or, as modules do, tensors that are somebody else's."""
    import torch

    plain = (str, bytes, int, float, complex, type(None), type, torch.dtype, torch.device, torch.nn.Module)
    return (*plain, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType)


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Every tensor inside containers and inside objects' attributes; modules and classes are not entered."""
    import torch

    closed = _closed_types()
    seen: set[int] = set()
    stack: deque[object] = deque([value])
    while stack:
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            yield item
        elif not isinstance(item, closed) and id(item) not in seen:
            seen.add(id(item))
            if isinstance(item, Mapping):
                stack.extend(item.values())
            elif isinstance(item, list | tuple | Set | deque):
                stack.extend(item)
            else:
                attributes = getattr(item, "__dict__", None)
                if attributes is None:
                    slots = (name for kind in type(item).__mro__ for name in getattr(kind, "__slots__", ()))
                    attributes = {name: getattr(item, name, None) for name in slots}
                stack.extend(attributes.values())
