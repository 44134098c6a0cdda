"""Organizers by their names in the catalogue."""

from __future__ import annotations

import importlib.util

from memspan.core.errors import InputError
from memspan.longterm.base import Organizer, Scribe
from memspan.longterm.scribe import PIPELINES


def default_organizer() -> str:
    """What "auto" is: "zep", which found the most where several turns bear on a question, or "plain" where the rule
    scribe's packages are not installed. Imports none of them."""
    has_scribe = importlib.util.find_spec("spacy") and any(importlib.util.find_spec(name) for name in PIPELINES)
    return "zep" if has_scribe else "plain"


def load_organizer(name: str | Organizer, scribe: str | Scribe) -> Organizer:
    """An organizer by its catalogue name, or "auto".

    Raises:
        InputError: no organizer of this name works.
    """
    if not isinstance(name, str):
        return name
    if name == "auto":
        # Another scribe than the rules needs none of their packages.
        name = default_organizer() if scribe == "rules" else "zep"
    if name == "plain":
        from memspan.longterm.plain import Plain

        return Plain()
    from memspan.core import catalog

    info = catalog.system(name)
    if info.status != "working" or info.interface != "Organizer":
        working = [s.slug for s in catalog.systems() if s.status == "working" and s.interface == "Organizer"]
        raise InputError(f"organizer {name!r} cannot be used; those that work: {', '.join(['plain', *working])}")
    organizer: Organizer = catalog.load(name)(scribe=scribe)
    return organizer
