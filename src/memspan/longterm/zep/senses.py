"""What words ask for: groups of words that name one attribute: "Where does Ann live?" meets "Ann's home is Oslo".

General English, no data set's. A text is read as *units*: the longest phrases of the table, then single stems. Two
units agree when they are the same stems, when a sense is common to both, or less when their senses are near.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import Stemmer

_local = threading.local()  # a Stemmer is not safe to share between threads
NEAR = 0.5  # agreement of units with senses that are near each other
PART = 0.8  # of units that share a word, one of which has no sense


@dataclass(frozen=True, slots=True)
class Sense:
    """An attribute in words.

    Attributes:
        phrases: words or phrases that name it, commas between them.
        value: what its value is: "person", "place", "org", "time", "amount", "number"; "" when that is open.
        agreement: of two of its phrases: 1 means that either can be said for the other; lower for words of one field.
        near: names of senses that may answer for it.
    """

    phrases: str
    value: str = ""
    agreement: float = 0.95
    near: tuple[str, ...] = ()


SENSES: Mapping[str, Sense] = {
    "home": Sense(
        "live, live in, live at, reside, reside in, residence, home, home in, home city, home town, city, town,"
        " base, base in, settle, settle in, relocate, relocate to, move to, dwell, flat in, apartment in, house in",
        "place",
        near=("address",),
    ),
    "origin": Sense(
        "born, born in, birthplace, place of birth, come from, from, origin, originate, hometown, native, grow up,"
        " grow up in, raise in",
        "place",
    ),
    "address": Sense("address, street, live at", "", near=("home",)),
    "nationality": Sense("nationality, citizenship, citizen, passport", "", near=("being", "origin")),
    "employer": Sense(
        "work, job, work for, work at, work with, work in, employ, employ by, employ at, employer, company, firm,"
        " workplace, job at, job with, join, start at, hire by, place of work, office at, be with",
        "org",
        near=("role", "school"),
    ),
    "role": Sense(
        "work, job, work as, job title, job as, title, role, position, post, profession, occupation, career, vocation,"
        " employ as, start as, serve as, become, living as, has role, trade, badge, promote to, hire as, appoint as",
        "",
        near=("employer", "being"),
    ),
    "being": Sense("be-a"),
    "school": Sense(
        "study at, study in, attend, school, university, college, enrol, enrol at, enroll, enroll at, enroll in,"
        " student at, go to school, go to university",
        "org",
    ),
    "subject": Sense("study, major, degree, subject, course, field", "", near=("school",)),
    "teaching": Sense(
        "teach, teach at, teacher at, lecture, lecture at, professor at", "", near=("employer", "school")
    ),
    "couple": Sense(
        "partner, partner of, partner with, couple, couple with, together, together with, relationship, relationship"
        " with, in relationship with, date, see romantically, go out with, boyfriend, girlfriend, significant other,"
        " companion, be with, love interest",
        "person",
        near=("spouse", "engaged"),
    ),
    "spouse": Sense("marry, marry to, wife, husband, spouse, wed", "person", near=("couple", "engaged")),
    "engaged": Sense("engage, engage to, fiance, fiancé, fiancée, betroth, betroth to", "person", near=("couple",)),
    "sibling": Sense("sister, brother, sibling, sibling of", "person", 0.7),
    "parent": Sense("mother, father, mom, mum, dad, parent, parent of", "person", 0.7),
    "child": Sense("son, daughter, child, kid, baby, child of", "person", 0.7),
    "grandparent": Sense("grandmother, grandfather, grandma, grandpa, granny, grandparent, grandparent of", "", 0.7),
    "friend": Sense("friend, friend of, buddy, pal, mate", "person"),
    "colleague": Sense("colleague, colleague of, coworker, workmate, team mate, teammate", "person"),
    "boss": Sense("boss, boss of, manager, supervisor, report to, superior, line manager", "person"),
    "leader": Sense(
        "captain, captain of, lead, leader, head, head of, chair, chairman, chairwoman, chairperson, president,"
        " in charge, in charge of, run, ceo, chief, chief executive,"
        " responsible, responsible for, director, manage, look after, take over as",
        "person",
        0.7,
    ),
    "landlord": Sense("landlord, landlady, rent from, let by", "person"),
    "doctor": Sense("doctor, physician, gp, general practitioner", "person"),
    "teacher": Sense("teacher, teacher of, tutor, instructor, coach, trainer", "person", 0.7),
    "neighbour": Sense("neighbour, neighbor, live next door", "person"),
    "roommate": Sense("roommate, flatmate, housemate, live with, share flat with", "person"),
    "pet": Sense("pet, dog, cat, puppy, kitten, pet of", "", 0.6),
    "phone": Sense(
        "phone, phone number, telephone, telephone number, mobile, mobile number, cell, cell number, number, reach,"
        " reach on, reach at, reachable, reachable on, reachable at, contact number, extension",
        "number",
        near=("calling",),
    ),
    "calling": Sense("call on, ring, ring on, dial, contact, contact on", "number", near=("phone",)),
    "email": Sense("email, e mail, email address, mail address, write to", ""),
    "code": Sense("code, password, pin, passcode, combination, access code", "number", 0.8),
    "birthday": Sense("birthday, born, born on, date of birth, birth date", "time"),
    "age": Sense("age, old, year old, turn", "amount"),
    "name": Sense("name, call, know as, title, spell", "", 0.9),
    "surname": Sense("surname, last name, family name, maiden name", "", near=("name",)),
    "nickname": Sense("nickname, go by, short name", "", near=("name",)),
    "price": Sense("cost, price, charge, fee, pay, worth, expensive, fare, go for, sell for", "amount", 0.9),
    "rent": Sense("rent, pay in rent, pay for rent, monthly rent, rental", "amount", near=("price",)),
    "salary": Sense("salary, wage, earn, income, pay, get pay, make year, paycheck", "amount"),
    "budget": Sense("budget, fund, funding, money, allocate, spend, afford, financial", "amount", near=("price",)),
    "dose": Sense("dose, dosage, take, take of, mg, milligram, prescribe, daily dose", "amount", 0.9, ("medicine",)),
    "medicine": Sense("medicine, medication, drug, tablet, pill, take, prescribe", "", 0.8, ("dose",)),
    "weight": Sense("weigh, weight, heavy", "amount"),
    "height": Sense("tall, height, high", "amount"),
    "size": Sense("size, big, large, area, square metre", "amount"),
    "length": Sense("long, length, last, duration, take time", "amount"),
    "capacity": Sense("capacity, seat, hold, room for, fit", "amount", 0.8),
    "headcount": Sense("headcount, member, people, staff, employee, participant, attend", "amount", 0.8),
    "schedule": Sense(
        "schedule, schedule for, take place, take place on, meet, meet on, meeting day, gather, get together, day, hold"
        " on, date, happen, occur, set for, plan for, move to, postpone to, move, on, when",
        "time",
        0.9,
        ("due",),
    ),
    "due": Sense(
        "due, due on, due by, deadline, hand in, submit, expire, turn in, due date, valid, valid until,"
        " valid till, run out",
        "time",
        near=("schedule",),
    ),
    "opening": Sense("open, open at, opening hour, opening time, hour, open from", "time", near=("closing",)),
    "closing": Sense("close, close at, shut, closing time, open until, open till", "time", near=("opening",)),
    "departure": Sense("depart, departure, leave at, set off", "time"),
    "arrival": Sense("arrive, arrival, land, get in", "time"),
    "start": Sense("start, begin, kick off, commence, start date", "time"),
    "finish": Sense("end, finish, over, conclude, end date", "time"),
    "venue": Sense(
        "venue, location, locate in, locate at, locate on, situate, take place in, take place at, hold in, hold at,"
        " room, meet in, meet at, place, floor, base, base in, base at, headquarter, sit on, sit in, find in,"
        " be on, be in, be at",
        "place",
        0.85,
        ("schedule",),
    ),
    "favourite": Sense(
        "favourite, favorite, like best, like most, best like, love most, prefer, prefer to, prefer above, enjoy most,"
        " preference, preferred, best, better than, like better",
        "",
        near=("like",),
    ),
    "like": Sense(
        "like, love, enjoy, fond, fond of, keen, keen on, fan of, adore, into, be into", "", 0.9, ("favourite",)
    ),
    "dislike": Sense("dislike, hate, detest, cannot stand, loathe", ""),
    "hobby": Sense("hobby, pastime, free time, spare time, for fun, leisure", "", near=("like",)),
    "diet": Sense(
        "diet, vegetarian, vegan, pescatarian, omnivore, keto, gluten free, halal, kosher", "", 0.9, ("eating", "being")
    ),
    "eating": Sense("eat, food", "", 0.9, ("diet",)),
    "food": Sense("dish, food, meal, cuisine", "", 0.8),
    "drink": Sense("drink, beverage", "", 0.8),
    "allergy": Sense("allergic, allergic to, allergy, intolerance, intolerant, intolerant to", ""),
    "faith": Sense(
        "religion, faith, christian, muslim, jewish, hindu, buddhist, catholic, atheist, believe in", "", 0.8
    ),
    "language": Sense("language, speak, mother tongue, fluent, fluent in", "", 0.8),
    "vehicle": Sense("car, drive, vehicle, ride, motorbike, motorcycle, van, truck, get around in", "", 0.9),
    "instrument": Sense("instrument, play, musical instrument", "", 0.8),
    "team": Sense("team, play for, side, support", "org", 0.8),
    "status": Sense("status, state, stage, phase, condition, progress", "", near=("being",)),
    "couple status": Sense(
        "marital status, single, relationship status, divorce, widow", "", near=("couple", "spouse")
    ),
    "owner": Sense("own, owner, belong, belong to, have, possess, keep", "", 0.8),
    "purchase": Sense("buy, purchase, get, order, acquire", "", 0.8),
    "keeping": Sense("keep in, store, store in, put in, keep, lie in, keep at, kept, stash", "place", 0.9),
    "author": Sense("write, write by, author, author of, compose", "", 0.8),
    "reading": Sense("read, book, novel", "", 0.6),
    "trip": Sense(
        "travel, travel to, trip, trip to, visit, holiday, vacation, go to, fly to, go on holiday", "place", 0.8
    ),
    "supplier": Sense("supplier, vendor, provider, supply, supply by, provide, provide by", "org"),
    "version": Sense("version, release, edition", "number", 0.9),
    "colour": Sense("colour, color, paint, shade", "", 0.9),
    "speed": Sense("speed, fast", "amount"),
    "temperature": Sense("temperature, warm, hot, cold, degree", "amount"),
    "reason": Sense("reason, because"),
}

# Irregular forms that a stemmer does not bring back.
_FORMS = (
    "teach taught, drive drove driven, ride rode ridden, pay paid, meet met, eat ate eaten, speak spoke spoken, "
    "become became, buy bought, sell sold, get got gotten, hold held, keep kept, take took taken, go went gone, "
    "run ran, write wrote written, grow grew grown, come came, begin began begun, lead led, wear wore worn, give "
    "gave given, drink drank drunk, ring rang rung, choose chose chosen, win won, sit sat, know knew known, make "
    "made, be am is are was were been being, spend spent, fly flew flown, lend lent, leave left, see saw seen, "
    "sing sang sung, swim swam swum, child children, wife wives, build built, send sent, find found, lose lost, "
    "feel felt, tell told, say said, stand stood"
)
_IRREGULAR = {form: forms.split()[0] for forms in _FORMS.split(", ") for form in forms.split()[1:]}

_DROPPED = frozenset(
    (
        "a an the this that these those some any each every do does did done has had having will would shall should "
        "can could may might must i me my mine you your yours he him his she her hers it its we us our ours they them "
        "their theirs who whom whose which what when where why how and or but so if then than there here not no very "
        "too also just only still yet already ever now currently again really actually exactly please tell know s t "
        "one ones kind sort type anything something everything nothing "
        "anybody somebody everybody anyone someone everyone"
    ).split()
)
_PREPOSITIONS = frozenset(
    "of in on at to for from by with as into about until till since over under up out off down after before through"
    " during between near against".split()
)
_SILENT = _PREPOSITIONS | {"be"}  # these count only inside a phrase
_BE_A = "be-a"  # "is a": what follows is what somebody is
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Unit:
    """A phrase or word of a text: its stems, joined by spaces, and the names of its senses."""

    key: str
    senses: frozenset[str] = frozenset()


def stem(word: str) -> str:
    """The stem of a lower-case word; irregular verbs count as their infinitive."""
    stemmer = getattr(_local, "stemmer", None)
    if stemmer is None:
        stemmer = _local.stemmer = Stemmer.Stemmer("english", 0)
    return str(stemmer.stemWord(_IRREGULAR.get(word, word)))


def words(text: str) -> list[str]:
    """Lower-case words, possessive endings dropped, names in capitals or camel case taken apart."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text.replace("’", "'").replace("_", " "))
    return _WORD.findall(re.sub(r"'s?\b(?!\w)", " ", text.lower()))


