"""Declared relations: which hold for one object at a time, which read the same backwards, and the words for them.

The table is general English, not any data set's. A relation that is not in it comes from a verb ("ADOPTED",
"PLAYS") and is never functional unless the user declares it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Effect = Literal["state", "change", "end"]
Kind = Literal["place", "org", "person", "role", "school"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A relation and how it is said.

    Attributes:
        name: NAME_IN_CAPS.
        phrase: the fact as a sentence, with {s} and {o}.
        ended: the same when it holds no longer; `bare` when what is over is not named.
        functional: one object at a time per subject.
        symmetric: {s} and {o} can be exchanged.
        inverse: the relation read from the object, if it has a name.
    """

    name: str
    phrase: str
    ended: str = ""
    bare: str = ""
    functional: bool = False
    symmetric: bool = False
    inverse: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """Words that state a relation: a verb's lemma, then the object's place in the clause.

    Attributes:
        lemmas: of the verb.
        slot: prepositions before the object, "" for a direct object, "=" for a complement of "to be".
        relation: its name.
        effect: it holds, it has come to hold, it holds no longer.
        kind: what the object must be.
        noun: lemmas one of which must be the verb's own object ("a job" in "got a job at X").
        optional: the object may be missing ("I got divorced").
        passive: only in the passive voice ("was hired by X").
    """

    lemmas: frozenset[str]
    slot: tuple[str, ...]
    relation: str
    effect: Effect
    kind: Kind
    noun: frozenset[str] = frozenset()
    optional: bool = False
    passive: bool = False


_TABLE = (
    Relation(
        name="LIVES_IN",
        phrase="{s} lives in {o}",
        ended="{s} no longer lives in {o}",
        functional=True,
        inverse="HOME_OF",
    ),
    Relation(
        name="WORKS_AT",
        phrase="{s} works at {o}",
        ended="{s} no longer works at {o}",
        bare="{s} has left the job",
        functional=True,
        inverse="EMPLOYS",
    ),
    Relation(name="HAS_ROLE", phrase="{s} works as {o}", ended="{s} no longer works as {o}", functional=True),
    Relation(
        name="STUDIES_AT",
        phrase="{s} studies at {o}",
        ended="{s} no longer studies at {o}",
        bare="{s} has left the school",
        functional=True,
        inverse="TEACHES",
    ),
    Relation(
        name="MARRIED_TO",
        phrase="{s} is married to {o}",
        ended="{s} is no longer married to {o}",
        bare="{s} is no longer married",
        functional=True,
        symmetric=True,
    ),
    Relation(
        name="ENGAGED_TO",
        phrase="{s} is engaged to {o}",
        ended="{s} is no longer engaged to {o}",
        bare="{s} is no longer engaged",
        functional=True,
        symmetric=True,
    ),
    Relation(
        name="PARTNER_OF",
        phrase="{s} is in a relationship with {o}",
        ended="{s} is no longer in a relationship with {o}",
        bare="{s} is no longer in that relationship",
        functional=True,
        symmetric=True,
    ),
    Relation(name="RELATIONSHIP_STATUS", phrase="{s} is {o}", ended="{s} is no longer {o}", functional=True),
    Relation(name="AGE", phrase="{s} is {o} years old", functional=True),
    Relation(name="STATUS", phrase="{s} is {o}", ended="{s} is no longer {o}", functional=True),
    Relation(
        name="SCHEDULED_FOR",
        phrase="{s} is scheduled for {o}",
        ended="{s} is no longer scheduled for {o}",
        bare="{s} is no longer scheduled",
        functional=True,
    ),
    Relation(name="AMOUNT", phrase="{s} is {o}", functional=True),
    Relation(name="PRICE", phrase="{s} costs {o}", functional=True),
    Relation(name="IS_A", phrase="{s} is {o}", ended="{s} is no longer {o}"),
    Relation(name="SIBLING_OF", phrase="{s} is {o}'s sibling", symmetric=True),
    Relation(name="PARENT_OF", phrase="{s} is {o}'s parent", inverse="CHILD_OF"),
    Relation(name="CHILD_OF", phrase="{s} is {o}'s child", inverse="PARENT_OF"),
    Relation(name="COUSIN_OF", phrase="{s} is {o}'s cousin", symmetric=True),
    Relation(name="FRIEND_OF", phrase="{s} is {o}'s friend", symmetric=True),
    Relation(name="COLLEAGUE_OF", phrase="{s} is {o}'s colleague", symmetric=True),
    Relation(name="PET_OF", phrase="{s} is {o}'s pet", inverse="OWNER_OF"),
)
RELATIONS: Mapping[str, Relation] = {relation.name: relation for relation in _TABLE}

# Owning a car, having a hobby or a friend are not functional: people have several.


def _of(*words: str) -> frozenset[str]:
    return frozenset(words)


_JOB = _of("job", "position", "role", "work", "career", "internship", "post")

