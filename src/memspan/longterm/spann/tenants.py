"""Whose row is whose: a number a row in `tenants.bin`, 0 for nobody's, and the names in `meta.json`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from memspan.core.errors import InputError

Codes = npt.NDArray[np.uint32]
Name = str | int


def as_name(tenant: Any) -> Name | None:
    """A tenant's name, or None for nobody."""
    if tenant is None:
        return None
    if isinstance(tenant, str):
        return str(tenant)
    if isinstance(tenant, int | np.integer) and not isinstance(tenant, bool):
        return int(tenant)
    raise InputError(f"a tenant is a {type(tenant).__name__}; name it by a string or a whole number")


def code_of(names: list[Name], name: Name | None) -> int:
    """The number of a name, which joins the names when it is new."""
    if name is None:
        return 0
    for i, known in enumerate(names):
        if known == name and type(known) is type(name):
            return i + 1
    names.append(name)
    return len(names)


def codes_of(tenants: Iterable[Any], count: int) -> tuple[list[Name], Codes]:
    """The names of the tenants of `count` rows, and the number of each row's."""
    given = [as_name(t) for t in tenants]
    if len(given) != count:
        raise InputError(f"{len(given):,} tenants were given for {count:,} vectors; every row needs one, or None")
    known: dict[tuple[type, Name], int] = {}
    numbers = (0 if t is None else known.setdefault((type(t), t), len(known) + 1) for t in given)
    codes = np.fromiter(numbers, np.uint32, count)
    return [name for _, name in known], codes
