"""Subjects that can be taught: they study texts, and can be asked how familiar a text is and how one goes on.

A store meets `Student` by writing (`memspan.longterm.examined`), a local model by fine-tuning a copy of its weights.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from memspan.core.errors import InputError
from memspan.models.hardware import torch_threads
from memspan.models.spec import quiet_transformers
from memspan.probes.base import Choice, Form, Item
from memspan.probes.subjects import ModelSubject

if TYPE_CHECKING:
    from memspan.models.local import TransformersLanguageModel

_ROWS = 16  # texts of a forward pass without gradients
_LEAST = 2  # tokens: the first has nothing before it, and its likelihood is not asked for


@runtime_checkable
class Student(Protocol):
    """A subject that can be taught.

    Attributes:
        name: as reports show it.
        forms: as of any subject.
    """

    name: str
    forms: tuple[Form, ...]

    def begin(self) -> None:
        """As before any study."""

    def study(
        self, texts: Sequence[str], *, exposures: int = 1, batch: int = 4, lr: float = 1e-4, seed: int | None = None
    ) -> int:
        """Take in every text so many times; what learns by steps takes `batch` texts a step and says how many it took.

        Args:
            lr: learning rate; whoever has none ignores it.
            seed: each exposure is in an order by lot; None keeps the order.
        """

    def familiarity(self, texts: Sequence[str]) -> list[float]:
        """A number for each text, higher where it is more likely to have been studied."""

    def complete(self, cues: Sequence[str], tokens: Sequence[int]) -> list[str]:
        """How the text that begins with each cue goes on, in about so many tokens."""

    def read(self, item: Item) -> None:
        """As of any subject."""

    def write(self, item: Item) -> str:
        """As of any subject."""

    def weigh(self, choice: Choice) -> list[float]:
        """As of any subject."""

    def count_tokens(self, text: str) -> int | None:
        """As of any subject."""


class ModelStudent(ModelSubject):
    """A local language model that studies by fine-tuning a copy of its weights; the model itself stays as it is.

    AdamW at a constant learning rate without weight decay, in float32, each text a row of its own with dropout as the
    model has it; padding is masked by its place and not by its token, so that no token for padding is needed, and an
    end-of-text token counts. The optimizer goes on from one call of `study` to the next while the learning rate stays
    the same. It takes four times the bytes of the weights besides the model.

    Args:
        model: of float32 weights.
        name: as reports show it; the model's by default.

    Raises:
        InputError: its weights are not float32, in which small steps would be lost.
    """

    def __init__(self, model: TransformersLanguageModel, name: str | None = None) -> None:
        import torch

        if next(model.model.parameters()).dtype != torch.float32:
            raise InputError(f"{model.name} has weights in {model.dtype}: load it with dtype='float32' to train it")
        super().__init__(model, name)
        self.forms = ("text", "likelihood")  # the exam takes both from what it has learned, and prompts for neither
        self._given = model
        self._optimizer: Any = None
        self._steps = 0
        self.begin()

    def begin(self) -> None:
        """A fresh copy of the weights."""
        self._optimizer, self._steps = None, 0
        if self.model is self._given:
            self.model = copy.copy(self._given)
            self.model.model = copy.deepcopy(self._given.model)
        else:
            self._tuned.load_state_dict(self._given.model.state_dict())

    @property
    def _tuned(self) -> Any:
        return self.model.model  # type: ignore[attr-defined]

    def study(
        self, texts: Sequence[str], *, exposures: int = 1, batch: int = 4, lr: float = 1e-4, seed: int | None = None
    ) -> int:
        """Fine-tune on the texts; returns the steps taken.

        Raises:
            InputError: a text of fewer than two tokens, no text, or numbers that cannot be.
        """
        import torch

        if exposures < 1 or batch < 1 or lr <= 0:
            raise InputError(f"exposures {exposures}, batch {batch}, lr {lr}: too small")
        rows = self._ids(texts)
        if not rows:
            raise InputError("there is nothing to study")
        taken = 0
        with self._at_work(gradients=True):
            if self._optimizer is None or self._optimizer.param_groups[0]["lr"] != lr:
                self._optimizer = torch.optim.AdamW(self._tuned.parameters(), lr=lr, weight_decay=0.0)
            self._tuned.train()
            for exposure in range(exposures):
                order = list(range(len(rows)))
                if seed is not None:
                    random.Random(f"{seed} {exposure}").shuffle(order)
                for start in range(0, len(order), batch):
                    torch.manual_seed(self._steps)
                    chosen = [rows[i] for i in order[start : start + batch]]
                    logs, mask = self._logs(chosen)
                    loss = -(logs * mask).sum() / mask.sum()
                    self._optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    self._optimizer.step()
                    self._steps += 1
                    taken += 1
            self._optimizer.zero_grad(set_to_none=True)
            self._tuned.eval()
        return taken

    def familiarity(self, texts: Sequence[str]) -> list[float]:
        """Mean log-probability of each text's tokens from the second on."""
        rows, found = self._ids(texts), [0.0] * len(texts)
        with self._at_work():
            for places in _batches(rows):
                logs, mask = self._logs([rows[i] for i in places])
                for i, mean in zip(places, ((logs * mask).sum(1) / mask.sum(1)).tolist(), strict=True):
                    found[i] = mean
        return found

    def complete(self, cues: Sequence[str], tokens: Sequence[int]) -> list[str]:
        """Greedily, exactly so many tokens."""
        import torch
        from transformers import GenerationConfig

        rows, found = self._ids(cues, least=1), [""] * len(cues)
        tokenizer = self._given.tokenizer
        configure: Any = GenerationConfig
        with self._at_work(), quiet_transformers():
            for places in _batches(rows):
                width, most = max(len(rows[i]) for i in places), max(tokens[i] for i in places)
                ids = torch.tensor([[0] * (width - len(rows[i])) + rows[i] for i in places])
                mask = torch.tensor([[0] * (width - len(rows[i])) + [1] * len(rows[i]) for i in places])
                # Without a token for the end nothing ends early.
                settings = configure(max_new_tokens=most, min_new_tokens=most, do_sample=False, pad_token_id=0)
                device = self._tuned.device
                output = self._tuned.generate(
                    ids.to(device), attention_mask=mask.to(device), generation_config=settings
                )[:, width:].tolist()
                for i, new in zip(places, output, strict=True):
                    found[i] = str(tokenizer.decode(new[: tokens[i]], skip_special_tokens=True))
        return found

    def _ids(self, texts: Sequence[str], least: int = _LEAST) -> list[list[int]]:
        rows: list[list[int]] = [
            self._given.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts
        ]
        for text, row in zip(texts, rows, strict=True):
            if len(row) < least:
                raise InputError(f"{text!r} has {len(row)} tokens: at least {least} are needed")
        return rows

    def _logs(self, rows: Sequence[list[int]]) -> tuple[Any, Any]:
        """Log-probability of each row's tokens from the second on, [B, T-1], and the mask of what is no padding."""
        import torch

        width, device = max(map(len, rows)), self._tuned.device
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        logits = self._tuned(ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        logs = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]
        return logs, mask[:, 1:]

    @contextlib.contextmanager
    def _at_work(self, *, gradients: bool = False) -> Iterator[None]:
        import torch

        device = self._tuned.device
        with (
            torch_threads(self._given.threads),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.set_grad_enabled(gradients),
        ):
            yield


def _batches(rows: Sequence[list[int]]) -> Iterator[list[int]]:
    """Places of rows of about equal length, so that padding is small."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), _ROWS):
        yield order[start : start + _ROWS]
