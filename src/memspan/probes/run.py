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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memspan.core.errors import InputError, StoreError
from memspan.models.progress import progress_bar
from memspan.probes.base import FORMS, Exam, Form, Item, Said, Subject, check_length
from memspan.probes.statistics import interval

SCHEMA = "memspan-exam-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of one item.

    Attributes:
        score: from 0 to 1; parsed: false where no answer could be read out of what was written.
        said: what was written, or the option chosen of each choice.
        seconds: that the subject took.
    """

    id: str
    group: Mapping[str, str | int | float]
    score: float
    parsed: bool
    said: str | list[int]
    seconds: float
    more: Mapping[str, float]


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

    def to_json(self) -> dict[str, Any]:
        """Plain values; `items` are whole."""
        said = asdict(self)
        return {**said, "interval": list(self.interval), "lengths": list(self.lengths), "table": self.table()}


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
) -> Report:
    """Let a subject sit an exam.

    Args:
        n: items of each length.
        lengths: in tokens of the subject's tokenizer; estimated where it has none.
        form: "text" or "likelihood"; None takes the one that the exam prefers, or the subject's better one.
        out: a folder for the answers, from which a run goes on.
        progress: show a bar also where stderr is no terminal.

    Raises:
        InputError: numbers that cannot be, a form that exam or subject does not have, or answers of another run.
        StoreError: the folder cannot be written.
    """
    if n < 1 or not lengths:
        raise InputError(f"n is {n} and lengths are {list(lengths)}: at least one item of one length is needed")
    for length in lengths:
        check_length(exam, length)
    form = _form(exam, subject, form)
    estimated = subject.count_tokens("a") is None

    def count(text: str) -> int:
        counted = subject.count_tokens(text)
        return exam.estimate(text) if counted is None else counted

    items = [item for length in lengths for item in exam.items(n, length, seed, count)]
    if twice := {item.id for item in items if sum(other.id == item.id for other in items) > 1}:
        raise InputError(f"{exam.slug} made {sorted(twice)[0]} twice")
    digest = hashlib.sha256("\0".join(f"{item.id}\1{item.context}\1{item.question}" for item in items).encode())
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
            done[item.id] = _marked(exam, item, said, time.perf_counter() - since)
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


def _marked(exam: Exam, item: Item, said: Said, seconds: float) -> Answered:
    kept: str | list[int]
    if isinstance(said, str):
        kept, grade = said, exam.grade(item, said)
    else:
        kept = [max(range(len(scores)), key=scores.__getitem__) for scores in said]
        grade = exam.judge(item, said)
    return Answered(
        id=item.id,
        group=item.group,
        score=grade.score,
        parsed=grade.parsed,
        said=kept,
        seconds=round(seconds, 4),
        more=grade.more,
    )


class Kept:
    """The answers of a run on the disk.

    Raises:
        InputError: the file is of another run.
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
            raise InputError(f"{self.path} holds a run with another {other}: name another --out, or delete it")
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
