"""Grounded answers: knowledge comes from memory, with where it comes from, kept current without touching weights.

The survey itself makes no testable claim; these are the testable contents of its conclusion. Passages are made up from
a seed, with invented names, so that no model can know the answers; the conversation that ships with memspan and its 25
questions were written before any system saw them. The first text of the kNN-LM part is Python's own language reference
as every CPython carries it (`pydoc_data.topics`, PSF licence).

Where the environment variable MEMSPAN_DATA names a folder, the full size also runs on what it has of
`xquad/xquad.en.json` (google-deepmind/xquad, CC BY-SA 4.0), `rgb/en_fact.json` (chen700564/RGB, CC BY-NC-SA 4.0) and
`books/alice29.txt` (google/snappy, public domain).

Expect three kinds of miss. On XQuAD other paragraphs of the same article are left when the right one is taken away,
and a sentence of theirs that shares the question's words is hard to tell from an answer. The best sentence of the
right paragraph is not always the one that holds the value. What the query adapter cannot gain is said in
_knowledge_models.py.
"""

from __future__ import annotations

import atexit
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _knowledge_data import Corpus, Edit, holds, made_up, made_up_edits, rgb, share, token_f1, xquad
from _knowledge_fresh import curve, fresh_files, near_copies
from _knowledge_models import REFERENCE, adapter_on_passages, adapter_on_statements, gradient, nearest_states

from memspan import Episode, Memory
from memspan.core.claims import Evidence, Part, at_least, at_most
from memspan.core.errors import MissingExtraError
from memspan.longterm.knowledge_survey import Answer, ExtractiveJudge, GroundedAnswerer
from memspan.longterm.knowledge_survey.documents import upsert
from memspan.longterm.knowledge_survey.generated import Item, encyclopedia, unanswerable

if TYPE_CHECKING:
    from memspan.models.base import Embedder, LanguageModel

TITLE = "Answers come from a replaceable memory, with checked citations, and change with it"
EXPECTED = "partly"
SEEDS = (0, 1, 2)

# Thresholds, fixed before the first run; those of the adapter, the gradients and kNN-LM stand in _knowledge_models.py,
# those of files, copies and the curve in _knowledge_fresh.py.
TIMES_CLOSED_BOOK = 3.0  # answers that hold the gold value: with memory against the bare model
OF_GOLD_PARAGRAPH = 0.85  # and against being handed the right paragraph
MADE_UP = 0.5  # wrong statements, with memory against the bare model (ours: the survey gives no number)
CITATION_PRECISION, CITATION_RECALL = 0.90, 0.85
SHUFFLED_REJECTED = 0.95
DECLINED_WITHOUT, DECLINED_WITH = 0.80, 0.25  # the right paragraph out of memory, and in it
FOLLOWS_EDIT, RESTORES_OLD = 0.70, 0.95
SHIPPED_RIGHT, SHIPPED_DECLINED = 17.0, 4.0  # of 20 and of 5, on the conversation that ships

# Passages; pages of files and copies; questions of each seed that the best sentence answers, and that the model
# answers; one question each of so many passages, for citations and refusals; pairs for the adapter; tokens of kNN-LM's
# datastore, of its tuning and of its test.
SIZES: dict[str, dict[str, Any]] = {
    "smoke": {
        **{"passages": 40, "pages": 16, "found": 20, "read": 6, "asked": 40, "pairs": 150},
        "tokens": (3000, 1000, 1000),
    },
    "full": {
        **{"passages": 120, "pages": 40, "found": 30, "read": 5, "asked": 60, "pairs": 300},
        "tokens": (20000, 3000, 5000),
    },
}
NEW_TOKENS = 32  # of the language model, with and without memory


