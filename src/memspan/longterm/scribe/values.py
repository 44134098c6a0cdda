"""Values in statements: which stretch of words is the value, and whether it can be one of the wanted kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from memspan.longterm.scribe.relations import KIN, ROLES
from memspan.longterm.scribe.statements import NAME, plain
from memspan.longterm.scribe.time_words import DAY_NAMES
from memspan.longterm.scribe.wording import EMPTY, words

if TYPE_CHECKING:
    from spacy.tokens import Token

    from memspan.longterm.scribe.names import Names

ValueKind = Literal[
    "name", "place", "org", "role", "job", "phone", "amount", "day", "any", "thing", "number", "time", "strict"
]

DAY = rf"(?i:{'|'.join(DAY_NAMES)})s?"
_UNITS = (
    r"(?:%|percent|per cent|k|m|bn|million|billion|euros?|dollars?|pounds?|francs?"
    r"|crowns?|kroner|bucks|cents?|pence|eur"
    r"|usd|gbp|chf|mg|milligrams?|g|grams?|kg|kilos?|ml|millilit(?:re|er)s?|lit(?:re"
    r"|er)s?|tablets?|pills?|drops?|units"
    r"|puffs?|km|kilomet(?:re|er)s?|miles?|m|met(?:re|er)s?|cm|hours?|minutes?|days?|weeks?|months?|years?|people"
    r"|members?|students?|pages?|points?|degrees?|square met(?:re|er)s?|lbs?|stone|steps?|words?|calories|seats?)"
)
MONEY = (
    r"(?:(?:about |around |only |just |roughly )?(?:[$€£¥] ?\d[\d,.]*(?: ?(?:k|m|million|billion))?(?!\w)"
    r"|\d[\d,.]*(?: (?:k|thousand|million|billion))?(?: |-)?(?:euros?|dollars?"
    r"|pounds?|francs?|crowns?|kroner|bucks|cents"
    r"|pence|eur|usd|gbp|chf|€|£|\$)(?!\w)))"
)
AMOUNT = rf"(?:[$€£¥] ?)?\d[\d,.]*(?:(?: |-)?{_UNITS}(?!\w)){{0,2}}"
DOSE = r"\d[\d,.]* ?(?:mg|milligrams?|g|grams?|mcg|ml|drops?|tablets?|pills?|units|puffs?|spoons?|capsules?)(?!\w)"
CLOCK = (
    r"(?:(?:half past|quarter (?:past|to)) \w+|\d{1,2} ?: ?\d\d(?: ?[ap]\.?m\.?)?"
    r"|\d{1,2}(?: \. \d\d)? ?(?:[ap]\.?m\.?|o'clock)|noon|midnight)"
)
PHONE = r"\+?\(?\d[\d ()/.-]{4,}\d"
_STOPS = words(
    "who which that when where while because since after before until than if as so though although whose by from at "
    "in "
    "on to with without for about over under near next not into during via instead despite ever"
)
_PERSONS = words(
    "clerk chef nurse cook vet pilot judge guard tutor guide coach lead leader boss head captain chief host agent "
    "fireman "
    "policeman postman salesman apprentice intern trainee assistant attendant consultant accountant analyst analyst "
    "architect surgeon physicist chemist specialist scientist mechanic librarian technician musician electrician dean "
    "plumber sergeant butcher secretary buyer bookkeeper barista waitress actress freelancer model spy monk nun priest "
    "associate partner officer partner professor temp carpenter representative rep receptionist deputy supervisor "
    "midwife paramedic diplomat detective ranger courier caretaker janitor psychologist dj magician foreman conductor "
    "woman man person engineer developer smith wright"
)
_NO_PERSONS = words(
    "winner loser fighter monster number member lover stranger river water weather matter letter paper order dinner "
    "supper summer winter corner center centre offer power flower tower shower computer printer monitor mirror error "
    "color colour flavor flavour favor favour honor doctor's sister brother mother father daughter laser finger "
    "disaster "
    "chapter charter cluster counter cover danger fever hammer layer meter mover newcomer owner partner poster primer "
    "proper quarter rather reminder roller rubber sender shoulder sinner sucker sweater teenager theater timer toaster "
    "trailer transfer user visitor voter wonder keeper night-owl fan sinner survivor starter beginner foodie humor "
    "rumor tutor's loner believer follower supporter neighbor neighbour dreamer reader swimmer runner hiker walker "
    "gamer "
    "sleeper eater drinker smoker thinker talker listener planner saver riser bummer killer thriller stunner helper "
    "banger teaser pleaser joker kidder quitter outsider insider foreigner breather blessing game-changer factor major "
    "minor junior senior terror motor sector vector author's mentor's donor ancestor creator's bother other another "
    "further later never ever under over after together altogether however whoever whatever better best faster cluster "
    "list twist mist fist artist's wrist optimist pessimist realist perfectionist minimalist feminist racist tourist "
    "comedian's christian indian italian canadian asian"
)


def trim(tokens: Sequence[Token], *, prepositions: bool = False) -> list[Token]:
    """The first noun phrase of some tokens, up to a comma, a conjunction, a verb or what can only add to it."""
    kept: list[Token] = []
    for token in tokens:
        word = token.lower_
        if token.is_punct and token.text not in ("-", "/", "&", "'", "%", "#", "+") and not token.is_quote:
            break
        if kept and (
            token.pos_ in ("CCONJ", "SCONJ") or (word in _STOPS and not prepositions and token.pos_ != "PROPN")
        ):
            break
        if kept and token.pos_ in ("VERB", "AUX") and token.tag_ in ("VBD", "VBZ", "VBP", "MD") and not _capital(token):
            break
        if kept and token.pos_ == "PRON" and word not in ("my", "our"):
            break
        if kept and token.text[:1] in "'’" and token.tag_ != "POS" and len(token.text) > 1 and token.pos_ != "PART":
            break
        kept.append(token)
    while len(kept) > 1 and kept[0].pos_ in ("ADV", "INTJ") and kept[0].tag_ in ("RB", "UH"):
        kept = kept[1:]
    while kept and (
        kept[0].lower_ in ("a", "an", "the", "called", "named", "some", "just", "only", "about") and len(kept) > 1
    ):
        kept = kept[1:]
    while kept and (
        kept[-1].pos_ in ("ADP", "DET", "CCONJ", "ADV", "PART") and kept[-1].tag_ != "POS" and not _capital(kept[-1])
    ):
        kept = kept[:-1]
    return kept


def _capital(token: Token) -> bool:
    return bool(token.text[:1].isupper())


def source_text(tokens: Sequence[Token]) -> str:
    """Tokens as they stand in the text; what was left out between them becomes a space."""
    parts = []
    for token, after in zip(tokens, [*tokens[1:], None], strict=False):
        gap = after is not None and after.i != token.i + 1
        parts.append(token.text + (" " if gap else token.whitespace_))
    return " ".join("".join(parts).split())


def name_run(tokens: Sequence[Token]) -> list[Token]:
    """The capitalised name at the beginning, with its title."""
    while tokens and (
        tokens[0].lower_ in ("a", "an", "the", "called", "named", "my", "our", "some")
        or (
            tokens[0].tag_ == "RB"
            and len(tokens) > 1
            and tokens[0].is_stop is False
            and tokens[0].lower_.endswith("ly")
        )
    ):
        tokens = tokens[1:]
    text = " ".join(plain(t) for t in tokens)
    if not (m := re.match(NAME, text)):
        return []
    run, place = [], 0
    for token in tokens:
        if place >= m.end():
            break
        run.append(token)
        place += len(plain(token)) + 1
    # "Saint Hilda's" is a whole name, "Hilda's brother" is not.
    rest = tokens[len(run) :]
    if run and rest and rest[0].tag_ == "POS":
        if len(rest) == 1 or (len(run) > 1 and rest[1].is_punct):
            run = [*run, rest[0]]
        elif len(rest) > 1 and not rest[1].is_punct:
            return []
    while run and run[-1].lower_ in ("of", "the", "&", "de"):
        run = run[:-1]
    return run if run and run[0].lower_ not in ("i", "i'm") else []


def role_like(head: Token) -> bool:
    """Whether a noun names what people are by trade."""
    lemma = head.lemma_.lower()
    if head.tag_ in ("NNS", "NNPS") or lemma in _NO_PERSONS or (lemma in KIN and lemma not in ROLES):
        return False
    if lemma in ROLES or lemma in _PERSONS:
        return True
    return (
        head.pos_ in ("NOUN", "PROPN")
        and len(lemma) > 4
        and lemma.endswith(("er", "or", "ist", "ician", "arian", "man", "woman", "smith", "monger", "eer", "grapher"))
    )


def value(tokens: Sequence[Token], kind: ValueKind, names: Names) -> str | None:
    """The value at the beginning of some tokens, None when they hold none of the kind."""
    if not tokens:
        return None
    text = source_text(tokens)
    if kind in ("phone", "amount", "day", "number"):
        pattern = {"phone": PHONE, "amount": AMOUNT, "number": r"[\w-]*\d[\w-]*", "day": DAY}[kind]
        lead = r"(?:(?:about|around|only|just|now|roughly|a|an|the|on|every|each|at|of)\s+)*"
        if kind != "day" and kind != "phone" and re.match(lead + MONEY, text):
            pattern = MONEY
        m = re.match(lead + f"(?P<v>{pattern})", text, re.IGNORECASE)
        return None if m is None else m["v"].strip(" .,").capitalize() if kind == "day" else m["v"].strip(" .,")
    if kind in ("name", "place", "org"):
        run = name_run(tokens)
        if not run and kind == "org":
            return _organisation(tokens, names)
        if (
            not run
            or run[0].pos_ == "PRON"
            or (run[0].is_stop and run[0].pos_ != "PROPN")
            or (len(run) == 1 and run[0].pos_ in ("INTJ", "DET"))
        ):
            return None
        if run[0].lower_ in DAY_NAMES or (kind == "place" and run[0].ent_type_ in ("NORP", "DATE")):
            return None
        return source_text(run)
    phrase = trim(tokens)
    if not phrase or len(phrase) > 6 or any(t.pos_ == "PRON" and t.lower_ not in ("my", "our") for t in phrase):
        return None
    head = phrase[-1]
    if kind == "job" or kind == "role":
        if head.pos_ not in ("NOUN", "PROPN", "ADJ", "VERB", "ADV") or not head.is_alpha or head.lower_ in EMPTY:
            return None
        if kind == "role" and not role_like(head):
            return None
        return None if head.tag_ in ("NNS",) or head.lower_ in ("same", "such") else names.render(phrase)
    if head.is_stop and head.pos_ in ("ADV", "PRON", "ADP", "DET"):
        return None
    if kind == "any":
        run = name_run(tokens)
        if run and len(run) >= len(phrase):
            return source_text(run)
        if (
            head.pos_ not in ("NOUN", "PROPN", "NUM", "ADJ", "VERB", "X", "INTJ", "ADV", "PUNCT")
            or head.lower_ in EMPTY
        ):
            return None
        return names.render(phrase) or None
    return names.render(phrase) if head.pos_ in ("NOUN", "PROPN", "NUM", "X") and head.lower_ not in EMPTY else None


def _organisation(tokens: Sequence[Token], names: Names) -> str | None:
    from memspan.longterm.scribe.wording import ORGANISATIONS

    phrase = trim(tokens)
    if phrase and phrase[-1].lemma_.lower() in ORGANISATIONS and tokens[0].lower_ in ("a", "an", "the"):
        return names.render(phrase)
    return None
