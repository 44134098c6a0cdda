"""Papers to mark: how one is built, what is asked about it, and how a reply is scored."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, Literal, get_args

from memspan.core.errors import InputError
from memspan.probes.base import Choice, Count, Exam, Grade, Item, Subject
from memspan.probes.longins.pools import QA, made_pool, pool_of, read_pool
from memspan.probes.run import Report, run

Mode = Literal["GIST", "LIST", "LIMT"]
MODES: tuple[Mode, ...] = get_args(Mode)
_CHARACTERS_A_TOKEN = 3.0  # of the papers made here in the tokenizer of SmolLM2
_FEWEST = 3  # pairs of a paper

_PREAMBLE = (
    "You are a teacher who marks a paper. Each group in square brackets is a numbered question with a student's "
    "answer, and some of the answers are wrong."
)
_SHARED = "The instruction of every question: "
_ASKED = (
    "Which answers are wrong? Read every group. Reply with the numbers of the wrong answers only, in square brackets "
    "and with commas between them."
)


# --- scoring ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class F1Result:
    """Precision, recall and F1 of a reply; `parsed` is false where it holds no list."""

    precision: float
    recall: float
    f1: float
    parsed: bool = True


def marked(reply: str, strict: bool = True) -> set[int] | None:
    """The numbers that a reply names; None without a list.

    Strictly, they are those of the last pair of square brackets that holds nothing but numbers and commas. Loosely, as
    in the official code, every number in any brackets counts.
    """
    groups = re.findall(r"\[([^\[\]]*)\]", reply)
    if not strict:
        return {int(number) for group in groups for number in re.findall(r"\d+", group)} if groups else None
    lists = [group for group in groups if re.fullmatch(r"\s*(?:\d+(?:\s*(?:,|;|\band\b|\s)\s*\d+)*\s*,?)?\s*", group)]
    return {int(number) for number in re.findall(r"\d+", lists[-1])} if lists else None


def score(reply: str, gold: Iterable[int], strict: bool = True) -> F1Result:
    """How well a reply names the wrong answers; F1 is 0 where it names none of them.

    Raises:
        InputError: `gold` is empty: recall would not be defined.
    """
    right = set(gold)
    if not right:
        raise InputError("a paper without a wrong answer cannot be scored")
    said = marked(reply, strict)
    return _f1(said or set(), right, said is not None)


def _f1(said: set[int], right: set[int], parsed: bool = True) -> F1Result:
    hits = len(said & right)
    if not hits:
        return F1Result(0.0, 0.0, 0.0, parsed)
    precision, recall = hits / len(said), hits / len(right)
    return F1Result(precision, recall, 2 * precision * recall / (precision + recall), parsed)


# --- building --------------------------------------------------------------------------------------------------------


class Pool:
    """Questions by task, with what is a wrong answer to each.

    Raises:
        InputError: there is none, or no task has an answer that is wrong for another question.
    """

    def __init__(self, rows: Iterable[Any]) -> None:
        self.tasks: dict[str, list[QA]] = {}
        self._right: dict[tuple[str, str], set[str]] = {}
        for qa in pool_of(rows):
            known = self._right.setdefault((qa.task, qa.input), set())
            if not known:
                self.tasks.setdefault(qa.task, []).append(qa)
            known |= {_plain(answer) for answer in (qa.output, *qa.also)}
        self._answers = {task: sorted({qa.output for qa in held}) for task, held in self.tasks.items()}
        usable = {task: [qa for qa in held if self._has_wrong(qa)] for task, held in self.tasks.items()}
        self.tasks = {task: held for task, held in usable.items() if len(held) >= _FEWEST}
        if not self.tasks:
            raise InputError(f"the pool has no task of {_FEWEST} questions with different answers")

    def _has_wrong(self, qa: QA) -> bool:
        return any(not self._is_right(qa, one) for one in (*qa.wrong, *self._answers[qa.task][:9]))

    def _is_right(self, qa: QA, answer: str) -> bool:
        return _plain(answer) in self._right[qa.task, qa.input]

    def wrong(self, qa: QA, chance: random.Random) -> str:
        """One of the question's own wrong answers, else another answer of its task, each as likely as another."""
        own = [answer for answer in qa.wrong if not self._is_right(qa, answer)]
        answers = own or self._answers[qa.task]
        for _ in range(50):
            answer = chance.choice(answers)
            if not self._is_right(qa, answer):
                return answer
        return chance.choice([answer for answer in answers if not self._is_right(qa, answer)])


