"""Passages that say the same, so that several copies of one page do not fill the places of the evidence.

Two passages are copies when nearly all of their runs of words are common and at most one of them says something that
the other does not: where both do, as after an edited value, they may contradict each other and both are kept. Of copies
the fullest is shown, at the place of the best. Turns of a conversation are never copies: who repeats themselves means
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memspan.longterm.base import Recollection
from memspan.longterm.knowledge_survey.text import names, negations, numbers, stems, words

_COMMON = 0.8  # Jaccard of the runs of words (Broder 1997: the resemblance of two documents)
_RUN = 3  # words


@dataclass(frozen=True, slots=True)
class _Said:
    """What a passage says: its runs of words, and the words, numbers and names that must not be lost."""

    runs: frozenset[tuple[str, ...]]
    told: frozenset[object]
    denies: bool


def collapse(hits: Sequence[Recollection]) -> tuple[list[Recollection], dict[str, list[str]]]:
    """The hits without copies, and of each that has any the ids of its copies, in the order of the hits."""
    kept: list[Recollection] = []
    read: list[_Said | None] = []
    groups: list[list[str]] = []
    for hit in hits:
        said = _said(hit)
        for place, other in enumerate(read):
            if said is None or other is None or not _same(said, other):
                continue
            if len(said.told) > len(other.told):
                groups[place].insert(0, kept[place].id)
                kept[place], read[place] = hit, said
            else:
                groups[place].append(hit.id)
            break
        else:
            kept.append(hit)
            read.append(said)
            groups.append([])
    return kept, {hit.id: group for hit, group in zip(kept, groups, strict=True) if group}


def _said(hit: Recollection) -> _Said | None:
    """None for what cannot be a copy: a turn that somebody said, or a record of another kind."""
    if hit.kind != "episode" or hit.speaker is not None:
        return None
    text = " ".join(hit.text.split())  # line ends and double spaces would change what looks like a name
    spoken = words(text)
    size = min(_RUN, len(spoken))
    runs = frozenset(tuple(spoken[i : i + size]) for i in range(len(spoken) - size + 1))
    named = frozenset(name.casefold() for name in names(text))
    return _Said(runs, stems(text) | numbers(text) | named, negations(text))


def _same(one: _Said, other: _Said) -> bool:
    if one.denies != other.denies or not (one.told <= other.told or other.told <= one.told):
        return False
    union = len(one.runs | other.runs)
    return union > 0 and len(one.runs & other.runs) >= _COMMON * union
