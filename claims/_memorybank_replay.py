"""The replay of conversations under a cap, which MemoryBank's claim compares policies of forgetting with."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np

from memspan import Episode, Memory
from memspan.longterm.clock import EPOCH
from memspan.longterm.memorybank import MemoryBank, MemoryBankConfig
from memspan.longterm.retention import draws

CAP = 0.25
"""Share of what was said so far that may be awake."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and the turns that hold its answer."""

    text: str
    evidence: tuple[str, ...]


@dataclass(slots=True)
class Talk:
    """A conversation in sessions, in the order of time."""

    sessions: list[list[Episode]]
    questions: list[Asked]


class Frozen(MemoryBank):
    """Use teaches nothing: what is newest stays (FIFO). The exponential curve without use is the same order."""

    def on_use(self, tx: Any, records: Sequence[int]) -> None:
        """Nothing."""


class Drawn(Frozen):
    """A random quarter stays: those with the highest fixed draws."""

    def shown(self, search: Any) -> Any:
        """The episodes with the highest draws."""
        index = search.episodes
        rows = search.tx.records(index.record_ids.tolist())
        luck = draws([rows[int(record)]["uid"] for record in index.record_ids], self.config.seed)
        mask = np.zeros(len(index), bool)
        mask[np.argsort(-luck, kind="stable")[: self.config.awake]] = True
        return mask


@dataclass(frozen=True, slots=True)
class Policy:
    """Who stays awake, and what counts as used: "cited" (turns that hold the answer) or "context" (the first six)."""

    kind: type[MemoryBank]
    gain: float = 0.0
    used: str = "cited"
    revive: bool = False
    cap: float = CAP


OURS, LRU, FIFO, RANDOM, ALL = (
    "exponential, strengthened by use",
    "last used (LRU)",
    "newest (FIFO)",
    "random",
    "everything",
)
IN_CONTEXT = "exponential, all six in the context used"
SHIPPED, FIFO_WAKING = "exponential, questions wake what has their words", "newest, questions wake what has their words"
POLICIES = {
    OURS: Policy(MemoryBank, gain=1.0),
    LRU: Policy(MemoryBank),  # with no gain the order of fading is that of the last use
    FIFO: Policy(Frozen),
    RANDOM: Policy(Drawn),
    IN_CONTEXT: Policy(MemoryBank, gain=1.0, used="context"),
    SHIPPED: Policy(MemoryBank, gain=1.0, revive=True),
    FIFO_WAKING: Policy(Frozen, revive=True),
    ALL: Policy(Frozen, cap=1.0),
}


@dataclass(slots=True)
class Plan:
    """Which questions are asked when.

    Attributes:
        during: session -> questions asked after it.
        rehearsed, others: what is asked at the end.
    """

    during: dict[int, list[Asked]] = field(default_factory=lambda: defaultdict(list))
    rehearsed: list[Asked] = field(default_factory=list)
    others: list[Asked] = field(default_factory=list)


def plan(talk: Talk, chance: random.Random) -> Plan:
    """A third on the way; at the end the rest, as far as it can half about the same turns and half about others."""
    session = {str(turn.id): number for number, turns in enumerate(talk.sessions) for turn in turns}
    last = len(talk.sessions) - 1
    by_turn: dict[str, list[Asked]] = defaultdict(list)
    for question in talk.questions:
        for uid in question.evidence:
            by_turn[uid].append(question)
    can = [q for q in talk.questions if max(session[uid] for uid in q.evidence) < last]
    chance.shuffle(can)
    # First those whose turn another question is about too, so that there is something to ask at the end.
    can.sort(key=lambda q: all(len(by_turn[uid]) < 2 for uid in q.evidence))
    chosen: list[Asked] = []
    held: set[Asked] = set()
    for question in can:
        if len(chosen) == len(talk.questions) // 3:
            break
        if question not in held:
            chosen.append(question)
            held |= {other for uid in question.evidence for other in by_turn[uid]} - {question}
    planned = Plan()
    for question in chosen:
        begin = max(session[uid] for uid in question.evidence)
        planned.during[chance.randint(begin + 1, last)].append(question)
    asked, touched = set(chosen), {uid for question in chosen for uid in question.evidence}
    rest = [question for question in talk.questions if question not in asked]
    planned.rehearsed = [question for question in rest if touched & set(question.evidence)]
    others = [question for question in rest if not touched & set(question.evidence)]
    chance.shuffle(others)
    planned.others = others[: max(len(planned.rehearsed), 1)]
    return planned


def replay(talk: Talk, planned: Plan, policy: Policy, seed: int, embedder: Any) -> tuple[list[float], list[float]]:
    """Recall at 10 of the rehearsed and of the other questions at the end."""
    clock = [talk.sessions[0][0].at or EPOCH]
    with Memory.open(":memory:", organizer="plain", embedder=embedder, now=lambda: clock[0]) as memory:
        count = 0
        for number, turns in enumerate(talk.sessions):
            memory.add(turns)
            count += len(turns)
            clock[0] = max(turn.at for turn in turns if turn.at) + timedelta(hours=1)
            # By this threshold everything has faded, so that the cap alone decides how many stay awake.
            memory.organizer = policy.kind(
                config=MemoryBankConfig(
                    awake=int(policy.cap * count),
                    threshold=1 - 1e-12,
                    gain=policy.gain,
                    seed=seed,
                    revive=policy.revive,
                    date_bonus=0.0,
                )
            )
            for question in planned.during.get(number, ()):
                hits = [hit.id for hit in memory.recall(question.text, k=10)]
                used = hits[:6] if policy.used == "context" else [uid for uid in hits if uid in question.evidence]
                if used:
                    memory.use(used)
        clock[0] += timedelta(hours=1)
        recalls: tuple[list[float], list[float]] = ([], [])
        for found, questions in zip(recalls, (planned.rehearsed, planned.others), strict=True):
            for question in questions:
                hits = [hit.id for hit in memory.recall(question.text, k=10)]
                found.append(len(set(hits) & set(question.evidence)) / len(question.evidence))
    return recalls
