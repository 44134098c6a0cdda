"""`ModelScribe`: a language model takes the language decisions, local or behind an endpoint.

Each task has one typed prompt and one JSON answer, which is checked before anything is believed. A model never sees an
id: known facts are numbered from 0 and numbers out of range are dropped, as in Zep (arXiv 2501.13956). Two guards are
ours: a date that neither stands in the text nor is the text's own is dropped, and a fact retires another only when
both have the same subject.

Each task has a JSON schema: a local model can write nothing else, an endpoint is told (see
`memspan.models.base.LanguageModel.generate`). What a schema cannot say is checked here, and asked for again with the
error. A grammar makes an answer readable, not right: models under about a billion parameters seldom understand the
task, use the rules there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from memspan.core.errors import InputError
from memspan.longterm.base import EntityDraft, Episode, Extraction, FactDraft, FactView, Relations
from memspan.longterm.clock import utc
from memspan.longterm.prompts import Writer, ask_json
from memspan.longterm.scribe.dates import has_time
from memspan.longterm.scribe.names import normal_phrase, normalize_name
from memspan.longterm.scribe.relations import RELATIONS

_T = TypeVar("_T")


def _line(most: int) -> dict[str, Any]:
    """One line of text that neither begins nor ends with a space, of 1 to `most` characters."""
    return {"type": "string", "pattern": rf"^\S(.{{0,{most - 2}}}\S)?$"}


def _list(items: Mapping[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "maxItems": most}


# A small model that may write without end often does.
_DATE = {"anyOf": [{"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2})?$"}, {"type": "null"}]}
_INDICES = _list({"type": "integer", "minimum": 0, "maximum": 999}, 50)
_LABELS = {"enum": ["PERSON", "ORG", "GPE", "EVENT", "PRODUCT", "THING"]}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def extract_schema(text: str) -> dict[str, Any]:
    """What may be extracted from a text: no more facts than its length makes likely.

    Small models go on to any limit. Facts come first: when the tokens run out, it is the entities that are cut short.
    """
    most = max(1, min(20, len(text.split()) // 3))
    fact = _object(
        subject=_line(80),
        relation={"type": "string", "pattern": r"^[A-Z]{2,20}(_[A-Z]{2,20}){0,4}$"},
        object=_line(120),
        text=_line(240),
        valid_at=_DATE,
        invalid_at=_DATE,
        ends={"type": "boolean"},
    )
    return _object(facts=_list(fact, most), entities=_list(_object(name=_line(80), label=_LABELS), most + 2))


RELATE_SCHEMA = _object(duplicates=_INDICES, contradicted=_INDICES, reason=_line(200))
SUMMARY_SCHEMA = _object(summary=_line(2000))

_SYSTEM = "You read text for a memory store. Answer with one JSON object and nothing else."
_EXTRACT = """List the entities and the facts that the MESSAGE states. Use CONTEXT only to see who and what is meant.

CONTEXT:
{context}

MESSAGE, written by {speaker} at {at}:
{text}

Answer: {{"facts": [{{"subject", "relation", "object", "text", "valid_at", "invalid_at", "ends"}}], \
"entities": [{{"name", "label"}}]}}
- Names instead of pronouns; "I" is {speaker}. label is PERSON, ORG, GPE, EVENT, PRODUCT or THING.
- relation is NAME_IN_CAPS; use one of {relations} where it fits.
- text is the fact as one sentence that can be read alone.
- valid_at and invalid_at are ISO dates worked out from the message's own time, or null. What is true at the time of \
writing gets that time. Never guess a date.
- ends is true when the message says that the fact holds no longer.
- No questions, wishes, conditions or guesses. When there are no facts, the list is empty."""
_RELATE = """NEW FACT: {fact}

KNOWN FACTS:
{known}

Which known facts say the same as the new one (duplicates), and which cannot be true any more if the new one is \
(contradicted)? Facts about different things contradict nothing.
Answer: {{"duplicates": [numbers], "contradicted": [numbers], "reason": "in a few words"}}"""
_SUMMARIZE = """Summarize what is known of {name} in at most {limit} characters, from these facts only.

EARLIER SUMMARY: {previous}

FACTS:
{facts}

