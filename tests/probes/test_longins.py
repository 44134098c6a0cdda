"""Papers: what is wrong in them is wrong, where it is said to be, and replies are scored."""

from __future__ import annotations

import json
import re

import pytest

from memspan.cli.main import main
from memspan.core.errors import InputError
from memspan.models import load_language_model
from memspan.probes.longins import (
    QA,
    LongIns,
    build,
    by_depth,
    made_pool,
    marked,
    pool_of,
    read_pool,
    score,
    solvable,
)
from memspan.probes.longins.pools import TYPES
from memspan.probes.run import run
from memspan.probes.statistics import uniformity
from memspan.probes.subjects import Guesser, ModelSubject, Oracle, Shuffled
from tests.word_model import make_word_model

POOL = made_pool()
RIGHT = {(qa.task, qa.input): qa.output for qa in POOL}


def groups(item):
    """What a reader sees: number, instruction, question and answer of each group."""
    found = re.findall(r"\[(\d+)\. (?:Instruction: (.*)\n)?Question: (.*)\nAnswer: (.*)\]", item.context)
    return [(int(number), instruction, asked, said) for number, instruction, asked, said in found]


@pytest.mark.parametrize("mode", ["GIST", "LIST", "LIMT"])
@pytest.mark.parametrize("length", [256, 1024, 4096])
def test_what_is_said_to_be_wrong_is_wrong_and_nothing_else(mode, length):
    exam = LongIns(modes=mode)
    by_input = {}
    for qa in POOL:
        by_input.setdefault(qa.input, []).append(qa)
    for item in exam.items(12, length, 2, exam.estimate):
        seen = groups(item)
        assert [number for number, *_ in seen] == list(range(1, item.group["pairs"] + 1))
        assert len({(instruction, asked) for _, instruction, asked, _ in seen}) == len(seen)
        wrong = []
        for number, instruction, asked, said in seen:
            assert bool(instruction) == (mode != "GIST")
            qa = next(
                one
                for one in by_input[asked]
                if (instruction and one.instruction == instruction) or one.task == item.group["task"]
            )
            if said != qa.output:
                wrong.append(number)
        assert wrong == item.answer
        assert len(item.answer) >= 1
        assert abs(len(item.answer) - 0.1 * len(seen)) <= 1
        for (_, _, _, said), choice in zip(seen, item.choices, strict=True):
            assert item.context[choice.upto :].startswith(f" {said}]")
            assert choice.options[0] == f" {said}"
        assert [i + 1 for i, choice in enumerate(item.choices) if choice.right == 1] == item.answer
        assert "\n".join(item.pieces) == item.context


def test_papers_fill_the_length_to_a_question():
    exam = LongIns(modes=("GIST", "LIST"))
    for length in (256, 512, 1024, 2048, 4096, 8192, 16384):
        for item in exam.items(4, length, 0, exam.estimate):
            each = max(exam.estimate(piece) for piece in item.pieces[1:])
            assert length - each - 3 <= item.group["tokens"] <= length


def test_wrong_answers_stand_anywhere_or_where_they_are_asked_for():
    exam = LongIns(modes="GIST", tasks="arithmetic")
    depths = [
        (number - 0.5) / item.group["pairs"]
        for item in exam.items(150, 700, 0, exam.estimate)
        for number in item.answer
    ]
    assert uniformity(depths) > 0.01
    late = LongIns(modes="GIST", depth=(0.8, 1.0))
    for item in late.items(6, 1500, 0, late.estimate):
        assert min(item.answer) > 0.75 * item.group["pairs"]
    few = LongIns(pairs=12)
    assert {item.group["pairs"] for item in few.items(6, 2048, 0, few.estimate)} == {12}


def test_the_number_of_wrong_answers_cannot_be_guessed():
    exam = LongIns(modes="GIST", tasks="arithmetic", pairs=40)
    assert {len(item.answer) for item in exam.items(40, 2048, 0, exam.estimate)} == {3, 4, 5}


def test_the_same_seed_makes_the_same_papers():
    exam = LongIns()
    assert exam.items(6, 600, 4, exam.estimate) == LongIns().items(6, 600, 4, exam.estimate)
    assert exam.items(6, 600, 4, exam.estimate) != exam.items(6, 600, 5, exam.estimate)
    assert len({item.context for item in exam.items(12, 600, 4, exam.estimate)}) == 12


