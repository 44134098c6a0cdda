"""A subject whose memory is its weights: a model that learns what an item shows and answers without seeing it."""

from __future__ import annotations

import math
import random
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from memspan.core.errors import InputError
from memspan.models.base import LanguageModel, LocalLanguageModel
from memspan.models.hardware import torch_threads
from memspan.probes.base import Choice, Item
from memspan.probes.subjects import ModelSubject


class WeightsSubject:
    """A local model that is fine-tuned, all weights, on the context of an item.

    It has its own weights again before another context, and after `close`.

    Args:
        model: in this process, in float32: in fewer bits, AdamW's small steps round to nothing.
        epochs, lr: of AdamW with a half cosine down to 0; weight decay is 1e-4, as in Pink et al. (2024).
        block: tokens of a row; a step reads one.
        name: as reports show it.

    Raises:
        InputError: the model is not in this process or not in float32, or a number is not possible.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        epochs: int = 3,
        lr: float = 5e-5,
        block: int = 256,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        if not isinstance(model, LocalLanguageModel):
            raise InputError(f"{model.name} is not in this process: its weights cannot learn")
        if epochs < 1 or lr <= 0 or block < 2:
            raise InputError(f"epochs {epochs}, lr {lr}, block {block}: too small")
        kinds = {str(parameter.dtype) for parameter in model.model.parameters()}
        if kinds != {"torch.float32"}:
            raise InputError(f"{model.name} is in {', '.join(sorted(kinds))}: load it with dtype='float32' to train it")
        self._reader = ModelSubject(model, name or f"weights:{model.name}")
        self.name, self.forms = self._reader.name, self._reader.forms
        self.model = model
        self._epochs, self._lr, self._block, self._seed = epochs, lr, block, seed
        self._own: list[Any] | None = None
        self._learned: str | None = None

    def read(self, item: Item) -> None:
        """Learn the item's context, unless it is the last one's."""
        self.learn(item.context)
        self._reader.read(replace(item, context="", pieces=()))

    def write(self, item: Item) -> str:
        """From memory."""
        return self._reader.write(item)

    def weigh(self, choice: Choice) -> list[float]:
        """From memory."""
        return self._reader.weigh(choice)

    def count_tokens(self, text: str) -> int:
        """The model's tokenizer."""
        return self._reader.count_tokens(text)

    def learn(self, text: str) -> list[float]:
        """Fine-tune on a text from the model's own weights; the loss of each step, none where it is learned already.

        Raises:
            InputError: there is less than one block of two tokens, or a loss is not finite.
        """
        if text == self._learned:
            return []
        self.close()
        rows = self._rows(text)
        self._own = [parameter.data for parameter in self.model.model.parameters()]
        for parameter in self.model.model.parameters():
            parameter.data = parameter.data.clone()  # the file that weights are mapped from stays as it is
        try:
            losses = self._trained(rows)
        except BaseException:
            self.close()
            raise
        self._learned = text
        return losses

    def perplexity(self, text: str) -> float:
        """Of a text, in blocks, each predicted from its own beginning."""
        import torch

        total = count = 0.0
        with torch.inference_mode(), self._threads():
            for row in self._rows(text):
                ids = torch.tensor([row], device=self.model.model.device)
                total += float(self.model.model(ids, labels=ids).loss) * (len(row) - 1)
                count += len(row) - 1
        return math.exp(total / count)

    def close(self) -> None:
        """The model has its own weights again."""
        if self._own is not None:
            for parameter, own in zip(self.model.model.parameters(), self._own, strict=True):
                parameter.data = own
            self._own = self._learned = None

    def _rows(self, text: str) -> list[list[int]]:
        ids = self.model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        rows = [ids[at : at + self._block] for at in range(0, len(ids), self._block)]
        rows = [row for row in rows if len(row) > 1]
        if not rows:
            raise InputError("there is no text to learn")
        return rows

    def _trained(self, rows: list[list[int]]) -> list[float]:
        import torch

        module, chance = self.model.model, random.Random(self._seed)
        parameters = list(module.parameters())
        asked = [parameter.requires_grad for parameter in parameters]
        for parameter in parameters:
            parameter.requires_grad_(True)
        steps = self._epochs * len(rows)
        losses: list[float] = []
        optimizer = torch.optim.AdamW(parameters, lr=self._lr, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 0.5 * (1 + math.cos(math.pi * i / steps)))
        module.train()
        try:
            with self._threads(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed)
                for _ in range(self._epochs):
                    for row in chance.sample(rows, len(rows)):
                        ids = torch.tensor([row], device=module.device)
                        loss = module(ids, labels=ids, use_cache=False).loss
                        if not torch.isfinite(loss):
                            raise InputError(f"the loss is {float(loss)} after {len(losses)} steps: lower lr")
                        loss.backward()
                        optimizer.step()
                        optimizer.zero_grad(set_to_none=True)
                        schedule.step()
                        losses.append(float(loss.detach()))
        finally:
            module.eval()
            for parameter, was in zip(parameters, asked, strict=True):
                parameter.requires_grad_(was)
                parameter.grad = None
        return losses

    def _threads(self) -> AbstractContextManager[None]:
        return torch_threads(getattr(self.model, "threads", None))
