"""A pose track made by code: three mice in an arena, with chases and watching by script, for tests and first steps.

Every mouse is a body that follows its nose: the head steers towards a goal with bounded speed, acceleration and turning
rate, the rest of the body trails along the path, and walls and bodies push away. What is tracked has noise of half a
pixel, and now and then a keypoint is lost for some frames, with a likelihood that says so. Nothing was filmed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import InputError
from memspan.longterm.amadeusgpt.kinematics import F64, Pose
from memspan.longterm.amadeusgpt.pose import make_pose

ANIMALS = ("mouse1", "mouse2", "mouse3")
KEYPOINTS = ("nose", "left_ear", "right_ear", "neck", "spine", "left_hip", "right_hip", "tail_base", "tail_end")
ARENA = (800.0, 600.0)
_WALL = 45.0  # pixels from a wall at which a mouse turns away
_BODY = 62.0  # from nose to tail base
_LAG = {"neck": 17.0, "spine": 38.0, "tail_base": _BODY, "tail_end": _BODY + 46.0}  # pixels behind the nose
_WIDTH = {"left_ear": (13.0, -8.0), "right_ear": (13.0, 8.0), "left_hip": (50.0, -11.0), "right_hip": (50.0, 11.0)}


@dataclass(frozen=True, slots=True)
class Scripted:
    """What the script lets a mouse do: "chase" or "watch" another one, from a frame up to another."""

    what: str
    actor: str
    other: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticTrack:
    """A track and how it came about.

    Attributes:
        pose: as a tracker would see it, with lost points.
        likelihood: [T, A, K].
        script: what the mice were made to do. The beginning of a chase is the way to the other one.
    """

    pose: Pose
    likelihood: F64
    script: tuple[Scripted, ...]


def synthetic_track(seed: int = 0, *, frames: int = 1800, fps: float = 30.0) -> SyntheticTrack:
    """Three mice; the same for the same arguments.

    Raises:
        InputError: fewer than 2 frames, or no frame rate.
    """
    if frames < 2 or not fps > 0:
        raise InputError("a track needs at least 2 frames and a frame rate above 0")
    rng = np.random.default_rng(seed)
    script = _script(rng, frames)
    nose, heading = _paths(rng, frames, script)
    clean = np.stack([_body(nose[:, a], heading[:, a]) for a in range(len(ANIMALS))], axis=1)
    xy = clean + rng.normal(0, 0.5, clean.shape)
    likelihood = rng.beta(40, 1.2, xy.shape[:3])
    for animal in range(len(ANIMALS)):
        for keypoint in range(len(KEYPOINTS)):
            for start in np.flatnonzero(rng.random(frames) < 1 / 400):
                stop = start + 1 + int(rng.integers(1, 9))
                likelihood[start:stop, animal, keypoint] = rng.uniform(0.01, 0.4)
                xy[start:stop, animal, keypoint] += rng.normal(0, 12, (len(xy[start:stop]), 2))
    return SyntheticTrack(make_pose(xy, ANIMALS, KEYPOINTS, fps=fps), likelihood, tuple(script))


def demo_pose(*, fps: float = 30.0) -> Pose:
    """The track that `memspan behave demo` reads: lost points are gaps, and short gaps are filled."""
    from memspan.longterm.amadeusgpt.pose import filled

    made = synthetic_track(fps=fps)
    xy = made.pose.xy.copy()
    xy[made.likelihood < 0.6] = np.nan
    return make_pose(filled(xy, 5), ANIMALS, KEYPOINTS, fps=fps)


def _script(rng: np.random.Generator, frames: int) -> list[Scripted]:
    """One thing at a time, with pauses between."""
    script: list[Scripted] = []
    at = int(rng.integers(60, 120))
    while True:
        what = ("chase", "watch")[len(script) % 2]
        length = int(rng.integers(70, 150)) if what == "chase" else int(rng.integers(60, 120))
        if at + length > frames - 20:
            return script
        actor, other = (ANIMALS[i] for i in rng.permutation(len(ANIMALS))[:2])
        script.append(Scripted(what, actor, other, at, at + length))
        at += length + int(rng.integers(40, 110))


def _paths(rng: np.random.Generator, frames: int, script: list[Scripted]) -> tuple[F64, F64]:
    """[T, A, 2] noses and [T, A] directions of the heads, in radians."""
    count = len(ANIMALS)
    nose, heading = np.zeros((frames, count, 2)), np.zeros((frames, count))
    place = np.array([[200.0, 180.0], [600.0, 200.0], [400.0, 450.0]]) + rng.uniform(-60, 60, (count, 2))
    angle = rng.uniform(-np.pi, np.pi, count)
    speed, drift, pace = np.zeros(count), np.zeros(count), rng.uniform(0.2, 3.0, count)
    calls: dict[int, list[Scripted]] = {}
    for entry in script:
        for frame in range(entry.start, entry.stop):
            calls.setdefault(frame, []).append(entry)
    for frame in range(frames):
        # Mice go in bouts: each keeps a pace for a second or so, often none.
        change = rng.random(count) < 1 / 35
        pace = np.where(change, np.where(rng.random(count) < 0.35, 0.05, rng.gamma(3.0, 1.0, count)), pace)
        drift = 0.92 * drift + rng.normal(0, 0.014, count)
        wish, turn = pace.copy(), drift.copy()
        for entry in calls.get(frame, ()):
            actor, other = ANIMALS.index(entry.actor), ANIMALS.index(entry.other)
            gap = place[other] - _BODY * 0.6 * _unit(angle[other]) - place[actor]
            bearing = _turned(np.arctan2(gap[1], gap[0]) - angle[actor])
            reach = float(np.hypot(*gap))
            turn[actor] = 0.35 * bearing
            if entry.what == "chase":
                wish[actor] = min(11.0, 1.5 + 0.14 * reach) * max(0.15, np.cos(bearing))
                wish[other] = 4.2 if reach < 160 else max(wish[other], 1.5)
            else:
                # It goes nearer until it can see well, then stands and keeps its head on the other one.
                wish[actor] = 4.5 * max(0.1, np.cos(bearing)) if reach > 190 else 0.03
                wish[other] = min(wish[other], 1.2)
        for animal in range(count):
            turn[animal] += _away(place, angle, animal)
        speed += np.clip(wish - speed, -0.9, 0.7)
        # A turning head slows the body, and nothing turns by more than 12 degrees a frame.
        angle = angle + np.clip(turn, -0.21, 0.21)
        step = np.maximum(speed, 0.0)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        place = np.clip(place + step, 8.0, np.array(ARENA) - 8.0)
        nose[frame], heading[frame] = place, angle
    return nose, heading


def _away(place: F64, angle: F64, animal: int) -> float:
    """Radians to turn away from walls and from bodies that are very near."""
    ahead = place[animal] + 28.0 * _unit(angle[animal])
    push = np.zeros(2)
    for axis, size in enumerate(ARENA):
        push[axis] += max(0.0, (_WALL - ahead[axis]) / _WALL) - max(0.0, (ahead[axis] - size + _WALL) / _WALL)
    for other in range(len(place)):
        gap = place[animal] - place[other]
        reach = float(np.hypot(*gap))
        if other != animal and 0 < reach < 22:
            push += gap / reach * (22 - reach) / 22
    size = float(np.hypot(*push))
    if size < 1e-9:
        return 0.0
    return float(min(0.6, size) * 0.4 * np.sign(_turned(np.arctan2(push[1], push[0]) - angle[animal]) or 1.0))


def _body(nose: F64, heading: F64) -> F64:
    """[T, K, 2]: the head points ahead, the spine follows like a rope that is drawn behind it."""
    points = {"nose": nose}
    ahead = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    aside = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    points["neck"] = nose - _LAG["neck"] * ahead
    for name, front in (("spine", "neck"), ("tail_base", "spine"), ("tail_end", "tail_base")):
        points[name] = _drawn(points[front], _LAG[name] - _LAG[front], -ahead[0])
    for name, (back, width) in _WIDTH.items():
        if "ear" in name:
            points[name] = nose - back * ahead + width * aside
            continue
        along = _rows_unit(points["spine"] - points["tail_base"])
        across = np.stack([-along[:, 1], along[:, 0]], axis=1)
        points[name] = points["tail_base"] + (_BODY - back) * along + width * across
    return np.stack([points[name] for name in KEYPOINTS], axis=1)


def _drawn(front: F64, length: float, behind: F64) -> F64:
    """[T, 2] the end of a stick of this length whose other end is drawn along `front`."""
    end = np.empty_like(front)
    last = front[0] + length * behind
    for frame, point in enumerate(front):
        gap = last - point
        last = point + gap / max(float(np.hypot(*gap)), 1e-9) * length
        end[frame] = last
    return end


def _rows_unit(rows: F64) -> F64:
    found: F64 = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return found


def _unit(angle: float) -> NDArray[np.float64]:
    return np.array([np.cos(angle), np.sin(angle)])


def _turned(angle: float) -> float:
    """The same direction between -pi and pi."""
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
