"""A store as the subject of an exam: what an exam shows is added as episodes, and `ask` answers.

Questions of order are answered from the times of what is recalled. A store can also be taught, where what it studies
it writes down, and can rank documents, which are episodes then. `RetrievalSubject` shows a model what a store finds.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from difflib import SequenceMatcher
from typing import Any

from memspan.core.footprint import Footprint
from memspan.longterm.base import Episode, Recollection
from memspan.longterm.memory import Memory

_BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
_HITS = 5  # looked at for the place of a text
DECLINED = "I do not know: not mentioned."


class StoreSubject:
    """A memory with an organizer. An item's turns are its episodes, else its pieces, a minute after another.

    While items show the same, the store stays as it is, so that a conversation is read once for all its questions;
    an organizer that learns from use learns from the questions before.

    By likelihood it weighs options by what it recalls: the option that stands in its answer, else in the best of what
    the answer was chosen from; "not mentioned" where it declines; of events that whose best turn is the earliest.

    Args:
        organizer: what is built from episodes.
        dated: episodes have their times; without, a store knows nothing of order but the order of adding.
        settings: further arguments of `Memory.open`.
    """

    forms: tuple[Any, ...] = ("text", "likelihood")

    def __init__(self, organizer: str = "plain", *, dated: bool = True, **settings: Any) -> None:
        self.name = ("" if dated else "undated:") + f"memory:{organizer}"
        self._organizer, self._dated, self._settings = organizer, dated, settings
        self._memory: Memory | None = None
        self._shown: tuple[Any, ...] = ()
        self._when: dict[str, tuple[datetime, int] | None] = {}
        self._item: Any = None
        self._now = _BEGIN

    def read(self, item: Any) -> None:
        """A new store in RAM with the item's turns or pieces, unless the store at hand holds just these."""
        shown = tuple(item.turns or item.pieces or (item.context,))
        self._item, asked_at = item, item.asked_at
        if self._memory is None or shown != self._shown:
            self.close()
            self._memory = Memory.open(":memory:", organizer=self._organizer, now=self._clock, **self._settings)
            episodes = self._of_turns(shown) if item.turns else self._of_texts(shown)
            self._now = asked_at or max((e.at for e in episodes if e.at), default=_BEGIN) + timedelta(days=1)
            self._memory.add(episodes)
            self._shown, self._when = shown, {}
        self._now = asked_at or self._now

    def _clock(self) -> datetime:
        return self._now

    def _of_turns(self, turns: Any) -> list[Episode]:
        return [
            Episode(
                turn.text,
                speaker=turn.speaker,
                at=turn.at if self._dated else None,
                session=turn.session,
                id=turn.id,
                metadata=turn.metadata,
            )
            for turn in turns
        ]

    def _of_texts(self, pieces: Any) -> list[Episode]:
        return [self._of_text(i, text) for i, text in enumerate(pieces) if text.strip()]

    def _of_text(self, i: int, text: str) -> Episode:
        at = _BEGIN + timedelta(minutes=i) if self._dated else None
        return Episode(text, at=at, session="exam", id=f"E:{i}")

    def write(self, item: Any) -> str:
        """What the store answers."""
        answer = self._ask(item.asked or item.question)
        return DECLINED if answer.abstained else str(answer.text)

    def weigh(self, choice: Any) -> list[float]:
        """Options by what is recalled on the question; see the class."""
        assert self._memory is not None
        if choice.earliest:
            return self._by_order(choice.earliest)
        options = [option.strip().strip('"') for option in choice.options]
        answer = self._ask(self._item.asked or choice.question)
        texts = [answer.text, *(hit.text for hit in answer.recollections)]
        scores = [
            next((1 / (1 + i) for i, text in enumerate(texts) if _holds(text, option)), 0.0) for option in options
        ]
        if choice.declines is not None:
            scores[choice.declines] = 2.0 if answer.abstained else 1e-3
        return scores

    def recalled(self, item: Any, k: int) -> list[str]:
        """Ids of the episodes that are recalled on the item's question, best first."""
        assert self._memory is not None
        return [hit.id for hit in self._memory.recall(item.asked or item.question, k, as_of=item.as_of)]

    def held(self) -> Footprint | None:
        """Bytes of the store."""
        if self._memory is None:
            return None
        kept = {key: size for key, size in self._memory.footprint().entries.items() if key[0] == "store"}
        return Footprint(kept)

    def _ask(self, question: str) -> Any:
        assert self._memory is not None
        return self._memory.ask(question, as_of=self._item.as_of)

    def _by_order(self, texts: Sequence[str]) -> list[float]:
        """The earlier a text was met, the more; by lot where the store cannot tell the time of one."""
        moments = [self.when(text) for text in texts]
        if any(moment is None for moment in moments):
            return [_lot(text) for text in texts]
        known = sorted({moment for moment in moments if moment is not None}, reverse=True)
        return [float(known.index(moment)) for moment in moments if moment is not None]

    def when(self, text: str) -> tuple[datetime, int] | None:
        """When a text was met: the time of the hit with the longest run of its words, the better hit where two have as
        long a one, and how many words into that piece it begins; None without a hit or without times."""
        if text in self._when:
            return self._when[text]
        best, place, longest = None, 0, -1
        for hit in self.found(text, _HITS):
            held, sought = hit.text.split(), text.split()
            match = SequenceMatcher(None, held, sought, autojunk=False).find_longest_match()
            if match.size > longest:
                best, place, longest = hit.valid_at, match.a - match.b, match.size
        self._when[text] = None if best is None else (best, place)
        return self._when[text]

    def found(self, text: str, k: int) -> list[Recollection]:
        """Pieces that the store finds for a text, best first."""
        assert self._memory is not None
        return list(self._memory.recall(text, k=k))

    def count_tokens(self, text: str) -> None:
        """A store has no tokenizer."""
        return

    def close(self) -> None:
        """Let the store go."""
        if self._memory is not None:
            self._memory.close()
        self._memory, self._shown = None, ()


