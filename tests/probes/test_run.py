"""Runs: intervals, reports, going on after a stop, and refusals."""

from __future__ import annotations

import json
import random

import pytest

from memspan.cli.main import main
from memspan.core.errors import InputError, ModelError
from memspan.models import load_language_model
from memspan.probes.needle_threading import NeedleThreading
from memspan.probes.plot import plot
from memspan.probes.run import run
from memspan.probes.statistics import difference, interval, wilson
from memspan.probes.subjects import ModelSubject, Oracle, Shuffled
from tests.word_model import make_word_model


def test_wilson_intervals_are_the_published_ones():
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson(0, 0) == (0, 1)


def test_intervals_cover_the_mean_as_often_as_they_say():
    chance = random.Random(0)
    covered = 0
    for _ in range(300):
        scores = [chance.choice((0, 0.5, 1)) for _ in range(60)]
        low, high = interval(scores)
        covered += low <= 0.5 <= high
    assert covered / 300 == pytest.approx(0.95, abs=0.04)


def test_a_paired_difference_sees_what_two_intervals_do_not():
    first = [0.1 * (i % 10) for i in range(50)]
    gap, low, high = difference([value + 0.05 for value in first], first)
    assert gap == pytest.approx(0.05)
    assert low > 0.04
    assert high < 0.06


class _Falls(Oracle):
    """An endpoint that falls silent after some items."""

    name = "falls"

    def __init__(self, exam, after):
        super().__init__(exam)
        self.asked, self._after = 0, after

    def write(self, item):
        if self.asked == self._after:
            raise ModelError("no answer from the endpoint")
        self.asked += 1
        return super().write(item)


def test_a_run_goes_on_from_the_last_answer(tmp_path):
    exam = NeedleThreading()
    first = _Falls(exam, 7)
    with pytest.raises(ModelError):
        run(exam, first, n=12, form="text", out=tmp_path)
    kept = next(tmp_path.glob("*.jsonl"))
    with kept.open("a") as file:
        file.write('{"id": "cut sho')  # by a kill
    second = _Falls(exam, 100)
    report = run(exam, second, n=12, form="text", out=tmp_path)
    assert (report.n, report.score, second.asked) == (12, 1.0, 5)
    with pytest.raises(InputError, match="another seed"):
        run(exam, second, n=12, form="text", seed=1, out=tmp_path)
    with pytest.raises(InputError, match="another items"):
        run(exam, second, n=13, form="text", out=tmp_path)


def test_reports_are_tables_and_pictures(tmp_path):
    exam = NeedleThreading()
    report = run(exam, Oracle(exam), n=12, lengths=(800, 1_600))
    table = report.table()
    assert len(table) == 12
    assert {(row["n"], row["score"]) for row in table} == {(2, 1.0)}
    for name in ("a.png", "b.svg"):
        plot(report, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1_000
    with pytest.raises(InputError, match="cannot be written"):
        plot(report, tmp_path / "absent" / "a.png")
    json.dumps(report.to_json())


def test_shuffled_pieces_are_the_same_pieces():
    exam = NeedleThreading()
    item = exam.items(1, 800, 0, exam.estimate)[0]
    seen = []

    class Spy(Oracle):
        def read(self, item):
            seen.append(item)

    shuffled = Shuffled(Spy(exam))
    shuffled.read(item)
    assert sorted(seen[0].pieces) == sorted(item.pieces)
    assert seen[0].pieces != item.pieces
    assert shuffled.name == "oracle, pieces shuffled"


def test_a_context_that_is_too_long_is_refused_not_cut(tmp_path):
    subject = ModelSubject(load_language_model(make_word_model(tmp_path, window=256), dtype="float32"))
    with pytest.raises(InputError, match="nothing is cut off silently"):
        run(NeedleThreading(tasks="single"), subject, n=1, lengths=(4_000,))


def test_a_form_that_is_not_there_is_refused():
    class Mute(Oracle):
        forms = ("text",)

    exam = NeedleThreading()
    with pytest.raises(InputError, match="can answer by text"):
        run(exam, Mute(exam), form="likelihood")
    with pytest.raises(InputError, match="choose one of"):
        run(exam, Oracle(exam), form="song")
    with pytest.raises(InputError, match="at least one item"):
        run(exam, Oracle(exam), n=0)


# --- the command line ------------------------------------------------------------------------------------------------


def test_an_exam_from_the_command_line(tmp_path, capsys):
    words = ["probe", "needle-threading", "--length", "400,0.8k", "--n", "6", "--out", str(tmp_path)]
    assert main([*words, "--subject", "oracle", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {"exam", "subject", "score", "interval", "n", "items"} <= set(said)
    assert (said["exam"], said["score"], said["n"], said["lengths"]) == ("needle-threading", 1.0, 12, [400, 800])
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".jsonl", ".png"}
    assert main([*words, "--subject", "guesser", "--form", "likelihood"]) == 0
    assert "chance is 25%" in capsys.readouterr().out
    folder = make_word_model(tmp_path / "model", window=4_096)
    assert main([*words[:2], "--subject", f"context:window@256KiB:{folder}", "--n", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["form"] == "likelihood"
    assert main([*words[:2], "--subject", "shuffled:memory:plain", "--n", "2", "--length", "400", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["estimated"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["needle-thread"], "did you mean needle-threading"),
        (["zep"], "zep is no exam"),
        (["needle-threading", "--length", "many"], "is no number of tokens"),
        (["needle-threading", "--subject", "memory:heap"], "heap"),
        (["needle-threading", "--subject", "context:heap"], "heap"),
        (["needle-threading", "--subject", "oracle", "--option", "depth=3"], "has no such option"),
        (["needle-threading", "--subject", "oracle", "--length", "20"], "at least 200 tokens"),
    ],
)
def test_unusable_input_is_said(words, message, capsys):
    assert main(["probe", *words]) == 2
    assert message in capsys.readouterr().err
