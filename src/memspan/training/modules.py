"""Finding and exchanging modules of a model."""

from __future__ import annotations

from typing import Any

from torch import nn


def output_heads(model: nn.Module) -> set[int]:
    """Ids of the modules that transformers calls output embeddings, of the model and of models inside it."""
    found = set()
    for module in model.modules():
        get = getattr(module, "get_output_embeddings", None)
        head = get() if callable(get) else None
        if head is not None:
            found.add(id(head))
    return found


def replace_modules(model: nn.Module, new: dict[int, Any]) -> None:
    """Put other modules in the place of those with these ids, wherever they hang."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in new:
                parent._modules[name] = new[id(child)]
