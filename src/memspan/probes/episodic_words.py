"""What the conversations of `episodic` are made of: people, what is true of them, what they did, and small talk."""

from __future__ import annotations

from dataclasses import dataclass

PEOPLE = (
    "Alva", "Bastian", "Cosima", "Dorian", "Edda", "Fabian", "Gitta", "Henrik", "Ilona", "Jasper", "Kirsten", "Leopold",
    "Marlene", "Nikolai", "Odette", "Pascal", "Ronja", "Severin", "Tilda", "Ulrich", "Vera", "Wendel", "Xenia",
    "Yannick", "Zelda", "Anselm", "Birgit", "Clemens", "Dagmar", "Egon", "Franka", "Gustav", "Hedwig", "Immo",
"Jolanda", "Kasper", )  # fmt: skip
TIES = (
    "neighbour", "cousin", "flatmate", "dentist", "godmother", "landlord", "choir leader", "swimming coach",
    "brother-in-law", "stepsister", "accountant", "driving instructor",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Trait:
    """Something that is true of a person, with one of some values.

    `{s}` is the person, `{v}` the value. A sentence that begins with "I" or "My" is said by the person.

    Attributes:
        own: how the person says it; told: how another does; asked: the question; then: the question for a date `{d}`.
        changed_own, changed_told: that it is another value from now on; "" where it stays as it is.
        tied: the question about somebody's `{tie}`.
    """

    own: str
    told: str
    asked: str
    values: tuple[str, ...]
    changed_own: str = ""
    changed_told: str = ""
    then: str = ""


TRAITS = (
    Trait(own="I practise the {v} every evening before bed.", told="{s} practises the {v} every evening before bed.",
          asked="Which instrument does {s} play?",
          values=("cello", "oboe", "accordion", "trombone", "harp", "clarinet", "banjo", "viola", "bassoon", "ukulele",
                  "flute", "dulcimer")),
    Trait(own="My {v} knocked the flowerpot over again.", told="{s}'s {v} knocked the flowerpot over again.",
          asked="What animal does {s} keep?",
          values=("ferret", "tortoise", "parakeet", "hedgehog", "greyhound", "chinchilla", "iguana", "donkey", "rabbit",
                  "cockatoo", "gecko", "poodle")),
    Trait(own="I get a rash from {v}, even from a little.", told="{s} gets a rash from {v}, even from a little.",
          asked="What is {s} allergic to?",
          values=("walnuts", "celery", "mustard", "shellfish", "sesame", "lupins", "kiwis", "almonds", "oysters", "rye",
                  "soy", "peaches")),
    Trait(own="I grew up in {v}, right behind the station.", told="{s} grew up in {v}, right behind the station.",
          asked="Where did {s} grow up?",
          values=("Trieste", "Bergen", "Ghent", "Porto", "Lublin", "Graz", "Tartu", "Malmö", "Cork", "Brno", "Split",
                  "Leeds")),
    Trait(own="I paint the fence {v} this time, like it or not.", told="{s} paints the fence {v}, like it or not.",
          asked="What colour does {s} paint the fence?",
          values=("turquoise", "ochre", "crimson", "lilac", "beige", "magenta", "maroon", "indigo", "ivory", "teal",
                  "scarlet", "mauve")),
    Trait(own="I am writing an essay about {v}.", told="{s} is writing an essay about {v}.",
          asked="What is {s} writing an essay about?",
          values=("glaciers", "lighthouses", "beehives", "volcanoes", "windmills", "comets", "fossils", "canals",
                  "moths", "tapestries", "submarines", "aqueducts")),
    Trait(own="I collect old {v}, the attic is full of them.", told="{s} collects old {v}, the attic is full of them.",
          asked="What does {s} collect?",
          values=("typewriters", "thimbles", "postcards", "telephones", "radios", "keys", "bottles", "stamps",
                  "buttons", "lanterns", "compasses", "maps")),
    Trait(own="I always order the {v} there.", told="{s} always orders the {v} there.",
          asked="What does {s} always order?",
          values=("goulash", "lasagne", "risotto", "dumplings", "paella", "borscht", "ratatouille", "moussaka",
                  "chowder", "falafel", "gnocchi", "strudel")),
    Trait(own="I drive a {v} that is older than me.",
          told="A {v} that is older than its driver: that is what {s} drives.",
          asked="What does {s} drive?",
          values=("hearse", "tractor", "minibus", "convertible", "moped", "pickup", "limousine", "camper", "hatchback",
                  "tricycle", "jeep", "tanker")),
)  # fmt: skip
CHANGING = (
    Trait(own="I live in {v}.", told="{s} lives in {v}.", asked="Where does {s} live now?",
          then="Where did {s} live on {d}?",
          changed_own="I have moved to {v}.", changed_told="{s} has moved to {v}.",
          values=("Utrecht", "Aarhus", "Salzburg", "Bilbao", "Tampere", "Verona", "Krakow", "Lyon", "Basel", "Zagreb",
                  "Galway", "Dresden", "Riga", "Nantes", "Turin", "Bruges")),
    Trait(own="I work as a {v}.", told="{s} works as a {v}.", asked="What does {s} work as now?",
          then="What did {s} work as on {d}?",
          changed_own="I have changed jobs and work as a {v} now.",
          changed_told="{s} has changed jobs and works as a {v} now.",
          values=("plumber", "surveyor", "translator", "midwife", "baker", "tailor", "welder", "optician", "librarian",
                  "florist", "blacksmith", "paramedic", "actuary", "gardener", "notary", "roofer")),
    Trait(own="My yoga class is on {v}.", told="{s}'s yoga class is on {v}.",
          asked="On which day is {s}'s yoga class now?", then="On which day was {s}'s yoga class on {d}?",
          changed_own="My yoga class is on {v} from now on.", changed_told="{s}'s yoga class is on {v} from now on.",
          values=("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")),
    Trait(own="My bike is kept in the {v}.", told="{s}'s bike is kept in the {v}.",
          asked="Where does {s} keep the bike now?", then="Where did {s} keep the bike on {d}?",
          changed_own="My bike is kept in the {v} these days.",
          changed_told="{s}'s bike is kept in the {v} these days.",
          values=("cellar", "garage", "courtyard", "hallway", "barn", "stairwell", "boathouse", "greenhouse", "pantry",
                  "shed", "loft", "porch")),
)  # fmt: skip

EVENTS = (
    ("repaired the roof", "repair the roof"), ("sold the piano", "sell the piano"),
    ("ran the marathon", "run the marathon"), ("planted the pear tree", "plant the pear tree"),
    ("passed the exam", "pass the exam"), ("adopted the stray", "adopt the stray"),
    ("broke the window", "break the window"), ("wrote the will", "write the will"), ("met the mayor", "meet the mayor"),
    ("lost the wallet", "lose the wallet"), ("won the raffle", "win the raffle"), ("burned the cake", "burn the cake"),
    ("quit the choir", "quit the choir"), ("built the sauna", "build the sauna"),
    ("caught the burglar", "catch the burglar"), ("climbed the tower", "climb the tower"),
    ("painted the mural", "paint the mural"), ("hired the nanny", "hire the nanny"),
    ("sank the canoe", "sink the canoe"), ("found the ring", "find the ring"), ("emptied the attic", "empty the attic"),
    ("mended the chimney", "mend the chimney"), ("signed the lease", "sign the lease"),
    ("shaved the beard", "shave the beard"), ("buried the time capsule", "bury the time capsule"),
    ("baked the wedding cake", "bake the wedding cake"), ("tuned the organ", "tune the organ"),
    ("crossed the lake", "cross the lake"), ("fired the gardener", "fire the gardener"),
    ("saw the comet", "see the comet"), ("returned the sofa", "return the sofa"),
("cancelled the trip", "cancel the trip"), )  # fmt: skip
DAYS_BEFORE = (("This morning", 0), ("Yesterday", 1), ("Two days ago", 2), ("Three days ago", 3))

OPENERS = (
    "How was {thing}?", "Did you hear about {thing}?", "I keep thinking about {thing}.", "Tell me about {thing}.",
    "What became of {thing}?", "I slept through {thing}.", "You missed {thing}.", "Is {thing} over?",
    "Nobody warned me about {thing}.", "So much for {thing}.", "Shall we skip {thing}?", "I laughed about {thing}.",
)  # fmt: skip
THINGS = (
    "the long meeting", "the parade", "the power cut", "the flea market", "the noisy wedding next door", "the film",
    "the train strike", "the quiz night", "the storm", "the new timetable", "the office party", "the queue at the bank",
    "the weather report", "the school concert", "the lecture", "the broken lift", "the traffic jam", "the picnic",
    "the late bus", "the street fair", "the fire drill", "the second episode", "the long weekend",
    "the spring cleaning", "the lost parcel", "the open day", "the heat wave", "the neighbourhood meeting",
"the free concert", "the fog", )  # fmt: skip
REPLIES = (
    "Longer than I hoped.", "Better than last year.", "Not worth the fuss.", "I would do it again.", "Do not ask.",
    "It was over before it began.", "Half of it was fine.", "I left early.", "Everybody talks about it.",
    "I have heard worse.", "It made my day.", "I was too tired to care.", "We should have stayed in.",
    "I took some notes, and lost them.", "Somebody has to like it.", "Next time without me.", "It could be worse.",
    "I forgot my umbrella, of course.", "The coffee was good, at least.", "I will tell you another time.",
)  # fmt: skip
ANSWERS = (
    "Really?",
    "I had no idea.",
    "Oh!",
    "Good to know.",
    "You never told me.",
    "Well, well.",
    "Is that so?",
    "Nice.",
)
