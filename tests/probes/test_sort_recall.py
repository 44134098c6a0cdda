"""Pairs keep their distances, sides and places; stores pass with times and fail without; models are asked both ways."""

from __future__ import annotations

import json

import numpy as np
import pytest

from memspan.cli.main import main
from memspan.core.errors import InputError
from memspan.longterm.examined import RetrievalSubject, StoreSubject
from memspan.models import load_language_model
from memspan.probes.in_weights import WeightsSubject
from memspan.probes.run import run
from memspan.probes.sort_recall import SortRecall, best_prompt, build, order, paper_bins
from memspan.probes.sort_recall.books import chronicle, read_book
from memspan.probes.sort_recall.pairs import sentence_starts
from memspan.probes.statistics import coin, uniformity
from memspan.probes.subjects import Blind, Guesser, ModelSubject, Oracle, Shuffled
from tests.word_model import make_word_model


def test_the_papers_bins():
    assert paper_bins(250, 50) == (50, 62, 83, 125, 200)
    assert paper_bins(1000, 20) == (20, 250, 333, 500, 800)
    assert paper_bins(20_000, 50) == (50, 1000, 5000, 10_000, 16_000)


@pytest.mark.parametrize("excerpt", [250, 1000, 10_000])
@pytest.mark.parametrize("segment", [20, 50])
def test_pairs_keep_every_rule(excerpt, segment):
    text = chronicle()
    words, starts = text.split(), set(sentence_starts(text.split()))
    items = build(text, excerpt, segment, 50, seed=3)
    edges = paper_bins(excerpt, segment)
    assert [sum(item.bin == i for item in items) for i in range(4)] == [50] * 4
    for i in range(4):
        assert sum(item.answer for item in items if item.bin == i) == 25
    for item in items:
        early, late = sorted(item.positions)
        assert edges[item.bin] < item.distance == late - early <= edges[item.bin + 1]
        assert early + segment <= late  # they do not overlap
        assert item.start <= early
        assert late + segment <= item.start + excerpt
        assert {early, late, item.start} <= starts
        assert item.seg_a.split() == words[item.positions[0] : item.positions[0] + segment]
        assert (item.positions[0] < item.positions[1]) == (item.answer == 0)
        assert " ".join(words).count(item.seg_a) == 1
        assert item.excerpt.index(item.seg_a) != item.excerpt.index(item.seg_b)
    assert len({item.positions for item in items}) == len(items)
    assert uniformity([item.start / (len(words) - excerpt) for item in items[::4]]) > 0.01
    assert build(text, excerpt, segment, 50, seed=3) == items
    assert build(text, excerpt, segment, 50, seed=4) != items


def test_any_sequence_has_an_order():
    steps = np.arange(4000)[:, None] * np.ones((1, 3))
    for sequence in (steps, steps.tolist()):
        for item in build(sequence, 400, 10, 20, bins=(10, 50, 200), seed=1):
            first, second = float(item.seg_a[0][0]), float(item.seg_b[0][0])
            assert len(item.seg_a) == 10
            assert abs(first - second) == item.distance
            assert (first < second) == (item.answer == 0)
    actions = [f"step {i}" for i in range(900)]
    items = build(actions, 200, 5, 7, bins=(5, 40, 100), boundaries=range(0, 900, 5))
    assert sum(item.answer for item in items) == 7  # odd bins, and still half of all
    assert all(place % 5 == 0 for item in items for place in item.positions)


def test_segments_that_occur_twice_are_never_asked_about():
    refrain = "And so they sang, and sang again, until the tide was low and every boat was home."
    words = chronicle(6_000).split()
    starts = sentence_starts(words)[::3]
    for place in reversed(starts):
        words[place:place] = refrain.split()
    text = " ".join(words)
    items = build(text, 500, 10, 30)
    assert all(text.count(segment) == 1 for item in items for segment in (item.seg_a, item.seg_b))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((chronicle(400), 500, 20, 5), "fewer than an excerpt of 500"),
        ((list(range(900)), 300, 20, 5, {"bins": (20, 90, 90)}), "each above the one before"),
        ((list(range(900)), 300, 20, 5, {"bins": (10, 90)}), "would overlap"),
        ((list(range(900)), 300, 20, 5, {"bins": (20, 290, 299)}), "do not fit into excerpts of 300"),
        ((["same"] * 900, 300, 20, 5), "0 of 5 pairs"),
        ((list(range(900)), 300, 0, 5), "too few"),
        ((list(range(900)), 300, 20, 5, {"boundaries": [1000]}), "boundaries must be places"),
    ],
)
def test_what_cannot_be_drawn_is_said(arguments, message):
    *places, last = arguments
    options = last if isinstance(last, dict) else {}
    with pytest.raises(InputError, match=message):
        build(*(places if options else arguments), **options)


