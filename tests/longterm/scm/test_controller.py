"""The controller: gate, choice, and the budget that no prompt exceeds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan import BudgetError, Episode, InputError, Memory
from memspan.longterm.scm import (
    Controller,
    Item,
    ModelJudge,
    RuleJudge,
    ScmConfig,
    SelfControlledMemory,
    estimated_tokens,
)
from memspan.longterm.scm.ask_activate import back_reference
from tests.longterm.doubles import Recorded

RAIN = "It rained on the quiet hills for hours. "


def words(text: str) -> int:
    return len(text.split())


def item(uid: str, text: str, summary: str | None = None, **more: object) -> Item:
    return Item(id=uid, text=text, summary=text if summary is None else summary, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "question",
    [
        "As I said, which colour?",
        "What did you recommend for the sauce?",
        "Do you remember my cat?",
        "Remind me of the date.",
        "Earlier there was a list.",
        "Which of the films that you mentioned is best?",
    ],
)
def test_words_that_point_back(question):
    assert back_reference(question)
    activated, why = Controller().activate(question, [])
    assert activated and why.startswith("the question points back")


@pytest.mark.parametrize("question", ["What is two and two?", "Tell me about whales.", "Who said that?"])
def test_words_that_do_not(question):
    assert not back_reference(question)
    assert Controller().activate(question, []) == (False, "there is no older turn")


def test_the_gate_goes_by_the_best_relevance():
    low, high = item("a", "x", relevance=0.1), item("b", "y", relevance=0.6)
    assert Controller().activate("whales?", [low]) == (False, "best cosine 0.10 < 0.25")
    assert Controller().activate("whales?", [low, high]) == (True, "best cosine 0.60 ≥ 0.25")
    words_only = item("c", "z", relevance=0.22, measure="coverage")
    assert Controller().activate("whales?", [words_only])[0]


def test_a_model_decides_about_the_gate_and_rules_where_it_cannot():
    near = [item("a", "x", relevance=0.9)]
    assert Controller(model=Recorded({"choice": "B"})).activate("whales?", near) == (
        False,
        "the language model says that history is not needed",
    )
    activated, why = Controller(model=Recorded("(A) or (B)")).activate("whales?", near)
    assert activated and why.endswith("(the language model was of no use)")


def test_rank_adds_recency_to_the_score():
    controller = Controller(config=ScmConfig(recency_weight=0.5, recency_turns=10))
    old, new = item("old", "x", score=1.0, place=1), item("new", "x", score=0.8, place=9, age=0)
    assert [one.id for one in controller.rank([old, new])] == ["new", "old"]
    faded = item("new", "x", score=0.8, place=9, age=30)
    assert [one.id for one in controller.rank([faded, old])] == ["old", "new"]


def test_choose():
    controller = Controller(judge=RuleJudge(0.5))
    long = item("a", "The wallet is green. " + RAIN * 9, "The wallet is green.")
    assert controller.choose(long, "What colour is the green wallet?")[0] == "summary"
    assert controller.choose(long, "Where do the quiet hills lie, in rain for hours?")[0] == "raw"
    assert controller.choose(long, "Which planet has rings?")[0] == "drop"
    assert controller.choose(item("b", "The wallet is green."), "green wallet?")[0] == "raw"


def test_a_model_judges_once_for_each_text():
    model = Recorded({"choice": "A"}, {"choice": "B"})
    judge = ModelJudge(model)
    assert judge.answers("q", "t", {}) == (True, "the language model says that it answers")
    assert judge.answers("q", "t", {})[0] and len(model.prompts) == 1
    assert not judge.answers("q", "other", {})[0]
    judge.answers("another", "t", {})
    assert len(model.prompts) == 3


def test_a_judge_that_echoes_both_options_is_not_believed():
    judge = ModelJudge(Recorded('{"choice": "(A) yes / (B) no"}'), attempts=2)
    assert judge.answers("green wallet", "The wallet is green.", {}) == (
        True,
        "has 1.00 of the question's words (the language model was of no use)",
    )
    assert judge.fallbacks == 1


def test_all_fit_and_stand_in_the_order_of_time():
    items = [item("b", "second", place=2), item("a", "first", place=1), item("c", "third", place=3, flash=True)]
    text, decisions = Controller(counter=words).fit(items, 50, "And now?")
    assert text == "[Turn 1] first\n\n[Turn 2] second\n\n[Turn 3] third\n\nAnd now?"
    assert [(d.id, d.choice, d.tokens) for d in decisions] == [("b", "raw", 1), ("a", "raw", 1), ("c", "raw", 1)]


def test_too_much_is_judged_cut_and_dropped():
    best = item("best", "My wallet is green. " + RAIN * 10, "My wallet is green.", place=3)
    related = item("related", RAIN * 10 + "The green wallet has a zip.", "The green wallet has a zip.", place=1)
    unrelated = item("unrelated", "Saturn has rings of ice. " * 30, "Saturn has rings of ice.", place=2)
    controller = Controller(counter=words)
    question = "Which colour is my green wallet?"
    text, decisions = controller.fit([best, related, unrelated], 34, question)
    by_id = {d.id: d for d in decisions}
    assert words(text) <= 34 and text.endswith(question)
    assert "My wallet is green." in text and "The green wallet has a zip." in text
    assert by_id["related"].choice == "summary" and "answer" not in by_id["best"].choice
    assert by_id["unrelated"].choice == "drop" and "question's words" in by_id["unrelated"].why
    assert by_id["unrelated"].tokens == 0 and "Saturn" not in text


def test_what_was_dropped_comes_back_where_room_is_left():
    best = item("best", "My wallet is green.", place=2)
    unrelated = item("unrelated", "Saturn has rings of ice. " * 12, "Saturn has rings.", place=1)
    long = item("long", RAIN * 40, RAIN, place=3)
    text, decisions = Controller(counter=words).fit([best, unrelated, long], 120, "green wallet?")
    assert words(text) <= 120
    [back] = [d for d in decisions if d.id == "unrelated"]
    assert back.choice == "raw" and back.why.endswith("room was left")


def test_long_flash_memory_is_its_summary():
    config = ScmConfig(flash_raw=20)
    flash = item("f", RAIN * 5, "It rained.", place=1, flash=True)
    text, [decision] = Controller(config=config, counter=words).fit([flash], 500, "So?")
    assert decision.choice == "summary" and text == "[Turn 1] It rained.\n\nSo?"


def test_errors():
    controller = Controller(counter=words)
    with pytest.raises(BudgetError, match="question alone needs 4 tokens and the budget allows 3"):
        controller.fit([], 3, "one two three four")
    with pytest.raises(InputError, match="empty"):
        controller.fit([], 3, "  ")
    with pytest.raises(InputError, match="at least 1"):
        controller.fit([], 0, "x")
    with pytest.raises(InputError, match="least_coverage"):
        RuleJudge(1.5)


COUNTERS = {
    "words": words,
    "characters": len,
    "estimated": estimated_tokens,
    "pieces": lambda text: (len(text) + 3) // 4,
    "uneven": lambda text: len(text) + (7 if len(text) % 3 == 0 else 0),  # longer is not always more
}
TEXT = st.lists(
    st.sampled_from(["wallet", "green", "rain", "Saturn.", "zip!", "\n", "hills", "ünïcödé", "長い", "x" * 90, "?"]),
    min_size=1,
    max_size=60,
).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(st.tuples(TEXT, TEXT, st.booleans()), max_size=8),
    question=TEXT.filter(str.strip),
    budget=st.integers(1, 400),
    counter=st.sampled_from(sorted(COUNTERS)),
)
def test_no_prompt_exceeds_its_budget(texts, question, budget, counter):
    count = COUNTERS[counter]
    items = [
        item(str(n), text, summary if n % 2 else text, place=n + 1, flash=flash)
        for n, (text, summary, flash) in enumerate(texts)
    ]
    controller = Controller(counter=count)
    if count(question) > budget:
        with pytest.raises(BudgetError):
            controller.fit(items, budget, question)
        return
    text, decisions = controller.fit(items, budget, question)
    assert count(text) <= budget and text.endswith(question)
    assert [d.id for d in decisions] == [one.id for one in items] and all(d.why for d in decisions)
    assert controller.fit(items, budget, question) == (text, decisions)
    for decision in decisions:
        assert decision.choice != "drop" or decision.tokens == 0


# --- the dialogue ---


@pytest.fixture
def memory():
    with Memory.open(":memory:", organizer="scm", embedder=None) as memory:
        yield memory


def test_a_dialogue_of_bounded_prompts(memory):
    scm = SelfControlledMemory(memory, budget=60, counter=words)
    with pytest.raises(InputError, match="empty"):
        scm.context(" ")
    first = scm.context("What did I say about the wallet?")
    assert first.text == "What did I say about the wallet?" and first.decisions == ()
    ids = scm.commit("My wallet is green.", "Noted, a green wallet.")
    assert ids == ["dialogue:1:user", "dialogue:1:assistant"]
    for number in range(30):
        scm.commit(f"Tell me fact {number} on Saturn.", RAIN * 12)
    context = scm.context("What did I say about the wallet?")
    assert context.tokens == words(context.text) <= 60 and context.activated
    assert "My wallet is green." in context.text and context.counted == "by a tokenizer"
    assert context.decisions[0].episodes == tuple(ids)
    assert [d.flash for d in context.decisions][-1] and context.to_json()["decisions"][0]["id"] == ids[0]
    off = scm.context("Bake bread?")
    assert not off.activated and all(d.flash for d in off.decisions)
    with pytest.raises(BudgetError):
        scm.context("word " * 61)
    assert scm.context("word " * 61, budget=70).tokens <= 70


def test_what_a_context_showed_is_used_at_the_next_commit(memory):
    scm = SelfControlledMemory(memory, flash_turns=0)
    scm.commit("My wallet is green.")
    scm.commit("Saturn has rings.")
    assert scm.context("Remember the green wallet?").decisions
    assert memory.stats()["scm"]["turns_used"] == 0
    memory.forget("dialogue:2:user")
    scm.commit("Thanks.")
    assert memory.stats()["scm"]["turns_used"] == 1 and memory.recall("wallet", k=1)[0].id == "dialogue:1:user"


def test_turns_are_numbered_on_after_reopening(tmp_path):
    with Memory.open(tmp_path / "s.db", organizer="scm", embedder=None) as memory:
        SelfControlledMemory(memory).commit("One.", "Yes.")
    with Memory.open(tmp_path / "s.db", organizer="scm", embedder=None) as memory:
        scm = SelfControlledMemory(memory)
        assert scm.commit("Two.") == ["dialogue:2:user"]
        assert SelfControlledMemory(memory, session="other").commit("Hi.") == ["other:1:user"]
        assert scm.context("And?").text == "[Turn 3] user: Two.\n\nAnd?"


def test_half_a_forgotten_exchange_is_still_a_turn(memory):
    scm = SelfControlledMemory(memory, flash_turns=0)
    scm.commit("My wallet is green.", "Noted.")
    memory.forget("dialogue:1:assistant")
    assert scm.context("Remember the wallet?").text.startswith("[Turn 1] user: My wallet is green.\n\n")


def test_it_reads_any_dialogue(memory):
    memory.add([Episode("The wallet is green.", "Ann", session="s"), Episode("Rain again.", "Bo", session="s")])
    context = SelfControlledMemory(memory, session="s").context("Ann's wallet?")
    assert context.text == "[Turn 1] Ann: The wallet is green.\n\n[Turn 2] Bo: Rain again.\n\nAnn's wallet?"


def test_bad_input(memory):
    with (
        pytest.raises(InputError, match="organizer='scm'"),
        Memory.open(":memory:", embedder=None, organizer="plain") as plain,
    ):
        SelfControlledMemory(plain)
    for bad in ({"budget": 0}, {"k": 0}, {"flash_turns": -1}):
        with pytest.raises(InputError, match="at least"):
            SelfControlledMemory(memory, **bad)
    with pytest.raises(InputError, match="empty"):
        SelfControlledMemory(memory).commit(" ", "x")
    assert memory.stats()["records"] == {}
