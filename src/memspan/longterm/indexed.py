"""What an index of a space's passages holds, and how it follows the rows.

The rows are the truth. An index takes over what was indexed in files before (`parts`), reads the passages and vectors
that were added since it last looked, takes out the episodes that were forgotten since (`erasure`), and starts anew when
rows were changed otherwise (`meta.generation`), so that many processes can search while one writes. What need not be in
RAM can be spilled, a level more at a time: vectors' values, then postings, then all columns; results are the same.

Legend: P passages, R records, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from memspan.longterm.cues import STANDING_TERMS, is_standing
from memspan.longterm.mapped import MappedVectors
from memspan.longterm.postings import Segment
from memspan.longterm.spill import Spill
from memspan.longterm.store import Transaction
from memspan.longterm.vectors import F32, I64, Column, VectorTable, Zeros, recoded
from memspan.longterm.versions import PREFIX, DocumentVersions

if TYPE_CHECKING:
    from memspan.longterm.partfile import PartFile

_MOST_STALE = 0.2  # share of places of rewritten records from which on the index is read anew
_MERGE_SHARE = 0.2  # a segment this much smaller than the one before it stays apart; else the two are merged
_MERGED_ON_DISK = 100_000  # postings up to which spilled segments are merged: that takes 3 MB of RAM
_CHUNK, _SMALL_CHUNK = 8192, 512  # rows read at a time: 10 MB of RAM, and 0.6 MB where RAM is short
IN_RAM, VALUES, POSTINGS, COLUMNS = range(4)
"""Levels of spilling: nothing, the vectors' values, postings too, all columns and the vectors' signs too."""
_OF_PASSAGES = ("owner", "length", "passage_ids", "before", "after")  # the other columns are of records


class IndexedRows:
    """The passages of the records of one family ("episode", or everything derived) in one space.

    Args:
        space: its row id.
        episodes: the family.
        spill: where arrays go that are not kept in RAM.
        level: how much is spilled.
        load: fills the empty index from what is kept beside the rows; None reads the rows alone.
        mapped: vectors of parts stay in their files: a vector index finds the nearest.

    Attributes:
        record_ids: [R] ids of the records, in the order in which they were indexed: ascending for episodes; a derived
            record whose text was rewritten stands behind later ones (see `places`).
        kind: [R] codes into `kinds`; -1 at the place that a rewritten record had before.
        owner: [P] position in `record_ids` of each passage's record; passages of a record are neighbours.
        first: [R] position of each record's first passage.
        speaker, session: [R] codes into `speakers` and `sessions`; -1 is none.
        role: [R] 1 for a user's turn, 2 for another role's, 0 where roles are not told.
        at: [R] microseconds; the smallest int64 where it is not known.
        is_question: [R] whether the text ends with a question mark.
        standing: [R] whether it states a lasting rule or preference, in a turn that is no assistant's.
        vectors: [P] rows, zero where a passage has no vector yet; None when no passage has one.
        documents: versions of the documents among the sessions.
    """

    NO_TIME = int(np.iinfo(np.int64).min)

    record_ids: I64
    first: I64
    speaker: NDArray[np.int32]
    session: NDArray[np.int32]
    role: NDArray[np.int8]
    at: I64
    is_question: NDArray[np.bool_]
    standing: NDArray[np.bool_]
    kind: NDArray[np.int16]
    owner: NDArray[np.int32]
    length: F32
    passage_ids: I64
    before: NDArray[np.int32]
    after: NDArray[np.int32]

    def __init__(
        self,
        space: int,
        *,
        episodes: bool,
        spill: Spill | None = None,
        level: int = IN_RAM,
        load: Callable[[Transaction, IndexedRows], None] | None = None,
        mapped: bool = False,
    ) -> None:
        self.space = space
        self.episodes = episodes
        self.level = IN_RAM if spill is None else level
        self._spill = spill
        self._load = load
        self.mapped = mapped
        self._reset(None)

    def _reset(self, generation: str | None) -> None:
        self._generation = generation
        self._stale = 0
        self._seen_passage = 0
        self._seen_vector = 0
        # Right after loading: ranges of passages, first and last id, that lack vectors with ids above the third number.
        self._unread: list[tuple[int, int, int]] | None = None
        self._segments: list[Segment] = []
        self._adopted = 0  # segments that are those of parts
        kinds: dict[str, DTypeLike] = {
            "record_ids": np.int64,
            "first": np.int64,
            "speaker": np.int32,
            "session": np.int32,
            "role": np.int8,
            "at": np.int64,
            "is_question": np.bool_,
            "standing": np.bool_,
            "kind": np.int16,
            "owner": np.int32,
            "length": np.float32,
            "passage_ids": np.int64,
            "before": np.int32,
            "after": np.int32,
        }
        zeros = self._zeros(COLUMNS)
        self._columns = {name: Column(kind, zeros=zeros) for name, kind in kinds.items()}
        self.vectors: VectorTable | None = None
        self._has_vector = Column(np.bool_, zeros=zeros)
        self.speakers: dict[str, int] = {}
        self._speaker_words: list[frozenset[int]] = []
        self.sessions: dict[str, int] = {}
        self.documents = DocumentVersions()
        self.kinds: dict[str, int] = {}
        self._kept_windows: dict[tuple[float, ...], tuple[list[tuple[float, NDArray[np.int32]]], F32]] = {}
        self._session_end: dict[int, int] = {}  # session code -> its last passage so far
        self._order: I64 | None = None

    def _zeros(self, level: int) -> Zeros | None:
        return self._spill.zeros if self._spill is not None and self.level >= level else None

    def __getattr__(self, name: str) -> Any:
        columns = self.__dict__.get("_columns", {})
        if name in columns:
            return columns[name].array
        raise AttributeError(name)

    def __len__(self) -> int:
        return len(self.record_ids)

    # --- reading what is new ---

    def refresh(self, tx: Transaction) -> None:
        """Read the rows that were committed since the last call."""
        generation = tx.meta("generation" if self.episodes else "derived_generation") or ""
        if not self._follow(tx, generation) or self._stale > _MOST_STALE * len(self):
            self._reset(generation)
            if self._load is not None:
                self._load(tx, self)
                if not self._follow(tx, generation):
                    self._reset(generation)
        newest = tx.execute("SELECT coalesce((SELECT max(id) FROM passage), 0)").fetchone()[0]
        if newest > self._seen_passage:
            if self._unread is not None:
                self._unread.append((self._seen_passage + 1, newest, 0))
            self.read_passages(tx, newest)
        newest = tx.execute("SELECT coalesce((SELECT max(id) FROM vector), 0)").fetchone()[0]
        if newest > self._seen_vector:
            every = [(0, self._seen_passage, self._seen_vector)] if self._unread is None else self._unread
            for first, last, seen in every:
                self.read_vectors(tx, first, last, seen)
            self._seen_vector = newest
        self._unread = None

    def _follow(self, tx: Transaction, generation: str) -> bool:
        """Take out what was forgotten since; False when that is not known and the index must be read anew."""
        if generation == self._generation:
            return True
        gone = None
        if self.episodes and len(self) and self._generation is not None:
            gone = tx.erased_since(self._generation, generation)
        if gone is None:
            return False
        self.take_out(gone)
        self._generation = generation
        return True

    def read_passages(self, tx: Transaction, last: int) -> None:
        """Append the passages that come after those that were seen, up to the id `last`."""
        family = "r.kind = 'episode'" if self.episodes else "r.kind <> 'episode'"
        role = "coalesce(json_extract(r.data, '$.role'), '')"
        # CROSS JOIN keeps SQLite from starting at the records, of which almost all are known already.
        rows = tx.execute(
            "SELECT p.id, p.record, p.terms, r.session, r.speaker, coalesce(r.at, ?),"
            " substr(rtrim(r.text), -1) = '?',"
            f" CASE WHEN r.data IS NULL OR {role} IN ('', 0) THEN 0 WHEN {role} IN ('user', 'human') THEN 1 ELSE 2 END,"
            " r.kind"
            " FROM passage p CROSS JOIN record r ON r.id = p.record"
            f" WHERE p.id > ? AND p.id <= ? AND p.space = ? AND {family} ORDER BY p.id",
            (self.NO_TIME, self._seen_passage, last, self.space),
        )
        left: list[tuple] = []  # type: ignore[type-arg]
        while read := rows.fetchmany(_CHUNK if self.level == IN_RAM else _SMALL_CHUNK):
            # The last record's passages may go on in the next chunk.
            cut = next(at for at in range(len(read), -1, -1) if at == 0 or read[at - 1][1] != read[-1][1])
            self._read_records(tx, left + read[:cut] if cut else [])
            left = read[cut:] if cut else left + read
        self._read_records(tx, left)
        self._seen_passage = last

    def _read_records(self, tx: Transaction, rows: list[tuple]) -> None:  # type: ignore[type-arg]
        if not rows:
            return
        known = len(self)
        texts = tx.select("SELECT id, text FROM record WHERE id IN ({ids})", self._append(rows))
        standing = sorted(record for record, text in texts if is_standing(text))
        self.standing[known + np.searchsorted(self.record_ids[known:], standing)] = True
        self.release()

    def _append(self, rows: list[tuple]) -> list[int]:  # type: ignore[type-arg]
        """Add passages; returns the records whose text may state something lasting."""
        self._kept_windows.clear()
        base_passage, base_record = len(self.owner), len(self.record_ids)
        ids, records, blobs, sessions, speakers, ats, questions, roles, kinds = zip(*rows, strict=True)
        lengths = np.fromiter(map(len, blobs), np.int64, len(blobs)) // 4
        words = np.frombuffer(b"".join(blobs), np.uint32)
        positions = np.arange(base_passage, base_passage + len(ids), dtype=np.int32)
        segment = Segment.build(words, np.repeat(positions, lengths))
        spilled = self._spill is not None and self.level >= POSTINGS
        while len(self._segments) > self._adopted and len(segment.passages) >= _MERGE_SHARE * len(
            self._segments[-1].passages
        ):
            if spilled and len(segment.passages) + len(self._segments[-1].passages) > _MERGED_ON_DISK:
                break
            segment = self._segments.pop().merged(segment)
        self._segments.append(self._stored(segment))

        record_array = np.array(records, np.int64)
        starts = np.flatnonzero(np.r_[True, record_array[1:] != record_array[:-1]])
        if not self.episodes:  # a derived record whose text was rewritten comes again: its old place is nobody's
            before_it = self.places(record_array[starts])
            self.kind[before_it[before_it >= 0]] = -1
            self._stale += int(np.count_nonzero(before_it >= 0))
        self._order = None
        codes = self._coded(self.sessions, sessions)
        for name in codes:
            if name is not None and name.startswith(PREFIX):
                self.documents.add(name, codes[name], ats[sessions.index(name)])
        called = self._coded(self.speakers, speakers)
        kind_codes = self._coded(self.kinds, kinds)
        session = np.array([codes[name] for name in sessions], np.int32)
        put = self._columns
        put["record_ids"].extend(record_array[starts])
        put["first"].extend(starts + base_passage)
        owner = np.cumsum(np.r_[False, record_array[1:] != record_array[:-1]])
        put["owner"].extend(owner + base_record)
        put["length"].extend(lengths)
        put["passage_ids"].extend(np.array(ids, np.int64))
        put["session"].extend(session[starts])
        put["speaker"].extend(np.array([called[name] for name in speakers], np.int32)[starts])
        put["role"].extend(np.array(roles, np.int8)[starts])
        put["at"].extend(np.array(ats, np.int64)[starts])
        put["is_question"].extend(np.array(questions, np.bool_)[starts])
        put["kind"].extend(np.array([kind_codes[name] for name in kinds], np.int16)[starts])
        # Outside any session only the passages of one record are neighbours.
        group = np.where(session >= 0, session, len(self.sessions) + owner)
        order = np.argsort(group, kind="stable")
        same = group[order[1:]] == group[order[:-1]]
        before = np.full(len(ids), -1, np.int32)
        before[order[1:][same]] = order[:-1][same]
        self._link(base_passage, before, session)
        put["standing"].extend(np.zeros(len(starts), np.bool_))
        self._has_vector.extend(np.zeros(len(ids), np.bool_))
        if self.vectors is not None:
            self.vectors.grow(len(ids))
        if not self.episodes:
            return []
        people = record_array[starts][self.role[base_record:] != 2]
        hinted: list[int] = np.intersect1d(
            np.repeat(record_array, lengths)[np.isin(words, STANDING_TERMS)], people
        ).tolist()
        return hinted

    @staticmethod
    def _coded(known: dict[str, int], names: Sequence[str | None]) -> dict[str | None, int]:
        """Codes of the names, which are given to those that have none yet; of no name -1."""
        return {name: -1 if name is None else known.setdefault(name, len(known)) for name in dict.fromkeys(names)}

    def _link(self, base: int, before: NDArray[np.int32], session: NDArray[np.int32]) -> None:
        """Append neighbours.

        Args:
            base: position of the first passage that is appended.
            before: [n] positions among the appended of the passages before them; -1 where none is.
            session: [n] the passages' sessions, -1 for none.
        """
        after = np.full(len(before), -1, np.int32)
        joined = np.flatnonzero(before >= 0)
        after[before[joined]] = joined + base
        before = np.where(before >= 0, before + np.int32(base), np.int32(-1))
        put = self._columns
        put["after"].extend(after)
        for place in np.flatnonzero((before < 0) & (session >= 0)).tolist():
            previous = self._session_end.get(int(session[place]), -1)
            if previous >= 0:
                before[place] = previous
                put["after"].array[previous] = base + place
        put["before"].extend(before)
        ends = np.flatnonzero((after < 0) & (session >= 0))
        self._session_end.update(zip(session[ends].tolist(), (ends + base).tolist(), strict=True))

    # --- taking over what is kept in files ---

    def reserve(self, passages: int, records: int, dim: int = 0) -> None:
        """Make room for so many at once, so that growing copies nothing."""
        for name, column in self._columns.items():
            column.reserve(passages if name in _OF_PASSAGES else records)
        self._has_vector.reserve(passages)
        if dim:
            if self.vectors is None:
                self.vectors = self._vector_table(dim, len(self.owner))
            self.vectors.reserve(passages)

    def adopt(self, part: PartFile, *, vectors: bool = True) -> None:
        """Append what a part holds, as if its rows were read.

        Args:
            part: of the same space and family.
            vectors: its vectors too.

        Raises:
            StoreError: the part is damaged.
        """
        self._kept_windows.clear()
        self._order = None
        base_passage, base_record = len(self.owner), len(self.record_ids)
        put = self._columns
        sessions = self._coded(self.sessions, part.sessions)
        speakers = self._coded(self.speakers, part.speakers)
        session = np.array([*sessions.values(), -1], np.int32)[part.read("session")]
        at = part.read("at")
        for name, code in sessions.items():
            if name is not None and name.startswith(PREFIX):
                self.documents.add(name, code, int(at[np.argmax(session == code)]))
        owner = part.read("owner")
        put["first"].extend(np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]]) + base_passage)
        put["owner"].extend(owner + np.int32(base_record))
        put["session"].extend(session)
        put["speaker"].extend(np.array([*speakers.values(), -1], np.int32)[part.read("speaker")])
        put["at"].extend(at)
        for name in ("record_ids", "role", "is_question", "standing", "length", "passage_ids"):
            put[name].extend(part.read(name))
        put["kind"].extend(np.full(part.records, self.kinds.setdefault("episode", len(self.kinds)), np.int16))
        self._link(base_passage, part.read("before"), session[owner])
        in_ram = self._spill is None or self.level < POSTINGS
        self._segments.append(part.segment().moved(base_passage, copied=in_ram))
        self._adopted = len(self._segments)
        if part.dim and vectors:
            if self.vectors is None:
                self.vectors = self._vector_table(part.dim, base_passage)
            self.vectors.extend(*part.vectors())
            self._has_vector.extend(part.read("has_vector"))
        else:
            self._has_vector.grow(part.passages)
            if self.vectors is not None:
                self.vectors.grow(part.passages)
        self.release()

    def start_anew(self) -> None:
        """Let go of everything."""
        self._reset(None)

    def loaded(self, generation: str, passage: int, unread: list[tuple[int, int, int]]) -> None:
        """Tell how far what was adopted goes.

        Args:
            generation: of the rows as the oldest part saw them.
            passage: the last passage's id.
            unread: ranges of passages, first and last id, with the id after which their vectors are missing.
        """
        self._generation, self._seen_passage = generation, passage
        self._unread = unread

    def segment(self) -> Segment:
        """All postings as one segment."""
        return Segment.joined(self._segments)

    @property
    def has_vector(self) -> NDArray[np.bool_]:
        """[P] which passages have a vector."""
        return self._has_vector.array

    def _vector_table(self, dim: int, rows: int) -> VectorTable:
        if self.mapped:
            return MappedVectors(dim, rows)
        return VectorTable(dim, rows, values=self._zeros(VALUES), signs=self._zeros(COLUMNS))

    # --- following ---

    def _stored(self, segment: Segment) -> Segment:
        if self._spill is None or self.level < POSTINGS:
            return segment
        return segment.stored(self._spill.copy)

    def take_out(self, records: I64) -> None:
        """Leave out records that are no more: what stays is what an index made anew would hold."""
        keep = ~np.isin(self.record_ids, records)
        if keep.all():
            return
        there = keep[self.owner]
        passages = np.where(there, np.cumsum(there) - 1, -1).astype(np.int32)
        owner = (np.cumsum(keep) - 1)[self.owner[there]]
        self._segments = [self._stored(segment.renumbered(passages)) for segment in self._segments]
        self._segments = [segment for segment in self._segments if len(segment.passages)]
        self._adopted = 0
        for name, column in self._columns.items():
            self._columns[name] = column.kept(there if name in _OF_PASSAGES else keep)
        self.owner[:] = owner
        self.first[:] = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]][: len(owner)])
        self.sessions = recoded(self.session, self.sessions)
        self.speakers = recoded(self.speaker, self.speakers)
        self._speaker_words = []
        self._count_documents()
        self._join_neighbours()
        self._has_vector = self._has_vector.kept(there)
        if self.vectors is not None:
            self.vectors.keep(there)
        self._kept_windows.clear()
        self._order = None
        self.release()

    def _count_documents(self) -> None:
        """The versions of documents anew, from the sessions."""
        self.documents = DocumentVersions()
        codes = [code for name, code in self.sessions.items() if name.startswith(PREFIX)]
        places = np.flatnonzero(np.isin(self.session, codes))
        found, begin = np.unique(self.session[places], return_index=True)
        moments = dict(zip(found.tolist(), self.at[places[begin]].tolist(), strict=True))
        for name, code in self.sessions.items():
            if code in moments:
                self.documents.add(name, code, moments[code])

    def _join_neighbours(self) -> None:
        """Every passage's neighbours anew, from the sessions and the order of the passages."""
        session = self.session[self.owner].astype(np.int64)
        group = np.where(session >= 0, session, len(self.sessions) + self.owner)
        order = np.argsort(group, kind="stable")
        same = group[order[1:]] == group[order[:-1]]
        self.before[:] = -1
        self.after[:] = -1
        self.before[order[1:][same]] = order[:-1][same]
        self.after[order[:-1][same]] = order[1:][same]
        last = order[np.r_[~same, True][: len(order)]]
        ends = last[session[last] >= 0]
        self._session_end = dict(zip(session[ends].tolist(), ends.tolist(), strict=True))

    def release(self) -> None:
        """Give back the RAM that spilled arrays took while they were read."""
        if self._spill is not None:
            self._spill.release()

    def read_vectors(self, tx: Transaction, first: int, last: int, seen: int) -> None:
        """Put in the vectors with ids above `seen` of passages from `first` to `last`, which must be there."""
        family = "r.kind = 'episode'" if self.episodes else "r.kind <> 'episode'"
        if first:
            source = "passage p CROSS JOIN vector v ON v.passage = p.id"
        else:
            source = "vector v CROSS JOIN passage p ON p.id = v.passage"
        rows = tx.execute(
            f"SELECT p.id, v.data FROM {source} CROSS JOIN record r ON r.id = p.record"
            f" WHERE v.id > ? AND p.space = ? AND p.id BETWEEN ? AND ? AND {family}",
            (seen, self.space, first, last),
        )
        while read := rows.fetchmany(_CHUNK if self.level == IN_RAM else _SMALL_CHUNK):
            dim = len(read[0][1]) // 2
            if self.vectors is None:
                self.vectors = self._vector_table(dim, len(self.owner))
            slots = np.searchsorted(self.passage_ids, np.array([row[0] for row in read], np.int64))
            stacked = np.frombuffer(b"".join(row[1] for row in read), np.float16).reshape(len(read), dim)
            self.vectors.put(slots, stacked)
            self._has_vector.array[slots] = True
            self.release()

    def places(self, records: I64) -> I64:
        """[n] positions of records in `record_ids`, the latest where there are several; -1 for one not indexed."""
        if not len(self):
            return np.full(len(records), -1, np.int64)
        if self._order is None:
            self._order = np.argsort(self.record_ids, kind="stable")
        at = np.maximum(np.searchsorted(self.record_ids, records, side="right", sorter=self._order) - 1, 0)
        found = self._order[at]
        return np.where(self.record_ids[found] == records, found, -1)

    @property
    def vectors_missing(self) -> int:
        """How many passages have no vector yet."""
        return len(self.owner) - int(np.count_nonzero(self._has_vector.array))
