"""Organizers by their names in the catalogue."""

from __future__ import annotations

from memspan.core.errors import InputError
from memspan.longterm.base import Organizer, Scribe


def load_organizer(name: str | Organizer, scribe: str | Scribe) -> Organizer:
    """An organizer by its catalogue name.

    Raises:
        InputError: no organizer of this name works.
    """
    if not isinstance(name, str):
        return name
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
