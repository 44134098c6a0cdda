"""Texts to ask about: a user's file without what tells its order, and a chronicle that is made here."""

from __future__ import annotations

import random
import re
from pathlib import Path

from memspan.core.errors import InputError

_GUTENBERG = re.compile(r"\*{3} ?(START|END) OF TH[EI]S? PROJECT GUTENBERG[^\n]*\n?", re.IGNORECASE)
_TITLE = re.compile(
    r"(?:(?:chapter|book|part|volume|act|scene|canto|letter|section)\s+"
    r"(?:the\s+)?(?:\d+|[ivxlcdm]+|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty\S*"
    r"|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last)\b.{0,60}"
    r"|[ivxlcdm]+\.?|\d+\.?|contents|preface|prologue|epilogue|the end)",
    re.IGNORECASE,
)


def read_book(path: str) -> str:
    """The text of a file without headings, which would tell the order, and without Project Gutenberg's notices.

    A heading is a paragraph that is nothing but "Chapter 3", a numeral, or a line in capitals.

    Raises:
        InputError: the file cannot be read as UTF-8, or holds no word.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the book {path} cannot be read: {error}") from error
    marks = list(_GUTENBERG.finditer(text))
    begins = [mark.end() for mark in marks if mark[1].upper() == "START"]
    text = text[begins[0] if begins else 0 :]
    ends = [mark.start() for mark in _GUTENBERG.finditer(text) if mark[1].upper() == "END"]
    text = text[: ends[0]] if ends else text
    kept = [part for part in re.split(r"\n\s*\n", text) if part.strip() and not _is_heading(part.strip())]
    if not kept:
        raise InputError(f"the book {path} holds no text")
    return "\n\n".join(kept)


def _is_heading(paragraph: str) -> bool:
    line = " ".join(paragraph.split())
    return bool(_TITLE.fullmatch(line)) or (len(line) < 80 and line.isupper())


_ROLES = (
    "miller|ferryman|clockmaker|schoolmistress|surveyor|tinker|notary|lamplighter|cooper|harbour master|organist|"
    "apothecary|retired captain|baker|postmistress|stonecutter|innkeeper|beekeeper|bell founder|shepherd|midwife|dyer"
).split("|")
_SITES = (
    "mill|salt warehouse|chapel|ropewalk|orchard|customs house|lock|tannery|market hall|birch wood|ferry landing|"
    "north gate|observatory|quarry|sheepfold|glass foundry|herb garden|plank bridge|school|fish cellar|windmill|pier"
).split("|")
_THINGS = (
    "a brass key|a sack of barley|the torn map|a blue ribbon|two candles|a letter without a seal|the copper kettle|"
    "a basket of eels|the parish book|an oak chest|a pair of spectacles|the cracked bell|a loaf of rye bread|"
    "a bundle of willow|the silver thimble|a drawing of a bridge|a lantern|the long ladder|a jar of honey|"
    "a piece of amber|the broken oar|a wool coat|the account of the flood|a cage with a finch|a coil of rope"
).split("|")
_ONSETS = "B Br D Dr F G Gr H J K Kl L M N O P Pr R S St T Tr U V W Y".split()
_MIDDLES = "a al an ar e el en er i il in o ol on or u un ur".split()
_CLOSES = "da dric fa ga gar ka la lin mar min na nor ra rik sa sel ta ten va vin".split()
_TOWNS = "beck brook by dale field ford ham holm mere ness stead thorpe ton wick".split()
_DID = (
    "carried {t} past {p}|hid {t} under the stairs of {p}|lost {t} somewhere near {p}|asked for {t} at {p}|"
    "mended {t} in the yard of {p}|traded {t} for a night's rest at {p}|left {t} on the doorstep of {p}|"
    "found {t} among the nettles behind {p}|dreamed of {t} and of {p}|showed {t} to the children at {p}|"
    "refused to bring {t} to {p}|weighed {t} twice at {p}|painted {t} on the shutters of {p}|"
    "talked about {t} beside {p}"
).split("|")
_WHILE = (
    "while rain ran from the gutters|before anyone was awake|though the wind had turned|as the geese came over|"
    "with snow still in the furrows|because the well was dry|under a sky the colour of slate|in spite of the toothache|"
    "when the looms were silent|after a quarrel over rent|as if nothing had been said|with flour on both sleeves|"
    "to the sound of hammering|against good advice|for reasons nobody wrote down|without taking off a glove"
).split("|")
_SAID = (
    "“I have never trusted {t},” said {a}, “and I trust {p} even less.”|"
    "{a} and {b} met at {p} and spoke of nothing but {t}.|"
    "Nobody at {p} could tell whether {a} or {b} owned {t}.|"
    "“Ask {b},” {a} answered, and looked towards {p}.|"
    "It was {b} who remembered that {a} had once kept {t} at {p}.|"
    "At {p} there was {t}, and beside it sat {a}, waiting for {b}.|"
    "For the sake of {b}, {a} forgave the matter of {t}.|"
    "The dog of {a} barked at {t} until {b} came from {p}."
).split("|")


def chronicle(words: int = 30_000, seed: int = 0) -> str:
    """A made-up chronicle: every sentence once, and none tells what was before or after it."""
    chance = random.Random(f"chronicle-{seed}")
    pick = chance.choice
    people = [f"{pick(_ONSETS)}{pick(_MIDDLES)}{pick(_CLOSES)} the {pick(_ROLES)}" for _ in range(300)]
    places = [f"the {pick(_SITES)} at {pick(_ONSETS)}{pick(_MIDDLES)}{pick(_TOWNS)}" for _ in range(300)]
    said: dict[str, None] = {}
    count = 0
    while count < words:
        a, b = chance.sample(people, 2)
        named = {"a": a, "b": b, "p": pick(places), "t": pick(_THINGS)}
        if chance.random() < 0.6:
            sentence = f"{a} {pick(_DID).format(**named)} {pick(_WHILE)}"
            if chance.random() < 0.4:
                sentence += f", and {b} {pick(_DID).format(p=pick(places), t=pick(_THINGS))}"
            sentence += "."
        else:
            sentence = pick(_SAID).format(**named)
        if sentence not in said:
            said[sentence] = None
            count += len(sentence.split())
    return " ".join(said)
