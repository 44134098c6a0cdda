"""The task "summarise": a language model's summary, taken only when it is one; the rules' where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memspan.core.errors import InputError, ModelError
from memspan.longterm.prompts import Writer, ask_json, object_schema
from memspan.longterm.scm.extract import extract
from memspan.longterm.scm.sentences import TOKENS_A_WORD, Counter, sentence_spans

_PROMPT = """Summarize the TEXT in at most {words} words. Keep names, numbers, dates and decisions. Add nothing.
{background}
TEXT:
{text}

Answer: {{"summary": "..."}}"""
_BACKGROUND = """
BACKGROUND, which the reader knows already and you do not repeat:
{text}
"""


def ask_summary(
    model: Writer, text: str, limit: int, counter: Counter, *, background: str = "", attempts: int = 3
) -> str:
    """A summary of at most `limit` tokens, written by the model.

    Raises:
        InputError: the text leaves no room in the model's window.
        ModelError: no usable summary came.
    """
    schema = object_schema(summary={"type": "string", "minLength": 1, "maxLength": 6 * limit})

    def check(answer: Mapping[str, Any]) -> str:
        summary = answer.get("summary")
        if not isinstance(summary, str) or not summary.strip():
            raise ValueError("summary must be text")
        summary = " ".join(summary.split())
        if (length := counter(summary)) > limit:
            summary = _first_sentences(summary, limit, counter)
        if not summary:
            raise ValueError(f"the summary has {length} tokens and may have {limit}; shorten it")
        if counter(summary) >= counter(text):
            raise ValueError("the summary is no shorter than the text")
        return summary

    prompt = _PROMPT.format(
        words=max(5, int(limit / TOKENS_A_WORD)),
        background=_BACKGROUND.format(text=background) if background else "",
        text=text,
    )
    return ask_json(model, prompt, schema, check, attempts=attempts, max_new_tokens=2 * limit + 40)


def _first_sentences(text: str, limit: int, counter: Counter) -> str:
    """The whole sentences from the start that fit; a small model often writes a few words too many."""
    fit = [text[:stop] for _, stop in sentence_spans(text) if counter(text[:stop]) <= limit]
    return fit[-1] if fit else ""


def summarize_text(
    text: str, limit: int, counter: Counter, model: Writer | None = None, *, background: str = ""
) -> tuple[str, str]:
    """A summary and where it comes from: by the model, or extracted by rules (and why, where a model was to write it).

    What is short enough already is its own summary.
    """
    if counter(text) <= limit:
        return text, "the text itself"
    origin = "extracted by rules"
    if model is not None:
        try:
            return ask_summary(model, text, limit, counter, background=background), "written by a language model"
        except (InputError, ModelError) as error:
            origin += f" (the language model was of no use: {error})"
    return extract(text, limit, counter) or " ".join(text.split()[: max(1, limit // 2)]), origin