def claim(size: str, seed: int) -> Evidence:
    """Every part; two at a time, each process with its own models."""
    data = _data(size)
    jobs = [
        ("from_memory", "made-up passages"),
        ("provenance", "made-up passages"),
        ("up_to_date", "made-up passages"),
        ("fresh_files", ""),
        ("near_copies", "made-up passages"),
        ("curve", "made-up passages"),
        ("gradient", ""),
        ("adapter_on_statements", ""),
    ]
    if data is not None and (data / "xquad").exists():
        jobs += [("from_memory", "XQuAD"), ("provenance", "XQuAD"), ("adapter_on_passages", "XQuAD")]
    parts = [*_together(size, seed, jobs), *_for_every_seed(size)]
    return Evidence(slug="knowledge-survey", size=size, parts=parts)  # type: ignore[arg-type]


@cache
def _for_every_seed(size: str) -> list[Part]:
    """The parts in which nothing is drawn."""
    data = _data(size)
    jobs = [("shipped", "best sentence"), ("nearest_states", REFERENCE)]
    if size == "full":
        jobs.insert(0, ("shipped", "language model"))
    if data is not None and (data / "books" / "alice29.txt").exists():
        jobs.append(("nearest_states", "Alice's Adventures in Wonderland"))
    if data is not None and (data / "rgb").exists():
        jobs.append(("up_to_date", "RGB"))
    return _together(size, 0, jobs)


def _data(size: str) -> Path | None:
    named = os.environ.get("MEMSPAN_DATA")
    return Path(named) if named and size == "full" else None


def _together(size: str, seed: int, jobs: Sequence[tuple[str, str]]) -> list[Part]:
    pool, folder = _workers()
    running = [pool.submit(_job, size, seed, folder.name, *job) for job in jobs]
    return [part for one in running for part in one.result()]


@cache
def _workers() -> tuple[ProcessPoolExecutor, tempfile.TemporaryDirectory[str]]:
    """Two processes that load their models once for all seeds, and the folder of the vectors of all of them."""
    # One thread each: torch's threads wait for each other after every operator. This process loads no torch, so that
    # forking it is safe.
    folder = tempfile.TemporaryDirectory(prefix="memspan-claim-")
    atexit.register(folder.cleanup)
    return ProcessPoolExecutor(2, mp_context=get_context("fork")), folder


def _job(size: str, seed: int, folder: str, name: str, what: str) -> list[Part]:
    """One part of the claim on one corpus, in a process of its own."""
    sizes = SIZES[size]
    data = _data(size) or Path()
    if name == "gradient":
        return [gradient(seed)]
    embedder, model = _loaded(folder)

    def corpus() -> Corpus:
        if what == "XQuAD":
            return xquad(data / "xquad" / "xquad.en.json", seed)
        return made_up(seed, sizes["passages"])

    if name == "from_memory":
        return from_memory(corpus(), embedder, model, sizes["found"], sizes["read"])
    if name == "provenance":
        return provenance(corpus(), embedder, sizes["asked"], seed)
    if name == "up_to_date":
        edits = (
            rgb(data / "rgb" / "en_fact.json")[: sizes["asked"]]
            if what == "RGB"
            else made_up_edits(seed, sizes["asked"])
        )
        return up_to_date(what, edits, embedder)
    if name == "fresh_files":
        return fresh_files(made_up_edits(seed, sizes["pages"]), embedder)
    if name == "near_copies":
        return near_copies(made_up(seed, sizes["pages"]), made_up_edits(seed, sizes["pages"]), embedder)
    if name == "curve":
        return curve(corpus(), embedder, sizes["asked"], seed)
    if name == "adapter_on_statements":
        return [adapter_on_statements(embedder, sizes["pairs"], seed)]
    if name == "adapter_on_passages":
        return [adapter_on_passages(embedder, corpus(), sizes["pairs"], seed)]
    if name == "nearest_states":
        return nearest_states(model, what, data / "books" / "alice29.txt", sizes["tokens"])
    return shipped(embedder, model, what)