@lru_cache(maxsize=1)
def _phrases() -> dict[tuple[str, ...], frozenset[str]]:
    """Stems of every phrase of the table -> the senses it has."""
    table: dict[tuple[str, ...], set[str]] = {}
    for name, sense in SENSES.items():
        for phrase in sense.phrases.split(", "):
            table.setdefault(tuple(map(stem, phrase.split())), set()).add(name)
    return {stems: frozenset(names) for stems, names in table.items()}


_LONGEST = 4
_ROOT = 5  # letters that a common beginning needs


def units(given: Sequence[str]) -> list[Unit]:
    """Lower-case words as units; function words count only inside a phrase of the table."""
    table = _phrases()
    stems: list[str] = []
    for place, word in enumerate(given):
        if word in ("a", "an") and stems[-1:] == ["be"] and stem(given[place - 1]) == "be":
            stems[-1] = _BE_A
        elif word not in _DROPPED:
            stems.append(stem(word))
    found: list[Unit] = []
    at = 0
    while at < len(stems):
        for size in range(min(_LONGEST, len(stems) - at), 0, -1):
            part = tuple(stems[at : at + size])
            if part in table and (size > 1 or part[0] not in _SILENT):
                found.append(Unit(" ".join(part), table[part]))
                at += size
                break
        else:
            if stems[at] not in _SILENT:
                found.append(Unit(stems[at]))
            at += 1
    return found


def agreement(asked: Unit, said: Iterable[Unit]) -> float:
    """How well the best of a fact's units says what a unit of the question asks, 0 to 1."""
    best = 0.0
    for unit in said:
        if unit.key == asked.key:
            return 1.0
        common = asked.senses & unit.senses
        if common:
            best = max(best, *(SENSES[name].agreement for name in common))
        elif asked.senses and unit.senses:  # "work as" is not "work at", though both have "work"
            if best < NEAR and any(near(name) & unit.senses for name in asked.senses):
                best = NEAR
        elif best < PART and _alike(asked.key, unit.key):
            best = PART
    return best


def _alike(some: str, other: str) -> bool:
    """Whether two keys share a word, or one word's beginning makes up most of the other: "conduct", "conductor"."""
    if (set(some.split()) - _SILENT) & set(other.split()):
        return True
    short, long = sorted((some, other), key=len)
    return len(short) >= _ROOT and long.startswith(short) and len(long) <= len(short) + 3


@lru_cache(maxsize=256)
def near(name: str) -> frozenset[str]:
    """The senses that are near one, whichever of the two says so."""
    return frozenset((*SENSES[name].near, *(other for other, sense in SENSES.items() if name in sense.near)))
