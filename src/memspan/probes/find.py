"""Exams by their slug, or by the name under which an exam is better known."""

from __future__ import annotations

import importlib

from memspan.core.errors import InputError
from memspan.probes.base import Exam

# Exams that are no system of the catalogue, or a part of one whose row names something else.
ALIASES = {
    "beam": "memspan.probes.recorded:Beam",
    "episodic": "memspan.probes.episodic:Episodic",
    "loco": "memspan.probes.loco:Loco",
    "locomo": "memspan.probes.recorded:Locomo",
    "longmemeval": "memspan.probes.recorded:LongMemEval",
}


def find_exam(slug: str) -> type[Exam]:
    """The class of an exam of the catalogue.

    Raises:
        InputError: no exam has this name, or it is only planned.
    """
    if slug in ALIASES:
        module, _, name = ALIASES[slug].partition(":")
        known: type[Exam] = getattr(importlib.import_module(module), name)
        return known
    from memspan.core.catalog import load

    kind = load(slug)
    if not issubclass(kind, Exam):
        raise InputError(f"{slug} is no exam")
    return kind
