"""Training that can be stopped and taken up again: checkpoints in one file, and Ctrl-C between two steps."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError

_FORMAT = "memspan-retriever-training-1"


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C sets a flag inside, so that no step is cut in two; pressed again, it interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    pressed = False
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def save_checkpoint(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any], losses: list[float]
) -> None:
    """One file, whole or not at all: weights and the optimizer's moments as tensors, the rest as JSON in its header."""
    from safetensors.torch import save_file

    tensors = {f"encoder.{name}": tensor for name, tensor in module.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    # Tied weights share memory, which the format does not allow.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    header = {"format": _FORMAT, "settings": settings, "losses": losses}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    save_file(tensors, part, metadata={"memspan": json.dumps(header)})
    part.replace(path)


def load_checkpoint(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]
) -> list[float]:
    """Put a checkpoint into module and optimizer; returns the losses so far.

    Raises:
        InputError: it is damaged, of another module, or was made with other settings.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("memspan", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"the checkpoint {path} cannot be read: {error}") from error
    if header.get("format") != _FORMAT:
        raise InputError(f"{path} is no checkpoint of this training")
    for name, value in settings.items():
        if header["settings"].get(name) != value:
            raise InputError(
                f"the checkpoint {path} was made with {name} {header['settings'].get(name)}, not {value}: "
                "train with its settings, or remove it"
            )
    weights = {name.removeprefix("encoder."): t for name, t in tensors.items() if name.startswith("encoder.")}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"the checkpoint {path} is of another encoder: {error}") from error
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    losses: list[float] = header["losses"]
    return losses
