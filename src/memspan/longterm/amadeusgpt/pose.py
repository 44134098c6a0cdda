"""Pose tracks in DeepLabCut's CSV layout: reading, filling short gaps, writing.

One animal has three header rows (scorer, bodyparts, coords), several animals have four (scorer, individuals, bodyparts,
coords). The first column is the frame; each keypoint has x, y and likelihood.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import InputError
from memspan.longterm.amadeusgpt.kinematics import F64, Pose

_COORDS = ("x", "y", "likelihood")
_ONE = "animal"
"""Name of the only animal where the file names none."""


def make_pose(
    xy: NDArray[Any],
    animals: Sequence[str],
    keypoints: Sequence[str],
    *,
    fps: float = 30.0,
    head: Sequence[str] = (),
) -> Pose:
    """A pose track from arrays; see `Pose` for the arguments.

    Raises:
        InputError: shapes and names do not fit.
    """
    try:
        return Pose(xy, tuple(animals), tuple(keypoints), fps, tuple(head))
    except (ValueError, TypeError) as error:
        raise InputError(f"this is no pose track: {error}") from None


def read_pose(
    path: str | Path,
    *,
    fps: float = 30.0,
    min_likelihood: float = 0.6,
    max_gap: int = 5,
    head: Sequence[str] = (),
) -> Pose:
    """A pose track from a DeepLabCut CSV file.

    Args:
        path: the file.
        fps: frames a second; the layout does not hold it.
        min_likelihood: points below it count as not seen.
        max_gap: unseen stretches of at most so many frames between seen ones are filled along a straight line.
        head: see `Pose`.

    Raises:
        InputError: the file is not in this layout; the message names line and column.
    """
    if not 0 <= min_likelihood <= 1 or max_gap < 0:
        raise InputError("min_likelihood must lie between 0 and 1, max_gap must not be negative")
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; export the track as CSV (an .h5 file cannot be read)") from None
    except csv.Error as error:
        raise InputError(f"{path} is not CSV: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    header = {row[0].strip().lower(): row[1:] for row in rows[:4] if row}
    if "bodyparts" not in header or "coords" not in header:
        raise InputError(
            f"{path} is not in DeepLabCut's layout: its first rows must start with scorer, (individuals,) bodyparts,"
            f" coords, and start with {', '.join(repr(row[0][:20]) for row in rows[:4] if row) or 'nothing'}"
        )
    count = 4 if "individuals" in header else 3
    parts = [name.strip() for name in header["bodyparts"]]
    coords = [name.strip().lower() for name in header["coords"]]
    owners = [name.strip() for name in header.get("individuals", [_ONE] * len(parts))]
    if not parts or not len(parts) == len(coords) == len(owners):
        raise InputError(f"{path}: the header rows have {len(owners)}, {len(parts)} and {len(coords)} columns")
    animals, keypoints = list(dict.fromkeys(owners)), list(dict.fromkeys(parts))
    places: dict[tuple[int, int, str], int] = {}
    for column, (owner, part, coord) in enumerate(zip(owners, parts, coords, strict=True)):
        if coord not in _COORDS:
            raise InputError(f"{path}, column {column + 2}: coords must be x, y or likelihood, not {coord!r}")
        spot = (animals.index(owner), keypoints.index(part), coord)
        if spot in places:
            raise InputError(f"{path}, column {column + 2}: {coord} of {part} of {owner} is there twice")
        places[spot] = column
    values = _numbers(path, rows[count:], count, len(parts))
    xy = np.full((len(values), len(animals), len(keypoints), 2), np.nan)
    sure = np.ones(xy.shape[:3])
    for (animal, keypoint, coord), column in places.items():
        if coord == "likelihood":
            sure[:, animal, keypoint] = values[:, column]
        else:
            xy[:, animal, keypoint, _COORDS.index(coord)] = values[:, column]
    missing = [
        f"{keypoints[k]} of {animals[a]}"
        for a, k in {(a, k) for a, k, _ in places}
        if not {(a, k, "x"), (a, k, "y")} <= set(places)
    ]
    if missing:
        raise InputError(f"{path}: x or y is missing of {sorted(missing)[0]}")
    with np.errstate(invalid="ignore"):
        xy[~(sure >= min_likelihood)] = np.nan
    if not np.isfinite(xy).any():
        raise InputError(f"{path}: no point reaches the likelihood {min_likelihood:g}")
    return make_pose(filled(xy, max_gap), animals, keypoints, fps=fps, head=head)


def _numbers(path: Path, rows: Sequence[Sequence[str]], skipped: int, columns: int) -> F64:
    """[T, columns] of the rows below the header; an empty cell is NaN."""
    values = np.full((len(rows), columns), np.nan)
    kept = 0
    for number, row in enumerate(rows, start=skipped + 1):
        if not row or not any(cell.strip() for cell in row):
            continue
        if len(row) != columns + 1:
            raise InputError(f"{path}, line {number}: {len(row)} columns, and the header has {columns + 1}")
        for column, cell in enumerate(row[1:]):
            if not cell.strip():
                continue
            try:
                values[kept, column] = float(cell)
            except ValueError:
                raise InputError(f"{path}, line {number}, column {column + 2}: {cell!r} is not a number") from None
        kept += 1
    if kept < 2:
        raise InputError(f"{path} holds {kept} frames; a track needs at least 2")
    return values[:kept]


def filled(xy: F64, max_gap: int) -> F64:
    """[T, ...] with gaps of at most so many frames between two seen ones filled along a straight line."""
    flat = xy.reshape(len(xy), -1).copy()
    frames = np.arange(len(flat))
    for column in flat.T:
        seen = np.flatnonzero(np.isfinite(column))
        if len(seen) < 2:
            continue
        before = np.searchsorted(seen, frames, side="right") - 1
        inside = (before >= 0) & (before < len(seen) - 1) & ~np.isfinite(column)
        width = seen[np.minimum(before + 1, len(seen) - 1)] - seen[np.maximum(before, 0)] - 1
        short = inside & (width <= max_gap)
        column[short] = np.interp(frames[short], seen, column[seen])
    return flat.reshape(xy.shape)


def write_pose(
    path: str | Path, pose: Pose, likelihood: NDArray[Any] | None = None, *, scorer: str = "memspan"
) -> None:
    """Write a pose track in DeepLabCut's layout, with the row of individuals where there are several animals.

    Args:
        path: the file; one that is there is replaced.
        pose: the track; unseen points become empty cells.
        likelihood: [T, A, K]; None writes 1 for every point that was seen.
        scorer: what the first header row says.

    Raises:
        InputError: it cannot be written.
    """
    seen = np.isfinite(pose.xy).all(3)
    sure = seen.astype(float) if likelihood is None else np.asarray(likelihood, float)
    columns = [(a, k) for a in pose.animals for k in pose.keypoints]
    rows: list[list[Any]] = [["scorer", *[scorer] * (3 * len(columns))]]
    if len(pose.animals) > 1:
        rows.append(["individuals", *(a for a, _ in columns for _ in _COORDS)])
    rows.append(["bodyparts", *(k for _, k in columns for _ in _COORDS)])
    rows.append(["coords", *(list(_COORDS) * len(columns))])
    table = np.concatenate([pose.xy, sure[..., None]], axis=3).reshape(len(pose), -1)
    for frame, values in enumerate(table):
        rows.append([frame, *("" if np.isnan(value) else f"{value:.3f}" for value in values)])
    try:
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
