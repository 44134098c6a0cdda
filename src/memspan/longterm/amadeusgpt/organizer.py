"""The organizer: episodes with `<|name|>` become symbols, episodes with a program or a module become a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memspan.core.errors import InputError
from memspan.longterm.amadeusgpt import rows
from memspan.longterm.amadeusgpt import search as searching
from memspan.longterm.amadeusgpt.config import AmadeusGptConfig
from memspan.longterm.amadeusgpt.errors import CycleError
from memspan.longterm.amadeusgpt.grammar import definitions, key_of, parse
from memspan.longterm.amadeusgpt.programs import Program, function_name, program_in, read_program
from memspan.longterm.amadeusgpt.table import Definition, SymbolTable
from memspan.longterm.base import Episode, Organizer, Recollection, Scribe
from memspan.longterm.clock import to_micros
from memspan.longterm.prompts import Writer
from memspan.longterm.recall import Search
from memspan.longterm.store import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What an episode defines.

    Attributes:
        symbols: (name, definition) pairs, in order.
        programs: the program of each symbol, None where there is none.
        module: name of a library entry that the episode documents, "" for none.
        library: the program of a library entry, None for documentation alone.
    """

    symbols: tuple[tuple[str, str], ...] = ()
    programs: tuple[Program | None, ...] = ()
    module: str = ""
    library: Program | None = None


def read_episode(episode: Episode, where: str = "the episode") -> Told:
    """The definitions in an episode's text and metadata.

    Raises:
        InputError: the metadata holds a program or a module that cannot be used.
    """
    told = episode.metadata if isinstance(episode.metadata, Mapping) else {}
    if told.get("ok") is False:  # a turn that failed defines nothing
        return Told()
    try:
        program = _program(told, episode.text)
        module = told.get("module", "")
        if not isinstance(module, str):
            raise InputError("module must be a name")
    except InputError as error:
        raise InputError(f"{where} brings a program or a module, but {error}") from None
    parsed = parse(episode.text)
    parts = definitions(parsed)
    symbols = tuple((mark.name, parts[mark.key]) for mark in parsed.defined)
    if symbols:
        keys = [function_name(key_of(name)) for name, _ in symbols]
        own = [
            program if program is not None and (len(keys) == 1 or program.name.casefold() == key) else None
            for key in keys
        ]
        return Told(symbols=symbols, programs=tuple(own))
    named = told.get("program") is not None and program is not None
    if named:
        assert program is not None
        return Told(module=module.strip() or program.name, library=program)
    return Told(module=module.strip())


def _program(told: Mapping[str, Any], text: str) -> Program | None:
    """The program of the metadata, else a fenced block of the text that is one."""
    given = told.get("program")
    if isinstance(given, Mapping):
        return Program.from_json(given)
    if given is not None:
        return read_program(given)
    source = program_in(text) if "<|" in text else None
    try:
        return read_program(source) if source is not None else None
    except InputError:  # code that somebody shows need not be a program
        return None


