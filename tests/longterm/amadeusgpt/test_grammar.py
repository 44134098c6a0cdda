"""Which marks are symbols, and how definitions rest on each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memspan import InputError
from memspan.longterm.amadeusgpt import CycleError, Definition, Symbol
from memspan.longterm.amadeusgpt.grammar import definitions, escaped, key_of, parse, plain
from memspan.longterm.amadeusgpt.table import SymbolTable

NAMES = st.from_regex(r"[A-Za-z0-9_-]([A-Za-z0-9_ -]{0,20}[A-Za-z0-9_-])?", fullmatch=True)


def keys(marks) -> list[str]:
    return [mark.key for mark in marks]


def table(**told: list[str]) -> SymbolTable:
    made = {}
    for key, texts in told.items():
        versions = tuple(Definition(name=key, number=n, text=text) for n, text in enumerate(texts, 1))
        made[key] = Symbol(key=key, versions=versions)
    return SymbolTable(made)


def test_definitions_and_references():
    found = parse("<|Chases|> is near; <watch> and <WATCH>, <unknown>.", {"watch"})
    assert keys(found.defined) == ["chases"] and keys(found.references) == ["watch"]
    assert found.unresolved == ("unknown",)
    assert [found.text[m.start : m.stop] for m in found.marks] == ["<|Chases|>", "<watch>", "<WATCH>"]


@pytest.mark.parametrize(
    "text",
    ["List<int> x", "a < int > c", "if a<int>b", "<int>bold</int>", r"\<int>", "<int/>", "<in\nt>", "< int>", "<|int>"],
)
def test_what_looks_like_a_symbol_and_is_none(text):
    assert keys(parse(text, {"int"}).references) == []


def test_names_that_are_none_are_told():
    found = parse("<|сhases|> <|a|b|> <||> <|" + "x" * 65 + "|>")
    assert found.defined == () and found.malformed == ("сhases", "", "x" * 65)
    for name in ("", " ", "a b!", "é", "x" * 65, "a/b"):
        with pytest.raises(InputError, match="no symbol's name"):
            key_of(name)
    with pytest.raises(InputError, match="must be text"):
        parse(3)  # type: ignore[arg-type]


def test_composed_and_decomposed_text_is_the_same():
    assert parse("caf\u0065\u0301 <|x|>").text == parse("caf\u00e9 <|x|>").text


def test_one_definition_is_the_message_and_several_are_its_sentences():
    assert definitions(parse("Hello. <|a|> is 1. Thanks.")) == {"a": "Hello. <|a|> is 1. Thanks."}
    several = definitions(parse("Two things. <|a|> is <b>. It matters! Then <|b|> is 2; <|c|> too."))
    assert several == {"a": "Two things. <|a|> is <b>. It matters!", "b": "Then <|b|> is 2;", "c": "<|c|> too."}


@given(NAMES, st.text(max_size=30), st.text(max_size=30))
def test_a_marked_name_is_found_wherever_it_stands(name, before, after):
    message = f"{before.replace('<', '').replace(chr(92), '')} <|{name}|> {after.replace('<', '').replace('>', '')}"
    assert keys(parse(message).defined) == [key_of(name)]
    assert parse(escaped(message), {key_of(name)}).marks == ()
    assert "|>" not in plain(f"<|{name}|> is <{name}>")


@given(st.text(max_size=80))
def test_any_text_can_be_read(text):
    found = parse(text, {"a", "b"})
    assert set(keys(found.references)) <= {"a", "b"} | set(keys(found.defined))
    definitions(found)


def test_what_others_rest_on_comes_first_and_once():
    t = table(a=["<b> and <c>"], b=["<c> twice: <c>"], c=["one", "<c> but more"])
    assert [(p.place, p.used_by) for p in t.closure(["a", "b"])] == [
        (("c", 0), "c"),
        (("c", 1), "b"),
        (("b", 0), "a"),
        (("a", 0), ""),
    ]


def test_circles_are_errors_that_name_their_path():
    with pytest.raises(CycleError) as error:
        table(a=["<b>"], b=["x <c>"], c=["<a>"]).closure(["a"])
    assert error.value.path == ("a", "b", "c", "a") and "<a> → <b> → <c> → <a>" in str(error.value)


def test_long_chains_are_followed():
    t = table(**{f"s{n}": [f"<s{n + 1}>"] for n in range(3000)}, s3000=["end"])
    assert len(t.closure(["s0"])) == 3001


@given(st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdef"), max_size=3), min_size=1))
def test_an_order_in_which_each_follows_what_it_uses_or_a_circle(graph):
    t = table(**{key: [" ".join(f"<{other}>" for other in sorted(used - {key}))] for key, used in graph.items()})
    try:
        pages = t.closure(sorted(graph))
    except CycleError as error:
        assert error.path[0] == error.path[-1]
        for one, other in zip(error.path, error.path[1:], strict=False):
            assert other in graph[one]
        return
    order = [page.place[0] for page in pages]
    assert sorted(order) == sorted(graph)
    for key, used in graph.items():
        assert all(order.index(other) < order.index(key) for other in used & set(graph) if other != key)
