"""What speaks for a sentence: its own words, what it replies to, and whom it is about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from memspan.longterm.base import Episode
from memspan.longterm.knowledge_survey import KnowledgeSurveyConfig
from memspan.longterm.knowledge_survey.evidence import Evidence, gather
from memspan.longterm.knowledge_survey.features import Lexicon, Said, Sentence, judge_form, judge_words, last_question
from memspan.longterm.knowledge_survey.kinds import form_of
from memspan.longterm.knowledge_survey.likeness import Likeness, content_words
from memspan.longterm.knowledge_survey.text import read_question
from memspan.longterm.memory import Memory
from tests.longterm.doubles import day

CHAT = (
    ("Ann", "The goat ate my hat again.", None),
    ("Bob", "Poor hat. What did you pay for it?", None),
    ("Ann", "Forty francs. I loved it.", None),
    ("Bob", "How is your cousin Rosa?", None),
    ("Ann", "She left for the coast to train as a diver.", None),
    ("Bob", "Look at my shed.", "a red shed with a broken door"),
    ("Ann", "We will paint ours tomorrow.", None),
)


def found(question: str) -> Evidence:
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(
            [
                Episode(
                    text=text,
                    speaker=speaker,
                    at=day(10),
                    session="s",
                    id=f"t{number}",
                    metadata={"caption": caption} if caption else {},
                )
                for number, (speaker, text, caption) in enumerate(CHAT)
            ]
        )
        return gather(memory, question, KnowledgeSurveyConfig(), {})


def sentence(evidence: Evidence, text: str) -> Sentence:
    return next(s for s in evidence.sentences if s.text == text)


def test_a_reply_is_judged_with_the_question_before_it() -> None:
    evidence = found("How much did Ann pay for the hat?")
    reply = sentence(evidence, "Forty francs.")
    assert reply.asked is not None
    assert last_question(reply.asked.text) == "What did you pay for it?"
    assert reply.features["own"] == 0
    assert reply.features["reply"] > 0.8, "pay and hat stand in the turn before"
    assert reply.features["number"] == 1
    assert evidence.sentences[0].episode == "t2"


def test_a_pronoun_stands_for_who_was_named_before() -> None:
    evidence = found("What is Rosa training to be?")
    about = sentence(evidence, "She left for the coast to train as a diver.").features
    assert about["about"] == pytest.approx(0.9)
    assert about["absent"] == 0
    far = sentence(evidence, "The goat ate my hat again.").features
    assert far["about"] == 0
    assert far["absent"] == 1
    assert evidence.sentences[0].episode == "t4"


def test_a_caption_is_a_sentence_of_its_turn() -> None:
    evidence = found("What colour is the shed in the photo?")
    caption = sentence(evidence, "a red shed with a broken door")
    assert caption.features["caption"] == 1
    assert (caption.episode, caption.caption) == ("t5", caption.text)


def test_what_is_still_to_come_is_marked_when_the_question_is_about_what_was() -> None:
    assert sentence(found("What did Ann paint?"), "We will paint ours tomorrow.").features["ahead"] == 1
    assert sentence(found("What will Ann paint?"), "We will paint ours tomorrow.").features["ahead"] == 0


def test_what_changed_is_the_answer_to_now_and_not_to_first() -> None:
    text = "She left for the coast to train as a diver."
    assert sentence(found("What does Rosa do now?"), text).features["change"] == 0
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(
            [
                Episode(text="The fair is on 3 May.", speaker="Ann", at=day(10), session="a", id="a"),
                Episode(text="The fair was moved to 5 May.", speaker="Ann", at=day(40), session="b", id="b"),
            ]
        )
        first = gather(memory, "When was the fair first planned?", KnowledgeSurveyConfig(), {})
        now = gather(memory, "When is the fair now?", KnowledgeSurveyConfig(), {})
    assert {s.episode: s.features["undone"] for s in first.sentences} == {"a": 0, "b": 1}
    assert {s.episode: s.features["change"] for s in now.sentences} == {"a": 0, "b": 1}
    assert first.sentences[0].episode == "a"
    assert now.sentences[0].episode == "b"


def test_likeness_is_the_cosine_of_the_likest_word() -> None:
    table = {"picked": (0.8, 0.6), "chose": (1.0, 0.0), "hat": (0.0, 1.0)}
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        asked.extend(texts)
        return np.array([table[text] for text in texts], np.float32)

    known: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
    likeness = Likeness(["chose"], ["I picked the hat"], embed, known)
    assert content_words("I picked the hat, the 2 hats") == ["picked", "hat", "hats"]
    assert likeness("chose", "I picked the hat") == pytest.approx(1.0)
    assert likeness("chose", "the hat") == 0
    assert likeness("chose", "never seen") == 0
    assert sorted(asked) == ["chose", "hat", "picked"]
    Likeness(["chose"], ["picked"], embed, known)
    assert len(asked) == 3, "known words are not embedded again"


def judged(question: str, text: str, *before: Said) -> Sentence:
    """A sentence of Ann after turns (the nearest first), judged by its words and its form."""
    read = read_question(question, ["Ann", "Ben"])
    made = Sentence("e", (0, len(text)), text, text, "Ann", None, 0, before=before)
    judge_words(read, Lexicon(read, dict.fromkeys(read.weights, 1.0)), made, alike=False)
    judge_form(read, form_of(question), made)
    return made


def test_a_question_tag_leaves_a_statement() -> None:
    assert judged("When do you sail?", "We sail on 3 May, will you come?").features["question"] < 0.5
    assert judged("When do you sail?", "Will you come on 3 May, or later?").features["question"] == 1


def test_an_elliptic_question_asks_about_the_turn_before_it() -> None:
    hurt = Said("I hurt my elbow on the stairs.", "Ann")
    short = judged("Which elbow did Ann hurt?", "The left one.", Said("Which one?", "Ben"), hurt)
    full = judged("Which elbow did Ann hurt?", "The left one.", Said("Which lamp do you prefer?", "Ben"), hurt)
    assert short.features["asked"] == 1
    assert full.features["asked"] == 0
    assert short.features["same"] > 0


def test_a_state_is_said_in_other_words() -> None:
    assert judged("Where does Ann live?", "I'm still in Porto, in the old flat.").features["own"] == pytest.approx(0.8)
    assert judged("Where does Ann live?", "I'm still in bed.").features["own"] == 0


def test_a_named_period_is_no_word_to_look_for() -> None:
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add([Episode(text="I keep bees in Trento.", speaker="Ann", at=day(10), id="a")])
        read = gather(memory, "Where did Ann keep bees in May 2024?", KnowledgeSurveyConfig(), {}).question
        alone = gather(memory, "What happened in June 2024?", KnowledgeSurveyConfig(), {}).question
    assert {read.spelled[term] for term in read.weights} == {"keep", "bees"}
    assert "june" in {alone.spelled[term] for term in alone.weights}


def test_agreement_is_full_when_every_signal_names_the_same_episode() -> None:
    evidence = found("What did the goat eat?")
    assert evidence.sentences[0].episode == "t0"
    assert evidence.features["agreement"] == 1
    assert found("What did Ann pay for the cousin?").features["agreement"] < 1