class StoreStudent(StoreSubject):
    """A memory that studies by writing, and knows again what it recalls.

    Args:
        organizer, dated, settings: as of `StoreSubject`.
    """

    forms: tuple[Any, ...] = ("text", "likelihood")

    def begin(self) -> None:
        """A new store in RAM."""
        self.close()
        self._memory = Memory.open(":memory:", organizer=self._organizer, **self._settings)
        self._written = 0

    def study(
        self, texts: Sequence[str], *, exposures: int = 1, batch: int = 4, lr: float = 0.0, seed: int | None = None
    ) -> int:
        """Add each text as often as it is shown; batches, rates and orders are for those who learn by steps."""
        assert self._memory is not None
        for _ in range(exposures):
            self._memory.add([self._of_text(i, text) for i, text in enumerate(texts, self._written)])
            self._written += len(texts)
        return 0

    def familiarity(self, texts: Sequence[str]) -> list[float]:
        """Score of the best episode that each text recalls, asked for word for word; 0 from an empty store.

        Scores are comparable within one recall alone; what stands in the store as it was asked gains more than that
        matters.
        """
        assert self._memory is not None
        asked = [re.sub('["“”]', " ", text) for text in texts]
        return [hits[0].score if (hits := self._memory.recall(f'"{text}"', k=1)) else 0.0 for text in asked]

    def complete(self, cues: Sequence[str], tokens: Sequence[int]) -> list[str]:
        """What follows the cue in the best episode that it recalls; of one that does not hold it, the second half."""
        assert self._memory is not None
        found = []
        for cue in cues:
            hits = self._memory.recall(cue, k=1)
            text = hits[0].text if hits else ""
            at = text.casefold().find(cue.casefold())
            words = text.split()
            found.append(text[at + len(cue) :].strip() if at >= 0 else " ".join(words[len(words) // 2 :]))
        return found

    def weigh(self, choice: Any) -> list[float]:
        """How familiar the question is with each option behind it."""
        return self.familiarity([f"{choice.question}{option}".strip() for option in choice.options])


class StoreRetriever(StoreSubject):
    """A memory that ranks documents by what it recalls, each of them an episode of a session of its own.

    Args:
        organizer, settings: as of `StoreSubject`.
    """

    forms: tuple[Any, ...] = ("text", "likelihood")

    def rank(self, queries: Sequence[str], documents: Sequence[str]) -> list[list[float]]:
        """[Q][D] scores; what a query does not recall is below all else."""
        self.close()
        self._memory = Memory.open(":memory:", organizer=self._organizer, **self._settings)
        self._memory.add([Episode(text, session=f"D:{i}", id=f"D:{i}") for i, text in enumerate(documents)])
        found = []
        for query in queries:
            scores = [float("-inf")] * len(documents)
            for hit in self._memory.recall(query, k=len(documents)):
                scores[int(hit.id.removeprefix("D:"))] = hit.score
            found.append(scores)
        self.close()
        return found


class RetrievalSubject:
    """A reader that is shown, instead of all that an item holds, what a store finds for the question.

    Args:
        reader: another subject, such as a model.
        organizer: of the store.
        k: pieces found for the question, or for each text of a question of order.
        in_order: pieces are shown in the order of their times; else by lot.
        settings: further arguments of `Memory.open`.
    """

    def __init__(
        self, reader: Any, organizer: str = "plain", *, k: int = 2, in_order: bool = True, **settings: Any
    ) -> None:
        self.name = f"retrieval:{reader.name}" + ("" if in_order else ",shuffled")
        self.forms: tuple[Any, ...] = reader.forms
        self._reader, self._k, self._in_order = reader, k, in_order
        self._store = StoreSubject(organizer, **settings)
        self._item: Any = None

    def read(self, item: Any) -> None:
        """As a store does."""
        self._item = item
        self._store.read(item)

    def write(self, item: Any) -> str:
        """The reader's answer; pieces are found by the texts of the item's first choice where it asks for order."""
        self._show(item.choices[0].earliest if item.choices else (), item.question)
        said: str = self._reader.write(item)
        return said

    def weigh(self, choice: Any) -> list[float]:
        """The reader's figures."""
        self._show(choice.earliest, choice.question)
        weighed: list[float] = self._reader.weigh(choice)
        return weighed

    def count_tokens(self, text: str) -> int | None:
        """The reader's."""
        counted: int | None = self._reader.count_tokens(text)
        return counted

    def _show(self, texts: tuple[str, ...], question: str) -> None:
        cues = texts or (self._item.asked or question,)
        hits = {hit.id: hit for cue in cues for hit in self._store.found(cue, self._k)}
        found = [hit.text for hit in sorted(hits.values(), key=lambda hit: hit.valid_at or _BEGIN)]
        if not self._in_order:
            random.Random("".join(sorted(found))).shuffle(found)
        self._reader.read(replace(self._item, context="\n\n".join(found), pieces=tuple(found)))


def _lot(text: str) -> float:
    """A number that has nothing to do with a text but is always the same for it."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _holds(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None
