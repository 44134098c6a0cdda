"""Needle Threading (Roberts et al., ICLR 2025, arXiv 2411.05000): following keys through haystacks of pairs.

A haystack is a JSON object of random UUIDs. Six tasks: one needle, several, those whose key is marked, a thread (each
value is the next key), several threads at once, and a thread with branches of which one is the longest. It measures
exact look-up in a context and says nothing of understanding.

Notable choices. Lengths are exact to one pair in tokens of the subject's tokenizer, and characters are always kept,
since tokens do not compare between models. The mark is "*", which no UUID has. A branch is a key whose value is a list.
An item can be sat by likelihood: the right value against three others of the same haystack; for the branched thread the
ends of shorter branches are among them. Several needles and threads score the share that is right, marked ones F1, with
precision and recall beside it; the official figure for these is not known. An answer that cannot be parsed is counted
apart.
"""

from __future__ import annotations

import math
import random
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal, get_args

from memspan.core.errors import InputError
from memspan.probes.base import Choice, Count, Exam, Grade, Item
from memspan.probes.run import Report

Task = Literal["single", "multiple", "conditional", "thread", "multithread", "branched"]
TASKS: tuple[Task, ...] = get_args(Task)
MARK = "*"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_CHARACTERS_A_TOKEN = 1.7  # of UUIDs in the tokenizer of Llama 3.1 (the paper's count)
_DEPTHS = 11  # of single needles: 0, 10, … 100 %


