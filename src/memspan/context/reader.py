"""`Reader`: a model with a context system attached, through public seams, until the `with` block ends.

A forward hook before the base model sets the position ids to 0 and puts the reader's layers in the cache that it was
called with; the attention function stores keys and values in the slots. `model.generate` works as ever.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch

from memspan.context.base import Call, ContextSystem, Sizes, Step
from memspan.context.baselines import BASELINES
from memspan.context.family import Family, attention_function
from memspan.context.slots import SlotCache
from memspan.core.budget import Budget
from memspan.core.errors import InputError
from memspan.core.footprint import Footprint

_ROWS = 256  # rows whose scores over the vocabulary are held at a time


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
        options: of the system's configuration; see `memspan systems show SLUG`.

    Raises:
        InputError: an unknown system or option.
        BudgetError: the budget is too small; the message names the bytes that would do.
        UnsupportedModelError: the model's attention cannot be reached.
    """
    if isinstance(slug, ContextSystem):
        if options:
            raise InputError(f"{', '.join(options)}: the system was made with its options already")
        system = slug
    else:
        system = find_system(slug)(**options)
    if isinstance(model, str | os.PathLike):
        from memspan.models import load_language_model

        model = load_language_model(model)
    if not isinstance(model, torch.nn.Module):
        tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
        model = getattr(model, "model", None)
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "base_model"):
        raise InputError("a context system needs a transformers model in this process")
    return Reader(system, model, tokenizer, None if budget is None else Budget.parse(budget), batch, frame)


def find_system(slug: str) -> type[ContextSystem]:
    """The class of a system of this folder, or of a baseline.

    Raises:
        InputError: no context system has this name.
    """
    if slug in BASELINES:
        return BASELINES[slug]
    from memspan.core.catalog import load

    kind = load(slug)
    if not issubclass(kind, ContextSystem):
        raise InputError(f"{slug} is no context system")
    return kind


