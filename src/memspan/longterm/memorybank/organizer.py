"""The organizer: what fades and what comes back, what is found, and when the daily and global texts are written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from memspan.longterm.base import Episode, Organizer, Recollection, Scribe
from memspan.longterm.changes import attributes
from memspan.longterm.clock import from_micros, to_micros
from memspan.longterm.forget import forget_episodes
from memspan.longterm.memorybank import books
from memspan.longterm.memorybank.config import MemoryBankConfig
from memspan.longterm.memorybank.cues import SHARP, inside, named_time, rare_words, word_for_word
from memspan.longterm.memorybank.strengths import Mask, Strengths
from memspan.longterm.memorybank.writing import Pen
from memspan.longterm.recall import Search, best, resting_on_allowed, standardized
from memspan.longterm.retention import elapsed_days, strengthened
from memspan.longterm.store import Store, Transaction

if TYPE_CHECKING:
    from memspan.longterm.memory import Memory

_MOST_OF_A_TIME = 500  # episodes of a named time that are ranked for it: a month of a large store may hold thousands
_BANDS = (0.05, 0.25, 0.5, 0.75)  # bounds of the bands in which `stats` counts retention


class MemoryBank(Organizer):
    """A memory that fades along a forgetting curve and is strengthened by use.

    Args:
        scribe: "rules" (default), "model", "endpoint:…", or a `Scribe`; with a model it writes the summaries.
        config: constants.
    """

    name = "memorybank"
    kinds = books.KINDS
    learns_from_use = True
    Config = MemoryBankConfig

    def __init__(self, scribe: str | Scribe = "rules", config: MemoryBankConfig | None = None) -> None:
        self.config = config or MemoryBankConfig()
        self._scribe = scribe
        self._pen: Pen | None = None
        self._store: Store | None = None
        self._strengths: dict[int, Strengths] = {}
        self._up_to_date: dict[int, tuple[str, int, str | None]] = {}

    @property
    def pen(self) -> Pen:
        """Who writes, loaded when first needed."""
        if self._pen is None:
            from memspan.longterm.scribe import load_scribe

            self._pen = Pen(load_scribe(self._scribe))
        return self._pen

    def strengths(self, tx: Transaction) -> Strengths:
        """Strength, use and age of every episode of the space."""
        self._belong(tx)
        found = self._strengths.setdefault(tx.space_id, Strengths(self.config))
        found.refresh(tx)
        return found

    def _belong(self, tx: Transaction) -> None:
        """What is kept of one store must not be taken for another's."""
        if self._store is not tx.store:
            self._store = tx.store
            self._strengths.clear()
            self._up_to_date.clear()

    # --- adding and using ---

    def on_add(self, tx: Transaction, episodes: Sequence[tuple[int, Episode, Any]]) -> None:
        """Nothing: summaries are written when they are first asked for."""

    def on_use(self, tx: Transaction, records: Sequence[int]) -> None:
        """S grows, up to its cap and not twice within the spacing; t is 0 again."""
        config = self.config
        for row in tx.records(records).values():
            since = np.inf if row["used_at"] is None else float(elapsed_days(tx.now, row["used_at"]))
            strength = strengthened(
                row["strength"], since, gain=config.gain, cap=config.strength_cap, spacing=config.spacing_hours / 24
            )
            used = max(tx.now, row["used_at"] or tx.now)
            tx.execute("UPDATE record SET strength = ?, used_at = ? WHERE id = ?", (float(strength), used, row["id"]))

    # --- recall ---

    def shown(self, search: Search) -> Mask | None:
        """All but the dormant, and of these the ones that the question itself brings back."""
        index = search.episodes
        span = named_time(search)
        if self.config.dates == "filter" and span is not None:
            return inside(index, span)
        if len(index) <= self.config.awake:
            return None
        strengths = self.strengths(search.tx)
        dormant = strengths.dormant(search.tx.now)
        if not dormant.any():
            return None
        mask = ~dormant[np.searchsorted(strengths.ids, index.record_ids)]
        if not self.config.revive:
            return mask
        mask |= word_for_word(search) | rare_words(search, self.config.rare_share)
        if span is not None and span.precision in SHARP:
            mask |= inside(index, span)
        return mask

    def episode_bonus(self, search: Search) -> dict[int, tuple[float, str]]:
        """What was said in the time that the question names gains."""
        span = named_time(search)
        if span is None or span.precision == "year":
            return {}
        places = np.flatnonzero(inside(search.episodes, span))
        if len(places) > _MOST_OF_A_TIME:
            places = places[best(search.lexical(search.episodes)[places], _MOST_OF_A_TIME)]
        there = search.episodes.record_ids[places]
        bonus = self.config.date_bonus * (1.0 if span.precision in SHARP else 0.5)
        return dict.fromkeys(there.tolist(), (bonus, f"said {span.phrase()}"))

    def recall(self, search: Search) -> list[Recollection]:
        """Summaries, portraits and insights by full text and cosine; a day that the question names gains.

        Raises:
            MissingExtraError: a portrait is asked for, and spaCy, by which the rules read what people tell of
                themselves, is not installed.
        """
        if self.pen.missing is not None and not {"portrait", "insight"}.isdisjoint(search.query.kinds):
            raise self.pen.missing
        index = search.derived
        codes = [index.kinds[kind] for kind in search.query.kinds if kind in index.kinds]
        # A day of which nothing is told has a record without words, so that it is not read again.
        places = np.flatnonzero(np.isin(index.kind, codes) & (index.length[index.first] > 0))
        if not len(places):
            return []
        words = np.maximum(standardized(search.lexical(index)[places]), 0)
        score = words.astype(np.float64)
        cosine = search.cosine(index) if search.vector is not None and search.deadline.allows("vectors") else None
        if cosine is not None:
            score += standardized(cosine[places])
        span = named_time(search)
        of_that_time = np.zeros(len(places), np.bool_) if span is None else inside(index, span)[places]
        score += self.config.date_bonus * of_that_time
        order = np.argsort(-score, kind="stable")
        kept = resting_on_allowed(search, set(index.record_ids[places].tolist()))
        chosen = [at for at in order.tolist() if int(index.record_ids[places[at]]) in kept][: search.query.k]
        ids = [int(index.record_ids[places[at]]) for at in chosen]
        rows, sources = search.tx.records(ids), search.tx.sources(ids)
        hits = []
        for record, at in zip(ids, chosen, strict=True):
            row = rows[record]
            why = f"{row['kind']} by full text {words[at]:+.1f}" + (" and vectors" if cosine is not None else "")
            hits.append(
                Recollection(
                    kind=row["kind"],
                    id=row["uid"],
                    text=row["text"],
                    score=float(score[at]),
                    episodes=sources.get(record, []),
                    valid_at=from_micros(row["valid_at"]),
                    invalid_at=from_micros(row["invalid_at"]),
                    recorded_at=from_micros(row["recorded_at"]),
                    retired_at=from_micros(row["retired_at"]),
                    why=why + (", of the time named" if of_that_time[at] else ""),
                    metadata=attributes(row),
                )
            )
        return hits

    # --- summaries and portraits ---

    def pending(self, tx: Transaction) -> list[books.Draft] | None:
        """Books that are behind. A model leaves the day that is still going on, so that it reads each day once."""
        until = books.day_of(tx.now) if self.pen.model is not None else None
        last = tx.execute(
            "SELECT coalesce(max(id), 0) FROM record WHERE space = ? AND kind = 'episode'", (tx.space_id,)
        ).fetchone()[0]
        state = (f"{tx.meta('generation')} {tx.meta('derived_generation')}", last, until)
        self._belong(tx)
        if self._up_to_date.get(tx.space_id) == state:
            return None
        drafts = books.to_write(tx, until=until)
        if not drafts:
            self._up_to_date[tx.space_id] = state
        return drafts or None

    def compose(self, pending: list[books.Draft]) -> list[books.Draft]:
        """Write them."""
        return books.write(pending, self.pen)

    def on_composed(self, tx: Transaction, composed: list[books.Draft]) -> None:
        """Store them."""
        books.store(tx, composed)

    # --- forgetting ---

    def on_forget(self, tx: Transaction, touched: Sequence[int]) -> None:
        """Delete the texts that a forgotten episode is in; they are written anew when they are next asked for."""
        books.withdraw(tx, touched)

    def maintain(self, tx: Transaction, now: datetime, *, prune: bool = False) -> dict[str, int]:
        """Count what is dormant; with `prune`, forget it for good, as `Memory.forget` would."""
        moment = to_micros(now)
        assert moment is not None
        strengths = self.strengths(tx)
        asleep = strengths.ids[strengths.dormant(moment)].tolist()
        if not prune:
            return {"dormant": len(asleep)}
        uids = [row["uid"] for row in tx.records(asleep).values()]
        if not uids:
            return {"dormant": 0, "pruned": 0}
        report = forget_episodes(tx, self, uids, session=None, speaker=None, before=None)
        return {"dormant": 0, "pruned": report.episodes, "pruned_texts": sum(report.derived.values())}

    # --- looking ---

    def stats(self, tx: Transaction) -> dict[str, Any]:
        """Strengths and retention as distributions, how many have faded and how many are dormant, and who is next."""
        strengths = self.strengths(tx)
        retention = strengths.retention(tx.now)
        counts = np.histogram(retention, (0.0, *_BANDS, 1.0 + 1e-9))[0].tolist()
        names = [
            f"below {_BANDS[0]}",
            *(f"{low} to {high}" for low, high in zip(_BANDS, (*_BANDS[1:], 1), strict=True)),
        ]
        values, numbers = np.unique(np.round(strengths.strength, 2), return_counts=True)
        awake = ~strengths.faded(tx.now) & ~strengths.pinned
        left = strengths.days_left(tx.now)
        places = np.flatnonzero(awake)
        soon = places[np.lexsort((strengths.ids[places], left[places]))[: self.config.listed]]
        rows = tx.records(strengths.ids[soon].tolist())
        return {
            "curve": f"{self.config.retention}, {self.config.days:g} days",
            "strength": {f"{value:g}": int(count) for value, count in zip(values, numbers, strict=True)},
            "retention": dict(zip(names, counts, strict=True)),
            "mean_retention": round(float(retention.mean()), 4) if len(retention) else None,
            "used": int(np.count_nonzero(strengths.used > strengths.created)),
            "pinned": int(np.count_nonzero(strengths.pinned)),
            "faded": int(np.count_nonzero(strengths.faded(tx.now))),
            "dormant": int(np.count_nonzero(strengths.dormant(tx.now))),
            "always_awake": self.config.awake,
            "next_to_fade": [
                {
                    "id": rows[int(strengths.ids[at])]["uid"],
                    "strength": float(strengths.strength[at]),
                    "retention": round(float(retention[at]), 4),
                    "days_left": round(float(left[at]), 2) if np.isfinite(left[at]) else None,
                }
                for at in soon.tolist()
            ],
        }

    def dormant(self, memory: Memory, *, space: str | None = None) -> list[Recollection]:
        """What `maintain(prune=True)` would erase now, the most faded first: a list to look through before."""
        from memspan.longterm.rows import episode_recollection

        with memory.store.read(memory._now(), memory.space if space is None else space) as tx:
            strengths = self.strengths(tx)
            places = np.flatnonzero(strengths.dormant(tx.now))
            left = strengths.retention(tx.now)
            days = elapsed_days(tx.now, strengths.created, strengths.used)
            rows = tx.records(strengths.ids[places].tolist())
            order = places[np.lexsort((strengths.ids[places], -days[places] / strengths.strength[places]))]
            return [
                episode_recollection(
                    rows[int(strengths.ids[at])],
                    float(left[at]),
                    f"not used for {days[at]:.1f} days, strength {strengths.strength[at]:g}",
                )
                for at in order.tolist()
            ]