@cache
def _loaded(folder: str) -> tuple[Embedder | None, LanguageModel | None]:
    """The bundled models; vectors are kept in the folder, so that no text is embedded twice."""
    from memspan.models import load_embedder, load_language_model

    loaded: list[Any] = []
    for load, options in ((load_embedder, {"cache": Path(folder) / "vectors.db"}), (load_language_model, {})):
        try:
            loaded.append(load("bundled", threads=1, **options))
        except MissingExtraError:
            loaded.append(None)
    return loaded[0], loaded[1]


def _memory(passages: dict[str, str], embedder: Embedder | None) -> Memory:
    memory = Memory.open(":memory:", embedder=embedder, organizer="plain")
    memory.add([Episode(text=text, id=uid) for uid, text in passages.items()])
    return memory


# --- 1. knowledge comes from memory ----------------------------------------------------------------------------------


def from_memory(
    corpus: Corpus, embedder: Embedder | None, model: LanguageModel | None, found: int, read: int
) -> list[Part]:
    """Closed book, with memory, and with the right paragraph alone; by the best sentence and by the language model."""
    label, asked = corpus.label, corpus.items[:found]
    with _memory(corpus.passages, embedder) as memory:
        best = [memory.ask(item.question) for item in asked]
        told = [memory.ask(i.question, model=model, max_new_tokens=NEW_TOKENS) for i in asked[:read]] if model else []
    handed = [_handed(corpus, item, embedder, None) for item in asked]
    parts = [
        Part(
            name=f"with memory, as good as with the right paragraph, best sentence, {label}",
            metric="answers that hold the value",
            value=_right_share(best, asked),
            baseline_name="handed the right paragraph",
            baseline=_right_share(handed, asked),
            threshold=at_least(OF_GOLD_PARAGRAPH, "ratio"),
        )
    ]
    names = ("with memory, as good as with the right paragraph, language model", "knows more", "makes up less")
    names = tuple(f"{name}, {label}" for name in names)
    if model is None:
        missing = "no language model is installed"
        return [*parts, *(Part(name=name, metric="share", untestable=missing) for name in names)]
    asked = asked[:read]
    handed = [_handed(corpus, item, embedder, model) for item in asked]
    closed = [
        model.generate(f"{i.question} Answer in one short sentence.", max_new_tokens=NEW_TOKENS).text for i in asked
    ]
    knew = [holds(text, item.answer) for text, item in zip(closed, asked, strict=True)]
    unsure = re.compile(r"\b(don't|do not|cannot|can't|unable|not (?:sure|aware|familiar))\b", re.IGNORECASE)
    made_up_closed = [not ok and not unsure.search(text) for ok, text in zip(knew, closed, strict=True)]
    wrong = [not a.abstained and not holds(a.text, i.answer) for a, i in zip(told, asked, strict=True)]
    texts = {
        "closed book": closed,
        "with memory": ["" if a.abstained else a.text for a in told],
        "handed the right paragraph": [a.text for a in handed],
    }
    rows = [
        {
            "condition": condition,
            "holds the value": round(share([holds(t, i.answer) for t, i in zip(given, asked, strict=True)]), 3),
            "token F1": round(sum(token_f1(t, i.answer) for t, i in zip(given, asked, strict=True)) / len(asked), 3),
        }
        for condition, given in texts.items()
    ]
    own_words = sum(a.reader == model.name for a in told)
    return [
        *parts,
        Part(
            name=names[0],
            metric="answers that hold the value",
            value=_right_share(told, asked),
            baseline_name="handed the right paragraph",
            baseline=_right_share(handed, asked),
            threshold=at_least(OF_GOLD_PARAGRAPH, "ratio"),
            rows=rows,
        ),
        Part(
            name=names[1],
            metric="answers that hold the value, by the language model",
            value=_right_share(told, asked),
            baseline_name="the bare model",
            baseline=share(knew),
            threshold=at_least(TIMES_CLOSED_BOOK, "ratio"),
            note=f"{own_words} of {len(told)} answers are the model's words that passed the attribution; in the others"
            " the best sentence answered, or none",
        ),
        Part(
            name=names[2],
            metric="statements that are wrong, as a share of the questions",
            value=share(wrong),
            baseline_name="the bare model",
            baseline=share(made_up_closed),
            threshold=at_most(MADE_UP, "ratio"),
        ),
    ]


