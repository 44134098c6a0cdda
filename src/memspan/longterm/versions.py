"""Which versions of documents count at a moment, told from the names of their sessions alone.

Version n of document d stands in the session "doc:d@n". A withdrawal is one more version, "doc:d@n!", that shows
nothing. So rows are only ever added, every process sees the same, and any earlier moment can be asked about.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from memspan.longterm.clock import to_micros

PREFIX = "doc:"
_NAME = re.compile(r"doc:(.+)@(\d+)(!?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SessionVersion:
    """A version as its session's name tells it."""

    document: str
    number: int
    withdrawn: bool = False

    @property
    def session(self) -> str:
        """The session's name."""
        return f"{PREFIX}{self.document}@{self.number}{'!' if self.withdrawn else ''}"


def version_of(session: str | None) -> SessionVersion | None:
    """The version that a session holds; None for a session that belongs to no document."""
    found = _NAME.fullmatch(session) if session is not None and session.startswith(PREFIX) else None
    return None if found is None else SessionVersion(found[1], int(found[2]), bool(found[3]))


@dataclass(frozen=True, slots=True)
class Successor:
    """What came after a version: the next version's number, since when (microseconds), and whether it shows nothing."""

    number: int
    at: int
    withdrawn: bool


class DocumentVersions:
    """The versions of the documents in an index: of each the code of its session and since when it counts."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[int, int, int, bool]]] = {}  # document -> (number, code, at, withdrawn)
        self._codes: dict[int, str] = {}
        self._newest = int(np.iinfo(np.int64).min)
        self._latest: NDArray[np.int32] | None = None

    def add(self, session: str, code: int, at: int) -> None:
        """Take in a session; one that holds no version is left out."""
        version = version_of(session)
        if version is None or code in self._codes:
            return
        known = self._found.setdefault(version.document, [])
        known.append((version.number, code, at, version.withdrawn))
        known.sort()
        self._codes[code] = session
        self._newest = max(self._newest, at)
        self._latest = None

    def hidden(self, moment: int) -> NDArray[np.int32]:
        """Codes of the sessions that do not count at a moment (microseconds): superseded, withdrawn, or yet to come."""
        if moment >= self._newest and self._latest is not None:
            return self._latest
        codes: list[int] = []
        for known in self._found.values():
            begun = [version for version in known if version[2] <= moment]
            counts = begun[-1][1] if begun and not begun[-1][3] else -1
            codes += [version[1] for version in known if version[1] != counts]
        found = np.array(codes, np.int32)
        if moment >= self._newest:
            self._latest = found
        return found

    def left_out(
        self, as_of: datetime | None, believed_at: datetime | None, now: int, *, superseded: bool = False
    ) -> NDArray[np.int32]:
        """Codes of the sessions that a question leaves out: by either time that it names, else now (microseconds).

        Args:
            superseded: versions that do not count are wanted as well.
        """
        if superseded:
            return self.withdrawals()
        named = [micros for moment in (as_of, believed_at) if (micros := to_micros(moment)) is not None]
        return self.hidden(min(named, default=now))

    def withdrawals(self) -> NDArray[np.int32]:
        """Codes of the sessions that only say that a document was withdrawn."""
        return np.array([v[1] for known in self._found.values() for v in known if v[3]], np.int32)

    def sessions(self, codes: Iterable[int]) -> frozenset[str]:
        """Names of sessions by their codes."""
        return frozenset(self._codes[code] for code in codes)

    def codes(self, document: str) -> list[int]:
        """Codes of the sessions of a document's versions; none for one that is not there."""
        return [version[1] for version in self._found.get(document, ())]

    def successor(self, session: str | None, moment: int) -> Successor | None:
        """What has replaced a version by a moment (microseconds); None while it counts."""
        version = version_of(session)
        if version is None:
            return None
        later = [v for v in self._found.get(version.document, ()) if v[0] > version.number and v[2] <= moment]
        return Successor(later[0][0], later[0][2], later[0][3]) if later else None
