"""What another person said of themselves speaks against an answer."""

from __future__ import annotations

from memspan.longterm.base import Episode
from memspan.longterm.knowledge_survey import GroundedAnswerer
from memspan.longterm.memory import Memory

TALK = (
    ("Ann", "I bought a red kayak for the summer."),
    ("Bo", "Nice! I only have my old bicycle."),
    ("Ann", "We should go to the lake together."),
    ("Bo", "Sure, I will cycle there."),
)


def test_a_question_about_the_wrong_person_is_less_certain() -> None:
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add([Episode(text=text, speaker=speaker, session="s") for speaker, text in TALK])
        answerer = GroundedAnswerer(memory)
        right, wrong = (answerer._gather(f"What colour is the kayak that {name} bought?", {}) for name in ("Ann", "Bo"))
    assert right.features["of_another"] < 0 < wrong.features["of_another"]
    assert right.confidence > wrong.confidence + 0.2


def test_in_a_chat_only_an_open_question_for_a_fact_is_marked() -> None:
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add([Episode(text="My kayak course starts on 3 May.", session="s", metadata={"role": "user"})])
        answerer = GroundedAnswerer(memory)
        found = {
            question: answerer._gather(question, {}).features["chat_open"]
            for question in (
                "What was the mood like on my kayak course?",
                "When does my kayak course start?",
                "Can you help me prepare for my kayak course?",
            )
        }
    assert list(found.values()) == [1, 0, 0]
