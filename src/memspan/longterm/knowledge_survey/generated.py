"""Made-up passages and conversations with questions, for calibrating and for checking claims.

Everything is drawn from a seed. Names and places are invented, so that no language model can know the answers. The
statements' wording differs from the questions' ("moved to" against "live in"), and each answerable kind of question has
unanswerable twins: about the wrong person, about a thing that was never mentioned, and about an attribute that a
mentioned thing was never given.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from memspan.longterm.base import Episode
from memspan.longterm.knowledge_survey.generated_scenes import scenes

_SYLLABLES = ("bar", "bel", "cor", "dal", "den", "fen", "gar", "hal", "kel", "lan", "mar", "nor", "or", "pel", "quin")
_ENDINGS = (
    "ada",
    "beck",
    "by",
    "dale",
    "en",
    "ford",
    "ham",
    "holm",
    "ia",
    "mere",
    "mouth",
    "ow",
    "stead",
    "ton",
    "wick",
)
_PEOPLE = ("Amira", "Bruno", "Celia", "Dmitri", "Elif", "Farid", "Greta", "Hana", "Ivo", "Jonas", "Kaisa", "Lucio")
_SURNAMES = ("Aalto", "Brandt", "Castell", "Dunmore", "Ekberg", "Farrow", "Grell", "Hartog", "Ilic", "Joubert")


@dataclass(frozen=True, slots=True)
class Item:
    """A question; `answer` and `evidence` are empty when it cannot be answered.

    Attributes:
        answer: words that a right answer holds.
        evidence: ids of the paragraphs or episodes that hold them.
        kind: "fact", "changed", "time", "exchange"; of unanswerable ones "wrong person", "unknown thing",
            "no such attribute", "never told".
    """

    question: str
    answer: str = ""
    evidence: tuple[str, ...] = ()
    kind: str = "fact"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A made-up encyclopedia paragraph: the text, the text after one value was edited, and its questions.

    Attributes:
        edited: equal to `text` but for one value.
        items: questions on `text`; the first asks for the value that is edited.
        edited_item: that question with its answer in `edited`.
    """

    id: str
    text: str
    edited: str
    items: tuple[Item, ...]
    edited_item: Item


@dataclass(slots=True)
class Conversation:
    """Made-up turns of two people, and questions about them."""

    episodes: list[Episode] = field(default_factory=list)
    answerable: list[Item] = field(default_factory=list)
    unanswerable: list[Item] = field(default_factory=list)


class _Names:
    """Invented names, each once."""

    def __init__(self, random_: random.Random) -> None:
        self._random, self._used = random_, set[str]()

    def __call__(self) -> str:
        while True:
            name = self._random.choice(_SYLLABLES) + self._random.choice(_SYLLABLES) * self._random.randint(0, 1)
            name = (name + self._random.choice(_ENDINGS)).capitalize()
            if name not in self._used:
                self._used.add(name)
                return name


