"""Wording an answer from one evidence sentence: the time it means, and who said it."""

from __future__ import annotations

from datetime import datetime, timedelta

from memspan.longterm.knowledge_survey.answer import Citation
from memspan.longterm.knowledge_survey.evidence import Sentence
from memspan.longterm.knowledge_survey.text import Question
from memspan.longterm.scribe.dates import TimeSpan, find_times

_DOCUMENT_KEYS = ("doc", "version", "start", "stop", "source")


def day(moment: datetime) -> str:
    """A date as "16 May 2024"."""
    return f"{moment.day} {moment:%B %Y}"


def written_time(span: TimeSpan) -> str:
    """A resolved time in words and, where it is a day or longer, as ISO: "14 May 2024 (2024-05-14)"."""
    iso = {"year": "%Y", "month": "%Y-%m"}.get(span.precision, "%Y-%m-%d")
    moment = span.start
    if moment is None:
        moment = None if span.end is None else span.end - timedelta(days=1)
    return span.phrase() if moment is None else f"{span.phrase()} ({moment.strftime(iso)})"


def time_answer(sentence: Sentence) -> str:
    """The time that a sentence names, resolved against the day it was said; else that day itself."""
    spans = find_times(sentence.text, sentence.at) or find_times(sentence.whole, sentence.at)
    said = "" if sentence.at is None else f"said on {sentence.at:%Y-%m-%d}"
    if spans:
        span = next((s for s in spans if s.role == "at"), spans[0])
        resolved = f"{span.text} → {written_time(span)}"
        return ", ".join(part for part in (resolved, said) if part)
    return "" if sentence.at is None else f"said on {day(sentence.at)} ({sentence.at:%Y-%m-%d})"


def evidence_text(question: Question, sentence: Sentence) -> str:
    """The sentence as an answer, with the speaker, and with the time in full when the question wants one."""
    text = f"{sentence.speaker}: “{sentence.text}”" if sentence.speaker else sentence.text
    times = time_answer(sentence) if question.kind == "when" else ""
    return f"{text} ({times})" if times else text


def cited(number: int, sentence: Sentence, support: float) -> Citation:
    """A citation of a sentence."""
    return Citation(
        number=number,
        episode=sentence.episode,
        text=sentence.whole,
        speaker=sentence.speaker,
        at=sentence.at,
        support=support,
        span=sentence.span,
        source={key: sentence.metadata[key] for key in _DOCUMENT_KEYS if key in sentence.metadata},
    )
