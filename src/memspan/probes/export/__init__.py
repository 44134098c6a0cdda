"""Exams as tasks of other evaluation tools: lm-evaluation-harness and inspect.

`export` writes items as JSON lines, one file a form, with the few lines of configuration that the tool wants, and the
tool then calls memspan's own marks: a written answer is graded by the exam. By likelihood each choice is a document of
its own, and the tool compares the options in its way: lm-evaluation-harness by their sums of log-probabilities (acc)
and by these over characters (acc_norm), inspect by asking for a letter. memspan itself takes the mean of the tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from memspan.core.errors import InputError, StoreError
from memspan.probes.base import Exam, Form, Item

Format = Literal["lm-eval", "inspect"]
FORMATS: tuple[Format, ...] = get_args(Format)


def export(exam: Exam, items: Sequence[Item], format: Format, folder: Path, form: Form | None = None) -> list[Path]:
    """Write a task.

    Args:
        items: of the exam; at least one.
        format: the tool that reads it.
        folder: where its files go; other exams may lie there too.
        form: one form alone; None writes all that the exam has.

    Returns:
        The files.

    Raises:
        InputError: an unknown format or form, no items, or an exam that needs more of a subject than reading.
        StoreError: the folder cannot be written.
    """
    if format not in FORMATS:
        raise InputError(f"format is {format!r}: choose {' or '.join(FORMATS)}")
    if type(exam).sit is not Exam.sit:
        raise InputError(f"{exam.slug} needs more of a subject than reading, and is no task that can be exported")
    forms = [
        one for one in exam.forms if form in (None, one) and (one == "text" or any(item.choices for item in items))
    ]
    if not items or not forms:
        raise InputError(f"{exam.slug} has no items to export" + (f" in the form {form}" if form else ""))
    stem = exam.slug.replace("-", "_")
    texts: dict[str, str] = {}
    for one in forms:
        rows = _text_rows(exam, items) if one == "text" else _choice_rows(items)
        texts[f"{stem}_{one}.jsonl"] = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if format == "lm-eval":
            longest = max(item.new_tokens for item in items)
            template = _TEXT_YAML if one == "text" else _CHOICE_YAML
            texts[f"{stem}_{one}.yaml"] = template.format(name=stem, tokens=longest)
    script = "\n\n".join(_SCRIPTS[format][one].format(name=stem) for one in forms)
    names = sorted({name for one in forms for name in _NEEDS[format][one]})
    head = _HEADS[format].format(exam=exam.slug, names=", ".join(names))
    texts[f"{stem}_{format.replace('-', '_')}.py"] = f"{head}\n\n{script}\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"the task cannot be written to {folder}: {error}") from error
    return [folder / file for file in texts]


def _text_rows(exam: Exam, items: Sequence[Item]) -> list[dict[str, Any]]:
    settings = asdict(exam.config)
    rows = []
    for item in items:
        # One string, since tables of other tools want one type a column.
        marks = {"exam": exam.slug, "settings": settings, "answer": item.answer, "group": dict(item.group)}
        rows.append(
            {
                "id": item.id,
                "context": item.context,
                "question": item.question,
                "target": exam.oracle(item),
                "new_tokens": item.new_tokens,
                "marks": json.dumps(marks, ensure_ascii=False),
            }
        )
    return rows


def _choice_rows(items: Sequence[Item]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{item.id}/{number}",
            "context": item.context,
            "question": choice.question,
            "options": list(choice.options),
            "right": choice.right,
            "group": json.dumps(dict(item.group), ensure_ascii=False),
        }
        for item in items
        for number, choice in enumerate(item.choices)
    ]


def rows(path: Path) -> list[dict[str, Any]]:
    """The documents of a file that `export` wrote.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path} holds no exported items: {error}") from error


def documents(path: Path) -> dict[str, Any]:
    """The same as lm-evaluation-harness takes them: a split "test"."""
    from datasets import Dataset

    return {"test": Dataset.from_list(rows(path))}


def marked(document: Mapping[str, Any], text: str) -> dict[str, float]:
    """What a written answer to a document is worth: `score` from 0 to 1, and `parsed`, 1 where it could be read."""
    marks = json.loads(document["marks"])
    item = Item(
        id=document["id"],
        context=document["context"],
        question=document["question"],
        answer=marks["answer"],
        group=marks["group"],
    )
    grade = _exam(marks["exam"], json.dumps(marks["settings"])).grade(item, text)
    return {"score": grade.score, "parsed": float(grade.parsed)}


@cache
def _exam(slug: str, settings: str) -> Exam:
    from memspan.probes.find import find_exam

    return find_exam(slug)(**json.loads(settings))


_TEXT_YAML = """\
task: memspan_{name}_text
custom_dataset: !function {name}_lm_eval.text
test_split: test
output_type: generate_until
doc_to_text: "{{{{context}}}}\\n\\n{{{{question}}}}"
doc_to_target: "{{{{target}}}}"
generation_kwargs:
  until: []
  do_sample: false
  max_gen_toks: {tokens}
process_results: !function {name}_lm_eval.marks
metric_list:
  - metric: score
    aggregation: mean
    higher_is_better: true
  - metric: parsed
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
_CHOICE_YAML = """\
task: memspan_{name}_likelihood
custom_dataset: !function {name}_lm_eval.likelihood
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}{{{{question}}}}"
doc_to_choice: options
doc_to_target: right
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
_HEADS = {
    "lm-eval": '''\
"""Documents and marks of the exam {exam}, for lm-evaluation-harness; memspan must be installed beside it."""

from pathlib import Path

from memspan.probes.export import {names}

HERE = Path(__file__).parent
''',
    "inspect": '''\
"""The exam {exam} as tasks of inspect; memspan must be installed beside it."""

from pathlib import Path

from inspect_ai import Task, task

from memspan.probes.export.inspect import {names}

HERE = Path(__file__).parent
''',
}
_NEEDS: dict[str, dict[Form, tuple[str, ...]]] = {
    "lm-eval": {"text": ("documents", "marked"), "likelihood": ("documents",)},
    "inspect": {"text": ("text_task",), "likelihood": ("choice_task",)},
}
_SCRIPTS: dict[str, dict[Form, str]] = {
    "lm-eval": {
        "text": '''\
def text(**_):
    """Items to be answered in writing."""
    return documents(HERE / "{name}_text.jsonl")


def marks(document, results):
    """What the exam gives for an answer."""
    return marked(document, results[0])
''',
        "likelihood": '''\
def likelihood(**_):
    """Choices among options."""
    return documents(HERE / "{name}_likelihood.jsonl")
''',
    },
    "inspect": {
        "text": '''\
@task
def {name}_text() -> Task:
    """Answered in writing."""
    return text_task(HERE / "{name}_text.jsonl")
''',
        "likelihood": '''\
@task
def {name}_choice() -> Task:
    """One of some options."""
    return choice_task(HERE / "{name}_likelihood.jsonl")
''',
    },
}
