"""Posts and habits that hold for one value at a time though a verb tells them: who leads what, how one gets to work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from memspan.longterm.base import FactDraft
from memspan.longterm.scribe.relations import Effect
from memspan.longterm.scribe.statements import NAME, Statement
from memspan.longterm.scribe.values import name_run, source_text, trim, value

if TYPE_CHECKING:
    from memspan.longterm.scribe.told import StatementReader

_WHO = rf"(?:I|[Ww]e|[Hh]e|[Ss]he|[Yy]ou|(?:[Mm]y|[Oo]ur|[Hh]is|[Hh]er|{NAME} 's) (?:[a-z-]+ ){{0,2}}?[a-z-]+|{NAME})"

# Who does it holds the post: "Ann chairs the board" fills the same slot as "the chair of the board is Ann".
_AGENTS = {
    "chair": "chair",
    "captain": "captain",
    "coach": "coach",
    "manage": "manager",
    "lead": "leader",
    "head": "head",
    "supervise": "supervisor",
    "direct": "director",
    "conduct": "conductor",
    "edit": "editor",
    "train": "trainer",
    "host": "host",
    "teach": "teacher",
    "tutor": "tutor",
    "mentor": "mentor",
    "own": "owner",
    "chairs": "chair",
}
_LEADS = re.compile(
    rf"^(?P<s>{_WHO}) (?:(?:has|have|'s|'ve|will|'ll|is|'m) )?(?:been )?(?P<verb>[a-z]+) (?P<o>me"
    rf"|us|him|her|(?:the|our|my|his|her|{NAME} 's) .+|{NAME})$"
)
_LED = re.compile(
    rf"^(?P<o>I|[Ww]e|[Hh]e|[Ss]he|(?:[Tt]he|[Oo]ur|[Mm]y) .+?|{NAME}) (?:is|'m"
    rf"|am|are|'s|was|will be|has been|have been|'s been) (?:being )?(?P<verb>[a-z]+) by (?P<s>{NAME})$"
)


def leads(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "Ann chairs the board", "I'm supervised by Ann"."""
    for pattern in (_LEADS, _LED):
        m = pattern.match(statement.text)
        if m is None:
            continue
        verb = next((t for t in statement.group(m, "verb")), None)
        noun = _AGENTS.get(verb.lemma_.lower(), _AGENTS.get(m["verb"].rstrip("s"))) if verb is not None else None
        if noun is None or (pattern is _LEADS and statement.tense == "past" and not statement.spans):
            continue
        over = statement.group(m, "o")
        person = (over[0].pos_ == "PRON" and len(over) == 1) or bool(name_run(over) and over[0].ent_type_ == "PERSON")
        if noun in ("teacher", "owner", "host") and not (person and pattern is _LED):
            continue
        holder, thing = reader.referent(statement.group(m, "s")), reader.referent(over)
        if holder is None or thing is None or holder == thing:
            continue
        shown = f"the {thing}" if thing[:1].islower() else thing
        text = f"{thing}'s {noun} is {{v}}" if thing[:1].isupper() else f"The {noun} of {shown} is {{v}}"
        effect: Effect = "change" if statement.now else "state"
        yield from reader.draft(statement, thing, noun.upper(), holder, effect, text=text)
        return


