"""Statements: the parts of a turn that each say one thing, without the words around them.

People wrap what they say: "It turns out that …", "I should have told you: …", "…, by the way". A statement is what is
left when such frames, adverbs that only say "now", time expressions and contrasts ("…, not OLD any more") are taken
off. The small parsers often misread short chat sentences, so statements are cut by words and tags, not by the parse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from memspan.longterm.scribe.dates import TimeSpan

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span, Token

    from memspan.longterm.scribe.told import StatementReader

StatementTense = Literal["past", "present", "perfect", "future"]

NAME = r"(?:(?:Mr|Mrs|Ms|Miss|Dr|Prof)\.? )?[A-Z][\w.&-]*(?: (?:[A-Z][\w.&-]*|of(?= [A-Z])|de|van|von|&))*"
_FINITE = frozenset(("VBD", "VBZ", "VBP", "MD"))
_PRONOUNS = frozenset(("i", "we", "he", "she", "it", "they", "you", "that"))
_BREAKS = frozenset((";", ":", "–", "—", "(", ")", "…", "...", "--"))
_SUBORDINATORS = frozenset(
    ("when", "while", "because", "although", "though", "which", "who", "where", "after", "since")
)
_LEADS = re.compile(
    r"^(?:[,.!]|and|but|so|well|oh|yes|no ,|yeah|ok|okay|anyway|hey|hi|please|also|actually|btw|sorry ,|then|bad news"
    r"|good news|by the way|of course|as (?:you|we) know|(?:you|as you) (?:know"
    r"|remember)|turns out(?: that)?)(?: |$)",
    re.IGNORECASE,
)
_REPORTS = (
    r"(?:told (?:me|us|everyone)|said|says|mentioned|wrote|announced|confirmed|admitted|let me know|swears|tells me)"
)
_FRAMES = re.compile(
    rf"^(?:it (?:turns out|turned out|seems|appears|so happens|looks like|is true)(?: that| like)?"
    rf"|did you (?:know|hear|see)(?: that)?|i (?:just |only |also |finally )?(?:heard|hear|learnt|learned|found out"
    rf"|discovered|noticed|saw|realised|realized|know|see)(?: (?:today|now))? that"
    rf"|(?P<source>(?!(?:it|that|this|the|i|my|we|there|what|who)\b)(?-i:{NAME})"
    rf"|he|she|they) (?:once |just |also )?{_REPORTS}(?: that)?(?= \S+ \S+))\s+",
    re.IGNORECASE,
)
_TAILS = re.compile(
    r"(?: ,)? (?:by the way|as you know|i (?:think|believe|suppose|guess|hear|heard)|it seems|apparently|you know"
    r"|remember|, if you (?:need|want|like|care|must|wonder|are|were|have|'re) .+"
    r"|i'm told|as (?:ever|always|usual|before)|of course|thank(?:s)? \w+|for good"
    r"|so far|at last"
    r"|did n't i (?:say|tell you|mention it)|have n't i (?:said|told you))$",
    re.IGNORECASE,
)
_NOW = re.compile(
    r"(?:(?<= )|^)(?:now(?:adays)?|these days|at (?:present|the moment)|currently"
    r"|at last|from (?:now|then|that day) on"
    r"(?:wards?)?|from here on|henceforth|right now|as of now)(?= |$)",
    re.IGNORECASE,
)
_FILLERS = re.compile(
    r"(?:(?<= )|^)(?:still|actually|really|just|already|simply|basically|finally"
    r"|officially|always|usually|normally|even"
    r"|in fact|long|always|happily|recently|lately|again|meanwhile|ever since|by now|a while ago)(?= |$)",
    re.IGNORECASE,
)
_OLD = (
    r"(?:,? (?:and |but )?(?:no longer|not|instead of|rather than|no more|in place of|and not|even to|replacing"
    r"|as opposed to)(?: (?:for|on|as|at|in|to|with|by|from))?(?: (?:an?|the))? (?P<old>(?:[^,;:]|,(?=\d))+?)"
    r"(?: (?:any more|anymore|any longer|instead))?)$"
)
_CONTRAST = re.compile(_OLD, re.IGNORECASE)
_ONCE = frozenset(("once", "originally", "previously", "formerly", "ago"))
_SAME_TIME = re.compile(
    r"^(?:on )?(?:that (?:very |same )?|the (?:very )?same )(?:day|evening|morning"
    r"|night|afternoon|week|month|year|summer|winter)(?= )",
    re.IGNORECASE,
)
_UNSURE = re.compile(
    r"\b(?:if|unless|whether|wish|maybe|perhaps|probably|possibly|would|could|might|may|should|imagine|suppose|hope"
    r"|hopes|hoping|'d|let 's|almost|nearly|wants?|wanted|once wanted|looking for|think of|wonder|dreams?|dreamt)\b"
)


@dataclass(slots=True)
class Statement:
    """One thing that is said.

    Attributes:
        tokens: its words without time expressions and fillers.
        text: the tokens joined by single spaces, apostrophes made straight.
        full: the same of all its words.
        all: all its words.
        spans: its time expressions.
        tense: of its first finite verb.
        now: it says that it holds now ("these days", "from now on").
        olds: what it says is over, in passing ("…, not OLD any more").
        sure: whether it asserts anything: no question, condition or wish.
        source: who is named as having told it.
        since: a clause with "since" follows it.
        vague: it happened at an earlier time that is not said ("when I was ten", "once").
        same_time: it speaks of the time of what was said before ("that same evening").
    """

    tokens: list[Token]
    all: list[Token]
    spans: list[TimeSpan]
    tense: StatementTense
    sentence: int
    text: str = ""
    full: str = ""
    now: bool = False
    sure: bool = True
    olds: list[list[Token]] = field(default_factory=list)
    source: list[Token] = field(default_factory=list)
    since: bool = False
    same_time: bool = False
    vague: bool = False

    def between(self, start: int, end: int, *, full: bool = False) -> list[Token]:
        """The tokens that stand in a stretch of `text` (or of `full`)."""
        found, place = [], 0
        for token in self.all if full else self.tokens:
            length = len(plain(token))
            if place < end and place + length > start:
                found.append(token)
            place += length + 1
        return found

    def group(self, match: re.Match[str], name: str) -> list[Token]:
        """The tokens of a group; empty when it took no part."""
        if match[name] is None:
            return []
        return self.between(*match.span(name), full=match.string is self.full)


def plain(token: Token) -> str:
    """A token's text as the patterns see it."""
    return str(token.text).replace("’", "'").replace("‘", "'")


