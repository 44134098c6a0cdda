"""The store's one schema, and the migrations that lead to it.

Everything derived from an episode is a `record` whose `source` rows name its episodes. `record` holds what is believed
now; `version` is the append-only log of what was believed when, so that both time axes can be asked
(world time: valid_at, invalid_at; store time: recorded_at, superseded_at). All times are microseconds since
1970-01-01 UTC.

A `passage` is the unit that is indexed: a whole short text or one chunk of a long one. `terms` holds the 32-bit hashes
of its stems in order, `vector.data` its embedding as float16; both can be rebuilt from `record.text`.
"""

from __future__ import annotations

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
)
"""One script per schema version; the store's version is the number of scripts that have run."""

VERSION = len(MIGRATIONS)
