"""`memspan probe`: an exam of whatever a subject names, with a report; all exams with a report card; exams as files."""

from __future__ import annotations

import argparse
import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memspan.core.errors import InputError

if TYPE_CHECKING:
    from memspan.models.base import LanguageModel
    from memspan.probes.base import Exam, Subject
    from memspan.probes.run import Report

SUBJECTS = (
    "a model (bundled, a Hugging Face id, a path, openai:URL#MODEL), context:SLUG[@BYTES][:MODEL], memory:ORGANIZER, "
    "weights:MODEL (learns what is shown, and answers without it), retrieval:MODEL[,shuffled] (is shown what a store "
    "finds), oracle, guesser; shuffled:, blind: or undated: (keeps no times) before any of them; of loco also "
    "embedder:MODEL, chunks:MODEL and bm25"
)
ALL = "all"


def add_options(sub: argparse.ArgumentParser) -> None:
    """The options of `probe`."""
    from memspan.cli.learning import add_option

    sub.add_argument(
        "exam", metavar="EXAM", help="memspan systems --folder probes, episodic, locomo, beam, longmemeval; or all"
    )
    sub.add_argument(
        "--subject",
        action="append",
        metavar="SPEC",
        help=f"who sits it (default: bundled): {SUBJECTS}; with all, several",
    )
    sub.add_argument(
        "--length", metavar="N,N", help="tokens of what is shown, as 512,1k,8k; 0: a recorded conversation whole"
    )
    sub.add_argument("--n", type=int, metavar="N", help="items of each length (default: 20; of all: 12)")
    sub.add_argument("--form", choices=("text", "likelihood"), help="write, or weigh options; the subject's better one")
    sub.add_argument("--seed", type=int, default=0, help="of the items (default: 0)")
    sub.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="each wait for an endpoint (default: 60)"
    )
    sub.add_argument(
        "--data", action="append", default=[], metavar="PATH", help="files of locomo, beam or longmemeval (repeatable)"
    )
    sub.add_argument("--out", metavar="DIR", help="keep answers, report and plot here, and go on from there")
    sub.add_argument("--export", choices=("lm-eval", "inspect"), help="write the exam into --out as a task of theirs")
    add_option(sub)


def probe(options: argparse.Namespace) -> int:
    """`memspan probe`."""
    subjects = list(dict.fromkeys(options.subject or ["bundled"]))
    if options.exam == ALL:
        from memspan.cli.carding import card

        return card(options, subjects)
    if len(subjects) > 1:
        raise InputError(f"{len(subjects)} subjects sit side by side in `memspan probe all`; {options.exam} takes one")
    exam = exam_of(options)
    lengths = lengths_of(options) or list(exam.usual)
    if options.export:
        return _export(options, exam, lengths)
    from memspan.probes.run import run

    report = run(
        exam,
        subject_of(subjects[0], exam, options.seed, options.timeout),
        n=_many(options),
        lengths=lengths,
        seed=options.seed,
        form=options.form,
        out=options.out,
        progress=not options.quiet and sys.stderr.isatty(),
    )
    kept = None if options.out is None else _keep(report, Path(options.out).expanduser())
    if options.json:
        print(json.dumps(report.to_json(), ensure_ascii=False, indent=2))
        return 0
    print(_shown(report))
    if kept is not None and not options.quiet:
        print(f"\nthe answers, the report and the plot: {kept}", file=sys.stderr)
    return 0


def exam_of(options: argparse.Namespace) -> Exam:
    """The exam that was named, with its settings and its data.

    Raises:
        InputError: there is none of this name, or its data is missing or of another layout.
    """
    from memspan.cli.learning import settings
    from memspan.probes.find import find_exam
    from memspan.probes.recorded import Recorded

    kind = find_exam(options.exam)
    if not issubclass(kind, Recorded):
        if options.data:
            raise InputError(f"{options.exam} makes its items itself and takes no --data")
        return kind(**settings(options))
    found = recordings(options.data).get(kind.layout, [])
    if not found:
        wanted = f"{kind.slug} asks about conversations in its layout: name their file with --data"
        raise InputError(f"{', '.join(options.data)}: no such layout; {wanted}" if options.data else wanted)
    return kind(conversations=found, **settings(options))