def joined(tokens: Sequence[Token]) -> str:
    """Tokens as one string for the patterns."""
    return " ".join(plain(t) for t in tokens)


def sentences(doc: Doc) -> list[Span]:
    """The sentences of a turn: one ends with a stop, a question or an exclamation mark, whatever the parse says."""
    found: list[Span] = []
    start = 0
    for sentence in doc.sents:
        last = next((t for t in reversed(sentence) if not t.is_space), None)
        closed = last is not None and (last.text[-1] in ".?!…" or last.is_quote or not last.is_ascii)
        if closed or sentence.end == len(doc):
            found.append(doc[start : sentence.end])
            start = sentence.end
    return found


def statements(reader: StatementReader) -> Iterator[Statement]:
    """The statements of a turn, in order."""
    for number, sentence in enumerate(sentences(reader.doc)):
        asked = "?" in sentence.text[-3:]
        presumed = re.match(
            r"\W*did you (?:know|hear|see)\b(?! (?:who|what|why|how|if|whether|when|where|the|my)\b)",
            sentence.text,
            re.IGNORECASE,
        )
        tagged = re.search(r"(?i),\s*(?:did|have)n['’]t i \w+(?: you| it)?\s*\?$", sentence.text)
        if asked and not presumed and not tagged:
            continue
        for piece in _pieces(sentence):
            yield _statement(reader, piece, number, sentence)


def _finite(tokens: Sequence[Token]) -> bool:
    return any(
        t.tag_ in _FINITE or (plain(t).lower() in ("'s", "'m", "'re", "'ve", "'ll") and t.tag_ != "POS") for t in tokens
    )


