"""The organizer: the memory stream, with a summary of every long turn and a little recency in the ranking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memspan.core.errors import InputError
from memspan.longterm.base import Episode, Organizer, Recollection, Scribe
from memspan.longterm.prompts import Writer
from memspan.longterm.recall import Search
from memspan.longterm.scm import search as searching
from memspan.longterm.scm.ask_summary import summarize_text
from memspan.longterm.scm.sentences import Counter, estimated_tokens
from memspan.longterm.store import Transaction


@dataclass(frozen=True, kw_only=True)
class ScmConfig:
    """SCM's constants; sources in brackets."""

    long_turn: int = 300  # tokens above which a turn gets a summary; below it is its own (the code's)
    summary_tokens: int = 80  # most tokens of a turn's summary; the code asks for one sentence (ours)
    recency_weight: float = 0.1  # of rank = relevance + weight * recency, in standard deviations (ours; see the claim)
    recency_turns: float = 50.0  # τ of recency = exp(-age in turns / τ) (ours; the paper names no function)
    budget: int = 2500  # tokens of a prompt (the code's)
    k: int = 6  # turns that are activated (the code's; the paper has 3 to 10)
    flash_turns: int = 1  # turns of the flash memory: those just before the question (the paper's)
    flash_raw: int = 500  # tokens above which a flash turn is shown as its summary (the code's)
    share: float = 0.6  # of the room that is left, which one turn may take when not all fit (ours)
    least_coverage: float = 0.3  # of the question's words, for the rules' "can this text answer?" (ours)
    activate_cosine: float = 0.25  # best turn's cosine that activates memory: half of small talk is below (ours)
    activate_coverage: float = 0.2  # the same by words, without an embedder; 1 % of LoCoMo's questions are below (ours)

    def __post_init__(self) -> None:
        whole = ("long_turn", "summary_tokens", "budget", "k", "flash_raw")
        if bad := [name for name in whole if getattr(self, name) < 1]:
            raise InputError(f"{bad[0]} must be at least 1, not {getattr(self, bad[0])!r}")
        if self.flash_turns < 0 or self.recency_weight < 0 or self.recency_turns <= 0:
            raise InputError("flash_turns and recency_weight must not be negative, and recency_turns must be positive")
        if not 0 < self.share <= 1:
            raise InputError(f"share must be above 0 and at most 1, not {self.share!r}")
        if self.summary_tokens >= self.long_turn:
            raise InputError(f"summary_tokens ({self.summary_tokens}) must be below long_turn ({self.long_turn})")

    def recency(self, age: float) -> float:
        """exp(-age / τ) of an age in turns."""
        return math.exp(-max(0.0, age) / self.recency_turns)


