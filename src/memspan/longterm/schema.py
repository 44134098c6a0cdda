"""The store's one schema, and the migrations that lead to it.

Everything derived from an episode is a `record` whose `source` rows name its episodes. `record` holds what is believed
now; `version` is the append-only log of what was believed when, so that both time axes can be asked
(world time: valid_at, invalid_at; store time: recorded_at, superseded_at). All times are microseconds since
1970-01-01 UTC.

A `passage` is the unit that is indexed: a whole short text or one chunk of a long one. `terms` holds the 32-bit hashes
of its stems in order, `vector.data` its embedding as float16; both can be rebuilt from `record.text`.

`usage` counts what each space takes, kept by triggers, so that whoever writes is counted. Its `bytes` are those of the
rows in a file without slack: what they hold, and for each row a constant that covers its header, its entries in the
indexes and its share of the pages' own bytes (see tests/longterm/test_limits.py, which holds it against files).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator


def _with_waste(length: str) -> str:
    """SQL for the bytes of content of this length, with its share of what stays free in pages of 4096 bytes.

    On average half a row does not fit at the end of a page; of a row of several pages only the part on its first one.
    """
    return f"({length} + min({length}, 2800) * min({length}, 2800) / 8192 + {length} / 64)"


def _bytes_of_record(row: str) -> str:
    """SQL for the bytes that a record takes: its row, and its entries under its id and its session."""
    text, data = f"length(CAST({row}.text AS BLOB))", f"coalesce(length(CAST({row}.data AS BLOB)), 0)"
    names = f"2 * length(CAST({row}.uid AS BLOB)) + 2 * length({row}.kind)"
    names += f" + coalesce(length(CAST({row}.speaker AS BLOB)), 0)"
    names += f" + coalesce(12 + 2 * length(CAST({row}.session AS BLOB)), 0)"
    return f"(72 + {_with_waste(f'({text} + {data})')} + {names})"


def _bytes_of_passage(row: str) -> str:
    return f"(40 + {_with_waste(f'length({row}.terms)')})"


def _bytes_of_vector(row: str) -> str:
    """All vectors are equally long, so as many rows stand on a page as whole ones fit."""
    size = f"length({row}.data)"
    return f"(14 + CASE WHEN {size} < 4000 THEN 4096 / (4088 / ({size} + 14)) ELSE 4096 * ({size} / 4092 + 2) END)"


# Table, the column that names the record it belongs to, and the bytes of a row with its index entries.
_SMALL = (("source", "record", 70), ("link", "src", 90), ("fact", "record", 160), ("version", "record", 110))
_BYTES_OF_CHANGE = "(120 + length({row}.old) + length({row}.new) + length({row}.reason))"


def _usage_triggers() -> str:
    """Keep `usage`. Rows that go with their record are counted off when the record goes, for then it is still there."""

    def change(table: str, event: str, space: str, sums: str, when: str = "AFTER") -> str:
        name = f"usage_{table}_{event.split()[0].lower()}"
        return (
            f"CREATE TRIGGER {name} {when} {event} ON {table} BEGIN"
            f" UPDATE usage SET {sums} WHERE space = {space}; END;\n"
        )

    made = (
        "CREATE TRIGGER usage_space AFTER INSERT ON space BEGIN INSERT INTO usage (space) VALUES (new.id); END;\n"
        + change("record", "INSERT", "new.space", f"bytes = bytes + {_bytes_of_record('new')}")
        + change(
            "record",
            "UPDATE OF text, data",
            "new.space",
            f"bytes = bytes + {_bytes_of_record('new')} - {_bytes_of_record('old')}",
        )
    )
    goes = _bytes_of_record("old")
    for table, owner, each in _SMALL:
        goes += f" + {each} * (SELECT count(*) FROM {table} WHERE {owner} = old.id)"
    changes = _BYTES_OF_CHANGE.format(row="c")
    goes += f" + coalesce((SELECT sum({changes}) FROM change c WHERE c.record = old.id), 0)"
    made += change("record", "DELETE", "old.space", f"bytes = bytes - ({goes})", "BEFORE")

    new, was = (_BYTES_OF_CHANGE.format(row=row) for row in ("new", "old"))
    space = "(SELECT space FROM record WHERE id = new.record)"
    made += change("change", "UPDATE OF old, new", space, f"bytes = bytes + {new} - {was}")

    vector = _bytes_of_vector("v")
    made += change(
        "passage",
        "INSERT",
        "new.space",
        f"bytes = bytes + {_bytes_of_passage('new')}, passages = passages + 1, words = words + length(new.terms) / 4",
    )
    made += change(
        "passage",
        "DELETE",
        "old.space",
        f"bytes = bytes - {_bytes_of_passage('old')}"
        f" - coalesce((SELECT {vector} FROM vector v WHERE v.passage = old.id), 0),"
        " passages = passages - 1, words = words - length(old.terms) / 4,"
        " vectors = vectors - (SELECT count(*) FROM vector WHERE passage = old.id)",
        "BEFORE",
    )
    for event, row, sign in (("INSERT", "new", "+"), ("DELETE", "old", "-")):
        made += change(
            "vector",
            event,
            f"(SELECT space FROM passage WHERE id = {row}.passage)",
            f"bytes = bytes {sign} {_bytes_of_vector(row)}, vectors = vectors {sign} 1",
        )
        for table, owner, each in _SMALL:
            space = f"(SELECT space FROM record WHERE id = {row}.{owner})"
            made += change(table, event, space, f"bytes = bytes {sign} {each}")
        space = f"(SELECT space FROM record WHERE id = {row}.record)"
        made += change("change", event, space, f"bytes = bytes {sign} {_BYTES_OF_CHANGE.format(row=row)}")
    return made


def _usage() -> str:
    """What each space takes, counted from its rows."""
    record, passage, vector = _bytes_of_record("r"), _bytes_of_passage("p"), _bytes_of_vector("v")
    joined = "FROM vector v JOIN passage p ON p.id = v.passage WHERE p.space = s.id"
    parts = [
        f"(SELECT sum({record}) FROM record r WHERE r.space = s.id)",
        f"(SELECT sum({passage}) FROM passage p WHERE p.space = s.id)",
        f"(SELECT sum({vector}) {joined})",
        f"(SELECT sum({_BYTES_OF_CHANGE.format(row='c')})"
        " FROM change c JOIN record r ON r.id = c.record WHERE r.space = s.id)",
    ]
    for table, owner, each in _SMALL:
        parts.append(
            f"{each} * (SELECT count(*) FROM {table} t JOIN record r ON r.id = t.{owner} WHERE r.space = s.id)"
        )
    return (
        f"SELECT s.id AS space, {' + '.join(f'coalesce({part}, 0)' for part in parts)} AS bytes,"
        " (SELECT count(*) FROM passage p WHERE p.space = s.id) AS passages,"
        " coalesce((SELECT sum(length(p.terms) / 4) FROM passage p WHERE p.space = s.id), 0) AS words,"
        f" (SELECT count(*) {joined}) AS vectors FROM space s"
    )


USAGE = _usage()
"""SQL for the rows that `usage` ought to have."""

EPISODE_BYTES = (
    f"({_bytes_of_record('r')} + coalesce((SELECT sum({_bytes_of_passage('x')} + coalesce({_bytes_of_vector('v')}, 0))"
    " FROM passage x LEFT JOIN vector v ON v.passage = x.id WHERE x.record = r.id), 0))"
)
"""SQL for the bytes that an episode `r` takes with its passages and vectors."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE space (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE record (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        space INTEGER NOT NULL REFERENCES space ON DELETE CASCADE,
        kind TEXT NOT NULL,
        uid TEXT NOT NULL,
        text TEXT NOT NULL,
        speaker TEXT,
        session TEXT,
        at INTEGER,
        valid_at INTEGER,
        invalid_at INTEGER,
        recorded_at INTEGER NOT NULL,
        retired_at INTEGER,
        strength REAL NOT NULL DEFAULT 1.0,
        status TEXT NOT NULL DEFAULT 'live',
        data TEXT,
        UNIQUE (space, kind, uid)
    );
    CREATE INDEX record_session ON record (space, session) WHERE session IS NOT NULL;
    CREATE TABLE source (
        record INTEGER NOT NULL REFERENCES record ON DELETE CASCADE,
        episode INTEGER NOT NULL REFERENCES record ON DELETE CASCADE,
        rank INTEGER NOT NULL DEFAULT 0,
        seen_at INTEGER,
        PRIMARY KEY (record, episode)
    ) WITHOUT ROWID;
    CREATE INDEX source_episode ON source (episode);
    CREATE TABLE link (
        src INTEGER NOT NULL REFERENCES record ON DELETE CASCADE,
        dst INTEGER NOT NULL REFERENCES record ON DELETE CASCADE,
        kind TEXT NOT NULL,
        weight REAL NOT NULL DEFAULT 1.0,
        PRIMARY KEY (src, kind, dst)
    ) WITHOUT ROWID;
    CREATE INDEX link_dst ON link (dst, kind);
    CREATE TABLE fact (
        record INTEGER PRIMARY KEY REFERENCES record ON DELETE CASCADE,
        subject INTEGER NOT NULL REFERENCES record ON DELETE CASCADE,
        relation TEXT NOT NULL,
        object INTEGER NOT NULL REFERENCES record ON DELETE CASCADE,
        functional INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX fact_subject ON fact (subject, relation);
    CREATE INDEX fact_object ON fact (object);
    CREATE TABLE version (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        record INTEGER NOT NULL REFERENCES record ON DELETE CASCADE,
        valid_at INTEGER,
        invalid_at INTEGER,
        recorded_at INTEGER NOT NULL,
        superseded_at INTEGER,
        status TEXT NOT NULL,
        cause INTEGER REFERENCES record ON DELETE SET NULL,
        reason TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX version_record ON version (record);
    CREATE INDEX version_cause ON version (cause) WHERE cause IS NOT NULL;
    CREATE TABLE passage (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        space INTEGER NOT NULL REFERENCES space ON DELETE CASCADE,
        record INTEGER NOT NULL REFERENCES record ON DELETE CASCADE,
        start INTEGER NOT NULL,
        stop INTEGER NOT NULL,
        terms BLOB NOT NULL
    );
    CREATE INDEX passage_record ON passage (record);
    CREATE INDEX passage_space ON passage (space);
    CREATE TABLE vector (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        passage INTEGER NOT NULL UNIQUE REFERENCES passage ON DELETE CASCADE,
        data BLOB NOT NULL
    );
    CREATE VIRTUAL TABLE fulltext USING fts5 (
        text, content='record', content_rowid='id', tokenize="porter unicode61 remove_diacritics 2"
    );
    CREATE TRIGGER record_insert AFTER INSERT ON record BEGIN
        INSERT INTO fulltext (rowid, text) VALUES (new.id, new.text);
    END;
    CREATE TRIGGER record_delete AFTER DELETE ON record BEGIN
        INSERT INTO fulltext (fulltext, rowid, text) VALUES ('delete', old.id, old.text);
    END;
    CREATE TRIGGER record_update AFTER UPDATE OF text ON record BEGIN
        INSERT INTO fulltext (fulltext, rowid, text) VALUES ('delete', old.id, old.text);
        INSERT INTO fulltext (rowid, text) VALUES (new.id, new.text);
    END;
    CREATE TRIGGER episode_immutable BEFORE UPDATE OF text, uid, speaker, session, at ON record
    WHEN old.kind = 'episode' BEGIN
        SELECT RAISE(ABORT, 'episodes are immutable');
    END;
    """,
    # Use (what strength grows by), the log of attribute changes that can be seen and undone, and indexes whose entries
    # stand in the order of the records, so that the latest facts of an end are found without reading the others.
    """
    DROP INDEX fact_object;
    CREATE INDEX fact_object ON fact (object, relation);
    CREATE INDEX fact_latest ON fact (subject);
    CREATE INDEX fact_ends ON fact (subject, object);
    ALTER TABLE record ADD COLUMN used_at INTEGER;
    CREATE INDEX record_used ON record (space) WHERE used_at IS NOT NULL;
    CREATE TABLE change (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        record INTEGER NOT NULL REFERENCES record ON DELETE CASCADE,
        field TEXT NOT NULL,
        old TEXT NOT NULL,
        new TEXT NOT NULL,
        recorded_at INTEGER NOT NULL,
        cause INTEGER REFERENCES record ON DELETE SET NULL,
        reason TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX change_record ON change (record, field);
    CREATE INDEX change_cause ON change (cause) WHERE cause IS NOT NULL;
    """,
    # SQLite's full text goes: it took a third of the file and half of the time of an add, could not be erased from
    # without being rewritten whole, and only served quoted phrases, which the postings find. What each space takes is
    # counted and can be limited. `erasure` tells an index in RAM which episodes are no more (record 0: read all anew).
    """
    DROP TRIGGER record_insert;
    DROP TRIGGER record_delete;
    DROP TRIGGER record_update;
    DROP TABLE fulltext;
    CREATE TABLE usage (
        space INTEGER PRIMARY KEY REFERENCES space ON DELETE CASCADE,
        bytes INTEGER NOT NULL DEFAULT 0,
        passages INTEGER NOT NULL DEFAULT 0,
        words INTEGER NOT NULL DEFAULT 0,
        vectors INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE budget (
        space INTEGER PRIMARY KEY REFERENCES space ON DELETE CASCADE,
        disk INTEGER,
        ram INTEGER,
        when_full TEXT NOT NULL DEFAULT 'evict'
    );
    CREATE TABLE eviction (
        id INTEGER PRIMARY KEY,
        space INTEGER NOT NULL REFERENCES space ON DELETE CASCADE,
        evicted_at INTEGER NOT NULL,
        episodes INTEGER NOT NULL,
        derived INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        oldest INTEGER,
        newest INTEGER
    );
    CREATE TABLE erasure (generation INTEGER, record INTEGER, PRIMARY KEY (generation, record)) WITHOUT ROWID;
    """
    + f"INSERT INTO usage (space, bytes, passages, words, vectors) {USAGE};\n"
    + _usage_triggers(),
    # The files beside the store that keep the index of episodes, see `parts`: which passages each holds, how many of
    # them had no vector when the newest was `seen_vector`, and the generation of the rows that it agrees with.
    """
    CREATE TABLE part (
        id INTEGER PRIMARY KEY,
        space INTEGER NOT NULL REFERENCES space ON DELETE CASCADE,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        first_record INTEGER NOT NULL,
        last_record INTEGER NOT NULL,
        passages INTEGER NOT NULL,
        missing INTEGER NOT NULL,
        seen_vector INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        file TEXT NOT NULL,
        nbytes INTEGER NOT NULL
    );
    CREATE INDEX part_space ON part (space, first);
    """,
    # The vector indexes beside the store, see `vector_index`: of which system, where, complete or being built, up to
    # which passage, and the mark of its last change. `vector_gone` holds the passages that an index has still to lose.
    """
    CREATE TABLE vector_index (
        id INTEGER PRIMARY KEY,
        space INTEGER NOT NULL REFERENCES space ON DELETE CASCADE,
        system TEXT NOT NULL,
        folder TEXT NOT NULL,
        ready INTEGER NOT NULL,
        upto INTEGER NOT NULL,
        size INTEGER NOT NULL,
        mark TEXT NOT NULL,
        next TEXT NOT NULL,
        disk INTEGER NOT NULL,
        ram INTEGER NOT NULL
    );
    CREATE TABLE vector_gone (space INTEGER, passage INTEGER, PRIMARY KEY (space, passage)) WITHOUT ROWID;
    CREATE TRIGGER vector_gone_record BEFORE DELETE ON record WHEN old.kind = 'episode' BEGIN
        INSERT OR IGNORE INTO vector_gone (space, passage) SELECT p.space, p.id FROM passage p WHERE p.record = old.id
        AND p.id <= (SELECT max(upto) FROM vector_index WHERE space = p.space);
    END;
    """,
)
"""One script per schema version; the store's version is the number of scripts that have run."""

VERSION = len(MIGRATIONS)


def statements(script: str) -> Iterator[str]:
    """The statements of a script one by one (`executescript` would commit the open transaction)."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
