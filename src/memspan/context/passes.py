"""`Passes`: a context system in the forward pass of a model, through public seams, until its block ends.

A forward hook before the base model asks the system for its plan, runs all passes of it but the last one by itself,
sets the position ids to 0, and puts the reader's layers in the cache that the model was called with; the attention
function stores keys and values in the slots; the hook after the base model scores what was read.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any, Self

import torch
from transformers.cache_utils import Cache

from memspan.context.base import ContextSystem
from memspan.context.baselines import Aside
from memspan.context.cache import SlotCache
from memspan.context.family import Family, attention_function
from memspan.context.step import Call, PlanState, Segment, Sizes, Step
from memspan.core.budget import Budget
from memspan.core.errors import InputError

_ROWS = 256  # rows whose scores over the vocabulary are held at a time


class Passes:
    """See `Reader`, which is what users hold.

    Attributes:
        system: the context system; sizes: what the budget was solved to; cache: the transformers cache.
    """

    family: Family
    sizes: Sizes
    cache: SlotCache

    def __init__(self, system: ContextSystem, model: Any, budget: Budget | None, batch: int) -> None:
        if batch < 1:
            raise InputError(f"batch is {batch}: it must be at least 1")
        self.system, self.model = system, model
        self._known: Family | None = None
        self._budget, self._batch = budget, batch
        self._stack: ExitStack | None = None
        self._step: Step | None = None
        self._marks: list[tuple[Any, ...]] = []
        self._early: list[torch.Tensor] = []
        self._planned: Segment | Step | None = None
        self._goal: int | None = None
        self._nll: list[torch.Tensor] | None = None
        self._frame_tokens = (0, 0)

    # --- attaching ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._stack is not None:
            raise InputError("this reader is already in use: open another")
        if attached(self.model) is not None:
            raise InputError("the model already has a context system: leave its block first")
        training = self.model.training
        with ExitStack() as stack:
            if training:
                self.model.eval()
                stack.callback(self.model.train)
            known = self._known
            self.family = known if known is not None and known.still_of(self.model) else Family(self.model)
            if "surprisal" in self.system.needs:
                self.family.check_logits()
            self.sizes = self.system.bind(self.family, self._budget, self._batch)
            self.cache = self._new_cache(self._batch)
            stack.enter_context(self.system.attached(self.model))
            stack.enter_context(attention_function(self.model, self._attention))
            base = self.model.base_model
            before = base.register_forward_pre_hook(_Hook(self, self._before), with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(base.register_forward_hook(_Hook(self, self._after), with_kwargs=True).remove)
            if "hidden" in self.system.needs:
                self._hook_layers(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: Any) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()

    def _hook_layers(self, stack: ExitStack) -> None:
        layers = self.family.decoder_layers()

        def again(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            words = {name: None if isinstance(value, Cache) else value for name, value in kwargs.items()}
            words.pop("hidden_states", None)

            def run(module: torch.nn.Module, h: torch.Tensor) -> torch.Tensor:
                output = module(h, *args[1:], **words)
                out: torch.Tensor = output[0] if isinstance(output, tuple) else output
                return out

            return run

        def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            assert self._step is not None
            self._step.again = again(args, kwargs)
            if args:
                return (self.system.hidden(-1, args[0], self._step), *args[1:]), kwargs
            return (), {**kwargs, "hidden_states": self.system.hidden(-1, kwargs["hidden_states"], self._step)}

        def leaving(layer: int) -> Any:
            def leave(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
                assert self._step is not None
                self._step.again = again(args, kwargs)
                if isinstance(output, tuple):
                    return (self.system.hidden(layer, output[0], self._step), *output[1:])
                return self.system.hidden(layer, output, self._step)

            return leave

        stack.callback(layers[0].register_forward_pre_hook(enter, with_kwargs=True).remove)
        for i, module in enumerate(layers):
            stack.callback(module.register_forward_hook(leaving(i), with_kwargs=True).remove)

    def _new_cache(self, batch: int) -> SlotCache:
        return SlotCache(
            self.family,
            batch=batch,
            per_head=self.system.per_head,
            limit=self.sizes.capacity,
            zones=self.system.zones(),
        )

    def _open(self) -> None:
        if self._stack is None:
            raise InputError("the reader works inside its with block only")
        self._undo_open_step()

    # --- before the pass ---------------------------------------------------------------------------------------------

    def _before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        kwargs = {**dict(zip(self.family.words, args, strict=False)), **kwargs}
        planned, self._planned = self._planned, None
        if isinstance(planned, Segment):
            return (), self._start(kwargs, planned)
        self._undo_open_step()
        if isinstance(planned, Step):
            kwargs = {name: value for name, value in kwargs.items() if name != "past_key_values"}
            return (), self._enter_step(planned, kwargs | {self.family.cache_word: self.cache, "use_cache": True})
        given = kwargs.pop("past_key_values", None) or kwargs.pop("cache", None)
        ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        source = ids if ids is not None else embeds
        if source is None or source.shape[1] == 0:
            raise InputError("there is nothing to read: give at least one token")
        self._admit(source.shape[0])
        self._adopt(given)
        kwargs |= {self.family.cache_word: self.cache, "use_cache": True}
        mask = kwargs.get("attention_mask")
        count = source.shape[1]
        if isinstance(mask, torch.Tensor) and mask.dim() == 4:
            if count > self.sizes.chunk:
                raise InputError(f"a mask of four dimensions goes with at most {self.sizes.chunk} tokens")
            return (), self._start(kwargs, Segment(end=count))
        kwargs.pop("position_ids", None)
        kwargs["attention_mask"] = mask[:, -count:] if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None
        goal = self.cache.seen + count
        early: list[torch.Tensor] = []
        for segment in self.system.plan(ids, self._state(count, kwargs["attention_mask"], asking=True)):
            if segment.ids is None and segment.end == count:
                part = self._start(self._part(kwargs, segment), segment)
                self._early, self._goal = early, goal
                return (), part
            hidden = self._run(module, self._part(kwargs, segment), segment)
            if segment.ids is None:
                early.append(hidden)
        raise InputError(f"{type(self.system).__name__} planned no pass over the last token")

    def _state(self, count: int, mask: torch.Tensor | None, *, asking: bool) -> PlanState:
        return PlanState(self.cache, count, asking, self.aside, self._frame_tokens, mask)

    def _run(self, module: Any, part: dict[str, Any], segment: Segment) -> torch.Tensor:
        self._planned = segment
        hidden: torch.Tensor = module(**part).last_hidden_state
        return hidden

    def _run_step(self, words: dict[str, Any], step: Step) -> torch.Tensor:
        """Logits [B, T, V] of one pass that was made outside of any plan."""
        self._planned = step
        logits: torch.Tensor = self.model(**words).logits
        return logits

    def _admit(self, batch: int) -> None:
        """Take the number of rows from the first pass; later ones must have as many."""
        if batch == self.cache.batch:
            return
        if self.cache.seen > 0:
            raise InputError(f"the reader holds {self.cache.batch} rows and {batch} were given: reset() first")
        self.sizes = self.system.bind(self.family, self._budget, batch)
        self.cache = self._new_cache(batch)

    def _adopt(self, given: Any) -> None:
        """Let a cache that `generate` made for itself stand on the reader's layers, so that both always agree."""
        if given is None or given is self.cache or getattr(given, "layers", None) is self.cache.layers:
            return
        if given.get_seq_length() > 0:
            raise InputError("a cache that was filled elsewhere cannot be read on with: pass reader.cache or none")
        given.layers = self.cache.layers
        given.layer_class_to_replicate = None

    @staticmethod
    def _part(kwargs: dict[str, Any], segment: Segment) -> dict[str, Any]:
        """The arguments of one pass of a plan."""
        part = dict(kwargs)
        if segment.ids is not None:
            return part | {"input_ids": segment.ids, "inputs_embeds": None, "attention_mask": None}
        for name in ("input_ids", "inputs_embeds", "attention_mask"):
            if part.get(name) is not None:
                part[name] = part[name][:, segment.begin : segment.end]
        return part

    def _start(self, part: dict[str, Any], segment: Segment) -> dict[str, Any]:
        if segment.fresh:
            self.cache.clear()
        ids, mask = part.get("input_ids"), part.pop("attention_mask", None)
        places = part.pop("position_ids", None)
        given = mask if mask is not None and mask.dim() == 4 else None
        front = 0 if segment.before is None else segment.before.shape[1]
        behind = 0 if segment.after is None else segment.after.shape[1]
        tokens = ids if ids is not None else part["inputs_embeds"]
        count, device = tokens.shape[1], tokens.device
        if front or behind:
            middle = self.model.get_input_embeddings()(ids) if ids is not None else tokens
            around = [x for x in (segment.before, middle, segment.after) if x is not None]
            part |= {"inputs_embeds": torch.cat([x.to(middle.dtype) for x in around], 1), "input_ids": None}
        total = front + count + behind
        offsets = torch.arange(total, device=device)[None]
        following = self.cache.tracks[0].following[:, None].to(device)
        if given is None and mask is not None and not bool(mask.all()):
            ones = mask.new_ones(mask.shape[0], 1)
            real = torch.cat((ones.expand(-1, front), mask, ones.expand(-1, behind)), 1).bool()
            pos = torch.where(real, following + real.cumsum(1) - 1, -1)
            for track in self.cache.tracks:
                track.padded = True
        elif given is not None and places is not None:
            pos = places.expand(tokens.shape[0], -1)
            offsets = pos - following
        else:
            pos = following + offsets
        step = Step(
            ids=ids,
            pos=pos,
            rope=pos,
            offsets=offsets,
            start=self.cache.tracks[0].n,
            plain=not self.cache.tracks[0].padded,
            cache=self.cache,
            rows=slice(front, front + count),
            mask=given,
        )
        return self._enter_step(step, part, extra=front + behind)

    def _enter_step(self, step: Step, part: dict[str, Any], extra: int = 0) -> dict[str, Any]:
        """Let the system prepare, make room for the rows, and complete the arguments of the pass."""
        self.system.begin(step, self.cache)
        self._marks = [(track, track.mark()) for track in self.cache.every()]
        self._step = step
        token = step.ids
        if step.ids is not None and step.ids.shape[1] < step.count:
            token = step.ids.new_full((step.ids.shape[0], step.count), -1)
            token[:, step.rows] = step.ids
        self.cache.append(step.pos, step.rope, token, extra=extra)
        if extra:
            for track in self.cache.tracks:
                track.tail = 0
        if step.inputs_embeds is not None:
            part |= {"inputs_embeds": step.inputs_embeds, "input_ids": None}
        part = {name: value for name, value in part.items() if value is not None or name != "input_ids"}
        part["position_ids"] = torch.zeros_like(step.pos)
        part["attention_mask"] = step.mask
        return part

    # --- during the pass ---------------------------------------------------------------------------------------------

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

    # --- after the pass ----------------------------------------------------------------------------------------------

    def _after(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        step, early, goal = self._step, self._early, self._goal
        assert step is not None
        step.hidden = self.system.output(output.last_hidden_state, step)
        hidden = step.hidden[:, step.rows]
        output.last_hidden_state = hidden
        if step.tree is not None:
            return output
        if goal is not None:
            self.cache.seen = goal
        self._finish(step)
        self._step, self._early, self._goal = None, [], None
        if early:
            output.last_hidden_state = torch.cat((*early, hidden), 1)
        return output

    def _finish(self, step: Step) -> None:
        """Score what was read, and let the system do what it does after a pass."""
        assert step.hidden is not None
        surprisal = self._surprisal(step) if self._wants_surprisal else None
        self.cache.extra["last"] = step.hidden[:, step.rows][:, -1:].detach().clone()
        self.cache.last_at = self.cache.seen
        self.system.end(step, self.cache, surprisal if "surprisal" in self.system.needs else None)
        if self._nll is not None and surprisal is not None:
            self._nll.append(surprisal)

    @property
    def _wants_surprisal(self) -> bool:
        return "surprisal" in self.system.needs or self._nll is not None

    def _surprisal(self, step: Step) -> torch.Tensor:
        """Surprisal of each token [B, t] in nats; NaN for padding and where nothing was read before."""
        assert step.hidden is not None
        pos = step.pos[:, step.rows]
        out = torch.full(pos.shape, float("nan"), device=pos.device)
        if step.ids is None:
            return out
        front = step.rows.start or 0
        hidden = step.hidden.detach()[:, : front + pos.shape[1]]
        before, first = hidden[:, max(0, front - 1) : -1], 0
        if not front:
            known = self.cache.last_at == self.cache.seen - pos.shape[1]
            last = self.cache.extra.get("last") if known else None
            before, first = (before, 1) if last is None else (torch.cat((last, before), 1), 0)
        with torch.no_grad():
            for at in range(0, before.shape[1], _ROWS):
                rows = before[:, at : at + _ROWS]
                ids = step.ids[:, first + at : first + at + rows.shape[1], None]
                scores = self.family.logits(rows)
                nats = scores.logsumexp(-1) - scores.gather(2, ids)[..., 0]
                out[:, first + at : first + at + rows.shape[1]] = nats
        if front:
            out[step.pos[:, front - 1 : front - 1 + pos.shape[1]] < 0] = float("nan")
        else:
            out[pos == 0] = float("nan")
        out[pos < 0] = float("nan")
        return out

    def _undo_open_step(self) -> None:
        """Take back a pass that was interrupted, so that the stream goes on from the last whole one."""
        marks, self._marks = self._marks, []
        if self._step is not None:
            for track, mark in marks:
                track.back_to(mark)
        self._step, self._early, self._planned, self._goal = None, [], None, None

    def aside(
        self,
        ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The last hidden states [B, T, d] of a pass over nothing but what it is given; nothing of it is kept."""
        source = ids if ids is not None else inputs_embeds
        assert source is not None
        kept = {name: getattr(self, name) for name in ("system", "sizes", "cache", "_step", "_marks", "_nll")}
        plain = Aside(chunk=source.shape[1])
        try:
            self.sizes = plain.bind(self.family, None, source.shape[0])
            self.system, self._step, self._marks, self._nll = plain, None, [], None
            self.cache = self._new_cache(source.shape[0])
            words: dict[str, Any] = {"input_ids": ids} if ids is not None else {"inputs_embeds": inputs_embeds}
            hidden: torch.Tensor = self.model.base_model(**words, attention_mask=mask).last_hidden_state
            return hidden
        finally:
            for name, value in kept.items():
                setattr(self, name, value)

    def _branch(self) -> tuple[SlotCache, ContextSystem]:
        """The stream's state and the system, to be put back; both are replaced by copies."""
        kept = self.cache, self.system
        self.cache, self.system = copy.deepcopy(self.cache), copy.copy(self.system)
        return kept


class _Hook:
    """A hook of a reader, to be told from others'."""

    def __init__(self, owner: Passes, call: Any) -> None:
        self.owner, self._call = owner, call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)


def attached(model: Any) -> Any:
    """The reader that is attached to a model, or None."""
    for hook in model.base_model._forward_pre_hooks.values():
        if isinstance(hook, _Hook):
            return hook.owner
    return None
