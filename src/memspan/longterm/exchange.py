"""Export and import: the whole store as JSON lines, one row a line, so that nothing is locked in.

The first line names the format; every other line is `{"table": …, …columns}`. Row ids are the file's own: an import
gives new ones and keeps the relations between them. Budgets belong to a store and are not written; what is imported
into a space that has one must fit, or makes it evict.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memspan.core.errors import InputError
from memspan.longterm.store import Store, Transaction

FORMAT = "memspan-export"
FORMAT_VERSION = 2  # 1 had no changes; it can still be read
# Parents before children; for each table the columns that hold ids, and the table these ids are of.
_TABLES: dict[str, dict[str, str]] = {
    "meta": {},
    "space": {"id": "space"},
    "record": {"id": "record", "space": "space"},
    "source": {"record": "record", "episode": "record"},
    "link": {"src": "record", "dst": "record"},
    "fact": {"record": "record", "subject": "record", "object": "record"},
    "version": {"id": "version", "record": "record", "cause": "record"},
    "change": {"id": "change", "record": "record", "cause": "record"},
    "passage": {"id": "passage", "space": "space", "record": "record"},
    "vector": {"id": "vector", "passage": "passage"},
}
_LOCAL_META = ("generation", "derived_generation", "scrubs")


def export_store(store: Store, now: int, path: Path) -> int:
    """Write every row to `path`; the file appears whole or not at all. Returns the number of rows."""
    partial = path.with_name(path.name + ".partial")
    count = 0
    try:
        with store.read(now) as tx, partial.open("w", encoding="utf-8") as file:
            header = {"format": FORMAT, "version": FORMAT_VERSION}
            file.write(json.dumps(header) + "\n")
            for table in _TABLES:
                for row in tx.execute(f"SELECT * FROM {table}"):
                    if table == "meta" and row["key"] in _LOCAL_META:
                        continue
                    file.write(json.dumps({"table": table, **_plain(dict(row))}, ensure_ascii=False) + "\n")
                    count += 1
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
        for key, value in row.items()
    }


def import_store(store: Store, now: int, path: Path) -> int:
    """Add every row of `path` to the store, in one transaction. Returns the number of rows.

    Raises:
        InputError: not an export, damaged, or a record's id is taken; the store is as it was.
    """
    with store.write(now) as tx:
        columns = {table: {row[1] for row in tx.execute(f"PRAGMA table_info({table})")} for table in _TABLES}
        renamed: dict[str, dict[int, int]] = {table: {} for table in _TABLES}
        count = 0
        for number, row in _rows(path):
            table = row.pop("table", None)
            if table not in _TABLES or not set(row) <= columns[table]:
                raise InputError(f"{path}, line {number}: not a row of this format; nothing was imported")
            try:
                _insert(tx, table, row, renamed)
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}; nothing was imported") from None
            except Exception as error:
                raise InputError(f"{path}, line {number}: {error}; nothing was imported") from error
            count += 1
        tx.bump()
    return count


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise InputError(f"{path}, line {number}: not JSON ({error.msg}); nothing was imported") from None
                if number == 1:
                    if not isinstance(row, dict) or row.get("format") != FORMAT:
                        raise InputError(f"{path} is not an export of memspan (its first line does not say so)")
                    if row.get("version") not in range(1, FORMAT_VERSION + 1):
                        raise InputError(f"{path} has export version {row.get('version')}; upgrade memspan")
                    continue
                if not isinstance(row, dict):
                    raise InputError(f"{path}, line {number}: not an object; nothing was imported")
                yield number, row
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason})") from error


def _insert(tx: Transaction, table: str, row: dict[str, Any], renamed: dict[str, dict[int, int]]) -> None:
    if table == "meta":
        known = tx.meta(row["key"])
        if known is not None and known != row["value"]:
            raise InputError(f"the store's {row['key']} differs from the file's; import into a new store")
        tx.set_meta(row["key"], row["value"])
        return
    if table == "space":
        found = tx.execute("SELECT id FROM space WHERE name = ?", (row["name"],)).fetchone()
        if found is not None:
            renamed["space"][row["id"]] = found[0]
            return
    old = row.get("id")
    values = {}
    for key, value in row.items():
        target = _TABLES[table].get(key)
        if key == "id":
            continue
        if target is not None and value is not None:
            value = renamed[target][value]
        elif isinstance(value, dict):
            value = base64.b64decode(value["base64"])
        values[key] = value
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    cursor = tx.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(values.values()))
    if old is not None:
        renamed[table][old] = int(cursor.lastrowid or 0)