def _pieces(sentence: Span) -> Iterator[list[Token]]:
    """A sentence cut where a new thing is said; a shared subject is repeated ("Ann left X and joined Y")."""
    tokens = [t for t in sentence if not t.is_space]
    piece: list[Token] = []
    subject: list[Token] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        rest = tokens[place + 1 :]
        word = token.lower_
        cut = word in _BREAKS and not (word == ":" and token.i + 1 < len(token.doc) and not token.whitespace_)
        if word == "," and rest and piece:
            following = rest[1:] if rest[0].lower_ in ("and", "but", "so") else rest
            cut = _opens(following, piece)
        elif word in ("and", "but", "so") and _finite(piece):
            cut = _opens(rest, piece)
            verb = rest[0] if rest and rest[0].pos_ not in ("ADV", "PART") else rest[1] if len(rest) > 1 else None
            if not cut and verb is not None and verb.pos_ in ("VERB", "AUX") and verb.tag_ in _FINITE | {"VBN"}:
                subject = _subject_of(piece)
                yield piece
                piece = list(subject)
                place += 1
                continue
        elif word in _SUBORDINATORS and _finite(piece) and _opens(rest, piece):
            cut = True
        if cut:
            if piece:
                yield piece
            piece = []
        else:
            piece.append(token)
        place += 1
    if piece:
        yield piece


def _opens(rest: Sequence[Token], before: Sequence[Token]) -> bool:
    """Whether a clause with a subject of its own begins here."""
    if len(rest) < 2 or not (_finite(rest) or any(t.tag_ == "VBN" for t in rest)):
        return False
    first = rest[0]
    if first.lower_ in _PRONOUNS and first.lower_ != "that":
        return rest[1].pos_ in ("VERB", "AUX", "ADV", "PART") or rest[1].text.startswith(("'", "’"))
    if first.lower_ == "that":
        return rest[1].pos_ == "AUX" or rest[1].text in ("'s", "’s") or _opens(rest[1:], before)
    if not (_finite(before) or any(t.tag_ == "VB" for t in before)):
        return False
    for place, token in enumerate(rest[:9]):
        follows = place and rest[place - 1].pos_ in ("PRON", "NOUN", "PROPN")
        if token.tag_ in _FINITE or (token.tag_ == "VBN" and follows):
            return token is not first
        if token.pos_ not in ("DET", "ADJ", "NOUN", "PROPN", "PRON", "NUM", "ADV", "ADP", "CCONJ", "PART"):
            return False
    return False


def _subject_of(piece: Sequence[Token]) -> list[Token]:
    for place, token in enumerate(piece):
        if token.tag_ in _FINITE or (token.text[:1] in "'’" and token.tag_ != "POS"):
            return list(piece[:place])
    return []


def _statement(reader: StatementReader, tokens: list[Token], number: int, sentence: Span) -> Statement:
    tense = _tense(tokens)
    prefer: Literal["past", "future", "nearest"] = "past" if tense in ("past", "perfect") else "nearest"
    prefer = "future" if tense == "future" else prefer
    if tense == "present" and any(
        t.lower_ in ("start", "starts", "begin", "begins", "join", "move", "takes") for t in tokens
    ):
        prefer = "future"
    spans = []
    timed: set[int] = set()
    for span in reader.times(prefer):
        inside = [t for t in tokens if span.offset <= t.idx < span.offset + len(span.text)]
        if inside and not _attributive(span, inside):
            spans.append(span)
            timed |= {t.i for t in inside}
    made = Statement([], tokens, spans, tense, number)
    text = joined(tokens)
    # "From" and "starting" in front of a date belong to it.
    timed |= {
        t.i for t in tokens if t.i + 1 in timed and t.lower_ in ("from", "of", "on", "starting", "effective", "by")
    }
    keep = [t for t in tokens if t.i not in timed]
    after = tokens[-1].i + 1
    follows = tokens[0].doc[after].lower_ if after < len(tokens[0].doc) else ""
    made.since = follows == "since"
    made.vague = follows in ("when", "before", "after", "while", "as") or any(t.lower_ in _ONCE for t in tokens)
    while True:
        keep = _strip(keep)
        text = joined(keep)
        if (m := _FRAMES.match(text)) or (m := _LEADS.match(text)):
            keep_from = m.end()
            if "source" in m.groupdict() and m["source"]:
                made.source = _slice(keep, *m.span("source"))
            keep = _slice(keep, keep_from, len(text) + 1)
            if made.source and len(keep) > 1 and keep[0].lower_ == "about" and keep[1].tag_ == "VBG":
                keep = [*made.source, *keep[1:]]  # "Ann told me about living in X"
        elif m := _TAILS.search(text):
            keep = _slice(keep, 0, m.start())
        elif m := _NOW.search(text):
            made.now = True
            keep = [*_slice(keep, 0, m.start()), *_slice(keep, m.end() + 1, len(text) + 1)]
        elif m := _SAME_TIME.match(text):
            made.same_time = True
            keep = _slice(keep, m.end(), len(text) + 1)
        elif (m := _CONTRAST.search(text)) and m.start() > 3 and _over(keep, m):
            made.olds.append(_slice(keep, *m.span("old")))
            keep = _slice(keep, 0, m.start())
        elif m := _FILLERS.search(text):
            keep = [*_slice(keep, 0, m.start()), *_slice(keep, m.end() + 1, len(text) + 1)]
        else:
            break
    made.tokens, made.text = keep, joined(keep)
    made.sure = not _UNSURE.search(made.text[:1].lower() + made.text[1:])
    made.tense = _tense(keep) if keep else tense
    first = next((k for k, t in enumerate(tokens) if keep and t.i == keep[0].i), 0)
    made.all = tokens if not made.source else tokens[first:]
    made.full = joined(made.all)
    return made


