"""What learns on a frozen model: one loop for all of it, and how it is kept on the disk.

`fit` trains the parameters of a `Learner` on texts, on a CPU, and can be stopped at any moment and taken up again with
the same losses. What was learned is a directory: `weights.safetensors` and `config.json`, which names the model by its
fingerprint. Shapes: B batch rows, T tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from memspan.context.base import ContextSystem
from memspan.context.family import Family
from memspan.context.reader import Reader, local_model
from memspan.context.saving import fingerprint
from memspan.context.step import Sizes
from memspan.core.budget import Budget
from memspan.core.checkpoint import interrupts, load_checkpoint, save_checkpoint
from memspan.core.errors import InputError, StoreError
from memspan.models.progress import progress_bar

SCHEMA = "memspan-learned-1"
Loss = Callable[[Tensor, torch.Generator], Tensor]
_HELD_OUT_BATCHES = 8


class Learner(Protocol):
    """Anything with parameters that `fit` can train: an `nn.Module` with these besides.

    Attributes:
        progress: share of the training that is done, set before each step; 1 where it is measured on held-out text.
        least_rates: may be there: of some parameters, by name, a learning rate that `fit` raises theirs to.
    """

    config: Any
    progress: float

    def prepare(self, model: Any) -> None:
        """Make the parameters for this model, unless they are there."""

    def learning(self, model: Any) -> AbstractContextManager[Loss]:
        """Yields the loss: a scalar for token ids [B, T] and a generator for what is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What `fit` did.

    Attributes:
        steps: done in all; resumed_at: the step it was taken up from, 0 for a fresh start.
        losses: of every step from 0 on, those of earlier runs included.
        before, after: mean loss on held-out text before the first and after the last step; NaN without enough of it.
        parameters: numbers that were trained; seconds: of this run.
    """

    steps: int
    resumed_at: int
    losses: tuple[float, ...]
    before: float
    after: float
    parameters: int
    seconds: float


def fit(
    learner: Any,
    model: Any,
    texts: Any,
    *,
    steps: int,
    out: str | os.PathLike[str] | None = None,
    tokenizer: Any = None,
    batch: int = 1,
    length: int = 256,
    lr: float = 1e-3,
    warmup: float = 0.05,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    held_out: float = 0.1,
    seed: int = 0,
    every: int = 50,
    progress: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> Fitted:
    """Train a learner on a frozen model, in place, with AdamW: linear warm-up, then a half cosine to 0.

    Each step draws `batch` windows of `length` tokens, or, of texts that are rows, whole rows; what a step draws
    depends on nothing before it, so that a run taken up again ends as one without a break.

    Args:
        learner: a `Learner`; left in evaluation mode.
        model: as `memspan.context` takes it.
        texts: a list of texts, a list of lists of token ids, token ids [N], or rows of token ids [N, length].
        steps: in all, those done before included.
        out: directory for what is learned. Training is kept in "<out>.training" every `every` steps and on Ctrl-C, goes
            on from there, and removes it at the end.
        held_out: share at the end of the texts that is not trained on.
        weight_decay: of parameters with two dimensions or more.
        progress: show a bar also where stderr is no terminal.
        on_step: called after each step with its number, from 1, and its loss.

    Raises:
        InputError: a setting that cannot be, too little text, training of another model or other settings, or a loss
            that is not finite.
        KeyboardInterrupt: after the training was kept; what the model had is restored.
    """
    if steps < 1 or every < 1 or batch < 1 or length < 2 or lr <= 0 or clip <= 0:
        raise InputError(
            f"steps {steps}, every {every}, batch {batch}, length {length}, lr {lr}, clip {clip}: too small"
        )
    if not 0 <= warmup < 1 or not 0 <= held_out < 1:
        raise InputError(f"warmup {warmup} and held_out {held_out} must be at least 0 and below 1")
    module, tokenizer = local_model(model, tokenizer)
    stream = token_stream(texts, tokenizer)
    train = stream[: max(1, len(stream) - int(len(stream) * held_out))]
    rest = stream[len(train) :]
    if stream.dim() == 2:
        length = stream.shape[1]
    elif len(train) < length:
        raise InputError(f"{len(train):,} tokens to train on are fewer than one window of {length:,}")
    learner.prepare(module)
    parameters = [p for p in learner.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(f"{type(learner).__name__} has no parameter to train")
    optimizer = torch.optim.AdamW(_groups(learner, lr, weight_decay), lr=lr)
    rates = [group["lr"] for group in optimizer.param_groups]
    settings: dict[str, Any] = {"steps": steps, "batch": batch, "length": length, "lr": lr, "warmup": warmup}
    settings |= {"weight_decay": weight_decay, "clip": clip, "seed": seed, "held_out": held_out}
    settings |= {"learner": type(learner).__name__, "config": json.loads(json.dumps(asdict(learner.config)))}
    settings |= {"model": fingerprint(module), "texts": hashlib.sha256(stream.numpy().tobytes()).hexdigest()}
    path = None if out is None else Path(f"{Path(out)}.training") / "checkpoint.safetensors"
    begun = time.perf_counter()
    device = next(module.parameters()).device
    with (
        frozen(module),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        learner.learning(module) as loss,
    ):
        learner.progress = 1.0
        before = _held_out_loss(loss, rest, batch, length, device)
        losses = load_checkpoint(path, learner, optimizer, settings) if path is not None and path.exists() else []
        start = len(losses)
        learner.train()
        with progress_bar("learning", steps, force=progress) as advance, interrupts() as interrupted:
            advance(start)
            for step in range(start, steps):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * _rate(step, steps, warmup)
                torch.manual_seed(seed * 1_000_003 + step)
                chance = torch.Generator().manual_seed(seed * 1_000_003 + step)
                learner.progress = step / steps
                value = loss(_windows(train, batch, length, chance).to(device), chance)
                if not bool(torch.isfinite(value)):
                    raise InputError(f"the loss is {value.item()} at step {step}: lower the learning rate ({lr})")
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                nn.utils.clip_grad_norm_(parameters, clip)
                optimizer.step()
                losses.append(value.item())
                advance(1)
                if on_step is not None:
                    on_step(step + 1, losses[-1])
                stop = interrupted()
                if path is not None and (stop or (step + 1) % every == 0 or step + 1 == steps):
                    save_checkpoint(path, learner, optimizer, settings, losses)
                if stop:
                    raise KeyboardInterrupt
        learner.eval()
        learner.progress = 1.0
        after = _held_out_loss(loss, rest, batch, length, device)
    if out is not None:
        save_learned(learner, module, out, losses=losses)
        shutil.rmtree(Path(f"{Path(out)}.training"), ignore_errors=True)
    return Fitted(
        steps=steps,
        resumed_at=start,
        losses=tuple(losses),
        before=before,
        after=after,
        parameters=sum(p.numel() for p in parameters),
        seconds=time.perf_counter() - begun,
    )


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """No parameter of the model gets a gradient inside, and none keeps one."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def token_stream(texts: Any, tokenizer: Any) -> Tensor:
    """All token ids, one after the other, or in rows where rows were given."""
    if isinstance(texts, Tensor):
        ids = texts.long().cpu()
        if ids.dim() not in (1, 2):
            raise InputError(f"token ids have {ids.dim()} dimensions: give [N] or [N, length]")
    elif isinstance(texts, str) or not isinstance(texts, Iterable):
        raise InputError("texts must be a list of texts, a list of lists of token ids, or a tensor of token ids")
    else:
        rows: list[int] = []
        for part in texts:
            if isinstance(part, str):
                if tokenizer is None:
                    raise InputError("texts need a tokenizer: pass tokenizer=, or give token ids")
                part = tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
            rows.extend(part)
        ids = torch.tensor(rows, dtype=torch.int64)
    if ids.numel() == 0:
        raise InputError("there is nothing to learn from: the texts are empty")
    return ids.contiguous()


