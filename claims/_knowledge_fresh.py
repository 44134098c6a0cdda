"""Parts of the knowledge survey's claim on what keeps a memory current, and on knowing what it does not hold."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _knowledge_data import Corpus, Edit, holds, share

from memspan import Episode, Memory
from memspan.core.claims import Part, Series, at_least, at_most
from memspan.longterm.knowledge_survey import Answer, GroundedAnswerer, risk_coverage
from memspan.longterm.knowledge_survey.files import remember_files
from memspan.longterm.knowledge_survey.generated import encyclopedia, unanswerable

if TYPE_CHECKING:
    from memspan.models.base import Embedder

# Thresholds, fixed before the first run.
FOLLOWS_FILE, RESTORES_FILE = 0.95, 0.95  # of the questions that were right at first
STALE_SHOWN = 0.0  # passages of versions that do not count, among the first ten
GONE_CITED = 0.0  # answers that cite a document whose file is gone
DISTINCT = 0.95  # of the evidence's places, when every page is there many times
KEPT_APART = 0.95  # pages that differ in one value, both in the evidence
REFUSED = 0.6  # of what cannot be answered, where 80 % of the rest are answered
ANSWERED = 0.8

COPIES = 8
PLACES = 4  # passages of evidence
CURVE_POINTS = 25


class _Clock:
    moment = datetime(2024, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment


def fresh_files(edits: Sequence[Edit], embedder: Embedder | None) -> list[Part]:
    """A folder is read, every second file edited and every fourth removed, and the folder read again."""
    clock = _Clock()
    with (
        tempfile.TemporaryDirectory() as name,
        Memory.open(":memory:", embedder=embedder, now=clock, organizer="plain") as memory,
    ):
        folder = Path(name) / "pages"
        folder.mkdir()
        for place, edit in enumerate(edits):
            (folder / f"{place}.txt").write_text("\n".join(edit.before.values()), encoding="utf-8")
        remember_files(memory, folder)
        before = [memory.ask(edit.question) for edit in edits]
        edited, gone = range(0, len(edits), 2), range(1, len(edits), 4)
        for place in edited:
            (folder / f"{place}.txt").write_text("\n".join(edits[place].after.values()), encoding="utf-8")
        for place in gone:
            (folder / f"{place}.txt").unlink()
        clock.moment = datetime(2025, 1, 1, tzinfo=UTC)
        remember_files(memory, folder, prune=True)
        clock.moment = datetime(2025, 6, 1, tzinfo=UTC)
        after = [memory.ask(edit.question) for edit in edits]
        then = [memory.ask(edit.question, as_of="2024-06-01") for edit in edits]
        stale = [_stale(memory, edit.question, superseded=False) for edit in edits]
        all_versions = [_stale(memory, edit.question, superseded=True) for edit in edits]

    def right(answer: Answer, place: int, values: tuple[str, ...], version: int) -> bool:
        cited = {(c.source.get("doc"), c.source.get("version")) for c in answer.citations}
        return not answer.abstained and holds(answer.text, *values) and cited == {(f"pages/{place}.txt", version)}

    first = {i for i, edit in enumerate(edits) if right(before[i], i, edit.old, 1)}
    changed = [i for i in edited if i in first]
    replaced = [i for i in (*edited, *gone) if i in first]
    withdrawn = [any(c.source.get("doc") == f"pages/{i}.txt" for c in after[i].citations) for i in gone]
    marks = [bool({"superseded_by", "withdrawn"} & then[i].citations[0].source.keys()) for i in replaced]
    return [
        Part(
            name="files read again are followed",
            metric="new value with a citation of the new version, of those right before the edit",
            value=share([right(after[i], i, edits[i].new, 2) for i in changed]),
            baseline_name="still the old value",
            baseline=share([holds(after[i].text, *edits[i].old) for i in changed]),
            threshold=at_least(FOLLOWS_FILE),
        ),
        Part(
            name="what files said before comes back at its date, marked as superseded",
            metric="old value with a citation of the old version that names what replaced it",
            value=share([right(then[i], i, edits[i].old, 1) and ok for i, ok in zip(replaced, marks, strict=True)]),
            threshold=at_least(RESTORES_FILE),
        ),
        Part(
            name="recall shows no version that does not count",
            metric="passages of superseded or withdrawn versions among the first ten",
            value=share([one for row in stale for one in row]),
            baseline_name="with superseded versions asked for",
            baseline=share([one for row in all_versions for one in row]),
            threshold=at_most(STALE_SHOWN),
        ),
        Part(
            name="documents whose files are gone answer no longer",
            metric="answers that cite them",
            value=share(withdrawn),
            threshold=at_most(GONE_CITED),
        ),
    ]


def _stale(memory: Memory, question: str, *, superseded: bool) -> list[bool]:
    hits = memory.recall(question, superseded=superseded)
    return [bool({"superseded_by", "withdrawn"} & hit.metadata.keys()) for hit in hits]


def near_copies(corpus: Corpus, edits: Sequence[Edit], embedder: Embedder | None) -> list[Part]:
    """Every page stands in the memory many times over, and pages that differ in one value stand there twice."""
    asked = corpus.one_each()
    pages = {
        f"{uid}-{number}": _copied(text, number) for uid, text in corpus.passages.items() for number in range(COPIES)
    }
    with Memory.open(":memory:", embedder=embedder, organizer="plain") as memory:
        memory.add([Episode(text=text, id=uid) for uid, text in pages.items()])
        answerer = GroundedAnswerer(memory, k=PLACES, abstain_below=0.0)
        answers = [answerer.ask(item.question) for item in asked]
        plain = [memory.recall(item.question, PLACES) for item in asked]
    with Memory.open(":memory:", embedder=embedder, organizer="plain") as memory:
        for number, edit in enumerate(edits):
            texts = ("\n".join(edit.before.values()), "\n".join(edit.after.values()))
            memory.add([Episode(text=text, id=f"{number}-{side}") for side, text in enumerate(texts)])
        answerer = GroundedAnswerer(memory, k=PLACES, abstain_below=0.0)
        both = [
            {f"{n}-0", f"{n}-1"} <= {hit.id for hit in answerer.ask(edit.question).recollections}
            for n, edit in enumerate(edits)
        ]

    def distinct(found: Sequence[Any]) -> float:
        return len({hit.id.rpartition("-")[0] for hit in found}) / PLACES

    return [
        Part(
            name="copies do not fill the evidence",
            metric="different pages, as a share of the places",
            value=sum(distinct(a.recollections) for a in answers) / len(answers),
            baseline_name="the first passages of recall",
            baseline=sum(map(distinct, plain)) / len(plain),
            threshold=at_least(DISTINCT),
            note=f"{COPIES} copies of each of {len(corpus.passages)} pages, with other spaces, capitals and line ends",
        ),
        Part(
            name="pages that differ in one value are no copies",
            metric="both are in the evidence",
            value=share(both),
            threshold=at_least(KEPT_APART),
        ),
    ]


def _copied(text: str, number: int) -> str:
    """The text as another program would have saved it."""
    match number % 4:
        case 1:
            return text.replace(" ", "  ")
        case 2:
            return text.replace(". ", ".\n")
        case 3:
            return f"{text} "
    return text.replace(", ", " , ")


def curve(corpus: Corpus, embedder: Embedder | None, count: int, seed: int) -> list[Part]:
    """Risk against coverage on questions that the passages answer and on questions that nothing answers."""
    asked = corpus.one_each()[:count]
    never = unanswerable(encyclopedia(seed, count), seed)
    with Memory.open(":memory:", embedder=embedder, organizer="plain") as memory:
        memory.add([Episode(text=text, id=uid) for uid, text in corpus.passages.items()])
        answerer = GroundedAnswerer(memory, abstain_below=0.0)
        answers = [answerer.ask(item.question) for item in (*asked, *never)]
    right = [holds(a.text, i.answer) for a, i in zip(answers, asked, strict=False)] + [False] * len(never)
    known = [True] * len(asked) + [False] * len(never)
    found = risk_coverage([a.confidence for a in answers], right, known)
    threshold = found.threshold(coverage=ANSWERED)
    step = max(1, len(answers) // CURVE_POINTS)
    xs, ys = found.coverage[step - 1 :: step].tolist(), found.risk[step - 1 :: step].tolist()
    chance = 1 - share(right)
    return [
        Part(
            name=f"knows what it does not hold, {corpus.label}",
            metric=f"declined of what nothing answers, where {ANSWERED:.0%} of the rest are answered",
            value=found.refused(threshold),
            baseline_name="declined at random",
            baseline=1 - ANSWERED,
            threshold=at_least(REFUSED),
            note=f"area under the risk-coverage curve {found.aurc:.3f} (answers in a random order {chance:.3f}),"
            f" AUROC {found.auroc:.3f}; {len(asked)} questions with an answer, {len(never)} without",
            series=Series(
                lines={"by confidence": (xs, ys), "in a random order": (xs, [chance] * len(xs))},
                x_label="coverage: share of the questions that are answered",
                y_label="risk: share of wrong answers",
                title="Risk and coverage",
            ),
        )
    ]
