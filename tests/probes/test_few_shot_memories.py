"""Few-shot memories: sets without leaks, students that learn, and an exam that sees who does not."""

from __future__ import annotations

import json

import pytest
import torch

from memspan.cli.main import main
from memspan.core.errors import InputError
from memspan.longterm.examined import StoreStudent
from memspan.models import load_language_model
from memspan.probes.few_shot_memories import KINDS, FewShotMemories, make_set, rouge
from memspan.probes.run import run
from memspan.probes.sentences import count_roughly
from memspan.probes.students import ModelStudent, Student
from memspan.probes.subjects import Guesser, ModelSubject, Oracle
from tests.word_model import make_word_model

TEXTS = [f"the {a} sat on a {b} and {c} a {d} run" for a, b, c, d in [("cat", "mat", "saw", "dog"), ("dog",) * 4]]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A random model of two layers, over fourteen words."""
    folder = make_word_model(tmp_path_factory.mktemp("model"), window=512)
    return ModelStudent(load_language_model(folder, dtype="float32"), "tiny")


# --- sets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_of_a_set_is_there_twice_and_a_seed_makes_the_same(kind):
    seen, foil = make_set(kind, 300, seed=3)
    assert (seen, foil) == make_set(kind, 300, seed=3)
    assert len(set(seen) | set(foil)) == 600
    assert make_set(kind, 20, seed=3)[0] == seen[:20]
    assert not set(seen) & set(make_set(kind, 300, seed=4)[0]) or kind in ("sentences", "one_word", "paraphrase")
    assert all(8 <= count_roughly(text) <= 128 for text in [*seen, *foil])


def test_the_kinds_differ_in_the_foil():
    for seen, foil in zip(*make_set("one_word", 100), strict=True):
        differing = [(a, b) for a, b in zip(seen.split(), foil.split(), strict=True) if a != b]
        assert len([pair for pair in differing if set(pair) != {"a", "an"}]) == 1
    for kind in ("sentences", "random_words"):
        pairs = list(zip(*make_set(kind, 100), strict=True))
        assert all(count_roughly(seen) == count_roughly(foil) for seen, foil in pairs)
    for seen, foil in zip(*make_set("gibberish_vs_real", 50), strict=True):
        assert sorted(seen.replace(" ", "")) == sorted(foil.replace(" ", ""))
    assert all(len(seen.split()) == 25 for seen in make_set("random_vs_real", 50)[0])
    for seen, foil in zip(*make_set("paraphrase", 100), strict=True):
        assert len(set(seen.split()) & set(foil.split())) < len(seen.split()) * 0.7


def test_a_users_text_makes_every_kind_of_set():
    made = make_set("sentences", 40, seed=8)[0]
    for kind in KINDS:
        seen, foil = make_set(kind, 8, corpus=made)
        assert len(set(seen) | set(foil)) == 16
        if kind in ("sentences", "one_word", "paraphrase"):
            assert set(seen) <= set(made)
    with pytest.raises(InputError, match="sentences for 20 pairs of the kind sentences, and 21 are asked for"):
        corpus = [f"{text} Number {'one two three four five'.split()[i % 5]}." for i, text in enumerate(made)]
        make_set("sentences", 21, corpus=corpus, count=lambda text: 10)
    with pytest.raises(InputError, match="no kind of set"):
        make_set("poems", 3)
    with pytest.raises(InputError, match="at least one pair"):
        make_set("sentences", 0)


def test_rouge_is_as_published():
    found = rouge("the cat sat", "the cat was on the mat")
    assert found["rouge1"] == pytest.approx(2 * 2 / 9)
    assert found["rouge2"] == pytest.approx(2 * 1 / 7)
    assert found["rougeL"] == pytest.approx(2 * 2 / 9)
    assert rouge("police killed the gunman", "the gunman police killed")["rougeL"] == pytest.approx(0.5)
    assert rouge("", "the cat") == {"rouge1": 0, "rouge2": 0, "rougeL": 0}
    assert set(rouge("The cat!", "the CAT").values()) == {1}


# --- students --------------------------------------------------------------------------------------------------------


def test_study_changes_a_copy_and_begin_takes_it_back(student):
    given = {name: value.clone() for name, value in student._given.model.state_dict().items()}
    student.begin()
    before = student.familiarity(TEXTS)
    assert student.study(TEXTS, exposures=20, batch=2, lr=5e-3, seed=0) == 20
    after = student.familiarity(TEXTS)
    assert all(b > a + 1 for a, b in zip(before, after, strict=True))
    assert student.complete(["the cat sat on"], [4]) == ["a mat and saw"]
    assert all(torch.equal(value, given[name]) for name, value in student._given.model.state_dict().items())
    student.begin()
    assert student.familiarity(TEXTS) == before


def test_a_text_is_as_familiar_alone_as_in_a_batch(student):
    student.begin()
    many = [TEXTS[0], "the cat", f"{TEXTS[1]} and the cat saw a dog", *TEXTS]
    together = student.familiarity(many)
    assert together == pytest.approx([student.familiarity([text])[0] for text in many], abs=1e-5)
    cues = ["the cat sat", "a dog saw the mat and the"]
    assert student.complete(cues, [3, 5]) == [student.complete([c], [n])[0] for c, n in zip(cues, [3, 5], strict=True)]
    ids = torch.tensor([student._given.tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        loss = student._given.model(ids, labels=ids).loss
    assert student.familiarity(TEXTS[:1])[0] == pytest.approx(-float(loss), abs=1e-5)  # the paper's mean token loss


def test_study_in_two_calls_is_study_in_one(student):
    found = []
    for cut in (4, 2):
        student.begin()
        for start in range(0, 4, cut):
            student.study((TEXTS * 2)[start : start + cut], batch=2, lr=1e-3)
        found.append(student.familiarity(TEXTS))
    assert found[0] == found[1]


def test_what_cannot_be_studied_is_said(student, tmp_path):
    with pytest.raises(InputError, match="at least 2 are needed"):
        student.study(["cat"])
    with pytest.raises(InputError, match="nothing to study"):
        student.study([])
    with pytest.raises(InputError, match="too small"):
        student.study(TEXTS, lr=0)
    small = load_language_model(make_word_model(tmp_path), dtype="bfloat16")
    with pytest.raises(InputError, match="load it with dtype='float32'"):
        ModelStudent(small)


def test_a_store_is_a_student_and_knows_again_what_it_wrote():
    subject = StoreStudent("plain", embedder=None)
    assert isinstance(subject, Student)
    exam = FewShotMemories(sets="all", shots=(0, 2), updates=5)
    report = run(exam, subject, n=10, lengths=(500,))
    cells = {(row["test"], row["set"], row["shots"]): row["score"] for row in report.table()}
    for kind in KINDS:
        assert cells["recall", kind, 0] == 0
        assert cells["recall", kind, 2] > 0.9
        assert cells["recognition", kind, 2] == 1
    empty = [item.score for item in report.items if item.id.startswith("recognition") and item.group["shots"] == 0]
    assert sum(empty) / len(empty) == pytest.approx(0.5, abs=0.2)  # an empty store knows nothing


# --- the exam --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "likelihood"])
def test_an_oracle_is_always_right_and_a_guesser_is_by_chance(form):
    exam = FewShotMemories(sets="all", updates=0)
    assert run(exam, Oracle(exam), n=10, lengths=(800, 1_200), form=form).score == 1
    guessed = run(exam, Guesser(exam), n=40, lengths=(2_400,), form=form)
    lots = {"recognition": [0.5], "recall": [0.25]}
    if form == "text":  # of four tails one is right, and the others share some words with it
        asked = [item for item in exam.items(40, 2_400, 0, exam.estimate) if item.recalls]
        lots["recall"] = [exam.grade(item, option).score for item in asked for option in item.choices[0].options]
    for test, expected in lots.items():
        rows = [item.score for item in guessed.items if item.group["test"] == test]
        assert sum(rows) / len(rows) == pytest.approx(sum(expected) / len(expected), abs=0.1)  # three standard errors


def test_a_model_that_studied_knows_and_one_that_did_not_does_not(student):
    chance = torch.Generator().manual_seed(0)
    words = "the cat sat on a mat and saw dog run".split()
    drawn = torch.randint(10, (400, 10), generator=chance).tolist()
    corpus = [" ".join(words[i] for i in row) for row in drawn]

    class OwnWords(FewShotMemories):
        def items(self, n, length, seed, count):
            import memspan.probes.few_shot_memories.exam as module

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "read_sentences", lambda path: corpus[:200] if path.name == "a" else corpus[200:])
                return super().items(n, length, seed, count)

    exam = OwnWords(shots=(0, 40), updates=(0, 20), lr=5e-3, later_lr=5e-3, text="a", later="b")
    report = run(exam, student, n=10, lengths=(100,))
    scores = {(row["test"], row["shots"], row["updates"]): row["score"] for row in report.table()}
    assert report.form == "text"
    assert 0.2 < scores["recognition", 0, 0] < 0.8
    assert scores["recognition", 40, 0] == 1
    assert scores["recall", 40, 0] > 3 * scores["recall", 0, 0]
    assert scores["recall", 40, 20] < scores["recall", 40, 0]


def test_a_run_that_goes_on_studies_again_and_ends_the_same(student, tmp_path):
    exam = FewShotMemories(shots=2, updates=(0, 2, 4), lr=1e-2, later_lr=1e-2)
    whole = run(exam, student, n=3, lengths=(200,), out=tmp_path)
    kept = next(tmp_path.glob("*.jsonl"))
    kept.write_text("".join(line + "\n" for line in kept.read_text().splitlines()[:15]))  # amid the last point
    again = run(exam, student, n=3, lengths=(200,), out=tmp_path)
    assert [(item.id, item.said) for item in again.items] == [(item.id, item.said) for item in whole.items]
    with pytest.raises(InputError, match="another options"):
        run(FewShotMemories(shots=2, updates=(0, 2, 4), lr=1e-3), student, n=3, lengths=(200,), out=tmp_path)


def test_whoever_cannot_study_reads_the_list(tmp_path):
    model = ModelSubject(load_language_model(make_word_model(tmp_path, window=4_096), dtype="float32"))
    exam = FewShotMemories(updates=(0, 1))
    assert run(exam, model, n=2, lengths=(300,), form="likelihood").n == 8
    item = exam.items(2, 300, 0, exam.estimate)[0]
    assert item.texts[0] in item.context
    assert item.choices[0].options[item.choices[0].right] in item.context
    assert item.choices[0].options[1 - item.choices[0].right] not in item.context


def test_answers_are_marked():
    exam = FewShotMemories(updates=0)
    asked = {item.group["test"]: item for item in exam.items(5, 300, 0, exam.estimate)}
    for said, score, parsed in (("{}", 1, True), ("It is {}.", 1, True), ("neither", 0, False)):
        grade = exam.grade(asked["recognition"], said.format(asked["recognition"].answer))
        assert (grade.score, grade.parsed) == (score, parsed)
    recall = asked["recall"]
    assert exam.grade(recall, f"{recall.cue} {recall.answer}").more["exact"] == 1  # the cue said again costs nothing
    assert exam.grade(recall, "").parsed is False
    half = exam.grade(recall, recall.answer.split()[0])
    assert 0 < half.score < half.more["whole_rougeL"] < 1
    assert FewShotMemories(whole=True).grade(recall, recall.answer.split()[0]).score == half.more["whole_rougeL"]
    assert recall.cue + " " + recall.answer in recall.texts
    assert exam.estimate(recall.cue) <= exam.estimate(f"{recall.cue} {recall.answer}") / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": "one_word,poems"}, "choose of sentences"),
        ({"tests": "taste"}, "choose of recognition"),
        ({"shots": -1}, "whole numbers from 0 on"),
        ({"updates": (0, 1.5)}, "whole numbers from 0 on"),
        ({"sets": ()}, "a value each"),
        ({"lr": 0.0}, "must be above 0"),
        ({"depth": 3}, "no such option"),
    ],
)
def test_unusable_settings_are_said(options, message):
    with pytest.raises(InputError, match=message):
        FewShotMemories(**options)


def test_texts_that_are_too_few_are_said(tmp_path):
    exam = FewShotMemories()
    with pytest.raises(InputError, match="of the texts of the set sentences, and 80 are"):
        exam.items(80, 300, 0, exam.estimate)
    with pytest.raises(InputError, match="at least 100 tokens"):
        run(exam, Oracle(exam), lengths=(50,))
    book = tmp_path / "book.txt"
    book.write_text("Short. " * 50)
    with pytest.raises(InputError, match="the text holds 0 of the texts"):
        FewShotMemories(text=str(book)).items(2, 300, 0, exam.estimate)
    with pytest.raises(InputError, match="later has 0 sentences"):
        FewShotMemories(later=str(book)).items(2, 300, 0, exam.estimate)
    book.write_text("")
    with pytest.raises(InputError, match="holds no sentence"):
        FewShotMemories(text=str(book)).items(2, 300, 0, exam.estimate)
    with pytest.raises(InputError, match="cannot be read"):
        FewShotMemories(text=str(tmp_path / "absent")).items(2, 300, 0, exam.estimate)


def test_from_the_command_line(tmp_path, capsys):
    folder = make_word_model(tmp_path / "model", window=512)
    words = ["probe", "few-shot-memories", "--length", "200", "--n", "2", "--out", str(tmp_path / "out")]
    options = ["--option", "updates=0,2", "--option", "shots=1"]
    assert main([*words, *options, "--subject", str(folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["exam"], said["n"], said["form"]) == ("few-shot-memories", 8, "text")
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".jsonl", ".png"}
    assert main([*words[:4], "--n", "2", *options, "--subject", "memory:plain"]) == 0
    assert "recognition" in capsys.readouterr().out
    assert main([*words, "--subject", "shuffled:bundled"]) == 2
    assert "no shuffled subjects" in capsys.readouterr().err
