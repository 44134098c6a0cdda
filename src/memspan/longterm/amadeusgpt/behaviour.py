"""Definitions in words as conditions on measures: read by rules, evaluated without running any code.

"Closest distance < 40 px, head angle < 30 deg and speed > 2, for at least 0.5 s" is a behaviour; so are "<chases> but
faster than 3", "<chases> or <watch>", "not <watch>". What a definition says beside that is listed as unread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from memspan.core.errors import InputError
from memspan.longterm.amadeusgpt.grammar import Mark, parse, plain
from memspan.longterm.amadeusgpt.kinematics import Mask, Pose
from memspan.longterm.amadeusgpt.phrases import read_phrases, unread_clauses
from memspan.longterm.amadeusgpt.programs import Program, function_name, read_program
from memspan.longterm.amadeusgpt.table import Place, SymbolTable

MEASURES = {
    "closest_distance": ("closest distance", "px"),
    "distance": ("distance of the centers", "px"),
    "head_angle": ("head angle", "deg"),
    "speed": ("speed", "px/frame"),
    "other_speed": ("the other's speed", "px/frame"),
    "acceleration": ("acceleration", "px/frame²"),
    "turning": ("turning", "deg/frame"),
}
"""Measure -> its name in words, and its unit."""
_BUT = re.compile(r"\b(?:but|except|instead|only|unless)\b", re.IGNORECASE)
RunProgram = Callable[[Program, Sequence[Program]], Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison: a measure against a number.

    Attributes:
        measure: one of `MEASURES`.
        sign: "<", "<=", ">" or ">=".
        value: the number, in the measure's unit or, with `per_second`, in that unit a second.
    """

    measure: str
    sign: str
    value: float
    per_second: bool = False

    def __str__(self) -> str:
        name, unit = MEASURES[self.measure]
        return f"{name} {self.sign} {self.value:g} {unit.replace('/frame', '/s') if self.per_second else unit}"

    def mask(self, pose: Pose) -> Mask:
        """Where it holds: [T, A], or [T, A, A] of a measure of two."""
        values = measured(pose, self.measure)
        value = self.value / pose.fps if self.per_second else self.value
        with np.errstate(invalid="ignore"):
            compare = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}[self.sign]
            found: Mask = compare(values, value)
            return found

    def source(self) -> str:
        """The same as Python."""
        values = "pose.of_other(pose.speed())" if self.measure == "other_speed" else f"pose.{self.measure}()"
        return f"{values} {self.sign} {self.value:g}" + (" / pose.fps" if self.per_second else "")


@dataclass(frozen=True, slots=True)
class Used:
    """Another symbol inside a behaviour."""

    place: Place
    negated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What a definition says, as far as the rules can read it.

    Attributes:
        name: of its symbol.
        groups: any of these must hold, each with all of its conditions and symbols.
        smooth: frames of the majority filter, 1 for none.
        least_frames, least_seconds: the shortest event that counts.
        unread: parts of the text that say something the rules do not understand.
        program: a stored program, which stands in place of groups.
    """

    name: str
    groups: tuple[tuple[Condition | Used, ...], ...] = ()
    smooth: int = 1
    least_frames: int = 0
    least_seconds: float = 0.0
    unread: tuple[str, ...] = ()
    program: Program | None = None

    @property
    def uses(self) -> tuple[Used, ...]:
        """The symbols in it."""
        return tuple(item for group in self.groups for item in group if isinstance(item, Used))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Its own conditions."""
        return tuple(item for group in self.groups for item in group if isinstance(item, Condition))

    def lasting(self, fps: float) -> int:
        """The shortest event in frames."""
        return max(self.least_frames, int(np.ceil(self.least_seconds * fps - 1e-9)))


def measured(pose: Pose, measure: str) -> Any:
    """[T, A] or [T, A, A] of a measure.

    Raises:
        InputError: the head's keypoints are not known, or the measure needs two animals.
    """
    if measure in ("closest_distance", "distance", "head_angle", "other_speed") and len(pose.animals) < 2:
        raise InputError(f"{MEASURES[measure][0]} needs two animals, and the track has one")
    try:
        if measure == "other_speed":
            return pose.of_other(pose.speed())
        return getattr(pose, measure)()
    except ValueError as error:
        raise InputError(str(error)) from None