# Each kind of thing: sentences with {name} and one {value}, the question for it, and how to draw a value.
_KINDS: dict[str, Sequence[tuple[str, str, str]]] = {
    "town": (
        ("The town of {name} was founded in {value}.", "In which year was the town of {name} founded?", "year"),
        ("About {value} people live in {name}.", "What is the population of {name}?", "thousands"),
        ("{name} lies on the river {value}.", "Which river flows through {name}?", "name"),
        ("The mayor of {name} is {value}.", "Who is the mayor of {name}?", "person"),
        ("Its oldest building, in {name}'s market square, is a {value}.",
         "What is the oldest building in {name}?", "building"),
    ),
    "company": (
        ("{name} Instruments is a company that makes {value}.", "What does {name} Instruments make?", "product"),
        ("{name} Instruments employs {value} people.", "How many people work for {name} Instruments?", "thousands"),
        ("{name} Instruments was started by {value}.", "Who founded {name} Instruments?", "person"),
        ("{name} Instruments has its head office in {value}.",
         "Where is the head office of {name} Instruments?", "name"),
        ("{name} Instruments sold its first device in {value}.",
         "When did {name} Instruments sell its first device?", "year"),
    ),
    "ship": (
        ("The {name} is a sailing ship of {value} tonnes.", "How heavy is the ship {name}?", "hundreds"),
        ("The {name} was built by {value}.", "Who built the ship {name}?", "person"),
        ("The {name} sank off {value}.", "Where did the ship {name} sink?", "name"),
        ("The {name} carried a cargo of {value}.", "What cargo did the ship {name} carry?", "cargo"),
        ("The {name} left port for the last time in {value}.",
         "When did the ship {name} leave port for the last time?", "year"),
    ),
    "festival": (
        ("The {name} festival takes place every {value}.",
         "In which month does the {name} festival take place?", "month"),
        ("The {name} festival honours the poet {value}.", "Which poet does the {name} festival honour?", "person"),
        ("Some {value} visitors come to the {name} festival.",
         "How many visitors come to the {name} festival?", "thousands"),
        ("The main stage of the {name} festival stands in {value}.",
         "Where does the main stage of the {name} festival stand?", "name"),
        ("Visitors of the {name} festival traditionally eat {value}.",
         "What do visitors of the {name} festival traditionally eat?", "dish"),
    ),
}  # fmt: skip
_ABSENT = {
    "town": ("What colour is the flag of {name}?", "Which football club plays in {name}?"),
    "company": ("What was the profit of {name} Instruments?", "Which bank lent money to {name} Instruments?"),
    "ship": ("What was the name of the cook of the ship {name}?", "How much did the ship {name} cost?"),
    "festival": ("How much does a ticket for the {name} festival cost?", "Who sponsors the {name} festival?"),
}
_VALUES: dict[str, Sequence[str]] = {
    "building": ("granary", "bell tower", "stone bridge", "salt cellar", "tannery", "chapel", "windmill", "town gate"),
    "product": ("barometers", "microscopes", "hearing aids", "seismographs", "metronomes", "sextants", "gas meters"),
    "cargo": ("tea", "marble", "copper ore", "oranges", "wool", "timber", "porcelain", "saltpetre"),
    "dish": ("smoked eel", "barley soup", "plum dumplings", "honey cake", "fried herring", "chestnut bread"),
    "month": ("January", "February", "March", "April", "June", "July", "August", "September", "October", "November"),
}


def _value(kind: str, random_: random.Random, name: _Names) -> str:
    if kind == "year":
        return str(random_.randint(1650, 1989))
    if kind == "thousands":
        return f"{random_.randint(2, 98)},{random_.randint(100, 999)}"
    if kind == "hundreds":
        return str(random_.randint(110, 990))
    if kind == "person":
        return f"{random_.choice(_PEOPLE)} {random_.choice(_SURNAMES)}"
    return name() if kind == "name" else random_.choice(_VALUES[kind])


def encyclopedia(seed: int, count: int = 60) -> list[Paragraph]:
    """`count` paragraphs of four statements each, with four questions."""
    random_ = random.Random(f"encyclopedia {seed}")
    name = _Names(random_)
    made = []
    for number in range(count):
        kind = list(_KINDS)[number % len(_KINDS)]
        subject, uid = name(), f"p{number}"
        chosen = random_.sample(list(_KINDS[kind]), 4)
        values = [_value(what, random_, name) for _, _, what in chosen]
        sentences = [line.format(name=subject, value=v) for (line, _, _), v in zip(chosen, values, strict=True)]
        items = tuple(
            Item(question.format(name=subject), v, (uid,)) for (_, question, _), v in zip(chosen, values, strict=True)
        )
        other = values[0]
        while other == values[0]:
            other = _value(chosen[0][2], random_, name)
        order = random_.sample(range(4), 4)
        edited = [chosen[0][0].format(name=subject, value=other), *sentences[1:]]
        made.append(
            Paragraph(
                uid,
                " ".join(sentences[place] for place in order),
                " ".join(edited[place] for place in order),
                items,
                Item(items[0].question, other, (uid,), "changed"),
            )
        )
    return made


def unanswerable(paragraphs: Sequence[Paragraph], seed: int) -> list[Item]:
    """For every paragraph a question that nothing answers: half ask for what was not told, half of unknown things."""
    random_ = random.Random(f"unanswerable {seed}")
    name = _Names(random_)
    items = []
    for number, paragraph in enumerate(paragraphs):
        kind = list(_KINDS)[number % len(_KINDS)]
        if number % 8 < 4:
            subject = _subject(paragraph, kind)
            items.append(Item(random_.choice(_ABSENT[kind]).format(name=subject), kind="no such attribute"))
        else:
            _, question, _ = random_.choice(list(_KINDS[kind]))
            items.append(Item(question.format(name=f"{name()}x"), kind="unknown thing"))
    return items


