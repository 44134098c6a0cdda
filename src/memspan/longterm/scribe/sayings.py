"""What people say of homes, jobs and partners, and of what is over: many wordings, one relation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from memspan.longterm.base import FactDraft
from memspan.longterm.scribe.posts import single
from memspan.longterm.scribe.relations import Effect
from memspan.longterm.scribe.statements import NAME, Statement
from memspan.longterm.scribe.values import ValueKind, name_run, role_like, source_text, trim, value

if TYPE_CHECKING:
    from spacy.tokens import Token

    from memspan.longterm.scribe.told import StatementReader

KIN_PHRASE = rf"(?:[Mm]y|[Oo]ur|[Hh]is|[Hh]er|[Yy]our|{NAME} 's) (?:[a-z-]+ ){{0,2}}?[a-z-]+(?: {NAME})?"
WHO = rf"(?:I|[Ww]e|[Hh]e|[Ss]he|[Yy]ou|{KIN_PHRASE}|{NAME})"
S = rf"^(?P<s>{WHO})"
BE = r"(?:am|is|are|'s|'m|'re|was|were|has been|have been|'ve been|'s been|had been|will be|'ll be)"
HAVE = r"(?:(?:have|has|had|'ve|'s|will|'ll) )?"
DWELLING = r"(?:flat|house|home|apartment|place|room|studio|cottage|condo|bungalow|houseboat|bedsit|loft)"
JOB = r"(?:job|position|post|role|place|gig|placement|internship|apprenticeship)"
V = r"(?P<v>.+)$"

_Rule = tuple[re.Pattern[str], str, Effect, ValueKind]


def _rules(relation: str, *lines: tuple[str, Effect, ValueKind]) -> list[_Rule]:
    return [(re.compile(pattern), relation, effect, kind) for pattern, effect, kind in lines]


_HOME = _rules(
    "LIVES_IN",
    (rf"{S} {BE} (?:based|located|at home|settled|resident|living) (?:in|out of) {V}", "state", "place"),
    (
        rf"{S} {HAVE}(?:been )?(?:live|lives|lived|living|reside|resides|resided|residing|dwell|dwells|dwelt)"
        rf"(?: (?:right|up|down|over|out|alone|together|there|here))* (?:in|at) {V}",
        "state",
        "place",
    ),
    (rf"{S} {HAVE}(?:been )?(?:settled|settle|settles)(?: (?:down|in))? in {V}", "change", "place"),
    (
        rf"{S} {HAVE}(?:moved|relocated|emigrated|upped sticks|moved house)(?: (?:back"
        rf"|over|up|down|out|away|home|house|all"
        rf"|the way|in|together))*(?: (?:from|out of) (?P<o>.+?))?(?: back| over| down"
        rf"| up)? (?:to|into) {V}",
        "change",
        "place",
    ),
    (rf"{S} (?:live|lives) {V}", "state", "place"),
    (
        rf"^(?P<own>[Mm]y|[Oo]ur|[Hh]is|[Hh]er|{NAME} 's) (?:new |little |own )*{DWELLING}(?: is"
        rf"| 's| was)? in {V}",
        "state",
        "place",
    ),
    (
        rf"{S} (?:have|has|'ve got|rent|rents|share|shares|got|found|took) (?:an?"
        rf"|my|his|her) (?:\w+ ){{0,2}}?(?:flat|apartment|room|studio|bedsit) in {V}",
        "state",
        "place",
    ),
    (
        rf"{S} {HAVE}(?:call|calls|called|made|make|makes) (?P<v>{NAME}) (?:my |his "
        rf"|her |our )?home$",
        "state",
        "place",
    ),
    (
        rf"^(?P<v>{NAME}) (?:is|'s|has been|will be|became|has become) (?:(?P<own>my"
        rf"|our|his|her|{NAME} 's) )?(?:new )?home$",
        "state",
        "place",
    ),
    (rf"^(?P<v>{NAME}) (?:is|'s|has been) where (?P<s>{WHO}) (?:live|lives|have lived|has lived)$", "state", "place"),
)

_WORK = _rules(
    "WORKS_AT",
    (
        rf"{S} (?:{BE} )?{HAVE}(?:been )?(?:work|works|worked|working) (?:(?:part"
        rf"|full) - time )?(?:at|for|with|in) {V}",
        "state",
        "org",
    ),
    (rf"{S} {BE} (?:employed|on the payroll) (?:at|by|with|of) {V}", "state", "org"),
    (rf"{S} {HAVE}(?:been |got )?(?:hired|recruited|taken on) (?:at|by) {V}", "change", "org"),
    (
        rf"{S} (?:have|has|had|'ve got|'ve|'s got) (?:an?|my|her|his|another) (?:\w+ )*?{JOB}(?:"
        rf" as .+?)? (?:at|with) {V}",
        "state",
        "org",
    ),
    (
        rf"{S} {HAVE}(?:got|found|landed|took|taken|started|accepted|begun|began) (?:an?"
        rf"|my|her|his|the) (?:\w+ )*?{JOB}(?: as .+?)? (?:at|with|for) {V}",
        "change",
        "org",
    ),
    (
        rf"{S} {HAVE}(?:started|start|starts|begin|begins|began|begun|signed|sign)(?: (?:work"
        rf"|working|on|up|a contract))? (?:at|with|for) {V}",
        "change",
        "org",
    ),
    (rf"{S} (?:am|'m|is|'s|will be) (?:starting|joining)(?: (?:work|at|with))* {V}", "change", "org"),
    (rf"{S} {HAVE}(?:joined|join|joins) {V}", "change", "org"),
    (
        rf"{S} {HAVE}(?:moved|switched|went|gone|transferred|changed)(?: over)?(?: from (?P<o>.+?))?"
        rf" to (?:work (?:for|at) )?{V}",
        "change",
        "org",
    ),
    (
        rf"^(?P<v>{NAME}) (?:hired|employs|has hired|took on|has employed|pays) (?P<s>me"
        rf"|us|him|her|{WHO})$",
        "change",
        "org",
    ),
    (rf"{S} {BE} at {V}", "state", "org"),
    (rf"{S} {BE} with {V}", "state", "org"),
)

_ROLE = _rules(
    "HAS_ROLE",
    (rf"{S} {HAVE}(?:earn|earns|earned|make|makes|made) (?:an?|my|her|his|our) living as {V}", "state", "job"),
    (
        rf"{S} (?:{BE} )?{HAVE}(?:been )?(?:work|works|worked|working|serve|serves"
        rf"|employed)(?: (?:at|for|with) .+?)? as (?:an?|the) {V}",
        "state",
        "job",
    ),
    (
        rf"{S} (?:{BE}|{HAVE}(?:been|got|gotten)) (?:made|promoted(?: to)?|appointed"
        rf"|named|elected|hired as|taken on as)(?: (?:as|to))?(?: be)? (?:an? |the )?{V}",
        "change",
        "job",
    ),
    (
        rf"^(?:[Tt]hey|[Tt]he [\w ]+?|{NAME}|[Mm]y boss|[Ss]he|[Hh]e) {HAVE}(?:made"
        rf"|promoted|appointed|named|elected) (?P<s>me|us|you|him|her|{NAME})(?: (?:to"
        rf"|as|into))?(?: be)? (?:an? |the )?{V}",
        "change",
        "role",
    ),
    (
        rf"{S} {HAVE}(?:started|began|begun|start|trained|retrained|qualified|got a job"
        rf"|found work|took a job)(?: (?:work|working|again|over|out|a job))* as (?:an? "
        rf"|the )?{V}",
        "change",
        "job",
    ),
    (rf"{S} {HAVE}(?:become|became|turned) (?:an? |the )?{V}", "change", "role"),
    (rf"{S} {BE} an? {V}", "state", "role"),
)

_PAPERS = (
    r"(?:badge|business card|name ?tag|name plate|card|contract|office door|door"
    r"|email signature|signature|lanyard|cv|profile)"
)
_BADGE = (
    re.compile(
        rf"^(?P<own>[Mm]y|[Hh]is|[Hh]er|{NAME} 's) (?:new )?{_PAPERS} (?:says|reads"
        rf"|states|said) (?:an? )?(?:that (?:I|he|she) (?:'m|am|is) )?{V}"
    ),
    re.compile(
        rf"^[Ii]t (?:says|reads|said) (?:an? )?(?P<v>.+?) (?:on|in) (?P<own>my|his"
        rf"|her|{NAME} 's) (?:new )?{_PAPERS}$"
    ),
)

_COMPANY = re.compile(
    r"(?:Insurance|Bank|Foods?|Software|Maps|Rail|Ltd|Inc|Corp|Group|Systems"
    r"|Labs?|Media|Energy|Motors|Airlines|Studios?"
    r"|Partners|Holdings|Logistics|Pharma|Consulting|Solutions|Technologies|Tech"
    r"|Industries|Co|GmbH|AG|Council|Hospital"
    r"|University|College|School|Institute|Agency|Press|Books|Stores?|Markets?|Brothers|Sons|& .+)\.?$"
)
_CLUBS = re.compile(
    r"(?:Club|Choir|Team|Band|Party|Church|Orchestra|Society|Gym|Library|Zoom|Facebook|Instagram|Discord)$"
)


def _applied(reader: StatementReader, statement: Statement, rules: Sequence[_Rule]) -> Iterator[FactDraft]:
    """The first rule that finds a subject and a value of the right kind."""
    for pattern, relation, effect, kind in rules:
        m = pattern.match(statement.text)
        if m is None:
            continue
        groups = m.groupdict()
        tokens = statement.group(m, "v")
        found = value(tokens, kind, reader.names)
        if found is None or not _plausible(relation, pattern, tokens, found):
            continue
        if groups.get("own"):
            subject = reader.owner(statement.group(m, "own"))
        elif groups.get("s"):
            subject = reader.referent(statement.group(m, "s"))
        else:
            subject = reader.names.speaker if relation == "LIVES_IN" else None
        if subject is None or (
            relation == "HAS_ROLE" and pattern.pattern.endswith(f"{BE} an? {V}") and statement.tokens[0].lower_ == "you"
        ):
            continue
        said = f"{'an' if found[:1].lower() in 'aeiou' else 'a'} {found}" if relation == "HAS_ROLE" else ""
        if relation == "LIVES_IN" and statement.text.split(" ")[0] in ("Did", "did"):
            continue
        facts = list(reader.draft(statement, subject, relation, found, effect, said=said))
        if facts and groups.get("o"):
            yield from reader.over(statement, subject, statement.group(m, "o"))
        if facts:
            label = {"LIVES_IN": "GPE", "WORKS_AT": "ORG"}.get(relation)
            if label:
                reader.labels.setdefault(found, label)
            yield from facts
            if relation == "HAS_ROLE":
                yield from _where(reader, statement, subject, tokens, found, effect)
            return


# "You're a great host" praises; it tells nobody's trade.
_PRAISE = frozenset(
    "great real good true big huge total amazing natural bit fast slow quick hard nice proud bad terrible born"
    " wonderful awesome fantastic incredible such better best lovely super regular little perfect strong loyal tough"
    " careful".split()
)


def _plausible(relation: str, pattern: re.Pattern[str], tokens: Sequence[Token], found: str) -> bool:
    """Whether a name can be what the wording wants; weak wordings ask for more."""
    run = name_run(tokens)
    first = run[0] if run else tokens[0]
    source = pattern.pattern
    if relation == "HAS_ROLE" and source.endswith(f"{BE} an? {V}"):
        praised = any(t.lower_ in _PRAISE or t.text == "-" for t in trim(tokens))
        return not praised and not found.startswith(("You ", "you "))
    if relation == "LIVES_IN":
        if "(?:live|lives) " in source and not source.endswith("(?:in|at) " + V):
            return first.ent_type_ in ("GPE", "LOC")
        return first.pos_ != "PRON" and first.ent_type_ not in ("DATE", "TIME", "MONEY", "NORP")
    if relation != "WORKS_AT":
        return True
    weak = source.endswith((f"{BE} at {V}", f"{BE} with {V}"))
    if source.endswith(f"to (?:work (?:for|at) )?{V}") or "joined" in source or "signed" in source:
        if first.ent_type_ in ("PERSON", "GPE", "LOC") and not _COMPANY.search(found) and "(?:to|into)" in source:
            return False
        if source.endswith(f"to (?:work (?:for|at) )?{V}") and not (first.ent_type_ == "ORG" or _COMPANY.search(found)):
            return False
        return not _CLUBS.search(found) and first.ent_type_ not in ("GPE", "DATE", "EVENT", "NORP", "LANGUAGE")
    if not weak:
        return first.ent_type_ not in ("DATE", "TIME", "GPE") or bool(_COMPANY.search(found))
    after = tokens[len(run)] if len(tokens) > len(run) else None
    if not run or (after is not None and not after.is_punct and after.lower_ not in ("as", "in")):
        return False
    if source.endswith(f"with {V}"):
        return bool(_COMPANY.search(found)) or first.ent_type_ == "ORG"
    return first.ent_type_ not in ("GPE", "LOC", "FAC", "EVENT", "DATE", "TIME") or bool(_COMPANY.search(found))


def _where(
    reader: StatementReader, statement: Statement, subject: str, tokens: Sequence[Token], role: str, effect: Effect
) -> Iterator[FactDraft]:
    """ "A vet in Basel", "an analyst at Acme": where the work is done is told with it."""
    for place, token in enumerate(tokens):
        rest = tokens[place + 1 :]
        if token.lower_ == "in" and rest and rest[0].pos_ == "PROPN" and rest[0].ent_type_ not in ("DATE", "FAC"):
            town = value(rest, "place", reader.names)
            if town:
                text = f"{subject} is {'an' if role[0] in 'aeiou' else 'a'} {role} in {town}"
                yield from reader.draft(statement, subject, "LIVES_IN", town, effect, text=text)
        elif token.lower_ in ("at", "for", "with") and rest:
            company = value(rest, "org", reader.names)
            if company:
                yield from reader.draft(statement, subject, "WORKS_AT", company, effect)


def residence(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """Where somebody lives."""
    yield from _applied(reader, statement, _HOME)


def work(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """Whom somebody works for, and as what."""
    yield from _applied(reader, statement, _ROLE)
    yield from _applied(reader, statement, _WORK)


def papers(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "It says head nurse on my badge"."""
    for pattern in _BADGE:
        if m := pattern.match(statement.text):
            tokens = statement.group(m, "v")
            title = value(tokens, "job", reader.names)
            if title and (title[0].islower() or role_like(trim(tokens)[-1])):
                said = f"{'an' if title[:1].lower() in 'aeiou' else 'a'} {title}"
                effect: Effect = "change" if statement.now else "state"
                yield from reader.draft(
                    statement, reader.owner(statement.group(m, "own")), "HAS_ROLE", title, effect, said=said
                )
                return


