"""Exams of recorded conversations: marks, cuts to a length, options, one store a conversation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memspan.cli.main import main
from memspan.core.errors import InputError
from memspan.longterm.examined import StoreSubject
from memspan.longterm.readers.questions import load
from memspan.probes.grading import DECLINED
from memspan.probes.recorded import Beam, Locomo, LongMemEval
from memspan.probes.run import run
from memspan.probes.subjects import Guesser, Oracle, Undated

THINGS = ("kayak", "tandem", "telescope", "loom", "anvil", "sextant", "harmonium", "wheelbarrow")


def write(folder: Path) -> Path:
    """Two conversations in LoCoMo's layout, of eight sessions with 12 turns each, 18 questions on each."""
    samples = []
    for name, (one, other) in {"a": ("Ida", "Ole"), "b": ("Uma", "Per")}.items():
        talk, asked = {"speaker_a": one, "speaker_b": other}, []
        for number, thing in enumerate(THINGS, 1):
            turns = [
                {
                    "speaker": (one, other)[i % 2],
                    "dia_id": f"D{number}:{i}",
                    "text": f"The weather of day {number}.{i}.",
                }
                for i in range(1, 13)
            ]
            turns[number]["text"] = f"I repaired the {thing} at last, in workshop {name}{number}."
            talk[f"session_{number}_date_time"] = f"1:56 pm on {number} May, 2023"
            talk[f"session_{number}"] = turns
            said = [f"D{number}:{number + 1}"]
            who = turns[number]["speaker"]
            question = f"In which workshop did {who} repair the {thing}?"
            asked.append({"question": question, "answer": f"workshop {name}{number}", "evidence": said, "category": 4})
            adverse = {"question": f"Who stole the {thing}?", "evidence": said, "category": 5}
            asked.append({**adverse, "adversarial_answer": f"workshop {name}{number}"})
        for first in (0, 4):
            found = [f"D{n}:{n + 1}" for n in (first + 1, first + 2)]
            right = f"the {THINGS[first]}, the {THINGS[first + 1]}"
            asked.append({"question": "What was repaired first?", "answer": right, "evidence": found, "category": 1})
        samples.append({"sample_id": name, "conversation": talk, "qa": asked})
    path = folder / "locomo.json"
    path.write_text(json.dumps(samples))
    (folder / "audit_errors.json").write_text(json.dumps([{"sample_id": "a", "qa_index": 0}]))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def exam(data):
    return Locomo(conversations=load(data, unanswerable=True)[0].conversations)


def test_whole_conversations_and_their_questions(exam):
    items = exam.items(1_000, 0, 0, exam.estimate)
    assert len(items) == 36
    assert [item.group["conversation"] for item in items] == ["a"] * 18 + ["b"] * 18
    assert len({item.context for item in items}) == 2
    assert all(item.turns is items[0].turns for item in items[:18])
    assert "[1 May 2023]\nOle: The weather of day 1.1." in items[0].context
    for item in items:
        options = [option.strip() for option in item.choices[0].options]
        assert len(set(options)) == 4
        assert options[item.choices[0].declines] == DECLINED
        assert (item.choices[0].right == item.choices[0].declines) == (item.group["task"] == "adversarial")
    tempted = next(item for item in items if item.group["task"] == "adversarial")
    number = tempted.evidence[0].rpartition("D")[2].partition(":")[0]
    assert f" workshop a{number}" in tempted.choices[0].options


def test_fewer_questions_by_lot_and_by_kind(data, exam):
    some = exam.items(7, 0, 1, exam.estimate)
    assert (some, len(some)) == (exam.items(7, 0, 1, exam.estimate), 7)
    assert [item.id for item in some] != [item.id for item in exam.items(7, 0, 2, exam.estimate)]
    talks = load(data, unanswerable=True)[0].conversations
    only = Locomo(conversations=talks, tasks="multi-hop")
    assert {item.group["task"] for item in only.items(99, 0, 0, only.estimate)} == {"multi-hop"}
    sound = Locomo(conversations=talks, audited=False)
    assert len(sound.items(99, 0, 0, sound.estimate)) == 35


def test_cuts_hold_the_evidence_in_its_place(exam):
    for item in exam.items(99, 200, 0, exam.estimate):
        assert 100 < item.group["tokens"] <= 200
        shown = [turn.id for turn in item.turns]
        assert set(item.evidence) <= set(shown)
        whole = [turn.id for turn in exam.items(99, 0, 0, exam.estimate)[-1 if item.id[0] == "b" else 0].turns]
        assert shown == [name for name in whole if name in set(shown)]
    with pytest.raises(InputError, match="hold the evidence of no question"):
        exam.items(5, 8, 0, exam.estimate)


@pytest.mark.parametrize("form", ["text", "likelihood"])
def test_an_oracle_is_right_and_a_guesser_is_by_chance(exam, form):
    assert run(exam, Oracle(exam), n=99, lengths=(0,), form=form).score == 1
    if form == "likelihood":
        guessed = [run(exam, Guesser(exam, seed), n=99, lengths=(0,), form=form).score for seed in range(20)]
        assert sum(guessed) / len(guessed) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(
    ("task", "said", "score"),
    [
        ("multi-hop", "the tandem, a kayak", 1),
        ("multi-hop", "kayaks", 0.5),
        ("single-hop", "workshop a1", 1),
        ("single-hop", "in workshop a1, I think", 2 * (2 / 5) / (7 / 5)),
        ("single-hop", "not mentioned", 0),
        ("adversarial", "not mentioned", 1),
        ("adversarial", "workshop a1", 0),
    ],
)
def test_answers_are_marked(exam, task, said, score):
    item = next(item for item in exam.items(99, 0, 0, exam.estimate) if item.group["task"] == task)
    assert exam.grade(item, said).score == pytest.approx(score)