def _strip(tokens: list[Token]) -> list[Token]:
    while tokens and (tokens[0].is_punct or tokens[0].lower_ in ("and",)) and tokens[0].text not in ("$", "#", "+"):
        tokens = tokens[1:]
    while tokens and tokens[-1].is_punct and tokens[-1].text not in ("%",):
        tokens = tokens[:-1]
    doubled = {t.i for t, after in pairwise(tokens) if t.text == "," and after.text == ","}
    return [t for t in tokens if t.i not in doubled]


def _slice(tokens: Sequence[Token], start: int, end: int) -> list[Token]:
    found, place = [], 0
    for token in tokens:
        length = len(plain(token))
        if place < end and place + length > start:
            found.append(token)
        place += length + 1
    return found


def _tense(tokens: Sequence[Token]) -> StatementTense:
    lower = [plain(t).lower() for t in tokens]
    if "will" in lower or "'ll" in lower or ("going" in lower and "to" in lower[lower.index("going") :][:2]):
        return "future"
    for place, token in enumerate(tokens):
        word = lower[place]
        if word in ("has", "have", "'ve") or (
            word == "'s" and any(t.lower_ == "been" for t in tokens[place + 1 : place + 3])
        ):
            after = [t for t in tokens[place + 1 : place + 4] if t.pos_ != "ADV" and t.dep_ != "neg"]
            return "perfect" if after and (after[0].tag_ == "VBN" or after[0].lower_ == "been") else "present"
        if token.tag_ == "VBD":
            return "past"
        if token.tag_ in ("VBZ", "VBP", "MD") or word in ("'m", "'re") or (word == "'s" and token.tag_ != "POS"):
            return "present"
    return "past" if any(t.tag_ == "VBN" for t in tokens) else "present"


_ATTRIBUTES = re.compile(
    r"(?:(?:for|in|of|during|at) )?(?:the )?(?:spring|summer|autumn|fall|winter"
    r"|christmas|easter|halloween|weekend|morning"
    r"|evening|night|(?:mon|tues|wednes|thurs|fri|satur|sun)day)",
    re.IGNORECASE,
)


def _attributive(span: TimeSpan, inside: Sequence[Token]) -> bool:
    """Whether a word of time only names a thing: "the summer party", "the Friday market"."""
    last = inside[-1]
    after = last.nbor(1) if last.i + 1 < len(last.doc) else None
    return (
        after is not None
        and _ATTRIBUTES.fullmatch(span.text) is not None
        and after.pos_ == "NOUN"
        and after.lower_ not in ("morning", "evening", "night", "afternoon", "people")
    )


def _over(tokens: Sequence[Token], m: re.Match[str]) -> bool:
    """Whether a contrast names what is over; directly after "is" it is the clause's own negation."""
    before = _slice(tokens, 0, m.start())
    return bool(before) and before[-1].pos_ != "AUX" and _named(_slice(tokens, *m.span("old")))


def _named(tokens: Sequence[Token]) -> bool:
    """Whether some words name a value: "far from the river" does not."""
    while tokens and tokens[0].pos_ in ("DET", "ADP"):
        tokens = tokens[1:]
    return (
        bool(tokens)
        and len(tokens) < 6
        and (tokens[0].pos_ in ("PROPN", "NUM", "NOUN", "X", "VERB", "SYM") or tokens[-1].pos_ in ("NOUN", "PROPN"))
        and (tokens[0].pos_ != "ADV" and tokens[0].text not in ("far", "sure", "bad", "only"))
    )
