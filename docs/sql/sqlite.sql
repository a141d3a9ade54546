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

-- The results of steps. The rowid is their order.
CREATE TABLE IF NOT EXISTS idempotency_records_steps (
    id     BLOB NOT NULL,
    name   TEXT NOT NULL,
    result BLOB NOT NULL,
    UNIQUE (id, name)
) STRICT;

-- Steps go with their record, whoever ends or removes it: a program of before them too.
CREATE TRIGGER IF NOT EXISTS idempotency_records_steps_of_gone AFTER DELETE ON idempotency_records
BEGIN
    DELETE FROM idempotency_records_steps WHERE id = OLD.id;
END;

-- An attempt 1 with another token is a claim of a record past its end.
CREATE TRIGGER IF NOT EXISTS idempotency_records_steps_of_done
    AFTER UPDATE OF state ON idempotency_records
    WHEN NEW.state IN (3, 4) OR NEW.attempt = 1 AND NEW.token <> OLD.token
BEGIN
    DELETE FROM idempotency_records_steps WHERE id = NEW.id;
END;

CREATE TABLE IF NOT EXISTS idempotency_records_schema (
    one     INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL
) STRICT;

INSERT INTO idempotency_records_schema (one, version) VALUES (1, 1) ON CONFLICT DO NOTHING;
