"""The shipped conversation and its questions are consistent."""

from __future__ import annotations

from memspan.data import conversation_path, questions
from memspan.longterm.readers import read_all


def test_the_conversation_is_long_and_dated():
    episodes = read_all([conversation_path()])
    assert len(episodes) >= 60
    assert len({episode.at.date() for episode in episodes if episode.at}) >= 8
    assert {episode.speaker for episode in episodes} == {"Nadia", "Tomas"}
    assert [e.at for e in episodes] == sorted(e.at for e in episodes if e.at)


def test_every_answer_stands_in_its_evidence():
    said = {
        episode.id: f"{episode.text} {episode.metadata.get('caption', '')}".lower()
        for episode in read_all([conversation_path()])
    }
    asked = questions()
    assert len(asked) == 25 and sum(question["answer"] is None for question in asked) == 5
    for question in asked:
        values = [question["answer"], *question["aliases"]]
        if question["answer"] is None:
            assert not question["evidence"]
            continue
        words = " ".join(said[uid] for uid in question["evidence"])
        assert any(value.lower() in words for value in values), question["id"]
