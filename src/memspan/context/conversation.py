"""`Conversation`: a chat without end over a reader, whose context stays inside its budget however long it gets.

Turns are read on one after the other in the model's chat template; nothing is read twice. What is said, and what is not
read yet, is kept with the context, so that a saved one goes on in the middle of a chat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteriaList

from memspan.context.reader import Reader
from memspan.core.errors import InputError

_MARKS = ("MEMSPAN-FIRST", "MEMSPAN-ANSWER", "MEMSPAN-NEXT")
_STOP = "\nUser:"  # of a model without a chat template


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        answer: what the model said.
        ended: "end" (it had said all), "length" (no more tokens were allowed), or "interrupted" (Ctrl-C).
        read, written: tokens.
    """

    answer: str
    ended: str
    read: int
    written: int


class Conversation:
    """See the module. The reader must be inside its `with` block.

    Raises:
        InputError: the reader has no tokenizer, or read something that was no conversation.
    """

    def __init__(self, reader: Reader) -> None:
        if reader.tokenizer is None:
            raise InputError("a conversation needs a tokenizer: pass tokenizer=")
        self.reader, self._tokenizer = reader, reader.tokenizer
        if reader.seen and "conversation" not in reader.cache.notes:
            raise InputError("what was read is no conversation: start with an empty context")
        self._opening, self._answer, self._next, self._stop = self._pieces()

    @property
    def turns(self) -> int:
        """Turns so far."""
        return int(self._state["turns"])

    @property
    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.reader.cache.notes.setdefault(
            "conversation", {"turns": 0, "unread": [], "next": None}
        )
        return state

    def _pieces(self) -> tuple[str, str, str, str]:
        """What stands before the first message, before an answer, and before later messages; and what ends an answer
        beside the model's own token."""
        if getattr(self._tokenizer, "chat_template", None):
            roles = ("user", "assistant", "user")
            messages = [{"role": role, "content": mark} for role, mark in zip(roles, _MARKS, strict=True)]
            whole = str(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
            if all(whole.count(mark) == 1 for mark in _MARKS):
                opening, rest = whole.split(_MARKS[0])
                rest, answer = rest.split(_MARKS[2])
                return opening, answer, rest.split(_MARKS[1])[1], ""
        return _STOP.lstrip() + " ", "\nAssistant:", _STOP + " ", _STOP

    def say(
        self,
        text: str,
        *,
        notes: Sequence[str] = (),
        max_new_tokens: int = 256,
        on_text: Callable[[str], None] | None = None,
        **generation: Any,
    ) -> Turn:
        """The model's answer to a message.

        Args:
            notes: lines that are shown to the model above the message.
            on_text: called with each new piece of the answer.
            generation: further arguments of `model.generate`.

        Raises:
            InputError: the message is empty.
        """
        if not text.strip():
            raise InputError("the message is empty")
        reader, state = self.reader, self._state
        reader._open()
        shown = "\n".join(["Notes from memory:", *(f"- {note}" for note in notes), "", text]) if notes else text
        before = self._opening if state["turns"] == 0 else self._next if state["next"] is None else state["next"]
        ids = [*state["unread"], *reader.encode(f"{before}{shown}{self._answer}")]
        seen = reader.seen
        teller = _Teller(self._tokenizer, self._stop, on_text)
        tokens = torch.tensor([ids], device=reader.family.device)
        pad = self._tokenizer.pad_token_id
        settings = {"do_sample": False, "pad_token_id": 0 if pad is None else pad, **generation}
        interrupted = False
        try:
            reader.system.turn(reader.cache)
            reader.model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=max_new_tokens,
                streamer=teller,
                stopping_criteria=StoppingCriteriaList([teller.stopped]),
                **settings,
            )
        except KeyboardInterrupt:
            interrupted = True
        reader._open()
        unread = [*ids, *teller.ids][reader.seen - seen :]
        following = None
        if teller.cut:
            following = self._next.removeprefix(self._stop)
        elif unread and reader.encode(self._next)[0] == unread[-1]:
            unread.pop()  # the end of the answer, with which the next message's frame begins
        # Not setdefault's dictionary: the cache may be another one by now.
        reader.cache.notes["conversation"] = {"turns": state["turns"] + 1, "unread": unread, "next": following}
        teller.end()
        ended = "interrupted" if interrupted else "length" if len(teller.ids) >= max_new_tokens else "end"
        return Turn(answer=teller.text.strip(), ended=ended, read=len(ids), written=len(teller.ids))


class _Teller:
    """A streamer of `generate`: text in whole characters, nothing from the stop word on."""

    def __init__(self, tokenizer: Any, stop: str, on_text: Callable[[str], None] | None) -> None:
        self._tokenizer, self._stop, self._on_text = tokenizer, stop, on_text
        self.ids: list[int] = []
        self.text, self.cut = "", False
        self._prompted, self._told = False, 0

    def put(self, value: torch.Tensor) -> None:
        """Tokens; the first call brings the prompt."""
        if not self._prompted:
            self._prompted = True
            return
        self.ids += value.reshape(-1).tolist()
        text = str(self._tokenizer.decode(self.ids, skip_special_tokens=True))
        if self._stop and self._stop in text:
            text, self.cut = text.partition(self._stop)[0], True
        self.text = text
        self._tell(self._safe(text))

    def _safe(self, text: str) -> int:
        """How many characters can be told: no half character, and nothing that may become the stop word."""
        size = len(text.rstrip("\ufffd"))
        for begun in range(min(len(self._stop), size), 0, -1):
            if not self.cut and text[:size].endswith(self._stop[:begun]):
                return size - begun
        return size

    def _tell(self, size: int) -> None:
        if self._on_text is not None and size > self._told:
            self._on_text(self.text[self._told : size])
        self._told = max(self._told, size)

    def end(self) -> None:
        """Tell the rest."""
        self._tell(len(self.text))

    def stopped(self, tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Whether the stop word was said; asked after the newest token was put."""
        return torch.tensor([self.cut], device=tokens.device)