TRIGGERS = (
    Trigger(lemmas=_of("live", "reside"), slot=("in", "at"), relation="LIVES_IN", effect="state", kind="place"),
    Trigger(
        lemmas=_of("base", "locate"), slot=("in",), relation="LIVES_IN", effect="state", kind="place", passive=True
    ),
    Trigger(
        lemmas=_of("move", "relocate", "emigrate"), slot=("to",), relation="LIVES_IN", effect="change", kind="place"
    ),
    Trigger(lemmas=_of("settle"), slot=("in",), relation="LIVES_IN", effect="change", kind="place"),
    Trigger(lemmas=_of("move", "relocate"), slot=("from", "out"), relation="LIVES_IN", effect="end", kind="place"),
    Trigger(lemmas=_of("work"), slot=("at", "for"), relation="WORKS_AT", effect="state", kind="org"),
    Trigger(lemmas=_of("employ"), slot=("by", "at"), relation="WORKS_AT", effect="state", kind="org", passive=True),
    Trigger(lemmas=_of("hire"), slot=("by", "at"), relation="WORKS_AT", effect="change", kind="org", passive=True),
    Trigger(
        lemmas=_of("start", "begin", "get", "land", "take", "accept", "find"),
        slot=("at", "with"),
        relation="WORKS_AT",
        effect="change",
        kind="org",
        noun=_JOB,
    ),
    Trigger(lemmas=_of("start", "begin"), slot=("at",), relation="WORKS_AT", effect="change", kind="org"),
    Trigger(lemmas=_of("join"), slot=("",), relation="WORKS_AT", effect="change", kind="org"),
    Trigger(lemmas=_of("quit", "leave"), slot=("",), relation="WORKS_AT", effect="end", kind="org"),
    Trigger(
        lemmas=_of("quit", "leave", "lose"),
        slot=("at", "with"),
        relation="WORKS_AT",
        effect="end",
        kind="org",
        noun=_JOB,
        optional=True,
    ),
    Trigger(
        lemmas=_of("resign", "retire"), slot=("from",), relation="WORKS_AT", effect="end", kind="org", optional=True
    ),
    Trigger(
        lemmas=_of("fire", "lay"),
        slot=("from", "by"),
        relation="WORKS_AT",
        effect="end",
        kind="org",
        optional=True,
        passive=True,
    ),
    Trigger(lemmas=_of("work", "start"), slot=("as",), relation="HAS_ROLE", effect="state", kind="role"),
    Trigger(
        lemmas=_of("start", "begin", "get", "land", "take", "accept", "find"),
        slot=("as",),
        relation="HAS_ROLE",
        effect="change",
        kind="role",
        noun=_JOB,
    ),
    Trigger(lemmas=_of("become"), slot=("=",), relation="HAS_ROLE", effect="change", kind="role"),
    Trigger(lemmas=_of("promote"), slot=("to",), relation="HAS_ROLE", effect="change", kind="role", passive=True),
    Trigger(
        lemmas=_of("hire", "appoint"), slot=("as",), relation="HAS_ROLE", effect="change", kind="role", passive=True
    ),
    Trigger(lemmas=_of("study"), slot=("at",), relation="STUDIES_AT", effect="state", kind="school"),
    Trigger(lemmas=_of("attend"), slot=("",), relation="STUDIES_AT", effect="state", kind="school"),
    Trigger(lemmas=_of("enroll", "enrol"), slot=("at", "in"), relation="STUDIES_AT", effect="change", kind="school"),
    Trigger(lemmas=_of("transfer"), slot=("to",), relation="STUDIES_AT", effect="change", kind="school"),
    Trigger(lemmas=_of("graduate", "drop"), slot=("from", "out"), relation="STUDIES_AT", effect="end", kind="school"),
    Trigger(lemmas=_of("marry"), slot=("", "to"), relation="MARRIED_TO", effect="change", kind="person"),
    Trigger(
        lemmas=_of("divorce"), slot=("", "from"), relation="MARRIED_TO", effect="end", kind="person", optional=True
    ),
    Trigger(lemmas=_of("engage"), slot=("to",), relation="ENGAGED_TO", effect="change", kind="person"),
    Trigger(lemmas=_of("date"), slot=("",), relation="PARTNER_OF", effect="state", kind="person"),
    Trigger(lemmas=_of("break", "split"), slot=("with",), relation="PARTNER_OF", effect="end", kind="person"),
)

