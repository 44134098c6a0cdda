"""The report card: the same items for all, differences in pairs, reasons, a page that stands alone."""

from __future__ import annotations

import json
import re

import pytest

from memspan.cli.main import main
from memspan.core.errors import InputError, ModelError
from memspan.probes.card import sit_all
from memspan.probes.episodic import Episodic
from memspan.probes.needle_threading import NeedleThreading
from memspan.probes.page import page
from memspan.probes.subjects import Guesser, Oracle

EXAMS = {"episodic": Episodic, "needle-threading": lambda: NeedleThreading(tasks=("single", "multiple"))}


class Mute(Oracle):
    """Writes nothing but text, and holds some bytes."""

    name, forms = "mute <b>", ("text",)

    def write(self, item):
        return ""

    def held(self):
        from memspan.core.footprint import Footprint

        return Footprint.of("store", "ram", 1_000)


def missing():
    raise InputError("no conversations were named")


def test_subjects_side_by_side(tmp_path):
    card = sit_all({**EXAMS, "locomo": missing}, [Oracle, Guesser, Mute], n=6, out=tmp_path)
    assert card.subjects == ("oracle", "guesser", "mute <b>")
    assert len(card.reports) == 6
    assert [(one.exam, one.subject) for one in card.refusals] == [("locomo", "")]
    ids = [[item.id for item in report.items] for report in card.reports if report.exam == "episodic"]
    assert ids[0] == ids[1] == ids[2]
    gap = next(one for one in card.differences() if (one.exam, one.subject) == ("needle-threading", "mute <b>"))
    assert (gap.value, gap.low, gap.high) == (-1, -1, -1)
    json.dumps(card.to_json())
    again = sit_all({**EXAMS, "locomo": missing}, [Oracle, Guesser, Mute], n=6, out=tmp_path)
    assert [report.score for report in again.reports] == [report.score for report in card.reports]


def test_what_a_subject_cannot_sit_is_listed():
    card = sit_all(EXAMS, [Oracle, Mute], n=2, lengths=(600,), form="likelihood")
    assert [(one.exam, one.subject) for one in card.refusals] == [
        ("episodic", "mute <b>"),
        ("needle-threading", "mute <b>"),
    ]
    assert "can answer by text" in card.refusals[0].reason
    with pytest.raises(InputError, match="called the same"):
        sit_all(EXAMS, [Oracle, Oracle], n=2)
    with pytest.raises(InputError, match="at least one exam"):
        sit_all({}, [Oracle])


def test_the_page_stands_alone():
    text = page(sit_all({**EXAMS, "locomo": missing}, [Oracle, Guesser, Mute], n=6))
    assert "prefers-color-scheme: dark" in text
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|<script|<img|@import|url\(", text)
    assert "mute &lt;b&gt;" in text
    assert "mute <b>" not in text
    assert "no conversations were named" in text
    assert text.count("<svg") >= 4  # scores, lengths of both exams, bytes
    for tag in ("table", "section", "svg", "figure", "td"):
        assert len(re.findall(rf"<{tag}[ >]", text)) == text.count(f"</{tag}>")


def test_a_silent_endpoint_ends_it_and_another_run_goes_on(tmp_path):
    class Falls(Oracle):
        asked, after = 0, 9

        def write(self, item):
            Falls.asked += 1
            if Falls.asked == Falls.after:
                raise ModelError("no answer from the endpoint")
            return super().write(item)

    with pytest.raises(ModelError):
        sit_all(EXAMS, [Falls], n=4, out=tmp_path)
    Falls.after = 0
    assert [report.score for report in sit_all(EXAMS, [Falls], n=4, out=tmp_path).reports] == [1, 1]
    assert Falls.asked == 1 + 2 * 2 * 4
    with pytest.raises(InputError, match="another seed"):
        sit_all(EXAMS, [Falls], n=4, seed=1, out=tmp_path)


def test_from_the_command_line(tmp_path, capsys):
    words = ["probe", "all", "--n", "2", "--length", "600", "--out", str(tmp_path), "--form", "text"]
    assert main([*words, "--subject", "oracle", "--subject", "guesser", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["subjects"] == ["oracle", "guesser"]
    assert {"episodic", "needle-threading", "locomo"} <= set(said["exams"])
    assert {one["exam"] for one in said["refusals"]} >= {"locomo", "beam", "longmemeval"}
    assert {"card.html", "card.json"} <= {path.name for path in tmp_path.iterdir()}
    assert main([*words, "--subject", "oracle", "--subject", "guesser"]) == 0
    assert "not sat:" in capsys.readouterr().out
    assert main([*words, "--subject", "memory:heap"]) == 2
    assert "heap" in capsys.readouterr().err
    assert main([*words, "--option", "steps=2"]) == 2
    assert "belong to one exam" in capsys.readouterr().err