def read_behaviour(table: SymbolTable, place: Place) -> Behaviour:
    """What a version of a symbol says.

    Raises:
        InputError: it has no program, and the rules find no condition and no symbol in its text.
    """
    version = table.at(place)
    if version.program is not None and version.program.creator != "rules":
        return Behaviour(name=version.name, program=version.program)
    uses = dict(zip((used[0] for used in table.uses(place)), table.uses(place), strict=True))
    found = read_text(version.text, table, uses, version.name)
    if found is None:
        raise InputError(
            f"<{version.name}> has no program, and its definition holds no condition that can be read:"
            f" {plain(version.text)[:120]!r}; write for example 'distance < 40 px and speed > 2', or attach a program"
        )
    return found


def read_text(
    text: str, table: SymbolTable, uses: dict[str, Place] | None = None, name: str = "question"
) -> Behaviour | None:
    """The conditions and symbols in any text; None when there is none.

    Args:
        text: a definition or a question.
        table: the symbols that are known.
        uses: which version each reference means; None is the current ones.
        name: of the symbol that the text defines.
    """
    text = re.sub(r"```.*?```", lambda block: " " * len(block[0]), text, flags=re.DOTALL)
    parsed = parse(text, table)
    bare = parsed.text
    for mark in parsed.marks:
        bare = bare[: mark.start] + " " * (mark.stop - mark.start) + bare[mark.stop :]
    phrases = read_phrases(bare)
    items: list[tuple[int, Condition | Used]] = [(start, Condition(*spec)) for start, spec in phrases.conditions]
    for mark in parsed.marks:
        place = _meant(mark, table, uses)
        if place is not None:
            negated = re.search(r"\b(?:not|no|without|never|unless)\s+(?:\w+\s+)?$", bare[: mark.start].lower())
            items.append((mark.start, Used(place, negated is not None)))
    if not items:
        return None
    items.sort(key=lambda pair: pair[0])
    groups: list[list[Condition | Used]] = [[]]
    always: list[Condition | Used] = []  # what stands behind "but" goes for all that stands before it
    before, restricts = 0, False
    for start, item in items:
        between = bare[before:start]
        restricts = restricts or bool(groups[-1] and _BUT.search(between))
        if not restricts and groups[-1] and re.search(r"\bor\b", between, re.IGNORECASE):
            groups.append([])
        target = always if restricts else groups[-1]
        if item not in target:
            target.append(item)
        before = start
    own = {word for mark in parsed.marks for word in mark.name.lower().split()}
    found = Behaviour(
        name=name,
        groups=tuple((*group, *(item for item in always if item not in group)) for group in groups),
        smooth=phrases.smooth,
        least_frames=phrases.least_frames,
        least_seconds=phrases.least_seconds,
        unread=unread_clauses(phrases.rest, own),
    )
    if _BUT.search(bare):
        return _changed(found, table, phrases.smooth > 1, phrases.least_frames > 0 or phrases.least_seconds > 0)
    return found


def _meant(mark: Mark, table: SymbolTable, uses: dict[str, Place] | None) -> Place | None:
    if mark.defines or mark.key not in table:
        return None
    return table.current(mark.key) if uses is None else uses.get(mark.key)


def _changed(found: Behaviour, table: SymbolTable, smooths: bool, lasts: bool) -> Behaviour:
    """The conditions of x, with those of "<x> but faster than 3" in the place of x's on the same measure."""
    positive = [item for item in found.uses if not item.negated]
    if len(found.groups) != 1 or len(found.uses) != 1 or not positive:
        return found
    base = read_behaviour(table, positive[0].place)
    if base.program is not None or len(base.groups) != 1:
        return found
    signs = {(item.measure, item.sign[0]) for item in found.conditions}
    kept = [i for i in base.groups[0] if isinstance(i, Used) or (i.measure, i.sign[0]) not in signs]
    return replace(
        found,
        groups=((*kept, *found.conditions),),
        smooth=found.smooth if smooths else base.smooth,
        least_frames=found.least_frames if lasts else base.least_frames,
        least_seconds=found.least_seconds if lasts else base.least_seconds,
        unread=tuple(dict.fromkeys((*base.unread, *found.unread))),
    )


def evaluate(table: SymbolTable, behaviour: Behaviour, pose: Pose, run: RunProgram) -> Mask:
    """Where a behaviour holds: [T], [T, A] or [T, A, A] (first animal, second animal).

    Args:
        table: the symbols that it may use.
        behaviour: what to look for.
        pose: the track.
        run: runs a stored program with its helpers; it decides whether code may run at all.

    Raises:
        InputError: a measure cannot be had from this track, or a program returned no mask of it.
        CycleError: definitions use each other in a circle.
    """
    table.closure_of([(item.place, "") for item in behaviour.uses])  # a circle ends here
    return _evaluate(table, behaviour, pose, run, {})