def recordings(paths: list[str]) -> dict[str, list[Any]]:
    """Conversations with questions in files and folders, by layout."""
    from memspan.longterm.readers.questions import load

    found: dict[str, list[Any]] = {}
    for path in paths:
        for dataset in load(Path(path).expanduser(), unanswerable=True):
            found.setdefault(dataset.layout, []).extend(dataset.conversations)
    return found


def lengths_of(options: argparse.Namespace) -> list[int]:
    """What --length said."""
    return [] if options.length is None else [_length(part) for part in options.length.split(",")]


def _many(options: argparse.Namespace) -> int:
    """Items of each length, of one exam."""
    return 20 if options.n is None else int(options.n)


def _export(options: argparse.Namespace, exam: Exam, lengths: list[int]) -> int:
    if options.out is None:
        raise InputError("--export needs a folder to write to: --out DIR")
    from memspan.probes.export import export

    items = [item for length in lengths for item in exam.items(_many(options), length, options.seed, exam.estimate)]
    files = export(exam, items, options.export, Path(options.out).expanduser(), options.form)
    if options.json:
        print(json.dumps({"exam": exam.slug, "items": len(items), "files": [str(path) for path in files]}, indent=2))
    else:
        print("\n".join(str(path) for path in files))
    return 0


def subject_of(spec: str, exam: Exam, seed: int = 0, timeout: float = 60.0) -> Subject:
    """Whoever a spec names; `timeout` is in seconds, of an endpoint.

    Raises:
        InputError: it names nobody.
    """
    from memspan.probes.subjects import Blind, Guesser, ModelSubject, Oracle, Shuffled, Undated

    kind, colon, rest = spec.partition(":")
    if kind in ("memory", "context", "shuffled", "undated") and colon and not rest.removeprefix("memory:"):
        raise InputError(f"--subject {spec} names nobody behind the colon: {SUBJECTS}")
    if spec == "oracle":
        return Oracle(exam)
    if spec == "guesser":
        return Guesser(exam, seed)
    if kind in ("shuffled", "blind", "undated", "weights", "retrieval") and colon and exam.role != "reader":
        raise InputError(f"{exam.slug} has no {kind} subjects: it shows no context to change")
    undated = spec.startswith("undated:memory:")  # a store has times of its own for what comes without
    if kind == "undated" and colon and not undated:
        return Undated(subject_of(rest, exam, seed, timeout))
    if kind == "shuffled" and colon:
        return Shuffled(subject_of(rest, exam, seed, timeout), seed)
    if kind == "blind" and colon:
        return Blind(subject_of(rest, exam, seed, timeout))
    if undated or (kind == "memory" and colon):
        from memspan.longterm.examined import StoreRetriever, StoreStudent, StoreSubject
        from memspan.longterm.organizers import load_organizer

        organizer = spec.rpartition(":")[2]
        load_organizer(organizer, "rules")
        kinds = {"reader": StoreSubject, "student": StoreStudent, "retriever": StoreRetriever}
        return kinds[exam.role](organizer, dated=not undated)
    if spec == "bm25" or (kind in ("embedder", "chunks") and colon):
        if exam.role != "retriever":
            raise InputError(f"{spec} ranks documents, and {exam.slug} asks for more: it can sit loco")
        return _retriever(kind, rest, spec)
    from memspan.models import load_language_model

    load = partial(load_language_model, timeout=timeout)
    if kind == "weights" and colon:
        from memspan.probes.in_weights import WeightsSubject

        return WeightsSubject(load(rest, dtype="float32"), name=spec)
    if kind == "retrieval" and colon:
        from memspan.longterm.examined import RetrievalSubject

        reader, mixed = _worded(rest, "shuffled")
        return RetrievalSubject(subject_of(reader, exam, seed, timeout), in_order=not mixed)
    if kind == "context" and colon:
        from memspan.context.bounded import BoundedLanguageModel

        system, _, model = rest.partition(":")
        slug, _, budget = system.partition("@")
        from memspan.context.reader import find_system

        find_system(slug)
        bounded = BoundedLanguageModel(load(model or "bundled"), slug, budget or None)
        return _ranking(bounded, spec) if exam.role == "retriever" else ModelSubject(bounded, spec)
    if exam.role == "student":
        from memspan.models.local import TransformersLanguageModel
        from memspan.probes.students import ModelStudent

        taught = load(spec, dtype="float32")
        return (
            ModelStudent(taught, spec) if isinstance(taught, TransformersLanguageModel) else ModelSubject(taught, spec)
        )
    loaded = load(spec)
    return _ranking(loaded, spec) if exam.role == "retriever" else ModelSubject(loaded, spec)


