"""`Reader`: a model with a context system attached until the `with` block ends; `model.generate` works as ever.

How the system gets into the model is in `passes.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch

from memspan.context.base import ContextSystem
from memspan.context.baselines import BASELINES
from memspan.context.passes import Passes
from memspan.context.slots import FIELDS
from memspan.core.budget import Budget
from memspan.core.errors import InputError
from memspan.core.footprint import Footprint


@dataclass(frozen=True, slots=True)
class KeptToken:
    """One slot: the token at `position`, its text (None without a tokenizer), score, age in turns, and why."""

    position: int
    token: int
    text: str | None
    score: float
    age: int
    reason: str


def open_reader(
    slug: str | ContextSystem,
    model: Any,
    *,
    budget: str | int | Budget | None = None,
    tokenizer: Any = None,
    batch: int = 1,
    frame: bool = False,
    weights: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Reader:
    """A reader over a model, to be used in a `with` block.

    Args:
        slug: a system of the folder `context`, one of the baselines ("full", "window", "random", "snapkv", "h2o"), or
            a system made beforehand.
        model: a `transformers` causal language model, a `LocalLanguageModel`, or what `load_language_model` takes.
        budget: bytes that the context may hold ("64MiB"); None lets the system choose, up to the trained length.
        tokenizer: for texts; a `LocalLanguageModel` brings its own.
        batch: rows that the budget is for; the first pass decides.
        frame: put what is read inside the user's message of the model's chat template, where it has one.
        weights: directory with what a system that learns has learned for this model.
        options: of the system's configuration; see `memspan systems show SLUG`.

    Raises:
        InputError: an unknown system or option, or weights of another model or system.
        BudgetError: the budget is too small; the message names the bytes that would do.
        UnsupportedModelError: the model's attention cannot be reached.
    """
    if isinstance(slug, ContextSystem):
        if options or weights is not None:
            raise InputError(f"{', '.join(options) or 'weights'}: the system was made with its options already")
        system = slug
        module, tokenizer = local_model(model, tokenizer)
    elif weights is None:
        system = find_system(slug)(**options)
        module, tokenizer = local_model(model, tokenizer)
    else:
        restore = getattr(find_system(slug), "load", None)
        if restore is None:
            raise InputError(f"{slug} learns nothing, so it has no weights")
        module, tokenizer = local_model(model, tokenizer)
        system = restore(weights, module, **options)
    return Reader(system, module, tokenizer, None if budget is None else Budget.parse(budget), batch, frame)


def find_system(slug: str) -> type[ContextSystem]:
    """The class of a baseline or of a system of the catalogue.

    Raises:
        InputError: no context system has this name.
    """
    if slug in BASELINES:
        return BASELINES[slug]
    from memspan.core.catalog import load

    kind = load(slug)
    if not isinstance(kind, type) or not issubclass(kind, ContextSystem):
        raise InputError(f"{slug} is no context system")
    return kind


def find_learner(slug: str) -> Any:
    """The class of a system of the folder `context` that has `fit`.

    Raises:
        InputError: no system has this name, or it learns nothing.
    """
    from memspan.core.catalog import load, system

    kind = load(slug)
    if not hasattr(kind, "fit") or system(slug).folder != "context":
        raise InputError(f"{slug} learns nothing from texts for a context")
    return kind


def local_model(model: Any, tokenizer: Any = None) -> tuple[Any, Any]:
    """The transformers model and the tokenizer of what `memspan.context` takes as a model.

    Raises:
        InputError: it is no transformers model in this process.
    """
    if isinstance(model, str | os.PathLike):
        from memspan.models import load_language_model

        model = load_language_model(model)
    if not isinstance(model, torch.nn.Module):
        tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
        model = getattr(model, "model", None)
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "base_model"):
        raise InputError("a context system needs a transformers model in this process")
    return model, tokenizer


class Reader(Passes):
    """See `open_reader`. The methods work inside the `with` block only.

    Attributes:
        system: the context system; sizes: what the budget was solved to; cache: the transformers cache.
    """

    def __init__(
        self, system: ContextSystem, model: Any, tokenizer: Any, budget: Budget | None, batch: int, frame: bool
    ) -> None:
        super().__init__(system, model, budget, batch)
        self.tokenizer, self._frame = tokenizer, frame

    # --- reading -----------------------------------------------------------------------------------------------------

    def feed(self, data: Any, *, nll: bool = False, mask: torch.Tensor | None = None) -> torch.Tensor | None:
        """Read on: one turn.

        Args:
            data: a text; token ids as a list, or a tensor [T] or [B, T]; or an iterator over texts or lists of ids,
                which is never held whole.
            nll: return the surprisal of each token in nats, [B, T]; NaN for the stream's first token and padding.
            mask: 1 for tokens and 0 for padding on the left, [B, T].

        Raises:
            InputError: nothing to read, or a text without a tokenizer.
        """
        self._open()
        self._nll = [] if nll else None
        try:
            self.system.turn(self.cache)
            self._frame_tokens = (self._count(self._opening()), 0)
            if isinstance(data, Iterator):
                for part in data:
                    self._read(self._ids(part), None)
            else:
                self._read(self._ids(data), mask)
            return torch.cat(self._nll, 1) if self._nll else None
        finally:
            self._nll, self._frame_tokens = None, (0, 0)

    def score(self, question: Any, answers: Sequence[Any]) -> list[torch.Tensor]:
        """Surprisal of each token of each answer right behind a question, nats [B, T]; the reader stays where it was.

        Args:
            question: a text or token ids, as `feed` takes them; no chat template is put around it. It is read once.
            answers: texts or token ids, each as if it alone came next.

        Raises:
            InputError: nothing to read, or a text without a tokenizer.
        """
        self._open()
        asked, *said = (self._ids(self.encode(x) if isinstance(x, str) else x) for x in (question, *answers))
        out = []
        with self.fork():
            self.system.turn(self.cache)
            with torch.no_grad():
                self.model.base_model(input_ids=asked)
            for answer in said:
                with self.fork():
                    self._nll = []
                    try:
                        self._read(answer, None)
                        out.append(torch.cat(self._nll, 1))
                    finally:
                        self._nll = None
        return out

    def _read(self, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        self._admit(ids.shape[0])
        goal = self.cache.seen + ids.shape[1]
        words = {"input_ids": ids, "attention_mask": mask, self.family.cache_word: self.cache, "use_cache": True}
        with torch.no_grad():
            for segment in self.system.plan(ids, self._state(ids.shape[1], mask, asking=False)):
                self._run(self.model.base_model, self._part(words, segment), segment)
        if self.cache.seen != goal:
            self.cache.seen = goal

    def _ids(self, data: Any) -> torch.Tensor:
        if isinstance(data, str):
            data = self.encode(self._opening() + data)
        if not isinstance(data, torch.Tensor):
            if not isinstance(data, Iterable):
                raise InputError(
                    f"{type(data).__name__} cannot be read: give a text, token ids, or an iterator of them"
                )
            try:
                data = torch.tensor(list(data) or [[]])
            except (TypeError, ValueError) as error:
                raise InputError(f"token ids must be whole numbers, in rows of equal length: {error}") from None
        ids: torch.Tensor = data.to(self.family.device)
        if ids.numel() and not (ids.dtype.is_floating_point or ids.dtype == torch.bool):
            ids = ids.long()
        ids = ids[None] if ids.dim() == 1 else ids
        if ids.dim() != 2 or ids.shape[1] == 0:
            raise InputError("there is nothing to read: give at least one token")
        if ids.dtype.is_floating_point or int(ids.min()) < 0 or int(ids.max()) >= self.family.config.vocab_size:
            raise InputError(f"token ids must be whole numbers from 0 to {self.family.config.vocab_size - 1}")
        return ids

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens.

        Raises:
            InputError: no tokenizer, or the text is empty.
        """
        if self.tokenizer is None:
            raise InputError("a text needs a tokenizer: pass tokenizer=, or read token ids")
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise InputError("there is nothing to read: the text is empty")
        return ids

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else 0

    # --- asking ------------------------------------------------------------------------------------------------------

    def _template(self) -> tuple[str, str]:
        """What the chat template puts before and after a user's message; ("", newline) without one."""
        if not getattr(self.tokenizer, "chat_template", None):
            return "", "\n"
        mark = "\x00"
        message = [{"role": "user", "content": mark}]
        whole = str(self.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
        before, found, after = whole.partition(mark)
        return (before, after) if found else ("", "\n")

    def _opening(self) -> str:
        return self._template()[0] if self._frame and self.cache.tracks[0].seen == 0 else ""

    def ask(self, question: str, *, max_new_tokens: int = 64, keep: bool = False, **generation: Any) -> str:
        """The model's answer to a question about what was read.

        Args:
            question: put into the model's chat template where it has one.
            max_new_tokens: most tokens of the answer.
            keep: leave question and answer in the context; else it is as it was before.
            generation: further arguments of `model.generate`.

        Raises:
            InputError: no tokenizer, or an empty question.
        """
        self._open()
        before, after = self._template()
        opened = self._frame and self.cache.tracks[0].seen > 0
        text = f"\n\n{question}{after}" if opened else f"{before}{question}{after}"
        ids = torch.tensor([self.encode(text)], device=self.family.device)
        lead = 0 if opened else self._count(before)
        with ExitStack() as stack:
            if not keep:
                stack.enter_context(self.fork())
            self.system.turn(self.cache)
            pad = self.tokenizer.pad_token_id
            settings = {"do_sample": False, "pad_token_id": 0 if pad is None else pad, **generation}
            mask = torch.ones_like(ids)
            self._frame_tokens = (lead, self._count(after))
            stack.callback(setattr, self, "_frame_tokens", (0, 0))
            out = self.model.generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, **settings)
        return str(self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()

    # --- looking, copying, keeping -----------------------------------------------------------------------------------

    @property
    def seen(self) -> int:
        """Tokens read in all."""
        return self.cache.seen

    def slots(self, layer: int = 0) -> list[KeptToken]:
        """What is kept of the first row, in order, and why; `layer` matters where heads keep different tokens."""
        self._open()
        track = self.cache.tracks[layer if self.system.per_head else 0]
        held = {name: tensor[0, 0].tolist() for name, tensor in track.tensors().items() if name in FIELDS}
        reasons = self.system.reason(track)
        rows = []
        for i, reason in enumerate(reasons):
            token = held["token"][i]
            text = None if self.tokenizer is None or token < 0 else str(self.tokenizer.decode([token]))
            age = track.current_turn - held["turn"][i]
            rows.append(KeptToken(held["pos"][i], token, text, held["score"][i], age, reason))
        return rows

    def footprint(self) -> Footprint:
        """Bytes that the context system holds: every buffer, whole, and the weights that it learned."""
        place = "ram" if self.family.device.type == "cpu" else "device"
        held = Footprint.of("context", place, self.cache.nbytes)
        if isinstance(self.system, torch.nn.Module):
            learned = sum(p.untyped_storage().nbytes() for p in self.system.parameters())
            held += Footprint.of("weights", place, learned)
        return held

    @contextmanager
    def fork(self) -> Iterator[Self]:
        """Inside the block go on as you like; after it the reader is where it was. Needs its bytes a second time."""
        self._open()
        kept = self._branch()
        try:
            yield self
        finally:
            self._step, self._marks, self._early, self._goal = None, [], [], None
            self.cache, self.system = kept

    def reset(self) -> None:
        """Forget everything that was read."""
        self._open()
        self.sizes = self.system.bind(self.family, self._budget, self._batch)
        self.cache = self._new_cache(self._batch)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what is kept to one file (safetensors); a crash leaves the old file or the new one.

        Raises:
            MemspanError: nothing was read yet, or the file cannot be written.
        """
        from memspan.context.saving import save

        self._open()
        save(self, path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from a file that `save` wrote with the same model, system and settings.

        Raises:
            InputError: it is no such file, or of another model, system or sizes.
        """
        from memspan.context.saving import load

        self._open()
        load(self, path)