def _handed(corpus: Corpus, item: Item, embedder: Embedder | None, model: LanguageModel | None) -> Answer:
    with _memory({uid: corpus.passages[uid] for uid in item.evidence}, embedder) as alone:
        return alone.ask(item.question, model=model, abstain_below=0.0, max_new_tokens=NEW_TOKENS)


def _right_share(answers: Sequence[Answer], asked: Sequence[Item]) -> float:
    return share([not a.abstained and holds(a.text, i.answer) for a, i in zip(answers, asked, strict=True)])


# --- 2. provenance ---------------------------------------------------------------------------------------------------


def provenance(corpus: Corpus, embedder: Embedder | None, count: int, seed: int) -> list[Part]:
    """Are citations right, are shuffled ones rejected, and is an answer declined when its evidence is gone?"""
    label, asked = corpus.label, corpus.one_each()[:count]
    with _memory(corpus.passages, embedder) as memory:
        answers = [memory.ask(item.question) for item in asked]
        never = unanswerable(encyclopedia(seed, len(asked)), seed) if label == "made-up passages" else []
        absent = [memory.ask(item.question).abstained for item in never]
        missing = [_without(memory, corpus, item) for item in asked]
    given = [(a, i) for a, i in zip(answers, asked, strict=True) if not a.abstained]
    right = [any(c.episode in i.evidence and holds(c.quote, i.answer) for c in a.citations) for a, i in given]
    cited = [c.episode in i.evidence and holds(c.quote, i.answer) for a, i in given for c in a.citations]
    judge = ExtractiveJudge()
    claims = [a.citations[0] for a, _ in given]
    rejected = [
        judge.support(one.quote, other.text).value < 0.8
        for one, other in zip(claims, [*claims[1:], claims[0]], strict=True)
        if one.episode != other.episode
    ]
    kept = [judge.support(one.quote, one.text).value >= 0.8 for one in claims]
    with_it = share([a.abstained for a in answers])
    parts = [
        Part(
            name=f"citations are right, {label}",
            metric="citations whose span holds the value, of the right paragraph",
            value=share(cited),
            threshold=at_least(CITATION_PRECISION),
        ),
        Part(
            name=f"right citations are given, {label}",
            metric="answers with a right citation, of those not declined",
            value=share(right),
            threshold=at_least(CITATION_RECALL),
        ),
        Part(
            name=f"shuffled citations are rejected, {label}",
            metric="rejected by the judge",
            value=share(rejected),
            baseline_name="right citations, rejected",
            baseline=1 - share(kept),
            threshold=at_least(SHUFFLED_REJECTED),
        ),
        Part(
            name=f"declines when the evidence is gone, {label}",
            metric="declined with the right paragraph out of memory",
            value=share(missing),
            baseline_name="with it in memory",
            baseline=with_it,
            threshold=at_least(DECLINED_WITHOUT),
        ),
        Part(
            name=f"answers when the evidence is there, {label}",
            metric="declined with the right paragraph in memory",
            value=with_it,
            threshold=at_most(DECLINED_WITH),
        ),
    ]
    if absent:
        parts.append(
            Part(
                name=f"declines what was never told, {label}",
                metric="declined, of questions that nothing in memory answers",
                value=share(absent),
                baseline_name="answerable questions, declined",
                baseline=with_it,
                threshold=at_least(DECLINED_WITHOUT),
                note="half ask for something that a known thing was never said to have: the hard half",
            )
        )
    return parts


def _without(memory: Memory, corpus: Corpus, item: Item) -> bool:
    """Whether the question is declined while its paragraph is forgotten; it is added again after."""
    (uid,) = item.evidence
    memory.forget(uid)
    declined = memory.ask(item.question).abstained
    memory.add(Episode(text=corpus.passages[uid], id=uid))
    return declined


# --- 3. up to date ---------------------------------------------------------------------------------------------------


