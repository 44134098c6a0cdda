"""Keywords, tags and context by rules."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from memspan import Episode, InputError
from memspan.longterm.a_mem.attributes import (
    MOST,
    Statistics,
    clean,
    context_of,
    document,
    given,
    keywords_of,
    stems,
    tag_list,
    tags_of,
)
from memspan.longterm.passages import term_hashes

NOTHING_KNOWN = Statistics(0, {})


def term(word: str) -> int:
    return int(term_hashes(word)[0])


def test_keywords_are_the_rare_and_frequent_terms_without_names_and_times():
    known = Statistics(100, {term("garden"): 90, term("kiln"): 1, term("glaze"): 1})
    text = "Ann saw the kiln on Monday in May; the kiln in the garden needs a glaze tomorrow."
    assert keywords_of(text, known, 3, {"ann"})[:1] == ["kiln"]
    found = keywords_of(text, known, 10, {"ann"})
    assert not {"ann", "monday", "may", "tomorrow", "the"} & set(found) and found[-1] == "garden"
    assert keywords_of("is it so?", known, 5) == []


def test_one_keyword_per_stem_in_the_first_form():
    assert keywords_of("Paintings: I painted a painting.", NOTHING_KNOWN, 5).count("paintings") == 1


def test_context_is_the_sentence_that_shares_most_else_the_latest():
    window = [("Bo", "The kiln broke. It is sunny outside today."), ("Bo", "Do you like cold soup?")]
    assert context_of("The kiln works again", window, NOTHING_KNOWN) == ("Bo: The kiln broke.", 0)
    assert context_of("Yes, very much", window, NOTHING_KNOWN) == ("Bo: Do you like cold soup?", 1)
    assert context_of("Yes", [], NOTHING_KNOWN) == ("", -1)
    assert context_of("Yes", [(None, "Ok.")], NOTHING_KNOWN) == ("", -1)


def test_tags_are_keywords_of_several_notes():
    tags = tag_list([["pottery", "kiln"], ["pottery"], ["pottery", "bread"], ["breads"], ["bread", "soup"]])
    assert tags == ["bread", "pottery"]
    assert tags_of("a pottery class", tags, 3) == ["pottery"]
    assert tag_list([]) == []


def test_one_document_form():
    assert document("Ann: hi", "", ["a", "b"], []) == "Ann: hi\na, b"
    assert document("x", "c", ["k"], ["t"]) == "x\nc\nk\nt"


@hypothesis.given(st.lists(st.text(max_size=30)))
def test_clean_lists_are_short_and_have_each_once(words: list[str]):
    try:
        found = clean(words, "keywords", 0)
    except ValueError:
        assert any("," in word or len(word.split()) > 5 for word in words)
        return
    assert len(found) == len(set(found)) <= MOST and all(word == " ".join(word.split()) and word for word in found)


@hypothesis.given(st.text(max_size=200), st.integers(1, 8))
def test_keywords_stand_in_the_text(text: str, count: int):
    found = keywords_of(text, NOTHING_KNOWN, count)
    assert len(found) <= count and stems(found) <= set(term_hashes(text).tolist())


@pytest.mark.parametrize(
    "note",
    [
        "text",
        {"keywords": "one"},
        {"keywords": [3]},
        {"context": 3},
        {"colour": "red"},
        {"tags": ["x" * 61]},
        {"tags": ["a, b"]},
        {"keywords": ["one two three four five six"]},
    ],
)
def test_attributes_that_cannot_be_used(note: object):
    with pytest.raises(InputError, match="episode 4"):
        given(Episode("hi", metadata={"note": note}), "episode 4")


def test_attributes_that_the_caller_gives():
    found = given(Episode("hi", metadata={"note": {"keywords": ["a", "a "], "context": " c "}}), "")
    assert found is not None and (found.keywords, found.tags, found.context) == (["a"], [], "c")
    assert given(Episode("hi"), "") is None


def test_the_nearest_tags_by_vectors_need_not_stand_in_the_text():
    vectors = np.eye(3, dtype=np.float32)
    own = np.array([0.1, 0.9, 0.3], np.float32)
    assert tags_of("a bowl", ["boats", "pottery", "cooking"], 2, vectors, own) == ["pottery", "cooking"]