def _retriever(kind: str, name: str, spec: str) -> Subject:
    from memspan.probes.retrievers import VectorRetriever, WordRetriever

    if kind == "bm25":
        return WordRetriever()
    from memspan.longterm.passages import chunks
    from memspan.models import load_embedder

    if kind == "embedder":
        return VectorRetriever(load_embedder(name), spec)
    return VectorRetriever(load_embedder(name), spec, lambda text: [text[a:b] for a, b in chunks(text)])


def _ranking(model: LanguageModel, spec: str) -> Subject:
    """By likelihood, where the model has any; else it is shown all documents."""
    from memspan.probes.retrievers import LikelihoodRetriever
    from memspan.probes.subjects import ModelSubject

    shown = ModelSubject(model, spec)
    return LikelihoodRetriever(model, spec) if "likelihood" in shown.forms else shown


def _worded(spec: str, word: str) -> tuple[str, bool]:
    """What stands before a word behind a comma, and whether that is there."""
    before, comma, after = spec.rpartition(",")
    if not comma:
        return spec, False
    if after != word:
        raise InputError(f"{spec!r}: {after!r} is not known here; {word} is")
    return before, True


def _length(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(k?)", text.strip().lower())
    if not found:
        raise InputError(f"--length {text!r} is no number of tokens: write 512, 1k or 1k,8k")
    value = float(found[1]) * (1000 if found[2] else 1)
    return int(value)


def _keep(report: Report, folder: Path) -> Path:
    name = re.sub(r"[^\w.-]+", "_", f"{report.exam}-{report.subject}-{report.form}")
    (folder / f"{name}.json").write_text(json.dumps(report.to_json(), ensure_ascii=False, indent=1), encoding="utf-8")
    from memspan.probes.plot import plot

    plot(report, folder / f"{name}.png")
    return folder


def _shown(report: Report) -> str:
    from memspan.cli.verbs import _table

    rows = []
    for row in report.table():
        named = [str(row[name]) for name in report.breakdown]
        rows.append([*named, str(row["n"]), f"{row['score']:.1%}", f"{row['low']:.1%} – {row['high']:.1%}"])
    low, high = report.interval
    rows.append(
        ["all", *[""] * (len(report.breakdown) - 1), str(report.n), f"{report.score:.1%}", f"{low:.1%} – {high:.1%}"]
    )
    said = [f"{report.exam}, {report.subject}, by {report.form}"]
    if report.chance is not None:
        said.append(f"chance is {report.chance:.0%}")
    if report.failures:
        said.append(f"{report.failures:,} answers could not be read")
    if report.estimated:
        said.append("lengths are estimated, as the subject has no tokenizer")
    lines = _table(
        [*report.breakdown, "n", "score", "95 % interval"],
        rows,
        right=set(range(len(report.breakdown), len(report.breakdown) + 3)),
    )
    shown = "; ".join(said) + "\n\n" + lines
    if figures := report.figures():
        more = [
            [name, str(one.n), f"{one.value:.1%}", f"{one.low:.1%} – {one.high:.1%}"] for name, one in figures.items()
        ]
        shown += "\n\n" + _table(["beside it", "n", "mean", "95 % interval"], more, right={1, 2, 3})
    return shown
