"""The controller: is memory needed, which turns, at which resolution, and all of it within a budget of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from memspan.core.errors import BudgetError, InputError
from memspan.longterm.prompts import Writer
from memspan.longterm.scm.ask_activate import ask_activate, back_reference
from memspan.longterm.scm.ask_answerable import Judge, ModelJudge, RuleJudge
from memspan.longterm.scm.extract import extract, rarity, stems
from memspan.longterm.scm.organizer import ScmConfig
from memspan.longterm.scm.sentences import Counter, estimated_tokens, sentence_spans

Choice = Literal["raw", "summary", "drop"]
_LEAST = 15  # tokens below which a cut turn tells nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One turn of a memory stream, whatever store it comes from.

    Attributes:
        id: its id.
        text, summary: what was said, and shorter; equal for a short turn.
        score: of the search, higher is better.
        relevance: 0 to 1, for the gate.
        measure: what relevance is: the best cosine with the question, or the share of its words ("coverage").
        place: its number in the stream, from 1.
        age: turns since it was said or used; None is long ago.
        episodes: ids of its episodes.
        flash: it is one of the turns just before the question.
    """

    id: str
    text: str
    summary: str
    score: float = 0.0
    relevance: float = 0.0
    measure: Literal["cosine", "coverage"] = "cosine"
    place: int = 0
    age: float | None = None
    episodes: tuple[str, ...] = ()
    flash: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What became of one turn: its choice, the reason, and the tokens it takes in the prompt."""

    id: str
    choice: Choice
    why: str
    tokens: int
    flash: bool = False
    episodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A prompt that fits its budget.

    Attributes:
        text: chosen turns in the order of time, flash memory, the question.
        tokens: of `text`; never more than `budget`.
        decisions: one for every turn that was considered, the best first, flash memory last.
        activated: whether old memory was consulted; why: the reason.
        counted: how tokens were counted.
    """

    text: str
    tokens: int
    budget: int
    decisions: tuple[Decision, ...]
    activated: bool
    why: str
    counted: str

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        return {
            **{name: getattr(self, name) for name in ("text", "tokens", "budget", "activated", "why", "counted")},
            "decisions": [
                {"id": d.id, "choice": d.choice, "why": d.why, "tokens": d.tokens, "flash": d.flash}
                for d in self.decisions
            ],
        }


@dataclass(slots=True)
class _Slot:
    item: Item
    choice: Choice
    text: str
    why: str
    rank: int = 0