def _subject(paragraph: Paragraph, kind: str) -> str:
    for _, question, _ in _KINDS[kind]:
        before, _, after = question.partition("{name}")
        for item in paragraph.items:
            if item.question.startswith(before) and item.question.endswith(after):
                return item.question[len(before) : len(item.question) - len(after)]
    raise AssertionError("every paragraph has a question of its kind")


# --- conversations ----------------------------------------------------------------------------------------------------

# (what is said, question about "{who}", how to draw the value, the question is about a time)
_SAID: Sequence[tuple[str, str, str, bool]] = (
    ("I finally got a {value}, he sleeps on the sofa all day.", "What pet does {who} have?", "pet", False),
    ("My sister {value} is staying with me this week.", "What is the name of {who}'s sister?", "first", False),
    ("I started taking {value} lessons, it is harder than I thought.", "What is {who} learning?", "skill", False),
    ("We spent the holidays in {value}, it rained but we loved it.", "Where did {who} go on holiday?", "name", False),
    ("I'm allergic to {value}, so I have to read every label.", "What is {who} allergic to?", "food", False),
    ("I ran {value} kilometres this morning before breakfast!", "How far did {who} run?", "small", False),
    ("I had my eyes tested {value} and I need glasses.", "When did {who} have an eye test?", "ago", True),
    ("{value} I handed in my thesis, what a relief.", "When did {who} hand in the thesis?", "ago", True),
    ("My favourite author is {value}, I own all the novels.", "Who is {who}'s favourite author?", "person", False),
    ("I bought a second-hand {value} for the commute.", "What did {who} buy for the commute?", "vehicle", False),
    ("The dentist charged me {value} euros, can you believe it?",
     "How much did {who} pay the dentist?", "hundreds", False),
    ("I'm reading a book about {value} at the moment.", "What is {who} reading about?", "topic", False),
    ("My cousin invited me to a wedding in {value}.", "Where is the wedding {who} is invited to?", "name", False),
    ("I broke my {value} playing volleyball.", "What did {who} break?", "bone", False),
)  # fmt: skip
# (how it is said, first and later; the question for the last value, the question for the first, how to draw values)
_CHANGES: Sequence[tuple[Sequence[str], str, str, str]] = (
    (("I live in {value}.", "I moved to {value}.", "I moved again, I live in {value} now."),
     "Where does {who} live now?", "Where did {who} live originally?", "name"),
    (("I work as a {value}.", "I got a new job, I'm a {value} now.", "I changed jobs, I work as a {value} now."),
     "What is {who}'s job?", "What was {who}'s job at first?", "job"),
    (("My phone number ends in {value}.", "I have a new number, it ends in {value}.",
      "New phone again: it ends in {value}."),
     "What does {who}'s phone number end in?", "What did {who}'s first phone number end in?", "hundreds"),
    (("I swim on {value}.", "My swimming class moved to {value}.", "From now on I swim on {value}."),
     "On which day does {who} swim?", "On which day did {who} swim initially?", "weekday"),
)  # fmt: skip
_NEVER = (
    "What instrument does {who} play?", "What is the name of {who}'s boat?", "How much rent does {who} pay?",
    "When is {who}'s birthday?", "What did {who} cook for New Year?", "Which university did {who} attend?",
    "What colour is {who}'s bicycle?", "Who repaired {who}'s roof?", "How many children does {who} have?",
    "What tattoo does {who} have?", "Which political party does {who} support?", "What did {who} name the parrot?",
    "When did {who} climb the volcano?", "Where did {who} learn to dive?", "What did {who} win at the lottery?",
)  # fmt: skip
_SMALL_TALK = (
    ("How was your week?", "Busy, but good."), ("Did you see the rain today?", "Yes, I got soaked on the way home."),
    ("What are you up to tonight?", "Nothing special, just a quiet evening."),
    ("You sound tired.", "I stayed up too late."),
    ("That is wonderful news!", "Thank you, it means a lot."), ("I should go, my soup is boiling over.", "Talk soon!"),
    ("Any plans for the summer?", "Not yet, I will see what the work allows."),
    ("How is the garden?", "Full of weeds."),
    ("I had the worst coffee this morning.", "From the machine in the lobby? Never again."),
)  # fmt: skip
_SPOKEN: dict[str, Sequence[str]] = {
    "pet": ("greyhound", "tortoise", "ferret", "parrot", "dachshund", "rabbit"),
    "first": ("Nadia", "Ottilie", "Priya", "Rosa", "Signe", "Tamar"),
    "skill": ("cello", "pottery", "fencing", "Japanese", "welding", "sailing"),
    "food": ("walnuts", "shellfish", "sesame", "strawberries", "celery", "mustard"),
    "ago": ("Two days ago", "Last Friday", "Yesterday", "Last week", "Three weeks ago", "Last month"),
    "vehicle": ("scooter", "moped", "van", "folding bike", "motorcycle"),
    "topic": ("lighthouses", "the Hanseatic League", "mushrooms", "cathedral builders", "glaciers", "codebreaking"),
    "bone": ("collarbone", "ankle", "thumb", "wrist", "little toe"),
    "job": ("nurse", "baker", "surveyor", "translator", "plumber", "librarian", "gardener", "pilot"),
    "weekday": ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays"),
}


