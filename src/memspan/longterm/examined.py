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

from memspan.core.errors import InputError
from memspan.longterm.base import Episode, Recollection
from memspan.longterm.memory import Memory

_BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
_HITS = 5  # looked at for the place of a text


class StoreSubject:
    """A memory with an organizer. Each piece of an item is an episode, a minute after the one before.

    Args:
        organizer: what is built from episodes.
        dated: episodes have their times; without, a store knows nothing of order but the order of adding.
        settings: further arguments of `Memory.open`.
    """

    forms: tuple[Any, ...] = ("text", "likelihood")

    def __init__(self, organizer: str = "plain", *, dated: bool = True, **settings: Any) -> None:
        self.name = f"memory:{organizer}" + ("" if dated else ",undated")
        self._organizer, self._dated, self._settings = organizer, dated, settings
        self._memory: Memory | None = None
        self._pieces: tuple[str, ...] = ()
        self._asked = False
        self._when: dict[str, tuple[datetime, int] | None] = {}

    def read(self, item: Any) -> None:
        """A new store in RAM with the item's pieces; the last one, where it holds just these and was not asked yet."""
        pieces = item.pieces or (item.context,)
        if self._memory is not None and pieces == self._pieces and not self._asked:
            return
        self.close()
        self._memory = Memory.open(":memory:", organizer=self._organizer, **self._settings)
        self._pieces, self._asked, self._when = pieces, False, {}
        self._memory.add(
            [
                Episode(text, at=_BEGIN + timedelta(minutes=i) if self._dated else None, session="exam", id=f"E:{i}")
                for i, text in enumerate(pieces)
                if text.strip()
            ]
        )

    def write(self, item: Any) -> str:
        """What the store answers."""
        assert self._memory is not None
        self._asked = True  # an organizer may learn from being asked
        return self._memory.ask(item.question).text

    def weigh(self, choice: Any) -> list[float]:
        """Of a question of order: the earlier the text of an option was met, the more.

        Texts that the store cannot tell the time of are ordered by lot.

        Raises:
            InputError: it is no question of order: a store weighs no words.
        """
        if not choice.earliest:
            raise InputError(f"{self.name} cannot weigh words: let it answer in writing (--form text)")
        moments = [self.when(text) for text in choice.earliest]
        if any(moment is None for moment in moments):
            return [_lot(text) for text in choice.earliest]
        known = sorted({moment for moment in moments if moment is not None}, reverse=True)
        return [float(known.index(moment)) for moment in moments if moment is not None]

    def when(self, text: str) -> tuple[datetime, int] | None:
        """When a text was met: the time of the hit with the longest run of its words, the better hit where two have as
        long a one, and how many words into that piece it begins; None without a hit or without times."""
        if text in self._when:
            return self._when[text]
        best, place, longest = None, 0, -1
        for hit in self.recalled(text, _HITS):
            held, sought = hit.text.split(), text.split()
            match = SequenceMatcher(None, held, sought, autojunk=False).find_longest_match()
            if match.size > longest:
                best, place, longest = hit.valid_at, match.a - match.b, match.size
        self._when[text] = None if best is None else (best, place)
        return self._when[text]

    def recalled(self, text: str, k: int) -> list[Recollection]:
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
            self._memory = None


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
            episodes = []
            for text in texts:
                at = _BEGIN + timedelta(minutes=self._written) if self._dated else None
                episodes.append(Episode(text, at=at, session="exam", id=f"E:{self._written}"))
                self._written += 1
            self._memory.add(episodes)
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
        self._show(item.choices[0].earliest or (item.question,) if item.choices else (item.question,))
        said: str = self._reader.write(item)
        return said

    def weigh(self, choice: Any) -> list[float]:
        """The reader's figures."""
        self._show(choice.earliest or (choice.question,))
        weighed: list[float] = self._reader.weigh(choice)
        return weighed

    def count_tokens(self, text: str) -> int | None:
        """The reader's."""
        counted: int | None = self._reader.count_tokens(text)
        return counted

    def _show(self, cues: tuple[str, ...]) -> None:
        hits = {hit.id: hit for cue in cues for hit in self._store.recalled(cue, self._k)}
        found = [hit.text for hit in sorted(hits.values(), key=lambda hit: hit.valid_at or _BEGIN)]
        if not self._in_order:
            random.Random("".join(sorted(found))).shuffle(found)
        self._reader.read(replace(self._item, context="\n\n".join(found), pieces=tuple(found)))


def _lot(text: str) -> float:
    """A number that has nothing to do with a text but is always the same for it."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
