"""Questions about behaviour: what to look for, in whom, and what of it is asked; the answer with a table of events."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from memspan.core.errors import InputError
from memspan.longterm.amadeusgpt.behaviour import Behaviour, Condition, evaluate, read_behaviour, read_text
from memspan.longterm.amadeusgpt.grammar import Parsed
from memspan.longterm.amadeusgpt.kinematics import Mask, Pose, runs
from memspan.longterm.amadeusgpt.programs import Program
from memspan.longterm.amadeusgpt.sandbox import Sandbox
from memspan.longterm.amadeusgpt.symbols import SymbolMemory
from memspan.longterm.amadeusgpt.table import Place, SymbolTable
from memspan.longterm.passages import term_hashes

_KINDS = (
    ("longest", r"\blongest\b"),
    ("count", r"\bhow many\b|\bhow often\b|\bnumber of\b|\bcount\b"),
    ("share", r"\bfraction\b|\bshare\b|\bper ?cent(?:age)?\b|\bproportion\b|%"),
    ("duration", r"\bhow long\b|\bhow much time\b|\btotal (?:time|duration)\b|\bduration\b"),
    ("times", r"\bwhen\b|\bwhat times?\b|\bwhich frames?\b|\bfirst\b|\blast\b"),
    ("who", r"\bwho(?:m|se)?\b|\bwhich (?:animal|mouse|one|pair)\b"),
)
_ASKS_WHO = re.compile(r"\s*(?:who\b|which (?:animal|mouse|one)\b)(?!.*\bby\b)", re.IGNORECASE)
_LISTED = 8


@dataclass(frozen=True, slots=True)
class Event:
    """One stretch of frames in which a behaviour holds.

    Attributes:
        actor: the animal that does it, "" of the whole scene.
        other: the one that it is done to, "" where there is none.
        start, stop: first frame, and the frame after the last.
    """

    actor: str
    other: str
    start: int
    stop: int

    @property
    def frames(self) -> int:
        """Its length."""
        return self.stop - self.start

    @property
    def who(self) -> str:
        """Both animals with an arrow between, or the one."""
        return f"{self.actor} → {self.other}" if self.other else self.actor or "scene"

    def to_json(self, fps: float) -> dict[str, Any]:
        """Frames, seconds and animals."""
        return {
            "actor": self.actor or None,
            "other": self.other or None,
            "start_frame": self.start,
            "stop_frame": self.stop,
            "start_s": round(self.start / fps, 3),
            "stop_s": round(self.stop / fps, 3),
            "seconds": round(self.frames / fps, 3),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answer to a question about behaviour.

    Attributes:
        question: as it was asked.
        kind: what was asked: "count", "duration", "share", "longest", "times", "who" or "events".
        text: the answer as a sentence.
        value: the number that was asked for, None of "times", "who" and "events".
        unit: of the value.
        events: the events, by time.
        behaviour: what was looked for.
        said: the same in words.
        mask: [T], [T, A] or [T, A, A] where it holds, for the animals that were asked about.
        symbols: the versions it rests on, as (name, number, episode).
        notes: what a reader should know.
    """

    question: str
    kind: str
    text: str
    value: float | None
    unit: str
    events: tuple[Event, ...]
    behaviour: Behaviour
    said: str
    mask: Mask = field(repr=False)
    symbols: tuple[tuple[str, int, str], ...]
    notes: tuple[str, ...]

    def to_json(self, pose: Pose) -> dict[str, Any]:
        """All but the mask, as JSON types."""
        return {
            "question": self.question,
            "kind": self.kind,
            "text": self.text,
            "value": self.value,
            "unit": self.unit,
            "said": self.said,
            "events": [event.to_json(pose.fps) for event in self.events],
            "symbols": [
                {"name": name, "version": version, "episode": episode} for name, version, episode in self.symbols
            ],
            "frames": len(pose),
            "fps": pose.fps,
            "notes": list(self.notes),
        }


