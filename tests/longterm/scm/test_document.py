"""Texts of any length: sentences, extraction, the tree, and the command line."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan import InputError
from memspan.cli.main import main
from memspan.longterm.scm import ModelSummarizer, Piece, RuleSummarizer, estimated_tokens, summarize_long
from memspan.longterm.scm.extract import extract, stems
from memspan.longterm.scm.sentences import sentence_spans
from tests.longterm.doubles import Recorded

BOOK = "\n\n".join(
    f"Chapter {n} tells how the keeper of the lighthouse met guest number {n}. He rowed out at dawn with a lamp. "
    f"Nobody on the coast had seen the guest before, and it rained. They ate bread and fish in silence, then slept."
    for n in range(80)
)


def sentences(text: str) -> list[str]:
    return [text[a:b] for a, b in sentence_spans(text)]


def test_sentences():
    assert sentences('Dr. Fell came at 5 p.m. He left. "Why?" she asked.') == [
        "Dr. Fell came at 5 p.m. He left.",
        '"Why?"',
        "she asked.",
    ]
    assert sentences("1. Gather data\n2. Make a plan") == ["1. Gather data", "2. Make a plan"]
    broken = (
        "The lines of this text are all broken at one width, as in\nbooks. So the end of a line is no end of a sentence"
        " here,\nbut a gap between two lines is the end of any sentence\n\nNext"
    )
    assert sentences(broken)[1:] == [
        "So the end of a line is no end of a sentence here,\nbut a gap between two lines is the end of any sentence",
        "Next",
    ]
    assert sentences(" \n ") == [] and sentences("...") == []


@given(st.text(alphabet="ab .!?\n\"'1", max_size=200))
def test_spans_are_ordered_and_hold_every_letter(text):
    spans = sentence_spans(text)
    assert all(a < b and text[a:b].strip() == text[a:b] for a, b in spans)
    assert all(one[1] <= two[0] for one, two in pairwise(spans))
    kept = "".join(text[a:b] for a, b in spans)
    assert [c for c in kept if c.isalnum()] == [c for c in text if c.isalnum()]


def test_tokens_are_estimated():
    assert estimated_tokens("") == 0 and estimated_tokens("one two three") == 4
    assert estimated_tokens("x" * 120) == 13 and estimated_tokens("長い文") == 4


def test_extraction_bears_on_the_question_and_keeps_to_its_limit():
    text = "The mill burned in May. The mill was old. A cat slept by the mill. The wallet lay in the drawer."
    assert extract(text, 10, estimated_tokens, question="Where was the wallet?") == "The wallet lay in the drawer."
    for limit in range(40):
        assert estimated_tokens(extract(text, limit, estimated_tokens)) <= limit
    assert extract(text, 2, estimated_tokens) == ""


def test_nothing_is_said_twice():
    said = "The ferry sails at noon. The ferry sails at noon. The harbour is deep."
    assert extract(said, 14, estimated_tokens).count("sails") == 1


def test_every_part_stands_where_it_says():
    watched: list[int] = []

    def watch(blocks: list) -> list:
        watched.append(len(blocks))
        return blocks

    found = summarize_long(BOOK, block=200, group=150, leaf=60, inner=80, last=100, watch=watch)
    assert watched == [found.blocks] and found.blocks > 10 and found.levels > 2
    assert 0 < estimated_tokens(found.text) <= 100
    nodes = list(found.root.walk())
    for node in nodes:
        assert all(" ".join(found.expand(p).split()) == p.text for p in node.pieces)
        assert all(node.start <= p.start < p.stop <= node.stop for p in node.pieces)
        assert not node.children or (node.start, node.stop) == (node.children[0].start, node.children[-1].stop)
    first = found.root.pieces[0]
    line, last = found.lines(first)
    assert first.text in BOOK.split("\n")[line - 1] and line == last
    assert json.loads(json.dumps(found.root.to_json()))["level"] == found.levels - 1


def test_a_short_text_is_its_own_summary():
    found = summarize_long("One thing. Another thing.")
    assert found.text == "One thing. Another thing." and found.root.origin == "short enough as it is"
    assert (found.levels, found.blocks) == (1, 1)


def test_a_model_writes_over_spans_and_sees_what_is_known():
    model = Recorded({"summary": "A keeper meets guests."})
    summarizer = ModelSummarizer(model, counter=estimated_tokens)
    found = summarize_long(BOOK, summarizer, block=400, group=100, leaf=60, inner=70, last=8)
    leaves = [node for node in found.root.walk() if not node.children]
    assert all(leaf.text == "A keeper meets guests." for leaf in leaves)
    assert all((leaf.pieces[0].start, leaf.pieces[0].stop) == (leaf.start, leaf.stop) for leaf in leaves)
    assert "BACKGROUND" not in model.asked[0] and "A keeper meets guests." in model.asked[1]
    assert summarizer.fallbacks == 0 and found.root.start == 0 and found.root.stop == len(BOOK)


def test_a_useless_model_gives_way_to_the_rules():
    summarizer = ModelSummarizer(Recorded("no"), counter=estimated_tokens)
    found = summarize_long(BOOK, summarizer, block=2000, last=100)
    assert summarizer.fallbacks >= 1 and "of no use" in found.root.origin
    assert all(" ".join(found.expand(p).split()) == p.text for p in found.root.pieces)


class Longer:
    """A summarizer that makes everything longer."""

    def summarize(self, pieces, limit, background):
        return [Piece(text=p.text * 2, start=p.start, stop=p.stop) for p in pieces], "doubled"


def test_a_summary_that_is_no_shorter_is_not_taken_and_there_is_an_end():
    found = summarize_long(BOOK, Longer(), block=200, group=50, leaf=20, inner=20, last=20)
    assert "no shorter" in found.root.origin and found.text == " ".join(BOOK.split())


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="abc .!\n", max_size=600), st.integers(1, 40), st.integers(1, 40))
def test_any_text_has_an_end(text, block, group):
    if not stems(text) and not any(c.isalnum() for c in text):
        with pytest.raises(InputError, match="no sentence"):
            summarize_long(text, block=block, group=group)
        return
    found = summarize_long(text, RuleSummarizer(), block=block, group=group, leaf=5, inner=5, last=5)
    assert found.text and all(" ".join(found.expand(p).split()) == p.text for p in found.root.pieces)


def test_bad_numbers():
    for name in ("block", "group", "leaf", "inner", "last"):
        with pytest.raises(InputError, match=name):
            summarize_long("Text.", **{name: 0})


def test_the_verb(tmp_path, capsys):
    path = tmp_path / "book.txt"
    path.write_text(BOOK)
    assert main(["summarize", str(path), "--words", "60"]) == 0
    printed = capsys.readouterr()
    assert "[line " in printed.out and "words, from 2 blocks" in printed.err and "estimated" in printed.err
    assert main(["summarize", str(path), "--words", "60", "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["words"] <= 60 and report["words_read"] == len(BOOK.split())
    for sentence in report["sentences"]:
        start, stop = sentence["chars"]
        assert " ".join(BOOK[start:stop].split()) == sentence["text"]
        assert sentence["lines"][0] == BOOK.count("\n", 0, start) + 1


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (None, [], "does not exist"),
        ("", [], "is empty"),
        ("...\n", [], "no sentence"),
        ("Text.", ["--words", "0"], "--words"),
    ],
)
def test_the_verb_refuses(tmp_path, capsys, text, options, said):
    path = tmp_path / "t.txt"
    if text is not None:
        path.write_text(text)
    assert main(["summarize", str(path), *options]) == 2
    assert said in capsys.readouterr().err
