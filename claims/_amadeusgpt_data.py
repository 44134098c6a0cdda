"""Made-up material for the claim of amadeusgpt: small talk, definitions, and requests for numpy's functions.

All of it was written for this file or is put together here from lists of words.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

_WHO = (
    "my sister|the neighbour|our postdoc|the new student|a colleague|the landlord|our cat|the bus driver|my uncle"
).split("|")
_DID = (
    "painted the fence|missed the early train|baked two loaves of bread|lost a glove in the park|repaired the old radio"
    "|found a recipe for soup|moved the bookshelf|planted tomatoes|cancelled the meeting|watered the ferns"
    "|bought a second-hand bicycle|translated a poem|forgot the umbrella|tuned the piano|labelled the freezer boxes"
).split("|")
_WHEN = (
    "yesterday|on Sunday|before lunch|last spring|during the storm|after the seminar|at dawn|over the holidays".split(
        "|"
    )
)
_FELT = (
    "and everybody was surprised|which took far too long|so the afternoon was quiet|and it worked at once"
    "|but nobody noticed|and we laughed about it for a while|because the weather was so mild|as one does"
).split("|")
_ASKS = (
    "What do you think of that?|Has that ever happened to you?|Anyway, how was your day?|I should write that down."
    "|It is a long story.|Tell me something nice.|Do you have any advice?|That is all from here."
).split("|")
_REPLIES = (
    "That sounds like a full day.|I am glad it went well.|Thank you for telling me.|That is easily done.|How nice."
    "|It will surely be fine next time.|I would have done the same.|Noted, with pleasure."
).split("|")
_NOUNS = (
    "chase|groom|rear|freeze|sniff|approach|retreat|huddle|mount|dig|climb|nest|scan|dart|follow|block|circle|pounce"
    "|stretch|crouch|nuzzle|shove|stalk|greet|guard|linger|wander|dash|settle|turn"
).split("|")
_HOW = "|quick|slow|long|short|social|lone|wide|tight|early|late".split("|")


def small_talk(rng: random.Random) -> str:
    """One or two sentences about nothing that matters here."""
    said = [
        f"{rng.choice(_WHO).capitalize()} {rng.choice(_DID)} {rng.choice(_WHEN)} {rng.choice(_FELT)}."
        for _ in range(rng.randint(1, 2))
    ]
    return " ".join([*said, rng.choice(_ASKS)])


def reply(rng: random.Random) -> str:
    """What an assistant answers to it."""
    return f"{rng.choice(_REPLIES)} {rng.choice(_REPLIES)}"


def names(rng: random.Random, count: int) -> list[str]:
    """Different names of symbols, of one or two words."""
    every = [f"{how} {noun}".strip() for noun in _NOUNS for how in _HOW]
    return rng.sample(every, count)


def definition(rng: random.Random, name: str, used: list[str]) -> str:
    """A definition of a symbol, which uses others."""
    numbers = [rng.randint(2, 400) for _ in range(3)]
    rest = "".join(f", while <{other}> holds as well" for other in used)
    return (
        f"Define <|{name}|> as a closest distance below {numbers[0]} px with a head angle under {numbers[1] % 180} deg"
        f" and a speed of more than {numbers[2] % 20} px per frame{rest}."
    )


def redefinition(rng: random.Random, name: str) -> str:
    """A change of a symbol that starts from what it was."""
    return f"From now on <|{name}|> is <{name}> but faster than {rng.randint(2, 30)}."


def real_turns(folder: Path) -> list[str]:
    """What people said in LoCoMo's conversations, in order."""
    found: list[str] = []
    for path in sorted(folder.glob("locomo*.json")):
        for sample in json.loads(path.read_text(encoding="utf-8")):
            talk = sample["conversation"]
            for key in sorted((k for k in talk if k.startswith("session_") and not k.endswith("time")), key=len):
                found += [turn["text"] for turn in talk[key] if turn.get("text") and "<" not in turn["text"]]
    return found


REQUESTS = {
    "argsort": "the order of positions that would bring my values from small to large",
    "searchsorted": "where new values have to be put into an ordered list so that it stays ordered",
    "cumsum": "a running total along my measurements",
    "cumprod": "a running multiplication of growth factors",
    "diff": "how much each sample changes from the one before it",
    "gradient": "the slope of a sampled curve at every point, from its neighbours on both sides",
    "histogram": "count how many values fall into each bin",
    "interp": "read a value between known points on a straight line",
    "convolve": "slide a kernel over a signal to filter it",
    "correlate": "compare two signals at every shift between them",
    "median": "the middle value, so that outliers matter less",
    "percentile": "the value under which ninety per cent of the data lie",
    "std": "how widely the values spread around their mean",
    "var": "the mean squared deviation from the mean",
    "average": "a mean in which some observations have more weight than others",
    "corrcoef": "how strongly two variables go together, between minus one and one",
    "cov": "how two variables vary jointly, as a matrix",
    "clip": "force values that are too large or too small to the limits of a range",
    "where": "take from one array where a condition is met and from the other elsewhere",
    "nonzero": "at which positions is the array different from zero",
    "unique": "get rid of repeated values and keep each one once",
    "bincount": "how often does each small whole number occur",
    "digitize": "the number of the bin that each value belongs to",
    "concatenate": "join arrays one after the other along an axis that exists",
    "stack": "put arrays of equal shape together along a new axis",
    "split": "cut an array into several parts",
    "reshape": "give the same data another shape",
    "transpose": "exchange the axes of an array",
    "roll": "move the elements round, so that those which fall off the end come in at the start",
    "flip": "turn the order of the elements round along an axis",
    "rot90": "turn a picture by a quarter",
    "tile": "build an array by laying copies of another next to each other",
    "repeat": "every element several times in a row",
    "pad": "add a border of values around an array",
    "linspace": "a given number of equally spaced points from start to end",
    "logspace": "points whose exponents are equally spaced",
    "arange": "numbers from start to stop in fixed steps",
    "meshgrid": "coordinate matrices for all points of a grid from two axes",
    "zeros": "a new array that is all zero",
    "full": "a new array in which each entry is the same given value",
    "eye": "ones on the diagonal of a square and nothing elsewhere",
    "diag": "pick the diagonal out of a matrix, or make a matrix from it",
    "tril": "keep only the lower part of a matrix, below its diagonal",
    "outer": "all products of the entries of one vector with those of another",
    "dot": "multiply two matrices, or two vectors to a number",
    "cross": "the vector that is perpendicular to two others in space",
    "einsum": "write a sum of products by naming the indices",
    "kron": "a block matrix made of scaled copies of the second one",
    "trapezoid": "the area under a sampled curve",
    "polyfit": "the polynomial that lies closest to my points in the sense of squared errors",
    "polyval": "put numbers into a polynomial whose coefficients are given",
    "roots": "where does a polynomial with these coefficients vanish",
    "isnan": "which entries are missing because they are not a number",
    "isclose": "are two arrays equal up to rounding, element for element",
    "nanmean": "the mean when some values are missing",
    "unwrap": "remove the jumps of a full turn from a series of phases",
    "deg2rad": "from degrees to radians",
    "hypot": "the length of the long side of a right triangle from the two short ones",
    "arctan2": "the angle of a point seen from the origin, in the right quadrant",
    "floor": "the next whole number downwards",
}
"""numpy function -> a request for it in our own words."""
