"""Exams by their slug, or by the name under which an exam is better known."""

from __future__ import annotations

import importlib

from memspan.core.errors import InputError
from memspan.probes.base import Exam

# Exams that are a part of a system whose row in the catalogue names something else.
ALIASES = {
    "loco": "memspan.probes.loco:Loco",
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
