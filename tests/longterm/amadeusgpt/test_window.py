"""The bounded window: what leaves it, what comes back, and what is never lost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan import BudgetError, InputError
from memspan.longterm.amadeusgpt import ContextWindow, SymbolMemory


def words(text: str) -> int:
    return len(text.split())


@pytest.fixture
def symbols():
    with SymbolMemory() as symbols:
        yield symbols


def turn(window: ContextWindow, message: str, answer: str = "fine", **options: object) -> str:
    prepared = window.prepare(message)
    window.commit(answer, **options)  # type: ignore[arg-type]
    return "\n".join(one["content"] for one in prepared)


def test_a_definition_is_paged_in_only_when_it_has_left(symbols):
    window = ContextWindow(30, words, symbols, system="You help.")
    turn(window, "<|near|> is closer than 40 px")
    assert window.prepare("Who is <near>?")[-1]["content"] == "Who is <near>?"
    window.commit("nobody")
    for number in range(6):
        turn(window, f"talk {number} of other things than that")
    prepared = window.prepare("Who is <near> now?")
    assert prepared[0] == {"role": "system", "content": "You help."}
    assert prepared[-1]["content"] == "Definitions:\n<|near|> is closer than 40 px\n\nWho is <near> now?"
    assert [page.label for page in prepared.paged] == ["<near>"] and prepared.tokens <= 30


def test_it_is_the_version_that_counts_not_the_name(symbols):
    window = ContextWindow(60, words, symbols)
    turn(window, "<|near|> is closer than 40 px")
    symbols.define("<|near|> is closer than 10 px")  # elsewhere
    assert "closer than 10 px" in turn(window, "Who is <near>?")
    assert "closer than 10 px" in turn(window, "And who is <near> now?")  # a mention is no definition


def test_a_failed_turn_defines_nothing_and_is_marked(symbols):
    window = ContextWindow(100, words, symbols)
    turn(window, "<|near|> is closer than 40 px", "def f(: pass", ok=False, error="SyntaxError")
    assert len(symbols) == 0
    prepared = window.prepare("Who is <near>?")
    assert "must not be repeated. SyntaxError" in prepared[1]["content"] and prepared.unresolved == ("near",)


def test_messages_are_committed_one_by_one(symbols):
    window = ContextWindow(100, words, symbols)
    with pytest.raises(InputError, match="no message was prepared"):
        window.commit("x")
    window.prepare("one")
    with pytest.raises(InputError, match="was not committed"):
        window.prepare("two")
    window.commit("x")
    window.clear()
    assert window.prepare("two") == [{"role": "user", "content": "two"}]


def test_what_was_used_least_recently_becomes_a_stub(symbols):
    long = "with many more words that nobody needs to read in full every single time"
    symbols.define(f"<|old|> is closer than 40 px {long}")
    symbols.define(f"<|new|> is closer than 10 px {long}")
    window = ContextWindow(40, words, symbols)
    for message in ("About <old>", "About <new>", "About <new>"):
        turn(window, message)
    prepared = window.prepare("Both <old> and <new>")
    assert prepared.stubs == ("old",) and "<old>: (shortened)" in prepared[-1]["content"]
    assert long in prepared[-1]["content"].partition("<|new|>")[2] and prepared.tokens <= 40


def test_budgets_that_cannot_hold(symbols):
    symbols.define("<|big|> is " + "very " * 50 + "big")
    window = ContextWindow(20, words, symbols)
    with pytest.raises(BudgetError, match="definition of <big>"):
        window.prepare("About <big>")
    with pytest.raises(BudgetError, match="the message") as error:
        window.prepare("word " * 21)
    assert error.value.needed == 21 and error.value.allowed == 20
    with pytest.raises(BudgetError, match="system message"):
        ContextWindow(3, words, symbols, system="one two three four")
    with pytest.raises(InputError, match="at least"):
        ContextWindow(0, words, symbols)
    window.prepare("still works")


def test_programs_come_along(symbols):
    symbols.define("<|total|> adds up", "def total(d):\n    return sum(d)")
    text = ContextWindow(100, words, symbols).prepare("Use <total>")[-1]["content"]
    assert "```python\ndef total(d):" in text


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["define", "change", "ask", "talk"]), st.sampled_from("abcd")), max_size=25),
    st.integers(40, 120),
)
def test_every_reference_is_served_whole_and_no_prompt_is_over_the_budget(steps, budget):
    held: dict[str, list[str]] = {}
    with SymbolMemory() as symbols:
        window = ContextWindow(budget, words, symbols)
        for number, (kind, name) in enumerate(steps):
            if kind == "define":
                message = f"<|{name}|> is thing {number}"
            elif kind == "change" and name in held:
                message = f"<|{name}|> is <{name}> with {number}"
            else:
                message = f"tell me about <{name}> please" if kind == "ask" else f"small talk number {number} goes on"
            prepared = window.prepare(message)
            text = "\n".join(one["content"] for one in prepared)
            assert sum(words(one["content"]) for one in prepared) == prepared.tokens <= budget
            if kind == "ask" and name in held and not prepared.stubs:
                assert all(part in text for part in held[name])
            if kind == "define":
                held[name] = [message]
            elif kind == "change" and name in held:
                held[name].append(message)
            window.commit("ok")
            assert not re.search("Definitions:", "".join(e.user for e in window.exchanges))