@pytest.mark.parametrize("form", ["text", "likelihood"])
def test_an_oracle_is_always_right_and_a_guesser_as_often_as_chance(form):
    exam = LongIns()
    assert run(exam, Oracle(exam), n=12, lengths=(256, 2048), form=form).score == 1
    exam = LongIns(modes="GIST", tasks=("arithmetic", "comparison"))
    guessed = run(exam, Guesser(exam), n=200, lengths=(1024,), form=form)
    assert guessed.score == pytest.approx(0.1, abs=0.03)
    if form == "likelihood":
        assert guessed.interval[0] < guessed.chance < guessed.interval[1]


def test_calling_everything_wrong_scores_what_it_must():
    exam = LongIns(pairs=20, modes="GIST", error_rate=0.2)
    for item in exam.items(5, 2048, 0, exam.estimate):
        share = len(item.answer) / 20
        assert exam.grade(item, str(list(range(1, 21)))).score == pytest.approx(2 * share / (1 + share))
        assert exam.grade(item, "[]").score == 0


@pytest.mark.parametrize(
    ("reply", "strict", "loose"),
    [
        ("[3, 7]", {3, 7}, {3, 7}),
        ("Wrong: [3 and 7].", {3, 7}, {3, 7}),
        ("[1]\nNo, rather [3;7]", {3, 7}, {1, 3, 7}),
        ("[Question 3: 12+5] is wrong, so [3]", {3}, {3, 12, 5}),
        ("[]", set(), set()),
        ("3 and 7", None, None),
        ("[Question 3]", None, {3}),
    ],
)
def test_replies_are_read_strictly_and_loosely(reply, strict, loose):
    assert marked(reply) == strict
    assert marked(reply, strict=False) == loose


def test_scores_are_f1():
    found = score("[1, 2, 3]", {2, 3, 4, 5})
    assert (found.precision, found.recall, found.parsed) == (2 / 3, 0.5, True)
    assert found.f1 == pytest.approx(4 / 7)
    assert score("no idea", {1}).parsed is False
    with pytest.raises(InputError, match="cannot be scored"):
        score("[1]", set())


def test_reports_tell_where_wrong_answers_were_found():
    class Forgetful(Oracle):  # sees the first third only
        def write(self, item):
            return str([n for n in item.answer if n <= item.group["pairs"] / 3] or [0])

    exam = LongIns(modes="GIST", tasks="comparison")
    found = by_depth(run(exam, Forgetful(exam), n=12, lengths=(1024,), form="text"))
    assert found["first third"][1] == 1
    assert found["middle third"][1] == found["last third"][1] == 0


def test_the_made_pool_is_right_and_has_every_type():
    assert {qa.type for qa in POOL} == set(TYPES)
    assert len(RIGHT) == len(POOL)
    assert all(qa.output not in qa.wrong for qa in POOL)
    for qa in POOL:
        if qa.task == "arithmetic":
            assert eval(qa.input) == int(qa.output)
        if qa.task == "comparison":
            assert max(map(int, qa.input.split(" or "))) == int(qa.output)


# --- a user's own questions ------------------------------------------------------------------------------------------


def test_pairs_of_instruction_and_answer_are_enough():
    pairs = [(f"What is the capital of country {i}?", f"city {i % 7}") for i in range(60)]
    item = build(pairs, "GIST", 600, seed=1)
    truth = dict(pairs)
    assert [n for n, _, asked, said in groups(item) if truth[asked] != said] == item.answer
    item = build(pairs, "LIST", 600, tokenizer=lambda text: len(text.split()), pairs=20)
    assert item.group["pairs"] == 20


def test_another_right_answer_is_never_the_wrong_one():
    rows = [
        QA(task="t", instruction="Name a colour of the flag.", input=f"flag {i % 30}", output=colour)
        for i in range(60)
        for colour in (("red", "blue") if i % 2 else ("green", "blue"))
    ]
    allowed = {}
    for row in rows:
        allowed.setdefault(row.input, set()).add(row.output)
    for seed in range(20):
        for choice, (_, _, asked, said) in zip(
            (item := build(rows, "GIST", 900, seed=seed, pairs=15)).choices, groups(item), strict=True
        ):
            assert (said in allowed[asked]) == (choice.right == 0)


