"""Allocation problems as files: the CSV format of google/minimalloc, with the columns that the mapping game adds.

`id,lower,upper,size` are required; `alignment`, `gaps` ("3-5 8-9", times [from, until)) and `offset` are minimalloc's
too; `uses` ("0 3 8"), `benefit`, `alias` and `kind` are of memspan. Its older names of columns are read: `buffer` or
`buffer_id` for `id`, `start` or `begin` for `lower`, and `end` for an `upper` that is inclusive, in gaps too.
"""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from memspan.core.errors import InputError
from memspan.planner.allocator.problem import Buffer, Placement, Problem

REQUIRED = ("id", "lower", "upper", "size")
OPTIONAL = ("alignment", "gaps", "uses", "benefit", "alias", "kind", "offset")
_GAP = re.compile(r"(-?\d+)-(-?\d+)")
_NAMES = {"buffer": "id", "buffer_id": "id", "start": "lower", "begin": "lower", "end": "upper"}


def read_csv(path: str | Path) -> Problem:
    """The problem of a file, or of standard input for "-". A column `offset` is left to `read_placement`.

    Raises:
        InputError: the file cannot be read or is no such table; the message names the line.
    """
    return _read(path)[0]


def read_placement(path: str | Path) -> Placement:
    """The problem and the placement of a file with a column `offset`; not checked, see `Placement.check`.

    Raises:
        InputError: as `read_csv`, or an offset is missing.
    """
    problem, offsets = _read(path)
    if offsets is None:
        raise InputError(f"{path} has no column offset: it holds a problem, not a placement")
    return Placement(problem=problem, offsets=offsets, allocator=str(path))


def write_csv(path: str | Path, problem: Problem, placement: Placement | None = None) -> None:
    """Write a problem, or a placement of it, in a step that leaves no half file; "-" is standard output.

    Columns that say nothing (no alignment other than 1, no gaps, …) are left out.

    Raises:
        InputError: the file cannot be written.
    """
    if placement is not None and placement.problem is not problem and placement.problem != problem:
        raise InputError("the placement is of another problem")
    if str(path) == "-":
        _write(sys.stdout, problem, placement)
        return
    target = Path(path)
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        try:
            with draft.open("w", encoding="utf-8", newline="") as file:
                _write(file, problem, placement)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def _write(file: TextIO, problem: Problem, placement: Placement | None) -> None:
    said = {
        "alignment": any(buffer.alignment != 1 for buffer in problem.buffers),
        "gaps": any(buffer.gaps for buffer in problem.buffers),
        "uses": any(buffer.uses for buffer in problem.buffers),
        "benefit": any(buffer.benefit for buffer in problem.buffers),
        "alias": any(buffer.alias for buffer in problem.buffers),
        "kind": any(buffer.kind != "temporary" for buffer in problem.buffers),
        "offset": placement is not None,
    }
    columns = [*REQUIRED, *(name for name in OPTIONAL if said[name])]
    out = csv.writer(file, lineterminator="\n")
    out.writerow(columns)
    for i, buffer in enumerate(problem.buffers):
        row = {
            "id": buffer.id,
            "lower": buffer.lower,
            "upper": buffer.upper,
            "size": buffer.size,
            "alignment": buffer.alignment,
            "gaps": " ".join(f"{start}-{end}" for start, end in buffer.gaps),
            "uses": " ".join(map(str, buffer.uses)),
            "benefit": repr(buffer.benefit),
            "alias": buffer.alias,
            "kind": buffer.kind,
            "offset": placement.offsets[i] if placement is not None else "",
        }
        out.writerow([row[name] for name in columns])


def _read(path: str | Path) -> tuple[Problem, tuple[int, ...] | None]:
    name = "standard input" if str(path) == "-" else str(path)
    try:
        text = sys.stdin.read() if str(path) == "-" else Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no text in UTF-8: {error}") from error
    rows = csv.reader(text.splitlines())
    buffers: list[Buffer] = []
    offsets: list[int] = []
    columns: list[str] = []
    inclusive = 0
    seen: dict[str, int] = {}
    try:
        for row in rows:
            line = rows.line_num
            if not any(cell.strip() for cell in row):
                continue
            if not columns:
                given = [cell.strip().lower() for cell in row]
                inclusive = int("end" in given)
                columns = _columns([_NAMES.get(word, word) for word in given], name)
                continue
            if len(row) != len(columns):
                raise InputError(f"{name}, line {line}: {len(row)} cells for {len(columns)} columns")
            cells = {column: cell.strip() for column, cell in zip(columns, row, strict=True)}
            try:
                buffer = _buffer(cells, inclusive)
                if "offset" in cells:
                    offsets.append(_whole(cells, "offset"))
            except InputError as error:
                raise InputError(f"{name}, line {line}: {error}") from error
            if buffer.id in seen:
                raise InputError(f"{name}, line {line}: the id {buffer.id!r} stands in line {seen[buffer.id]} too")
            seen[buffer.id] = line
            buffers.append(buffer)
    except csv.Error as error:
        raise InputError(f"{name}, line {rows.line_num}: {error}") from error
    if not columns:
        raise InputError(f"{name} is empty; it needs a first line with the columns {', '.join(REQUIRED)}")
    if not buffers:
        raise InputError(f"{name} holds no buffer")
    problem = Problem(tuple(buffers), name=name if str(path) == "-" else Path(path).name)
    return problem, tuple(offsets) if "offset" in columns else None


def _columns(given: list[str], name: str) -> list[str]:
    missing = [word for word in REQUIRED if word not in given]
    if missing:
        raise InputError(f"{name} lacks the column {', '.join(missing)}; its first line is {','.join(given)[:200]!r}")
    twice = {word for word in given if given.count(word) > 1}
    if twice:
        raise InputError(f"{name} has the column {' and '.join(sorted(twice))} twice")
    unknown = [word for word in given if word not in (*REQUIRED, *OPTIONAL)]
    if unknown:
        raise InputError(
            f"{name} has the column {unknown[0]!r}, which is not known; there are {', '.join((*REQUIRED, *OPTIONAL))}"
        )
    return given


def _buffer(cells: Mapping[str, str], inclusive: int) -> Buffer:
    gaps = []
    for word in cells.get("gaps", "").split():
        if "@" in word:
            raise InputError(f"the gap {word!r} leaves a part of the buffer live, which is not supported")
        found = _GAP.fullmatch(word)
        if found is None:
            raise InputError(f"the gap {word!r} is not written as from-until")
        gaps.append((int(found[1]), int(found[2]) + inclusive))
    try:
        uses = tuple(int(word) for word in cells.get("uses", "").split())
        benefit = float(cells.get("benefit") or 0)
    except ValueError as error:
        raise InputError(f"uses are whole numbers with spaces between, benefit is a number: {error}") from None
    return Buffer(
        id=cells["id"],
        lower=_whole(cells, "lower"),
        upper=_whole(cells, "upper") + inclusive,
        size=_whole(cells, "size"),
        alignment=_whole(cells, "alignment") if cells.get("alignment") else 1,
        gaps=tuple(gaps),
        uses=uses,
        benefit=benefit,
        alias=cells.get("alias", ""),
        kind=cells.get("kind") or "temporary",
    )


def _whole(cells: Mapping[str, str], column: str) -> int:
    try:
        return int(cells[column])
    except ValueError:
        raise InputError(f"{column} is {cells[column]!r}; it must be a whole number") from None
