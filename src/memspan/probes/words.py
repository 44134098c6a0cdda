"""Words with a synonym each, and sentences in two wordings, all written for these exams."""

from __future__ import annotations


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs from "one/other" with commas between."""
    return tuple((one.strip(), other.strip()) for one, other in (pair.split("/") for pair in text.split(",")))


PEOPLE = _pairs(
    "teacher/schoolmaster, doctor/physician, sailor/seaman, lawyer/attorney, thief/robber, soldier/trooper,"
    "shepherd/herdsman, merchant/trader, clerk/bookkeeper, boss/chief, pupil/student, painter/artist, singer/vocalist,"
    "writer/author, traveller/voyager, porter/doorman, cook/chef, watchman/guard, priest/clergyman, king/monarch,"
    "woman/lady, man/fellow, friend/companion, stranger/newcomer, policeman/constable, builder/mason,"
    "driver/chauffeur, maid/housemaid, boy/lad, girl/lass, farmer/grower, spy/informer"
)
MANNERS = _pairs(  # of people
    "sad/unhappy, angry/furious, quiet/silent, rich/wealthy, strange/odd, pretty/beautiful, tired/weary,"
    "brave/courageous, clever/smart, famous/renowned, lonely/solitary, polite/courteous, stubborn/obstinate,"
    "fat/stout, kind/friendly, lazy/idle, nervous/anxious, hungry/starving, cheerful/merry, careful/cautious"
)
THINGS = _pairs(
    "lamp/lantern, boat/vessel, letter/note, coat/jacket, basket/hamper, picture/painting, knife/blade, cup/mug,"
    "stone/rock, rope/cord, car/automobile, bag/sack, carpet/rug, bottle/flask, chest/trunk, sofa/couch, rifle/gun,"
    "statue/sculpture, cloth/fabric, gift/present, engine/motor, photograph/snapshot, coin/penny, plate/dish,"
    "map/chart, book/volume, sword/sabre, stool/seat, stick/cane, jewel/gem, diary/journal, pot/kettle, parcel/package,"
    "cushion/pillow, purse/wallet"
)
KINDS = _pairs(  # of things
    "big/large, small/little, old/ancient, heavy/weighty, wet/damp, empty/hollow, dirty/filthy, cheap/inexpensive,"
    "costly/expensive, shiny/glossy, huge/enormous, tiny/minute, broken/shattered, rare/unusual, plain/simple,"
    "ugly/hideous, useful/handy, round/circular, real/genuine, priceless/invaluable"
)
PLACES = _pairs(
    "shop/store, road/street, forest/wood, harbour/port, hill/mound, river/stream, cellar/basement, church/chapel,"
    "hotel/inn, office/bureau, prison/jail, garden/yard, farm/ranch, shore/beach, corridor/hallway, barn/shed,"
    "cottage/cabin, pub/tavern, village/hamlet, factory/plant, attic/loft, marsh/swamp, palace/castle,"
    "cemetery/graveyard, field/meadow, bridge/crossing, kitchen/galley, cave/cavern"
)
DEEDS = _pairs(  # past and participle alike
    "bought/purchased, found/discovered, repaired/mended, carried/lugged, lifted/raised, cleaned/scrubbed,"
    "dragged/pulled, demanded/requested, praised/admired, inspected/examined, destroyed/wrecked, built/constructed,"
    "collected/gathered, noticed/spotted, guarded/protected, wanted/desired, lost/misplaced, burned/scorched,"
    "described/depicted, abandoned/left, moved/shifted, sent/dispatched, received/obtained, watched/observed,"
    "buried/entombed, painted/coloured, covered/wrapped, needed/required"
)
TIMES = _pairs(  # phrases: their other wording is of no use for exchanging one word
    "at dawn/at daybreak, at midnight/at twelve at night, the other day/not many days back,"
    "every Sunday/on each Sunday, before the storm/ahead of the tempest, after dinner/once dinner was over,"
    "during the holidays/over the vacation, last week/a week ago, at noon/in the middle of the day,"
    "soon after the war/shortly after the war, long ago/many years back, in the evening/when the sun went down,"
    "on the first of May/on May Day, last winter/in the cold months of last year, for two years/for twenty-four months,"
    "within an hour/in less than sixty minutes"
)
TAILS = _pairs(
    " because nobody else would/ since no one else was willing, although it was raining/ even though rain was falling,"
    " without saying a word/ and spoke not a word, and everybody laughed/ and all of us had a laugh,"
    " but it did not help/ yet that was of no use, and I still wonder why/ and to this day I ask myself why,"
    " as we had feared/ just as we were afraid it would be, to the surprise of all/ and everyone was amazed,"
    " for a very good reason/ and not without cause, and that was the end of it/ and there the matter ended,"
    " which cost a fortune/ and it took a great deal of money, if the papers are right/ if one can trust the news,"
    " at least so they say/ or so one hears, and nobody thanked them/ and not a soul was grateful"
)
EXCHANGED = (PEOPLE, MANNERS, THINGS, KINDS, PLACES, DEEDS)

# {who} a person, {how} of what sort, {what} a thing, {kind} of what sort, {where} a place, {did}, {when}, {tail}.
WORDINGS = (
    (
        "{When}, the {how} {who} {did} a {kind} {what} near the {where}{tail}.",
        "A {kind} {what} was {did} beside the {where} by the {how} {who} {when}{tail}.",
    ),
    (
        "There was once a {how} {who} who {did} every {what} of the {where}{tail}.",
        "In those days each {what} of the {where} was {did} by one {how} {who}{tail}.",
    ),
    (
        "My {who} says that the {kind} {what} by the {where} was {did} {when}{tail}.",
        "According to that {who} of mine, somebody {did} the {kind} {what} next to the {where} {when}{tail}.",
    ),
    (
        "Have you heard that the {who} from the {where} {did} our {kind} {what}{tail}?",
        "Did they tell you of our {kind} {what}, that it was {did} by the {who} of the {where}{tail}?",
    ),
    (
        "I never understood why the {how} {who} {did} this {what} and hid it in the {where}{tail}.",
        "It is still a riddle to me why this {what} was {did} and concealed in the {where} by the {how} {who}{tail}.",
    ),
    (
        "When the {how} {who} came to the {where}, the {kind} {what} had already been {did}{tail}.",
        "By the time of the {how} {who}'s arrival at the {where}, someone had {did} the {kind} {what}{tail}.",
    ),
    (
        "Nobody at the {where} {did} the {what} {when}, except for one {how} {who}{tail}.",
        "Only a single {how} {who} at the {where} {did} the {what} {when}{tail}.",
    ),
    (
        "If the {who} had not {did} that {kind} {what}, the {where} would be famous today{tail}.",
        "The {where} would be well known by now, had that {kind} {what} not been {did} by the {who}{tail}.",
    ),
)
