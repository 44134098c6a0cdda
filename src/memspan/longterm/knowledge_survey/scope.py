"""How far a question reaches: to a fact that somebody must have told, or to all that memory holds on a topic.

"What did the teacher say about it?" presupposes that it was said, and has no answer where it was not. Who asks for a
summary, a count over all conversations or for advice presupposes no single statement, and can be met wherever memory
holds something on its topic.
"""

from __future__ import annotations

import re
from typing import Literal

from memspan.longterm.knowledge_survey.kinds import form_of

Scope = Literal["fact", "overview", "request"]

# "Can you tell me where …": only the wrapping of a question for a fact.
_POLITE = re.compile(
    r"(?:\b(?:can|could|would|will) you (?:please |kindly )?|\bplease )?\b(?:tell|remind) (?:me|us)\b"
    r"|\bdo you (?:know|remember|recall)\b",
    re.I,
)
_OVERVIEW = re.compile(
    r"\b(?:(?:comprehensive|brief|short|complete|full) )?(?:summar(?:y|ies|i[sz](?:e|es|ed|ing))|overviews?|recap)\b"
    r"|\bwalk (?:me|us) through\b|(?:^|\b(?:you|please|and) )list\b|\b(?:in (?:which|what)|the) order in which\b"
    r"|\b(?:throughout|across|over|in all) (?:all )?(?:of )?(?:(?:my|our|the|these|those|your) )?"
    r"(?:(?:different|various) )?(?:conversations?|sessions?|chats?|discussions?|messages?|requests?|talks)\b"
    r"|\bover time\b|\bhow (?:has|have|had)\b.{3,80}\b(?:developed|evolved|progressed|changed|grown)\b",
    re.I,
)
_REQUEST = re.compile(
    r"\b(?:can|could|would|will) you\b|\bplease\b|\bhelp (?:me|us)\b|\b(?:should|can|could|must) (?:I|we|one)\b"
    r"|\bhow (?:do|would) (?:I|we|you|one)\b|\bdo you (?:think|suggest|recommend)\b"
    r"|^\W*(?:suggest|recommend|explain|show|give|help|write|draft|make|plan|describe|compare)\b",
    re.I,
)
_VALUES = frozenset(("when", "number", "money", "age", "duration", "frequency", "where", "who", "name", "colour"))


def scope_of(question: str) -> Scope:
    """How far a question reaches."""
    asked = _POLITE.sub(" ", question)
    if _OVERVIEW.search(asked):
        return "overview"
    if form_of(asked) not in _VALUES and _REQUEST.search(asked):
        return "request"
    return "fact"