Answer: {{"summary": "..."}}"""


class ModelScribe:
    """Reads text with a language model; as deterministic as the model is at temperature 0.

    Args:
        model: what writes the answers.
        functional: relations that hold for one object at a time, beside the declared ones.
        context_turns: how many earlier turns are shown with a message.
        attempts: how often a task is asked before it fails.
        max_new_tokens: bound on one answer.

    Every method raises `ModelError` when no usable answer came in `attempts` tries; nothing is then half-read.
    """

    name = "model"

    def __init__(
        self,
        model: Writer,
        *,
        functional: Iterable[str] = (),
        context_turns: int = 4,
        attempts: int = 3,
        max_new_tokens: int = 800,
    ) -> None:
        if attempts < 1 or max_new_tokens < 1 or context_turns < 0:
            raise InputError("attempts and max_new_tokens must be at least 1, and context_turns at least 0")
        self.model = model
        self.functional = frozenset(functional) | {r.name for r in RELATIONS.values() if r.functional}
        self.context_turns = context_turns
        self.attempts = attempts
        self.max_new_tokens = max_new_tokens

    def extract(self, episodes: Sequence[Episode], context: Sequence[Episode] = ()) -> list[Extraction]:
        """One extraction per episode, one call each; earlier episodes of the session are context for later ones."""
        turns = [*context, *episodes]
        extractions = []
        for place, episode in enumerate(episodes, start=len(context)):
            if not episode.text.strip():
                extractions.append(Extraction())
                continue
            earlier = [t for t in turns[:place] if t.session == episode.session]
            shown = earlier[len(earlier) - min(self.context_turns, len(earlier)) :]
            prompt = _EXTRACT.format(
                context="\n".join(f"{t.speaker or 'someone'}: {t.text}" for t in shown) or "(none)",
                speaker=episode.speaker or "the writer",
                at=episode.at.isoformat() if episode.at else "an unknown time",
                text=episode.text,
                relations=", ".join(sorted(self.functional)),
            )
            extractions.append(self._ask(prompt, extract_schema(episode.text), partial(self._extraction, episode)))
        return extractions

    def relate(self, fact: FactDraft, known: Sequence[FactView]) -> Relations:
        """Asks only about facts of the same subject; exact repetitions are found without asking."""
        near = [i for i, view in enumerate(known) if normalize_name(view.subject) == normalize_name(fact.subject)]
        same = tuple(
            i
            for i in near
            if known[i].relation == fact.relation and normal_phrase(known[i].object) == normal_phrase(fact.object)
        )
        if not near or (same and not fact.ends):
            return Relations(duplicates=same, reason="said before in the same words" if same else "")
        said = f"{fact.text} (this holds no longer)" if fact.ends else fact.text
        listed = "\n".join(f"{number}: {known[i].text}" for number, i in enumerate(near))
        found = self._ask(_RELATE.format(fact=said, known=listed), RELATE_SCHEMA, _relations)
        duplicates = tuple(near[n] for n in found.duplicates if n < len(near))
        contradicted = tuple(near[n] for n in found.contradicted if n < len(near))
        if fact.ends:  # what ends a fact does not repeat it
            contradicted, duplicates = tuple(dict.fromkeys((*contradicted, *same))), ()
        return Relations(
            duplicates=duplicates,
            contradicted=tuple(i for i in contradicted if i not in duplicates),
            reason=found.reason,
        )

    def summarize(self, name: str, facts: Sequence[str], previous: str = "", max_chars: int = 400) -> str:
        """A short summary; the earlier one when there are no facts."""
        if not facts:
            return previous
        prompt = _SUMMARIZE.format(name=name, limit=max_chars, previous=previous or "(none)", facts="\n".join(facts))

        def check(answer: Mapping[str, Any]) -> str:
            summary = _text(answer, "summary")
            if len(summary) > 2 * max_chars:
                raise ValueError(f"the summary has {len(summary)} characters and may have {max_chars}")
            return summary

        return self._ask(prompt, SUMMARY_SCHEMA, check)

    # --- answers ----------------------------------------------------------------------------------------------------

    def _ask(self, prompt: str, schema: Mapping[str, Any], check: Callable[[Mapping[str, Any]], _T]) -> _T:
        return ask_json(
            self.model,
            prompt,
            schema,
            check,
            system=_SYSTEM,
            attempts=self.attempts,
            max_new_tokens=self.max_new_tokens,
            advice="use a larger model or the 'rules' scribe",
        )

    def _extraction(self, episode: Episode, answer: Mapping[str, Any]) -> Extraction:
        facts = []
        for item in _items(answer, "facts"):
            relation = re.sub(r"\W+", "_", _text(item, "relation")).strip("_").upper()
            ends = item.get("ends", False)
            if not relation or not isinstance(ends, bool):
                raise ValueError("a fact needs a relation in capitals, and ends must be true or false")
            facts.append(
                FactDraft(
                    subject=_text(item, "subject"),
                    relation=relation,
                    object=_text(item, "object", empty=ends),
                    text=_text(item, "text"),
                    valid_at=_moment(item.get("valid_at"), episode),
                    invalid_at=_moment(item.get("invalid_at"), episode),
                    ends=ends,
                    functional=relation in self.functional,
                    reason=" ".join(episode.text.split())[:200],
                )
            )
        labels = {_text(item, "name"): str(item.get("label") or "THING").upper() for item in _items(answer, "entities")}
        for fact in facts:
            labels.setdefault(fact.subject, "THING")
        entities = tuple(EntityDraft(name=name, label=label) for name, label in labels.items())
        ordered = [f for f in facts if not (f.valid_at and f.invalid_at and f.valid_at > f.invalid_at)]
        return Extraction(entities=entities, facts=tuple(ordered))


def _items(answer: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    items = answer.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError(f"{key} must be a list of objects")
    return items


def _text(item: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
    value = item.get(key)
    value = "" if value is None and empty else value
    if not isinstance(value, str) or not (value.strip() or empty) or len(value) > 2000:
        raise ValueError(f"{key} must be a text")
    return " ".join(value.split())


def _moment(value: object, episode: Episode) -> datetime | None:
    """A model's date, None when it is unreadable or nothing in the episode supports it."""
    if not isinstance(value, str):
        return None
    try:
        moment = utc(datetime.fromisoformat(value.strip()))
    except (ValueError, OverflowError):
        return None
    own = episode.at is not None and moment.date() == utc(episode.at).date()
    return moment if own or has_time(episode.text) else None


def _relations(answer: Mapping[str, Any]) -> Relations:
    found: dict[str, tuple[int, ...]] = {}
    for key in ("duplicates", "contradicted"):
        numbers = answer.get(key)
        if not isinstance(numbers, list) or not all(type(n) is int for n in numbers):
            raise ValueError(f"{key} must be a list of numbers")
        found[key] = tuple(dict.fromkeys(n for n in numbers if n >= 0))
    return Relations(**found, reason=_text(answer, "reason", empty=True))
