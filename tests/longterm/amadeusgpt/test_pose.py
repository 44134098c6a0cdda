"""Pose tracks: DeepLabCut's layout, measures, smoothing, and the track that is made by code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memspan import InputError
from memspan.longterm.amadeusgpt import demo_pose, make_pose, read_pose, synthetic_track, write_pose
from memspan.longterm.amadeusgpt.kinematics import lasting, runs, smoothed
from memspan.longterm.amadeusgpt.pose import filled

ONE = """scorer,net,net,net,net,net,net
bodyparts,nose,nose,nose,neck,neck,neck
coords,x,y,likelihood,x,y,likelihood
0,0,0,1,0,10,0.9
1,3,4,0.99,0,10,0.2
2,6,8,0.95,0,12,0.9
"""


def test_one_animal(tmp_path):
    path = tmp_path / "one.csv"
    path.write_text(ONE)
    pose = read_pose(path, fps=10)
    assert pose.animals == ("animal",) and pose.keypoints == ("nose", "neck") and pose.xy.shape == (3, 1, 2, 2)
    assert pose.xy[1, 0, 1].tolist() == [0, 11]  # a short gap is filled along a straight line
    assert np.isnan(read_pose(path, max_gap=0).xy[1, 0, 1]).all()
    assert pose.seconds == 0.3 and len(pose) == 3


def test_several_animals_round_trip(tmp_path):
    made = synthetic_track(3, frames=40)
    path = tmp_path / "many.csv"
    write_pose(path, made.pose, made.likelihood)
    assert path.read_text().splitlines()[1].startswith("individuals,mouse1,mouse1")
    back = read_pose(path, min_likelihood=0, max_gap=0)
    assert back.animals == made.pose.animals and back.keypoints == made.pose.keypoints
    assert np.allclose(back.xy, made.pose.xy, atol=1e-3)
    hidden = read_pose(path, min_likelihood=0.6, max_gap=0)
    assert np.array_equal(np.isnan(hidden.xy[..., 0]), np.round(made.likelihood, 3) < 0.6)
    write_pose(path, hidden)
    assert np.array_equal(np.isnan(read_pose(path, max_gap=0).xy), np.isnan(hidden.xy))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "not in DeepLabCut's layout.*'a', '1'"),
        ("", "start with nothing"),
        (ONE.replace("3,4,0.99", "3,four,0.99"), "line 5, column 3: 'four' is not a number"),
        (ONE.replace("2,6,8,0.95,0,12,0.9", "2,6,8"), "line 6: 3 columns, and the header has 7"),
        ("\n".join(ONE.splitlines()[:4]), "holds 1 frames"),
        (ONE.replace("x,y,likelihood,x", "x,y,z,x"), "coords must be x, y or likelihood, not 'z'"),
        (ONE.replace("nose,nose,nose,neck", "nose,nose,nose,nose"), "twice|missing"),
        (ONE.replace("coords,x,y,likelihood,x,y", "coords,x,y,likelihood,x,x"), "twice"),
        (ONE.replace("0.99", "0.1").replace("0.95", "0.1").replace(",1,0", ",0.1,0").replace("0.9", "0.1"), "no point"),
    ],
)
def test_files_that_are_no_track(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_pose(path)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_pose(tmp_path / "x.h5")
    with pytest.raises(InputError, match="cannot read"):
        read_pose(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot write"):
        write_pose(tmp_path / "no" / "x.csv", demo_pose())
    with pytest.raises(InputError, match="min_likelihood"):
        read_pose(tmp_path / "none.csv", min_likelihood=2)


@pytest.mark.parametrize(
    ("shape", "animals", "keypoints", "options"),
    [
        ((3, 1, 2), ("a",), ("b", "c"), {}),
        ((3, 1, 2, 2), ("a", "b"), ("b", "c"), {}),
        ((3, 2, 2, 2), ("a", "a"), ("b", "c"), {}),
        ((3, 1, 2, 2), ("a",), ("b", "c"), {"fps": 0}),
        ((3, 1, 2, 2), ("a",), ("b", "c"), {"head": ("b", "z")}),
    ],
)
def test_arrays_that_are_no_track(shape, animals, keypoints, options):
    with pytest.raises(InputError, match="no pose track"):
        make_pose(np.zeros(shape), animals, keypoints, **options)


def two(front: tuple[float, float], other: tuple[float, float], frames: int = 4):
    """One animal at the origin that looks along x, another at a point, both moving by (3, 4) a frame."""
    xy = np.zeros((frames, 2, 2, 2))
    xy[:, 0, 0], xy[:, 0, 1] = front, (0, 0)
    xy[:, 1] = other
    xy += np.arange(frames)[:, None, None, None] * np.array([3.0, 4.0])
    return make_pose(xy, ("a", "b"), ("nose", "neck"))


def test_measures_of_known_places():
    pose = two((10, 0), (50, 0))
    assert np.allclose(pose.speed(), 5) and np.allclose(pose.acceleration(), 0) and np.allclose(pose.turning()[:, 0], 0)
    assert pose.closest_distance()[0, 0, 1] == 40 and pose.distance()[0, 0, 1] == 45
    assert np.isnan(pose.closest_distance()[:, [0, 1], [0, 1]]).all()
    assert pose.head_angle()[0, 0, 1] == 0 and two((10, 0), (10, 7)).head_angle()[0, 0, 1] == pytest.approx(90)
    assert two((10, 0), (-9, 0)).head_angle()[0, 0, 1] == pytest.approx(180)
    assert np.isnan(pose.head_angle()[0, 1, 0])  # b's nose and neck are one point


def test_the_head_is_found_by_usual_names_or_named():
    xy = np.random.default_rng(0).normal(size=(5, 1, 3, 2))
    ears = make_pose(xy, ("a",), ("snout", "left_ear", "right_ear"))
    assert np.allclose(ears.heading()[0, 0], _unit(xy[0, 0, 0] - xy[0, 0, 1:].mean(0)))
    with pytest.raises(ValueError, match="the head cannot be found"):
        make_pose(xy, ("a",), ("p", "q", "r")).heading()
    named = make_pose(xy, ("a",), ("p", "q", "r"), head=("q", "r"))
    assert np.allclose(named.heading()[0, 0], _unit(xy[0, 0, 1] - xy[0, 0, 2]))
    with pytest.raises(ValueError, match="no keypoint 'z'"):
        named.point("z")


def _unit(v):
    return v / np.linalg.norm(v)


def test_masks_of_different_shapes_are_joined():
    pose = make_pose(np.random.default_rng(0).normal(size=(6, 3, 2, 2)), tuple("abc"), ("nose", "neck"))
    one, alone = pose.speed() > 0, np.arange(6) > 2
    pair = pose.closest_distance() < np.inf
    joined = pose.every(pair, one, alone)
    assert joined.shape == (6, 3, 3) and joined[3, 0, 1] and not joined[2].any()
    assert not pose.either(pair, alone)[:, [0, 1, 2], [0, 1, 2]].any()
    assert not pose.without(~pair)[:, [0, 1, 2], [0, 1, 2]].any()
    assert pose.of_other(pose.speed())[0, 0, 1] == pose.speed()[0, 1]


@given(hnp.arrays(bool, st.integers(1, 40)), st.integers(1, 12))
def test_smoothing_is_the_majority_of_the_window(mask, window):
    got = smoothed(mask, window)
    before = (window - 1) // 2
    for frame, value in enumerate(mask):
        part = mask[max(0, frame - before) : max(0, frame - before + window)] if frame >= before else None
        part = mask[max(0, frame - before) : frame - before + window] if part is None else part
        share = part.mean()
        assert got[frame] == (value if share == 0.5 else share > 0.5)


@given(hnp.arrays(bool, st.integers(0, 40)), st.integers(1, 8))
def test_runs_cover_the_mask_and_short_ones_go(mask, least):
    spans = runs(mask)
    assert sum(stop - start for start, stop in spans) == mask.sum()
    kept = lasting(mask, least)
    assert runs(kept) == [span for span in spans if span[1] - span[0] >= least]


@given(hnp.arrays(float, (20, 1), elements=st.one_of(st.floats(-9, 9), st.just(np.nan))), st.integers(0, 6))
def test_filling_keeps_what_was_seen_and_invents_no_ends(values, gap):
    got = filled(values, gap)
    seen = np.isfinite(values)
    assert np.array_equal(got[seen], values[seen])
    for start, stop in runs(~seen[:, 0]):
        inside = start > 0 and stop < len(values)
        assert np.isfinite(got[start:stop]).all() == (inside and stop - start <= gap)


def test_the_made_track_is_plausible_and_the_same_every_time():
    made, again = synthetic_track(5, frames=900), synthetic_track(5, frames=900)
    assert np.array_equal(made.pose.xy, again.pose.xy) and made.script == again.script
    assert not np.array_equal(made.pose.xy, synthetic_track(6, frames=900).pose.xy)
    seen = np.where(made.likelihood[..., None] < 0.6, np.nan, made.pose.xy)
    pose = make_pose(seen, made.pose.animals, made.pose.keypoints)
    assert np.nanmin(seen) > -10 and np.nanmax(seen[..., 0]) < 810 and np.nanmax(seen[..., 1]) < 610
    assert np.nanpercentile(pose.speed(), 99) < 15 and 0.005 < (made.likelihood < 0.6).mean() < 0.05
    spine = np.linalg.norm(pose.point("neck") - pose.point("spine"), axis=2)
    assert abs(np.nanmean(spine) - 21) < 1 and np.nanstd(spine) < 2
    for bad in ({"frames": 1}, {"fps": 0}):
        with pytest.raises(InputError):
            synthetic_track(**bad)


def test_the_package_ships_code_and_no_track():
    import memspan.longterm.amadeusgpt as package

    files = [p for p in Path(package.__file__).parent.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    assert all(p.suffix == ".py" for p in files)