def _plain(answer: str) -> str:
    return " ".join(answer.casefold().split()).strip(" .")


def build(
    pool: Iterable[Any] | Pool,
    mode: Mode = "GIST",
    length: int = 1024,
    tokenizer: Any = None,
    *,
    error_rate: float = 0.1,
    pairs: int = 0,
    depth: tuple[float, float] = (0.0, 1.0),
    seed: int | str = 0,
) -> Item:
    """One paper.

    Args:
        pool: `QA`s, objects or pairs (instruction, answer), as `read_pool` takes them from lines.
        mode: GIST has one task and says its instruction once; LIST says it in every group; LIMT mixes tasks.
        length: most tokens of the paper.
        tokenizer: a tokenizer of transformers, or a function that counts; None estimates.
        error_rate: share of wrong answers, at least one; in papers of 20 questions or more up to one more or fewer.
        pairs: exactly so many questions; 0 is as many as the length holds.
        depth: where wrong answers may stand, from 0, the beginning, to 1.

    Raises:
        InputError: a number that cannot be, or a pool too small for the length.
    """
    held = pool if isinstance(pool, Pool) else Pool(pool)
    count: Count
    if tokenizer is None:
        count = _estimate
    elif hasattr(tokenizer, "encode"):
        count = lambda text: len(tokenizer.encode(text, add_special_tokens=False))  # noqa: E731
    else:
        count = tokenizer
    return _paper(held, mode, length, count, error_rate, pairs, depth, str(seed))


def _estimate(text: str) -> int:
    return round(len(text) / _CHARACTERS_A_TOKEN)


def _check(mode: str, error_rate: float, pairs: int, depth: Any) -> None:
    if mode not in MODES:
        raise InputError(f"{mode!r} is no mode: choose of {', '.join(MODES)}")
    if not 0 < error_rate <= 0.5:
        raise InputError(f"error_rate is {error_rate}: it must be above 0 and at most 0.5")
    if pairs < 0 or 0 < pairs < _FEWEST:
        raise InputError(f"pairs is {pairs}: it must be 0, or {_FEWEST} or more")
    if not (isinstance(depth, tuple) and len(depth) == 2 and 0 <= depth[0] < depth[1] <= 1):
        raise InputError(f"depth is {depth!r}: write (0, 1), or a part of that")


def _group(number: int, qa: QA, answer: str, mode: Mode) -> tuple[str, int]:
    """A group, and where in it the answer stands."""
    instruction = "" if mode == "GIST" else f"Instruction: {qa.instruction}\n"
    before = f"[{number}. {instruction}Question: {qa.input}\nAnswer:"
    return f"{before} {answer}]", len(before)


def _head(mode: Mode, instruction: str) -> str:
    return f"{_PREAMBLE} {_SHARED}{instruction}" if mode == "GIST" else _PREAMBLE


def _paper(
    pool: Pool, mode: Mode, length: int, count: Count, error_rate: float, pairs: int, depth: Any, name: str
) -> Item:
    _check(mode, error_rate, pairs, depth)
    chance = random.Random(name)
    tasks = sorted(pool.tasks)
    most = 0
    for some in [tasks] if mode == "LIMT" else [[task] for task in chance.sample(tasks, len(tasks))]:
        stock = [qa for task in some for qa in pool.tasks[task]]
        stock = chance.sample(stock, len(stock))[: pairs or None]

        def made(total: int, stock: list[QA] = stock) -> Item:
            """The paper of the first questions."""
            drawn = random.Random(f"{name}-{total}")
            return _marked_paper(pool, stock[:total], mode, length, count, error_rate, depth, drawn, name)

        fewest = max(_FEWEST, pairs)
        found, held = _longest(made, fewest, len(stock), length)
        most = max(most, held)
        if found is not None and (pairs or held < len(stock)):
            return found
    if most < max(_FEWEST, pairs):
        raise InputError(
            f"{length:,} tokens hold fewer than {max(_FEWEST, pairs)} questions of a task in mode {mode}: ask for more "
            "tokens or fewer pairs, or give a larger pool"
        )
    raise InputError(
        f"no task of the pool fills {length:,} tokens in mode {mode} (the largest has {most} questions): give a larger "
        "pool, or ask for fewer tokens or for pairs"
    )


