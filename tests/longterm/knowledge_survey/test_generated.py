"""The made-up data says what its questions claim it says."""

from __future__ import annotations

from memspan.longterm.knowledge_survey.generated import conversation, encyclopedia, unanswerable


def test_paragraphs_hold_their_answers_and_edits() -> None:
    paragraphs = encyclopedia(0, 60)
    assert paragraphs == encyclopedia(0, 60)
    assert paragraphs != encyclopedia(1, 60)
    assert len({p.text for p in paragraphs}) == 60
    for paragraph in paragraphs:
        assert all(item.answer in paragraph.text for item in paragraph.items)
        assert paragraph.edited != paragraph.text
        assert paragraph.edited_item.question == paragraph.items[0].question
        assert paragraph.edited_item.answer in paragraph.edited
        assert paragraph.edited_item.answer != paragraph.items[0].answer


def test_unanswerable_questions_are_not_among_the_answered() -> None:
    paragraphs = encyclopedia(0, 60)
    asked = {item.question for p in paragraphs for item in p.items}
    items = unanswerable(paragraphs, 0)
    assert len(items) == 60
    assert not asked & {item.question for item in items}
    assert {item.kind for item in items} == {"no such attribute", "unknown thing"}


def test_conversations_hold_their_answers() -> None:
    for seed in range(5):
        made = conversation(seed)
        texts = {e.id: f"{e.text} {e.metadata.get('caption', '')}" for e in made.episodes}
        assert len(texts) == len(made.episodes)
        for item in made.answerable:
            assert item.answer
            assert item.answer.lower() in texts[item.evidence[0]].lower()
        assert not {i.question for i in made.answerable} & {i.question for i in made.unanswerable}
        assert [e.at for e in made.episodes] == sorted(e.at for e in made.episodes)  # type: ignore[type-var]
