"""Questions with right and wrong answers: a pool made here, a user's own, or Super-NaturalInstructions."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from memspan.core.errors import InputError
from memspan.probes.longins.words import WORDS

TYPES = (
    "question answering",
    "classification",
    "reading comprehension",
    "natural language inference",
    "machine translation",
    "named entity recognition",
    "common sense",
)
_PER_TASK = 1200


@dataclass(frozen=True, slots=True, kw_only=True)
class QA:
    """A question with its answer.

    Attributes:
        task, type: names; questions of a task share their instruction.
        input: the question; output: a right answer; also: further right ones.
        wrong: wrong ones; without any, answers to other questions of the task are taken.
    """

    task: str
    instruction: str
    input: str
    output: str
    type: str = ""
    wrong: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


# --- made here -------------------------------------------------------------------------------------------------------

_Made = tuple[str, str, tuple[str, ...]]  # input, output, wrong


def _others(chance: random.Random, options: Iterable[str], right: str, count: int = 2) -> tuple[str, ...]:
    rest = [option for option in options if option != right]
    return tuple(chance.sample(rest, min(count, len(rest))))


def _near(chance: random.Random, right: int, unit: str = "") -> tuple[str, ...]:
    steps = chance.sample((1, 2, 3, 10, -1, -2, -10), 3)
    return tuple(f"{right + step}{unit}" for step in steps if right + step >= 0)[:2]


def _arithmetic(chance: random.Random) -> _Made:
    a, b = chance.randint(3, 99), chance.randint(3, 99)
    sign, right = chance.choice((("+", a + b), ("-", a - b)))
    if right < 0:
        a, b, right = b, a, -right
    return f"{a} {sign} {b}", str(right), _near(chance, right)


def _comparison(chance: random.Random) -> _Made:
    a, b = chance.sample(range(2, 1000), 2)
    return f"{a} or {b}", str(max(a, b)), (str(min(a, b)),)


_LIT = {  # of a seven-segment display
    "0": (1, 1, 1, 0, 1, 1, 1),
    "1": (0, 0, 1, 0, 0, 1, 0),
    "2": (1, 0, 1, 1, 1, 0, 1),
    "3": (1, 0, 1, 1, 0, 1, 1),
    "4": (0, 1, 1, 1, 0, 1, 0),
    "5": (1, 1, 0, 1, 0, 1, 1),
    "6": (1, 1, 0, 1, 1, 1, 1),
    "7": (1, 0, 1, 0, 0, 1, 0),
    "8": (1, 1, 1, 1, 1, 1, 1),
    "9": (1, 1, 1, 1, 0, 1, 1),
}
_SEGMENTS = ("top", "upper left", "upper right", "middle", "lower left", "lower right", "bottom")


def _digits(chance: random.Random) -> _Made:
    digit = chance.choice(sorted(_LIT))
    lit = [name for name, on in zip(_SEGMENTS, _LIT[digit], strict=True) if on]
    chance.shuffle(lit)
    return f"display {chance.randint(1, 9999)}: {', '.join(lit)}", digit, _others(chance, _LIT, digit)


_KINDS = {
    "animal": "dog cat horse cow pig sheep goat wolf fox bear mouse snake frog spider duck goose bee fish".split(),
    "fruit": "apple pear cherry plum grape lemon strawberry banana orange melon peach mango".split(),
    "tool": "hammer saw needle ladder axe drill spade wrench chisel shovel rake pliers".split(),
    "garment": "shirt coat hat glove belt skirt dress boot scarf jacket sock trousers".split(),
}


def _kinds(chance: random.Random) -> _Made:
    kind = chance.choice(sorted(_KINDS))
    words = chance.sample(_KINDS[kind], 3)
    return ", ".join(words), kind, _others(chance, _KINDS, kind)


_NAMES = (
    "Ada Ben Clara David Emma Felix Greta Hugo Ida Jakob Karla Leon Mira Nils Olga Paul Rosa Simon Tara Viktor".split()
)
_CITIES = "Lisbon Oslo Vienna Cairo Lima Quito Dublin Prague Athens Madrid Warsaw Helsinki Nairobi Havana Seoul".split()
_GOODS = "a lamp|a violin|two tickets|a map|a bicycle|a kite|some cheese|a clock|an umbrella|a chess board".split("|")
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def _passage(chance: random.Random) -> _Made:
    a, b = chance.sample(_NAMES, 2)
    first, second = chance.sample(_CITIES, 2)
    thing, other = chance.sample(_GOODS, 2)
    day, later = chance.sample(_DAYS, 2)
    text = f"On {day} {a} bought {thing} in {first}. On {later} {b} bought {other} in {second}."
    asked, right, wrong = chance.choice(
        [
            (f"Where did {a} buy {thing}?", first, second),
            (f"What did {b} buy?", other, thing),
            (f"Who bought {thing}?", a, b),
            (f"When did {b} buy {other}?", later, day),
        ]
    )
    return f"{text} {asked}", right, (wrong,)


def _entailment(chance: random.Random) -> _Made:
    a, b = chance.sample(_NAMES, 2)
    city, other = chance.sample(_CITIES, 2)
    count = chance.randint(2, 9)
    premise, said, label = chance.choice(
        [
            (f"{a} lives in {city} with {b}.", f"{b} lives in {city}.", "yes"),
            (f"{a} has {count} sisters.", f"{a} has a sister.", "yes"),
            (f"{a} and {b} both speak the language of {city}.", f"{a} speaks the language of {city}.", "yes"),
            (f"{a} has never been to {city}.", f"{a} was born in {city}.", "no"),
            (f"{a} is older than {b} by {count} years.", f"{b} is older than {a}.", "no"),
            (f"Nobody but {a} came from {city}.", f"{b} came from {city}.", "no"),
            (f"{a} moved to {city} last year.", f"{a} does not like {other}.", "maybe"),
            (f"{b} has {count} books about {city}.", f"{b} has been to {city}.", "maybe"),
        ]
    )
    return f"Text: {premise} Statement: {said}", label, _others(chance, ("yes", "no", "maybe"), label)


def _strings(chance: random.Random) -> _Made:
    word = chance.choice(sorted(WORDS))
    how, right = chance.choice(
        [
            ("in capital letters", word.upper()),
            ("backwards", word[::-1]),
            ("without its first letter", word[1:]),
            ("twice", f"{word} {word}"),
        ]
    )
    swapped = word[1:2] + word[:1] + word[2:]
    wrong = {
        "in capital letters": swapped.upper(),
        "backwards": word[::-1][1:] + word[-1],
        "twice": f"{word} {swapped}",
    }
    return f"{word}, {how}", right, (wrong.get(how, word[:-1]),)


def _copying(chance: random.Random) -> _Made:
    words = chance.sample(sorted(WORDS), 4)
    at = chance.randrange(4)
    return " ".join(words[:3]) + f" | {('first', 'second', 'third')[at % 3]}", words[at % 3], (words[3],)


def _entities(chance: random.Random) -> _Made:
    name, city, thing = chance.choice(_NAMES), chance.choice(_CITIES), chance.choice(_GOODS)
    text = chance.choice(("{n} lost {t} in {c}.", "In {c} {t} was sold to {n}.", "{t} was sent from {c} by {n}."))
    asked, right, wrong = chance.choice((("person", name, city), ("city", city, name)))
    said = text.format(n=name, c=city, t=thing)
    return f"{said[0].upper()}{said[1:]} ({asked}; {chance.choice(_DAYS)} edition)", right, (wrong,)


_MONTHS = "January February March April May June July August September October November December".split()


def _dates(chance: random.Random) -> _Made:
    days = chance.sample([(y, m, d) for y in range(1900, 2031, 7) for m in range(12) for d in (3, 9, 14, 21, 28)], 2)
    early, late = (f"{d} {_MONTHS[m]} {y}" for y, m, d in sorted(days))
    shown = [early, late]
    chance.shuffle(shown)
    return " or ".join(shown), early, (late,)


_UNITS = (("km", "m", 1000), ("m", "cm", 100), ("kg", "g", 1000), ("hours", "minutes", 60), ("weeks", "days", 7))


def _units(chance: random.Random) -> _Made:
    big, small, factor = chance.choice(_UNITS)
    count = chance.randint(2, 240)
    wrong = (f"{count * factor * 10} {small}", f"{count * (factor // 10 or 10)} {small}")
    return f"{count} {big} in {small}", f"{count * factor} {small}", wrong


def _to_german(chance: random.Random) -> _Made:
    word = chance.choice(sorted(WORDS))
    return word, WORDS[word], _others(chance, WORDS.values(), WORDS[word])


_TASKS: tuple[tuple[str, str, str, Callable[[random.Random], _Made]], ...] = (
    ("arithmetic", TYPES[0], "Work out the result.", _arithmetic),
    ("comparison", TYPES[0], "Say which of the two numbers is larger.", _comparison),
    ("strings", TYPES[0], "Write the word as it is asked for.", _strings),
    ("digits", TYPES[1], "Say which digit a seven-segment display shows when these segments are lit.", _digits),
    ("kinds", TYPES[1], "Say what the things are: animal, fruit, tool or garment.", _kinds),
    ("passages", TYPES[2], "Answer the question about the text.", _passage),
    ("copying", TYPES[2], "Copy the word at the place that is named behind the bar.", _copying),
    ("entailment", TYPES[3], "Say whether the statement follows from the text: yes, no or maybe.", _entailment),
    ("translation", TYPES[4], "Translate the word into German.", _to_german),
    ("entities", TYPES[5], "Name the person or the city in the sentence, as asked.", _entities),
    ("dates", TYPES[6], "Say which date is earlier.", _dates),
    ("units", TYPES[6], "Convert the quantity.", _units),
)


@cache
def made_pool(seed: int = 0) -> tuple[QA, ...]:
    """Twelve tasks of seven types, up to 1,200 questions each, none twice."""
    pool: list[QA] = []
    for task, kind, instruction, make in _TASKS:
        chance = random.Random(f"{task}-{seed}")
        found: dict[str, QA] = {}
        for _ in range(4 * _PER_TASK):
            said, right, wrong = make(chance)
            if said not in found:
                found[said] = QA(task=task, type=kind, instruction=instruction, input=said, output=right, wrong=wrong)
            if len(found) == _PER_TASK:
                break
        pool += found.values()
    return tuple(pool)


# --- a user's --------------------------------------------------------------------------------------------------------


def read_pool(path: str) -> list[QA]:
    """Questions from JSON lines, or from a task of Super-NaturalInstructions or a folder of them.

    A line is an object with `instruction` and `output` (or `answer`), and may have `input`, `task`, `type`, `wrong` (a
    string or a list) and `also`; or a list [instruction, answer]. Without an `input`, the instruction is the question.
    A task of Super-NaturalInstructions is a .json file with `Definition` and `Instances` of `input` and `output`.

    Raises:
        InputError: a file cannot be read, or a line is something else; it says which.
    """
    place = Path(path).expanduser()
    files = sorted(place.glob("*.json")) if place.is_dir() else [place]
    pool: list[QA] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the pool {file} cannot be read: {error}") from error
        pool += _natural(text, file) if file.suffix == ".json" else pool_of(_lines(text, file), str(file))
    if not pool:
        raise InputError(f"the pool {path} holds no question")
    return pool


def pool_of(rows: Iterable[Any], named: str = "pool") -> list[QA]:
    """Questions from objects or pairs as `read_pool` reads them from lines.

    Raises:
        InputError: a row is something else.
    """
    return [_row(row, f"{named}, row {number}") for number, row in enumerate(rows, 1)]


def _lines(text: str, file: Path) -> Iterator[Any]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{file}, line {number} is not JSON: {error}") from error


def _row(row: Any, where: str) -> QA:
    if isinstance(row, QA):
        return row
    if isinstance(row, list | tuple) and len(row) == 2:
        row = {"instruction": row[0], "output": row[1]}
    if not isinstance(row, dict):
        raise InputError(f"{where} is no object and no pair of instruction and answer")
    instruction, output = row.get("instruction", ""), row.get("output", row.get("answer"))
    asked = row.get("input") or instruction
    if not isinstance(instruction, str) or not isinstance(asked, str) or not asked.strip() or output in (None, ""):
        raise InputError(f"{where} needs an instruction and an output (or answer)")
    general = "Answer the question."
    shared = instruction if row.get("input") and instruction else general
    return QA(
        task=str(row.get("task") or ("questions" if shared == general else shared)),
        type=str(row.get("type") or ""),
        instruction=shared,
        input=asked.strip(),
        output=str(output).strip(),
        wrong=_several(row.get("wrong"), where),
        also=_several(row.get("also"), where),
    )


def _several(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value.strip(),)
    if isinstance(value, list | tuple):
        return tuple(str(one).strip() for one in value)
    raise InputError(f"{where}: wrong and also are a string or a list of strings")


def _natural(text: str, file: Path) -> list[QA]:
    try:
        task = json.loads(text)
        definition, instances = task["Definition"], task["Instances"]
        kinds = task.get("Categories") or [""]
        instruction = definition if isinstance(definition, str) else " ".join(definition)
        return [
            QA(
                task=file.stem,
                type=str(kinds[0]),
                instruction=instruction.strip(),
                input=str(one["input"]).strip(),
                output=str(outputs[0]).strip(),
                also=tuple(str(other).strip() for other in outputs[1:]),
            )
            for one in instances
            if (outputs := [one["output"]] if isinstance(one["output"], str) else one["output"])
        ]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{file} is no task of Super-NaturalInstructions: {error!r}") from error
