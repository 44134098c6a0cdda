"""Risk against coverage: the curve, its area, thresholds, and the questions that it is measured on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from memspan.core.errors import InputError, MissingExtraError
from memspan.longterm.base import Episode
from memspan.longterm.knowledge_survey import risk_coverage
from memspan.longterm.knowledge_survey.risk import KnownAnswer, measure, read_known_answers
from memspan.longterm.memory import Memory


def test_curve_by_hand() -> None:
    curve = risk_coverage([0.2, 0.9, 0.6, 0.4], [False, True, True, False], [False, True, True, True])
    assert curve.confidence.tolist() == [0.9, 0.6, 0.4, 0.2]
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert curve.aurc == pytest.approx((1 / 3 + 1 / 2) / 4)
    assert curve.auroc == 1.0
    assert curve.threshold(coverage=0.8) == 0.4
    assert curve.threshold(coverage=0.6) == 0.6
    assert curve.threshold(risk=0.0) == 0.6
    assert curve.threshold(risk=0.4) == 0.4
    assert (curve.answered(0.5), curve.refused(0.5), curve.risk_at(0.5)) == (pytest.approx(2 / 3), 1.0, 0.0)


def test_equal_confidences_are_a_coin() -> None:
    curve = risk_coverage([0.5] * 4, [True, True, False, False], [True, True, True, False])
    assert curve.risk == pytest.approx([0.5] * 4)
    assert curve.auroc == 0.5
    flipped = risk_coverage([0.5] * 4, [False, False, True, True], [False, True, True, True])
    assert flipped.aurc == curve.aurc


def test_a_threshold_keeps_what_it_promises() -> None:
    chance = np.random.default_rng(0)
    known = chance.random(500) < 0.7
    right = known & (chance.random(500) < 0.6)
    curve = risk_coverage(chance.random(500).round(2) + 0.3 * right, right, known)
    for share in (0.1, 0.5, 0.8, 1.0):
        assert curve.answered(curve.threshold(coverage=share)) >= share
        assert curve.answered(np.nextafter(curve.threshold(coverage=share), 2)) < share
        assert curve.risk_at(curve.threshold(risk=share)) <= share


def test_bad_input() -> None:
    with pytest.raises(InputError, match="as many"):
        risk_coverage([0.1], [])
    with pytest.raises(InputError, match="finite"):
        risk_coverage([float("nan")], [True])
    with pytest.raises(InputError, match="cannot answer"):
        risk_coverage([0.1], [True], [False])
    curve = risk_coverage([0.1], [False], [False])
    with pytest.raises(InputError, match="either"):
        curve.threshold()
    with pytest.raises(InputError, match="between 0 and 1"):
        curve.threshold(risk=2)
    with pytest.raises(InputError, match="there is none"):
        curve.threshold(coverage=0.5)
    assert curve.to_json()["auroc"] is None


def test_the_plot_is_an_image(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curve = risk_coverage([0.9, 0.2], [True, False])
    curve.plot(tmp_path / "curve.png", threshold=0.5)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="cannot write"):
        curve.plot(tmp_path / "missing" / "curve.png")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(MissingExtraError, match="plot"):
        risk_coverage([0.9], [True]).plot(tmp_path / "curve.png")


def test_questions_are_read_and_measured(tmp_path: Path) -> None:
    rows = [
        {"question": "Where did Ann move?", "answer": ["Lisbon", "Lisboa"], "evidence": ["a1"]},
        {"question": "Where did Ann move?", "answer": "Porto"},
        {"question": "How old is Bo's horse?", "answer": None},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    asked = read_known_answers(file)
    assert [one.answerable for one in asked] == [True, True, False]
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(Episode(text="I moved to Lisbon.", speaker="Ann", id="a1"))
        curve = measure(memory, asked)
        assert measure(memory, [KnownAnswer(question="Where did Ann move?", evidence=("a1",))]).right.all()
    assert int(curve.right.sum()) == 1
    assert int(curve.answerable.sum()) == 2
    assert curve.auroc == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no question"),
        ("{", "line 1: not JSON"),
        ('{"answer": "x"}', 'a "question"'),
        ('{"question": "x", "answer": 3}', "answer must be"),
        ('{"question": "x", "as_of": 3}', "as_of"),
    ],
)
def test_bad_questions(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_known_answers(file)
    with pytest.raises(InputError, match="cannot read"):
        read_known_answers(tmp_path / "missing.jsonl")
