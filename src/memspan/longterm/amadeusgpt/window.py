"""`ContextWindow`: the short-term half of the dual memory, a bounded chat that pages definitions in when used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from memspan.core.errors import BudgetError, InputError
from memspan.longterm.amadeusgpt.grammar import plain
from memspan.longterm.amadeusgpt.programs import Program
from memspan.longterm.amadeusgpt.symbols import Pending, SymbolMemory
from memspan.longterm.amadeusgpt.table import Paged, Symbol

Message = dict[str, str]
_STUB_WORDS = 8  # words of a definition that its stub keeps


@dataclass(frozen=True, slots=True)
class Exchange:
    """A message and its answer.

    Attributes:
        user, assistant: the texts.
        ok: False of a turn that failed; it stays, with a note, so that the model does not imitate it.
        defines: ids of the definitions (name, text and program) that this exchange made and that can be read in it.
    """

    user: str
    assistant: str
    ok: bool = True
    defines: frozenset[str] = frozenset()


class Prepared(list[Message]):
    """Messages for a chat model.

    Attributes:
        tokens: of all messages, as the window counts them.
        paged: definitions that were put in front of the message.
        stubs: names of those that were shortened to one line because the budget is small.
        unresolved: names in brackets that are not known; they are plain text.
        evicted: exchanges that left the window for this message.
    """

    tokens: int = 0
    paged: tuple[Paged, ...] = ()
    stubs: tuple[str, ...] = ()
    unresolved: tuple[str, ...] = ()
    evicted: tuple[Exchange, ...] = ()


class ContextWindow:
    """A chat that stays under a budget of tokens and loses no definition.

    Whole exchanges leave the window, oldest first; the system message and the message at hand never do. Definitions
    that the message refers to, and that cannot be read in the window, are put in front of it; when they do not fit,
    those used least recently become one-line stubs.

    Args:
        budget: most tokens of all messages together.
        counter: tokens of a text.
        symbols: the long-term half.
        system: the system message, "" for none.
        overhead: tokens that the chat format adds to every message.
        reserve: tokens kept free for the answer.

    Raises:
        InputError: a number that cannot be.
        BudgetError: the system message alone does not fit.
    """

    def __init__(
        self,
        budget: int,
        counter: Callable[[str], int],
        symbols: SymbolMemory,
        *,
        system: str = "",
        overhead: int = 0,
        reserve: int = 0,
    ) -> None:
        if budget < 1 or overhead < 0 or reserve < 0:
            raise InputError("budget must be at least 1, overhead and reserve at least 0")
        self.budget = budget
        self.symbols = symbols
        self.system = system
        self.exchanges: list[Exchange] = []
        self._counter = counter
        self._overhead = overhead
        self._room = budget - reserve
        self._pending: Pending | None = None
        self._clock = 0
        self._used: dict[str, int] = {}
        self._counted: dict[Exchange, int] = {}
        if self._fixed() > self._room:
            raise self._too_much("the system message", self._fixed())

    def prepare(self, message: str, program: str | Program | None = None) -> Prepared:
        """The messages to send for a new message of the user.

        Args:
            message: the user's words.
            program: see `SymbolMemory.begin`.

        Raises:
            InputError: the last message was not committed.
            CycleError: a definition is or would be in a circle.
            BudgetError: message and definitions do not fit, even as stubs and with nothing else.
        """
        if self._pending is not None:
            raise InputError(
                "the message before this one was not committed: call commit(answer) or commit('', ok=False)"
            )
        pending = self.symbols.begin(message, program)
        needed = self.symbols.pages_of(pending.parsed)
        self._clock += 1
        kept = list(self.exchanges)
        sizes = [self._size_of(exchange) for exchange in kept]
        fixed, held = self._fixed(), sum(sizes)
        evicted = 0
        while True:
            visible = {one for exchange in kept[evicted:] for one in exchange.defines}
            missing = [page for page in needed if page.definition.id not in visible]
            text = _with_definitions(missing, frozenset(), pending.message)
            total = fixed + held + self._size(text)
            if total <= self._room or evicted == len(kept):
                break
            held -= sizes[evicted]
            evicted += 1
        stubs: set[str] = set()
        if total > self._room:
            for page in missing:
                alone = fixed + self._size(_with_definitions([page], frozenset(), pending.message))
                if not page.used_by and alone > self._room:
                    raise self._too_much(f"the definition of {page.label} with the message", alone)
            text, stubs, total = self._shortened(missing, pending.message, fixed)
        self.exchanges = kept[evicted:]
        self._pending = pending
        for page in needed:
            self._used[page.definition.id] = self._clock
        prepared = Prepared(self._messages(text))
        prepared.tokens = total
        prepared.paged = tuple(missing)
        prepared.stubs = tuple(page.definition.name for page in missing if page.definition.id in stubs)
        prepared.unresolved = pending.parsed.unresolved
        prepared.evicted = tuple(kept[:evicted])
        return prepared

    def commit(
        self, answer: str, ok: bool = True, *, program: str | Program | None = None, error: str = "", **about: Any
    ) -> list[Symbol]:
        """End the turn: the exchange enters the window, and what the message defines is stored if it went well.

        Args:
            answer: the model's.
            ok: False of a turn that failed: nothing is defined, and the exchange keeps a note that it was wrong.
            program: the function that the turn brought forth; see `SymbolMemory.commit`.
            error: what went wrong, for the note.
            about: `speaker`, `session` and `at` of the stored episode.

        Raises:
            InputError: no message was prepared, or the program cannot be used; the turn can be committed again.
        """
        if self._pending is None:
            raise InputError("no message was prepared")
        pending = self._pending
        made = self.symbols.commit(pending, ok, program=program, **about)
        self._pending = None
        if not ok:
            note = " ".join(f"This answer was wrong and must not be repeated. {error}".split())
            answer = f"{answer}\n[{note}]".strip()
        for symbol in made:
            self._used[symbol.current.id] = self._clock
        # What the exchange says of a definition is its text; a program can be read there only if the message holds it.
        defines = frozenset(
            symbol.current.id
            for symbol in made
            if symbol.program is None or symbol.program.source.strip() in pending.message
        )
        self.exchanges.append(Exchange(pending.message, answer, ok, defines))
        return made

    def clear(self) -> None:
        """Empty the window; what was defined stays."""
        self.exchanges.clear()
        self._counted.clear()
        self._pending = None

    @property
    def tokens(self) -> int:
        """Of the system message and all exchanges."""
        return self._fixed() + sum(map(self._size_of, self.exchanges))

    def _messages(self, text: str) -> list[Message]:
        head = [{"role": "system", "content": self.system}] if self.system else []
        for exchange in self.exchanges:
            head.append({"role": "user", "content": exchange.user})
            head.append({"role": "assistant", "content": exchange.assistant})
        return [*head, {"role": "user", "content": text}]

    def _shortened(self, missing: Sequence[Paged], message: str, fixed: int) -> tuple[str, set[str], int]:
        """Stubs for the definitions used least recently, until the rest fits."""
        # Among equals what others rest on goes first: it stands first.
        order = sorted(missing, key=lambda page: self._used.get(page.definition.id, 0))
        stubs: set[str] = set()
        for page in order:
            stubs.add(page.definition.id)
            text = _with_definitions(missing, stubs, message)
            total = fixed + self._size(text)
            if total <= self._room:
                return text, stubs, total
        alone = fixed + self._size(message)
        if alone > self._room:
            raise self._too_much("the message with the system message", alone)
        raise self._too_much("the message with its definitions as stubs", total if order else alone)

    def _too_much(self, what: str, needed: int) -> BudgetError:
        advice = "raise budget, shorten the message, or name fewer symbols in it"
        return BudgetError(what, needed=needed, allowed=self._room, advice=advice, unit="tokens")

    def _size(self, text: str) -> int:
        return self._counter(text) + self._overhead

    def _size_of(self, exchange: Exchange) -> int:
        if exchange not in self._counted:
            self._counted[exchange] = self._size(exchange.user) + self._size(exchange.assistant)
        return self._counted[exchange]

    def _fixed(self) -> int:
        return self._size(self.system) if self.system else 0


def _with_definitions(pages: Sequence[Paged], stubs: set[str] | frozenset[str], message: str) -> str:
    """The message behind the definitions that it needs."""
    if not pages:
        return message
    lines = ["Definitions:"]
    for page in pages:
        # A current definition holds its own mark; an earlier version has to be told apart.
        full = page.definition.text if page.current else f"{page.label}: {page.definition.text}"
        lines.append(_stub(page) if page.definition.id in stubs else full)
        program = page.definition.program
        if (
            program is not None
            and page.definition.id not in stubs
            and program.source.strip() not in page.definition.text
        ):
            lines.append(f"```python\n{program.source}```")
    return "\n".join([*lines, "", message])


def _stub(page: Paged) -> str:
    words = plain(page.definition.text).split()
    return f"{page.label}: (shortened) {' '.join(words[:_STUB_WORDS])}{' …' if len(words) > _STUB_WORDS else ''}"
