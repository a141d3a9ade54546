-- The tables of `SqliteStore`, as its `migrate()` makes them. Running this again changes nothing.
-- A table of before the columns `scope` to `origin_of` needs `ALTER TABLE … ADD COLUMN` for each, first.
-- SQLite 3.42 or later. Lengths and times are microseconds, times count from 1970.
-- docs/stores.md says what the columns mean.

CREATE TABLE IF NOT EXISTS idempotency_records (
    id            BLOB    NOT NULL PRIMARY KEY,
    format        INTEGER NOT NULL,
    state         INTEGER NOT NULL,
    nonce         BLOB    NOT NULL,
    token         INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    fingerprint   BLOB    NOT NULL,
    retention     INTEGER NOT NULL,
    lapses_at     INTEGER,
    expires_at    INTEGER,
    status        INTEGER,
    began_at      INTEGER,
    completed_at  INTEGER,
    kept_for      INTEGER,
    answer_length INTEGER,
    answer_sha256 BLOB,
    answer        BLOB,
    scope         BLOB,
    route         TEXT,
    trace         TEXT,
    -- The token of the claim that route and trace are of.
    origin_of     INTEGER
) STRICT;

CREATE INDEX IF NOT EXISTS idempotency_records_expires_at ON idempotency_records (expires_at)
    WHERE expires_at IS NOT NULL;

CREATE INDEX IF NOT EXISTS idempotency_records_by_state ON idempotency_records (state, token, id)
    WHERE state <> 3;

CREATE INDEX IF NOT EXISTS idempotency_records_by_scope ON idempotency_records (scope, token, id)
    WHERE scope IS NOT NULL;

CREATE TABLE IF NOT EXISTS idempotency_records_schema (
    one     INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL
) STRICT;

INSERT INTO idempotency_records_schema (one, version) VALUES (1, 1) ON CONFLICT DO NOTHING;
