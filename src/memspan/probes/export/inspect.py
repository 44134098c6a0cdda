"""Exported exams as tasks of inspect: a data set, a solver and a scorer that calls the exam's marks."""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase
from typing import Any

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, choice, mean, scorer, stderr
from inspect_ai.solver import generate, multiple_choice

from memspan.probes.export import marked, rows


def text_task(path: Path) -> Task:
    """Items answered in writing and graded by the exam."""
    found = rows(path)
    samples = [
        Sample(
            id=row["id"], input=f"{row['context']}\n\n{row['question']}", target=row["target"], metadata={"row": row}
        )
        for row in found
    ]
    return Task(
        dataset=MemoryDataset(samples, name=path.stem),
        solver=generate(),
        scorer=_marks(),
        config=GenerateConfig(temperature=0.0, max_tokens=max(row["new_tokens"] for row in found)),
    )


def choice_task(path: Path) -> Task:
    """Each choice as a question with lettered options."""
    samples = [
        Sample(
            id=row["id"],
            input=f"{row['context']}{row['question']}",
            choices=[option.strip() for option in row["options"]],
            target=ascii_uppercase[row["right"]],
        )
        for row in rows(path)
    ]
    return Task(dataset=MemoryDataset(samples, name=path.stem), solver=multiple_choice(), scorer=choice())


@scorer(metrics=[mean(), stderr()])  # type: ignore[untyped-decorator,unused-ignore]  # inspect may be absent
def _marks() -> Any:
    async def score(state: Any, target: Any) -> Score:
        found = marked(state.metadata["row"], state.output.completion)
        return Score(value=found["score"], answer=state.output.completion, metadata={"parsed": found["parsed"]})

    return score
