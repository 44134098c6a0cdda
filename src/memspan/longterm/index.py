"""What one process keeps in RAM to search a space: postings, passage order, vectors.

The rows are the truth. An index reads the passages and vectors that were added since it last looked, takes out the
episodes that were forgotten since (`erasure`), and starts anew when rows were changed otherwise (`meta.generation`), so
that many processes can search while one writes. What need not be in RAM can be spilled, a level more at a time:
vectors' values, then postings, then all columns; results are the same.

Legend: P passages, R records, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from memspan.core.footprint import Footprint
from memspan.longterm.cues import STANDING_TERMS, is_standing
from memspan.longterm.passages import ROLES, term_hashes
from memspan.longterm.postings import Segment
from memspan.longterm.spill import Spill
from memspan.longterm.store import Transaction
from memspan.longterm.vectors import F32, I64, Column, VectorTable, Zeros
from memspan.longterm.versions import PREFIX, DocumentVersions

K1, B = 1.2, 0.6
"""BM25's constants (Robertson and Zaragoza 2009); b is below the usual 0.75, since neighbours even out the lengths."""
_MOST_STALE = 0.2  # share of places of rewritten records from which on the index is read anew
_MERGE_SHARE = 0.2  # a segment this much smaller than the one before it stays apart; else the two are merged
_MERGED_ON_DISK = 500_000  # postings up to which spilled segments are merged: that takes 15 MB of RAM
NAME_BYTES = 250  # a session's name and its entries in two dictionaries
_CHUNK = 8192  # rows read at a time
IN_RAM, VALUES, POSTINGS, COLUMNS = range(4)
"""Levels of spilling: nothing, the vectors' values, postings too, all columns and the vectors' signs too."""