# --- partners -------------------------------------------------------------------------------------------------------

_PAIR = rf"^(?P<a>{WHO}) and (?P<b>{WHO})"
_TOGETHER = (
    (
        re.compile(
            rf"{_PAIR} (?:{BE}|(?:have |has |'ve )?(?:become|became|got|gotten|get)) (?:an? (?:couple"
            rf"|item)|together|dating|partners|back together|going out)\b"
        ),
        "PARTNER_OF",
    ),
    (re.compile(rf"{_PAIR} (?:{BE}|(?:have |has |'ve )?(?:become|became|got|gotten|get)) engaged\b"), "ENGAGED_TO"),
    (re.compile(rf"{_PAIR} (?:{BE}|(?:have |has |'ve )?(?:become|became|got|gotten|get)) married\b"), "MARRIED_TO"),
    (re.compile(rf"{_PAIR} (?:have |has |'ve )?(?:married|tied the knot|got hitched|wed)\b"), "MARRIED_TO"),
    (re.compile(rf"{S} (?:{BE}|{HAVE}(?:got|become|became|gotten)) engaged to {V}"), "ENGAGED_TO"),
    (re.compile(rf"{S} (?:{BE}|{HAVE}(?:got|become|became|gotten)) married to {V}"), "MARRIED_TO"),
    (re.compile(rf"{S} {HAVE}(?:been )?married {V}"), "MARRIED_TO"),
    (
        re.compile(
            rf"{S} (?:{BE} |{HAVE}(?:been |got |started |become |began |gotten )*)(?:together with"
            rf"|in a (?:new |steady )?relationship with|going out with|dating|date|a couple with"
            rf"|involved with|seeing) {V}"
        ),
        "PARTNER_OF",
    ),
    (re.compile(rf"{S} {BE} with {V}"), "PARTNER_OF"),
)
_APART = (
    re.compile(
        rf"{_PAIR} (?:{BE} |{HAVE})(?:over|split(?: up)?|broke(?:n)? up|broke(?:n)? it off"
        rf"|called? (?:it off|it quits|off .+)|parted(?: ways)?|separated|divorced"
        rf"|got divorced|history|gone our separate ways|went our separate ways)(?: "
        rf"|$)"
    ),
    re.compile(
        rf"{S} (?:{BE} |{HAVE})(?:split(?: up)?|broke(?:n)? up|broke(?:n)? it off"
        rf"|parted(?: ways)?|separated|divorced|over)(?: (?:with|from))? (?P<b>{NAME})(?: "
        rf"|$)"
    ),
    re.compile(rf"{S} {HAVE}(?:left|dumped|ditched|divorced) (?P<b>me|him|her|{NAME})(?: for (?P<v>{NAME}))?(?: |$)"),
)