def up_to_date(label: str, edits: Sequence[Edit], embedder: Embedder | None) -> list[Part]:
    """Edit the documents: do the answers follow, and does `as_of` bring the old ones back?"""
    old_time, new_time, between = "2020-01-01", "2022-01-01", "2021-01-01"
    with Memory.open(":memory:", embedder=embedder, organizer="plain") as memory:
        for edit in edits:
            for uid, text in edit.before.items():
                upsert(memory, uid, text, at=old_time)
        before = [memory.ask(edit.question) for edit in edits]
        for edit in edits:
            for uid, text in edit.after.items():
                upsert(memory, uid, text, at=new_time)
        after = [memory.ask(edit.question) for edit in edits]
        then = [memory.ask(edit.question, as_of=between) for edit in edits]

    def right(answer: Answer, values: tuple[str, ...], version: int) -> bool:
        cites = {c.source.get("version") for c in answer.citations}
        return not answer.abstained and holds(answer.text, *values) and cites == {version}

    first = [i for i, (a, e) in enumerate(zip(before, edits, strict=True)) if right(a, e.old, 1)]
    follows = [right(after[i], edits[i].new, 2) for i in first]
    restored = [right(then[i], edits[i].old, 1) for i in first]
    stale = share([holds(after[i].text, *edits[i].old) for i in first])
    return [
        Part(
            name=f"answers follow the memory, {label}",
            metric="new value with a citation of the new version, of those right before the edit",
            value=share(follows),
            baseline_name="still the old value",
            baseline=stale,
            threshold=at_least(FOLLOWS_EDIT),
            note=f"{len(first)} of {len(edits)} were right at first. The memory is believed: an edit that lies is"
            " followed just as well",
        ),
        Part(
            name=f"the old answer comes back at its date, {label}",
            metric="old value with a citation of the old version",
            value=share(restored),
            threshold=at_least(RESTORES_OLD),
        ),
    ]


# --- the conversation that ships -------------------------------------------------------------------------------------


def shipped(embedder: Embedder | None, model: LanguageModel | None, reader: str) -> list[Part]:
    """The right value and the right turn for at least 17 of 20 questions, and at least 4 of 5 declined."""
    from memspan.data import conversation_path, questions
    from memspan.longterm.readers import read_all

    names = (f"the shipped conversation, {reader}", f"the shipped conversation, {reader}, declined")
    by_model = reader == "language model"
    if by_model and model is None:
        return [Part(name=name, metric="", untestable="no language model is installed") for name in names]
    asked = questions()
    with Memory.open(":memory:", organizer=_organizer(), embedder=embedder) as memory:
        memory.add(read_all(conversation_path()))
        ask: Callable[..., Answer] = GroundedAnswerer(memory, model if by_model else None).ask
        given = [(question, ask(question["question"], as_of=question["as_of"])) for question in asked]
    rows = [{"question": q["question"], "answer": a.text, "right": _right(q, a)} for q, a in given]
    known = [_right(q, a) for q, a in given if q["answer"] is not None]
    declined = [a.abstained for q, a in given if q["answer"] is None]
    return [
        Part(
            name=names[0],
            metric=f"questions of {len(known)} with the right value and a citation of the right turn",
            value=float(sum(known)),
            threshold=at_least(SHIPPED_RIGHT),
            rows=rows,
        ),
        Part(
            name=names[1],
            metric=f"unanswerable questions of {len(declined)} that were declined",
            value=float(sum(declined)),
            threshold=at_least(SHIPPED_DECLINED),
        ),
    ]


def _organizer() -> str:
    from importlib.util import find_spec

    return "zep" if find_spec("spacy") else "plain"


def _right(question: dict[str, Any], answer: Answer) -> bool:
    if question["answer"] is None:
        return answer.abstained
    values = [question["answer"], *question.get("aliases", ())]
    cited = {c.episode for c in answer.citations}
    return not answer.abstained and holds(answer.text, *values) and bool(cited & set(question["evidence"]))
