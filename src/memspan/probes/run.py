"""Running an exam: items in order, each answer on the disk at once, and a report.

A run with a folder goes on where it stopped, after Ctrl-C, a kill or an endpoint that fell silent: what was answered is
read back from `<exam>-<subject>.jsonl`, whose first line says what the run was.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memspan.core.errors import InputError, StoreError
from memspan.models.progress import progress_bar
from memspan.probes.base import FORMS, Exam, Form, Item, Said, Subject, check_length, likeliest
from memspan.probes.statistics import interval

SCHEMA = "memspan-exam-1"
KS = (5, 10, 20)
"""Of evidence recall: the share of an item's evidence among the first k that a subject recalls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of one item.

    Attributes:
        score: from 0 to 1; parsed: false where no answer could be read out of what was written.
        said: what was written, or the option chosen of each choice.
        seconds: that the subject took.
        more: further figures: those of the grade, recall@k of the evidence, and the bytes by which the subject
            remembered the item's context, where it tells them.
    """

    id: str
    group: Mapping[str, str | int | float]
    score: float
    parsed: bool
    said: str | list[int]
    seconds: float
    more: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over `n` items with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An exam as a subject sat it.

    Attributes:
        score: mean over the items, from 0 to 1; interval: its 95 % interval.
        chance: what a guesser would reach, None in the text form.
        failures: items whose answer could not be read.
        estimated: lengths were estimated, as the subject has no tokenizer.
        lengths: in tokens.
    """

    exam: str
    subject: str
    form: Form
    score: float
    interval: tuple[float, float]
    n: int
    failures: int
    chance: float | None
    seconds: float
    seed: int
    lengths: tuple[int, ...]
    estimated: bool
    items: tuple[Answered, ...]
    breakdown: tuple[str, ...]
    curve: str = ""

    def by(self, *names: str) -> dict[tuple[Any, ...], list[Answered]]:
        """Items by the values of some groups, in order of first appearance."""
        found: dict[tuple[Any, ...], list[Answered]] = {}
        for item in self.items:
            found.setdefault(tuple(item.group.get(name) for name in names), []).append(item)
        return found

    def table(self) -> list[dict[str, Any]]:
        """A row for each cell of the breakdown: its values, n, score and interval."""
        rows = []
        for values, items in self.by(*self.breakdown).items():
            scores = [item.score for item in items]
            low, high = interval(scores)
            named = dict(zip(self.breakdown, values, strict=True))
            rows.append({**named, "n": len(items), "score": sum(scores) / len(scores), "low": low, "high": high})
        return rows

    def figures(self) -> dict[str, Figure]:
        """Means of the further figures that the items have, such as recall@10 of the evidence."""
        names = dict.fromkeys(name for item in self.items for name in item.more if name != "bytes")
        found = {}
        for name in names:
            values = [item.more[name] for item in self.items if name in item.more]
            found[name] = Figure(sum(values) / len(values), *interval(values), len(values))
        return found

    @property
    def bytes(self) -> int | None:
        """The most bytes by which the subject remembered a context; None where it does not tell."""
        return max((int(item.more["bytes"]) for item in self.items if "bytes" in item.more), default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `items` are whole."""
        said = asdict(self)
        more = {"figures": {name: asdict(figure) for name, figure in self.figures().items()}, "bytes": self.bytes}
        return {**said, **more, "interval": list(self.interval), "lengths": list(self.lengths), "table": self.table()}


def run(
    exam: Exam,
    subject: Subject,
    *,
    n: int = 20,
    lengths: Sequence[int] = (1024,),
    seed: int = 0,
    form: Form | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
    alike: bool = False,
) -> Report:
    """Let a subject sit an exam.

    Args:
        n: items of each length.
        lengths: in tokens of the subject's tokenizer; estimated where it has none.
        form: "text" or "likelihood"; None takes the one that the exam prefers, or the subject's better one.
        out: a folder for the answers, from which a run goes on.
        progress: show a bar also where stderr is no terminal.
        alike: lengths are estimated for every subject, so that all sit the same items.

    Raises:
        InputError: numbers that cannot be, a form that exam or subject does not have, or answers of another run.
        StoreError: the folder cannot be written.
    """
    if n < 1 or not lengths:
        raise InputError(f"n is {n} and lengths are {list(lengths)}: at least one item of one length is needed")
    for length in lengths:
        check_length(exam, length)
    form = _form(exam, subject, form)
    estimated = alike or subject.count_tokens("a") is None

    def count(text: str) -> int:
        counted = None if alike else subject.count_tokens(text)
        return exam.estimate(text) if counted is None else counted

    items = [item for length in lengths for item in exam.items(n, length, seed, count)]
    if twice := [name for name, times in Counter(item.id for item in items).items() if times > 1]:
        raise InputError(f"{exam.slug} made {sorted(twice)[0]} twice")
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.id}\1{item.context}\1{item.question}\0".encode())
    head = {
        "schema": SCHEMA,
        "exam": exam.slug,
        "subject": subject.name,
        "form": form,
        "seed": seed,
        "options": json.loads(json.dumps(asdict(exam.config), default=str)),
        "items": digest.hexdigest(),
    }
    kept = None if out is None else Kept(Path(out).expanduser(), head)
    done = {} if kept is None else kept.done
    begun = time.perf_counter()
    with progress_bar(f"{exam.slug}, {subject.name}", len(items), force=progress) as advance:
        waiting = [item for item in items if item.id not in done]
        advance(len(items) - len(waiting))
        since = begun
        for item, said in exam.sit(subject, waiting, form):
            seconds = time.perf_counter() - since
            done[item.id] = _marked(exam, item, said, seconds, _memory(subject, item))
            if kept is not None:
                kept.add(done[item.id])
            advance(1)
            since = time.perf_counter()
    answered = tuple(done[item.id] for item in items)
    scores = [one.score for one in answered]
    chances = [exam.chance(item) for item in items if item.choices]
    return Report(
        exam=exam.slug,
        subject=subject.name,
        form=form,
        score=sum(scores) / len(scores),
        interval=interval(scores),
        n=len(answered),
        failures=sum(not one.parsed for one in answered),
        chance=sum(chances) / len(chances) if form == "likelihood" and chances else None,
        seconds=time.perf_counter() - begun,
        seed=seed,
        lengths=tuple(lengths),
        estimated=estimated,
        items=answered,
        breakdown=exam.breakdown,
        curve=exam.curve,
    )


def _form(exam: Exam, subject: Subject, form: Form | None) -> Form:
    if form is not None and form not in FORMS:
        raise InputError(f"form is {form!r}: choose one of {', '.join(FORMS)}")
    both = [one for one in subject.forms if one in exam.forms]
    if form is None and both:
        return exam.prefers if exam.prefers in both else both[0]
    if form in both:
        assert form is not None
        return form
    raise InputError(
        f"{subject.name} can answer by {' or '.join(subject.forms)}, and {exam.slug} asks for "
        f"{form or ' or '.join(exam.forms)}"
    )


def _marked(exam: Exam, item: Item, said: Said, seconds: float, memory: Mapping[str, float]) -> Answered:
    kept: str | list[int]
    if isinstance(said, str):
        kept, grade = said, exam.grade(item, said)
    else:
        kept = [likeliest(figures) for figures in said]
        grade = exam.judge(item, said)
    return Answered(
        id=item.id,
        group=item.group,
        score=grade.score,
        parsed=grade.parsed,
        said=kept,
        seconds=round(seconds, 4),
        more={**grade.more, **memory},
    )


def _memory(subject: Subject, item: Item) -> dict[str, float]:
    """Evidence recall, and the bytes held, where the subject tells them."""
    found: dict[str, float] = {}
    recalled, held = getattr(subject, "recalled", None), getattr(subject, "held", None)
    if item.evidence and recalled is not None:
        ids, wanted = recalled(item, max(KS)), set(item.evidence)
        found |= {f"recall@{k}": len(wanted & set(ids[:k])) / len(wanted) for k in KS}
    footprint = None if held is None else held()
    return found if footprint is None else {**found, "bytes": footprint.total}


class OtherRunError(InputError):
    """The answers in a folder are of another run."""


class Kept:
    """The answers of a run on the disk.

    Raises:
        OtherRunError: the file is of another run.
        StoreError: it cannot be written.
    """

    def __init__(self, folder: Path, head: dict[str, Any]) -> None:
        name = re.sub(r"[^\w.-]+", "_", f"{head['exam']}-{head['subject']}-{head['form']}")
        self.path = folder / f"{name}.jsonl"
        self.done: dict[str, Answered] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        except OSError as error:
            raise StoreError(f"answers cannot be kept in {folder}: {error}") from error
        rows = [row for line in lines if (row := _row(line)) is not None]
        if rows and rows[0] != head:
            other = next((key for key in head if rows[0].get(key) != head[key]), "file")
            raise OtherRunError(f"{self.path} holds a run with another {other}: name another --out, or delete it")
        for row in rows[1:]:
            self.done[row["id"]] = Answered(**row)
        try:
            # A line that a kill cut short is dropped with the rewriting.
            whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [head, *rows[1:]])
            scratch = self.path.with_suffix(".part")
            scratch.write_text(whole, encoding="utf-8")
            scratch.replace(self.path)
        except OSError as error:
            raise StoreError(f"answers cannot be kept in {folder}: {error}") from error

    def add(self, answer: Answered) -> None:
        """One more line, on the disk when this returns."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"answers cannot be kept in {self.path}: {error}") from error


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None
