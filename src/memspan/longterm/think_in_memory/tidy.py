"""Forget and merge, as functions of a set of thoughts: the order of adding does not matter, and twice is as once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from memspan.longterm.think_in_memory.thoughts import Thought
from memspan.longterm.vectors import F32

_BLOCK = 1024
Pairs = Collection[tuple[int, int]]
"""Pairs of record ids; the order within a pair does not matter."""


def in_conflict(one: Thought, other: Thought, told: Pairs = ()) -> bool:
    """Whether two thoughts cannot both hold: by a functional relation, an ending, or because a scribe said so."""
    if (one.record, other.record) in told or (other.record, one.record) in told:
        return True
    if one.key != other.key or one.closed or other.closed:
        return False
    if one.ends != other.ends:
        ending, held = (one, other) if one.ends else (other, one)
        return not ending.tail or ending.tail == held.tail
    return not one.ends and (one.functional or other.functional) and one.tail != other.tail


def beats(winner: Thought, loser: Thought) -> bool:
    """Which of two thoughts in conflict is forgotten: the older one, unless the newer has the lower origin.

    What is derived yields to what was said, whenever that was. Two of the same moment both stay, except where one is
    the ending of the other: then the one told first goes.
    """
    if loser.kept or winner.rank < loser.rank:
        return False
    if loser.origin == "derived" != winner.origin or winner.at > loser.at:
        return True
    return winner.at == loser.at and winner.ends != loser.ends and winner.record > loser.record


def began_after(winner: Thought, loser: Thought) -> int:
    """When the one took the other's place: its first statement after the other's last, as far as that is known."""
    return winner.since if winner.since > loser.at else winner.at


def superseded(thoughts: Sequence[Thought], among: Sequence[Thought], told: Pairs = ()) -> dict[int, Thought]:
    """Record id of each thought that is to be forgotten -> the first one that overrides it.

    Args:
        thoughts: the thoughts in question.
        among: what they may be in conflict with (may hold them too).
        told: pairs that a scribe found to contradict each other.
    """
    named = {record for pair in told for record in pair}
    able = [t for t in among if t.functional or t.ends or t.record in named]
    found = {}
    for loser in thoughts:
        # Without a functional relation, an ending or a scribe's word on either side there is no conflict.
        open_to_all = loser.functional or loser.ends or loser.record in named
        rivals = [
            winner
            for winner in (among if open_to_all else able)
            if winner.record != loser.record and in_conflict(winner, loser, told) and beats(winner, loser)
        ]
        if rivals:
            found[loser.record] = min(rivals, key=lambda winner: (began_after(winner, loser), winner.uid))
    return found


def clusters(thoughts: Sequence[Thought], told: Pairs = ()) -> list[list[Thought]]:
    """Groups of at least two thoughts that say the same; each in the order of time.

    Two thoughts of one head and relation are joined when they have the same tail or are a pair of `told`: a scribe
    said so, or their vectors are near. Joining is transitive.
    """
    able = sorted((t for t in thoughts if not t.apart), key=lambda t: (t.since, t.text, t.uid))
    parent = list(range(len(able)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    def join(one: int, other: int) -> None:
        if able[one].ends == able[other].ends and able[one].closed == able[other].closed:
            a, b = sorted((root(one), root(other)))
            parent[b] = a

    first: dict[tuple[str, bool, bool], int] = {}
    for place, thought in enumerate(able):
        join(first.setdefault((thought.tail, thought.ends, thought.closed), place), place)
    places = {thought.record: place for place, thought in enumerate(able)}
    for one, other in told:
        if one in places and other in places:
            join(places[one], places[other])
    groups: dict[int, list[Thought]] = {}
    for place, thought in enumerate(able):
        groups.setdefault(root(place), []).append(thought)
    return [group for group in groups.values() if len(group) > 1]


def near_pairs(thoughts: Sequence[Thought], vectors: Mapping[int, F32], merge_at: float) -> list[tuple[int, int]]:
    """Pairs of record ids whose vectors have a cosine of at least `merge_at` and whose texts hold the same numbers.

    Args:
        thoughts: of one key.
        vectors: record id -> [D] unit vector, where there is one.
        merge_at: least cosine.
    """
    having = [thought for thought in thoughts if thought.record in vectors]
    if len(having) < 2:
        return []
    table = np.stack([vectors[thought.record] for thought in having])
    numbers = [re.findall(r"\d+", thought.text) for thought in having]
    pairs = []
    for begin in range(0, len(table), _BLOCK):
        for row, column in np.argwhere(table[begin : begin + _BLOCK] @ table.T >= merge_at).tolist():
            row += begin
            if row < column and numbers[row] == numbers[column]:  # "room 12" is not "room 13"
                pairs.append((having[row].record, having[column].record))
    return pairs
