"""`SymbolMemory`: define, look up, page in and call symbols, over a memory that keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from memspan.core.errors import InputError
from memspan.longterm.amadeusgpt import rows
from memspan.longterm.amadeusgpt.behaviour import Behaviour, evaluate, helpers_of, program_of, read_behaviour
from memspan.longterm.amadeusgpt.errors import CodeNotAllowedError
from memspan.longterm.amadeusgpt.grammar import Parsed, definitions, key_of, parse
from memspan.longterm.amadeusgpt.kinematics import Pose
from memspan.longterm.amadeusgpt.organizer import AmadeusGpt
from memspan.longterm.amadeusgpt.programs import Program, function_name, program_in, read_program
from memspan.longterm.amadeusgpt.sandbox import Sandbox
from memspan.longterm.amadeusgpt.table import Definition, Paged, Symbol, SymbolTable
from memspan.longterm.base import Episode, Recollection
from memspan.longterm.memory import Memory

if TYPE_CHECKING:
    from memspan.models.base import Embedder


@dataclass(slots=True, kw_only=True)
class Pending:
    """A message that was begun and not yet committed: nothing is defined before that.

    Attributes:
        parsed: its symbols.
        program: the function in the message, None without one.
        texts: key -> the definition that a commit would store.
    """

    parsed: Parsed
    program: Program | None
    texts: dict[str, str]
    done: bool = field(default=False, repr=False)

    @property
    def message(self) -> str:
        """The user's words."""
        return self.parsed.text


