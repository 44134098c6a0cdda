"""Keypoints over time and what is measured on them.

Stands alone (numpy only): the sandbox's worker loads this file by its path, so that a program's `pose` is the same
class as the library's.

Legend: T frames, A animals, K keypoints. Pixels; y grows downwards as in a video frame. A point that was not seen is
NaN, and so is every measure that needs it; a comparison with NaN is False.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
_FRONT = r"nose|snout|beak|rostrum|mouth"
_BACK = r"neck|nape|head_?(?:base|back|mid)|mid_?head|ears?_?mid|mouse_?center|center|centre|spine_?1|back_?1"
_CHUNK = 4096  # frames whose pairwise distances are held at once


@dataclass(frozen=True, eq=False)
class Pose:
    """A pose track.

    Args:
        xy: [T, A, K, 2] pixels, NaN where a keypoint was not seen.
        animals: A names.
        keypoints: K names.
        fps: frames a second.
        head: names of a keypoint at the front of the head and of one behind it; () finds them by their usual names,
            with the middle of both ears in place of a missing second one.
    """

    xy: F64
    animals: Any
    keypoints: Any
    fps: float = 30.0
    head: Any = ()

    def __post_init__(self) -> None:
        xy = np.asarray(self.xy, np.float64)
        object.__setattr__(self, "xy", xy)
        for name in ("animals", "keypoints", "head"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if xy.ndim != 4 or xy.shape[3] != 2:
            raise ValueError(f"xy must have the shape [frames, animals, keypoints, 2], not {list(xy.shape)}")
        if xy.shape[1:3] != (len(self.animals), len(self.keypoints)) or not xy.shape[1] or not xy.shape[2]:
            raise ValueError(f"{len(self.animals)} animals, {len(self.keypoints)} keypoints and xy {list(xy.shape)}")
        if len(set(self.animals)) < len(self.animals) or len(set(self.keypoints)) < len(self.keypoints):
            raise ValueError("animals and keypoints must have names of their own")
        if not self.fps > 0:
            raise ValueError(f"fps must be above 0, not {self.fps}")
        if self.head and (len(self.head) != 2 or not set(self.head) <= set(self.keypoints)):
            raise ValueError(f"head must name two of the keypoints {', '.join(self.keypoints)}")

    def __len__(self) -> int:
        return len(self.xy)

    @property
    def seconds(self) -> float:
        """Length of the track."""
        return len(self) / self.fps

    def point(self, keypoint: str) -> F64:
        """[T, A, 2] of one keypoint."""
        if keypoint not in self.keypoints:
            raise ValueError(f"there is no keypoint {keypoint!r}; those there are: {', '.join(self.keypoints)}")
        return self.xy[:, :, self.keypoints.index(keypoint)]

    def center(self) -> F64:
        """[T, A, 2] mean of the keypoints that were seen."""
        seen = np.isfinite(self.xy).all(3, keepdims=True)
        count = seen.sum(2)
        total = np.where(seen, self.xy, 0.0).sum(2)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def velocity(self) -> F64:
        """[T, A, 2] of the center in pixels a frame, by central differences."""
        return _rate(self.center())

    def speed(self) -> F64:
        """[T, A] of the center in pixels a frame."""
        found: F64 = np.linalg.norm(self.velocity(), axis=2)
        return found

    def acceleration(self) -> F64:
        """[T, A] change of speed in pixels a frame, each frame."""
        return _rate(self.speed())

    def turning(self) -> F64:
        """[T, A] degrees a frame by which the head's direction changes, without sign."""
        ahead = self.heading()
        angle = np.arctan2(ahead[..., 1], ahead[..., 0])
        if len(angle) < 2:
            return np.zeros_like(angle)
        step = np.abs((np.diff(angle, axis=0) + np.pi) % (2 * np.pi) - np.pi)
        found: F64 = np.degrees(np.concatenate([step[:1], step]))
        return found

    def distance(self) -> F64:
        """[T, A, A] between centers; NaN of an animal with itself."""
        center = self.center()
        found = np.linalg.norm(center[:, :, None] - center[:, None], axis=3)
        return self._of_two(found)

    def closest_distance(self) -> F64:
        """[T, A, A] between the nearest two keypoints of two animals; NaN of an animal with itself."""
        count = len(self.animals)
        found = np.full((len(self), count, count), np.nan)
        for one in range(count):
            for other in range(one + 1, count):
                for start in range(0, len(self), _CHUNK):
                    part = slice(start, start + _CHUNK)
                    gap = self.xy[part, one, :, None] - self.xy[part, other, None]
                    every = np.sqrt((gap**2).sum(3)).reshape(len(gap), -1)
                    nearest = np.where(np.isnan(every), np.inf, every).min(1)
                    found[part, one, other] = found[part, other, one] = np.where(np.isinf(nearest), np.nan, nearest)
        return found

    def heading(self) -> F64:
        """[T, A, 2] unit vectors from the back of the head to its front."""
        front, back = self._head()
        ahead = front - back
        length = np.linalg.norm(ahead, axis=2, keepdims=True)
        return np.where(length > 0, ahead / np.where(length > 0, length, 1.0), np.nan)

    def head_angle(self) -> F64:
        """[T, A, A] degrees, 0 to 180, between where the first animal's head points and where the second one is.

        Measured at the front of the head, to the other's center.
        """
        front, _ = self._head()
        to_other = self.center()[:, None] - front[:, :, None]
        length = np.linalg.norm(to_other, axis=3)
        along = (to_other * self.heading()[:, :, None]).sum(3)
        cosine = np.where(length > 0, along / np.where(length > 0, length, 1.0), np.nan)
        return self._of_two(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

    def of_actor(self, values: NDArray[Any]) -> NDArray[Any]:
        """[T, A] as [T, A, A]: the first animal's value for every pair."""
        return np.repeat(values[:, :, None], values.shape[1], axis=2)

    def of_other(self, values: NDArray[Any]) -> NDArray[Any]:
        """[T, A] as [T, A, A]: the second animal's value for every pair."""
        return np.repeat(values[:, None, :], values.shape[1], axis=1)

    def every(self, *masks: NDArray[Any]) -> Mask:
        """Where all hold. Masks are [T], [T, A] or [T, A, A]; the smaller ones are taken for the first animal."""
        return self._joined(np.logical_and.reduce, masks)

    def either(self, *masks: NDArray[Any]) -> Mask:
        """Where any holds; shapes as `every`."""
        return self._joined(np.logical_or.reduce, masks)

    def without(self, mask: NDArray[Any]) -> Mask:
        """Where it does not hold, also where it cannot be told; never of an animal with itself."""
        turned = ~np.asarray(mask, np.bool_)
        if turned.ndim == 3:
            same = np.arange(len(self.animals))
            turned[:, same, same] = False
        return turned

    def smooth(self, mask: NDArray[Any], window: int) -> Mask:
        """Majority over `window` frames around each one; windows are cut at the ends of the track."""
        return smoothed(np.asarray(mask, np.bool_), window)

    def lasting(self, mask: NDArray[Any], frames: int) -> Mask:
        """Without the runs that are shorter than so many frames."""
        return lasting(np.asarray(mask, np.bool_), frames)

    def _joined(self, join: Any, masks: Any) -> Mask:
        rank = max(np.ndim(mask) for mask in masks)
        count = len(self.animals)
        lifted = []
        for mask in masks:
            mask = np.asarray(mask, np.bool_)
            if mask.ndim < rank:
                mask = mask.reshape(*mask.shape, *[1] * (rank - mask.ndim))
                mask = np.broadcast_to(mask, (len(mask), *[count] * (rank - 1))).copy()
                if rank == 3:
                    mask[:, np.arange(count), np.arange(count)] = False
            lifted.append(mask)
        found: Mask = join(lifted)
        return found

    def _head(self) -> tuple[F64, F64]:
        if self.head:
            return self.point(self.head[0]), self.point(self.head[1])
        front = next((k for k in self.keypoints if re.fullmatch(_FRONT, k.lower())), None)
        front = front or next((k for k in self.keypoints if re.search(_FRONT, k.lower())), None)
        back = next((k for k in self.keypoints if re.fullmatch(_BACK, k.lower())), None)
        ears = [k for k in self.keypoints if re.search(r"(?:^|_)ear|ear(?:_|$)", k.lower())]
        if front is None or (back is None and len(ears) < 2):
            raise ValueError(
                f"the head cannot be found among the keypoints {', '.join(self.keypoints)}; name a point at its front"
                " and one behind it: head=('nose', 'neck')"
            )
        if back is not None:
            return self.point(front), self.point(back)
        return self.point(front), (self.point(ears[0]) + self.point(ears[1])) / 2

    def _of_two(self, values: F64) -> F64:
        same = np.arange(len(self.animals))
        values[:, same, same] = np.nan
        return values


def _rate(values: F64) -> F64:
    """Change a frame, by central differences; 0 of a single frame."""
    found: F64 = np.gradient(values, axis=0) if len(values) > 1 else np.zeros_like(values)
    return found


def smoothed(mask: Mask, window: int) -> Mask:
    """[T, ...] majority over a window of frames; ties keep what the frame was."""
    if window < 2 or not len(mask):
        return mask
    before = (window - 1) // 2
    total = np.concatenate([np.zeros((1, *mask.shape[1:]), np.int64), np.cumsum(mask, axis=0, dtype=np.int64)])
    frames = np.arange(len(mask))
    start, stop = np.maximum(frames - before, 0), np.minimum(frames - before + window, len(mask))
    twice = 2 * (total[stop] - total[start])
    size = (stop - start).reshape(-1, *[1] * (mask.ndim - 1))
    return np.where(twice == size, mask, twice > size)


def runs(mask: Mask) -> list[tuple[int, int]]:
    """[T] -> (first frame, frame after the last) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def lasting(mask: Mask, frames: int) -> Mask:
    """[T, ...] without the runs that are shorter than so many frames."""
    if frames < 2 or not len(mask):
        return mask
    flat = mask.reshape(len(mask), -1).copy()
    for column in flat.T:
        for start, stop in runs(column):
            if stop - start < frames:
                column[start:stop] = False
    return flat.reshape(mask.shape)
