"""What a checkpoint says of the other files, so that damage to them is found: the checksums of their pages."""

from __future__ import annotations

from typing import Any

import numpy as np

from .engine import Engine
from .layout import U32, Files, Tables
from .pages import file_sums


def sealed(files: Files, tables: Tables, slots: int, row_bytes: int, was: Engine | None = None) -> dict[str, Any]:
    """The fields `held`, `fresh` and `sums` of the tables of so many slots.

    Rows and ids are only ever added to their files: with `was`, the engine of the checkpoint before, those that it held
    are not read again.

    Raises:
        StoreError: ids or tenants were damaged meanwhile, of which the files written just now were made.
    """
    if was is not None and was.files.version != files.version:
        was = None
    sums: dict[str, U32] = {}
    for name, width in (("rows", row_bytes), ("ids", 8), ("tenants", 4)):
        if was is not None:
            column = getattr(was, name)
            if name != "rows":
                column.check(np.arange(len(column.sums)))
            sums[name] = column.grown(slots) if len(column) else column.sums
        else:
            path = getattr(files, name)
            sums[name] = file_sums(path, slots * width if path.exists() else 0)
    for name in ("primary", "order", "owners"):
        path = getattr(files, name)
        sums[name] = file_sums(path, path.stat().st_size)
    before = slots if was is None else int(was.tables.held[0])
    return {"held": np.array([slots, before]), "sums": sums, "fresh": _fresh(tables, was)}


def _fresh(tables: Tables, was: Engine | None) -> U32:
    """The lists that do not lie where they did."""
    if was is None:
        return np.zeros(0, np.uint32)
    old, count = was.tables, len(tables.list_count)
    both = min(count, len(old.list_count))
    changed = tables.list_blocks > 0
    changed[:both] &= (tables.list_sector[:both] != old.list_sector[:both]) | (
        tables.list_crc[:both] != old.list_crc[:both]
    )
    return np.flatnonzero(changed).astype(np.uint32)