def _windows(stream: Tensor, batch: int, length: int, chance: torch.Generator) -> Tensor:
    if stream.dim() == 2:
        return stream[torch.randint(len(stream), (batch,), generator=chance)]
    starts = torch.randint(len(stream) - length + 1, (batch,), generator=chance)
    return torch.stack([stream[at : at + length] for at in starts.tolist()])


def _held_out_loss(loss: Loss, stream: Tensor, batch: int, length: int, device: Any) -> float:
    if len(stream) < (1 if stream.dim() == 2 else length):
        return math.nan
    total = 0.0
    with torch.no_grad():
        for i in range(_HELD_OUT_BATCHES):
            torch.manual_seed(i)
            chance = torch.Generator().manual_seed(i)
            total += float(loss(_windows(stream, batch, length, chance).to(device), chance))
    return total / _HELD_OUT_BATCHES


def _rate(step: int, steps: int, warmup: float) -> float:
    rising = round(steps * warmup)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _groups(learner: Any, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    least: Mapping[str, float] = getattr(learner, "least_rates", {})
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if parameter.dim() > 1 else 0.0
            rate = max(lr, least.get(name, lr))
            found.setdefault((rate, decay), []).append(parameter)
    return [{"params": held, "lr": rate, "weight_decay": decay} for (rate, decay), held in found.items()]


# --- what was learned, on the disk -----------------------------------------------------------------------------------


def save_learned(
    learner: Any, model: Any, directory: str | os.PathLike[str], *, losses: Iterable[float] = (), **more: Any
) -> None:
    """Write a directory with the learner's weights, its configuration, and the fingerprint of its model.

    Args:
        more: further entries of config.json.

    Raises:
        StoreError: it cannot be written.
    """
    from safetensors.torch import save_file

    target = Path(directory).expanduser()
    said = {
        "schema": SCHEMA,
        "learner": type(learner).__name__,
        "config": asdict(learner.config),
        "model": fingerprint(model),
        "model_type": type(model).__name__,
        "losses": [round(value, 6) for value in losses],
        **more,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in learner.state_dict().items()}
    try:
        target.mkdir(parents=True, exist_ok=True)
        save_file(tensors, target / "weights.part")
        (target / "weights.part").replace(target / "weights.safetensors")
        (target / "config.part").write_text(json.dumps(said, indent=1), encoding="utf-8")
        (target / "config.part").replace(target / "config.json")
    except OSError as error:
        raise StoreError(f"what was learned cannot be written to {target}: {error}") from error


def read_learned(kind: str, model: Any, directory: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The entries of config.json and the weights of a directory that `save_learned` wrote for this model.

    Args:
        kind: the learner's class.

    Raises:
        InputError: it is no such directory, or was learned by another class or for another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    target = Path(directory).expanduser()
    try:
        said = json.loads((target / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(target / "weights.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{target} cannot be read as something learned: {error}") from error
    if said.get("schema") != SCHEMA or said.get("learner") != kind:
        raise InputError(f"{target} holds no {kind}: it says {said.get('learner')} ({said.get('schema')})")
    if said["model"] != fingerprint(model):
        raise InputError(
            f"{target} was learned for another model, a {said['model_type']} with other weights: fit it to this one"
        )
    return said, tensors


# --- systems that learn ----------------------------------------------------------------------------------------------


class LearningSystem(nn.Module, ContextSystem):
    """A context system with parameters of its own over a frozen model.

    A subclass says which (`build`) and what they are to minimise (`loss`). Its parameters are counted in the tier
    "weights" of the reader's footprint.
    """

    progress: float = 1.0
    least_rates: Mapping[str, float] = MappingProxyType({})

    def __init__(self, config: Any = None, **options: Any) -> None:
        nn.Module.__init__(self)
        ContextSystem.__init__(self, config, **options)
        self._built = False

    def build(self, family: Family) -> None:
        """Make the parameters for a model. Random numbers come from a fixed seed."""
        raise NotImplementedError

    def loss(self, reader: Reader, ids: Tensor, chance: torch.Generator) -> Tensor:
        """A scalar to minimise for token ids [B, T]; the reader has this system attached, gradients are on.

        `reader.model(...)` or `reader.model.base_model(...)` read on; `reader.reset()` comes first, and
        `reader.cache.detach()` cuts the gradient between two passes.
        """
        raise NotImplementedError

    def prepare(self, model: Any) -> None:
        """Make the parameters for this model, unless they are there."""
        if not self._built:
            self._prepare(Family(model))

    def _prepare(self, family: Family) -> None:
        if self._built:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.build(family)
        self.to(family.device)
        self.eval()
        self._built = True

    def bind(self, family: Family, budget: Budget | None, batch: int = 1) -> Sizes:
        """Solve the sizes; see `ContextSystem.bind`."""
        self._prepare(family)
        return super().bind(family, budget, batch)

    @contextmanager
    def learning(self, model: Any) -> Iterator[Loss]:
        """A reader with this system, for as long as it learns."""
        with Reader(self, model, None, None, 1, False) as reader:

            def loss(ids: Tensor, chance: torch.Generator) -> Tensor:
                reader.reset()
                return self.loss(reader, ids, chance)

            yield loss

    def fit(self, model: Any, texts: Any, *, steps: int, **settings: Any) -> Fitted:
        """See `memspan.context.learning.fit`."""
        return fit(self, model, texts, steps=steps, **settings)

    def save(self, directory: str | os.PathLike[str], model: Any) -> None:
        """See `save_learned`."""
        save_learned(self, local_model(model)[0], directory)

    @classmethod
    def load(cls, directory: str | os.PathLike[str], model: Any, **options: Any) -> Self:
        """A system from a directory that `fit` or `save` wrote for this model.

        Args:
            options: settings that differ from those it was trained with.

        Raises:
            InputError: see `read_learned`, or the options change the parameters.
        """
        module = local_model(model)[0]
        said, tensors = read_learned(cls.__name__, module, directory)
        known = {name: value for name, value in said["config"].items() if name in cls.Config.__dataclass_fields__}
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        system = cls(**{**known, **options})
        system.prepare(module)
        try:
            system.load_state_dict(tensors)
        except RuntimeError as error:
            raise InputError(f"{directory} does not fit {cls.__name__} with these options: {error}") from None
        return system
