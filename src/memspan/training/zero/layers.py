"""Stage 3: FSDP2 on every layer of a model, and the plain model again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from memspan.training import ranks


def units(model: nn.Module) -> Iterator[nn.Module]:
    """What is gathered at a time: the entries of lists of layers, or a model's children where there is no list."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inner = {id(module) for one in lists for entry in one for module in entry.modules()}
    outermost = [one for one in lists if id(one) not in inner]
    found = [entry for one in outermost for entry in one] or list(model.children())
    for module in found:
        if any(True for _ in module.parameters()):
            yield module


def shard(model: nn.Module, mesh: Any, *, reshard: bool) -> None:
    """Split the parameters of a model in place, each along its first dimension.

    Args:
        model: its layers are gathered one at a time, all else together and from the forward to the backward pass.
        mesh: of one dimension, the ranks.
        reshard: drop a layer's gathered weights between its forward and its backward pass.
    """
    from torch.distributed.fsdp import fully_shard

    for module in units(model):
        fully_shard(module, mesh=mesh, reshard_after_forward=reshard)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


def gather(model: nn.Module) -> None:
    """Make the model plain again in place: whole on the first rank, without bytes (device "meta") on the others."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    done: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if not isinstance(parameter, DTensor):
                continue
            if id(parameter) not in done:
                value = ranks.whole(parameter.detach())
                if ranks.rank():
                    value = value.to("meta")
                done[id(parameter)] = nn.Parameter(value, parameter.requires_grad)
            module._parameters[name] = done[id(parameter)]
    for module in model.modules():
        if isinstance(module, FSDPModule):
            _undo(module)
    for module in model.modules():
        for name in ("_is_fsdp_managed_module", "_fsdp_use_orig_params"):
            module.__dict__.pop(name, None)


def _undo(module: Any) -> None:
    """Take off what `fully_shard` puts on a module: hooks, its class, and what it keeps in the module's dictionary."""
    from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY

    state = module._get_fsdp_state()
    for handle in (state._pre_forward_hook_handle, state._post_forward_hook_handle):
        handle.remove()
    for key in (REGISTRY_KEY, STATE_KEY):
        module.__dict__.pop(key, None)
    module.__class__ = type(module).__mro__[2]  # FSDPLinear, FSDPModule, Linear