_VEHICLE = (
    r"(?:bus|tram|train|metro|subway|underground|tube|ferry|bike|bicycle|car"
    r"|scooter|taxi|moped|motorbike|boat|coach|streetcar|e - bike|S - Bahn|light rail)"
)
_TO = r"(?:to|into|to get to|from) (?:work|school|the office|town|university|college|campus|class|the city)"
_RIDES = (
    re.compile(
        rf"^(?P<s>{_WHO}) (?:have |has |'ve |'s )?(?:take|takes|took|taken|been taking"
        rf"|catch|catches|ride|rides|rode|use|uses|get|gets|drive|drives) (?P<v>(?:the "
        rf"|a |my |his |her )?(?:[\w-]+ ){{0,3}}?{_VEHICLE}(?: \d+)?)(?: {_TO})$"
    ),
    re.compile(
        rf"^(?P<s>{_WHO}) (?:go|goes|get|gets|commute|commutes|travel|travels|come"
        rf"|comes|went|commuted)(?: {_TO})? by (?P<v>{_VEHICLE})(?: {_TO})?$"
    ),
    re.compile(
        rf"^(?P<s>{_WHO}) (?P<v>cycle|walk|drive|run|bike|cycles|walks|drives|runs"
        rf"|bikes|cycled|walked|drove) {_TO}$"
    ),
)