@dataclass(frozen=True, kw_only=True)
class NeedleThreadingConfig:
    """What the haystacks hold.

    Raises:
        InputError: a number or a name is not possible.
    """

    tasks: tuple[Task, ...] = TASKS  # n items take turns at them
    needles: int = 3  # asked for, or marked
    placement: Literal["random", "clustered"] = "random"  # of several needles: clustered ones are neighbours
    steps: int = 2  # k: look-ups of a thread
    threads: int = 2  # at once
    branches: int = 2  # next keys at each step of a branched thread
    direction: Literal["forward", "backward", "random"] = "random"  # in which a thread runs through the haystack
    options: int = 4  # of the likelihood form

    def __post_init__(self) -> None:
        tasks = (self.tasks,) if isinstance(self.tasks, str) else tuple(self.tasks)
        object.__setattr__(self, "tasks", tasks)
        if unknown := [task for task in tasks if task not in TASKS]:
            raise InputError(f"{unknown[0]!r} is no task: choose of {', '.join(TASKS)}")
        for name in ("needles", "steps", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("branches", "options"):
            if getattr(self, name) < 2:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 2")
        if not tasks or self.placement not in ("random", "clustered"):
            raise InputError(
                f"placement is {self.placement!r} and tasks {tasks}: random or clustered, one or more tasks"
            )
        if self.direction not in ("forward", "backward", "random"):
            raise InputError(f"direction is {self.direction!r}: choose forward, backward or random")

    def pairs_needed(self, task: Task) -> int:
        """Pairs of the haystack that a task takes, and the other options."""
        used = {
            "single": 1,
            "multiple": self.needles,
            "conditional": self.needles,
            "thread": self.steps,
            "multithread": self.steps * self.threads,
            "branched": self.steps + max(0, self.steps - 2) * (self.branches - 1),
        }[task]
        return used + self.options - 1


class _Haystack:
    """Pairs with places for needles: no value is a key but where a thread wants it, and nothing is there twice.

    A haystack of fewer pairs is the beginning of one with more.
    """

    def __init__(self, count: int, seed: str) -> None:
        chance = random.Random(seed)
        fresh: dict[str, None] = {}
        while len(fresh) < 2 * count:
            fresh[str(uuid.UUID(int=chance.getrandbits(128), version=4))] = None
        names = list(fresh)
        self.keys, self.values = names[::2], names[1::2]
        self.lists: dict[int, list[str]] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def lines(self) -> list[str]:
        """One line a pair."""
        out = []
        for i, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            held = self.lists.get(i)
            said = f'"{value}"' if held is None else "[" + ", ".join(f'"{one}"' for one in held) + "]"
            out.append(f'"{key}": {said}')
        return out

    def text(self) -> str:
        """The JSON object."""
        return "{" + ",\n".join(self.lines()) + "}"


class NeedleThreading(Exam):
    """Six look-up tasks over haystacks of any length."""

    slug = "needle-threading"
    Config = NeedleThreadingConfig
    least = 200

    def estimate(self, text: str) -> int:
        """Characters over 1.7."""
        return round(len(text) / _CHARACTERS_A_TOKEN)

    def items(self, n: int, length: int, seed: int, count: Count) -> list[Item]:
        """The tasks take turns; single needles stand at depths from 0 to 100 %."""
        tasks = self.config.tasks
        for task in tasks:
            self._check(task, length, max(1, int(1.5 * length / (count(_Haystack(8, "size").text()) / 8))))
        return [self._item(tasks[i % len(tasks)], i // len(tasks), length, seed, count) for i in range(n)]

    def _check(self, task: Task, length: int, pairs: int) -> None:
        needed = self.config.pairs_needed(task)
        if needed > pairs:
            raise InputError(
                f"{length:,} tokens hold fewer than the {needed} pairs that {task} needs: ask for more tokens, or for "
                "fewer needles, steps, threads or branches"
            )

    def _item(self, task: Task, number: int, length: int, seed: int, count: Count) -> Item:
        name = f"{task}-{length}-{seed}-{number}"
        pairs, best = max(1, int(length / (count(_Haystack(32, name).text()) / 32))), None
        for _ in range(8):  # a pair has about as many tokens as another, so this ends after two or three
            if pairs < self.config.pairs_needed(task):
                break
            made = self._made(task, number, pairs, name)
            context = made[0].text()
            tokens = count(context)
            each = tokens / pairs
            if tokens <= length:
                best = (made, context, tokens, pairs)
                if length - tokens < each + 2:
                    break
                pairs += max(1, int((length - tokens) / each))
            elif best is not None and pairs - best[3] == 1:
                break
            else:
                pairs -= max(1, int((tokens - length) / each))
        if best is None:
            self._check(task, length, 0)
        assert best is not None
        (stack, question, answer, choices, group), context, tokens, pairs = best
        sizes = {"length": length, "tokens": tokens, "characters": len(context), "pairs": pairs}
        return Item(
            id=name,
            context=context,
            pieces=tuple(stack.lines()),
            question=question,
            answer=answer,
            choices=tuple(choices),
            group={"task": task, **sizes, **group},
            new_tokens=40 + 40 * len(answer),
        )

    def _made(self, task: Task, number: int, pairs: int, name: str) -> tuple[Any, ...]:
        stack, chance = _Haystack(pairs, name), random.Random(f"{name} places")
        make = {
            "single": self._single,
            "multiple": self._multiple,
            "conditional": self._conditional,
            "thread": self._thread,
            "multithread": self._multithread,
            "branched": self._branched,
        }[task]
        return (stack, *make(stack, number, chance))

    # --- the tasks ---------------------------------------------------------------------------------------------------

    def _single(self, stack: _Haystack, number: int, chance: random.Random) -> tuple[Any, ...]:
        depth = (number % _DEPTHS) / (_DEPTHS - 1)
        at = round(depth * (len(stack) - 1))
        key, value = stack.keys[at], stack.values[at]
        question = f'What is the value of the key "{key}"? Answer with the value only.'
        return question, [value], [self._choice(stack, f'\n"{key}": "', value, chance)], {"depth": depth}

    def _multiple(self, stack: _Haystack, number: int, chance: random.Random) -> tuple[Any, ...]:
        places = self._places(stack, chance)
        keys = ", ".join(f'"{stack.keys[at]}"' for at in places)
        question = f"What are the values of the keys {keys}? Answer with a JSON list of the values, in this order."
        choices = [self._choice(stack, f'\n"{stack.keys[at]}": "', stack.values[at], chance) for at in places]
        return question, [stack.values[at] for at in places], choices, self._spread()

    def _conditional(self, stack: _Haystack, number: int, chance: random.Random) -> tuple[Any, ...]:
        places = sorted(self._places(stack, chance))
        for at in places:
            cut = chance.randrange(1, 36)
            stack.keys[at] = stack.keys[at][:cut] + MARK + stack.keys[at][cut:]
        right = [stack.values[at] for at in places]
        others = [value for i, value in enumerate(stack.values) if i not in places]
        asked = f'\nA value whose key contains "{MARK}": "'
        choices = [self._choice(stack, asked, value, chance, others) for value in right]
        question = f'What are the values of all keys that contain "{MARK}"? Answer with a JSON list of the values.'
        return question, right, choices, {"placement": self.config.placement}

    def _thread(self, stack: _Haystack, number: int, chance: random.Random) -> tuple[Any, ...]:
        places = self._run(list(range(len(stack))), chance)
        start, end = self._link(stack, places)
        question = (
            f'Start with the key "{start}". Its value may itself be a key; go on with the value of that key, until a '
            "value is no key. Answer with that last value only."
        )
        choice = self._choice(stack, f'\nThe last value of the thread from "{start}": "', end, chance, skip=places)
        return question, [end], [choice], self._way()

    def _multithread(self, stack: _Haystack, number: int, chance: random.Random) -> tuple[Any, ...]:
        free = list(range(len(stack)))
        runs = []
        for _ in range(self.config.threads):
            runs.append(self._run(free, chance))
            free = [at for at in free if at not in runs[-1]]
        ends = [self._link(stack, places) for places in runs]
        used = [at for places in runs for at in places]
        question = (
            f"Start with each of the keys {', '.join(f'{chr(34)}{start}{chr(34)}' for start, _ in ends)}. A value may "
            "itself be a key; go on with the value of that key, until a value is no key. Answer with a JSON list of "
            "the last values, in this order."
        )
        choices = [
            self._choice(stack, f'\nThe last value of the thread from "{start}": "', end, chance, skip=used)
            for start, end in ends
        ]
        return question, [end for _, end in ends], choices, {**self._way(), "threads": self.config.threads}

    def _branched(self, stack: _Haystack, number: int, chance: random.Random) -> tuple[Any, ...]:
        """At each step but the last the value is a list; one entry goes on, the others end at once or a step later."""
        steps, others = self.config.steps, self.config.branches - 1
        places = self._run(list(range(len(stack))), chance)
        free = [at for at in chance.sample(range(len(stack)), len(stack)) if at not in places]
        ends: list[str] = []
        for step in range(steps - 1):
            said = [stack.keys[places[step + 1]]]
            for _ in range(others):
                if step < steps - 2:  # a key with a last value: that chain ends before the longest does
                    at = free.pop()
                    said.append(stack.keys[at])
                    ends.append(stack.values[at])
                else:  # no key at all
                    said.append(str(uuid.UUID(int=chance.getrandbits(128), version=4)))
                    ends.append(said[-1])
            chance.shuffle(said)
            stack.lists[places[step]] = said
        start, end = stack.keys[places[0]], stack.values[places[-1]]
        question = (
            f'Start with the key "{start}". Its value is a list whose entries may themselves be keys, whose values may '
            "be lists again, and so on; one chain is longer than all others. Answer with the last value of that chain "
            "only."
        )
        pool = [*ends, *(stack.values[at] for at in free)]
        asked = f'\nThe last value of the longest chain from "{start}": "'
        choice = self._choice(stack, asked, end, chance, pool, near=ends)
        return question, [end], [choice], {**self._way(), "branches": self.config.branches}

    # --- parts of them -----------------------------------------------------------------------------------------------

    def _spread(self) -> dict[str, Any]:
        return {"placement": self.config.placement, "needles": self.config.needles}

    def _way(self) -> dict[str, Any]:
        return {"steps": self.config.steps, "direction": self.config.direction}

    def _places(self, stack: _Haystack, chance: random.Random) -> list[int]:
        if self.config.placement == "clustered":
            first = chance.randrange(len(stack) - self.config.needles + 1)
            places = list(range(first, first + self.config.needles))
            chance.shuffle(places)
            return places
        return chance.sample(range(len(stack)), self.config.needles)

    def _run(self, free: list[int], chance: random.Random) -> list[int]:
        places = chance.sample(free, self.config.steps)
        if self.config.direction != "random":
            places.sort(reverse=self.config.direction == "backward")
        return places

    @staticmethod
    def _link(stack: _Haystack, places: Sequence[int]) -> tuple[str, str]:
        for one, other in pairwise(places):
            stack.values[one] = stack.keys[other]
        return stack.keys[places[0]], stack.values[places[-1]]

    def _choice(
        self,
        stack: _Haystack,
        question: str,
        right: str,
        chance: random.Random,
        others: Sequence[str] = (),
        *,
        skip: Sequence[int] = (),
        near: Sequence[str] = (),
    ) -> Choice:
        """The right value among others of the haystack; those that are `near` come first."""
        pool = list(others) or [value for i, value in enumerate(stack.values) if i not in skip and value != right]
        first = [value for value in near if value in pool][: self.config.options - 1]
        rest = [value for value in pool if value not in first]
        wrong = first + chance.sample(rest, self.config.options - 1 - len(first))
        options = [right, *wrong]
        chance.shuffle(options)
        return Choice(question=question, options=tuple(options), right=options.index(right))

    # --- marking -----------------------------------------------------------------------------------------------------

    def oracle(self, item: Item) -> str:
        """As a JSON list, or the bare value."""
        return item.answer[0] if len(item.answer) == 1 else "[" + ", ".join(f'"{value}"' for value in item.answer) + "]"

    def guess(self, item: Item, chance: random.Random) -> str:
        """Values of the haystack."""
        found = _UUID.findall(item.context)
        return " ".join(chance.choice(found) for _ in item.answer)

    def grade(self, item: Item, text: str) -> Grade:
        """Values by their place; marked needles as a set, by F1."""
        found = [value.lower() for value in _UUID.findall(text)]
        right: list[str] = item.answer
        if not found:
            return Grade(0.0, parsed=False)
        if item.group["task"] == "conditional":
            hits = len(set(found) & set(right))
            precision, recall = hits / len(set(found)), hits / len(right)
            f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
            return Grade(f1, more={"precision": precision, "recall": recall})
        return Grade(sum(a == b for a, b in zip(found, right, strict=False)) / len(right))


# --- what the results say of a model ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Surface:
    """Mean score by size of the haystack and by another group, as for a contour plot.

    Attributes:
        characters: [X] ascending; along: [Y] values of the other group, ascending; score: [Y][X], NaN where nothing
            was asked.
    """

    along: tuple[float, ...]
    characters: tuple[float, ...]
    score: tuple[tuple[float, ...], ...]


def surface(report: Report, along: str = "depth") -> Surface:
    """The scores of a report by length (mean characters of its items) and by depth, or by another number.

    Raises:
        InputError: no item has that number.
    """
    items = [item for item in report.items if isinstance(item.group.get(along), int | float)]
    if not items:
        raise InputError(f"no item of this report has a {along}")
    lengths = sorted({item.group["length"] for item in items})
    values = sorted({float(item.group[along]) for item in items})
    sizes = [fmean(float(item.group["characters"]) for item in items if item.group["length"] == x) for x in lengths]
    cells = []
    for y in values:
        row = []
        for x in lengths:
            scores = [i.score for i in items if i.group["length"] == x and float(i.group[along]) == y]
            row.append(fmean(scores) if scores else math.nan)
        cells.append(tuple(row))
    return Surface(tuple(values), tuple(sizes), tuple(cells))


def effective_length(found: Surface, threshold: float = 0.75) -> tuple[float, ...]:
    """For each row of the surface the characters up to which the score never falls below the threshold (paper, §5).

    Between two sizes the score is a straight line. 0 where it is too low from the start; the largest size where it
    never is.
    """
    out = []
    for row in found.score:
        known = [(x, y) for x, y in zip(found.characters, row, strict=True) if not math.isnan(y)]
        reached = 0.0
        for i, (x, y) in enumerate(known):
            if y >= threshold:
                reached = x
                continue
            if i:
                x0, y0 = known[i - 1]
                reached = x0 + (x - x0) * (y0 - threshold) / (y0 - y)
            break
        out.append(reached)
    return tuple(out)


def characters_a_token(count: Count) -> dict[str, float]:
    """Characters that a token holds on average, in UUIDs, in numbers and in English, by a tokenizer's count."""
    chance = random.Random(0)
    texts = {
        "uuids": _Haystack(64, "tokens").text(),
        "numbers": " ".join(str(chance.randint(0, 99_999)) for _ in range(400)),
        "english": _ENGLISH,
    }
    return {kind: len(text) / count(text) for kind, text in texts.items()}


_ENGLISH = (
    "Nobody remembers everything, and it is as well that nobody does. A mind that kept each leaf of every tree it had "
    "passed would have no room for the wood. What we keep is mostly what surprised us, what we used again, and what "
    "somebody told us twice. The rest goes the way of last year's weather: we know that there was some. A machine that "
    "is to remember on our behalf meets the same question from the other side. It could keep all, and then it must "
    "find; or it must choose, and then it will sometimes have chosen wrongly. Both can be measured, which is more than "
    "can be said of most opinions about memory."
)