# --- the exam --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "likelihood"])
@pytest.mark.parametrize("scoring", ["labels", "continuation"])
@pytest.mark.parametrize("asks", ["first", "last"])
def test_an_oracle_is_always_right_and_a_guesser_half_of_the_time(form, scoring, asks):
    exam = SortRecall(scoring=scoring, asks=asks)
    right = run(exam, Oracle(exam), n=40, lengths=(300, 900), form=form)
    assert right.score == 1
    assert order(right).p < 1e-9
    guessed = run(exam, Guesser(exam, 1), n=400, lengths=(400,), form=form)
    low, high = guessed.interval
    assert low < 0.5 < high
    assert guessed.chance == (0.5 if form == "likelihood" else None)


def test_excerpts_fill_the_length_and_hold_both_segments():
    exam = SortRecall()
    for length in (300, 2_000):
        items = exam.items(12, length, 0, exam.estimate)
        assert length * 0.97 < max(item.group["tokens"] for item in items) <= length
        assert [item.group["bin"] for item in items[:4]] == ["≤ 1/4", "≤ 1/3", "≤ 1/2", "≤ 4/5"]
        assert sum(item.answer == "A" for item in items) == 6
        for item in items:
            assert "".join(item.pieces) == item.context
            assert all(text in item.context for choice in item.choices for text in choice.earliest)


def test_a_liking_for_a_label_is_worth_nothing_and_is_shown():
    class Always(Oracle):
        def weigh(self, choice):
            return [1.0, 0.0]

    class Leans(Oracle):  # knows, and likes A much better
        def weigh(self, choice):
            return [super().weigh(choice)[0] + 3, super().weigh(choice)[1]]

    exam = SortRecall()
    biased = order(run(exam, Always(exam), n=40))
    assert (biased.accuracy, biased.said_a) == (0, 1.0)  # undecided both ways is not right
    leaning = order(run(exam, Leans(exam), n=40))
    assert (leaning.accuracy, leaning.said_a) == (1, 1.0)
    assert sum(n for n, _, _ in leaning.bins.values()) == 40


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("A", "A"),
        (" b.", "B"),
        ("**Segment B**", "B"),
        ("Answer: Segment A", "A"),
        ("The answer is B, since segment A follows segment B.", "B"),
        ("I think that segment B appeared first", "B"),
        ("A segment like this is hard to place", None),
        ("segment A or segment B", None),
        ("", None),
    ],
)
def test_labels_are_read_out_of_text(said, label):
    exam = SortRecall()
    item = exam.items(1, 400, 0, exam.estimate)[0]
    grade = exam.grade(item, said)
    assert grade.parsed == (label is not None)
    assert grade.score == (label == item.answer)