def _longest(made: Callable[[int], Item], fewest: int, most: int, length: int) -> tuple[Item | None, int]:
    """The paper of the most questions that fits into the length, and how many these are; None, 0 where none does."""
    best, fits, too_many = None, fewest - 1, most + 1
    total = fewest
    while too_many - fits > 1:
        paper = made(total)
        tokens = int(paper.group["tokens"])
        if tokens <= length:
            best, fits = paper, total
        else:
            too_many = total
        each = max(1.0, tokens / total)
        total = min(max(total + round((length - tokens) / each), fits + 1), too_many - 1)
    return best, fits if best is not None else 0


def _marked_paper(
    pool: Pool,
    chosen: Sequence[QA],
    mode: Mode,
    length: int,
    count: Count,
    error_rate: float,
    depth: Any,
    chance: random.Random,
    name: str,
) -> Item:
    total = len(chosen)
    share = error_rate * total
    near = [k for k in range(1, total) if abs(k - share) <= 1] if total >= 20 else [max(1, round(share))]
    errors = chance.choice(near)
    places = [i for i in range(total) if depth[0] <= (i + 0.5) / total < depth[1]] or [int(depth[0] * total)]
    gold = sorted(chance.sample(places, min(errors, len(places))))
    head = _head(mode, chosen[0].instruction)
    text, choices, groups = head, [], []
    for i, qa in enumerate(chosen):
        other = pool.wrong(qa, chance)
        answer, alternative = (other, qa.output) if i in gold else (qa.output, other)
        group, at = _group(i + 1, qa, answer, mode)
        options = (f" {answer}", f" {alternative}")
        choices.append(Choice(question="", options=options, right=int(i in gold), upto=len(text) + 1 + at))
        text += f"\n{group}"
        groups.append(group)
    tokens = count(text)
    kinds = sorted({qa.type for qa in chosen})
    return Item(
        id=name,
        context=text,
        pieces=(head, *groups),
        question=_ASKED,
        answer=[i + 1 for i in gold],
        choices=tuple(choices),
        group={
            "mode": mode,
            "length": length,
            "task": chosen[0].task if mode != "LIMT" else "mixed",
            "type": kinds[0] if len(kinds) == 1 else "mixed",
            "pairs": total,
            "errors": len(gold),
            "depth": round(fmean((i + 0.5) / total for i in gold), 4),
            "density": round(1000 * total / tokens, 2),
            "tokens": tokens,
            "characters": len(text),
        },
        new_tokens=24 + 8 * len(gold),
    )