class Reader:
    """See `open_reader`. The methods work inside the `with` block only.

    Attributes:
        system: the context system; sizes: what the budget was solved to; cache: the transformers cache.
    """

    def __init__(
        self, system: ContextSystem, model: Any, tokenizer: Any, budget: Budget | None, batch: int, frame: bool
    ) -> None:
        if batch < 1:
            raise InputError(f"batch is {batch}: it must be at least 1")
        self.system, self.model, self.tokenizer = system, model, tokenizer
        self._budget, self._batch, self._frame = budget, batch, frame
        self._stack: ExitStack | None = None
        self._step: Step | None = None
        self._early: list[torch.Tensor] = []
        self._nll: list[torch.Tensor] | None = None
        self.family: Family
        self.sizes: Sizes
        self.cache: SlotCache

    # --- attaching ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._stack is not None:
            raise InputError("this reader is already in use: open another")
        if any(isinstance(hook, _Hook) for hook in self.model.base_model._forward_pre_hooks.values()):
            raise InputError("the model already has a context system: leave its block first")
        training = self.model.training
        with ExitStack() as stack:
            if training:
                self.model.eval()
                stack.callback(self.model.train)
            self.family = Family(self.model)
            if "surprisal" in self.system.needs:
                self.family.check_logits()
            self.sizes = self.system.bind(self.family, self._budget, self._batch)
            self.cache = self._new_cache(self._batch)
            stack.enter_context(attention_function(self.model, self._attention))
            base = self.model.base_model
            before = base.register_forward_pre_hook(_Hook(self._before), with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(base.register_forward_hook(_Hook(self._after), with_kwargs=True).remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: Any) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()

    def _new_cache(self, batch: int) -> SlotCache:
        return SlotCache(self.family, batch=batch, per_head=self.system.per_head, limit=self.sizes.capacity)

    def _open(self) -> None:
        if self._stack is None:
            raise InputError("the reader works inside its with block only")
        self._undo_open_step()

    # --- the seams ---------------------------------------------------------------------------------------------------

    def _before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        kwargs = {**dict(zip(self.family.words, args, strict=False)), **kwargs}
        self._undo_open_step()
        given = kwargs.pop("past_key_values", None) or kwargs.pop("cache", None)
        ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        source = ids if ids is not None else embeds
        if source is None or source.shape[1] == 0:
            raise InputError("there is nothing to read: give at least one token")
        if self.cache.tracks[0].seen == 0 and source.shape[0] != self.cache.batch:
            self.sizes = self.system.bind(self.family, self._budget, source.shape[0])
            self.cache = self._new_cache(source.shape[0])
        if source.shape[0] != self.cache.batch:
            raise InputError(
                f"the reader holds {self.cache.batch} rows and {source.shape[0]} were given: reset() first"
            )
        self._adopt(given)
        mask = kwargs.pop("attention_mask", None)
        kwargs.pop("position_ids", None)
        kwargs |= {self.family.cache_word: self.cache, "use_cache": True}
        count = source.shape[1]
        tree = mask if isinstance(mask, torch.Tensor) and mask.dim() == 4 else None
        flat = mask[:, -count:] if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None
        pieces = [(at, min(at + self.sizes.chunk, count)) for at in range(0, count, self.sizes.chunk)]
        if len(pieces) > 1 and tree is not None:
            raise InputError(f"a mask of four dimensions goes with at most {self.sizes.chunk} tokens")
        early = []
        for begin, end in pieces[:-1]:
            early.append(module(**self._piece(kwargs, begin, end, flat)).last_hidden_state)
        begin, end = pieces[-1]
        part = self._piece(kwargs, begin, end, flat)
        piece_mask = part.pop("attention_mask", None)
        self._start(part, piece_mask, tree)
        self._early = early
        if tree is not None:
            part["attention_mask"] = tree
        return (), part

    def _adopt(self, given: Any) -> None:
        """Let a cache that `generate` made for itself stand on the reader's layers, so that both always agree."""
        if given is None or given is self.cache or getattr(given, "layers", None) is self.cache.layers:
            return
        if given.get_seq_length() > 0:
            raise InputError("a cache that was filled elsewhere cannot be read on with: pass reader.cache or none")
        given.layers = self.cache.layers
        given.layer_class_to_replicate = None

    @staticmethod
    def _piece(kwargs: dict[str, Any], begin: int, end: int, mask: torch.Tensor | None) -> dict[str, Any]:
        part = dict(kwargs)
        for name in ("input_ids", "inputs_embeds"):
            if part.get(name) is not None:
                part[name] = part[name][:, begin:end]
        if mask is not None:
            part["attention_mask"] = mask[:, begin:end]
        return part

    def _start(self, part: dict[str, Any], mask: torch.Tensor | None, tree: torch.Tensor | None) -> None:
        ids = part.get("input_ids")
        source = ids if ids is not None else part["inputs_embeds"]
        batch, count = source.shape[:2]
        track = self.cache.tracks[0]
        following = track.following[:, None].to(source.device)
        if mask is not None and not bool(mask.all()):
            real = mask.bool()
            pos = torch.where(real, following + real.cumsum(1) - 1, -1)
            for each in self.cache.tracks:
                each.padded = True
        else:
            pos = following + torch.arange(count, device=source.device)
        step = Step(ids, pos, pos, track.n, plain=not track.padded, given=tree)
        self.system.begin(step, self.cache)
        self.cache.append(pos, step.rope, ids)
        self._step = step
        part["position_ids"] = torch.zeros(batch, count, dtype=torch.int64, device=source.device)

    def _attention(
        self,
        module: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        assert self._step is not None
        call = Call(scaling or q.shape[-1] ** -0.5, sliding_window, softcap, s_aux)
        layer = int(module.layer_idx)
        out = self.system.attend(layer, q, k, v, self.cache.layers[layer], self._step, call)
        return out.transpose(1, 2), None

    def _after(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        step, early = self._step, self._early
        assert step is not None
        hidden = output.last_hidden_state
        surprisal = self._surprisal(step, hidden) if self._wants_surprisal else None
        self.cache.extra["last"] = hidden[:, -1:].detach().clone()
        self.cache.last_at = self.cache.tracks[0].seen
        self.system.end(step, self.cache, surprisal if "surprisal" in self.system.needs else None)
        if self._nll is not None and surprisal is not None:
            self._nll.append(surprisal)
        self._step, self._early = None, []
        if early:
            output.last_hidden_state = torch.cat((*early, hidden), 1)
        return output

    @property
    def _wants_surprisal(self) -> bool:
        return "surprisal" in self.system.needs or self._nll is not None

    def _surprisal(self, step: Step, hidden: torch.Tensor) -> torch.Tensor:
        """Surprisal of each new token [B, T] in nats; NaN for padding and where nothing was read before."""
        out = torch.full(step.pos.shape, float("nan"), device=hidden.device)
        if step.ids is None:
            return out
        known = self.cache.last_at == self.cache.tracks[0].seen - step.count
        last = self.cache.extra.get("last") if known else None
        before = hidden[:, :-1]
        first = 1
        if last is not None:
            before, first = torch.cat((last, before), 1), 0
        with torch.no_grad():
            for at in range(0, before.shape[1], _ROWS):
                rows = before[:, at : at + _ROWS]
                ids = step.ids[:, first + at : first + at + rows.shape[1], None]
                scores = self.family.logits(rows)
                nats = scores.logsumexp(-1) - scores.gather(2, ids)[..., 0]
                out[:, first + at : first + at + rows.shape[1]] = nats
        out[step.pos <= 0] = float("nan")
        return out

    def _undo_open_step(self) -> None:
        """Take back a pass that was interrupted, so that the stream goes on from the last whole one."""
        step, self._step, self._early = self._step, None, []
        if step is not None:
            for track in self.cache.tracks:
                if track.n > step.start:
                    track.drop_last(track.n - step.start)

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
            if isinstance(data, Iterator):
                for part in data:
                    self._read(self._ids(part), None)
            else:
                self._read(self._ids(data), mask)
            return torch.cat(self._nll, 1) if self._nll else None
        finally:
            self._nll = None

    def _read(self, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        with torch.no_grad():
            for at in range(0, ids.shape[1], self.sizes.chunk):
                piece = {} if mask is None else {"attention_mask": mask[:, at : at + self.sizes.chunk]}
                self.model.base_model(input_ids=ids[:, at : at + self.sizes.chunk], **piece)

    def _ids(self, data: Any) -> torch.Tensor:
        if isinstance(data, str):
            data = self._encode(self._opening() + data)
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

    def _encode(self, text: str) -> list[int]:
        if self.tokenizer is None:
            raise InputError("a text needs a tokenizer: pass tokenizer=, or read token ids")
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise InputError("there is nothing to read: the text is empty")
        return ids

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
        ids = torch.tensor([self._encode(text)], device=self.family.device)
        with ExitStack() as stack:
            if not keep:
                stack.enter_context(self.fork())
            self.system.turn(self.cache)
            pad = self.tokenizer.pad_token_id
            settings = {"do_sample": False, "pad_token_id": 0 if pad is None else pad, **generation}
            mask = torch.ones_like(ids)
            out = self.model.generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, **settings)
        return str(self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()

    # --- looking, copying, keeping -----------------------------------------------------------------------------------

    @property
    def seen(self) -> int:
        """Tokens read in all."""
        return self.cache.tracks[0].seen

    def slots(self, layer: int = 0) -> list[KeptToken]:
        """What is kept of the first row, in order, and why; `layer` matters where heads keep different tokens."""
        self._open()
        track = self.cache.tracks[layer if self.system.per_head else 0]
        held = {name: tensor[0, 0].tolist() for name, tensor in track.tensors().items() if name != "following"}
        reasons = self.system.reason(track)
        rows = []
        for i, reason in enumerate(reasons):
            token = held["token"][i]
            text = None if self.tokenizer is None or token < 0 else str(self.tokenizer.decode([token]))
            age = track.current_turn - held["turn"][i]
            rows.append(KeptToken(held["pos"][i], token, text, held["score"][i], age, reason))
        return rows

    def footprint(self) -> Footprint:
        """Bytes that the context system holds: every buffer, whole."""
        place = "ram" if self.family.device.type == "cpu" else "device"
        return Footprint.of("context", place, self.cache.nbytes)

    @contextmanager
    def fork(self) -> Iterator[Self]:
        """Inside the block go on as you like; after it the reader is where it was. Needs its bytes a second time."""
        self._open()
        cache, system = self.cache, self.system
        self.cache, self.system = copy.deepcopy(cache), copy.copy(system)
        try:
            yield self
        finally:
            self._step, self._early = None, []
            self.cache, self.system = cache, system

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


class _Hook:
    """A hook of a reader, to be told from others'."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)
