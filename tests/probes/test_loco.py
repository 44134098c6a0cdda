"""LoCo: documents whose answer stands late, splits that share nothing, and subjects that read too little."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

from memspan.cli.main import main
from memspan.core.errors import InputError
from memspan.longterm.examined import StoreRetriever
from memspan.models import load_language_model
from memspan.probes.find import ALIASES, find_exam
from memspan.probes.loco import BEYOND, TASKS, Loco
from memspan.probes.retrievers import LikelihoodRetriever, Retriever, VectorRetriever, WordRetriever, ndcg
from memspan.probes.run import run
from memspan.probes.sentences import made_up, split_sentences
from memspan.probes.subjects import Guesser, Oracle
from tests.word_model import make_word_model

SMALL = {"documents": 8}


class _Words:
    """An embedder of word counts that reads the first words of a text."""

    name = fingerprint = "words"
    dim = 4096

    def __init__(self, most=10**9):
        self._most = most

    def embed(self, texts, *, progress=False):
        out = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split()[: self._most]:
                out[row, sum(map(ord, word)) * 31 % self.dim] += 1
        return out / np.linalg.norm(out, axis=1, keepdims=True).clip(1e-9)


def book(seed, lines=900):
    """A text of made-up sentences."""
    source = made_up(random.Random(seed))
    return "\n".join(next(source).text for _ in range(lines))


@pytest.mark.parametrize("length", [700, 2_000])
def test_what_is_asked_about_stands_late_and_in_one_document_only(length):
    exam = Loco(**SMALL)
    items = exam.items(24, length, 0, exam.estimate)
    assert [sum(item.group["task"] == task for item in items) for task in TASKS] == [8, 8, 8]
    for item in items:
        (right,) = item.answer
        sizes = [exam.estimate(document) for document in item.documents]
        assert length * 0.9 < min(sizes) <= max(sizes) <= length * 1.02
        assert len(set(item.documents)) == 8
        if item.group["task"] == "late_key":
            holders = [i for i, document in enumerate(item.documents) if item.query in document]
            assert holders == [right]
            before = item.documents[right].index(item.query)
            assert exam.estimate(item.documents[right][:before]) >= max(BEYOND, 0.75 * length) * 0.98
        else:
            assert not any(item.query in document for document in item.documents)
        assert len(set(item.choices[0].options)) == 4
        assert item.choices[0].options[item.choices[0].right] == f" {right + 1}"
        assert "".join(item.pieces) == item.context
    assert len({item.id for item in items}) == 24
    assert items == exam.items(24, length, 0, exam.estimate)
    assert not {item.query for item in items} & {item.query for item in exam.items(24, length, 1, exam.estimate)}


@pytest.mark.parametrize("of_a_user", [0, 1, 3])
def test_the_splits_share_no_sentence(of_a_user, tmp_path):
    for i in range(of_a_user):
        (tmp_path / f"{i}.txt").write_text(
            book(i) + "\nThis sentence of eight words is in both halves.\n" + book(i + 9)
        )
    text = {0: "", 1: str(tmp_path / "0.txt")}.get(of_a_user, str(tmp_path))
    held = {}
    for split in ("test", "train"):
        exam = Loco(split=split, text=text, documents=5)
        every = [one for task in TASKS for one in exam.collection(task, 5, 900, 0, exam.estimate)]
        held[split] = {line for one in every for line in split_sentences(one.document)}
        assert len(held[split]) > 100
    assert not held["test"] & held["train"]


def test_a_users_books_are_asked_about_as_well(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(book(4))
    exam = Loco(text=str(path), documents=6)
    items = exam.items(18, 900, 0, exam.estimate)
    text = " ".join(path.read_text().split())
    for item in items:
        (right,) = item.answer
        assert all(document in text for document in item.documents)
        if item.group["task"] == "late_key":
            assert item.query in item.documents[right]
        elif item.group["task"] == "global":
            assert f"{item.query} {item.documents[right]}" in text
    with pytest.raises(InputError, match="has 0 documents of 90,000 tokens for late_key"):
        exam.items(3, 90_000, 0, exam.estimate)


def test_ndcg_is_as_defined():
    assert ndcg([4, 2, 7], [2]) == pytest.approx(1 / math.log2(3))
    assert ndcg([4, 2, 7], [4, 7]) == pytest.approx((1 + 1 / 2) / (1 + 1 / math.log2(3)))
    assert ndcg(list(range(20)), [10]) == 0
    assert ndcg(list(range(20)), [10], 100) > 0
    assert ndcg([], [1]) == 0


@pytest.mark.parametrize("form", ["text", "likelihood"])
def test_an_oracle_is_always_right_and_a_guesser_is_by_chance(form):
    exam = Loco(documents=20)
    assert run(exam, Oracle(exam), n=12, lengths=(700, 1_000), form=form).score == 1
    guessed = run(exam, Guesser(exam), n=60, lengths=(700, 800), form=form)
    chance = 0.25 if form == "likelihood" else sum(1 / math.log2(rank + 1) for rank in range(1, 11)) / 20
    assert guessed.interval[0] < chance < guessed.interval[1]


@pytest.mark.parametrize("form", ["text", "likelihood"])
def test_whoever_reads_the_beginning_alone_fails_where_the_answer_is_late(form):
    exam = Loco(documents=12, tasks="late_key")
    whole = run(exam, VectorRetriever(_Words(), "whole", split_sentences), n=12, lengths=(900,), form=form)
    first = run(exam, VectorRetriever(_Words(256), "first"), n=12, lengths=(900,), form=form)
    assert whole.score == 1
    assert first.score < 0.75


def test_other_words_are_harder_than_the_same():
    scores = {
        task: run(Loco(documents=20, tasks=task), WordRetriever(), n=20, lengths=(900,)).score
        for task in ("late_key", "late_paraphrase")
    }
    assert scores["late_key"] > scores["late_paraphrase"] + 0.3


def test_bm25_is_as_defined():
    (scores,) = WordRetriever().rank(["cat mat"], ["the cat sat", "a dog", "the mat the mat"])
    mean = 3.0
    idf = math.log(1 + (3 - 1 + 0.5) / 1.5)
    assert scores[0] == pytest.approx(idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 3 / mean)))
    assert scores[1] == 0
    assert scores[2] == pytest.approx(idf * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 4 / mean)))


def test_stores_and_language_models_rank(tmp_path):
    exam = Loco(documents=6, tasks="late_key")
    store = StoreRetriever("plain", embedder=None)
    assert isinstance(store, Retriever)
    assert run(exam, store, n=6, lengths=(700,)).score == 1
    model = load_language_model(make_word_model(tmp_path, window=512), dtype="float32")
    ranker = LikelihoodRetriever(model, "tiny")
    queries, documents = ["the cat sat", "a dog run"], ["the cat saw a mat", "the dog", "a run on the mat"]
    table = ranker.rank(queries, documents)
    alone = [[ranker.rank([query], [document])[0][0] for document in documents] for query in queries]
    assert np.allclose(table, alone, atol=1e-4)
    with pytest.raises(InputError, match="context window"):
        ranker.rank(queries, ["the cat " * 400])
    with pytest.raises(InputError, match="exams of retrieval alone"):
        WordRetriever().write(exam.items(1, 700, 0, exam.estimate)[0])


def test_answers_are_marked():
    exam = Loco(**SMALL)
    item = exam.items(1, 700, 0, exam.estimate)[0]
    right, wrong = item.answer[0] + 1, (item.answer[0] + 1) % 8 + 1
    assert exam.grade(item, f"Text {right}.").score == 1
    grade = exam.grade(item, f"{wrong}, {wrong}, {right}")
    assert grade.score == pytest.approx(1 / math.log2(3))
    assert grade.more["ndcg1"] == 0
    assert exam.grade(item, "none of them").parsed is False


def test_rows_of_locov1_are_read_in_their_own_split(tmp_path):
    documents = [{"pid": f"p{i}", "dataset": "qmsum", "passage": f"Passage {i} about number {i}."} for i in range(5)]
    queries = [
        {"qid": f"q{i}", "dataset": "qmsum", "query": f"number {i}", "answer_pids": [f"p{i}"], "split": split}
        for i, split in enumerate(["test", "train", "test", "train"])
    ]
    for name, rows in (("documents", documents), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    exam = Loco(data=str(tmp_path))
    report = run(exam, WordRetriever(), n=9)
    assert (report.score, report.n) == (1, 2)
    assert run(Loco(data=str(tmp_path), split="train"), Oracle(exam), n=1).items[0].id.startswith("qmsum")
    with pytest.raises(InputError, match="no set 'govreport'; it has: qmsum"):
        run(Loco(data=str(tmp_path), tasks="govreport"), Oracle(exam))
    (tmp_path / "queries.jsonl").write_text('{"qid": 3}\n')
    with pytest.raises(InputError, match="no rows of LoCoV1"):
        run(exam, Oracle(exam))
    (tmp_path / "queries.jsonl").write_text("no json\n")
    with pytest.raises(InputError, match="cannot be read as JSON lines"):
        run(exam, Oracle(exam))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "early_key"}, "choose of late_key"),
        ({"tasks": ()}, "is no task"),
        ({"documents": 1}, "at least 2"),
        ({"split": "validation"}, "choose test or train"),
        ({"text": "a", "data": "b"}, "both given"),
    ],
)
def test_unusable_settings_are_said(options, message):
    with pytest.raises(InputError, match=message):
        Loco(**options)


def test_what_cannot_be_searched_is_said(tmp_path):
    exam = Loco(**SMALL)
    with pytest.raises(InputError, match="9 questions of late_key are more than its 8 documents"):
        exam.items(25, 700, 0, exam.estimate)
    with pytest.raises(InputError, match="at least 700 tokens"):
        run(exam, Oracle(exam), lengths=(512,))
    with pytest.raises(InputError, match="holds no "):
        Loco(text=str(tmp_path)).items(3, 700, 0, exam.estimate)


def test_every_other_name_of_an_exam_is_one():
    for name in ALIASES:
        assert find_exam(name).slug == name


def test_from_the_command_line(tmp_path, capsys):
    words = ["probe", "loco", "--n", "3", "--option", "documents=4", "--length", "700"]
    for subject in ("bm25", "oracle", "memory:plain"):
        assert main([*words, "--subject", subject, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["exam"], said["subject"], said["n"]) == ("loco", subject, 3)
    folder = make_word_model(tmp_path / "model", window=4_096)
    for subject in (str(folder), f"context:window@256KiB:{folder}"):
        assert main([*words, "--subject", subject, "--json", "--option", "tasks=global"]) == 0
        assert json.loads(capsys.readouterr().out)["estimated"] is False
    assert main(["probe", "needle-threading", "--subject", "bm25"]) == 2
    assert "it can sit loco" in capsys.readouterr().err
    assert main([*words, "--subject", "shuffled:bm25"]) == 2
    assert "no shuffled subjects" in capsys.readouterr().err
