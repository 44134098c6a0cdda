"""Made-up scenes of a chat, for `generated.conversation`: answers that lean on the turns before them.

An answer may follow a question that says what it is about, speak of someone as "she", stand in a photo's caption, or
share no word with the question that asks for it later.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """A turn: "a" tells, "b" listens; `asked` are the questions that it answers with their answers."""

    who: str
    text: str
    asked: tuple[tuple[str, str], ...] = ()
    caption: str | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """Turns that belong together, and questions that nothing answers."""

    lines: tuple[Line, ...]
    never: tuple[str, ...]


_SCENES: Sequence[Scene] = (
    Scene(
        (
            Line("a", "Look who moved in with us.", ((
                "What is lying on the rug in {a}'s picture?", "{pet}"),), "a {colour} {pet} on a striped rug"),
            Line("b", "So cute! What do you call it?"),
            Line("a", "{first}. My {kin} came up with that.", (
                ("What is {a}'s {pet} called?", "{first}"), ("Who picked the name for {a}'s pet?", "{kin}"))),
            Line("b", "Did you have to pay for it?"),
            Line("a", "{n} crowns, to the shelter.", (("How much did {a} pay for the {pet}?", "{n}"),)),
        ),
        ("How old is {a}'s {pet}?", "What does {a}'s {pet} eat?", "What is the name of {a}'s horse?"),
    ),
    Scene(
        (
            Line("b", "And how is {first} these days?"),
            Line("a", "She got a place at the academy in {place}, for {subject}.", (
                ("What does {first} study?", "{subject}"), ("Where does {first} study?", "{place}"))),
            Line("b", "I always knew she would. When does it begin?"),
            Line("a", "On {day} {month}.", (("When does {first}'s course start?", "{day} {month}"),)),
        ),
        ("How tall is {first}?", "Which motorbike does {first} ride?", "Who is {first} engaged to?"),
    ),
    Scene(
        (
            Line("a", "I bumped into an old friend at the fair. Her name is {first} and she repairs {object}.", (
                ("How does {first} earn her money?", "{object}"), ("Whom did {a} run into?", "{first}"))),
            Line("b", "Small world. Does she still live around here?"),
            Line("a", "No, up in {place} with her {kin}.", (("Where is {first}'s home?", "{place}"),)),
        ),
        ("Which school did {first} go to?", "What is {first}'s favourite film?", "How many children has {first}?"),
    ),
    Scene(
        (
            Line("a", "The bakery is mine from today!"),
            Line("b", "No way. What will the sign say?"),
            Line("a", "{place}'s Oven. It sounds old and solid.", (("What is the name of {a}'s bakery?", "{place}"),)),
            Line("b", "And what goes best so far?"),
            Line("a", "The {dish}. The plain rolls just lie there.", (("Which product sells most at the bakery?",
                                                                          "{dish}"),)),
            Line("b", "How many people help you?"),
            Line("a", "{n}, if I count my {kin}.", (("How big is the bakery's staff?", "{n}"),)),
        ),
        ("Who did {a} buy the bakery from?", "What colour are the walls of {a}'s bakery?", "Which bank does {a} use?"),
    ),
    Scene(
        (
            Line("b", "You look exhausted. The move?"),
            Line("a", "Still boxes everywhere. But {place} is quieter than I thought.", (
                ("Which town does {a} live in?", "{place}"),)),
            Line("b", "And the rooms?"),
            Line("a", "{n} square metres, with a view of the {sight}.", (
                ("How large is {a}'s flat?", "{n}"), ("What can {a} see from the window?", "{sight}"))),
        ),
        ("Who is {a}'s landlord?", "How much did the removal van cost {a}?", "What is {a}'s house number?"),
    ),
    Scene(
        (
            Line("a", "Guess what I carried home from the market."),
            Line("b", "Something useless?"),
            Line("a", "See for yourself.", (("What did {a} bring back from the market?", "{object}"),),
                 "a box of old {object} on a kitchen table"),
            Line("b", "You and your junk. Cheap, at least?"),
            Line("a", "I got it down to {n} crowns.", (("What did {a} spend at the market?", "{n}"),)),
        ),
        ("Which market stall does {a} own?", "What did {a} sell at the market?", "When does the market open?"),
    ),
    Scene(
        (
            Line("a", "They let me go at the shipyard."),
            Line("b", "Oh no. What now?"),
            Line("a", "I'm retraining as a {job}, the course takes {n} weeks.", (
                ("What is {a} training to become?", "{job}"), ("How long is {a}'s course?", "{n} weeks"))),
            Line("b", "Whose idea was that?"),
            Line("a", "{first}'s, she runs the place.", (("Who suggested the new profession to {a}?", "{first}"),)),
        ),
        ("What was {a}'s salary at the shipyard?", "Which ship did {a} build?", "Who is {a}'s new boss?"),
    ),
    Scene(
        (
            Line("b", "What did the doctor say about the knee?"),
            Line("a", "Torn, so I gave up running and joined a {hobby} group.", (
                ("Which pastime did {a} begin?", "{hobby}"), ("Why did {a} stop running?", "Torn"))),
            Line("b", "Is it fun?"),
            Line("a", "We meet every {weekday}, and {first} brings cake.", (
                ("Who comes with cake?", "{first}"), ("On which day does {a}'s group meet?", "{weekday}"))),
        ),
        ("What is the name of {a}'s doctor?", "Which marathon did {a} win?", "What shoes does {a} wear?"),
    ),
    Scene(
        (
            Line("a", "We set the date for the house-warming: {day} {month}.", (
                ("What was the first date for the house-warming?", "{day} {month}"),)),
            Line("b", "I'm in. Shall I bring something?"),
            Line("a", "Just {dish}, please.", (("What should {b} bring to the house-warming?", "{dish}"),)),
            Line("b", "Deal."),
            Line("a", "Sorry, the house-warming has to be on {day2} {month2}, the painters are late.", (
                ("When is the house-warming now?", "{day2} {month2}"),
                ("Why was the house-warming put off?", "painters"))),
        ),
        ("How many guests did {a} invite to the house-warming?", "Which band plays at the house-warming?"),
    ),
    Scene(
        (
            Line("a", "My grant application asked for {n} crowns.", (
                ("How much did {a} originally ask for?", "{n}"),)),
            Line("b", "Did they agree?"),
            Line("a", "Better, they gave me {n2}.", (("How much did {a} get in the end?", "{n2}"),)),
            Line("b", "What will you do with it?"),
            Line("a", "Restore the {object} of the old theatre.", (("What will {a} use the grant for?", "{object}"),)),
        ),
        ("Which professor wrote a letter for {a}?", "What is the title of {a}'s thesis?"),
    ),
    Scene(
        (
            Line("a", "Here we are after the parade.", (("What did the drummers wear in the photo?", "{colour} hats"),),
                 "six drummers with {colour} hats in front of a {sight}"),
            Line("b", "Those hats! Who made them?"),
            Line("a", "{first} did, in one night.", (("Who sewed the hats of the drummers?", "{first}"),)),
        ),
        ("Which prize did the drummers win?", "What does {a}'s drum weigh?", "How much were the hats?"),
    ),
    Scene(
        (
            Line("b", "Where did you two end up going?"),
            Line("a", "To {place}. {first} wanted mountains, I wanted a bath.", (
                ("Where did {a} travel with {first}?", "{place}"), ("Who wanted to see mountains?", "{first}"))),
            Line("b", "How did you get there?"),
            Line("a", "By {vehicle}, it took us {n} hours.", (
                ("By what means did {a} travel to {place}?", "{vehicle}"),
                ("How long was the trip to {place}?", "{n}"))),
        ),
        ("Which hotel did {a} stay at in {place}?", "What did {a} photograph there?", "Which museum did {a} visit?"),
    ),
    Scene(
        (
            Line("a", "We sail on {day} {month}, will you wave?", (
                ("When was {a}'s voyage first planned?", "{day} {month}"),
                ("What was the original date of the voyage?", "{day} {month}"))),
            Line("b", "From the pier. How long does it take?"),
            Line("a", "{n} days, if the wind is kind.", (("How long does {a}'s voyage last?", "{n} days"),)),
            Line("b", "And is the ship ready?"),
            Line("a", "Not quite: the voyage begins on {day2} {month2} now.", (
                ("When does {a}'s voyage begin now?", "{day2} {month2}"),
                ("On what date did {a} finally sail?", "{day2} {month2}"))),
        ),
        ("Who is the captain on {a}'s voyage?", "What does {a}'s ship carry?", "When did {b} learn to sail?"),
    ),
    Scene(
        (
            Line("a", "I rented a workshop to repair {object}."),
            Line("b", "Under which name?", ()),
            Line("a", "Not decided. My {kin} wants something with a bird in it."),
            Line("b", "Then call it {name}.", (("What is {a}'s workshop called?", "{name}"),)),
            Line("a", "Sold, {name} it is."),
            Line("a", "{name} got its first customer on {day} {month}.", (
                ("When did the workshop have its first customer?", "{day} {month}"),)),
        ),
        ("What is the rent of the workshop?", "What is the name of {a}'s {kin}?", "Which bird does {a} keep?"),
    ),
    Scene(
        (
            Line("a", "Silly me, I slipped on the stairs and hurt my {limb}."),
            Line("b", "Which one?"),
            Line("a", "The {side} one, of course.", (("Which {limb} did {a} injure?", "{side}"),)),
            Line("b", "So no {hobby} for a while?"),
            Line("a", "{n} days, says my {kin} {first}, who is a {job}.", (
                ("What is {first}'s profession?", "{job}"), ("Who told {a} how long to rest?", "{first}"),
                ("What does {a}'s {kin} do for a living?", "{job}"))),
        ),
        ("Where does {first} live?", "How old is {first}?", "Which hospital did {a} go to?",
         "Which {limb} did {b} injure?"),
    ),
    Scene(
        (
            Line("a", "This winter I began {hobby}.", (("Which new hobby does {a} have?", "{hobby}"),)),
            Line("b", "Why that?"),
            Line("a", "There is a girl from {place} in my class, {first}, and I wanted to have a topic with her.", (
                ("Why did {a} begin {hobby}?", "{first}"),)),
            Line("b", "I see. And does she like you back?"),
            Line("a", "She gave me a {colour} scarf. We practise every {weekday}.", (
                ("What colour is the scarf that {a} got?", "{colour}"), ("How often does {a} practise?", "{weekday}"))),
        ),
        ("What does {first} study?", "What colour is {first}'s coat?", "What is the name of {a}'s teacher?",
         "When did {first} move to {place}?"),
    ),
    Scene(
        (
            Line("a", "I hand in my notice tomorrow, can you believe it?"),
            Line("b", "No! Where to?"),
            Line("a", "A print shop in {place}, as a {job}.", (
                ("Where is {a} going to work?", "{place}"), ("What will {a}'s new job be?", "{job}"))),
            Line("b", "And who gets your desk?"),
            Line("a", "{first}, the one who broke the {sight} model.", (("Who takes over {a}'s desk?", "{first}"),)),
        ),
        ("What does {first} earn?", "What was {first}'s last job?", "Which prize did the print shop win?"),
    ),
    Scene(
        (
            Line("a", "I'm still in {place}, the same old room.", (("Where does {a} live?", "{place}"),)),
            Line("b", "With the {pet}?"),
            Line("a", "With the {pet} and {first}, my flatmate.", (("With whom does {a} share a home?", "{first}"),)),
            Line("b", "What does the room cost you?"),
            Line("a", "{n2} a month. The neighbour asks for {n}0 more.", (("How much is {a}'s rent?", "{n2}"),)),
        ),
        ("What does {first} do for a living?", "How old is the {pet}?", "Where does {first} work?",
         "When did {a} buy the room?"),
    ),
    Scene(
        (
            Line("b", "The repair needs {n} crowns, shall I accept?", (
                ("What was the price of the repair at first?", "{n}"),)),
            Line("a", "Wait. Let me call {first}."),
            Line("b", "And?"),
            Line("a", "She does it for {n2}, with the {colour} paint.", (
                ("Who carries out the repair?", "{first}"), ("What does the repair cost in the end?", "{n2}"),
                ("Which colour will the paint be?", "{colour}"))),
        ),
        ("When did {first} open her business?", "Who is {first} married to?", "How long does the repair take?"),
    ),
)  # fmt: skip

_VALUES: Mapping[str, Sequence[str]] = {
    "pet": ("hedgehog", "goat", "terrier", "cockatoo", "hamster", "spaniel", "cat", "puppy"),
    "colour": ("yellow", "purple", "brown", "orange", "white", "silver"),
    "kin": ("brother", "niece", "uncle", "mother", "daughter", "neighbour"),
    "subject": ("dentistry", "astronomy", "carpentry", "law", "physics", "painting"),
    "object": ("clocks", "bicycles", "lamps", "radios", "pianos", "chairs", "typewriters"),
    "dish": ("onion tart", "almond cake", "rye bread", "cheese pie", "lentil salad", "poppy seed buns"),
    "sight": ("castle", "harbour", "cemetery", "stadium", "mill", "lighthouse"),
    "job": ("welder", "midwife", "tailor", "beekeeper", "electrician", "optician"),
    "limb": ("elbow", "knee", "heel", "shoulder"),
    "side": ("left", "right"),
    "hobby": ("chess", "knitting", "rowing", "archery", "theatre", "birdwatching"),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"),
    "month": ("January", "February", "March", "April"),
    "month2": ("June", "July", "August", "September", "October"),
    "vehicle": ("ferry", "night train", "camper", "coach", "bike"),
    "first": (
        "Agata",
        "Bettina",
        "Corinne",
        "Delia",
        "Esther",
        "Frida",
        "Gesa",
        "Helga",
        "Iris",
        "Judit",
        "Katja",
        "Lore",
        "Merle",
        "Nele",
        "Oda",
        "Pia",
        "Quirina",
        "Rieke",
        "Sabine",
    ),
}


def scenes(random_: random.Random, place: Callable[[], str], people: Sequence[str], count: int) -> list[Scene]:
    """`count` different scenes, each with its slots filled; "a" and "b" stand for the two people in either order."""
    made = []
    firsts = random_.sample(_VALUES["first"], len(_VALUES["first"]))
    for scene in random_.sample(list(_SCENES), min(count, len(_SCENES))):
        a, b = random_.sample(list(people), 2)
        slots = {name: random_.choice(values) for name, values in _VALUES.items()}
        slots |= {"a": a, "b": b, "first": firsts.pop(), "place": place(), "name": place()}
        slots |= {"n": str(random_.randint(12, 96)), "n2": str(random_.randint(110, 990))}
        slots |= {"day": str(random_.randint(1, 28)), "day2": str(random_.randint(1, 28))}
        made.append(
            Scene(
                tuple(
                    Line(
                        slots[line.who],
                        line.text.format(**slots),
                        tuple((q.format(**slots), v.format(**slots)) for q, v in line.asked),
                        line.caption and line.caption.format(**slots),
                    )
                    for line in scene.lines
                ),
                tuple(question.format(**slots) for question in scene.never),
            )
        )
    return made