def _spoken(kind: str, random_: random.Random, name: _Names) -> str:
    if kind == "small":
        return str(random_.randint(3, 29))
    return random_.choice(_SPOKEN[kind]) if kind in _SPOKEN else _value(kind, random_, name)


def conversation(seed: int, sessions: int = 6) -> Conversation:
    """A conversation of two people over some months, with questions.

    Each session mixes facts, facts that change and small talk, and ends in a scene (see `generated_scenes`).

    Args:
        sessions: at most 19, one scene for each.
    """
    random_ = random.Random(f"conversation {seed}")
    name = _Names(random_)
    people = random_.sample(_PEOPLE, 2)
    made = Conversation()
    said: list[list[tuple[str, str, Item | None]]] = [[] for _ in range(sessions)]  # speaker, text, question
    topics = random_.sample(range(len(_SAID)), len(_SAID))
    for place, topic in enumerate(topics[:10]):
        text, question, kind, timed = _SAID[topic]
        who, other = random_.sample(people, 2)
        value = _spoken(kind, random_, name)
        inside = timed and not text.startswith("{value}")
        words = value[0].lower() + value[1:] if inside else value
        item = Item(question.format(who=who), value, kind="time" if timed else "fact")
        said[place % sessions].append((who, text.format(value=words), item))
        made.unanswerable.append(Item(question.format(who=other), kind="wrong person"))
    for never in random_.sample(_NEVER, 6):
        made.unanswerable.append(Item(never.format(who=random_.choice(people)), kind="unknown thing"))
    for lines, question, originally, kind in _CHANGES:
        who = random_.choice(people)
        values: list[str] = []
        while len(values) < len(lines):
            if (value := _spoken(kind, random_, name)) not in values:
                values.append(value)
        places = sorted(random_.sample(range(sessions), len(lines)))
        for number, place in enumerate(places):
            changed = None
            if number in (0, len(lines) - 1):
                asked_for = originally if number == 0 else question
                changed = Item(asked_for.format(who=who), values[number], kind="changed")
            said[place].append((who, lines[number].format(value=values[number]), changed))
    played = scenes(random_, name, people, sessions)
    made.unanswerable += [Item(question, kind="never told") for scene in played for question in scene.never]
    at = datetime(2023, 1, 1, 18, tzinfo=UTC) + timedelta(days=random_.randint(0, 300))
    for number, told in enumerate(said):
        lines_: list[tuple[str, str, Item | None]] = []
        for turn in random_.sample(told, len(told)):
            opening, reply = random_.choice(_SMALL_TALK)
            listener = people[turn[0] == people[0]]
            lines_ += [(listener, opening, None), (turn[0], reply, None)] if random_.random() < 0.6 else []
            lines_ += [turn, (listener, random_.choice(("Oh, really?", "Nice!", "I did not know that.")), None)]
        scene = played[number]
        for place, (speaker, text, asked) in enumerate(lines_):
            uid = f"c{seed}s{number}:{place}"
            made.episodes.append(Episode(text=text, speaker=speaker, at=at, session=f"c{seed}s{number}", id=uid))
            if asked is not None:
                made.answerable.append(Item(asked.question, asked.answer, (uid,), asked.kind))
            at += timedelta(minutes=1)
        for place, line in enumerate(scene.lines, start=len(lines_)):
            uid = f"c{seed}s{number}:{place}"
            about = {"caption": line.caption} if line.caption else {}
            made.episodes.append(
                Episode(text=line.text, speaker=line.who, at=at, session=f"c{seed}s{number}", id=uid, metadata=about)
            )
            made.answerable += [Item(question, value, (uid,), "exchange") for question, value in line.asked]
            at += timedelta(minutes=1)
        at += timedelta(days=random_.randint(5, 40))
    return made
