"""The task "is old memory needed at all?": by relevance and by words that point back, or by a language model."""

from __future__ import annotations

import re

from memspan.core.errors import InputError, ModelError
from memspan.longterm.prompts import Writer, ask_json
from memspan.longterm.scm.ask_answerable import SCHEMA, choice

_BACK = re.compile(
    r"\b(?:as|like|what|when|where|which|that|how) (?:i|you|we) (?:just |already )?(?:said|told|mentioned|discussed|"
    r"talked|asked|suggested|recommended|wrote|agreed|decided)\b|"
    r"\b(?:did|have|had) (?:i|you|we) (?:ever |already |just )?"
    r"(?:say|said|tell|told|mention|mentioned|discuss|discussed|talk|talked|suggest|suggested|recommend|recommended)\b|"
    r"\b(?:earlier|previously|last time|the other day|a while ago|(?:do you )?remember|remind me|recall|"
    r"you told me|i told you|our (?:last|previous|earlier) (?:chat|talk|conversation|discussion))\b",
    re.IGNORECASE,
)
_PROMPT = """A user talks with an assistant over many turns. The latest input is:
{question}

Is the history of the conversation needed to respond to it?
(A) yes
(B) no
Answer: {{"choice": "A" or "B"}}"""


def back_reference(question: str) -> str:
    """The words by which a question points back in the conversation; "" when there are none."""
    found = _BACK.search(question)
    return found.group(0) if found else ""


def ask_activate(model: Writer, question: str, *, attempts: int = 3) -> bool | None:
    """The model's decision; None when it gave no usable one."""
    try:
        return ask_json(model, _PROMPT.format(question=question), SCHEMA, choice, attempts=attempts, max_new_tokens=30)
    except (InputError, ModelError):
        return None
