"""Typed prompts: what a language model thinks after an answer, and how it words the union of several thoughts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memspan.core.errors import ModelError
from memspan.longterm.base import FactDraft
from memspan.longterm.prompts import Writer, ask_json, object_schema
from memspan.longterm.think_in_memory.groups import Fuse, by_rules
from memspan.longterm.think_in_memory.thoughts import coverage

_TEXT = {"type": "string", "minLength": 1, "maxLength": 200}
THOUGHTS = object_schema(
    thoughts={
        "type": "array",
        "maxItems": 5,
        "items": object_schema(head=_TEXT, rel={**_TEXT, "maxLength": 40}, tail=_TEXT, text=_TEXT),
    }
)
MERGED = object_schema(text={"type": "string", "minLength": 1, "maxLength": 400})
_LEAST_COVERAGE = 0.8
"""Of the words of a merged sentence by those it is made of, and the other way round."""

_THINK = """A question was answered from memory.

Question: {question}
Answer: {answer}
What the answer rests on:
{sources}

Write down what was concluded, as short sentences that can be read alone, each with its relation triple. Use names, no
pronouns. Leave out what the sources do not say. An empty list is a good answer.
Example: {{"thoughts": [{{"head": "John", "rel": "WORKS_AS", "tail": "actor", "text": "John works as an actor."}}]}}"""

_MERGE = """These thoughts are about {head} and say almost the same:

{thoughts}

Write one sentence that holds everything they say and nothing else. Answer: {{"text": "the sentence"}}"""


def think(model: Writer, question: str, answer: str, sources: Sequence[str], least: float) -> list[FactDraft]:
    """Stage 2, insert: the thoughts that follow from an answer; none when the model gives no usable ones.

    A thought of which the sources hold less than `least` of the words is dropped.
    """

    def check(found: Mapping[str, Any]) -> list[FactDraft]:
        rows = found.get("thoughts")
        if not isinstance(rows, list):
            raise ValueError("thoughts must be a list")
        drafts = []
        for row in rows[:5]:
            if not isinstance(row, dict):
                raise ValueError("each thought must be an object")
            head, rel, tail, text = (row.get(name) for name in ("head", "rel", "tail", "text"))
            if not all(isinstance(part, str) and part.strip() for part in (head, rel, tail, text)):
                raise ValueError("each thought needs head, rel, tail and text")
            relation = "_".join(str(rel).upper().split())
            drafts.append(FactDraft(subject=str(head), relation=relation, object=str(tail), text=str(text)))
        return drafts

    prompt = _THINK.format(question=question, answer=answer, sources="\n".join(f"- {text}" for text in sources))
    try:
        drafts = ask_json(model, prompt, THOUGHTS, check)
    except ModelError:
        return []
    return [draft for draft in drafts if coverage(f"{draft.subject} {draft.object}", sources) >= least]


def fuse_with(model: Writer) -> Fuse:
    """Stage 2, merge: a model words the union; its sentence counts only when it holds what the others hold."""

    def fuse(head: str, texts: Sequence[str]) -> str:
        def check(found: Mapping[str, Any]) -> str:
            text = found.get("text")
            if not isinstance(text, str) or not text.strip():
                raise ValueError("text must be a sentence")
            if coverage(text, texts) < _LEAST_COVERAGE:
                raise ValueError("it says what the thoughts do not say")
            if any(coverage(part, [text]) < _LEAST_COVERAGE for part in texts):
                raise ValueError("it leaves out what one of the thoughts says")
            return " ".join(text.split())

        prompt = _MERGE.format(head=head, thoughts="\n".join(f"- {text}" for text in texts))
        try:
            return ask_json(model, prompt, MERGED, check, max_new_tokens=200)
        except ModelError:
            return by_rules(head, texts)

    return fuse