def _evaluate(table: SymbolTable, behaviour: Behaviour, pose: Pose, run: RunProgram, known: dict[Place, Mask]) -> Mask:
    if behaviour.program is not None:
        return checked_mask(run(behaviour.program, ()), pose, behaviour.name)
    groups = []
    for group in behaviour.groups:
        masks = []
        for item in group:
            if isinstance(item, Condition):
                masks.append(item.mask(pose))
                continue
            if item.place not in known:
                inner = read_behaviour(table, item.place)
                if inner.program is not None:
                    value = run(inner.program, helpers_of(table, item.place))
                    known[item.place] = checked_mask(value, pose, inner.name)
                else:
                    known[item.place] = _evaluate(table, inner, pose, run, known)
            masks.append(pose.without(known[item.place]) if item.negated else known[item.place])
        groups.append(pose.every(*masks))
    return pose.lasting(pose.smooth(pose.either(*groups), behaviour.smooth), behaviour.lasting(pose.fps))


def checked_mask(value: Any, pose: Pose, name: str) -> Mask:
    """What a program returned, when it is a mask of the track.

    Raises:
        InputError: it is not.
    """
    count = len(pose.animals)
    shapes = ((len(pose),), (len(pose), count), (len(pose), count, count))
    array = np.asarray(value) if isinstance(value, np.ndarray | list) else None
    if array is None or array.shape not in shapes or array.dtype.kind not in "bi" or not np.isin(array, (0, 1)).all():
        what = f"an array {list(array.shape)} of {array.dtype}" if array is not None else f"a {type(value).__name__}"
        raise InputError(
            f"the program of <{name}> must return True or False for each frame, [frames], [frames, animals] or"
            f" [frames, animals, animals], and returned {what}"
        )
    return array.astype(np.bool_)


# --- the same as Python ----------------------------------------------------------------------------------------------


def program_of(table: SymbolTable, place: Place) -> Program:
    """The program behind a version: the one that is stored, else the one that its text says.

    Raises:
        InputError: the rules cannot read its text.
    """
    behaviour = read_behaviour(table, place)
    if behaviour.program is not None:
        return behaviour.program
    source = render(behaviour, _function(table, place), lambda used: _function(table, used))
    older = [table.at(used).program for used in table.uses(place)]
    parents = tuple(program.id for program in older if program is not None)
    return read_program(source, "rules", parents)


def helpers_of(table: SymbolTable, place: Place) -> list[Program]:
    """The programs that a version's program may call: those of the symbols it rests on, in order.

    Raises:
        CycleError, InputError: as `SymbolTable.closure`, `program_of`.
    """
    return [program_of(table, page.place) for page in table.closure_of([(place, "")])[:-1]]


def render(behaviour: Behaviour, function: str, named: Callable[[Place], str]) -> str:
    """A behaviour as a function of a pose, which gives the same mask as `evaluate`."""
    groups = []
    for group in behaviour.groups:
        parts = []
        for item in group:
            if isinstance(item, Condition):
                parts.append(item.source())
            else:
                call = f"{named(item.place)}(pose)"
                parts.append(f"pose.without({call})" if item.negated else call)
        groups.append(f"pose.every({', '.join(parts)})")
    lines = [f"def {function}(pose):"]
    said = " or ".join(", ".join(map(str, (i for i in g if isinstance(i, Condition)))) for g in behaviour.groups)
    if said.strip(", or"):
        lines.append(f'    """{said[:1].upper()}{said[1:]}."""')
    lines.append(f"    mask = {groups[0]}" if len(groups) == 1 else f"    mask = pose.either({', '.join(groups)})")
    if behaviour.smooth > 1:
        lines.append(f"    mask = pose.smooth(mask, {behaviour.smooth})")
    least = [f"{behaviour.least_frames}"] if behaviour.least_frames else []
    if behaviour.least_seconds:
        least.append(f"int(np.ceil({behaviour.least_seconds:g} * pose.fps - 1e-9))")
    if least:
        lines.append(f"    mask = pose.lasting(mask, {least[0] if len(least) == 1 else f'max({chr(44).join(least)})'})")
    lines.append("    return mask")
    imports = "import numpy as np\n\n\n" if behaviour.least_seconds else ""
    return imports + "\n".join(lines) + "\n"


def _function(table: SymbolTable, place: Place) -> str:
    """The function's name of a version; earlier ones carry their number."""
    program = table.at(place).program
    if program is not None and program.creator != "rules":
        return program.name
    name = function_name(place[0])
    return name if place == table.current(place[0]) else f"{name}_v{table.at(place).number}"
