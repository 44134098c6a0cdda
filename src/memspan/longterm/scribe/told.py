"""Facts from statements: who is meant, when it holds, and the drafts themselves. The rules are in `sayings` and beside.

A rule is a pattern over a statement's words with named groups: `s` the subject, `v` the value, `o` a value that is
over. The first rule of a family that reads a statement is taken, so that a clause is never read twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from memspan.longterm.base import FactDraft
from memspan.longterm.scribe import relations as table
from memspan.longterm.scribe.dates import Prefer, TimeSpan, find_times
from memspan.longterm.scribe.descriptions import Slot
from memspan.longterm.scribe.names import Names
from memspan.longterm.scribe.relations import RELATIONS, Effect
from memspan.longterm.scribe.statements import NAME, Statement, joined, statements
from memspan.longterm.scribe.values import name_run, source_text, trim
from memspan.longterm.scribe.wording import EMPTY, opening, sentence

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

_FAVOUR = re.compile(
    rf"^(?:[Ii]f|[Ww]hen|[Ii]n case) (?:you|anyone|someone) (?:ever )?(?:(?:want|need|wish|have|like|try)s? to )?\w+"
    rf"(?: (?:for|with|to|up|about))?(?: a \w+)?(?: for)? (?P<s>him|her|{NAME})(?: , (?:\w+) (?P<o>.+))?$"
)
OVER = "OVER"  # what is over, whatever relation it stood in: matched with known facts by its object
_EVENTS = frozenset(("it", "that", "this", "the move", "the change", "the switch", "the news"))
_ME = frozenset(("i", "we", "me", "us", "myself", "ourselves"))
_THIRD = frozenset(("he", "him", "she", "her", "his"))
_OWNERS = frozenset(("my", "our", "your", "his", "her", "their"))


class StatementReader:
    """Reads one parsed turn by statements.

    Args:
        doc: the turn, parsed by spaCy.
        at: when it was said, with a time zone.
        names: who is meant in it.
        labels: what kind of entity a name is; added to.
    """

    def __init__(self, doc: Doc, at: datetime | None, names: Names, labels: dict[str, str]) -> None:
        self.doc = doc
        self.at = at
        self.names = names
        self.labels = labels
        self.topic: str | None = None  # the person the turn is about: who "she" is
        self.slot: Slot | None = None  # the slot named last: what "it" and "the new one" are
        self.before: Slot | None = None  # the slot named before this statement
        self.object: list[Token] = []  # the last thing said of somebody: what "it" is in "it's my favourite"
        self.pending: datetime | None = None  # since when the slot named last has a value that is still to be told
        self.thing: str | None = None  # the thing whose hours were told last
        self.group: str | None = None  # what the day was told of
        self.sold: tuple[str, Statement] | None = None  # who gave something up, and where that is said
        self.told: str | None = None  # whom the last fact is about
        self.lost: str | None = None  # who has something no longer
        self.opened: list[FactDraft] = []  # the facts of the open reader: a surer reading of the same words goes first
        self.read_in: set[int] = set()  # sentences that gave a fact
        self._times: dict[Prefer, list[TimeSpan]] = {}

    def read(self) -> Iterator[FactDraft]:
        """The facts of all statements, in order."""
        from memspan.longterm.scribe.sayings import facts_of

        told: list[tuple[Statement, list[FactDraft]]] = []
        last: Statement | None = None
        for statement in statements(self):
            if statement.source:
                self.topic = self.referent(statement.source) or self.topic
                self._meet(statement.source) if name_run(statement.source) else None
            if last is not None and not statement.spans and last.spans and last.sentence == statement.sentence:
                # A date in front of a sentence holds for all that is joined in it.
                leads = last.spans[0].offset <= last.all[0].idx and last.tense == statement.tense
                statement.spans = list(last.spans) if leads or statement.same_time else []
            last = statement
            if not statement.tokens:
                continue
            self._note_topic(statement)
            self.before = self.slot
            found = list(facts_of(self, statement)) if statement.sure else self._supposed(statement)
            if not found and told and told[-1][1] and statement.spans:
                self._date_before(statement, told[-1])
            told.append((statement, found))
            if any(f.relation != OVER and f not in self.opened for f in found):
                self.read_in.add(statement.sentence)
        for _, facts in told:
            yield from facts

    def _note_topic(self, statement: Statement) -> None:
        """Whoever a statement begins with is whom "she" can mean later."""
        run = name_run(statement.tokens)
        after = statement.tokens[len(run)] if len(run) < len(statement.tokens) else None
        if run and statement.tokens[0] is run[0] and after is not None and after.pos_ in ("VERB", "AUX"):
            person = run[0].pos_ == "PROPN" and run[0].ent_type_ not in ("GPE", "LOC", "FAC", "DATE", "TIME", "EVENT")
            self._meet(run) if person else None
        elif statement.tokens and statement.tokens[0].lower_ == "the":
            end = next((k for k, t in enumerate(statement.tokens) if t.pos_ in ("VERB", "AUX")), 0)
            self.thing = self.referent(statement.tokens[:end]) or self.thing

    def _meet(self, run: Sequence[Token]) -> None:
        """Somebody is named: "she" can mean them from here on."""
        self.topic = source_text(run)
        if all(self.topic != name for _, name, _ in self.names.people) and self.topic != self.names.speaker:
            self.names.people.append((run[0].i, self.topic, ""))

    def _supposed(self, statement: Statement) -> list[FactDraft]:
        """ "If you want to ring Ann, the number is …" tells the number: the condition only says whom it is about."""
        if m := _FAVOUR.match(statement.text):
            self.topic = self.referent(statement.group(m, "s")) or self.topic
            self.object = trim(statement.group(m, "o")) if m["o"] else self.object
        return []

    def _date_before(self, statement: Statement, before: tuple[Statement, list[FactDraft]]) -> None:
        """ "…; the move was last week": a date told after an undated change is the change's."""
        earlier, facts = before
        same = earlier.sentence == statement.sentence or statement.text.split(" ")[:1] in (["It"], ["it"])
        if not same or earlier.spans or statement.tense != "past":
            return
        start = next((s.start for s in statement.spans if s.role in ("at", "from") and s.start), None)
        if start is not None:
            for place, fact in enumerate(facts):
                if fact.valid_at == self.at and not fact.ends:
                    facts[place] = _dated(fact, start)

    # --- who ----------------------------------------------------------------------------------------------------------

    def person(self, token: Token) -> str | None:
        """Who a pronoun means: the speaker, the one it can mean in this turn, or whom the turn is about."""
        lower = token.lower_
        if lower in _ME or lower in ("my", "our", "mine", "ours"):
            return self.names.speaker
        if lower in ("you", "your"):
            return self.names.other
        if lower in _THIRD:
            return self.names.third(token) or self.topic
        return None

    def referent(self, tokens: Sequence[Token]) -> str | None:
        """Whom or what a noun phrase means, None when that is not certain."""
        tokens = [t for t in tokens if not t.is_space]
        if not tokens:
            return None
        first = tokens[0]
        if (len(tokens) == 1 and first.pos_ == "PRON") or first.lower_ in _ME:
            found = self.person(first) if len(tokens) == 1 else None
            return self._known(found, "PERSON") if found else None
        if first.lower_ in _OWNERS or any(t.tag_ == "POS" for t in tokens[:-1]):
            return self._owned(tokens)
        run = name_run(tokens)
        if run and len(run) == len(tokens) and (run[0].pos_ == "PROPN" or not run[0].is_stop):
            name = source_text(run)
            person = first.ent_type_ == "PERSON" or first.ent_type_ == ""
            if run[0].pos_ in ("PROPN", "NOUN", "X", "ADJ", "VERB", "INTJ", "ADV", "ADP"):
                self.topic = name if person else self.topic
                return name
            return None
        phrase = trim(tokens)
        if not phrase or phrase[-1].pos_ not in ("NOUN", "PROPN", "NUM", "ADJ", "VERB") or len(phrase) > 7:
            return None
        if phrase[0].pos_ in ("PRON", "ADV", "SCONJ", "INTJ", "VERB") and phrase[0].tag_ not in ("VBG", "VBN"):
            return None
        if phrase[0].lower_ in ("this", "that", "these", "those", "no", "every", "each", "some", "any", "all"):
            return None
        if phrase[-1].lower_ in EMPTY or len(phrase) < len(tokens) - 1:
            return None
        return self.names.render(phrase)

    def _owned(self, tokens: Sequence[Token]) -> str | None:
        head = next((t for t in reversed(tokens) if t.pos_ in ("NOUN", "PROPN")), None)
        if head is None:
            return None
        kin = next((t for t in tokens if t.lemma_.lower() in table.KIN and t.pos_ in ("NOUN", "PROPN")), None)
        place = next(
            (k for k, t in enumerate(tokens) if t.tag_ == "POS" or t.lower_ in _OWNERS),
            0,
        )
        owner = self.owner(tokens[: place + 1])
        if owner is None:
            return None
        rest = list(tokens[place + 1 :])
        if kin is not None and kin in rest:
            after = name_run(rest[rest.index(kin) + 1 :])
            if after and len(after) == len(rest) - rest.index(kin) - 1:
                self.topic = source_text(after)
                return self._known(self.topic, "PERSON")
            if rest[-1] is kin:
                self.topic = f"{owner}'s {source_text(rest).lower()}"
                return self._known(self.topic, "PERSON")
        phrase = trim(rest)
        if not phrase or len(phrase) < len(rest) or any(t.lower_ in EMPTY for t in phrase):
            return None
        shown = self.names.render(phrase)
        return f"{owner}'s {shown}" if shown else None

    def owner(self, tokens: Sequence[Token]) -> str | None:
        """Who is meant by "my", "Ann's", "the club's"."""
        tokens = [t for t in tokens if t.tag_ != "POS"]
        if len(tokens) == 1 and (tokens[0].pos_ in ("PRON", "DET") or tokens[0].lower_ in _OWNERS):
            return self.person(tokens[0])
        return self.referent(tokens)

    def _known(self, name: str, label: str) -> str:
        self.labels.setdefault(name, label)
        return name

    def both(self, one: Sequence[Token], other: Sequence[Token]) -> tuple[str, str] | None:
        """Two people in a row, the speaker or the subject first when only one of them is a pronoun."""
        a, b = self.referent(one), self.referent(other)
        if a is None or b is None or a == b:
            return None
        return (b, a) if other[0].lower_ in _ME else (a, b)

    # --- when ---------------------------------------------------------------------------------------------------------

    def times(self, prefer: Prefer) -> list[TimeSpan]:
        """The time expressions of the turn."""
        if prefer not in self._times:
            self._times[prefer] = find_times(self.doc.text, self.at, prefer=prefer)
        return self._times[prefer]

    def when(
        self, statement: Statement, effect: Effect, without: Sequence[Token] = ()
    ) -> tuple[datetime | None, datetime | None] | None:
        """`(valid_at, invalid_at)`, None when the statement does not say that it holds at any known time.

        `without` are the words of the value, which may name a time themselves.
        """
        taken = {t.idx for t in without}
        spans = [s for s in statement.spans if not any(s.offset <= i < s.offset + len(s.text) for i in taken)]
        point = next((s for s in spans if s.role == "at"), None)
        since = next((s for s in spans if s.role == "from"), None)
        until = next((s for s in spans if s.role == "until"), None)
        lasting = next((s for s in spans if s.role == "for"), None)
        start = since.start if since else point.start if point else None
        ranged = point is not None and point.text.lower().startswith(("from", "between"))
        end = until.end if until else point.end if ranged and point else None
        if ranged or (since is not None and until is not None):
            return start, end
        if statement.tense == "future":
            return None if start is None else (start, end)
        if effect == "end":
            return None, start or (until.end if until else self.at)
        if effect == "change":
            return start or (None if statement.vague else self.at), end
        if statement.tense == "past":
            if since is None and point is None and until is None:
                return None
            return (start, end) if since or until else (start, point.end if point else None)
        if statement.tense == "perfect":
            if since is None and lasting is None:
                return (self.at, end) if statement.now or statement.since else None
            return start or (lasting.start if lasting else None), end
        if since is not None or lasting is not None:
            return start or (lasting.start if lasting else None), end
        return (start if start and self.at and start > self.at else self.at), end

    # --- drafts -------------------------------------------------------------------------------------------------------

    def draft(
        self,
        statement: Statement,
        subject: str | None,
        relation: str,
        value: str | None,
        effect: Effect,
        *,
        text: str = "",
        said: str = "",
        functional: bool = True,
        without: Sequence[Token] = (),
        when: tuple[datetime | None, datetime | None] | None = None,
    ) -> Iterator[FactDraft]:
        """A fact with its time; `text` has its sentence where the relation is not a declared one."""
        if not subject or not value or subject == value:
            return
        when = when or self.when(statement, effect, without)
        if when is None:
            return
        declared = RELATIONS.get(relation)
        pattern = text or (declared.phrase.format(s=opening(subject), o=said or value) if declared else "")
        shown = pattern.replace("{v}", said or value)
        if when[1] is not None:
            shown = f"{shown} (until {when[1]:%Y-%m-%d})"
        elif when[0] and self.at and when[0] > self.at:
            shown = f"{shown} (from {when[0]:%Y-%m-%d})"
        self.told = subject
        yield FactDraft(
            subject=subject,
            relation=relation,
            object=value,
            text=sentence(shown[:1].upper() + shown[1:] if shown.startswith("the ") else shown),
            valid_at=when[0],
            invalid_at=when[1],
            ends=effect == "end",
            functional=functional and (declared is None or declared.functional),
            reason=self.reason(statement),
        )

    def over(self, statement: Statement, subject: str | None, tokens: Sequence[Token] | str) -> Iterator[FactDraft]:
        """What is over without its relation being said: it closes what is known and adds nothing."""
        value = tokens if isinstance(tokens, str) else source_text(trim(tokens, prepositions=True))
        if isinstance(tokens, list) and tokens and tokens[0].pos_ == "PRON" and tokens[0].tag_ != "PRP$":
            return
        if not subject or not value or value.lower() in EMPTY or subject == value or len(value.split()) > 4:
            return
        self.lost = subject
        when = self.when(statement, "end")
        yield FactDraft(
            subject=subject,
            relation=OVER,
            object=value,
            text=sentence(f"{value} is over for {subject}"),
            valid_at=when[1] if when else self.at,
            ends=True,
            reason=self.reason(statement),
        )

    def reason(self, statement: Statement) -> str:
        """The statement as it was written."""
        first, last = statement.all[0], statement.all[-1]
        return " ".join(self.doc[first.i : last.i + 1].text.split())[:200]

    def first(self, statement: Statement, rules: Sequence[Callable[..., Iterator[FactDraft]]]) -> list[FactDraft]:
        """What the first of some rules reads that reads anything."""
        for rule in rules:
            if found := list(rule(self, statement)):
                return found
        return []


def _dated(fact: FactDraft, start: datetime) -> FactDraft:
    from dataclasses import replace

    return replace(fact, valid_at=start)


__all__ = ["OVER", "StatementReader", "joined"]