def ask_behaviour(
    symbols: SymbolMemory,
    pose: Pose,
    question: str,
    *,
    allow_code: bool = False,
    sandbox: Sandbox | None = None,
) -> Found:
    """Answer a question about behaviour in a pose track.

    Args:
        symbols: the definitions that the question may name.
        pose: the track.
        question: with symbols ("How often does mouse1 <chases> mouse2?"), conditions ("When is speed > 8?"), or both.
        allow_code: stored programs may run, in the sandbox.
        sandbox: with limits of your own.

    Raises:
        InputError: nothing to look for was found in the question, or a name in it is not defined.
        CodeNotAllowedError, ProgramError, SandboxError, CycleError: see `SymbolMemory.call`.
    """
    if not isinstance(question, str) or not question.strip():
        raise InputError("the question is empty")
    table, notes = symbols.table, []
    parsed = symbols.parse(question)
    if parsed.unresolved:
        symbols.known(parsed.unresolved[0])
    behaviour = read_text(parsed.text, table)
    if behaviour is None or not behaviour.uses:
        worded = _worded(parsed.text, table)
        if worded is not None and (behaviour is None or worded not in [used.place[0] for used in behaviour.uses]):
            name = table.symbols[worded].name
            notes.append(f"no symbol is named in the question; read as <{name}>")
            rest = f"<{name}>" if behaviour is None else f"{parsed.text} <{name}>"
            behaviour = read_text(rest, table)
    if behaviour is None:
        known = ", ".join(f"<{name}>" for name in symbols) or "none yet"
        raise InputError(
            f"the question names no symbol and no condition such as 'speed > 2'; symbols that are defined: {known}"
        )
    behaviour = _named(behaviour, table)

    def run(program: Program, helpers: Sequence[Program]) -> Any:
        return (sandbox or Sandbox()).run(program, pose, helpers=helpers, allow_code=allow_code).value

    mask = evaluate(table, behaviour, pose, run)
    actor, other = _animals(parsed, pose)
    if actor and not other and not parsed.references and _ASKS_WHO.match(parsed.text):
        actor, other = "", actor
    mask = _only(mask, pose, actor, other)
    pages = table.closure_of([(used.place, "") for used in behaviour.uses])
    for text in dict.fromkeys((*behaviour.unread, *(u for p in pages for u in _unread_of(table, p.place)))):
        notes.append(f"not understood, and left out: {text!r}")
    events = events_of(mask, pose)
    kind = next((kind for kind, pattern in _KINDS if re.search(pattern, question, re.IGNORECASE)), "events")
    told, value, unit = _answer(kind, events, pose, actor, other)
    unseen = float(1 - _seen(pose))
    if unseen > 0.05:
        notes.append(f"{unseen:.0%} of the points were not seen; there the behaviour counts as absent")
    return Found(
        question=question,
        kind=kind,
        text=told,
        value=value,
        unit=unit,
        events=tuple(events),
        behaviour=behaviour,
        said=said(behaviour, table),
        mask=mask,
        symbols=tuple((p.definition.name, p.definition.number, p.definition.episode) for p in pages),
        notes=tuple(notes),
    )


def _named(behaviour: Behaviour, table: SymbolTable) -> Behaviour:
    """With a name, and without what is unread: a question has words that are no conditions."""
    name = " ".join(table.at(used.place).name for used in behaviour.uses) or "question"
    return replace(behaviour, name=name, unread=())


def _unread_of(table: SymbolTable, place: Place) -> tuple[str, ...]:
    try:
        return read_behaviour(table, place).unread
    except InputError:
        return ()


def _seen(pose: Pose) -> float:
    return float(np.isfinite(pose.xy).all(3).mean())


def _worded(text: str, table: SymbolTable) -> str | None:
    """The only symbol whose name's stems all stand in the text."""
    words = set(term_hashes(text).tolist())
    stems = {key: set(term_hashes(key.replace("_", " ").replace("-", " ")).tolist()) for key in table.symbols}
    found = [key for key, own in stems.items() if own and own <= words]
    most = max((len(stems[key]) for key in found), default=0)
    best = [key for key in found if len(stems[key]) == most]
    return best[0] if len(best) == 1 else None


def _animals(parsed: Parsed, pose: Pose) -> tuple[str, str]:
    """The animals that a question names: who does it, and to whom; "" is any."""
    text = parsed.text
    found: list[tuple[int, str]] = []
    for name in pose.animals:
        shape = r"[\s_-]*".join(re.escape(part) for part in re.findall(r"[A-Za-z]+|\d+|[^A-Za-z\d\s_-]+", name))
        found += [(match.start(), name) for match in re.finditer(rf"(?<!\w){shape}(?!\w)", text, re.IGNORECASE)]
    found.sort()
    names = list(dict.fromkeys(name for _, name in found))
    if not names:
        return "", ""
    by = re.search(r"\bby\s+(?:the\s+)?$", text[: found[0][0]], re.IGNORECASE)
    if len(names) > 1:
        last_by = re.search(r"\bby\s+(?:the\s+)?$", text[: next(at for at, n in found if n == names[1])], re.IGNORECASE)
        return (names[1], names[0]) if last_by else (names[0], names[1])
    first = min((mark.start for mark in parsed.marks), default=None)
    if first is not None and found[0][0] > first and not by:
        return "", names[0]
    return names[0], ""


