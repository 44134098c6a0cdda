"""Forget and merge as functions of a set: laws, and the small functions they rest on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memspan.longterm.think_in_memory.questions import question_key
from memspan.longterm.think_in_memory.thoughts import Thought, coverage, head_key, tail_key, thought_uid, union_text
from memspan.longterm.think_in_memory.tidy import clusters, near_pairs, superseded


def thought(record: int, tail: str, at: int, **more: object) -> Thought:
    uid = thought_uid(str(record))
    options = {"origin": "user", "since": at, "functional": True, "text": f"Ann lives in {tail}.", **more}
    return Thought(record=record, uid=uid, key=(1, "LIVES_IN"), tail=tail, at=at, **options)  # type: ignore[arg-type]


def names(thoughts: list[Thought]) -> dict[int, int]:
    return {record: winner.record for record, winner in superseded(thoughts, thoughts).items()}


def test_the_newer_tail_wins_and_the_first_after_it_is_named():
    assert names([thought(1, "oslo", 10), thought(2, "paris", 20), thought(3, "rome", 30)]) == {1: 2, 2: 3}


def test_equal_times_and_open_relations_forget_nothing():
    assert names([thought(1, "oslo", 10), thought(2, "paris", 10)]) == {}
    assert names([thought(1, "tea", 10, functional=False), thought(2, "milk", 20, functional=False)]) == {}


def test_a_tail_that_holds_again_is_not_forgotten():
    assert names([thought(1, "oslo", 30, since=10), thought(2, "paris", 20)]) == {2: 1}


def test_what_is_closed_or_kept_by_the_user_is_not_forgotten():
    assert names([thought(1, "oslo", 10, closed=True), thought(2, "paris", 20)]) == {}
    assert names([thought(1, "oslo", 10, kept=True), thought(2, "paris", 20)]) == {}


def test_an_ending_forgets_its_own_tail_or_any_when_it_names_none():
    lives = [thought(1, "oslo", 10, functional=False), thought(2, "rome", 10, functional=False)]
    assert names([*lives, thought(3, "oslo", 20, functional=False, ends=True)]) == {1: 3}
    assert names([*lives, thought(3, "", 20, functional=False, ends=True)]) == {1: 3, 2: 3}
    assert names([thought(1, "oslo", 20), thought(3, "oslo", 20, ends=True)]) == {1: 3}
    assert names([thought(1, "oslo", 30), thought(3, "oslo", 20, ends=True)]) == {3: 1}


def test_a_lower_origin_never_overrides_and_what_is_derived_yields():
    assert names([thought(1, "oslo", 10), thought(2, "paris", 20, origin="derived")]) == {2: 1}
    assert names([thought(1, "oslo", 10), thought(2, "paris", 20, origin="assistant")]) == {}
    assert names([thought(1, "oslo", 10, origin="assistant"), thought(2, "paris", 20)]) == {1: 2}


def test_a_scribe_may_say_what_contradicts_across_relations():
    one, other = thought(1, "oslo", 10, functional=False), thought(2, "x", 20, functional=False)
    assert superseded([one, other], [one, other], {(2, 1)}) == {1: other}


drawn = st.lists(
    st.tuples(
        st.sampled_from("abcd"), st.integers(0, 5), st.booleans(), st.booleans(), st.sampled_from(["user", "derived"])
    ),
    min_size=1,
    max_size=9,
)


@given(drawn, st.randoms())
def test_order_does_not_matter(rows, chance):
    thoughts = [
        thought(number, tail, at, functional=functional, ends=ends, origin=origin)
        for number, (tail, at, functional, ends, origin) in enumerate(rows, 1)
    ]
    shuffled = list(thoughts)
    chance.shuffle(shuffled)
    assert superseded(thoughts, thoughts) == superseded(shuffled, shuffled)
    told = {(a.record, b.record) for a, b in zip(thoughts, thoughts[2:], strict=False)}

    def grouped(of: list[Thought]) -> set[tuple[int, ...]]:
        return {tuple(t.record for t in group) for group in clusters(of, told)}

    assert grouped(thoughts) == grouped(shuffled)
    # Nobody is forgotten for a thought of a lower origin, and the newest statements of people always stay.
    lost = superseded(thoughts, thoughts)
    assert all(winner.rank >= next(t for t in thoughts if t.record == loser).rank for loser, winner in lost.items())
    people = [t for t in thoughts if t.origin == "user"]
    if people:
        latest = max(t.at for t in people)
        assert any(t.record not in lost for t in people if t.at == latest)


def test_groups_share_a_tail_and_never_mix_endings():
    told = [thought(1, "oslo", 10), thought(2, "oslo", 5), thought(3, "oslo", 7, ends=True), thought(4, "rome", 1)]
    assert [[t.record for t in group] for group in clusters(told)] == [[2, 1]]
    assert clusters([thought(1, "oslo", 10), thought(2, "oslo", 5, apart=True)]) == []
    assert [len(group) for group in clusters(told, {(4, 1)})] == [3]


def test_near_vectors_join_unless_their_numbers_differ():
    rooms = [
        thought(1, "a", 1, text="Room 12."),
        thought(2, "b", 1, text="Room 13."),
        thought(3, "c", 1, text="room 12!"),
    ]
    one, far = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    assert near_pairs(rooms, {1: one, 2: one, 3: one}, 0.9) == [(1, 3)]
    assert near_pairs(rooms, {1: one, 3: far}, 0.9) == [] == near_pairs(rooms, {1: one}, 0.9)


@pytest.mark.parametrize(
    ("texts", "union"),
    [
        (["John works as an actor.", "John works as a director."], "John works as an actor and a director."),
        (["A b c.", "A b d.", "A b e."], "A b c, d and e."),
        (["Ann sails.", "Bob runs."], "Ann sails. Bob runs."),
        (["Ann likes tea.", "Ann  likes tea."], "Ann likes tea."),
        (["Ann likes tea.", "Ann likes cake; and pie."], "Ann likes tea. Ann likes cake; and pie."),
        (["Ann likes tea", "Ann likes"], "Ann likes tea Ann likes"),
    ],
)
def test_what_sentences_share_is_said_once(texts, union):
    assert union_text(texts) == union


def test_coverage_is_the_share_of_words_that_the_sources_hold():
    assert coverage("Ann moved to Lisbon", ["I moved", "Lisbon is fine"]) == pytest.approx(2 / 3)
    assert coverage("the of", []) == 1.0


def test_names_and_values_are_compared_without_case_articles_and_spacing():
    assert head_key("The  Shop's") == head_key("shop") and tail_key(" A Puppy ") == tail_key("puppies")
    assert head_key("…") and tail_key("!")


@pytest.mark.parametrize(
    "other",
    [
        "where does ann live",
        "  WHERE  does Ann live ?",
        "Hi, could you please tell me: where does Ann live?",
        "Do you remember where does Ann live, please?",
        "Where does Ann live? Thanks!",
    ],
)
def test_the_same_question(other):
    assert question_key(other) == question_key("Where does Ann live?")


@pytest.mark.parametrize(
    "other",
    [
        "Where did Ann live?",
        "When does Ann live?",
        "Where does Anna live?",
        "Where does Ann not live?",
        "Where does Ann live in 2020?",
    ],
)
def test_another_question(other):
    assert question_key(other) != question_key("Where does Ann live?")


def test_short_forms_are_written_out_and_names_keep_their_possessive():
    assert question_key("What's Bob's job?") == question_key("What is Bob's job?")
    assert question_key("Who can't swim?") == question_key("who can not swim")
    assert question_key("Did Ann call Bob?") != question_key("Did Bob call Ann?")
    assert question_key("please") == "please" and question_key("?!") == ""


@given(st.text(max_size=60))
def test_a_normal_form_is_its_own(text):
    assert question_key(question_key(text)) == question_key(text)
