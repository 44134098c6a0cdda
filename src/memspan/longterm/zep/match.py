"""The structured match: whether a fact is about what a question is about, says what it asks, and has its sort of value.

    match = about * (0.2 + 0.8 * says) * fits

*about*: the fact's subject is named by the question (0.9 when its object is), and the question's names occur in it.
*says*: share of what is asked that relation and text say, by stems and senses of words (`senses`); where no fact's
words do, by the cosine of question and fact with names and times dropped on both sides. *fits*: the value is of the
wanted sort (`values`). All facts are scored by arrays; the best `match_pool` that hold are then read word by word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from memspan.longterm.clock import from_micros
from memspan.longterm.recall import Search
from memspan.longterm.scribe.dates import find_times
from memspan.longterm.vectors import F32, I64
from memspan.longterm.zep.question import Asked, understand
from memspan.longterm.zep.resolve import EntityResolver, normalize
from memspan.longterm.zep.senses import NEAR, SENSES, Unit, agreement, near, stem, units, words
from memspan.longterm.zep.table import FactTable, weight
from memspan.longterm.zep.values import TIMES, fits, sorts
from memspan.longterm.zep.view import visible

if TYPE_CHECKING:
    from memspan.longterm.zep.organizer import ZepConfig

INVERSE = 0.9  # the question names the object: "Who is captain of the juniors?" of "Elias is captain of the juniors"
_FULLER, _AMBIGUOUS = 0.9, 0.75  # "Ingrid" for the only Ingrid Olsen, and for one of several
_UNSPECIFIC = 0.6  # a question that names nobody may be about anybody
_BARE = 0.2  # what a fact about the right subject is worth that says nothing of what was asked
_NAMED = 0.95  # of a fact whose subject's name is all that was asked
_KIN = 0.6  # agreement of "sister" with a relation that makes its other end the sister
_TYPED = 0.3  # of a fact that says nothing of what was asked, but has the very sort of value
_SORT = 0.85  # of a relation that has the name of what "which" asks for
_ALIAS = 0.95  # of whoever is "Ann's sister"
_STRANGE = 0.5  # what a relation loses whose name is all strange to the question
_DECIDED = 0.7  # words that say as much need no embedder
_EMBEDDED = 32  # facts that are embedded at most
_COSINE = (0.25, 0.65, 0.85)  # cosine that counts for nothing, for everything, and what everything is


@dataclass(frozen=True, slots=True)
class Match:
    """How a fact matches a question; see the module."""

    about: float
    says: float
    fits: float
    who: str = ""

    @property
    def value(self) -> float:
        """The match, 0 to 1."""
        return self.about * (_BARE + (1 - _BARE) * self.says) * self.fits

    def words(self) -> str:
        """The match in words, for `why`."""
        said = "says what was asked" if self.says >= _DECIDED else "says something near it" if self.says >= 0.3 else ""
        return ", ".join(part for part in (f"about {self.who}" if self.about >= 0.5 and self.who else "", said) if part)


class Matcher:
    """The match of one question against the facts of one space."""

    def __init__(self, search: Search, table: FactTable, resolver: EntityResolver) -> None:
        self.search = search
        self.table = table
        now = from_micros(search.tx.now)
        assert now is not None
        self.asked: Asked = understand(search.query.text, now)
        self.names: dict[str, float] = dict.fromkeys((stem(word) for word in self.asked.names), 1.0)
        self.stems = set(self.asked.stems)
        self._know_self()
        self._know_variants(resolver)
        self._know_plain_names()
        self.aliases: dict[int, Unit] = {}
        self.covered = self._covered()
        self._know_relatives()

    # --- who is meant ---

    def _know_self(self) -> None:
        """ "I" is the store's user: the entity of that name, or the only person who speaks."""
        if not self.asked.first_person:
            return
        people = [
            name for name in self.search.episodes.speakers if name.lower() not in ("assistant", "ai", "system", "bot")
        ]
        for name in ["user"] if "user" in self.table.names.postings else people if len(people) == 1 else []:
            own = [stem(word) for word in words(name)]
            self.names |= dict.fromkeys(own, 1.0)
            self.stems |= set(own)

    def _know_variants(self, resolver: EntityResolver) -> None:
        """Names that no fact has as written may be another spelling of one that facts have."""
        known = self.table.names.postings
        for name in self.asked.names:
            if stem(name) in known:
                continue
            entity = resolver.find(self.search.tx, normalize(name))
            position = None if entity is None else self.table.entities.get(entity)
            if position is not None:
                del self.names[stem(name)]
                self.names |= dict.fromkeys(self.table.names.stems[position], 1.0)
                self.stems |= set(self.table.names.stems[position])
        heard = [word for word in self.names if word in known]
        if heard:  # a surname that no fact knows says little; when no name is known the question is about a stranger
            self.names = {word: strength if word in known else 0.3 for word, strength in self.names.items()}

    def _know_plain_names(self) -> None:
        """Things without a capital that facts are about: "the kitchen", "the book club"."""
        text = normalize(self.asked.masked.rstrip(" ?.!")).replace("'s", "")
        given = re.findall(r"[\w-]+", text)
        uids = {normalize(" ".join(given[i : i + n])) for n in range(1, 5) for i in range(len(given) - n + 1)}
        rows = self.search.tx.select(
            "SELECT id FROM record WHERE uid IN ({ids}) AND kind = 'entity' AND space = ?",
            sorted(uid for uid in uids if len(uid) > 1),
            self.search.tx.space_id,
        )
        for row in rows:
            position = self.table.entities.get(row[0])
            if position is not None and self.table.is_subject(position):
                for word in self.table.names.stems[position]:
                    self.names.setdefault(word, (0.2 if _senses(word) else 0.6) * weight(word))

    def _covered(self) -> F32:
        """[E] how much of each entity's name the question says."""
        asked: dict[str, float] = {}
        for unit, _ in self.asked.units:
            for sense in unit.senses:
                for phrase in SENSES[sense].phrases.split(", "):
                    if " " not in phrase:
                        asked[stem(phrase)] = 0.8 * SENSES[sense].agreement
        asked |= dict.fromkeys(self.stems, 1.0)
        covered = self.table.names.covered(asked)
        proper = [word for word, strength in self.names.items() if strength == 1.0]
        fuller = [
            int(e)
            for word in proper
            for e in self.table.names.postings.get(word)[:200]
            if covered[e] < 1 and self._is_fuller(int(e), proper)
        ]
        for entity in dict.fromkeys(fuller):
            rivals = [e for e in fuller if e != entity]
            exact = any(covered[e] == 1 for word in proper for e in self.table.names.postings.get(word)[:200])
            covered[entity] = max(covered[entity], _AMBIGUOUS if rivals or exact else _FULLER)
        return covered

    def _is_fuller(self, entity: int, proper: Sequence[str]) -> bool:
        shown = self.table.shown[entity]
        return "'" not in shown and "’" not in shown and all(part[:1].isupper() for part in shown.split())

    def _know_relatives(self) -> None:
        """ "Ann's sister" is whom a fact that holds says she is, when something else is asked of her."""
        array = self.table.array
        asked = {unit for unit, heavy in self.asked.units if heavy == 1.0}
        for unit in asked:
            if len(asked) < 2 or not any(SENSES[name].value == "person" for name in unit.senses):
                continue
            codes = [code for code, said in enumerate(self.table.said) if agreement(unit, said) >= _KIN]
            owned = re.compile(rf"([\w.-]+)['’]s\s+(?:[\w-]+\s+)?{re.escape(unit.key.split()[0])}", re.IGNORECASE)
            owner = owned.search(self.search.query.text)
            for entity in self.table.names.postings.get(stem(owner[1].lower())).tolist() if owner else ():
                if self.covered[entity] < _AMBIGUOUS:
                    continue
                ends = (array[:, 1] == entity) | (array[:, 3] == entity)
                rows = array[ends & np.isin(array[:, 2], codes)]
                held = visible(self.search, rows[:, 0].tolist())
                for record, subject, _, target in rows.tolist():
                    if record in held:
                        self.aliases[target if subject == entity else subject] = unit
        for entity in self.aliases:
            self.covered[entity] = _ALIAS

    # --- all facts at once ---

    def pool(self, lexical: F32, cosine: F32 | None) -> tuple[I64, F32]:
        """Record ids of all facts and their rough scores."""
        array = self.table.array
        about = np.maximum(self.covered[array[:, 1]], INVERSE * self.covered[array[:, 3]])
        if self.names:
            held = np.zeros(len(array), np.float32)
            for word, strength in self.names.items():
                has = np.zeros(len(self.covered), bool)
                has[self.table.names.postings.get(word)] = True
                held += strength * (has[array[:, 1]] | has[array[:, 3]])
            about = about * held / sum(self.names.values())
        for entity in self.aliases:
            about[array[:, 1] == entity] = _ALIAS
        relations = np.zeros(len(self.table.said), np.float32)
        for unit, heavy in self.asked.units:
            best = np.zeros(len(relations), np.float32)
            for sense in unit.senses:
                for other in near(sense):
                    best[self.table.senses.get(other)] = NEAR
            for sense in unit.senses:
                best[self.table.senses.get(sense)] = SENSES[sense].agreement
            best[self.table.keys.get(unit.key)] = 1.0
            relations += heavy * best
        total = sum(heavy for _, heavy in self.asked.units) or 1.0
        score = (2 * about + about * relations[array[:, 2]] / total).astype(np.float32)
        at = self.search.derived.places(array[:, 0])  # a fact without a passage takes any other's small share
        top = float(lexical.max(initial=0.0))
        if top > 0:
            score += 0.5 * lexical[at] / top
        if cosine is not None:
            score += 0.5 * cosine[at]
        return array[:, 0], score

    # --- word by word ---

    def read(self, records: Sequence[int], *, by_meaning: bool = True) -> dict[int, Match]:
        """The match of each of these facts; `by_meaning` lets the embedder help where words do not decide."""
        if not records:
            return {}
        rows = self.table.rows_of(np.asarray(sorted(records), np.int64))
        chosen = self.table.array[rows]
        found = self.search.tx.select(
            "SELECT r.id, r.text, coalesce(json_extract(s.data, '$.label'), ''),"
            " coalesce(json_extract(o.data, '$.label'), '') FROM fact f JOIN record r ON r.id = f.record"
            " JOIN record s ON s.id = f.subject JOIN record o ON o.id = f.object WHERE f.record IN ({ids})",
            chosen[:, 0].tolist(),
        )
        texts = {row[0]: (row[1], row[2], row[3]) for row in found}
        matches: dict[int, Match] = {}
        shown: dict[int, tuple[str, tuple[str, str]]] = {}
        for record, subject, code, target in chosen.tolist():
            text, *labels = texts[record]
            ends = (self.table.shown[subject], self.table.shown[target])
            matches[record] = self._match(text, ends, (subject, target), code, labels)
            shown[record] = text, ends
        return self._by_meaning(matches, shown) if by_meaning else matches

    def _match(self, text: str, ends: tuple[str, str], at: tuple[int, int], code: int, labels: Sequence[str]) -> Match:
        stems = [set(self.table.names.stems[end]) for end in at]
        plain = [stem(word) for word in words(text)]
        told = set(plain) | {word for unit in self.table.said[code] for word in unit.key.split()}
        held = 1.0
        if self.names:
            held = sum(
                strength * (1.0 if word in stems[0] else 0.95 if word in stems[1] else 0.9 if word in told else 0.0)
                for word, strength in self.names.items()
            ) / sum(self.names.values())
        own = {word for end in stems for word in end}
        between = units([word for word, s in zip(words(text), plain, strict=True) if s not in own])
        best = Match(0.0, 0.0, 0.0)
        for side, factor in ((0, 1.0), (1, INVERSE)):
            alias = self.aliases.get(at[side])
            about = factor * float(self.covered[at[side]]) * (held if alias is None else 1.0)
            if about == 0 and not self.names and self.asked.units:
                about = _UNSPECIFIC * factor
            if about == 0:
                continue
            found = sorts(ends[1 - side], labels[1 - side])
            known = stems[side] if alias is None else stems[side] | set(alias.key.split())
            says = self._says(self.table.said[code], [*between, *_named(found)], units(words(ends[1 - side])), known)
            typed = side == 0 and bool(found & self.asked.wanted or ("time" in self.asked.wanted and found & TIMES))
            if says is None:  # the subject's name is all that was asked: "the budget for the kitchen", "where is it?"
                of_sort = any(
                    SENSES[name].value in self.asked.wanted for u in self.table.said[code] for name in u.senses
                )
                open_ended = not self.asked.wanted and bool(self.asked.units)  # more than "tell me about Ann"
                says = _NAMED if typed or of_sort or open_ended else _NAMED / 2
            else:
                says = max(says, _TYPED if typed else 0.0, _SORT if self._has_sort(code) else 0.0)
            value = fits(self.asked.wanted, found)
            match = Match(min(about, 1.0), says, value, ends[side])
            if match.value > best.value:
                best = match
        return best

    def _has_sort(self, code: int) -> bool:
        """Whether the relation is named by what "which" asks for: SCHOOL for "at which school does she teach"."""
        return self.asked.sort is not None and any(unit.key == self.asked.sort.key for unit in self.table.said[code])

    def _says(
        self, relation: Sequence[Unit], text: Sequence[Unit], value: Sequence[Unit], subject: set[str]
    ) -> float | None:
        """Share of the asked units that relation, text or value say, those that only name the subject left out.

        A relation that names something else beside counts less: the favourite colour is not the favourite dish. None
        when nothing but the subject was asked.
        """
        said = [*relation, *text]
        asked = [unit for unit, _ in self.asked.units]
        named = [Unit(word, _senses(word)) for word in subject]
        total = got = 0.0
        for unit, heavy in self.asked.units:
            own = set(unit.key.split())
            if own <= subject or agreement(unit, named) >= 0.8:
                continue
            total += heavy
            got += heavy * max(agreement(unit, said), 0.9 * agreement(unit, value))
        if not total:
            return None
        strange = [unit for unit in relation if agreement(unit, asked) < NEAR and not set(unit.key.split()) <= subject]
        return got / total * (1 - _STRANGE * len(strange) / len(relation) if relation else 1)

    def _by_meaning(self, matches: dict[int, Match], shown: dict[int, tuple[str, tuple[str, str]]]) -> dict[int, Match]:
        """Where no fact about the subject says what was asked in its words, the embedder compares."""
        near = [record for record, match in matches.items() if match.about >= 0.5]
        if not near or max(matches[record].says for record in near) >= _DECIDED or not self.asked.units:
            return matches
        search = self.search
        if search.embed is None or search.vector is None or search.deadline.limited:
            return matches
        near.sort(key=lambda record: -matches[record].value)
        masked = {record: _masked(*shown[record]) for record in near[: 2 * _EMBEDDED]}
        wanted = list(dict.fromkeys(mask for mask in masked.values() if mask))[:_EMBEDDED]
        if not wanted:
            return matches
        plain = " ".join(
            word for word in self.asked.masked.split() if stem(word.strip("?,.!").lower()) not in self.names
        )
        vectors = search.embed([plain, *wanted])
        least, most, worth = _COSINE
        cosines = np.clip((vectors[1:] @ vectors[0] - least) / (most - least), 0, 1) * worth
        likeness = dict(zip(wanted, cosines.tolist(), strict=True))
        return {
            record: replace(match, says=max(match.says, likeness.get(masked.get(record, ""), 0.0)))
            for record, match in matches.items()
        }