@dataclass(slots=True)
class Controller:
    """Decides; over any store that can give `Item`s.

    Args:
        config: constants.
        counter: counts tokens.
        judge: whether a text can answer a question; None is by the model, or by rules without one.
        model: decides about activation, with the rules where its answer is none; None is rules.
    """

    config: ScmConfig = field(default_factory=ScmConfig)
    counter: Counter = estimated_tokens
    judge: Judge | None = None
    model: Writer | None = None

    def __post_init__(self) -> None:
        if self.judge is None:
            rules = RuleJudge(self.config.least_coverage)
            self.judge = rules if self.model is None else ModelJudge(self.model, rules=rules)

    def activate(self, question: str, items: Sequence[Item]) -> tuple[bool, str]:
        """Whether old memory is needed, and why."""
        if words := back_reference(question):
            return True, f'the question points back ("{words}")'
        if not items:
            return False, "there is no older turn"
        doubt = ""
        if self.model is not None:
            decided = ask_activate(self.model, question)
            if decided is not None:
                return decided, f"the language model says that history is {'' if decided else 'not '}needed"
            doubt = " (the language model was of no use)"
        best = max(items, key=lambda item: item.relevance)
        least = self.config.activate_cosine if best.measure == "cosine" else self.config.activate_coverage
        enough = best.relevance >= least
        return enough, f"best {best.measure} {best.relevance:.2f} {'≥' if enough else '<'} {least:g}{doubt}"

    def rank(self, items: Sequence[Item]) -> list[Item]:
        """Best first: score + weight * recency."""
        weight = self.config.recency_weight

        def value(item: Item) -> float:
            return item.score + (0.0 if item.age is None else weight * self.config.recency(item.age))

        return sorted(items, key=lambda item: (-value(item), item.place))

    def choose(self, item: Item, question: str, weights: Mapping[int, float] | None = None) -> tuple[Choice, str]:
        """Resolution of one turn: dropped when it cannot answer, a summary when that can, else as it was said.

        Args:
            item: the turn.
            question: the question.
            weights: rarity of stems among the candidates; None weighs them alike.
        """
        assert self.judge is not None
        weights = weights or {}
        answers, why = self.judge.answers(question, item.text, weights)
        if not answers:
            return "drop", f"the turn {why}"
        if item.summary == item.text:
            return "raw", f"the turn {why}, and is its own summary"
        answers, why = self.judge.answers(question, item.summary, weights)
        return ("summary", f"the summary {why}") if answers else ("raw", f"the summary {why}, the turn does answer")

    def fit(self, items: Sequence[Item], budget: int, question: str) -> tuple[str, list[Decision]]:
        """A prompt of at most `budget` tokens from ranked turns (the best first) and the question.

        When all turns fit as they were said, they stay so. Else each but the best is judged. The best turn comes first,
        then flash memory, then what answers: as it was said if that takes no more than `share` of the room that is
        left, else its summary where that answers, else its sentences that bear on the question. Room that is left over
        then goes to the same turns once more, and at last to those that do not answer.

        Raises:
            InputError: the question is empty, or the budget is below 1.
            BudgetError: the question alone does not fit.
        """
        if not question.strip():
            raise InputError("the question is empty")
        if budget < 1:
            raise InputError(f"the budget must be at least 1 token, not {budget}")
        if (alone := self.counter(_prompt([], question))) > budget:
            raise BudgetError(
                "the question alone",
                needed=alone,
                allowed=budget,
                advice="shorten it, or raise the budget",
                unit="tokens",
            )
        slots = [self._first(item, rank) for rank, item in enumerate(items)]
        if self._tokens(slots, question) > budget:
            self._control(slots, question, budget)
        text = _prompt(slots, question)
        return text, [
            Decision(
                id=slot.item.id,
                choice=slot.choice,
                why=slot.why,
                tokens=self.counter(slot.text) if slot.text else 0,
                flash=slot.item.flash,
                episodes=slot.item.episodes,
            )
            for slot in slots
        ]

    def _first(self, item: Item, rank: int) -> _Slot:
        long = item.flash and item.summary != item.text and self.counter(item.text) > self.config.flash_raw
        if long:
            return _Slot(item, "summary", item.summary, f"flash memory of over {self.config.flash_raw} tokens", rank)
        return _Slot(item, "raw", item.text, "flash memory" if item.flash else "all turns fit", rank)

    def _tokens(self, slots: Sequence[_Slot], question: str) -> int:
        return self.counter(_prompt(slots, question))

    def _control(self, slots: list[_Slot], question: str, budget: int) -> None:
        sentences = [stems(slot.item.text[a:b]) for slot in slots for a, b in sentence_spans(slot.item.text)]
        weights = rarity(sentences)
        old = [slot for slot in slots if not slot.item.flash]
        verdicts: dict[int, tuple[Choice, str]] = {id(slot): ("raw", "flash memory") for slot in slots}
        for slot in reversed(old[1:]):
            verdicts[id(slot)] = self.choose(slot.item, question, weights)
        for slot in old[:1]:
            verdicts[id(slot)] = ("raw", "the best turn")
        needed = [*old[:1], *(slot for slot in slots if slot.item.flash)]
        needed += [slot for slot in old[1:] if verdicts[id(slot)][0] != "drop"]
        spare = [slot for slot in old if slot not in needed]
        for slot in slots:
            slot.choice, slot.text = "drop", ""
            why = verdicts[id(slot)][1]
            slot.why = why if slot in spare else f"{why}; no room in the budget"
        for slot in needed:
            self._place(slot, verdicts[id(slot)], slots, question, budget, weights, last=slot is needed[-1])
        again = [slot for slot in (*needed, *spare) if slot.choice != "raw"]
        for slot in again:
            reason = ("raw", f"{verdicts[id(slot)][1]}; room was left")
            self._place(slot, reason, slots, question, budget, weights, last=slot is again[-1])  # type: ignore[arg-type]

    def _place(
        self,
        slot: _Slot,
        verdict: tuple[Choice, str],
        slots: list[_Slot],
        question: str,
        budget: int,
        weights: Mapping[int, float],
        *,
        last: bool,
    ) -> None:
        """Show a turn, or more of it, in a share of the room that is left; leave it as it is where nothing fits."""
        before, wanted, why = slot.text, *verdict
        held = self._tokens(slots, question)
        slot.text = ""
        room = budget - self._tokens(slots, question)
        cap = room if last else int(room * self.config.share)
        slot.text = before

        def shown(choice: Choice, text: str, reason: str) -> bool:
            slot.text = text
            total = self._tokens(slots, question)
            if not text or total > budget or (before and total <= held):
                slot.text = before
                return False
            slot.choice, slot.why = choice, reason
            return True

        item = slot.item
        if self.counter(item.text) <= cap and shown("raw", item.text, why):
            return
        enough = wanted == "summary" and self.counter(item.summary) <= cap
        if enough and shown("summary", item.summary, why):
            return
        while cap >= _LEAST:
            text = extract(item.text, cap, self.counter, question=question, weights=weights)
            if not text or shown("summary", text, f"{why}; cut to the sentences that bear on the question"):
                return
            cap = cap * 3 // 4


def _prompt(slots: Sequence[_Slot], question: str) -> str:
    """Turns in the order of time, flash memory, question."""
    shown = sorted((slot for slot in slots if slot.text), key=lambda slot: (slot.item.flash, slot.item.place))
    parts = [f"[Turn {slot.item.place}] {slot.text}" for slot in shown]
    return "\n\n".join([*parts, question])