class PassageIndex:
    """Searchable passages of the records of one family ("episode", or everything derived) in one space.

    Args:
        space: its row id.
        episodes: the family.
        spill: where arrays go that are not kept in RAM.
        level: how much is spilled.

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

    def __init__(self, space: int, *, episodes: bool, spill: Spill | None = None, level: int = IN_RAM) -> None:
        self.space = space
        self.episodes = episodes
        self.level = IN_RAM if spill is None else level
        self._spill = spill
        self._reset("")

    def _reset(self, generation: str) -> None:
        self._generation = generation
        self._stale = 0
        self._seen_passage = 0
        self._seen_vector = 0
        self._segments: list[Segment] = []
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
        if generation != self._generation:
            gone = tx.erased_since(self._generation, generation) if self.episodes and len(self) else None
            if gone is None:
                self._reset(generation)
            else:
                self._take_out(gone)
                self._generation = generation
        if self._stale > _MOST_STALE * len(self):
            self._reset(generation)
        newest = tx.execute("SELECT coalesce((SELECT max(id) FROM passage), 0)").fetchone()[0]
        if newest > self._seen_passage:
            self._read_passages(tx)
            self._seen_passage = newest
        newest = tx.execute("SELECT coalesce((SELECT max(id) FROM vector), 0)").fetchone()[0]
        if newest > self._seen_vector:
            self._read_vectors(tx)
            self._seen_vector = newest

    def _read_passages(self, tx: Transaction) -> None:
        family = "r.kind = 'episode'" if self.episodes else "r.kind <> 'episode'"
        # CROSS JOIN keeps SQLite from starting at the records, of which almost all are known already.
        rows = tx.execute(
            "SELECT p.id, p.record, p.terms, r.session, r.speaker, r.at, substr(rtrim(r.text), -1) = '?',"
            " coalesce(json_extract(r.data, '$.role'), ''), r.kind"
            f" FROM passage p CROSS JOIN record r ON r.id = p.record WHERE p.id > ? AND p.space = ? AND {family}"
            " ORDER BY p.id",
            (self._seen_passage, self.space),
        )
        left: list[tuple] = []  # type: ignore[type-arg]
        while read := rows.fetchmany(_CHUNK):
            # The last record's passages may go on in the next chunk.
            cut = next(at for at in range(len(read), -1, -1) if at == 0 or read[at - 1][1] != read[-1][1])
            self._read_records(tx, left + read[:cut] if cut else [])
            left = read[cut:] if cut else left + read
        self._read_records(tx, left)

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
        lengths = np.fromiter((len(blob) // 4 for blob in blobs), np.int64, len(blobs))
        words = np.frombuffer(b"".join(blobs), np.uint32)
        positions = np.arange(base_passage, base_passage + len(ids), dtype=np.int32)
        segment = Segment.build(words, np.repeat(positions, lengths))
        spilled = self._spill is not None and self.level >= POSTINGS
        while self._segments and len(segment.passages) >= _MERGE_SHARE * len(self._segments[-1].passages):
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
        session_codes = [-1 if s is None else self.sessions.setdefault(s, len(self.sessions)) for s in sessions]
        for session, at in zip(sessions, ats, strict=True):
            if session is not None and session.startswith(PREFIX):
                self.documents.add(session, self.sessions[session], self.NO_TIME if at is None else at)
        put = self._columns
        put["record_ids"].extend(record_array[starts])
        put["first"].extend(starts + base_passage)
        put["owner"].extend(np.cumsum(np.r_[False, record_array[1:] != record_array[:-1]]) + base_record)
        put["length"].extend(lengths)
        put["passage_ids"].extend(np.array(ids, np.int64))
        put["session"].extend(np.array(session_codes, np.int32)[starts])
        put["speaker"].extend(
            np.array(
                [
                    -1 if speakers[i] is None else self.speakers.setdefault(speakers[i], len(self.speakers))
                    for i in starts
                ],
                np.int32,
            )
        )
        put["role"].extend(
            np.array([0 if not roles[i] else 1 if roles[i] in ("user", "human") else 2 for i in starts], np.int8)
        )
        put["at"].extend(np.array([self.NO_TIME if ats[i] is None else ats[i] for i in starts], np.int64))
        put["is_question"].extend(np.array([bool(questions[i]) for i in starts]))
        put["kind"].extend(np.array([self.kinds.setdefault(kinds[i], len(self.kinds)) for i in starts], np.int16))
        before = np.full(len(ids), -1, np.int32)
        put["after"].extend(np.full(len(ids), -1, np.int32))
        after = self.after
        for offset, code in enumerate(session_codes):
            if code < 0:  # outside any session only the passages of one record are neighbours
                previous = base_passage + offset - 1 if offset and records[offset] == records[offset - 1] else -1
            else:
                previous = self._session_end.get(code, -1)
                self._session_end[code] = base_passage + offset
            before[offset] = previous
            if previous >= 0:
                after[previous] = base_passage + offset
        put["before"].extend(before)
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

    def _stored(self, segment: Segment) -> Segment:
        if self._spill is None or self.level < POSTINGS:
            return segment
        return segment.stored(self._spill.copy)

    def _take_out(self, records: I64) -> None:
        """Leave out records that are no more: what stays is what an index made anew would hold."""
        keep = ~np.isin(self.record_ids, records)
        if keep.all():
            return
        there = keep[self.owner]
        passages = np.where(there, np.cumsum(there) - 1, -1).astype(np.int32)
        owner = (np.cumsum(keep) - 1)[self.owner[there]]
        self._segments = [self._stored(segment.renumbered(passages)) for segment in self._segments]
        self._segments = [segment for segment in self._segments if len(segment.passages)]
        of_passages = ("owner", "length", "passage_ids", "before", "after")
        for name, column in self._columns.items():
            self._columns[name] = column.kept(there if name in of_passages else keep)
        self.owner[:] = owner
        self.first[:] = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]][: len(owner)])
        self.sessions = _recoded(self.session, self.sessions)
        self.speakers = _recoded(self.speaker, self.speakers)
        self._speaker_words = []
        self._join_neighbours()
        self._has_vector = self._has_vector.kept(there)
        if self.vectors is not None:
            self.vectors.keep(there)
        self._kept_windows.clear()
        self._order = None
        self.release()

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

    def _read_vectors(self, tx: Transaction) -> None:
        family = "r.kind = 'episode'" if self.episodes else "r.kind <> 'episode'"
        rows = tx.execute(
            "SELECT v.id, p.id, v.data FROM vector v CROSS JOIN passage p ON p.id = v.passage"
            " CROSS JOIN record r ON r.id = p.record"
            f" WHERE v.id > ? AND p.space = ? AND {family} ORDER BY v.id",
            (self._seen_vector, self.space),
        )
        while read := rows.fetchmany(_CHUNK):
            dim = len(read[0][2]) // 2
            if self.vectors is None:
                self.vectors = VectorTable(dim, len(self.owner), values=self._zeros(VALUES), signs=self._zeros(COLUMNS))
            slots = np.searchsorted(self.passage_ids, np.array([row[1] for row in read], np.int64))
            stacked = np.frombuffer(b"".join(row[2] for row in read), np.float16).reshape(len(read), dim)
            self.vectors.put(slots, stacked)
            self._has_vector.array[slots] = True
            self.release()

    # --- searching ---

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

    def bm25(self, terms: NDArray[np.uint32], window: tuple[float, ...] = ()) -> F32:
        """BM25 of every passage, its neighbours in the session counted with decayed weight.

        Args:
            terms: hashes of the question's stems; each counts once.
            window: weights of the passages 1, 2, ... before and after.

        Returns:
            [P] scores. A neighbour's words count as `weight` of one's own in the term frequency and in the length.
        """
        size = len(self.owner)
        score = np.zeros(size + 1, np.float32)  # the last slot takes what falls to neighbours that are not there
        if not size:
            return score[:size]
        reach, norm = self._windows(window)
        frequency = np.zeros(size + 1, np.float32)
        for term in np.unique(terms):
            found = [segment.lookup(int(term)) for segment in self._segments]
            at = np.concatenate([passages for passages, _ in found])
            if not len(at):
                continue
            counts = np.concatenate([counts for _, counts in found]).astype(np.float32)
            gain = np.float32((K1 + 1) * np.log1p((size - len(at) + 0.5) / (len(at) + 0.5)))
            frequency[at] = counts
            touched = [at]
            for weight, near in reach:
                neighbours = near[at]  # no passage stands in it twice: it has one neighbour at each step
                frequency[neighbours] += weight * counts
                touched.append(neighbours)
            if len(at) * len(touched) > size // 4:
                score += gain * frequency / (frequency + norm)
                frequency[:] = 0
            else:  # a rare term: only the passages that it reaches are read and written
                places = np.concatenate(touched)
                seen = frequency[places]
                score[places] = score[places] + gain * seen / (seen + norm[places])  # twice the same where it repeats
                frequency[places] = 0
        return score[:size]

    def named_speakers(self, terms: NDArray[np.uint32]) -> list[int]:
        """Codes of the speakers of whose names a word is among the terms; what is only a role ("user") is no name."""
        for name in list(self.speakers)[len(self._speaker_words) :]:
            words = () if name.lower() in ROLES else term_hashes(name).tolist()
            self._speaker_words.append(frozenset(words))
        asked = set(terms.tolist())
        return [code for code, words in enumerate(self._speaker_words) if not asked.isdisjoint(words)]

    def frequency(self, terms: Iterable[int]) -> dict[int, int]:
        """How many passages hold each of the terms."""
        return {term: sum(len(segment.lookup(term)[0]) for segment in self._segments) for term in dict.fromkeys(terms)}

    def holding(self, terms: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """[R] which records hold any of the terms."""
        mask = np.zeros(len(self), np.bool_)
        for term in terms:
            for segment in self._segments:
                mask[self.owner[segment.lookup(int(term))[0]]] = True
        return mask

    def _windows(self, window: tuple[float, ...]) -> tuple[list[tuple[float, NDArray[np.int32]]], F32]:
        """Neighbours with their weights, and BM25's length norm; kept until a passage is added.

        Both have a slot more than there are passages, and a neighbour that is not there is that slot.
        """
        kept = self._kept_windows.get(window)
        if kept is None:
            reach = self._reach(window)
            length = np.r_[self.length, np.float32(0)]
            wide = length + sum((weight * length[near] for weight, near in reach), np.zeros_like(length))
            norm = (K1 * (1 - B + B * wide / max(float(wide[:-1].mean()), 1e-6))).astype(np.float32)
            if self._spill is not None and self.level >= COLUMNS:
                reach, norm = [(weight, self._spill.copy(near)) for weight, near in reach], self._spill.copy(norm)
            kept = self._kept_windows[window] = reach, norm
        return kept

    def _reach(self, window: tuple[float, ...]) -> list[tuple[float, NDArray[np.int32]]]:
        size = len(self.owner)
        steps = [np.r_[np.where(side < 0, size, side), size].astype(np.int32) for side in (self.before, self.after)]
        reach = []
        near = [np.arange(size + 1, dtype=np.int32)] * 2
        for weight in window:
            near = [step[place] for step, place in zip(steps, near, strict=True)]
            reach += [(weight, place) for place in near]
        return reach

    def best_passage(self, scores: F32) -> F32:
        """[R] the best score among each record's passages."""
        return np.maximum.reduceat(scores, self.first) if len(self) else scores

    def passages_of(self, records: NDArray[np.integer[Any]]) -> tuple[I64, I64]:
        """Positions of the records' passages one record after the other, and where each record's begin among them."""
        counts = self.passages_in(records)
        begin = np.cumsum(counts) - counts
        return np.arange(int(counts.sum())) + np.repeat(self.first[records] - begin, counts), begin

    def passages_in(self, records: NDArray[np.integer[Any]]) -> I64:
        """[n] how many passages these records have."""
        stop = np.where(records + 1 < len(self), self.first[np.minimum(records + 1, len(self) - 1)], len(self.owner))
        counts: I64 = stop - self.first[records]
        return counts

    def footprint(self) -> Footprint:
        """RAM of all arrays and names, and the disk that spilled ones take."""
        nbytes = sum(column.nbytes for column in self._columns.values()) + self._has_vector.nbytes
        nbytes += sum(segment.keys_nbytes if self.level >= POSTINGS else segment.nbytes for segment in self._segments)
        nbytes += self.vectors.nbytes if self.vectors is not None else 0
        nbytes += 0 if self._order is None else self._order.nbytes
        if self.level < COLUMNS:
            for reach, norm in self._kept_windows.values():
                nbytes += norm.nbytes + sum(near.nbytes for _, near in reach)
        nbytes += NAME_BYTES * (len(self.sessions) + len(self.speakers))
        return Footprint.of("store", "ram", nbytes)


def _recoded(column: NDArray[np.int32], names: dict[str, int]) -> dict[str, int]:
    """Number the names that a column still holds from 0 on, in it and in the dictionary that is given back."""
    codes, places = np.unique(column, return_inverse=True)
    known = list(names)
    staying = [known[code] for code in codes.tolist() if code >= 0]
    column[:] = places - (len(codes) - len(staying))
    return {name: code for code, name in enumerate(staying)}