def _named(found: frozenset[str]) -> list[Unit]:
    """A proper name answers what something is called."""
    return units(["name"]) if found & {"proper", "person"} else []


def _senses(word: str) -> frozenset[str]:
    found = units([word])
    return found[0].senses if found else frozenset()


def _masked(text: str, ends: tuple[str, str]) -> str:
    """A fact's text without its ends and times."""
    for span in reversed(find_times(text, None)):
        text = f"{text[: span.offset]} {text[span.offset + len(span.text) :]}"
    for end in sorted(ends, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(end)}(?!\w)(?:['’]s)?", " ", text, flags=re.IGNORECASE)
    return " ".join(text.split()).strip(" .")


def ordered(matches: dict[int, Match], config: ZepConfig, began: dict[int, int], sources: dict[int, int]) -> list[int]:
    """Facts with a match, the best first; of those within `match_margin` of the best the one that began last is first.

    Args:
        matches: of each fact.
        config: constants.
        began: when each began to hold, or was last seen to.
        sources: how many episodes state each.
    """
    best = max((match.value for match in matches.values()), default=0.0)

    def key(record: int) -> tuple[float, float, float, int]:
        value = matches[record].value
        equal = value >= best - config.match_margin
        return (best if equal else value, began.get(record, 0) if equal else 0, sources.get(record, 0), record)

    kept = [record for record, match in matches.items() if match.value >= config.match_least]
    return sorted(kept, key=key, reverse=True)
