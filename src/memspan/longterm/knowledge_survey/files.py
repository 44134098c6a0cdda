"""Files and folders as documents: what changed since the last reading becomes a new version, what did not adds nothing.

Text and Markdown files are documents; chats and other layouts are episodes, which never change. A file's content is
compared by its hash, so that a touched file is no change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING

from memspan.core.errors import InputError
from memspan.longterm import clock
from memspan.longterm.base import Episode
from memspan.longterm.knowledge_survey.documents import _history, digest_of, documents, put, withdraw
from memspan.longterm.readers import ReadFile, Source, read_files

if TYPE_CHECKING:
    from memspan.longterm.evict import Eviction
    from memspan.longterm.memory import Memory

BATCH = 500  # episodes a commit where nothing has to appear as a whole: an interrupted run goes on from here


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What reading files did, by document id.

    Attributes:
        added: documents that are new, or were withdrawn before.
        changed: documents of which a new version was added.
        unchanged: documents whose newest version says the same.
        withdrawn: documents whose file is gone from its folder.
        episodes: how many episodes the files hold, those of chats and other layouts included.
        evictions: what had to go to make room for them, in order.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    episodes: int = 0
    evictions: tuple[Eviction, ...] = ()


def remember_files(
    memory: Memory,
    paths: Source | Iterable[Source] | Sequence[ReadFile],
    *,
    format: str | None = None,
    at: datetime | date | str | None = None,
    prune: bool = False,
    moved: bool = False,
    watch: Callable[[list[ReadFile]], Iterable[ReadFile]] | None = None,
    space: str | None = None,
) -> Remembered:
    """Read files, and every text and Markdown file below folders, into a memory.

    A document's id is the file's name, below a folder "folder/path". Its first version counts always unless `at` is
    given; later ones count from `at`, or from the store's now.

    Args:
        paths: files and folders, or what `readers.read_files` returned.
        format: of the files, when it cannot be told from them.
        at: since when the content counts.
        prune: withdraw the documents of the folders whose files are gone; their history stays.
        moved: take a file for the document of its name also when that was read from another place.
        watch: is given the files and yields them, for progress.

    Raises:
        InputError: a file cannot be read (nothing is added then), two places claim one document, or `prune` without a
            folder.
    """
    files = _files(paths, format)
    folders = {file.folder for file in files if file.folder is not None}
    if prune and not folders:
        raise InputError("prune needs a folder: only there can a file be missed")
    moment = clock.as_moment(at, "at")
    known = {file.session: _history(memory, file.session, space) for file in files if file.is_document}
    for file in files:
        earlier = known[file.session][0][-1].source if file.session in known and known[file.session][0] else None
        if earlier is not None and earlier != _place(file) and not moved:
            raise InputError(
                f"the document {file.session!r} was read from {earlier}, and is now {_place(file)}; say moved if that"
                " is the same document, else rename the file"
            )
    done: dict[str, list[str]] = {"added": [], "changed": [], "unchanged": []}
    evictions: list[Eviction] = []
    for file in watch(files) if watch else files:
        if not file.is_document:
            for begin in range(0, len(file.episodes), BATCH):
                added = memory.add(file.episodes[begin : begin + BATCH], space=space)
                evictions += [added.evicted] if added.evicted else []
            continue
        before, last, _ = known[file.session]
        since = moment or (clock.from_micros(memory._now()) if last else None)
        digest = digest_of(*(episode.text for episode in file.episodes))
        counted = bool(before) and before[-1].number == last
        again = counted and before[-1].digest == digest
        # A change must appear as a whole, else half of a document would hide all that it said before.
        batch = BATCH if again or not last else None
        version = put(
            memory,
            file.session,
            _numbered(file.episodes),
            digest,
            source=_place(file),
            at=since,
            batch=batch,
            space=space,
        )
        evictions += version.evictions
        if again and len(before[-1].episodes) == len(file.episodes):
            what = "unchanged"
        else:  # an interrupted first reading went on, or the content is new
            what = "changed" if counted and not again else "added"
        done[what].append(file.session)
    gone: list[str] = []
    if prune:
        there = {file.session for file in files}
        for document in documents(memory, space=space):
            if document not in there and any(document.startswith(f"{folder}/") for folder in folders):
                withdraw(memory, document, at=moment, space=space)
                gone.append(document)
    return Remembered(
        added=tuple(done["added"]),
        changed=tuple(done["changed"]),
        unchanged=tuple(done["unchanged"]),
        withdrawn=tuple(gone),
        episodes=sum(len(file.episodes) for file in files),
        evictions=tuple(evictions),
    )


def _files(paths: Source | Iterable[Source] | Sequence[ReadFile], format: str | None) -> list[ReadFile]:
    if isinstance(paths, Sequence) and paths and isinstance(paths[0], ReadFile):
        return [file for file in paths if isinstance(file, ReadFile)]
    return read_files(paths, format=format)  # type: ignore[arg-type]


def _place(file: ReadFile) -> str:
    return str(file.path.resolve())


def _numbered(episodes: Sequence[Episode]) -> Callable[[int], list[Episode]]:
    """Pieces by the number of their version: the first keeps the reader's ids, "notes:3", the next has "notes@2:3"."""

    def pieces(version: int) -> list[Episode]:
        if version == 1:
            return list(episodes)
        parted = [(episode, str(episode.id).rpartition(":")) for episode in episodes]
        return [replace(episode, id=f"{stem}@{version}:{place}") for episode, (stem, _, place) in parted]

    return pieces