class SymbolMemory:
    """Named, versioned definitions that refer to each other.

    Everything is kept in a `Memory` with the organizer "amadeusgpt": a definition is an episode, on the disk when
    `commit` returns; its versions can be undone, and forgotten for good.

    Args:
        path: the store's file; None keeps it in RAM.
        embedder: for `suggest` and `modules`, as in `Memory.open`; None uses words alone.
        space: the tenant.
        memory: a memory to use in place of `path`; it is not closed with this object.

    Raises:
        InputError: the memory has another organizer.

    Example:
        >>> with SymbolMemory() as symbols:
        ...     _ = symbols.define("<|chases|> is distance < 40 px and speed > 2")
        ...     _ = symbols.define("<|chases|> is <chases> but faster than 3")
        ...     print(symbols["Chases"].current.number, [page.label for page in symbols.page("Show <chases>.")])
        2 ['<chases>, version 1', '<chases>']
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        embedder: str | Embedder | None = None,
        space: str = "default",
        memory: Memory | None = None,
    ) -> None:
        self._own = memory is None
        self.memory = memory or Memory.open(
            ":memory:" if path is None else path, organizer="amadeusgpt", embedder=embedder, space=space
        )
        if not isinstance(self.memory.organizer, AmadeusGpt):
            raise InputError(
                f"the {self.memory.organizer.name} organizer keeps no symbols; open the memory with"
                " organizer='amadeusgpt'"
            )
        self.space = space if memory is None else memory.space
        self._table: tuple[tuple[int, int], SymbolTable] | None = None

    # --- look up ---

    @property
    def table(self) -> SymbolTable:
        """All symbols, as they are stored now; other processes' commits are seen too."""
        store = self.memory.store
        with store.lock:
            state = (store.connection.execute("PRAGMA data_version").fetchone()[0], store.connection.total_changes)
            if self._table is None or self._table[0] != state:
                with store.read(self.memory._now(), self.space) as tx:
                    self._table = (state, rows.load_table(tx))
            return self._table[1]

    def __getitem__(self, name: str) -> Symbol:
        """A symbol; a KeyError is raised for an unknown name."""
        return self.table.symbols[key_of(name)]

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and key_of(name) in self.table
        except InputError:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(symbol.name for symbol in self.table.symbols.values())

    def __len__(self) -> int:
        return len(self.table.symbols)

    def parse(self, message: str) -> Parsed:
        """The symbols in a message."""
        return parse(message, self.table)

    def page(self, message: str) -> list[Paged]:
        """What a message refers to with all that it rests on, what others need first.

        Raises:
            CycleError: definitions use each other in a circle.
        """
        return self.pages_of(self.parse(message))

    def pages_of(self, parsed: Parsed) -> list[Paged]:
        """The same for a message that was read; a name that it defines itself means the version before."""
        table = self.table
        return table.closure(mark.key for mark in parsed.references if mark.key in table)

    def suggest(self, text: str, k: int = 3) -> list[Recollection]:
        """Symbols for words without brackets ("the chasing thing"), by words and, with an embedder, meaning."""
        return self.memory.recall(text, k, kinds=["symbol"], space=self.space)

    # --- define ---

    def begin(self, message: str, program: str | Program | None = None) -> Pending:
        """Read a message; nothing is stored before `commit`.

        Args:
            message: the user's words.
            program: a function to attach; None takes the first fenced block of Python, if it is one.

        Raises:
            InputError: the program is no program, or it fits none of several symbols.
            CycleError: a definition would close a circle.
        """
        parsed = self.parse(message)
        pending = Pending(parsed=parsed, program=self._program(parsed, program), texts=definitions(parsed))
        self._check(pending)
        return pending

    def commit(
        self,
        pending: Pending,
        ok: bool = True,
        *,
        program: str | Program | None = None,
        speaker: str | None = None,
        session: str | None = None,
        at: datetime | None = None,
    ) -> list[Symbol]:
        """Store what the message defines, if its turn went well.

        Args:
            pending: what `begin` gave; it can be committed once.
            ok: False drops it: a turn that failed defines nothing, now or later.
            program: the function that the turn brought forth, in place of the message's.
            speaker, session, at: of the episode.

        Returns:
            The symbols that have a new version.

        Raises:
            InputError: it was committed before, or the program cannot be used.
            CycleError: something was defined in between that makes a circle of it.
        """
        if pending.done:
            raise InputError("this message was committed before; begin it again")
        chosen = pending.program if program is None else self._program(pending.parsed, program)
        if ok:
            self._check(pending)
        pending.done = True
        if not ok or not pending.texts:
            return []
        metadata = {} if chosen is None else {"program": self._descended(chosen, pending).to_json()}
        self.memory.add(Episode(pending.message, speaker, at, session, metadata=metadata), space=self.space)
        return [self.table.symbols[key] for key in pending.texts]

    def define(self, message: str, program: str | Program | None = None) -> list[Symbol]:
        """`begin` and `commit` in one.

        Raises:
            InputError: the message defines nothing.
        """
        pending = self.begin(message, program)
        if not pending.texts:
            wrong = f"; {pending.parsed.malformed[0]!r} is no name" if pending.parsed.malformed else ""
            raise InputError(f"the message defines no symbol: write it as <|name|>{wrong}")
        return self.commit(pending)

    def undo(self, name: str) -> Symbol | None:
        """Take the last version of a symbol back; returns what is left of it."""
        key = key_of(name)
        logged = self.memory.changes(key, kind="symbol", space=self.space)
        if not logged:
            raise InputError(f"<{name}> is not defined, so nothing can be undone")
        self.memory.undo(logged[-1].id, space=self.space)
        return self.table.symbols.get(key)

    def forget(self, name: str) -> int:
        """Erase a symbol with all episodes that define it, from rows, log and bytes; returns how many those were."""
        symbol = self.known(name)
        episodes = list(dict.fromkeys(version.episode for version in symbol.versions))
        return self.memory.forget(episodes, space=self.space).episodes

    def known(self, name: str) -> Symbol:
        """A symbol.

        Raises:
            InputError: it is not defined; the message names those like it.
        """
        key = key_of(name)
        if key not in self.table:
            near = [hit.metadata["name"] for hit in self.suggest(name, 3)] or list(self)[:5]
            told = f"; those like it: {', '.join(f'<{other}>' for other in near)}" if near else ""
            raise InputError(f"<{name}> is not defined: define it with <|{name}|>{told}")
        return self.table.symbols[key]

    def _descended(self, program: Program, pending: Pending) -> Program:
        """With the program that it takes the place of as its parent, unless it names others."""
        old = [self.table.symbols[key].program for key in pending.texts if key in self.table]
        before = [one for one in old if one is not None and one.source != program.source]
        if program.parents or not before:
            return program
        generation = 1 + max(one.generation for one in before)
        return replace(program, parents=tuple(one.id for one in before), generation=generation)

    @staticmethod
    def _program(parsed: Parsed, given: str | Program | None) -> Program | None:
        if isinstance(given, Program):
            program: Program | None = given
        elif given is not None:
            program = read_program(given)
        else:
            source = program_in(parsed.text)
            try:
                return read_program(source) if source is not None and parsed.defined else None
            except InputError:  # code that somebody shows need not be a program
                return None
        assert program is not None
        names = {function_name(mark.key) for mark in parsed.defined}
        if len(names) > 1 and program.name.casefold() not in names:
            raise InputError(f"the function {program.name} has the name of none of {', '.join(sorted(names))}")
        return program

    def _check(self, pending: Pending) -> None:
        new = [Definition(name=key, number=0, text=text) for key, text in pending.texts.items()]
        self.table.with_definitions(new, list(pending.texts)).closure(pending.texts)

    # --- the library ---

    def add_module(self, name: str, text: str, program: str | Program | None = None) -> None:
        """Add an entry to the library: documentation, and a program where there is one."""
        told: dict[str, Any] = {"module": name}
        if program is not None:
            told["program"] = (read_program(program) if isinstance(program, str) else program).to_json()
        self.memory.add(Episode(text, metadata=told), space=self.space)

    def modules(self, request: str, k: int | None = None) -> list[Recollection]:
        """Entries of the library whose documentation fits a request, best first; by default the paper's three."""
        assert isinstance(self.memory.organizer, AmadeusGpt)
        count = self.memory.organizer.config.modules if k is None else k
        return self.memory.recall(request, count, kinds=["program"], space=self.space)

    # --- call ---

    def program(self, name: str, version: int | None = None) -> Program:
        """The program behind a symbol: the stored one, else the one that the rules read from its definition.

        Args:
            name: the symbol.
            version: its number; None is the current one.

        Raises:
            InputError: no such symbol or version, or the rules cannot read it.
        """
        return program_of(self.table, self._place(name, version))

    def behaviour(self, name: str, version: int | None = None) -> Behaviour:
        """What the rules read from a definition; `.program` where a stored program stands in its place."""
        return read_behaviour(self.table, self._place(name, version))

    def call(
        self,
        name: str,
        data: Any,
        *,
        version: int | None = None,
        allow_code: bool = False,
        sandbox: Sandbox | None = None,
    ) -> Any:
        """What a symbol means for data.

        On a `Pose`, a definition in words is evaluated here and gives a mask: [T, A] or [T, A, A]. A stored program
        runs in the sandbox, on any data, if that is allowed.

        Args:
            name: the symbol.
            data: a `Pose`; for stored programs also numbers, text, lists, mappings, arrays.
            version: its number; None is the current one.
            allow_code: stored programs may run.
            sandbox: with limits of your own.

        Raises:
            CodeNotAllowedError: a stored program would have to run and may not.
            InputError: no such symbol or version, or its definition cannot be read.
            ProgramError, SandboxError: see `Sandbox.run`.
        """
        table, place = self.table, self._place(name, version)
        stored = table.at(place).program
        if stored is not None and stored.creator != "rules" and not isinstance(data, Pose):
            if not allow_code:
                raise CodeNotAllowedError(f"the program of <{name}>")
            helpers = helpers_of(table, place)
            return (sandbox or Sandbox()).run(stored, data, helpers=helpers, allow_code=True).value
        if not isinstance(data, Pose):
            raise InputError(f"<{name}> has no program of its own, so it can be called on a Pose only")
        behaviour = read_behaviour(table, place)
        if behaviour.program is not None:
            helpers = helpers_of(table, place)
            return self._runner(data, allow_code, sandbox)(behaviour.program, helpers)
        return evaluate(table, behaviour, data, self._runner(data, allow_code, sandbox))

    def _runner(self, pose: Pose, allow_code: bool, sandbox: Sandbox | None) -> Any:
        def run(program: Program, helpers: Sequence[Program]) -> Any:
            return (sandbox or Sandbox()).run(program, pose, helpers=helpers, allow_code=allow_code).value

        return run

    def _place(self, name: str, version: int | None) -> tuple[str, int]:
        symbol = self.known(name)
        if version is None:
            return self.table.current(symbol.key)
        for position, one in enumerate(symbol.versions):
            if one.number == version:
                return symbol.key, position
        numbers = ", ".join(str(one.number) for one in symbol.versions)
        raise InputError(f"<{name}> has no version {version}; there are {numbers}")

    # --- keep ---

    def save(self, path: str | Path) -> int:
        """Write all symbols with their versions as JSON; returns how many. (The store itself needs no saving.)"""
        symbols = {
            symbol.name: [version.to_json() for version in symbol.versions] for symbol in self.table.symbols.values()
        }
        try:
            Path(path).write_text(json.dumps(symbols, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from None
        return len(symbols)

    def close(self) -> None:
        """Close the memory, unless it was given."""
        if self._own:
            self.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
