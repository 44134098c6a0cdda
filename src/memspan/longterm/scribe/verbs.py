"""Verbs and nouns by what they say of having and doing: data of the open reader, and the forms it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memspan.longterm.scribe.wording import EMPTY, words

if TYPE_CHECKING:
    from spacy.tokens import Token


def _phrases(text: str) -> frozenset[str]:
    return frozenset(text.split(", "))


# What begins something that then holds; a verb with a particle or preposition is written with it.
ACQUIRE = _phrases(
    "get, buy, adopt, purchase, lease, inherit, rent, join, receive, order, pick up, sign up for, sign up with, sign"
    " up"
    " to, sign with, subscribe to, enrol in, enroll in, enrol at, enroll at, register with, register for, switch to,"
    " switch over to, switch back to, move to, move over to, change to, upgrade to, downgrade to, convert to, migrate"
    " to, go back to, go over to, go for, opt for, settle on, settle for,"
    " end up with, end up at, end up in, take up, take on, take over, start, begin, start on, start with, choose,"
    " start at"
)
# What somebody is given by others.
GIVEN = words(
    "give assign put place prescribe transfer move accept admit award grant allot allocate offer issue lend switch"
)
PUT = GIVEN | words("feed keep have get")
# What ends what was held.
LOSE = _phrases(
    "sell, quit, lose, ditch, cancel, leave, stop, dump, bin, scrap, drop, give up, give up on, get rid of, trade in,"
    " cut"
    " out, get over, go off, throw out, throw away, break up with, part with, retire from, resign from"
)
EXCHANGE = words("swap trade exchange replace switch change convert")
CHANGES = (frozenset(p.split()[0] for p in (*ACQUIRE, *LOSE)) | EXCHANGE | words("upgrade go end")) - words(
    "order start begin stop leave cut rent"
)
STATES = words(
    "be have own use drive ride wear play study attend support live work run teach coach train lead rent practise"
    " practice"
    " speak earn pay cost belong serve keep manage head chair captain sit stay share"
)
PLANNED = words("get buy order join start begin")
PARTICLES = words("up off out over back down away in")
LIGHT = words(
    "have take do get make go give be keep put run set come find bring let hold turn stay show work start begin"
)
MENTAL = words(
    "think know feel see hope guess mean find believe wonder want need love like miss inspire remind make help"
)
TELLING = words(
    "think know feel hope guess mean let seem look thank appreciate tell ask say hear happen try believe wonder wish"
    " want"
    " sound agree bet suppose remember forget understand imagine show help mind matter excite need see find come"
    " notice"
    " realize realise mention share talk send check add include involve care consider hit plan decide miss deserve"
    " promise expect enjoy admire respect capture bring remind inspire make"
)
POINTING = words(
    "this that these those some any every each no such what which whatever it them another all both many much lots"
    " more"
    " most few enough so too how when where why"
)
VAGUE = words(
    "great good nice bad big little amazing awesome wonderful lovely beautiful fantastic incredible perfect own same"
    " such"
    " different special similar crazy cool fun exciting interesting important tough hard real total bit ton tons lot"
    " lots plenty couple few many several various certain much"
)
OTHERS = words("someone somebody anyone anybody everyone everybody nobody people guy man woman stranger")
# Nouns that name no thing one has or does.
LIGHT_NOUNS = EMPTY | words(
    "time day night week month year hour minute morning evening afternoon weekend today tomorrow yesterday moment"
    " chance luck love life hand eye mind face smile hug laugh joke walk rest nap breath note step hurry rush matter"
    " issue"
    " problem question answer doubt goal dream wish hope plan trouble worry effort progress experience memory story"
    " photo"
    " picture pic shot video blast ball bit ton control care advantage action decision seat account interest pride joy"
    " support help advice news information detail list example reason difference impact effect result success failure"
    " work job home house place world way end start beginning side top bottom bed touch peace power strength courage"
    " passion inspiration motivation energy focus balance attention blessing journey path adventure future past"
    " back push boost damper hunt verge sign relief toe finger spirit kind type sort sense meaning purpose value mood"
    " feeling thought opinion view vision visit trip talk chat"
    " conversation call discussion meeting event party date break shower swim look lesson track board mess"
    " it them that this us me you him her here there now then each other ones sure okay ok one two"
)
# "To be on this" is how somebody is, not what they have.
IDIOMS = _phrases(
    "in love, in charge, in touch, on fire, on top, on board, on track, on time, in trouble, in shock, in awe, on"
    " holiday,"
    " on vacation, at peace, at ease, with friends, with family, with kids, on edge, on point, in heaven, in tears,"
    " in pain, in shape, go shopping"
)
MOODS = words(
    "happy glad sad proud sorry thankful grateful sure afraid worried tired excited thrilled pleased pumped stoked"
    " ready"
    " good great bad nice amazing perfect important nervous anxious curious interested passionate crazy fond keen"
    " eager"
    " lucky blessed busy done fine ok okay cool close similar different full here there awesome wonderful inspired"
    " impressed surprised amazed touched moved hard easy fun big huge supportive kind able about up down determined"
    " dedicated committed involved surrounded stuck lost open aware concerned upset angry mad confident hopeful"
    " overwhelmed swamped drawn stoked psyched driven struggling essential motivated obsessed disappointed relieved"
    " honored honoured true right wrong worth"
)
# Nouns that name a place for a value, not a thing with qualities: what "is" says of them is the value.
DESIGNATING = words(
    "password passcode passphrase code name nickname username login handle order choice topic subject hobby instrument"
    " sport breed colour color size breakfast lunch dinner drink snack starter dessert soup dish prize gift goal"
    " assignment project theme bedtime curfew pronouns hint motto nationality religion faith language major minor"
    " specialty speciality allergy medication diet shift thesis position"
)
_ABSTRACT_ENDINGS = (
    "ness",
    "tion",
    "sion",
    "ment",
    "ance",
    "ence",
    "ity",
    "ism",
    "ship",
    "dom",
    "hood",
    "ure",
    "th",
    "cy",
)
_CONCRETE = words(
    "subscription membership scholarship apprenticeship internship citizenship residence insurance apartment"
    " university"
    " prescription medication cloth bath furniture manicure pharmacy pregnancy mortgage position instrument equipment"
    " mint tooth residency electricity facility city ambulance documentation location station tournament supplement"
    " agency vacancy sailship township fourth fifth booth collection reservation extension intolerance allowance"
    " ointment treatment stationery accountancy ownership dictation meditation concession"
)
_IRREGULAR = {
    **{"got": "get", "gotten": "get", "bought": "buy", "took": "take", "taken": "take", "went": "go", "gone": "go"},
    **{"gave": "give", "given": "give", "sold": "sell", "lost": "lose", "left": "leave", "began": "begin"},
    **{"begun": "begin", "chose": "choose", "chosen": "choose", "put": "put", "swapped": "swap", "dropped": "drop"},
    **{"quit": "quit", "binned": "bin", "scrapped": "scrap", "lent": "lend", "has": "have", "had": "have"},
    **{"'ve": "have", "'m": "be", "'re": "be", "am": "be", "are": "be", "is": "be", "was": "be", "were": "be"},
    **{"been": "be", "does": "do", "did": "do", "done": "do", "kept": "keep", "fed": "feed", "ran": "run"},
}


def lemma(token: Token) -> str:
    """The lemma of a verb by its form, where a tagger may have missed that it is one ("Swapped" as a name)."""
    lower = str(token.lower_).replace("’", "'")
    if lower in _IRREGULAR:
        return _IRREGULAR[lower]
    if lower == "'s":
        return "be"
    if token.pos_ in ("VERB", "AUX"):
        return str(token.lemma_).lower()
    if lower.endswith("ed") and len(lower) > 4:
        stem = lower[:-2]
        return lower[:-1] if stem.endswith(("ad", "ng", "as", "ir", "at", "ac", "ang", "ov")) else stem
    return str(token.lemma_).lower()


def relation(verb: str, lead: Sequence[Token]) -> str:
    """The name of a relation: the verb's third person with its particle and preposition."""
    known = {"be": "IS", "have": "HAS", "do": "DOES", "go": "GOES"}
    form = known.get(verb) or (verb + ("es" if verb.endswith(("s", "x", "ch", "sh", "o")) else "s")).upper()
    if verb.endswith("y") and verb[-2:-1] not in tuple("aeiou"):
        form = f"{verb[:-1]}ies".upper()
    parts = [form, *(t.lower_.upper() for t in lead if t.is_alpha)]
    return "_".join(parts).replace("-", "_")


def abstract(noun: str) -> bool:
    """Whether a noun's ending says that it names no thing."""
    return noun not in _CONCRETE and len(noun) > 5 and noun.endswith(_ABSTRACT_ENDINGS)
