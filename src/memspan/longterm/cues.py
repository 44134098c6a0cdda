"""What recall reads in a text beside its words: lasting rules, who is asked about, and when.

General English and no more; each only lifts an episode and never leaves one out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memspan.longterm.clock import to_micros
from memspan.longterm.passages import term_hashes

if TYPE_CHECKING:
    from memspan.longterm.scribe.dates import TimeSpan

TOLD_AFTER, TOLD_BEFORE = 5.0, 2.0
"""Days in which the chance that an episode tells of a time falls by e: after that time, and ahead of it."""
_DAY = 86_400_000_000  # microseconds

_STANDING = re.compile(  # of a lower-cased text
    # "Always answer in French", "Please never ...", "From now on ..."
    r"^\W*(?:please,? |from now on,? |in (?:the )?future,? |going forward,? |remember to |make sure (?:to |you )?)*"
    r"(?:always|never)\b(?! mind\b)|\b(?:from now on\b"
    # "... never use tables when I ask for a summary"
    r"|(?:always|never)\b[^.!?\n]{0,80}\b(?:when|whenever|if|unless) i (?:ask|mention|request|say|talk)\b"
    # "I'd strongly prefer", "I would rather", "I'm vegan", "I don't eat", "I usually want", "I love it when"
    r"|my preferences?\b|i(?:[’']d| would)?(?: \w+ly| always| much)? prefer\b|i(?:[’']d| would) rather\b"
    r"|i(?:[’']m| am) (?:allergic|vegan|vegetarian)\b|i (?:don[’']t|do not) (?:like|use|eat|drink)\b"
    r"|i (?:never|always|usually|tend to) (?:like|want|use|eat|drink|do)\b"
    r"|i (?:really )?(?:like|love|hate) (?:it )?(?:when|to)\b)"
)
STANDING_TERMS = term_hashes(
    "always never now prefer rather allergic vegan vegetarian usually tend like love hate use eat drink"
)
"""A text that states something lasting holds one of these stems: only such texts need be read for it."""

_POLITE = re.compile(r"\b(?:can|could|would|will) you\b|\b(?:do|would) you \w+\b", re.IGNORECASE)
_ANSWERED = re.compile(
    r"\b(?:did|have|had|were) you\b|\byou(?:[’']ve|[’']d| have| had| also| just| first| previously| originally)*"
    r" (?:said|told|gave|given|made|wrote|written|showed|shown|\w+ed)\b"
    r"|\byour (?:advice|suggestions?|recommendations?|answers?|explanations?|replies|reply|responses?|tips?)\b",
    re.IGNORECASE,
)


def is_standing(text: str) -> bool:
    """Whether a text states a lasting rule or preference: it bears on more than its own subject."""
    return _STANDING.search(text.lower()) is not None


def asks_for_answers(question: str) -> bool:
    """Whether a question is about what the one it is put to said before ("What did you recommend?")."""
    return _ANSWERED.search(_POLITE.sub("", question)) is not None


def time_match(span: TimeSpan, at: NDArray[np.int64], unknown: int) -> NDArray[np.float32]:
    """[n] how well moments fit a stretch of time: 1 inside it, less with every day outside.

    Args:
        span: half open; an end that is None is open.
        at: [n] microseconds.
        unknown: the value in `at` that stands for no moment; it fits nothing.
    """
    known = at != unknown
    moments = at[known].astype(np.float64)
    outside = np.zeros(len(moments))
    if span.start is not None:
        outside += np.maximum((to_micros(span.start) or 0) - moments, 0) / (_DAY * TOLD_BEFORE)
    if span.end is not None:
        outside += np.maximum(moments - (to_micros(span.end) or 0), 0) / (_DAY * TOLD_AFTER)
    match = np.zeros(len(at), np.float32)
    match[known] = np.exp(-outside)
    return match
