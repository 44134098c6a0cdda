"""`RuleScribe`: entities, facts, dates and contradictions by a spaCy pipeline and declared rules; no language model.

Source of the task: the ingest steps of Zep (arXiv 2501.13956), where a language model takes these decisions. Here they
are deterministic and cautious: what a sentence does not assert is dropped, a fact retires another only when both are
about the same subject in the same functional relation, and a date that is not said stays unknown.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memspan.core.errors import InputError, MissingExtraError, ModelError
from memspan.longterm.base import Episode, Extraction, FactDraft, FactView, Relations
from memspan.longterm.scribe import BUNDLED_PIPELINE, PIPELINES
from memspan.longterm.scribe.facts import FactReader
from memspan.longterm.scribe.names import Names, normal_phrase, normalize_name
from memspan.longterm.scribe.relations import RELATIONS
from memspan.longterm.scribe.told import OVER
from memspan.models.pinned import check_wheel, package_files

if TYPE_CHECKING:
    from spacy.language import Language

_LASTING = frozenset(("SIBLING_OF", "PARENT_OF", "CHILD_OF", "COUSIN_OF", "AUNT_OF", "UNCLE_OF"))
_UNUSED = ("senter", "textcat", "entity_linker")
_INSTALL = "pip install 'memspan[local]'"
_MAX_CHARS = 20_000  # longer turns are read up to here: the parser's memory grows with length


def load_pipeline(name: str | None = None) -> Language:
    """The named spaCy pipeline, or the best English one that is installed, with only what the scribe uses.

    Raises:
        MissingExtraError: spaCy or every pipeline is missing.
        ModelError: the pipeline cannot be loaded, has no parser, or is not the wheel that was published.
    """
    try:
        import spacy
    except ImportError:
        raise MissingExtraError("spaCy, which the 'rules' scribe reads text with,", _INSTALL) from None
    for candidate in (name,) if name else PIPELINES:
        if candidate == BUNDLED_PIPELINE and (spec := importlib.util.find_spec(candidate)) and spec.origin:
            root = Path(spec.origin).parent  # before its code runs
            check_wheel(BUNDLED_PIPELINE.replace("_", "-"), root, package_files(root))
        try:
            module = importlib.import_module(candidate)
        except ImportError:
            continue
        try:
            nlp: Language = module.load(exclude=list(_UNUSED))
        except (OSError, ValueError) as error:
            raise ModelError(f"the spaCy pipeline {candidate} cannot be loaded: {error}") from error
        needed = {"tagger", "parser", "lemmatizer", "ner"} - set(nlp.pipe_names)
        if needed:
            raise ModelError(f"the spaCy pipeline {candidate} has no {', '.join(sorted(needed))}: choose another one")
        return nlp
    if name:
        try:
            loaded: Language = spacy.load(name, exclude=list(_UNUSED))
        except OSError:
            raise MissingExtraError(f"the spaCy pipeline {name!r}", f"python -m spacy download {name}") from None
        return loaded
    raise MissingExtraError("an English spaCy pipeline", _INSTALL)


class RuleScribe:
    """Reads text by rules. Deterministic; English; no language model; safe to share between threads once loaded.

    Args:
        functional: relations (NAME_IN_CAPS) that hold for one object at a time, beside the declared ones.
        pipeline: name of a spaCy pipeline; None takes the best English one installed, when it is first needed.
        batch_size: turns per call into spaCy.
    """

    name = "rules"

    def __init__(self, *, functional: Iterable[str] = (), pipeline: str | None = None, batch_size: int = 128) -> None:
        if isinstance(functional, str):
            raise InputError("functional takes a set of relation names, not one string: write {'DRIVES'}")
        wrong = [r for r in functional if not re.fullmatch(r"[A-Z][A-Z0-9_]*", r)]
        if wrong:
            raise InputError(f"functional relation {wrong[0]!r} is not a name in capitals like LIVES_IN")
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, not {batch_size}")
        self.functional = frozenset(functional) | {r.name for r in RELATIONS.values() if r.functional}
        self.pipeline = pipeline
        self.batch_size = batch_size
        self._nlp: Language | None = None

    @property
    def nlp(self) -> Language:
        """The spaCy pipeline, loaded at first use."""
        if self._nlp is None:
            self._nlp = load_pipeline(self.pipeline)
        return self._nlp

    def extract(self, episodes: Sequence[Episode], context: Sequence[Episode] = ()) -> list[Extraction]:
        """One extraction per episode. `context` tells who else takes part in the conversation."""
        speakers: dict[str | None, set[str]] = {}
        for episode in (*context, *episodes):
            if (speaker := speaker_of(episode)) is not None:
                speakers.setdefault(episode.session, set()).add(speaker)
        texts = [" ".join(e.text[:_MAX_CHARS].split()) for e in episodes]
        extractions = []
        for episode, doc in zip(episodes, self.nlp.pipe(texts, batch_size=self.batch_size), strict=True):
            speaker = speaker_of(episode)
            others = speakers.get(episode.session, set()) - {speaker}
            names = Names(doc, speaker, next(iter(others)) if len(others) == 1 else None)
            facts, entities = FactReader(doc, episode.at, names, self.functional).read()
            extractions.append(Extraction(entities=tuple(entities), facts=tuple(facts)))
        return extractions

    def relate(self, fact: FactDraft, known: Sequence[FactView]) -> Relations:
        """Duplicates say the same; contradicted ones share the subject and the functional relation but not the object.

        An ending contradicts what it ends. Everything else is left alone, however similar it sounds.
        """
        declared = RELATIONS.get(fact.relation)
        functional = fact.functional or fact.relation in self.functional
        symmetric = declared is not None and declared.symmetric
        ends = [_end(fact.subject, fact.object)]
        if symmetric:
            ends.append(_end(fact.object, fact.subject))
        duplicates: list[int] = []
        contradicted: list[int] = []
        for position, view in enumerate(known):
            if fact.relation == OVER:
                if _over(fact, view):
                    contradicted.append(position)
                continue
            if view.relation != fact.relation and not _same_slot(fact, view):
                continue
            pair = _end(view.subject, view.object)
            pairs = [pair, _end(view.object, view.subject)] if symmetric else [pair]
            if pair in ends:
                (contradicted if fact.ends else duplicates).append(position)
            elif fact.ends:
                if not fact.object and any(p[0] == ends[0][0] for p in pairs):
                    contradicted.append(position)
            elif functional and any(p[0] and p[0] == end[0] for p in pairs for end in ends):
                contradicted.append(position)
        reason = ""
        if contradicted and fact.ends:
            reason = f"the text says that {fact.subject} {fact.relation} {fact.object or 'anything'} holds no longer"
        elif contradicted:
            reason = f"{fact.relation} holds for one object at a time, and {fact.subject} now has {fact.object!r}"
        elif duplicates:
            reason = f"the same {fact.relation} of {fact.subject}, said again"
        return Relations(duplicates=tuple(duplicates), contradicted=tuple(contradicted), reason=reason)

    def summarize(self, name: str, facts: Sequence[str], previous: str = "", max_chars: int = 400) -> str:
        """The most telling of the fact sentences in their own order, at most `max_chars` characters.

        Chosen one by one: a sentence tells more when its words occur in others (it is central) and when it is late in
        the list, and less the more of its words a chosen one has. `previous` competes as older sentences; of a long
        list the last 200 sentences compete.
        """
        older = [s for s in re.split(r"(?<=[.!?])\s+", previous.strip()) if s]
        given = dict.fromkeys(" ".join(f.split()) for f in (*older, *facts) if f.strip())
        sentences = list(given)[-200:]
        own = set(normal_phrase(name).split())
        stems = [frozenset(normal_phrase(s).split()) - own for s in sentences]
        counts = Counter(word for words in stems for word in words)
        total = len(sentences) or 1
        weights = [
            sum(counts[w] for w in words) / (len(words) or 1) / total + (place + 1) / total
            for place, words in enumerate(stems)
        ]
        left = set(range(len(sentences)))
        chosen: list[int] = []
        room = max_chars
        while left:
            best = max(left, key=lambda place: (weights[place], place))
            left.discard(best)
            if len(sentences[best]) + bool(chosen) > room:
                continue
            room -= len(sentences[best]) + bool(chosen)
            chosen.append(best)
            for place in left:
                both = stems[place] | stems[best]
                weights[place] -= len(stems[place] & stems[best]) / (len(both) or 1)
        return " ".join(sentences[place] for place in sorted(chosen))


def speaker_of(episode: Episode) -> str | None:
    """Who "I" is in an episode: its speaker, else its role if it has one."""
    role = episode.metadata.get("role")
    return episode.speaker or (role if role in ("user", "assistant") else None)


def _over(fact: FactDraft, view: FactView) -> bool:
    """Whether a known fact is the one that a text says is over: the same subject, and the object named."""
    who, what = _end(fact.subject, fact.object)
    subject, value = _end(view.subject, view.object)
    declared = RELATIONS.get(view.relation)
    if declared is not None and declared.symmetric and normalize_name(view.object) == who:
        subject, value = normalize_name(view.object), normal_phrase(view.subject)
    if subject != who or view.relation in _LASTING:
        return False
    if value == what or (len(what) > 2 and f" {what} " in f" {value} "):
        return True
    return len(value) > 3 and f" {value} " in f" {what} "  # "the piano lessons" of who plays the piano


def _same_slot(fact: FactDraft, view: FactView) -> bool:
    """A favourite whose kind is not said may be of any kind: only its kind or the old value named tells of which."""
    relations = {fact.relation, view.relation}
    if "FAVOURITE" not in relations or not all(r.startswith("FAVOURITE") for r in relations):
        return False
    kind = view.relation.removeprefix("FAVOURITE").strip("_").replace("_", " ").lower()
    told = f" {normal_phrase(fact.reason)} "
    return any(f" {normal_phrase(word)} " in told for word in (kind, view.object) if word)


def _end(subject: str, value: str) -> tuple[str, str]:
    return normalize_name(subject), normal_phrase(value)
