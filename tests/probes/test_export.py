"""Exported exams: the files are whole, the marks are the exam's, and the real tools read them."""

from __future__ import annotations

import json

import pytest

from memspan.cli.main import main
from memspan.core.errors import InputError
from memspan.probes.episodic import Episodic
from memspan.probes.export import export, marked, rows
from memspan.probes.needle_threading import NeedleThreading

N = 12


def exported(folder, format, exam=None):
    exam = exam or Episodic()
    return exam, export(exam, exam.items(N, 600, 0, exam.estimate), format, folder)


@pytest.mark.parametrize("exam", [Episodic(), NeedleThreading(tasks=("single", "conditional"))])
def test_marks_are_those_of_the_exam(tmp_path, exam):
    _, files = exported(tmp_path, "lm-eval", exam)
    stem = exam.slug.replace("-", "_")
    assert {path.name for path in files} == {
        *(f"{stem}_{form}.{end}" for form in ("text", "likelihood") for end in ("jsonl", "yaml")),
        f"{stem}_lm_eval.py",
    }
    for row in rows(tmp_path / f"{stem}_text.jsonl"):
        assert marked(row, row["target"]) == {"score": 1.0, "parsed": 1.0}
        assert marked(row, "purple elephants")["score"] == 0
    for row in rows(tmp_path / f"{stem}_likelihood.jsonl"):
        assert 0 <= row["right"] < len(row["options"])


def test_from_the_command_line(tmp_path, capsys):
    words = ["probe", "episodic", "--n", "6", "--length", "500", "--out", str(tmp_path)]
    assert main([*words, "--export", "inspect", "--form", "text", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["items"] == 6
    assert {path.name for path in tmp_path.iterdir()} == {"episodic_text.jsonl", "episodic_inspect.py"}
    compile((tmp_path / "episodic_inspect.py").read_text(), "task", "exec")
    assert main(["probe", "episodic", "--export", "inspect"]) == 2
    assert "--out DIR" in capsys.readouterr().err


def test_what_cannot_be_exported_is_said(tmp_path):
    exam = Episodic()
    with pytest.raises(InputError, match="choose lm-eval or inspect"):
        export(exam, exam.items(1, 500, 0, exam.estimate), "csv", tmp_path)
    with pytest.raises(InputError, match="no items"):
        export(exam, [], "inspect", tmp_path)
    with pytest.raises(InputError, match="no exported items"):
        rows(tmp_path / "absent.jsonl")

    class Teaches(Episodic):
        def sit(self, subject, items, form):
            raise NotImplementedError

    with pytest.raises(InputError, match="more of a subject than reading"):
        export(Teaches(), exam.items(1, 500, 0, exam.estimate), "inspect", tmp_path)


@pytest.mark.filterwarnings("ignore")  # of the other packages
def test_lm_evaluation_harness_reads_it(tmp_path):
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class Sure(LM):
        """Right, or always for the first option and silent."""

        def __init__(self, right):
            super().__init__()
            self.right = right

        def loglikelihood(self, requests):
            wanted = [r.doc["right"] if self.right else 0 for r in requests]
            return [(0.0 if r.idx == place else -9.0, False) for r, place in zip(requests, wanted, strict=True)]

        def generate_until(self, requests):
            return [r.doc["target"] if self.right else "purple elephants" for r in requests]

        def loglikelihood_rolling(self, requests):
            raise NotImplementedError

    exported(tmp_path, "lm-eval")
    names = ["memspan_episodic_text", "memspan_episodic_likelihood"]
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    for right in (True, False):
        found = lm_eval.simple_evaluate(model=Sure(right), tasks=names, task_manager=manager, bootstrap_iters=0)
        text, choice = (found["results"][name] for name in names)
        assert text["score,none"] == text["parsed,none"] == float(right)
        assert choice["acc,none"] == 1 if right else choice["acc,none"] < 0.8
        assert found["n-samples"][names[0]]["effective"] == N


@pytest.mark.filterwarnings("ignore")  # of the other packages
def test_inspect_reads_it(tmp_path):
    pytest.importorskip("inspect_ai")
    from inspect_ai import eval as evaluate
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    def said(text):
        output = ModelOutput.from_content("mockllm/model", text)
        output.usage = ModelUsage()  # else tokens are counted with a vocabulary that is downloaded
        return output

    exported(tmp_path, "inspect")
    targets = [row["target"] for row in rows(tmp_path / "episodic_text.jsonl")]
    letters = [f"ANSWER: {'ABCDEF'[row['right']]}" for row in rows(tmp_path / "episodic_likelihood.jsonl")]
    for task, right in (("text", targets), ("choice", letters)):
        for texts, score in ((right, 1.0), (["purple elephants"] * N, 0.0)):
            model = get_model(
                "mockllm/model",
                custom_outputs=[said(text) for text in texts],
                memoize=False,
            )
            (log,) = evaluate(
                f"{tmp_path / 'episodic_inspect.py'}@episodic_{task}",
                model=model,
                max_connections=1,
                log_dir=str(tmp_path / "logs"),
                display="none",
            )
            assert log.status == "success", log.error
            metrics = log.results.scores[0].metrics
            assert metrics["mean" if task == "text" else "accuracy"].value == score