def test_pools_are_read_from_files(tmp_path):
    lines = tmp_path / "pool.jsonl"
    rows = [{"instruction": "Add.", "input": f"{i}+{i}", "output": str(2 * i), "task": "sums"} for i in range(40)]
    rows += [{"instruction": "Say the opposite.", "input": f"word {i}", "answer": f"no {i}"} for i in range(40)]
    lines.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    assert {qa.task for qa in read_pool(str(lines))} == {"sums", "Say the opposite."}
    task = {
        "Definition": ["Say whether it is a bird."],
        "Categories": ["Text Categorization"],
        "Instances": [{"input": f"animal {i}", "output": ["yes" if i % 3 else "no", "y" * (i % 3)]} for i in range(50)],
    }
    (tmp_path / "task1.json").write_text(json.dumps(task), encoding="utf-8")
    for place in (tmp_path, tmp_path / "task1.json"):
        pool = read_pool(str(place))
        assert (pool[0].task, pool[0].type, len(pool)) == ("task1", "Text Categorization", 50)
    exam = LongIns(pool=str(lines), modes="LIMT")
    assert run(exam, Oracle(exam), n=4, lengths=(500,), form="text").score == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"instruction": "x"}', "row 1 needs"),
        ("a.jsonl", '["x", "y"]\n{', "line 2 is not JSON"),
        ("a.jsonl", "3", "row 1 is no object"),
        ("a.jsonl", "", "holds no question"),
        ("a.jsonl", '["a", "x"]\n["b", "x"]\n["c", "x"]', "no task of 3 questions with different answers"),
        ("a.json", '{"Instances": []}', "no task of Super-NaturalInstructions"),
    ],
)
def test_pools_that_cannot_be_read_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        _ = LongIns(pool=str(tmp_path / name)).pool
    with pytest.raises(InputError, match="cannot be read"):
        read_pool(str(tmp_path / "absent.jsonl"))


def test_what_does_not_fit_is_said():
    pairs = [(f"question {i}?", str(i)) for i in range(20)]
    with pytest.raises(InputError, match="no task of the pool fills 5,000 tokens"):
        build(pairs, length=5_000)
    with pytest.raises(InputError, match="fewer than 30 questions"):
        build(pairs, length=400, pairs=30)
    with pytest.raises(InputError, match="fewer than 3 questions"):
        build(pairs, length=60)
    for options in (
        {"modes": "LOST"},
        {"error_rate": 0},
        {"pairs": 2},
        {"depth": (1, 0)},
        {"modes": ()},
    ):
        with pytest.raises(InputError):
            LongIns(**options)
    with pytest.raises(InputError, match="is no task of the pool"):
        _ = LongIns(tasks="cooking").pool
    assert pool_of([("a", "b")])[0].output == "b"


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_paper_read_once_weighs_as_one_read_again_for_every_answer(tmp_path):
    model = load_language_model(make_word_model(tmp_path, window=4_096), dtype="float32")
    pool = [(f"{a} {b} the dog", c) for a in ("cat", "mat", "on") for b in ("sat", "run", "saw", "a") for c in [b]]
    exam, subject = LongIns(), ModelSubject(model)
    item = build(pool, "LIST", 800, tokenizer=model.tokenizer, pairs=8, seed=3)
    subject.read(item)
    once = [subject.weigh(choice) for choice in item.choices]
    for choice, figures in zip(item.choices, once, strict=True):
        alone = model.loglik(item.context[: choice.upto], choice.options)
        counts = [model.count_tokens(option) for option in choice.options]
        assert figures == pytest.approx([one / n for one, n in zip(alone, counts, strict=True)], abs=1e-4)
    assert 0 <= exam.judge(item, once).score <= 1
    with pytest.raises(InputError, match="judges no task"):
        solvable(subject, tasks=["arithmetic"], least=1.01, n=10)
    shuffled = Shuffled(subject)
    shuffled.read(item)
    with pytest.raises(InputError, match="let it write"):
        shuffled.weigh(item.choices[0])


def test_from_the_command_line(tmp_path, capsys):
    pool = tmp_path / "pool.jsonl"
    rows = [[f"How many legs have {i} dogs?", str(4 * i)] for i in range(2, 90)]
    pool.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ["probe", "longins", "--length", "300,600", "--n", "6"]
    assert main([*words, "--option", f"pool={pool}", "--subject", "oracle", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["exam"], said["score"], said["n"]) == ("longins", 1.0, 12)
    assert main([*words, "--subject", "guesser", "--form", "likelihood", "--out", str(tmp_path / "out")]) == 0
    assert "chance is" in capsys.readouterr().out
    folder = make_word_model(tmp_path / "model", window=4_096)
    for subject in (str(folder), f"context:window@256KiB:{folder}"):
        options = ["--n", "1", "--option", "modes=GIST", "--option", "pairs=5", "--json"]
        assert main([*words[:2], "--subject", subject, *options]) == 0
        assert json.loads(capsys.readouterr().out)["form"] == "likelihood"
    assert main([*words, "--subject", "oracle", "--option", "pool=/absent.jsonl"]) == 2
    assert "cannot be read" in capsys.readouterr().err
