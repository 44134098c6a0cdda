"""When two questions are the same one: case, spacing, punctuation, short forms and courtesies aside, word for word."""

from __future__ import annotations

import re
import unicodedata

_SHORT = {
    r"\b(what|where|who|when|how|why|which|that|there|it|he|she)'s\b": r"\1 is",
    r"\b(what|where|who|when|how|why|which)'d\b": r"\1 did",
    r"\b(\w+)'re\b": r"\1 are",
    r"\b(\w+)'ve\b": r"\1 have",
    r"\b(\w+)'ll\b": r"\1 will",
    r"\b(ca)n't\b": "can not",
    r"\b(wo)n't\b": "will not",
    r"\bcannot\b": "can not",
    r"\b(\w+)n't\b": r"\1 not",
    r"\bi'm\b": "i am",
}
_COURTESY = re.compile(
    r"^(?:hey|hi|hello|please|ok|okay|so|well|and|tell me|remind me|just"
    r"|(?:i was wondering|i wonder|i would like to know|i want to know|do you (?:happen to )?(?:know|remember|recall))"
    r"|(?:can|could|would|will) you (?:please |kindly )?(?:tell|remind) me)\b(?: again\b)?[\s,:;.!-]*"
)
_END = re.compile(r"(?:[\s,]+(?:please|thanks|thank you|again))+$")


def question_key(question: str) -> str:
    """A question's normal form. Words, their order and their forms are kept: another tense is another question.

    Example:
        >>> question_key("Hey, could you please tell me: where's Ann's  dog?")
        "where is ann's dog"
    """
    while (shorter := _shorter(question)) != question:
        question = shorter
    return question


def _shorter(question: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", question).casefold().replace("’", "'").split())
    for short, full in _SHORT.items():
        text = re.sub(short, full, text)
    text = re.sub(r"[^\w'%$€£@+#&/.:-]+", " ", re.sub(r"[.:-]+(?=\s|$)", " ", text)).strip()
    text = _COURTESY.sub("", text) or text
    return _END.sub("", text).strip() or text
