"""Where sources disagree: statements that say the same but for a value, shown together with their dates.

A memory is believed: an edited document is followed whether it is right or not. What can be known is that two sources
contradict each other. Which of them is newer says something only when both are dated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memspan.longterm.base import Recollection
from memspan.longterm.knowledge_survey.judge import text_tokens
from memspan.longterm.knowledge_survey.text import content, names, negations, numbers, sentence_spans, stems

_BEARS = 0.5  # share of the question's content words that a statement must hold
_SAME = 0.6  # share of the words of two statements, values aside, that must be common


@dataclass(frozen=True, slots=True)
class Stated:
    """A statement of one source.

    Attributes:
        text: the sentence; episode: where it stands; at: when it was said or published, if that is known.
        source: the episode's metadata, a document's id and version among them.
    """

    text: str
    episode: str
    at: datetime | None
    source: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Statements that cannot all hold.

    Attributes:
        statements: the newest first when all are dated, else in the order of the hits.
        dated: all have a date, so that the first may be taken for the newest.
    """

    statements: tuple[Stated, ...]
    dated: bool


@dataclass(frozen=True, slots=True)
class _Read:
    stated: Stated
    speaker: str | None
    frame: frozenset[int]
    values: frozenset[str]
    denies: bool


def conflicts(question: str, hits: Sequence[Recollection]) -> list[Conflict]:
    """Group the sentences of the hits that bear on a question and contradict each other; the best hit's group first.

    Two sentences contradict each other when the same speaker (or none) says the same of the same thing with another
    number or name, or when one of them denies what the other says. The same sentence in several sources counts once,
    with its newest date.

    Args:
        question: as it was asked; every name and number in it must stand in a statement.
        hits: of `Memory.recall`, or `Answer.recollections`; only episodes are read.
    """
    asked = content(question)
    asked_names = {name.casefold() for name in names(question)}
    asked_numbers = numbers(question)
    read: list[_Read] = []
    for hit in hits:
        if hit.kind != "episode":
            continue
        for start, stop in sentence_spans(hit.text):
            text = hit.text[start:stop]
            held = content(text)
            tokens = {token.casefold() for token in text_tokens(text)}
            if not asked or len(asked & held) < _BEARS * len(asked) or not asked_names <= tokens:
                continue
            if not asked_numbers <= numbers(text):
                continue
            found = {name.casefold() for name in names(text)} - asked_names
            values = frozenset(found | numbers(text) - asked_numbers)
            stated = Stated(text, hit.id, hit.valid_at, dict(hit.metadata))
            read.append(_Read(stated, hit.speaker, held - stems(" ".join(found)), values, negations(text)))
    groups: list[list[_Read]] = []
    for one in _once(read):
        for group in groups:
            if any(_contradict(one, other) for other in group):
                group.append(one)
                break
        else:
            groups.append([one])
    return [_ordered(group) for group in groups if len(group) > 1]


def _once(read: Sequence[_Read]) -> list[_Read]:
    """Each wording once, where its best hit was, with its newest date."""
    kept: dict[tuple[str | None, str], _Read] = {}
    for one in read:
        key = (one.speaker, " ".join(one.stated.text.casefold().split()))
        known = kept.get(key)
        newer = known is not None and one.stated.at is not None and (known.stated.at or one.stated.at) < one.stated.at
        if known is None or newer:
            kept[key] = one
    return list(kept.values())


def _contradict(one: _Read, other: _Read) -> bool:
    if one.speaker != other.speaker or one.stated.episode == other.stated.episode:
        return False
    union = one.frame | other.frame
    if not union or len(one.frame & other.frame) < _SAME * len(union):
        return False
    if one.denies != other.denies:
        return one.values == other.values
    return bool(one.values - other.values) and bool(other.values - one.values)


def _ordered(group: Sequence[_Read]) -> Conflict:
    dates = [one.stated.at for one in group if one.stated.at is not None]
    dated = len(dates) == len(group)
    statements = [one.stated for one in group]
    if dated:
        newest = dict(zip(map(id, statements), dates, strict=True))
        statements.sort(key=lambda stated: newest[id(stated)], reverse=True)
    return Conflict(tuple(statements), dated)