KIN: Mapping[str, tuple[str, str]] = {  # noun -> (relation of its bearer to the owner, the bearer's gender or "")
    "sister": ("SIBLING_OF", "f"),
    "brother": ("SIBLING_OF", "m"),
    "sibling": ("SIBLING_OF", ""),
    "mother": ("PARENT_OF", "f"),
    "mom": ("PARENT_OF", "f"),
    "mum": ("PARENT_OF", "f"),
    "father": ("PARENT_OF", "m"),
    "dad": ("PARENT_OF", "m"),
    "son": ("CHILD_OF", "m"),
    "daughter": ("CHILD_OF", "f"),
    "wife": ("MARRIED_TO", "f"),
    "husband": ("MARRIED_TO", "m"),
    "spouse": ("MARRIED_TO", ""),
    "fiancé": ("ENGAGED_TO", "m"),
    "fiancée": ("ENGAGED_TO", "f"),
    "girlfriend": ("PARTNER_OF", "f"),
    "boyfriend": ("PARTNER_OF", "m"),
    "cousin": ("COUSIN_OF", ""),
    "friend": ("FRIEND_OF", ""),
    "colleague": ("COLLEAGUE_OF", ""),
    "coworker": ("COLLEAGUE_OF", ""),
    "roommate": ("ROOMMATE_OF", ""),
    "boss": ("BOSS_OF", ""),
    "manager": ("BOSS_OF", ""),
    "neighbor": ("NEIGHBOR_OF", ""),
    "neighbour": ("NEIGHBOR_OF", ""),
    "teacher": ("TEACHER_OF", ""),
    "aunt": ("AUNT_OF", "f"),
    "uncle": ("UNCLE_OF", "m"),
    "grandmother": ("GRANDPARENT_OF", "f"),
    "grandma": ("GRANDPARENT_OF", "f"),
    "grandfather": ("GRANDPARENT_OF", "m"),
    "grandpa": ("GRANDPARENT_OF", "m"),
    "niece": ("NIECE_OF", "f"),
    "nephew": ("NEPHEW_OF", "m"),
    "dog": ("PET_OF", ""),
    "cat": ("PET_OF", ""),
    "puppy": ("PET_OF", ""),
    "kitten": ("PET_OF", ""),
    "horse": ("PET_OF", ""),
}

# Nouns that hold one value at a time, and what the value must be.
SLOTS: Mapping[str, Literal["amount", "time", "text", "person"]] = {
    **dict.fromkeys(("budget", "price", "cost", "rent", "salary", "fee", "target", "limit", "deposit"), "amount"),
    **dict.fromkeys(("weight", "height", "temperature", "capacity", "population", "headcount", "rate"), "amount"),
    **dict.fromkeys(("goal", "total", "quota", "balance", "score"), "amount"),
    **dict.fromkeys(("phone number", "number", "phone", "extension", "room number"), "amount"),
    **dict.fromkeys(("meeting", "appointment", "call", "interview", "exam", "party", "wedding", "flight"), "time"),
    **dict.fromkeys(("deadline", "lunch", "dinner", "class", "lesson", "session", "concert", "conference"), "time"),
    **dict.fromkeys(("presentation", "game", "match", "surgery", "launch", "release", "delivery", "event"), "time"),
    **dict.fromkeys(("review", "workshop", "demo", "due date", "birthday", "checkup", "standup", "webinar"), "time"),
    **dict.fromkeys(("email", "e-mail", "email address", "address", "name", "nickname", "username"), "text"),
    **dict.fromkeys(("job", "job title", "title", "major", "hobby", "nationality", "hometown"), "text"),
}

STATUSES = _of(
    *("done", "finished", "complete", "completed", "cancelled", "canceled", "paused", "active", "open", "closed"),
    *("pending", "approved", "rejected", "delayed", "postponed", "resolved", "blocked", "live", "ready", "launched"),
)
COUPLE_STATUSES = _of("single", "married", "divorced", "engaged", "widowed", "separated")

SET_VERBS = _of(
    *("raise", "increase", "reduce", "lower", "cut", "change", "set", "update", "drop", "rise", "fall", "go", "grow"),
    *("revise", "adjust", "double", "bump", "decrease", "jump", "climb"),
)
MOVE_VERBS = _of(
    *(
        "move",
        "reschedule",
        "postpone",
        "push",
        "shift",
        "change",
        "bring",
        "schedule",
        "delay",
        "extend",
        "set",
        "book",
        "plan",
    )
)

ROLES = _of(
    *("teacher", "engineer", "nurse", "doctor", "lawyer", "developer", "programmer", "designer", "manager", "director"),
    *("analyst", "consultant", "accountant", "architect", "artist", "writer", "author", "editor", "journalist", "chef"),
    *("cook", "waiter", "waitress", "barista", "baker", "driver", "pilot", "professor", "lecturer", "researcher"),
    *("scientist", "electrician", "plumber", "carpenter", "mechanic", "farmer", "firefighter", "soldier", "officer"),
    *("secretary", "assistant", "receptionist", "librarian", "pharmacist", "dentist", "surgeon", "therapist", "vet"),
    *("psychologist", "veterinarian", "paramedic", "midwife", "actor", "actress", "musician", "photographer"),
    *("coach", "trainer", "translator", "interpreter", "banker", "economist", "salesman", "cashier", "freelancer"),
    *("ceo", "cto", "cfo", "coo", "president", "lead", "head", "intern", "technician", "supervisor", "administrator"),
    *("contractor", "counselor", "judge", "detective", "guard", "tutor", "principal", "recruiter", "realtor", "tailor"),
)