def partners(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """Couples made and parted."""
    for pattern in _APART:
        if m := pattern.match(statement.text):
            groups = m.groupdict()
            one = statement.group(m, "a" if groups.get("a") else "s")
            pair = reader.both(one, statement.group(m, "b"))
            if pair is None:
                continue
            yield from reader.over(statement, *pair)
            if groups.get("v"):
                found = value(statement.group(m, "v"), "name", reader.names)
                yield from _couple(reader, statement, pair[0], "PARTNER_OF", found, "change")
            return
    for pattern, relation in _TOGETHER:
        m = pattern.match(statement.text)
        if m is None:
            continue
        groups = m.groupdict()
        verb = statement.text[m.start("b" if groups.get("b") else "s") :]
        changed = re.search(r"\b(?:became|become|got|gotten|married|started|tied)\b", verb) is not None
        effect: Effect = "change" if (changed and statement.tense != "perfect") or statement.now else "state"
        if groups.get("b"):
            pair = reader.both(statement.group(m, "a"), statement.group(m, "b"))
            if pair:
                reader.labels.setdefault(pair[1], "PERSON")
                yield from _couple(reader, statement, pair[0], relation, pair[1], effect)
                return
            continue
        tokens = statement.group(m, "v")
        found = value(tokens, "name", reader.names)
        run = name_run(tokens)
        if not found or not run or run[0].ent_type_ in ("DATE", "TIME") or _COMPANY.search(found):
            continue
        after = tokens[len(run)] if len(tokens) > len(run) else None
        if pattern.pattern.endswith(f"{BE} with {V}") and (
            (run[0].ent_type_ == "ORG" and len(run) > 1) or (after is not None and not after.is_punct)
        ):
            continue
        subject = reader.referent(statement.group(m, "s"))
        yield from _couple(reader, statement, subject, relation, found, effect)
        return


def _couple(
    reader: StatementReader, statement: Statement, subject: str | None, relation: str, other: str | None, effect: Effect
) -> Iterator[FactDraft]:
    if other:
        reader.labels.setdefault(other, "PERSON")
    yield from reader.draft(statement, subject, relation, other, effect)


# --- what is over ---------------------------------------------------------------------------------------------------

_GONE = (
    re.compile(
        rf"{S} {HAVE}(?:quit|left|resigned from|dropped out of|moved out of|been (?:fired"
        rf"|sacked|laid off) (?:from|by)|was (?:fired|sacked|laid off) (?:from|by)"
        rf"|given up|gave up|gone off|went off|ditched|dropped|cancelled|canceled"
        rf"|binned|got rid of|said goodbye to|done with|abandoned) (?:(?:the|my|his"
        rf"|her|a|an) )?(?P<o>.+)$"
    ),
    re.compile(
        r"^(?:[Pp]lease )?(?:[Dd]elete|[Ff]orget(?: about)?|[Ss]cratch|[Ii]gnore"
        r"|[Dd]iscard|[Dd]rop|[Ee]rase|[Rr]emove|[Cc]ross out|[Dd]o n't use|[Nn]ever mind"
        r"|[Nn]o more|[Gg]oodbye) (?:(?:the|my|an?) )?(?P<o>.+)$"
    ),
    re.compile(r"^[Nn]o longer (?:(?:an?|the|at|in|on|with|for) )*(?P<o>.+?)$"),
    re.compile(r"^[Nn]ot (?:(?:an?|the|at|in|on|with|for) )*(?P<o>.+?) any ?more$"),
    re.compile(
        r"^(?P<o>.+?) (?:is|'s|was|are|were|has been|got|has|have) (?:over|history"
        r"|no more|gone|disconnected|dead|stopped working|lost (?:its|his|her) place"
        r"|out of the picture|been replaced)(?: .*)?$"
    ),
    re.compile(
        rf"^(?P<o>(?:[Tt]he |[Mm]y )?{NAME}) (?:lost its place|(?:has |'s )?(?:died"
        rf"|passed away|retired|quit|resigned|stepped down|left))(?: .*)?$"
    ),
    re.compile(rf"^(?P<own>[Mm]y|[Hh]er|[Hh]is|{NAME} 's) last day (?:at|with|in) (?P<o>.+)$"),
    re.compile(
        rf"^(?:(?:today|yesterday|that|it|this) )?(?:is|was|'s|will be) (?P<own>my"
        rf"|her|his|{NAME} 's) last (?:day|week|month|shift|lesson) (?:at|with|in"
        rf"|as an?) (?P<o>.+)$"
    ),
)


def endings(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """What a statement says is over, and what it says so of in passing ("…, not OLD any more")."""
    subject = reader.names.speaker
    for pattern in _GONE:
        m = pattern.match(statement.text)
        if m is None:
            continue
        groups = m.groupdict()
        if groups.get("s"):
            subject = reader.referent(statement.group(m, "s"))
        elif groups.get("own"):
            subject = reader.owner(statement.group(m, "own"))
        old = statement.group(m, "o")
        yield from reader.over(statement, subject, name_run(old) or old)
        break


_OPENERS = re.compile(
    rf"{S} (?:do n't|does n't|did n't|have n't|has n't|is n't|are n't|'m not|am not"
    rf"|'s not|'re not|is not|are not|was n't|have not|has not|ca n't|do not|does not)\b"
)
_CEASED = re.compile(r"\b(?:any ?more|any longer|no longer|for a while|for ages|for some time|these days)\b")


def ceased(reader: StatementReader, statement: Statement) -> bool:
    """Whether a negated statement says that something is over; its negation is then taken off."""
    text = statement.text
    negated = re.search(r"(?:^| )(?:n't|not|never|no longer|neither|nor)(?= |$)", text)
    if negated is None:
        return False
    return bool(_CEASED.search(statement.full))


def affirmed(statement: Statement) -> Statement | None:
    """A ceased statement without its negation ("Ann isn't a nurse any more": "Ann is a nurse")."""
    words = statement.tokens
    kept: list[Token] = []
    for place, token in enumerate(words):
        lower = token.lower_
        if lower in ("n't", "n’t", "not", "never"):
            if kept and kept[-1].lower_ in ("do", "does", "did"):
                kept.pop()
            continue
        if lower in ("any", "no") and place + 1 < len(words) and words[place + 1].lower_ in ("more", "longer"):
            continue
        if lower in ("anymore", "longer") or (lower == "more" and place and words[place - 1].lower_ == "any"):
            continue
        kept.append(token)
    if not kept:
        return None
    from dataclasses import replace

    from memspan.longterm.scribe.statements import joined

    return replace(statement, tokens=kept, text=joined(kept), tense="present", olds=[])


def facts_of(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """All that a statement says: what is over first, then what holds."""
    from memspan.longterm.scribe.changes import slots

    if ceased(reader, statement):
        plain = affirmed(statement)
        for fact in reader.first(plain, (partners, residence, work, slots, diets)) if plain else ():
            yield from reader.over(statement, fact.subject, fact.object)
        return
    if re.search(r"(?:^| )(?:n't|not|never|neither|nor|nobody|none)(?= |$)", statement.text) and not re.match(
        r"^(?:[Dd]o n't|[Nn]ot) ", statement.text
    ):
        return
    ended = list(endings(reader, statement))
    found = [f for rule in (partners, residence, work, papers, diets) for f in reader.first(statement, (rule,))]
    schooled = (
        list(single(reader, statement)) if re.search(r"School|College|University|Academy", statement.text) else []
    )
    if schooled:
        found = [f for f in found if f.relation not in ("WORKS_AT", "LIVES_IN")]
    if any(f.relation == "LIVES_IN" for f in found) and not any(f.relation == "HAS_ROLE" for f in found):
        found = [f for f in found if f.relation != "WORKS_AT"]
    if any(f.relation == "PARTNER_OF" for f in found):
        found = [f for f in found if f.relation != "WORKS_AT" or _COMPANY.search(f.object)]
    if not found or all(f.ends for f in found):
        found += slots(reader, statement)
    yield from ended if not any(f.relation == "OVER" for f in found) else []
    for old in statement.olds:
        about = next((f.subject for f in found if not f.ends), None)
        yield from reader.over(statement, about, old)
    yield from found


_DIET = re.compile(
    rf"{S} (?:{BE}|{HAVE}(?:become|became|turned|gone|went)) (?:an? )?(?P<v>(?:strict "
    rf"|lapsed )?(?:vegetarian|vegan|pescatarian|pescetarian|flexitarian|carnivore"
    rf"|omnivore|teetotal(?:l?er)?|gluten - free|keto|paleo))$"
)


def diets(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """What somebody eats and does not eat: one diet at a time."""
    if m := _DIET.match(statement.text):
        found = source_text(statement.group(m, "v"))
        subject = reader.referent(statement.group(m, "s"))
        said = (
            f"{'an' if found[0] in 'aeiou' else 'a'} {found}"
            if found.endswith(("ian", "an", "ore", "er", "al"))
            else found
        )
        yield from reader.draft(statement, subject, "DIET", found, "state", text=f"{subject} is {said}")
