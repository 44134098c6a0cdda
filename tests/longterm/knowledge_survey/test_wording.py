"""How one sentence of evidence is worded as an answer."""

from __future__ import annotations

from memspan.longterm.knowledge_survey.features import Said, Sentence
from memspan.longterm.knowledge_survey.text import read_question
from memspan.longterm.knowledge_survey.wording import beside, evidence_text


def said(text: str, whole: str, *before: Said, caption: str | None = None, place: int = 0) -> Sentence:
    start = max(0, whole.find(text))
    return Sentence(
        "e1",
        (start, start + len(text)),
        text,
        whole,
        "Ann",
        None,
        0,
        metadata={"caption": caption} if caption else {},
        before=before,
        place=place,
    )


def test_a_short_reply_is_shown_with_the_question_it_answers() -> None:
    question = read_question("How much did the hat cost?", ["Ann"])
    asked = Said("Poor hat. What did you pay?", "Bob")
    text = evidence_text(question, said("Forty francs.", "Forty francs. I loved it.", asked))
    assert text == "Ann, asked “What did you pay?”: “Forty francs. I loved it.”"
    own = Said("What did you pay?", "Ann")
    assert evidence_text(question, said("Forty francs.", "Forty francs.", own)) == "Ann: “Forty francs.”"


def test_a_long_turn_gives_its_sentence_and_the_one_a_pronoun_leans_on() -> None:
    question = read_question("Where does Rosa train?", ["Ann"])
    filler = "Nothing else happened here all winter long, " * 4 + "as you know."
    whole = f"{filler} I wrote to Rosa. She trains at the coast. {filler}"
    assert evidence_text(question, said("She trains at the coast.", whole, place=2)) == (
        "Ann: “I wrote to Rosa. She trains at the coast.”"
    )
    assert evidence_text(question, said("I wrote to Rosa.", whole, place=1)) == "Ann: “I wrote to Rosa.”"


def test_a_photo_is_told_when_it_bears_on_the_question() -> None:
    caption = "a red shed with a broken door"
    shed = read_question("What colour is the shed?", ["Ann"])
    pictured = said(caption, "Look at this.", caption=caption, place=1)
    assert evidence_text(shed, pictured) == "Ann: “Look at this.” (photo: a red shed with a broken door)"
    other = read_question("What did Ann look at?", ["Ann"])
    assert evidence_text(other, said("Look at this.", "Look at this.", caption=caption)) == "Ann: “Look at this.”"


def scored(episode: str, text: str, score: float, *before: Said) -> Sentence:
    made = Sentence(episode, (0, len(text)), text, text, "Ann", None, 0, before=before, score=score)
    made.features |= {"question": 0.0, "late": 0.0}
    return made


def test_a_turn_of_the_same_exchange_nearly_as_good_is_quoted_beside_the_best() -> None:
    opened = scored("e1", "I am opening a tea room.", 5.0)
    named = scored("e2", "You should call it Samovar.", 4.6, Said("I am opening a tea room.", "Ann"))
    strange = scored("e3", "The ferry was late.", 4.8)
    assert beside([opened, strange, named], 1.0) == [named]
    assert beside([opened, strange, named], 0.3) == []
    assert beside([opened, strange], 1.0) == []
    long = scored("e2", "You should call it Samovar. " * 8, 4.6, Said("I am opening a tea room.", "Ann"))
    assert beside([opened, long], 1.0) == []