def test_what_stands_beside_the_score(exam):
    item = next(item for item in exam.items(99, 0, 0, exam.estimate) if item.group["task"] == "single-hop")
    more = exam.grade(item, f"Ida: “I repaired it in {item.answer['right']}.” [1]").more
    assert more == {"match": 1.0, "covered": 1.0, "declined": 0.0}
    assert exam.grade(item, "I do not know").more["declined"] == 1


def test_a_store_reads_each_conversation_once(exam, monkeypatch):
    from memspan.longterm.memory import Memory

    added, real = [], Memory.add
    monkeypatch.setattr(Memory, "add", lambda self, episodes: added.append(len(episodes)) or real(self, episodes))
    report = run(exam, StoreSubject("plain", embedder=None), n=99, lengths=(0,), form="text")
    assert added == [96, 96]
    found = report.figures()
    assert found["recall@5"].n == 36
    assert found["covered"].n == 20  # what can be answered
    rows = {row["task"]: row for row in report.table()}
    named = [item.more["recall@5"] for item in report.items if item.group["task"] == "single-hop"]
    assert sum(named) / len(named) >= 0.9
    assert set(rows) == {"single-hop", "multi-hop", "adversarial"}
    dates = StoreSubject("plain", embedder=None)
    run(exam, Undated(dates), n=2, lengths=(0,), form="text")


def test_other_layouts(tmp_path):
    chat = {"chat_id": "7", "messages": [
        {"id": 1, "batch": 1, "role": "user", "time_anchor": "March-15-2024",
         "content": "First the login, then the tests."},
        {"id": 2, "batch": 1, "role": "assistant", "content": "Noted."}]}  # fmt: skip
    asked = [
        {"qid": "a", "chat_id": "7", "ability": "event_ordering", "question": "In which order?",
         "answer": "First the login, then the tests.", "evidence": [1],
         "rubric": ["LLM response should mention: login, of users", "LLM response should mention: tests"]},
        {"qid": "b", "chat_id": "7", "ability": "abstention", "question": "Who?", "answer": "There is no information.",
         "evidence": [], "rubric": []},
    ]  # fmt: skip
    (tmp_path / "chats.jsonl").write_text(json.dumps(chat) + "\n")
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    exam = Beam(conversations=load(tmp_path, unanswerable=True)[0].conversations)
    assert run(exam, Oracle(exam), n=9, lengths=(0,), form="text").score == 1
    first = exam.items(9, 0, 0, exam.estimate)[0]
    assert exam.grade(first, "tests\nlogin of users").score == 1
    assert exam.grade(first, "tests").more["covered"] == pytest.approx(0.5)
    with pytest.raises(InputError, match="none of the kinds song; there are: abstention, event_ordering"):
        Beam(conversations=load(tmp_path, unanswerable=True)[0].conversations, tasks="song").items(1, 0, 0, len)
    with pytest.raises(InputError, match="--data longmemeval"):
        LongMemEval().items(1, 0, 0, len)


def test_a_cut_holds_the_sessions_where_no_turns_are_named(tmp_path):
    names = [f"s{number}" for number in range(8)]
    talk = [[{"role": "user", "content": f"The code of gate {name} is {name}-{'x' * 40}."}] for name in names]
    haystack = {
        "question_id": "q", "question_type": "multi-session", "question": "What is the code of gate s5?",
        "answer": "s5-x", "answer_session_ids": ["s5"], "haystack_session_ids": names, "haystack_sessions": talk,
        "haystack_dates": [f"2023/05/0{number + 1} (Mon) 10:00" for number in range(8)],
    }  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps([haystack]))
    exam = LongMemEval(conversations=load(tmp_path, unanswerable=True)[0].conversations)
    for seed in range(5):
        (item,) = exam.items(1, 60, seed, exam.estimate)
        assert len(item.turns) < 8
        assert "q/s5" in {turn.session for turn in item.turns}


# --- the command line ------------------------------------------------------------------------------------------------


def test_from_the_command_line(data, capsys):
    assert main(["probe", "locomo", "--data", str(data), "--subject", "oracle", "--n", "9", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["exam"], said["n"], said["score"], said["lengths"]) == ("locomo", 9, 1.0, [0])
    words = ["probe", "locomo", "--data", str(data.parent), "--subject", "guesser", "--n", "9", "--length", "0.3k"]
    assert main(words) == 0
    assert "covered" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["locomo"], "name their file with --data"),
        (["beam", "--data", "{data}"], "no such layout"),
        (["locomo", "--data", "absent.json"], "is not there"),
        (["episodic", "--data", "{data}"], "takes no --data"),
        (["locomo", "--data", "{data}", "--option", "options=1"], "choose from 3 to 10"),
        (["episodic", "--subject", "oracle", "--subject", "guesser"], "sit side by side"),
    ],
)
def test_unusable_input_is_said(words, message, data, capsys):
    assert main(["probe", *(word.format(data=data) for word in words)]) == 2
    assert message in capsys.readouterr().err