def test_a_users_book_is_read_without_what_tells_its_order(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(
        "Licence words\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\nCHAPTER I\n\nTHE HARBOUR\n\nIt rained.\nIt was "
        "late.\n\nChapter 2. A walk\n\nPart of the road was new.\n\nIV.\n\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK X ***\nMore licence",
        encoding="utf-8",
    )
    assert read_book(str(path)).split() == "It rained. It was late. Part of the road was new.".split()
    (tmp_path / "empty.txt").write_text("\n\n")
    for name in ("empty.txt", "absent.txt"):
        with pytest.raises(InputError, match="book"):
            SortRecall(book=str(tmp_path / name)).items(4, 400, 0, len)


@pytest.mark.parametrize(
    "options",
    [
        {"segment": 0},
        {"excerpt": -1},
        {"bins": (30, 20)},
        {"bins": "all"},
        {"reads": "page"},
        {"asks": "both"},
        {"prompt": 9},
    ],
)
def test_settings_that_cannot_be_are_refused(options):
    with pytest.raises(InputError):
        SortRecall(**options)


def test_a_length_that_holds_no_excerpt_is_refused():
    for options in ({"excerpt": 400}, {"segment": 50}):
        with pytest.raises(InputError, match="do not hold an excerpt"):
            run(SortRecall(**options), Oracle(SortRecall()), n=4, lengths=(200,))


# --- who sits it -----------------------------------------------------------------------------------------------------


def test_a_store_with_times_passes_and_one_without_fails():
    exam = SortRecall(reads="book", book="")
    dated = run(exam, StoreSubject(embedder=None), n=60, lengths=(8_000,))
    assert dated.form == "likelihood"
    assert dated.score >= 0.97
    undated = run(exam, StoreSubject(embedder=None, dated=False), n=60, lengths=(8_000,))
    assert undated.interval[0] < 0.5 < undated.interval[1]
    shuffled = run(SortRecall(), Shuffled(StoreSubject(embedder=None)), n=40, lengths=(2_000,))
    assert shuffled.interval[0] < 0.5 < shuffled.interval[1] + 0.1


def test_order_within_one_piece_needs_no_times_but_a_hit():
    store = StoreSubject(embedder=None)
    exam = SortRecall(chunk=100_000)  # one piece is all
    assert run(exam, store, n=12, lengths=(600,)).score == 1


def test_a_store_is_read_once_for_items_that_show_the_same():
    exam, store = SortRecall(reads="book"), StoreSubject(embedder=None)
    items = exam.items(2, 2_000, 0, exam.estimate)
    store.read(items[0])
    held = store._memory
    store.read(items[1])
    assert store._memory is held
    store.write(items[1])
    store.read(items[1])  # asked or not: a conversation is read once for all questions on it
    assert store._memory is held
    store.close()


def test_a_reader_with_retrieval_is_shown_what_was_found_in_order():
    seen = []

    class Spy(Oracle):
        def read(self, item):
            seen.append(item)

    exam = SortRecall(reads="book")
    item = exam.items(1, 2_000, 0, exam.estimate)[0]
    retrieval = RetrievalSubject(Spy(exam), embedder=None)
    retrieval.read(item)
    for choice in item.choices:
        retrieval.weigh(choice)
        shown = seen[-1]
        assert len(shown.pieces) <= 4
        places = [item.context.index(piece.strip()) for piece in shown.pieces]
        assert places == sorted(places)
        joined = " ".join(piece.strip() for piece in shown.pieces)
        assert sum(text[:40] in joined for text in choice.earliest) == 2
    assert run(exam, RetrievalSubject(Spy(exam), embedder=None, in_order=False), n=4).score == 1


def test_a_model_is_asked_blind_and_from_its_weights(tmp_path):
    model = load_language_model(make_word_model(tmp_path, window=4_096), dtype="float32")
    exam = SortRecall()
    subject = ModelSubject(model)
    report = run(exam, subject, n=8, lengths=(300,))
    assert order(report).said_a is not None
    blind = run(exam, Blind(subject), n=8, lengths=(300,))
    assert blind.subject.endswith("blind")
    assert 0 <= best_prompt(subject, n=4, length=300) < 4

    before = [parameter.detach().clone() for parameter in model.model.parameters()]
    learner = WeightsSubject(model, epochs=6, lr=3e-3)
    text = exam.items(1, 300, 0, subject.count_tokens)[0].context
    unlearned = learner.perplexity(text)
    losses = learner.learn(text)
    assert losses[-1] < losses[0]
    assert learner.perplexity(text) < 0.7 * unlearned
    assert learner.learn(text) == []  # known already
    run(exam, learner, n=2, lengths=(300,))
    learner.close()
    assert all(bool((a == b).all()) for a, b in zip(before, model.model.parameters(), strict=True))
    with pytest.raises(InputError, match="float32"):
        WeightsSubject(load_language_model(make_word_model(tmp_path / "b"), dtype="bfloat16"))


def test_figures_of_chance():
    assert coin(5, 10) == 1
    assert coin(10, 10) == pytest.approx(2 / 1024)
    assert coin(8, 10) == pytest.approx(0.109375)
    assert uniformity([(i + 0.5) / 100 for i in range(100)]) > 0.999
    assert uniformity([(i / 100) ** 2 for i in range(100)]) < 0.001
    assert uniformity([]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--subject", "retrieval:oracle,shuffld"], "shuffled is"),
        (["--subject", "undated:memory:heap"], "heap"),
        (["--subject", "oracle", "--option", "book=/absent.txt"], "cannot be read"),
    ],
)
def test_unusable_input_is_said(words, message, capsys):
    assert main(["probe", "sort-recall", *words]) == 2
    assert message in capsys.readouterr().err


def test_from_the_command_line(tmp_path, capsys):
    book = tmp_path / "book.txt"
    book.write_text(chronicle(4_000, seed=5), encoding="utf-8")
    words = ["probe", "sort-recall", "--option", f"book={book}", "--option", "reads=book", "--n", "24", "--json"]
    scores = {}
    for subject in ("memory:plain", "undated:memory:plain"):
        assert main([*words, "--subject", subject, "--length", "1k"]) == 0
        said = json.loads(capsys.readouterr().out)
        scores[said["subject"]] = said["score"]
    assert scores["memory:plain"] >= 0.9
    assert scores["undated:memory:plain"] <= 0.75
    folder = make_word_model(tmp_path / "model", window=4_096)
    for subject in (f"blind:{folder}", f"weights:{folder}", f"retrieval:{folder}", f"retrieval:{folder},shuffled"):
        options = ["--subject", subject, "--n", "2", "--length", "300", "--json"]
        assert main(["probe", "sort-recall", *options]) == 0
        assert json.loads(capsys.readouterr().out)["form"] == "likelihood"
