"""What somebody likes best: superlatives are slots, however they are worded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from memspan.longterm.base import FactDraft
from memspan.longterm.scribe.relations import Effect
from memspan.longterm.scribe.statements import NAME, Statement
from memspan.longterm.scribe.values import value

if TYPE_CHECKING:
    from spacy.tokens import Token

    from memspan.longterm.scribe.told import StatementReader

_KINDS = {
    "cook": "dish",
    "eat": "dish",
    "ate": "dish",
    "taste": "dish",
    "drink": "drink",
    "drank": "drink",
    "watch": "film",
    "read": "book",
    "listen": "music",
    "wear": "outfit",
    "play": "game",
    "sing": "song",
}
_BEST = (
    re.compile(
        r"^(?:[Tt]here is|[Tt]here 's) (?:nothing|no (?P<n>[a-z]+)) (?P<s>I|we|he"
        r"|she|" + NAME + r") (?:like|love|enjoy|prefer|want|drink|eat|likes|loves|enjoys|prefers|eats"
        r"|drinks) (?:better|more)(?: than (?P<v>.+))$"
    ),
    re.compile(
        r"^(?:[Oo]f all (?:the )?(?P<n>[a-z]+?)(?:e?s)? ,? ?)?(?P<s>I|we|he|she|"
        + NAME
        + r") (?:like|likes|love|loves|enjoy|enjoys) (?P<v>.+?) (?:best|the most|most of all"
        r"|more than anything(?: else)?|above all)(?: of all(?: (?P<m>[a-z]+?)(?:e?s)?)?)?$"
    ),
    re.compile(
        r"^(?P<s>I|we|he|she|" + NAME + r") (?:prefer|prefers) (?P<v>.+?) (?:to|over|above) (?:everything|anything"
        r"|all|any other|every other)(?: else)?(?: (?P<n>[a-z]+))?$"
    ),
    re.compile(
        r"^(?P<d>(?:[Mm]y|[Hh]is|[Hh]er|[Oo]ur|[Tt]he|"
        + NAME
        + r" 's) (?:(?:new|all - time|absolute) )*(?:favourite|favorite)(?: [a-z]+){0,2}) (?:is"
        r"|'s|has been|was|became|will be) (?P<v>.+)$"
    ),
    re.compile(
        r"^(?P<v>.+?) (?:is|'s|has been|was|became|has become|will be) (?P<d>(?:my"
        r"|his|her|our|the|" + NAME + r" 's) (?:(?:new|all - time|absolute) )*(?:favourite|favorite)(?: [a-z]+){0,2})$"
    ),
)


def favourites(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """Superlatives are slots: what somebody likes best is one thing at a time."""
    for pattern in _BEST:
        m = pattern.match(statement.text)
        if m is None:
            continue
        groups = m.groupdict()
        tokens = statement.group(m, "v")
        noun = groups.get("n") or groups.get("m")
        if groups.get("d"):
            described = statement.group(m, "d")
            head = described[0].lower_
            owner = (
                reader.topic
                if head == "the"
                else reader.owner(
                    [t for t in described if t.lower_ not in ("favourite", "favorite", "new")][:1]
                    if head in ("my", "his", "her", "our")
                    else _before_possessive(described)
                )
            )
            after = [t.lower_ for t in described]
            place = next(k for k, w in enumerate(after) if w in ("favourite", "favorite"))
            noun = " ".join(after[place + 1 :]) or None
            if tokens and tokens[0].lower_ in ("it", "that", "this") and len(tokens) == 1:
                tokens = reader.object
        else:
            owner = reader.referent(statement.group(m, "s"))
        found = value(tokens, "any", reader.names) if tokens and tokens[0].pos_ != "PRON" else None
        if found is None or owner is None or (noun or "").split(" ")[-1] in ("part", "thing", "one"):
            continue
        if noun is None:
            noun = next((_KINDS[w] for w in re.findall(r"[a-z]+", reader.doc.text.lower()) if w in _KINDS), None)
        relation = "FAVOURITE_" + noun.upper().replace(" ", "_") if noun else "FAVOURITE"
        words = f"favourite {noun}" if noun else "favourite"
        effect: Effect = "change" if "becom" in m[0] or "became" in m[0] else "change" if statement.now else "state"
        if effect == "state" and statement.tense == "past" and not statement.spans:
            continue
        text = f"{owner}'s {words} is {{v}}"
        start = reader.pending if groups.get("d") and not statement.spans else None
        for fact in reader.draft(statement, owner, relation, found, effect, text=text):
            yield replace(fact, valid_at=start) if start is not None else fact
        return


def _before_possessive(tokens: Sequence[Token]) -> list[Token]:
    place = next((k for k, t in enumerate(tokens) if t.tag_ == "POS"), 0)
    return list(tokens[:place])