def rides(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """How somebody gets to work."""
    for pattern in _RIDES:
        if m := pattern.match(statement.text):
            tokens = statement.group(m, "v")
            found = tokens[0].lemma_.lower() if pattern is _RIDES[2] else source_text(trim(tokens))
            subject = reader.referent(statement.group(m, "s"))
            ways = {"cycle": "bicycle", "bike": "bicycle", "walk": "foot", "drive": "car", "run": "running"}
            shown = f"{subject} gets to work " + ("on foot" if found == "walk" else "by {v}")
            said = {**ways, "walk": ""}.get(found, found)
            effect: Effect = "change" if statement.now else "state"
            value_ = "on foot" if found == "walk" else ways.get(found, found)
            yield from reader.draft(
                statement, subject, "COMMUTES_BY", value_, effect, text=shown, said=said or None or value_
            )
            return


_GROUPS = (
    r"(?:shift|team|department|division|squad|ward|unit|plan|tariff|level|league"
    r"|section|class|group|branch|crew|track|course|programme|program)"
)
_BELONGS = (
    re.compile(
        rf"^(?P<s>{_WHO}) (?:am|is|'m|'s|are|'re|was|were|have been|has been|'ve been"
        rf"|work|works|worked|play|plays) (?:(?:on|in|for|with|at) )?"
        rf"(?:the )(?P<v>(?:[\w-]+ ){{1,3}}?(?P<n>{_GROUPS}))$"
    ),
    re.compile(
        rf"^(?P<s>{_WHO}) (?:(?:was|were|am|is|'m|'s|have been|has been|got|been|have"
        rf"|has|'ve|being) )*(?:moved|transferred|switched|promoted|assigned|put|went"
        rf"|gone|changed|reassigned|joined|upgraded)(?: over| up| down)?(?: from (?P<o>.+?))? ?(?:to"
        rf"|into|on|in|onto)? (?:the )(?P<v>(?:[\w-]+ ){{1,3}}?(?P<n>{_GROUPS}))$"
    ),
)


def belongs(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "I'm on the night shift": the value names its own slot."""
    for pattern in _BELONGS:
        if m := pattern.match(statement.text):
            subject = reader.referent(statement.group(m, "s"))
            found = value(statement.group(m, "v"), "thing", reader.names)
            if (
                subject is None
                or found is None
                or subject[:1].islower()
                or m["v"].split()[0] in ("same", "other", "whole")
            ):
                return
            effect: Effect = "change" if pattern is _BELONGS[1] or statement.now else "state"
            relation = m["n"].upper()
            yield from reader.draft(
                statement,
                subject,
                relation,
                found,
                effect,
                text=f"{subject} is in the {{v}}" if m["n"] != "shift" else f"{subject} is on the {{v}}",
            )
            return


# Verbs of which people have one object at a time.
_SINGLE = (
    (
        re.compile(
            rf"^(?P<s>{_WHO}) (?:have |has |'ve |'s )?(?:been )?(?:drive|drives|drove"
            rf"|driving|driven) (?P<a>an? |the )?(?P<v>.+)$"
        ),
        "DRIVES",
        "drives",
    ),
    (
        re.compile(
            rf"^(?P<s>{_WHO}) (?:have |has |'ve |'s )?(?:been )?(?:report|reports|reported"
            rf"|reporting) (?P<a>to )(?P<v>{NAME})$"
        ),
        "REPORTS_TO",
        "reports",
    ),
    (
        re.compile(
            rf"^(?P<s>{_WHO}) (?:have |has |'ve |'s )?(?:been )?(?:bank|banks|banked|banking) (?P<a>with"
            rf" )(?P<v>{NAME})$"
        ),
        "BANKS_WITH",
        "banks",
    ),
    (
        re.compile(
            rf"^(?P<s>{_WHO}) (?:have |has |'ve |'s )?(?:been )?(?:train|trains|trained"
            rf"|training|work out|works out) (?P<a>at )(?P<v>.+)$"
        ),
        "TRAINS_AT",
        "trains",
    ),
    (
        re.compile(
            rf"^(?P<s>{_WHO}) (?:have |has |'ve |'s )?(?:been )?(?:sit|sits|sat|sitting) (?P<a>in "
            rf"|on |at )(?P<v>.*(?:\d|floor|room|desk).*)$"
        ),
        "SITS_IN",
        "sits",
    ),
    (
        re.compile(
            rf"^(?P<s>{_WHO}) (?:have |has |'ve |'s )?(?:been )?(?:teach|teaches|taught"
            rf"|teaching) (?P<a>at )(?P<v>.+)$"
        ),
        "TEACHES_AT",
        "teaches",
    ),
    (
        re.compile(
            rf"^(?P<s>{_WHO}) (?:have |has |'ve |'s )?(?:been )?(?:study|studies|studied"
            rf"|studying) (?P<a>at )(?P<v>.+)$"
        ),
        "STUDIES_AT",
        "studies",
    ),
    (
        re.compile(
            rf"^(?P<s>{_WHO}) (?:have |has |'ve |'s )?(?:been )?(?:go|goes|went|going"
            rf"|transferred|moved|switched|changed|starts?|started) (?P<a>to |at )(?P<v>.*(?:School"
            rf"|College|University|Academy|Kindergarten|Nursery)(?: 's)?)$"
        ),
        "STUDIES_AT",
        "studies",
    ),
    (
        re.compile(
            rf"^(?P<s>{_WHO}) (?:have |has |'ve |'s )?(?:been )?(?:play|plays|played|playing) (?P<a>for"
            rf" )(?P<v>.+)$"
        ),
        "PLAYS_FOR",
        "plays",
    ),
)
_AS_CHANGE = re.compile(r" (?:transferred|moved|switched|changed|started|starts|start) ")


def single(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "I drive a Saab", "she reports to Mr Tan", "he teaches at Elm School"."""
    for pattern, relation, verb in _SINGLE:
        m = pattern.match(statement.text)
        if m is None:
            continue
        tokens = statement.group(m, "v")
        subject = reader.referent(statement.group(m, "s"))
        drives = relation == "DRIVES"
        found = value(tokens, "any" if not drives else "thing", reader.names)
        run = name_run(tokens)
        found = source_text(run) if run and not drives and run[0] is tokens[0] else found
        if subject is None or found is None or tokens[0].pos_ == "PRON":
            continue
        if drives and not (name_run(trim(tokens)[-2:]) or name_run(trim(tokens)[-1:]) or m["a"] in ("a ", "an ")):
            continue
        if relation == "STUDIES_AT" and "School" in found and reader.names.speaker == subject and verb != "studies":
            continue
        effect: Effect = "change" if statement.now or _AS_CHANGE.search(m[0]) else "state"
        text = f"{subject} {verb} {'at ' if relation == 'STUDIES_AT' else m['a'] or ''}{{v}}"
        # Many people have two cars: only what is said to be so now comes after another one.
        functional = not drives or effect == "change"
        yield from reader.draft(statement, subject, relation, found, effect, text=text, functional=functional)
        return
