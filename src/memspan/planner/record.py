"""A training job's step as an allocation problem, before anything is loaded."""

from __future__ import annotations

from memspan.planner.allocator.problem import Problem
from memspan.planner.allocator.recording import Recorder
from memspan.planner.fake import imagined
from memspan.training.base import AdamW, Stack
from memspan.training.spec import Spec
from memspan.training.step import Step


def record_job(spec: Spec, stack: Stack, *, inputs: bool = False, alignment: int = 1, name: str = "step") -> Problem:
    """The second step of a training job, run on tensors without bytes; see `Recorder` for the arguments.

    Raises:
        UnsupportedModelError: the step depends on the values of tensors.
    """
    with imagined():
        model, optimizer = stack.prepare(spec.build(), AdamW())
        model.train()
        step = Step(model, optimizer, stack)
        step(spec.random_batch())
        stack.make_worst()
        with Recorder(inputs=inputs, alignment=alignment) as recorder:
            step(spec.random_batch())
        return recorder.problem(name)