class AmadeusGpt(Organizer):
    """Symbols as context pointers: what is defined once as `<|name|>` is paged in wherever `<name>` stands.

    An episode whose text holds `<|name|>` defines the name: the text is the definition, a Python function in a fenced
    block or in the metadata's "program" is its program (kept, never run here). Metadata "ok": false marks a turn that
    failed and defines nothing. An episode with "program" and no symbol, or with "module" (a name; the text documents
    it), is an entry of the library. Other episodes are kept as they are. A definition that would close a circle is
    not taken; its episode stays.

    Args:
        scribe: "rules" (default; definitions need no language decision), or "model", "model:SPEC", "endpoint:…", or an
            object with a language model in `.model`, which then writes programs (see `SymbolMemory.write`).
        config: constants.

    Example:
        >>> from memspan import Episode, Memory
        >>> with Memory.open(":memory:", organizer="amadeusgpt", embedder=None) as memory:
        ...     _ = memory.add(Episode("<|chases|> is distance < 40 px and speed > 2.", id="d1"))
        ...     _ = memory.add(Episode("<|hunts|> is <chases> for at least 2 s.", id="d2"))
        ...     [(hit.id, hit.episodes) for hit in memory.recall("Who <hunts> whom?", kinds=["symbol"])]
        [('hunts', ['d2']), ('chases', ['d1'])]
    """

    name = "amadeusgpt"
    kinds = ("symbol", "program")
    Config = AmadeusGptConfig

    def __init__(self, scribe: str | Scribe = "rules", config: AmadeusGptConfig | None = None) -> None:
        self.config = config or AmadeusGptConfig()
        self._scribe = scribe
        self._model: Writer | None = None

    @property
    def model(self) -> Writer | None:
        """What writes programs; None with rules. Loaded when it is first asked for."""
        if self._model is None and not (isinstance(self._scribe, str) and self._scribe.partition(":")[0] == "rules"):
            from memspan.longterm.scribe import load_scribe

            scribe = load_scribe(self._scribe) if isinstance(self._scribe, str) else self._scribe
            model = getattr(scribe, "model", None)
            self._model = model if isinstance(model, Writer) else None
        return self._model

    # --- add ---

    def prepare(self, episodes: Sequence[Episode], context: Sequence[Episode]) -> Sequence[Told]:
        """What each episode defines; all are checked before the store is locked."""
        return [read_episode(episode, f"episode {position}") for position, episode in enumerate(episodes)]

    def on_add(self, tx: Transaction, episodes: Sequence[tuple[int, Episode, Any]]) -> None:
        """Give every symbol that is defined a new version."""
        wanted = [(record, told) for record, _, told in episodes if told.symbols or told.module]
        found = tx.records([record for record, _ in wanted])
        table = rows.load_table(tx) if any(told.symbols for _, told in wanted) else SymbolTable({})
        for record, told in wanted:
            uid, at = found[record]["uid"], found[record]["at"]
            if told.module:
                text = found[record]["text"]
                if told.library is not None:
                    text = " ".join((told.library.signature, told.library.docstring or text))
                rows.define(tx, "program", told.module, text, told.library, record, uid, at)
            after = self._after(table, told)
            if after is not None:
                table = after
                for (name, text), program in zip(told.symbols, told.programs, strict=True):
                    rows.define(tx, "symbol", name, text, program, record, uid, at)

    @staticmethod
    def _after(table: SymbolTable, told: Told) -> SymbolTable | None:
        """The table with what an episode defines; None when it defines nothing, or would close a circle."""
        if not told.symbols:
            return None
        new = [Definition(name=name, number=0, text=text) for name, text in told.symbols]
        keys = [key_of(name) for name, _ in told.symbols]
        after = table.with_definitions(new, keys)
        try:
            after.closure(keys)
        except CycleError:
            return None
        return after

    # --- undo, forget, maintain ---

    def on_undo(self, tx: Transaction, records: Sequence[int]) -> None:
        """Text and sources follow the version that holds again; without one the symbol is gone."""
        for record in records:
            rows.settle(tx, record)

    def on_forget(self, tx: Transaction, touched: Sequence[int]) -> None:
        """Versions that forgotten episodes defined are gone already; text and sources follow."""
        for record in touched:
            rows.settle(tx, record)

    def maintain(self, tx: Transaction, now: datetime, *, prune: bool = False) -> dict[str, int]:
        """Counts; there is nothing to tidy, and versions are kept."""
        return {name: value for name, value in self.stats(tx).items() if isinstance(value, int)}

    def stats(self, tx: Transaction) -> dict[str, Any]:
        """Counts of symbols, their versions and programs, and what is wrong with any of them.

        "not_taken" counts episodes that would define a symbol and do not: marked as failed, undone, or in a circle.
        """
        table = rows.load_table(tx)
        library = rows.load_table(tx, kind="program")
        circles = 0
        for key in table.symbols:
            try:
                table.closure([key])
            except CycleError:
                circles += 1
        taken = {version.episode for symbol in table.symbols.values() for version in symbol.versions}
        told = tx.execute(
            "SELECT uid, text FROM record WHERE space = ? AND kind = 'episode' AND text LIKE '%<|%|>%'", (tx.space_id,)
        ).fetchall()
        return {
            "symbols": len(table.symbols),
            "versions": sum(len(symbol.versions) for symbol in table.symbols.values()),
            "programs": sum(symbol.program is not None for symbol in table.symbols.values()),
            "library": len(library.symbols),
            "in_circles": circles,
            "not_taken": sum(uid not in taken and bool(parse(text).defined) for uid, text in told),
        }

    # --- recall ---

    def recall(self, search: Search) -> list[Recollection]:
        """The symbols that the query names with all that they rest on, then like ones; the library by docstring."""
        found: list[Recollection] = []
        if "symbol" in search.query.kinds:
            found += searching.symbols(search)
        if "program" in search.query.kinds:
            found += searching.programs(search, self.config.least_cosine)
        return sorted(found, key=lambda hit: -hit.score)[: search.query.k]

    def episode_bonus(self, search: Search) -> dict[int, tuple[float, str]]:
        """Episodes that define what the question names, or what that rests on, are read first."""
        if "<" not in search.query.text:
            return {}
        return searching.defining_episodes(search, self.config.definition_bonus)

    def history(
        self,
        tx: Transaction,
        subject: str,
        relation: str | None,
        as_of: datetime | None,
        believed_at: datetime | None,
    ) -> list[Recollection]:
        """Every version of a symbol, oldest first.

        Raises:
            InputError: `relation` is given, or the subject is no symbol's name.
        """
        if relation is not None:
            raise InputError("a symbol has versions and no relations; leave relation out")
        table = rows.load_table(tx, as_of=to_micros(as_of), believed_at=to_micros(believed_at))
        key = key_of(subject.strip("<|>"))
        if key not in table:
            return []
        versions = table.symbols[key].versions
        return [
            searching.recollection(table, (key, place), score=0.0, why="history")
            for place, version in enumerate(versions)
        ]
