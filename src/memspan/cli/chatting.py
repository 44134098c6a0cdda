"""`memspan chat`: a chat that never ends, in the terminal or over a pipe."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memspan.core.budget import Budget, format_bytes
from memspan.core.errors import InputError, MemspanError

if TYPE_CHECKING:
    from memspan.context.conversation import Conversation
    from memspan.context.reader import Reader
    from memspan.longterm.base import Recollection
    from memspan.longterm.memory import Memory

HELP = """\
/bytes    what the chat holds, by tier
/slots    the tokens that are kept, and why
/save     write the context to the resume file, or to another: /save FILE
/quit     end (so does the end of the input)
/help     this"""


def add_options(sub: argparse.ArgumentParser) -> None:
    """The options of `chat`."""
    sub.add_argument(
        "--context", default="sirllm", metavar="SLUG", help="sirllm (default), lm-infinite, window, full, …"
    )
    sub.add_argument("--budget", default="64MiB", metavar="BYTES", help="bytes of the context (default: 64MiB)")
    sub.add_argument("--model", default="bundled", metavar="SPEC", help="bundled, a Hugging Face id, or a path")
    sub.add_argument(
        "--resume", metavar="FILE", help="go on from this file where it exists; written after every turn and on Ctrl-C"
    )
    sub.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="of an answer (default: 256)")
    sub.add_argument(
        "--recall", type=int, default=3, metavar="N", help="memories shown to the model each turn (default: 3)"
    )


def chat(options: argparse.Namespace) -> int:
    """`memspan chat`: talk until the input ends."""
    if options.max_new_tokens < 1:
        raise InputError("--max-new-tokens must be at least 1")
    if options.recall < 0:
        raise InputError("--recall must be at least 0")
    budget = Budget.parse(options.budget)

    from memspan.cli.verbs import _memory
    from memspan.context.conversation import Conversation
    from memspan.context.reader import open_reader
    from memspan.models import load_language_model

    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(_memory(options, create=True)) if options.store else None
        model = load_language_model(options.model)
        reader = stack.enter_context(open_reader(options.context, model, budget=budget))
        if options.resume and Path(options.resume).expanduser().exists():
            reader.load(options.resume)
        talk = _Talk(options, Conversation(reader), memory, budget)
        if talk.conversation.turns:
            talk.note(f"going on after turn {talk.conversation.turns}")
        return talk.run()


class _Talk:
    """One run of the command."""

    def __init__(
        self, options: argparse.Namespace, conversation: Conversation, memory: Memory | None, budget: Budget
    ) -> None:
        self.options, self.conversation, self.memory, self.budget = options, conversation, memory, budget
        self.reader: Reader = conversation.reader
        self.session = f"chat {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        self.said: list[str] = []  # ids of what was added in this run, which the context may still hold

    def note(self, text: str) -> None:
        """A line beside the chat."""
        if not self.options.quiet:
            print(f"memspan: {text}", file=sys.stderr, flush=True)

    def run(self) -> int:
        """Read lines and answer them; the exit code."""
        self.note("type a message, or /help")
        try:
            for line in self._lines():
                if line.startswith("/"):
                    if line == "/quit":
                        break
                    self._command(line)
                elif line.strip() and self._turn(line) == "interrupted" and not sys.stdin.isatty():
                    return 130
        except KeyboardInterrupt:
            self._save()
            print(file=sys.stderr)
            return 130
        return 0

    def _lines(self) -> Iterator[str]:
        while True:
            if sys.stdin.isatty():
                try:
                    line = input("you> ")
                except EOFError:
                    return
            else:
                line = sys.stdin.readline()
                if not line:
                    return
            yield line.rstrip("\r\n")

    # --- a turn ------------------------------------------------------------------------------------------------------

    def _turn(self, text: str) -> str:
        hits = self._recalled(text)
        notes = [f"{_origin(hit)}: {' '.join(hit.text.split())}" for hit in hits]
        for line in notes:
            self.note(f"recalled {line}")
        turn = self.conversation.say(
            text,
            notes=notes,
            max_new_tokens=self.options.max_new_tokens,
            on_text=None if self.options.json else lambda piece: print(piece, end="", flush=True),
        )
        held = self.reader.footprint().total
        if self.options.json:
            said = {"turn": self.conversation.turns, "text": text, "answer": turn.answer, "ended": turn.ended}
            count = {"tokens_read": self.reader.seen, "tokens_kept": self.reader.cache.tracks[0].n}
            recalled = [{"id": hit.id, "text": hit.text, "why": hit.why} for hit in hits]
            whole = {**said, **count, "context_bytes": held, "recalled": recalled}
            print(json.dumps(whole, ensure_ascii=False), flush=True)
        else:
            print(flush=True)
        self._remember(text, turn.answer)
        self.note(
            f"turn {self.conversation.turns}: {self.reader.seen:,} tokens read, {self.reader.cache.tracks[0].n:,} kept "
            f"in {held:,} bytes ({format_bytes(held)} of {format_bytes(self.budget.total)})"
        )
        self._save()
        return turn.ended

    def _recalled(self, text: str) -> list[Recollection]:
        if self.memory is None or self.options.recall == 0:
            return []
        latest = set(self.said[-4:])  # of the last two turns, which are in the context
        hits = self.memory.recall(text, k=self.options.recall + len(latest))
        return [hit for hit in hits if hit.id not in latest][: self.options.recall]

    def _remember(self, text: str, answer: str) -> None:
        if self.memory is None:
            return
        from memspan.longterm.base import Episode

        now = datetime.now(UTC)
        rows = [("user", text), ("assistant", answer)]
        episodes = [
            Episode(said, speaker=role, at=now, session=self.session, metadata={"role": role})
            for role, said in rows
            if said.strip()
        ]
        self.said += self.memory.add(episodes)

    # --- commands ----------------------------------------------------------------------------------------------------

    def _command(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        try:
            if word == "/help":
                print(HELP, flush=True)
            elif word == "/bytes":
                self._bytes()
            elif word == "/slots":
                for slot in self.reader.slots():
                    print(f"{slot.position:>9,}  {slot.score:8.3f}  {slot.age:>4}  {slot.reason:<12}  {slot.text!r}")
                sys.stdout.flush()
            elif word == "/save":
                target = rest.strip() or self.options.resume
                if not target:
                    raise InputError("say where: /save FILE")
                self.reader.save(target)
                print(f"saved in {target}", flush=True)
            else:
                raise InputError(f"there is no {word}; /help lists what there is")
        except MemspanError as error:
            print(f"memspan: {error}", file=sys.stderr, flush=True)

    def _bytes(self) -> None:
        model = self.reader.model
        weights = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
        rows: list[tuple[str, Any]] = [("weights", weights)]
        rows += self.reader.footprint().by_tier.items()
        if self.memory is not None:
            rows += [(f"store, {place}", held) for place, held in self.memory.footprint().by_place.items()]
        for name, held in rows:
            print(f"{name:<12}  {held:>15,}  {format_bytes(held)}")
        sys.stdout.flush()

    def _save(self) -> None:
        if self.options.resume and self.reader.seen:
            self.reader.save(self.options.resume)


def _origin(hit: Recollection) -> str:
    """Where a memory comes from: its id, speaker and day."""
    day = None if hit.valid_at is None else f"{hit.valid_at:%Y-%m-%d}"
    return f"[{', '.join(part for part in (hit.id, hit.speaker, day) if part)}]"