class Scm(Organizer):
    """The memory stream.

    A turn of over `long_turn` tokens gets a record of kind "summary" that names it; a shorter one is its own summary.
    The kind "turn" is a view that recall makes: what was said, both sides of an exchange together, with its summary,
    its relevance and its age in `metadata`. Turns that were used lately count as recent.

    Args:
        scribe: "rules" (default: a turn's most telling sentences), or "model", "model:SPEC", "endpoint:…", or an object
            with a language model in `.model`: that one writes the summaries, and the rules do where its answer is none.
        config: constants.
        counter: counts tokens; None is the model's own, or words times 1.3 without one.

    Example:
        >>> from memspan import Episode, Memory
        >>> with Memory.open(":memory:", organizer="scm", embedder=None) as memory:
        ...     long = "We moved the launch to May. " + "The weather was fine that day. " * 60
        ...     _ = memory.add([Episode(long, id="a1"), Episode("Lunch?", id="a2")])
        ...     [hit] = memory.recall("When is the launch?", kinds=["summary"])
        >>> hit.text, hit.episodes
        ('We moved the launch to May. The weather was fine that day.', ['a1'])
    """

    name = "scm"
    kinds = ("summary", "turn")
    learns_from_use = True
    Config = ScmConfig

    def __init__(
        self, scribe: str | Scribe = "rules", config: ScmConfig | None = None, counter: Counter | None = None
    ) -> None:
        self.config = config or ScmConfig()
        self._scribe = scribe
        self._counter = counter
        self._model: Writer | None = None
        self._loaded = False

    @property
    def model(self) -> Writer | None:
        """The scribe's language model, loaded when it is first needed; None with rules."""
        if not self._loaded:
            scribe = self._scribe
            if isinstance(scribe, str) and scribe.partition(":")[0] != "rules":
                from memspan.longterm.scribe import load_scribe

                scribe = load_scribe(scribe)
            model = getattr(scribe, "model", None)
            self._model = model if isinstance(model, Writer) else None
            self._loaded = True
        return self._model

    @property
    def counter(self) -> Counter:
        """What counts tokens."""
        if self._counter is None:
            self._counter = getattr(self.model, "count_tokens", estimated_tokens)
        return self._counter

    def summarize(self, text: str) -> tuple[str, str] | None:
        """A long turn's summary and where it comes from; None for a short one."""
        # A token has at least one character, so most turns need no tokenizer.
        if len(text) <= self.config.long_turn or self.counter(text) <= self.config.long_turn:
            return None
        return summarize_text(text, self.config.summary_tokens, self.counter, self.model)

    # --- building ---

    def prepare(self, episodes: Sequence[Episode], context: Sequence[Episode]) -> Sequence[tuple[str, str] | None]:
        """Summaries of the long turns."""
        return [self.summarize(episode.text) if isinstance(episode.text, str) else None for episode in episodes]

    def on_add(self, tx: Transaction, episodes: Sequence[tuple[int, Episode, Any]]) -> None:
        """Store the summaries."""
        made = {record: summary for record, _, summary in episodes if summary is not None}
        for record, row in sorted(tx.records(made).items()):
            self._store(tx, record, row["uid"], row["at"], made[record])

    @staticmethod
    def _store(tx: Transaction, record: int, uid: str, at: int | None, summary: tuple[str, str]) -> None:
        text, origin = summary
        tx.add_record("summary", uid, text, sources=[record], at=at, data={"origin": origin}, reason=origin)

    def on_use(self, tx: Transaction, records: Sequence[int]) -> None:
        """What was used is recent again."""
        tx.executemany("UPDATE record SET used_at = ? WHERE id = ?", [(tx.now, record) for record in records])

    def maintain(self, tx: Transaction, now: datetime, *, prune: bool = False) -> dict[str, int]:
        """Summarise long turns that have no summary, such as those that another organizer took in."""
        rows = tx.execute(
            "SELECT id, uid, text, at FROM record r WHERE space = ? AND kind = 'episode' AND length(text) > ? AND NOT"
            " EXISTS (SELECT 1 FROM source s JOIN record d ON d.id = s.record WHERE s.episode = r.id"
            " AND d.kind = 'summary') ORDER BY id",
            (tx.space_id, self.config.long_turn),
        ).fetchall()
        made = 0
        for row in rows:
            summary = self.summarize(row["text"])
            if summary is not None:
                self._store(tx, row["id"], row["uid"], row["at"], summary)
                made += 1
        return {"summaries_made": made}

    def stats(self, tx: Transaction) -> dict[str, Any]:
        """How many turns were summarised and how long text and summaries are, in characters."""
        long, raw, short = tx.execute(
            "SELECT count(*), coalesce(sum(length(e.text)), 0), coalesce(sum(length(r.text)), 0) FROM record r"
            " JOIN source s ON s.record = r.id JOIN record e ON e.id = s.episode"
            " WHERE r.space = ? AND r.kind = 'summary'",
            (tx.space_id,),
        ).fetchone()
        used = tx.execute(
            "SELECT count(*) FROM record WHERE space = ? AND used_at IS NOT NULL", (tx.space_id,)
        ).fetchone()[0]
        counted = "estimated: words x 1.3" if self.counter is estimated_tokens else "by a tokenizer"
        return {
            "long_turns": long,
            "chars_of_long_turns": raw,
            "chars_of_summaries": short,
            "turns_used": used,
            "tokens": counted,
        }

    # --- recall ---

    def episode_bonus(self, search: Search) -> dict[int, tuple[float, str]]:
        """Recency of the latest turns and of those used lately."""
        weight = self.config.recency_weight
        if not weight:
            return {}
        return {
            record: (weight * self.config.recency(age), f"{age:.0f} turns ago")
            for record, age in searching.ages(search, 2 * self.config.recency_turns).items()
        }

    def recall(self, search: Search) -> list[Recollection]:
        """Summaries by full text and vectors; turns by the ranking of episodes."""
        found: list[Recollection] = []
        if "summary" in search.query.kinds:
            found += searching.summaries(search)
        if "turn" in search.query.kinds:
            found += searching.turns(search, 2 * self.config.recency_turns)
        return sorted(found, key=lambda hit: -hit.score)[: search.query.k]
