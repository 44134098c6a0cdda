"""The exam: what is studied, what is asked afterwards, and after how much else."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, ClassVar

from memspan.core.errors import InputError
from memspan.probes.base import Choice, Count, Exam, Form, Grade, Item, Role, Said, Subject
from memspan.probes.few_shot_memories.rouge import rouge
from memspan.probes.few_shot_memories.sets import KINDS, Kind, Pair, other_sentences, pairs
from memspan.probes.sentences import read_sentences
from memspan.probes.students import Student

_TAILS = 4  # options of recall by likelihood
_CHARACTERS_A_TOKEN = 4.4  # of English


@dataclass(frozen=True, kw_only=True)
class FewShotMemoriesConfig:
    """What is studied and how.

    Raises:
        InputError: a number, a name or a file is not possible.
    """

    sets: tuple[Kind, ...] = ("sentences",)  # kinds of sets; "all" is all six
    shots: tuple[int, ...] = (3,)  # times that every text is studied; 0 is the floor, nothing studied
    updates: tuple[int, ...] = (0, 1, 3, 10, 30)  # steps of learning other texts after which it is asked
    tests: tuple[str, ...] = ("recognition", "recall")
    lr: float = 1e-4  # of study; the best of 1e-4, 3e-5, 1e-5 with the paper's batches
    batch: int = 4  # texts of a step of study
    later_lr: float = 1e-5  # of the updates (paper)
    later_batch: int = 4  # texts of an update
    whole: bool = False  # ROUGE of the whole text with its cue, as in the paper, and not of what was to be recalled
    text: str = ""  # a file whose sentences are used; "" makes sentences up
    later: str = ""  # a file whose sentences are learned afterwards; "" makes them up

    def __post_init__(self) -> None:
        for name in ("sets", "shots", "updates", "tests"):
            value = getattr(self, name)
            if isinstance(value, str):
                value = value.split(",")
            object.__setattr__(self, name, (value,) if isinstance(value, int) else tuple(value))
        if self.sets == ("all",):
            object.__setattr__(self, "sets", KINDS)
        for name, known in (("sets", KINDS), ("tests", ("recognition", "recall"))):
            for value in getattr(self, name):
                if value not in known:
                    raise InputError(f"{name} has {value!r}: choose of {', '.join(known)}")
        for name in ("shots", "updates"):
            for value in getattr(self, name):
                if not isinstance(value, int) or value < 0:
                    raise InputError(f"{name} has {value!r}: whole numbers from 0 on")
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))
        if not (self.sets and self.shots and self.updates and self.tests):
            raise InputError("sets, shots, updates and tests must have a value each")
        if self.lr <= 0 or self.later_lr <= 0 or self.batch < 1 or self.later_batch < 1:
            raise InputError(
                f"lr {self.lr} and later_lr {self.later_lr} must be above 0, batch {self.batch} and later_batch "
                f"{self.later_batch} at least 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Item):
    """An item with what comes before it.

    Attributes:
        texts: studied, `shots` times; later: learned after that, `later_batch` for each update.
        cue: of recall, the first half of a text.
    """

    texts: tuple[str, ...]
    later: tuple[str, ...]
    shots: int
    updates: int
    cue: str = ""

    @property
    def recalls(self) -> bool:
        """Whether the text is to be completed, and not to be told from its foil."""
        return bool(self.cue)


class FewShotMemories(Exam):
    """Recognition, recall and retention of texts that were studied a few times."""

    slug = "few-shot-memories"
    Config = FewShotMemoriesConfig
    least = 100
    breakdown = ("test", "set", "length", "shots", "updates")
    curve = "updates"
    role: ClassVar[Role] = "student"

    def estimate(self, text: str) -> int:
        """Characters over 4.4."""
        return -(-int(len(text) * 10) // int(_CHARACTERS_A_TOKEN * 10))

    # --- items -------------------------------------------------------------------------------------------------------

    def items(self, n: int, length: int, seed: int, count: Count) -> list[Trial]:
        """`n` texts of each set, each asked about by each test, after each number of shots and of updates."""
        config = self.config
        corpus = read_sentences(Path(config.text)) if config.text else None
        wanted = max(config.updates) * config.later_batch
        others = read_sentences(Path(config.later)) if config.later else None
        made: list[Trial] = []
        for kind in config.sets:
            chosen, total = [], 0
            for pair in pairs(kind, seed, count, corpus):
                total += count(pair.seen)
                if total > length:
                    break
                chosen.append(pair)
            if len(chosen) < n:
                held = "the text holds" if total <= length else f"{length:,} tokens hold"
                raise InputError(
                    f"{held} {len(chosen)} of the texts of the set {kind}, and {n} are to be asked about: "
                    + ("give more text, or a smaller --n" if total <= length else "a longer --length, or a smaller --n")
                )
            known = {text for pair in chosen for text in (pair.seen, pair.foil)}
            unknown = (text for text in other_sentences(seed, count, others) if text not in known)
            later = tuple(islice(unknown, wanted))
            if len(later) < wanted:
                raise InputError(f"later has {len(later):,} sentences of 8 to 128 tokens, and {wanted:,} are needed")
            made += self._trials(kind, chosen, later, n, length, seed, count)
        return made

    def _trials(
        self, kind: Kind, chosen: list[Pair], later: tuple[str, ...], n: int, length: int, seed: int, count: Count
    ) -> Iterator[Trial]:
        texts = tuple(pair.seen for pair in chosen)
        halves = [_halves(text, count) for text in texts]
        chance = random.Random(f"{kind} {length} {seed} asked")
        asked = chance.sample(range(len(texts)), n)
        for shots in self.config.shots:
            for updates in self.config.updates if shots else (0,):
                before = texts * shots + later[: updates * self.config.later_batch]
                steps = shots * -(-len(texts) // self.config.batch)
                group = {"set": kind, "length": length, "shots": shots, "updates": updates, "steps": steps}
                for test in self.config.tests:
                    chance = random.Random(f"{kind} {length} {seed} {test}")  # the same question at every point
                    for place in asked:
                        yield Trial(
                            id=f"{test}-{kind}-{length}-{seed}-{shots}-{updates}-{place}",
                            context="\n".join(before),
                            pieces=before,
                            group={"test": test, **group},
                            texts=texts,
                            later=later,
                            shots=shots,
                            updates=updates,
                            **(
                                self._recognition(chosen[place], chance)
                                if test == "recognition"
                                else self._recall(halves, place, chance, count)
                            ),
                        )

    @staticmethod
    def _recognition(pair: Pair, chance: random.Random) -> dict[str, Any]:
        options = [pair.seen, pair.foil]
        chance.shuffle(options)
        return {
            "question": "Which of these two stands in the text above, word for word?\n"
            f"1: {options[0]}\n2: {options[1]}\nAnswer with 1 or 2 only.",
            "answer": str(options.index(pair.seen) + 1),
            "choices": (Choice(question="\n", options=tuple(options), right=options.index(pair.seen)),),
            "new_tokens": 8,
        }

    @staticmethod
    def _recall(halves: list[tuple[str, str]], place: int, chance: random.Random, count: Count) -> dict[str, Any]:
        cue, tail = halves[place]
        wrong = list(dict.fromkeys(other for _, other in halves if other != tail))
        options = [tail, *chance.sample(wrong, min(len(wrong), _TAILS - 1))]
        chance.shuffle(options)
        return {
            "question": f"In the text above something begins with these words:\n{cue}\n"
            "Write how it goes on, word for word and nothing else.",
            "answer": tail,
            "cue": cue,
            "choices": (
                Choice(question=f"\n{cue}", options=tuple(f" {one}" for one in options), right=options.index(tail)),
            ),
            "new_tokens": max(1, count(f" {tail}")),
        }

    # --- sitting it --------------------------------------------------------------------------------------------------

    def sit(self, subject: Subject, items: Sequence[Item], form: Form) -> Iterator[tuple[Item, Said]]:
        """A student studies and is asked in batches; whoever cannot study is shown the texts as a context."""
        if not isinstance(subject, Student):
            yield from super().sit(subject, items, form)
            return
        config = self.config
        trials = [item for item in items if isinstance(item, Trial)]
        for (_, _, shots), asked in groupby(trials, lambda t: (t.group["set"], t.group["length"], t.shots)):
            course = list(asked)
            subject.begin()
            if shots:
                subject.study(course[0].texts, exposures=shots, batch=config.batch, lr=config.lr, seed=0)
            done = 0
            for updates, stage in groupby(course, lambda t: t.updates):
                if updates > done:
                    fresh = course[0].later[done * config.later_batch : updates * config.later_batch]
                    subject.study(fresh, batch=config.later_batch, lr=config.later_lr)
                    done = updates
                yield from self._asked(subject, list(stage), form)

    @staticmethod
    def _asked(subject: Student, stage: list[Trial], form: Form) -> Iterator[tuple[Trial, Said]]:
        told: dict[str, str] = {}
        if form == "text" and (recalled := [trial for trial in stage if trial.recalls]):
            cues, tokens = [t.cue for t in recalled], [t.new_tokens for t in recalled]
            told = dict(zip([t.id for t in recalled], subject.complete(cues, tokens), strict=True))
        chosen = [trial for trial in stage if trial.id not in told]
        options = [c.question.strip() + option for trial in chosen for c in trial.choices for option in c.options]
        known = iter(subject.familiarity(options) if options else [])
        weighed = {trial.id: [[next(known) for _ in c.options] for c in trial.choices] for trial in chosen}
        for trial in stage:
            if trial.id in told:
                yield trial, told[trial.id]
            elif form == "text":
                first, second = weighed[trial.id][0]
                yield trial, "1" if first > second else "2"
            else:
                yield trial, weighed[trial.id]

    # --- marking -----------------------------------------------------------------------------------------------------

    def guess(self, item: Item, chance: random.Random) -> str:
        """One of the two, or how another text goes on."""
        if isinstance(item, Trial) and item.recalls:
            return chance.choice(item.choices[0].options)
        return chance.choice("12")

    def grade(self, item: Item, text: str) -> Grade:
        """Recognition: 1 or 2. Recall: ROUGE-L, with ROUGE-1, ROUGE-2 and exact match beside it."""
        if not (isinstance(item, Trial) and item.recalls):
            said = [letter for letter in text if letter in "12"]
            return Grade(float(said[0] == item.answer)) if said else Grade(0.0, parsed=False)
        said_text = text.strip()
        if said_text.startswith(item.cue):
            said_text = said_text[len(item.cue) :].strip()
        tail = rouge(said_text, item.answer)
        whole = rouge(f"{item.cue} {said_text}", f"{item.cue} {item.answer}")
        more = {**tail, "exact": float(said_text == item.answer), "whole_rougeL": whole["rougeL"]}
        return Grade((whole if self.config.whole else tail)["rougeL"], parsed=bool(said_text), more=more)


def _halves(text: str, count: Count) -> tuple[str, str]:
    """The cue, of at most half of the tokens and whole words, at least one, and what follows it."""
    parts = text.split()
    half = count(text) // 2
    cut = 1
    while cut < len(parts) - 1 and count(" ".join(parts[: cut + 1])) <= half:
        cut += 1
    return " ".join(parts[:cut]), " ".join(parts[cut:])
