"""Definitions and how they rest on each other. Pure: no store, no clock, no model.

A reference means the current version of its symbol, except inside that symbol's own definition, where it means the
version before: "<|x|> is <x> but …" changes x and is no circle. References are read from the text when they are asked
for, so that they always meet what is known now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memspan.longterm.amadeusgpt.errors import CycleError
from memspan.longterm.amadeusgpt.grammar import parse
from memspan.longterm.amadeusgpt.programs import Program

Place = tuple[str, int]
"""A version of a symbol: its key and the position in its list of versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One version of a symbol.

    Attributes:
        name: as the user wrote it.
        number: from 1, counted when it was defined.
        text: the definition, word for word.
        program: the function attached to it, None without one.
        episode: id of the episode that defines it.
        at: when it was said, microseconds; None when that is not known.
        recorded_at: when the store took it, microseconds.
    """

    name: str
    number: int
    text: str
    program: Program | None = None
    episode: str = ""
    at: int | None = None
    recorded_at: int = 0
    id: str = field(init=False)

    def __post_init__(self) -> None:
        """`id` is equal for equal name, text and program."""
        source = self.program.source if self.program else ""
        told = "\0".join((self.name.casefold(), self.text, source))
        object.__setattr__(self, "id", hashlib.sha256(told.encode()).hexdigest()[:16])

    def to_json(self) -> dict[str, Any]:
        """All but the id, as JSON types."""
        return {
            "number": self.number,
            "text": self.text,
            "program": self.program.to_json() if self.program else None,
            "episode": self.episode,
            "at": self.at,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol:
    """A name with its versions, oldest first; there is at least one."""

    key: str
    versions: tuple[Definition, ...]

    @property
    def name(self) -> str:
        """As it was written last."""
        return self.current.name

    @property
    def current(self) -> Definition:
        """The version that holds."""
        return self.versions[-1]

    @property
    def definition(self) -> str:
        """The current version's text."""
        return self.current.text

    @property
    def program(self) -> Program | None:
        """The current version's program."""
        return self.current.program


@dataclass(frozen=True, slots=True)
class Paged:
    """A definition that a reference pulls in.

    Attributes:
        place: which version of which symbol.
        definition: it.
        current: it is the version that holds; an older one is what a redefinition started from.
        used_by: the key of the symbol that pulled it in, "" when the message did.
    """

    place: Place
    definition: Definition
    current: bool
    used_by: str = ""

    @property
    def label(self) -> str:
        """How a prompt names it."""
        earlier = "" if self.current else f", version {self.definition.number}"
        return f"<{self.definition.name}>{earlier}"


@dataclass(frozen=True, slots=True)
class SymbolTable:
    """All symbols of a space by key."""

    symbols: Mapping[str, Symbol]

    def __len__(self) -> int:
        return len(self.symbols)

    def __iter__(self) -> Iterator[str]:
        return iter(self.symbols)

    def __contains__(self, key: object) -> bool:
        return key in self.symbols

    def at(self, place: Place) -> Definition:
        """The definition at a place."""
        return self.symbols[place[0]].versions[place[1]]

    def current(self, key: str) -> Place:
        """The place of the version that holds."""
        return key, len(self.symbols[key].versions) - 1

    def uses(self, place: Place) -> list[Place]:
        """What a version refers to, in the order of its text."""
        key, position = place
        found: list[Place] = []
        for mark in parse(self.at(place).text, self.symbols).references:
            if mark.key == key:
                if position > 0:
                    found.append((key, position - 1))
            elif mark.key in self.symbols:
                found.append(self.current(mark.key))
        return found

    def closure(self, keys: Iterable[str]) -> list[Paged]:
        """What these symbols mean: every definition needed, each once, those that others rest on first.

        Raises:
            CycleError: definitions use each other in a circle.
        """
        return self.closure_of([(self.current(key), "") for key in keys])

    def closure_of(self, roots: Sequence[tuple[Place, str]]) -> list[Paged]:
        """The same for given versions, each with the key of what asks for it."""
        done: dict[Place, Paged] = {}
        open_: dict[Place, None] = {}
        # A stack of its own: chains of definitions may be longer than Python's.
        stack: list[tuple[Place, str, bool]] = [(place, by, False) for place, by in reversed(roots)]
        while stack:
            place, used_by, leaving = stack.pop()
            if leaving:
                del open_[place]
                key, position = place
                current = position == len(self.symbols[key].versions) - 1
                done[place] = Paged(place, self.at(place), current, used_by)
                continue
            if place in done:
                continue
            if place in open_:
                circle = list(open_)[list(open_).index(place) :]
                raise CycleError([self.at(member).name for member in (*circle, place)])
            open_[place] = None
            stack.append((place, used_by, True))
            stack += [(used, place[0], False) for used in reversed(self.uses(place))]
        return list(done.values())

    def with_definitions(self, new: Sequence[Definition], keys: Sequence[str]) -> SymbolTable:
        """The table after these definitions, each under its key."""
        symbols = dict(self.symbols)
        for key, definition in zip(keys, new, strict=True):
            old = symbols[key].versions if key in symbols else ()
            symbols[key] = Symbol(key=key, versions=(*old, definition))
        return SymbolTable(symbols)
