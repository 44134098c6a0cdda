"""Questions of three layouts: ids of evidence, answers, what cannot be answered; damaged files are named."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from memspan.core.errors import InputError
from memspan.longterm.readers.questions import load

LOCOMO = [
    {
        "sample_id": "t1",
        "conversation": {
            "speaker_a": "Ida",
            "speaker_b": "Ole",
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Ida", "dia_id": "D1:1", "text": "I sold the boat."},
                {"speaker": "Ole", "dia_id": "D1:2", "text": "At last."},
            ],
        },
        "qa": [
            {"question": "What did Ida sell?", "answer": "the boat", "evidence": ["D1:1; D9:9"], "category": 4},
            {"question": "What did Ole sell?", "adversarial_answer": "the boat", "evidence": ["D:1:1"], "category": 5},
            {"question": "Why?", "answer": "no", "evidence": ["D7:1"], "category": 3},
        ],
    }
]
CHATS = [
    {
        "chat_id": "7",
        "messages": [
            {"id": 1, "batch": 1, "role": "user", "time_anchor": "March-15-2024", "content": "It ends on March 29."},
            {"id": 2, "batch": 1, "role": "assistant", "content": "Noted."},
        ],
    }
]
ASKED = [
    {"qid": "a", "chat_id": "7", "ability": "information_extraction", "question": "When does it end?",
     "answer": "On March 29.", "evidence": [1, 99], "rubric": ["LLM response should state: March 29"]},
    {"qid": "b", "chat_id": "7", "ability": "abstention", "question": "Who began it?", "answer": "not said",
     "evidence": [], "rubric": []},
]  # fmt: skip
HAYSTACK = {
    "question_id": "q1",
    "question_type": "multi-session",
    "question": "What did I lose?",
    "answer": 3,
    "question_date": "2023/05/20 (Sat) 02:21",
    "answer_session_ids": ["s1"],
    "haystack_session_ids": ["s1"],
    "haystack_dates": ["2023/05/01 (Mon) 10:00"],
    "haystack_sessions": [[{"role": "user", "content": "I lost 3 keys.", "has_answer": True}]],
}


def test_locomo(tmp_path):
    (tmp_path / "l.json").write_text(json.dumps(LOCOMO))
    (dataset,) = load(tmp_path)
    first, second = dataset.conversations[0].questions  # the third is left with no evidence
    assert (first.answer, first.evidence, first.unanswerable) == ("the boat", ("D1:1",), False)
    assert (second.answer, second.evidence, second.unanswerable) == ("", ("D1:1",), True)
    assert load(tmp_path / "l.json")[0].conversations[0].questions == [first, second]


def test_beam(tmp_path):
    for name, rows in (("chats", CHATS), ("questions", ASKED)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (dataset,) = load(tmp_path, unanswerable=True)
    first, second = dataset.conversations[0].questions
    assert (first.evidence, first.parts) == (("1",), ("March 29",))
    assert (second.evidence, second.unanswerable) == ((), True)
    assert len(load(tmp_path / "chats.jsonl")[0].conversations[0].questions) == 1


def test_longmemeval(tmp_path):
    away = {**HAYSTACK, "question_id": "q2_abs"}
    (tmp_path / "m.json").write_text(json.dumps([HAYSTACK, away]))
    first, second = (talk.questions for talk in load(tmp_path, unanswerable=True)[0].conversations)
    assert (first[0].answer, first[0].evidence) == ("3", ("q1/s1_1",))
    assert first[0].asked_at == datetime(2023, 5, 20, 2, 21, tzinfo=UTC)
    assert (second[0].evidence, second[0].unanswerable, second[0].category) == ((), True, "abstention")
    assert [len(talk.questions) for talk in load(tmp_path)[0].conversations] == [1, 0]


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no dataset in"):
        load(tmp_path)
    with pytest.raises(InputError, match="is not there"):
        load(tmp_path / "absent")
    (tmp_path / "l.json").write_text(json.dumps([{**LOCOMO[0], "qa": [{"question": "What?"}]}]))
    with pytest.raises(InputError, match="not as its layout has it"):
        load(tmp_path)