# --- the exam --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LongInsConfig:
    """What papers are made of.

    Raises:
        InputError: a number or a name is not possible.
    """

    pool: str = ""  # JSON lines, or a task of Super-NaturalInstructions or a folder of them; none is the pool made here
    modes: tuple[Mode, ...] = MODES  # n items take turns at them
    tasks: tuple[str, ...] = ()  # of the pool; none is all
    error_rate: float = 0.1  # share of wrong answers (paper: about 10 %)
    pairs: int = 0  # questions of a paper; 0 is as many as the length holds
    depth: tuple[float, float] = (0.0, 1.0)  # where wrong answers may stand

    def __post_init__(self) -> None:
        for name in ("modes", "tasks"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if not self.modes:
            raise InputError(f"modes are empty: choose of {', '.join(MODES)}")
        for mode in self.modes:
            _check(mode, self.error_rate, self.pairs, self.depth)


class LongIns(Exam):
    """Marking papers: the numbers of the wrong answers."""

    slug = "longins"
    Config = LongInsConfig
    least = 128
    breakdown = ("mode", "length")

    @cached_property
    def pool(self) -> Pool:
        """The questions, of the tasks that were chosen."""
        rows: Sequence[QA] = read_pool(str(self.config.pool)) if self.config.pool else made_pool()
        known = sorted({qa.task for qa in rows})
        if unknown := [task for task in self.config.tasks if task not in known]:
            raise InputError(f"{unknown[0]!r} is no task of the pool: choose of {', '.join(known)}")
        return Pool(qa for qa in rows if not self.config.tasks or qa.task in self.config.tasks)

    def estimate(self, text: str) -> int:
        """Characters over 3."""
        return _estimate(text)

    def items(self, n: int, length: int, seed: int, count: Count) -> list[Item]:
        """The modes take turns; a paper has one task, or all that are chosen."""
        config, modes = self.config, self.config.modes
        return [
            _paper(
                self.pool,
                modes[i % len(modes)],
                length,
                count,
                config.error_rate,
                config.pairs,
                config.depth,
                f"{modes[i % len(modes)]}-{length}-{seed}-{i // len(modes)}",
            )
            for i in range(n)
        ]

    def judge(self, item: Item, weighed: Sequence[Sequence[float]]) -> Grade:
        """Marks as many answers as are wrong: those whose log-probability is least above the alternative's."""
        gaps = [stated - other for stated, other in weighed]
        lowest = sorted(range(len(gaps)), key=lambda i: (gaps[i], i))[: len(item.answer)]
        right = sum((gap < 0) == (choice.right == 1) for gap, choice in zip(gaps, item.choices, strict=True)) / len(
            gaps
        )
        said = {i + 1 for i in lowest}
        found = _f1(said, set(item.answer))
        return Grade(found.f1, more={"pairs right": right, **_by_third(item, said)})

    def chance(self, item: Item) -> float:
        """F1 of as many marks as there are wrong answers, by lot."""
        return len(item.answer) / len(item.choices)

    def grade(self, item: Item, text: str) -> Grade:
        """F1 of the last list in brackets; `loose` is F1 by the official rule."""
        found, loose = score(text, item.answer), score(text, item.answer, strict=False)
        more = {"precision": found.precision, "recall": found.recall, "loose": loose.f1}
        return Grade(found.f1, found.parsed, {**more, **_by_third(item, marked(text) or set())})

    def oracle(self, item: Item) -> str:
        """The list."""
        return f"[{', '.join(map(str, item.answer))}]"

    def guess(self, item: Item, chance: random.Random) -> str:
        """As many numbers as a tenth, or whatever the error rate is, of the paper."""
        total = len(item.choices)
        said = chance.sample(range(1, total + 1), max(1, round(self.config.error_rate * total)))
        return f"[{', '.join(map(str, sorted(said)))}]"


_THIRDS = ("first third", "middle third", "last third")


def _by_third(item: Item, said: set[int]) -> dict[str, float]:
    """Share of the wrong answers that were found, by where they stand; thirds without one are left out."""
    found: dict[str, list[float]] = {}
    for number in item.answer:
        third = _THIRDS[min(2, int(3 * (number - 0.5) / len(item.choices)))]
        found.setdefault(third, []).append(float(number in said))
    return {f"recall, {third}": fmean(hits) for third, hits in found.items()}


def by_depth(report: Report) -> dict[str, tuple[int, float]]:
    """For each third of the papers, the number of papers with wrong answers there and the mean share found."""
    out = {}
    for third in _THIRDS:
        shares = [item.more[key] for item in report.items if (key := f"recall, {third}") in item.more]
        if shares:
            out[third] = (len(shares), fmean(shares))
    return out


def solvable(subject: Subject, *, least: float = 0.75, n: int = 30, seed: int = 10_000, **options: Any) -> list[str]:
    """Tasks of the pool of which a subject judges at least such a share of `n` answers rightly, by likelihood.

    Whoever cannot do the questions cannot mark them, at any length. `options` are those of the exam.

    Raises:
        InputError: there is none.
    """
    able = []
    for task in options.pop("tasks", ()) or sorted(LongIns(**options).pool.tasks):
        exam = LongIns(**{"modes": "GIST", **options, "tasks": task, "pairs": 10, "error_rate": 0.5})
        report = run(exam, subject, n=-(-n // 10), lengths=[4096], seed=seed, form="likelihood")
        if fmean(item.more["pairs right"] for item in report.items) >= least:
            able.append(task)
    if not able:
        raise InputError(f"{subject.name} judges no task of the pool rightly in {least:.0%} of the cases")
    return able
