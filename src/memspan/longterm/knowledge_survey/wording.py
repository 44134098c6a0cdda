"""Wording an answer from one evidence sentence: the time it means, and who said it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from memspan.longterm.knowledge_survey.answer import Citation
from memspan.longterm.knowledge_survey.features import Sentence, last_question
from memspan.longterm.knowledge_survey.text import Question, sentence_spans, stems, words
from memspan.longterm.scribe.dates import TimeSpan, find_times

_WHOLE = 160  # characters up to which a turn is quoted whole
_TOGETHER = 200  # characters up to which two turns are quoted side by side
_LEANING = 15  # words up to which a reply is shown with the question it answers
_OPENS_WITH_PRONOUN = re.compile(r"(?:and |but |so |then )?(?:he|she|it|they|this|that|his|her|its|their)\b", re.I)
_DOCUMENT_KEYS = (
    *("doc", "version", "start", "stop", "source"),
    *("superseded_by", "withdrawn", "valid_until"),  # what replaced the version that is cited
    "copies",
)


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
    """The sentence as an answer: who said it, what they were asked, and the time in full when the question wants one.

    A short turn is quoted whole, since its sentences lean on each other; of a longer one the sentence, with the one
    before it when it opens with a pronoun.
    """
    caption = sentence.caption
    pictured = caption is not None and (sentence.text == caption or bool(stems(caption) & question.weights.keys()))
    photo = f" (photo: {caption})" if pictured else ""
    if not sentence.speaker:
        text = f"{sentence.text if sentence.text != caption else sentence.whole}{photo}"
    else:
        asked = sentence.asked
        quoted = _quoted(sentence)
        leans = asked is not None and len(words(quoted)) <= _LEANING
        said = f"{sentence.speaker}, asked “{last_question(asked.text)}”" if asked and leans else sentence.speaker
        text = f"{said}: “{quoted}”{photo}"
    times = time_answer(sentence) if question.kind == "when" else ""
    return f"{text} ({times})" if times else text


def beside(sentences: Sequence[Sentence], near: float) -> list[Sentence]:
    """The turn to quote beside the best sentence's: of the same exchange, nearly as good, both short; at most one.

    Args:
        sentences: best first.
        near: how far its score may be behind.
    """
    best = sentences[0]
    for other in sentences[1:]:
        if best.score - other.score > near:
            return []
        if other.episode == best.episode or other.features["question"] or other.features["late"]:
            continue
        if _follows(best, other) or _follows(other, best):
            return [other] if len(best.whole) + len(other.whole) <= _TOGETHER else []
    return []


def _follows(sentence: Sentence, other: Sentence) -> bool:
    """Whether the sentence's turn is one of the three after the other's."""
    return any((said.text, said.speaker) == (other.whole, other.speaker) for said in sentence.before[:3])


def _quoted(sentence: Sentence) -> str:
    """What of the sentence's turn is quoted."""
    whole = " ".join(sentence.whole.split())
    if len(whole) <= _WHOLE or sentence.text == sentence.caption:
        return whole if len(whole) <= 2 * _WHOLE else f"{whole[: 2 * _WHOLE].rsplit(' ', 1)[0]} …"
    spans = sentence_spans(sentence.whole)
    place = spans.index(sentence.span) if sentence.span in spans else 0
    if place and _OPENS_WITH_PRONOUN.match(sentence.text):
        return sentence.whole[spans[place - 1][0] : sentence.span[1]]
    return sentence.text


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
