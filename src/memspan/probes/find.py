"""Exams by their slug."""

from __future__ import annotations

from memspan.core.errors import InputError
from memspan.probes.base import Exam


def find_exam(slug: str) -> type[Exam]:
    """The class of an exam of the catalogue.

    Raises:
        InputError: no exam has this name, or it is only planned.
    """
    from memspan.core.catalog import load

    kind = load(slug)
    if not issubclass(kind, Exam):
        raise InputError(f"{slug} is no exam")
    return kind