def _only(mask: Mask, pose: Pose, actor: str, other: str) -> Mask:
    """The mask for the animals that were asked about; the rest is False.

    Raises:
        InputError: the behaviour is of fewer animals than were named.
    """
    if (actor or other) and mask.ndim == 1:
        raise InputError("this program tells of the whole scene, so no animal can be asked about")
    if mask.ndim == 2 and actor and other:
        raise InputError("this behaviour is one animal's own; ask about one of the two")
    if mask.ndim == 2 and other:
        actor, other = other, ""
    kept = mask.copy()
    for name, axis in ((actor, 1), (other, 2)):
        if name:
            others = [place for place, animal in enumerate(pose.animals) if animal != name]
            view = np.moveaxis(kept, axis, 0)
            view[others] = False
    return kept


def events_of(mask: Mask, pose: Pose) -> list[Event]:
    """Every run of a mask as an event, by time."""
    names = pose.animals
    if mask.ndim == 1:
        found = [Event("", "", start, stop) for start, stop in runs(mask)]
    elif mask.ndim == 2:
        found = [Event(names[a], "", *run) for a in range(len(names)) for run in runs(mask[:, a])]
    else:
        pairs = [(a, b) for a in range(len(names)) for b in range(len(names))]
        found = [Event(names[a], names[b], *run) for a, b in pairs for run in runs(mask[:, a, b])]
    return sorted(found, key=lambda event: (event.start, event.who))


def said(behaviour: Behaviour, table: SymbolTable) -> str:
    """A behaviour in words."""
    if behaviour.program is not None:
        return f"the program {behaviour.program.signature}"
    groups = []
    for group in behaviour.groups:
        parts = [
            str(item)
            if isinstance(item, Condition)
            else ("not " if item.negated else "") + f"<{table.at(item.place).name}>"
            for item in group
        ]
        groups.append(" and ".join(parts))
    text = " or ".join(groups)
    if behaviour.smooth > 1:
        text += f", smoothed over {behaviour.smooth} frames"
    if behaviour.least_frames:
        text += f", for at least {behaviour.least_frames} frames"
    if behaviour.least_seconds:
        text += f", for at least {behaviour.least_seconds:g} s"
    return text


def _answer(kind: str, events: list[Event], pose: Pose, actor: str, other: str) -> tuple[str, float | None, str]:
    total = sum(event.frames for event in events) / pose.fps
    noun = "event" if len(events) == 1 else "events"
    by_pair: dict[str, list[Event]] = {}
    for event in events:
        by_pair.setdefault(event.who, []).append(event)
    who = f" for {actor}{f' → {other}' if other else ''}" if actor else f" for any → {other}" if other else ""
    if not events:
        empty: dict[str, tuple[float, str]] = {
            "count": (0, "events"),
            "duration": (0.0, "s"),
            "share": (0.0, "of the time"),
            "longest": (0.0, "s"),
        }
        value, unit = empty.get(kind, (None, ""))
        return f"It does not occur{who} in {pose.seconds:.1f} s.", value, unit
    spans = ", ".join(f"{e.start / pose.fps:.1f}–{e.stop / pose.fps:.1f} s ({e.who})" for e in events[:_LISTED])
    more = f", and {len(events) - _LISTED} more" if len(events) > _LISTED else ""
    if kind == "count":
        return f"{len(events)} {noun}{who}, {total:.1f} s in all.", len(events), "events"
    if kind == "duration":
        each = "; ".join(f"{w} {sum(e.frames for e in es) / pose.fps:.1f} s" for w, es in by_pair.items())
        return f"{total:.1f} s{who} in {len(events)} {noun} ({each}).", total, "s"
    if kind == "share":
        share = total / pose.seconds
        summed = " summed over the pairs" if len(by_pair) > 1 else ""
        return f"{share:.1%} of {pose.seconds:.1f} s{who}{summed}.", share, "of the time"
    if kind == "longest":
        longest = max(events, key=lambda event: event.frames)
        span = f"{longest.start / pose.fps:.1f} to {longest.stop / pose.fps:.1f} s"
        return f"{longest.frames / pose.fps:.2f} s, {longest.who}, from {span}.", longest.frames / pose.fps, "s"
    if kind == "who":
        ranked = sorted(by_pair.items(), key=lambda pair: -sum(event.frames for event in pair[1]))
        each = "; ".join(f"{w} {len(es)} times, {sum(e.frames for e in es) / pose.fps:.1f} s" for w, es in ranked)
        return f"{each}.", None, ""
    return f"{spans}{more}.", None, ""
