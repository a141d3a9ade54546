-- The records of tower-idempotency in PostgreSQL, schema 1. This is the text
-- that `PostgresStoreBuilder::migrate` runs, in one transaction:
--
--     psql --single-transaction --set ON_ERROR_STOP=1 --file docs/sql/postgres.sql
--
-- For another table put its name, with its schema if need be, in the place of
-- idempotency_records; where that stands in quotes, without the schema.
--
-- docs/stores.md says what the columns and functions mean. All lengths of
-- time that functions take and give are in microseconds, all points in time
-- in microseconds since 1970.

CREATE TABLE IF NOT EXISTS idempotency_records (
    id            bytea       NOT NULL PRIMARY KEY,
    format        smallint    NOT NULL,
    -- 1 in flight, 2 unknown, 3 completed, 4 sealed, 5 released
    state         smallint    NOT NULL,
    nonce         bytea       NOT NULL,
    token         bigint      NOT NULL,
    attempt       bigint      NOT NULL,
    fingerprint   bytea,
    lapses_at     timestamptz NOT NULL,
    -- of the claim, in microseconds
    retention     bigint      NOT NULL,
    -- none: in flight or unknown, and stays until someone resolves it
    expires_at    timestamptz,
    status        smallint,
    began_at      timestamptz,
    completed_at  timestamptz,
    -- of the completion, in microseconds
    kept_for      bigint,
    -- a Binary HTTP message (RFC 9292)
    answer        bytea,
    answer_length bigint,
    answer_sha256 bytea
);

-- Since revision 4, of the last claim: its caller, the pattern of its route, and
-- the `traceparent` of its execution. A table of before is not rewritten for them.
ALTER TABLE idempotency_records
    ADD COLUMN IF NOT EXISTS scope bytea,
    ADD COLUMN IF NOT EXISTS route text,
    ADD COLUMN IF NOT EXISTS trace text,
    -- Since revision 5: the token of the first claim since there was no record, or
    -- since it was past its end. Null if that claim was before revision 5.
    ADD COLUMN IF NOT EXISTS first_token bigint;

CREATE INDEX IF NOT EXISTS "idempotency_records_expires_at"
    ON idempotency_records (expires_at) WHERE expires_at IS NOT NULL;

-- Until when a lease was renewed, apart from its record: a transaction that is
-- going to complete the record, at whatever isolation, does not fail over it.
-- One that is not of the record's token means nothing any more.
CREATE TABLE IF NOT EXISTS idempotency_records_renewals (
    id        bytea       NOT NULL PRIMARY KEY,
    token     bigint      NOT NULL,
    lapses_at timestamptz NOT NULL
);

-- The results of steps, apart from their record for the same reason as renewals: to
-- record a step writes no row that a handler's transaction writes. One that is not of
-- the record's first_token (null: 0) means nothing any more.
CREATE TABLE IF NOT EXISTS idempotency_records_steps (
    id          bytea       NOT NULL,
    first_token bigint      NOT NULL,
    name_sha256 bytea       NOT NULL,
    name        bytea       NOT NULL,
    result      bytea       NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (id, first_token, name_sha256)
);

-- Who wants to hear of a record's next change. A crash may forget it.
CREATE UNLOGGED TABLE IF NOT EXISTS idempotency_records_waiters (
    id       bytea       NOT NULL,
    listener bytea       NOT NULL,
    until    timestamptz NOT NULL,
    PRIMARY KEY (id, listener)
);

-- Makes the record in flight, or says what is there. Always one row.
CREATE OR REPLACE FUNCTION idempotency_records_claim_v2(
    p_id bytea, p_nonce bytea, p_fingerprint bytea, p_lease bigint, p_retention bigint,
    p_refuse boolean, p_by_hand boolean, p_any_fingerprint boolean,
    p_scope bytea, p_route text, p_trace text,
    OUT acquired boolean, OUT format smallint, OUT state smallint, OUT token bigint,
    OUT attempt bigint, OUT fingerprint bytea, OUT lapses_in bigint,
    OUT status smallint, OUT began_at bigint, OUT completed_at bigint, OUT kept_for bigint,
    OUT answer bytea, OUT answer_length bigint, OUT answer_sha256 bytea,
    OUT scope bytea, OUT route text, OUT trace text
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    r       record;
    moment  timestamptz;
    lapses  timestamptz;
    clock   bigint;
    number  bigint;
    lasts   interval;
    over    boolean;
    takes   boolean;
    locked  boolean := false;
    skipped boolean := false;
BEGIN
    LOOP
        SELECT t.*, NULL::timestamptz AS renewed INTO r
          FROM idempotency_records t WHERE t.id = p_id;
        IF r.state = 1 THEN
            -- Not at once, since most claims find no record. Record and renewal
            -- are of one snapshot: if the lease was released between two, it
            -- would look as if it had lapsed.
            SELECT t.*, n.lapses_at AS renewed INTO r
              FROM idempotency_records t
              LEFT JOIN idempotency_records_renewals n ON n.id = t.id AND n.token = t.token
             WHERE t.id = p_id;
        END IF;
        moment := clock_timestamp();
        clock := (extract(epoch FROM moment) * 1000000)::bigint;
        lapses := moment + p_lease * interval '1 microsecond';
        lasts := p_retention * interval '1 microsecond';

        IF NOT FOUND THEN
            INSERT INTO idempotency_records (
                id, format, state, nonce, token, attempt, fingerprint, lapses_at, retention, expires_at,
                scope, route, trace, first_token
            ) VALUES (
                p_id, 1, 1, p_nonce, clock, 1, p_fingerprint, lapses, p_retention,
                CASE WHEN NOT p_refuse THEN lapses + lasts END,
                p_scope, p_route, p_trace, clock
            ) ON CONFLICT (id) DO NOTHING;
            IF FOUND THEN
                acquired := true;
                token := clock;
                attempt := 1;
                RETURN;
            END IF;
            -- Another claim was first: what it made is there to be read by now.
            CONTINUE;
        END IF;

        over := false;
        takes := false;
        -- What this version can't read is never taken over.
        IF r.format = 1 AND r.state BETWEEN 1 AND 5
            AND (r.state = 5 OR coalesce(octet_length(r.fingerprint), 0) = 32)
        THEN
            r.lapses_at := coalesce(r.renewed, r.lapses_at);
            IF r.state = 1 AND r.expires_at IS NOT NULL THEN
                r.expires_at := r.lapses_at + r.retention * interval '1 microsecond';
            END IF;
            over := coalesce(r.expires_at <= moment, false);
            IF r.state = 1 AND r.nonce = p_nonce AND NOT over THEN
                IF idempotency_records_renew(p_id, p_nonce, p_lease) THEN
                    acquired := true;
                    -- Acquired before: it may have steps.
                    state := 1;
                    token := r.token;
                    attempt := r.attempt;
                    RETURN;
                END IF;
                CONTINUE;
            END IF;
            takes := over OR r.state = 5
                OR (r.state = 2 OR r.state = 1 AND r.lapses_at <= moment)
                    AND (p_by_hand OR NOT p_refuse)
                    AND (p_any_fingerprint OR r.fingerprint = p_fingerprint);
        END IF;

        IF takes AND NOT locked THEN
            PERFORM FROM idempotency_records t WHERE t.id = p_id FOR UPDATE SKIP LOCKED;
            IF FOUND THEN
                -- Look again, now that nobody can change it.
                locked := true;
                CONTINUE;
            ELSIF NOT skipped THEN
                -- Gone or locked.
                skipped := true;
                CONTINUE;
            END IF;
            -- Somebody is at it: soon it is in flight, completed, or free again.
            acquired := false;
            format := 1;
            state := 1;
            token := r.token;
            attempt := r.attempt;
            fingerprint := CASE WHEN over OR r.state = 5 THEN p_fingerprint ELSE r.fingerprint END;
            lapses_in := 50000;
            RETURN;
        END IF;

        IF takes THEN
            acquired := true;
            clock := greatest(r.token + 1, clock);
            IF clock >= 9007199254740992 THEN
                RAISE EXCEPTION 'no token is left' USING ERRCODE = 'numeric_value_out_of_range';
            END IF;
            number := CASE WHEN over THEN 1 ELSE r.attempt + 1 END;
            UPDATE idempotency_records t SET
                format = 1, state = 1, nonce = p_nonce, token = clock, attempt = number,
                fingerprint = p_fingerprint, lapses_at = lapses, retention = p_retention,
                expires_at = CASE WHEN NOT p_refuse THEN lapses + lasts END,
                status = NULL, began_at = NULL, completed_at = NULL, kept_for = NULL,
                answer = NULL, answer_length = NULL, answer_sha256 = NULL,
                scope = coalesce(p_scope, t.scope), route = p_route, trace = p_trace,
                first_token = CASE WHEN over THEN clock ELSE t.first_token END
             WHERE t.id = p_id;
            IF over THEN
                DELETE FROM idempotency_records_steps s WHERE s.id = p_id;
            END IF;
            IF r.state = 1 THEN
                -- Above read committed the renewal of a moment ago may not be
                -- visible, and then this fails.
                INSERT INTO idempotency_records_renewals (id, token, lapses_at)
                VALUES (p_id, clock, lapses)
                ON CONFLICT (id) DO UPDATE
                    SET token = excluded.token, lapses_at = excluded.lapses_at;
            END IF;
            token := clock;
            attempt := number;
            RETURN;
        END IF;

        acquired := false;
        format := r.format;
        state := r.state;
        token := r.token;
        attempt := r.attempt;
        fingerprint := r.fingerprint;
        lapses_in := (extract(epoch FROM r.lapses_at - moment) * 1000000)::bigint;
        status := r.status;
        began_at := (extract(epoch FROM r.began_at) * 1000000)::bigint;
        completed_at := (extract(epoch FROM r.completed_at) * 1000000)::bigint;
        kept_for := r.kept_for;
        answer := r.answer;
        answer_length := r.answer_length;
        answer_sha256 := r.answer_sha256;
        scope := r.scope;
        route := r.route;
        trace := r.trace;
        RETURN;
    END LOOP;
END
$$;

-- The same, as programs before revision 4 call it. Their records have no origin.
CREATE OR REPLACE FUNCTION idempotency_records_claim(
    p_id bytea, p_nonce bytea, p_fingerprint bytea, p_lease bigint, p_retention bigint,
    p_refuse boolean, p_by_hand boolean, p_any_fingerprint boolean,
    OUT acquired boolean, OUT format smallint, OUT state smallint, OUT token bigint,
    OUT attempt bigint, OUT fingerprint bytea, OUT lapses_in bigint,
    OUT status smallint, OUT began_at bigint, OUT completed_at bigint, OUT kept_for bigint,
    OUT answer bytea, OUT answer_length bigint, OUT answer_sha256 bytea
) LANGUAGE sql VOLATILE AS $$
    SELECT c.acquired, c.format, c.state, c.token, c.attempt, c.fingerprint, c.lapses_in, c.status,
           c.began_at, c.completed_at, c.kept_for, c.answer, c.answer_length, c.answer_sha256
      FROM idempotency_records_claim_v2(p_id, p_nonce, p_fingerprint, p_lease, p_retention,
               p_refuse, p_by_hand, p_any_fingerprint, NULL, NULL, NULL) c
$$;

-- Whether the lease is held, and then its end is one length ahead. Null: there
-- is a record that this version can't read.
CREATE OR REPLACE FUNCTION idempotency_records_renew(p_id bytea, p_nonce bytea, p_lease bigint)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    r       record;
    moment  timestamptz;
    renewed timestamptz;
BEGIN
    -- In the way of a takeover, and of nothing else.
    SELECT t.format, t.state, t.nonce, t.token, t.lapses_at, t.retention, t.expires_at INTO r
      FROM idempotency_records t WHERE t.id = p_id FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF r.format <> 1 OR r.state NOT BETWEEN 1 AND 5 THEN
        RETURN NULL;
    END IF;
    IF r.nonce <> p_nonce OR r.state NOT IN (1, 3, 4) THEN
        RETURN false;
    END IF;
    IF r.state = 1 AND r.expires_at IS NOT NULL THEN
        SELECT n.lapses_at INTO renewed FROM idempotency_records_renewals n
         WHERE n.id = p_id AND n.token = r.token;
        r.expires_at := coalesce(renewed, r.lapses_at) + r.retention * interval '1 microsecond';
    END IF;
    moment := clock_timestamp();
    IF r.expires_at <= moment THEN
        RETURN false;
    END IF;
    IF r.state = 1 THEN
        INSERT INTO idempotency_records_renewals (id, token, lapses_at)
        VALUES (p_id, r.token, moment + p_lease * interval '1 microsecond')
        ON CONFLICT (id) DO UPDATE SET token = excluded.token, lapses_at = excluded.lapses_at;
    END IF;
    RETURN true;
END
$$;

-- Adds the result of a step to a record in flight, once for each name. Whether the
-- caller was the owner; null: there is a record that this version can't read. In a
-- transaction of the caller's own it works at any isolation, and then nobody takes
-- the record over, completes or releases it before the end.
CREATE OR REPLACE FUNCTION idempotency_records_record_step(
    p_id bytea, p_nonce bytea, p_name bytea, p_result bytea
) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    r record;
BEGIN
    -- In the way of whoever changes the record, and of no renewal and no other step.
    SELECT t.format, t.state, t.nonce, t.first_token INTO r
      FROM idempotency_records t WHERE t.id = p_id FOR SHARE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF r.format <> 1 OR r.state NOT BETWEEN 1 AND 5 THEN
        RETURN NULL;
    END IF;
    IF r.nonce <> p_nonce OR r.state <> 1 THEN
        RETURN false;
    END IF;
    INSERT INTO idempotency_records_steps (id, first_token, name_sha256, name, result, recorded_at)
    VALUES (p_id, coalesce(r.first_token, 0), sha256(p_name), p_name, p_result, clock_timestamp())
    ON CONFLICT (id, first_token, name_sha256) DO NOTHING;
    RETURN true;
END
$$;

-- The steps of the record in the order in which they were recorded, each a name and a
-- result. An empty array: it has none. A claim above read committed calls this once
-- more afterwards, since its snapshot may be older than the last of them.
CREATE OR REPLACE FUNCTION idempotency_records_steps_of(p_id bytea)
RETURNS bytea[] LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(array_agg(p.part ORDER BY s.recorded_at, s.name_sha256, p.number), '{}')
      FROM idempotency_records t
      JOIN idempotency_records_steps s
        ON s.id = t.id AND s.first_token = coalesce(t.first_token, 0)
     CROSS JOIN LATERAL (VALUES (1, s.name), (2, s.result)) p (number, part)
     WHERE t.id = p_id
$$;

-- Stores the outcome: completed, or, without a status, sealed. Whether the
-- caller was the owner; null: there is a record that this version can't read.
CREATE OR REPLACE FUNCTION idempotency_records_complete_v2(
    p_id bytea, p_nonce bytea, p_token bigint, p_attempt bigint, p_fingerprint bytea,
    p_retention bigint, p_kept_for bigint, p_status smallint, p_began_at bigint,
    p_completed_at bigint, p_answer bytea, p_answer_length bigint, p_answer_sha256 bytea,
    -- of the claim, for a record that is made anew
    p_scope bytea, p_route text, p_trace text
) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    r       record;
    moment  timestamptz;
    done    smallint := CASE WHEN p_status IS NULL THEN 4 ELSE 3 END;
    began   timestamptz := to_timestamp(0) + p_began_at * interval '1 microsecond';
    ended   timestamptz := to_timestamp(0) + p_completed_at * interval '1 microsecond';
    renewed timestamptz;
    told    boolean;
BEGIN
    LOOP
        -- As good as always. Its clock is read once the row is its own.
        UPDATE idempotency_records t SET
            state = done, token = p_token, attempt = p_attempt, fingerprint = p_fingerprint,
            expires_at = clock_timestamp() + p_kept_for * interval '1 microsecond',
            status = p_status, began_at = began, completed_at = ended, kept_for = p_kept_for,
            answer = p_answer, answer_length = p_answer_length, answer_sha256 = p_answer_sha256
         WHERE t.id = p_id AND t.nonce = p_nonce AND t.state IN (1, 2) AND t.format = 1;
        -- Its renewals are left to the purge: in a transaction of the handler's
        -- own this would fail over one that came meanwhile.
        EXIT WHEN FOUND;
        SELECT t.format, t.state, t.nonce, t.token, t.lapses_at, t.retention, t.expires_at INTO r
          FROM idempotency_records t WHERE t.id = p_id FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            moment := clock_timestamp();
            INSERT INTO idempotency_records (
                id, format, state, nonce, token, attempt, fingerprint, lapses_at, retention, expires_at,
                status, began_at, completed_at, kept_for, answer, answer_length, answer_sha256,
                scope, route, trace
            ) VALUES (
                p_id, 1, done, p_nonce, p_token, p_attempt, p_fingerprint, moment, p_retention,
                moment + p_kept_for * interval '1 microsecond',
                p_status, began, ended, p_kept_for, p_answer, p_answer_length, p_answer_sha256,
                p_scope, p_route, p_trace
            ) ON CONFLICT (id) DO NOTHING;
            EXIT WHEN FOUND;
            CONTINUE;
        END IF;
        IF r.format <> 1 OR r.state NOT BETWEEN 1 AND 5 THEN
            RETURN NULL;
        END IF;
        CONTINUE WHEN r.state IN (1, 2) AND r.nonce = p_nonce;
        IF r.state = 1 AND r.expires_at IS NOT NULL THEN
            SELECT n.lapses_at INTO renewed FROM idempotency_records_renewals n
             WHERE n.id = p_id AND n.token = r.token;
            r.expires_at := coalesce(renewed, r.lapses_at) + r.retention * interval '1 microsecond';
        END IF;
        moment := clock_timestamp();
        IF r.token > p_token OR NOT (r.state = 5 OR coalesce(r.expires_at <= moment, false)) THEN
            RETURN r.state IN (3, 4) AND r.nonce = p_nonce;
        END IF;
        UPDATE idempotency_records t SET
            state = done, nonce = p_nonce, token = p_token, attempt = p_attempt,
            fingerprint = p_fingerprint, lapses_at = moment, retention = p_retention,
            expires_at = moment + p_kept_for * interval '1 microsecond',
            status = p_status, began_at = began, completed_at = ended, kept_for = p_kept_for,
            answer = p_answer, answer_length = p_answer_length, answer_sha256 = p_answer_sha256,
            scope = coalesce(p_scope, t.scope),
            -- The origin that is there is of the attempt whose token is there.
            route = coalesce(p_route, CASE WHEN t.token = p_token THEN t.route END),
            trace = coalesce(p_trace, CASE WHEN t.token = p_token THEN t.trace END)
         WHERE t.id = p_id;
        EXIT;
    END LOOP;
    -- The record is this function's own by now, so that no more of them come.
    DELETE FROM idempotency_records_steps s WHERE s.id = p_id;
    told := idempotency_records_changed(p_id) IS NOT NULL;
    RETURN true;
END
$$;

-- The same, as programs before revision 6 call it.
CREATE OR REPLACE FUNCTION idempotency_records_complete(
    p_id bytea, p_nonce bytea, p_token bigint, p_attempt bigint, p_fingerprint bytea,
    p_retention bigint, p_kept_for bigint, p_status smallint, p_began_at bigint,
    p_completed_at bigint, p_answer bytea, p_answer_length bigint, p_answer_sha256 bytea
) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT idempotency_records_complete_v2(p_id, p_nonce, p_token, p_attempt, p_fingerprint,
        p_retention, p_kept_for, p_status, p_began_at, p_completed_at, p_answer, p_answer_length,
        p_answer_sha256, NULL, NULL, NULL)
$$;

-- Stores the outcome as part of a transaction of the caller's own, together with
-- the operation's effects. 0: the record is not in flight under this nonce, and the
-- transaction is to be rolled back. 1: done, once the transaction is committed. 2: so
-- it is, and then somebody is to be told, by idempotency_records_changed. It works at
-- any isolation: nothing that it writes is written by others meanwhile, and above
-- read committed it does not even look at who waits.
CREATE OR REPLACE FUNCTION idempotency_records_complete_within(
    p_id bytea, p_nonce bytea, p_kept_for bigint, p_status smallint, p_began_at bigint,
    p_completed_at bigint, p_answer bytea, p_answer_length bigint, p_answer_sha256 bytea
) RETURNS smallint LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    -- From here on the row is locked: nobody takes over before the end.
    UPDATE idempotency_records t SET
        state = CASE WHEN p_status IS NULL THEN 4 ELSE 3 END,
        expires_at = clock_timestamp() + p_kept_for * interval '1 microsecond',
        status = p_status,
        began_at = to_timestamp(0) + p_began_at * interval '1 microsecond',
        completed_at = to_timestamp(0) + p_completed_at * interval '1 microsecond',
        kept_for = p_kept_for,
        answer = p_answer, answer_length = p_answer_length, answer_sha256 = p_answer_sha256
     WHERE t.id = p_id AND t.nonce = p_nonce AND t.state IN (1, 2) AND t.format = 1;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    -- A serializable transaction could fail over having read where others write: it
    -- leaves the steps to the end of the record.
    IF current_setting('transaction_isolation') <> 'serializable' THEN
        DELETE FROM idempotency_records_steps s WHERE s.id = p_id;
    END IF;
    -- Until the commit: who is about to wait can see that something changes.
    PERFORM pg_advisory_xact_lock(hashtextextended('idempotency_records' || encode(p_id, 'hex'), 0));
    IF current_setting('transaction_isolation') = 'read committed'
        AND NOT EXISTS (SELECT FROM idempotency_records_waiters w WHERE w.id = p_id)
    THEN
        RETURN 1;
    END IF;
    RETURN 2;
END
$$;

-- Leaves a tombstone, or marks the outcome unknown. Answers as completing does.
CREATE OR REPLACE FUNCTION idempotency_records_release(p_id bytea, p_nonce bytea, p_unknown boolean)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    r       record;
    moment  timestamptz;
    renewed timestamptz;
BEGIN
    SELECT t.format, t.state, t.nonce, t.token, t.lapses_at, t.retention, t.expires_at INTO r
      FROM idempotency_records t WHERE t.id = p_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF r.format <> 1 OR r.state NOT BETWEEN 1 AND 5 THEN
        RETURN NULL;
    END IF;
    IF r.nonce <> p_nonce OR r.state NOT IN (1, 2) THEN
        RETURN false;
    END IF;
    IF r.state = 1 AND r.expires_at IS NOT NULL THEN
        SELECT n.lapses_at INTO renewed FROM idempotency_records_renewals n
         WHERE n.id = p_id AND n.token = r.token;
        r.expires_at := coalesce(renewed, r.lapses_at) + r.retention * interval '1 microsecond';
    END IF;
    moment := clock_timestamp();
    IF r.expires_at <= moment THEN
        RETURN false;
    END IF;
    IF p_unknown THEN
        UPDATE idempotency_records t SET
            state = 2, lapses_at = moment,
            expires_at = CASE WHEN t.expires_at IS NOT NULL
                THEN moment + t.retention * interval '1 microsecond' END
         WHERE t.id = p_id;
    ELSE
        UPDATE idempotency_records t SET
            state = 5, lapses_at = moment, fingerprint = NULL,
            expires_at = moment + t.retention * interval '1 microsecond'
         WHERE t.id = p_id;
    END IF;
    DELETE FROM idempotency_records_renewals n WHERE n.id = p_id;
    PERFORM idempotency_records_changed(p_id);
    RETURN true;
END
$$;

-- What is there, as a claim says it. No row: nothing is.
CREATE OR REPLACE FUNCTION idempotency_records_look_up(p_id bytea)
RETURNS TABLE (
    format smallint, state smallint, token bigint, attempt bigint, fingerprint bytea,
    lapses_in bigint, status smallint, began_at bigint, completed_at bigint, kept_for bigint,
    answer bytea, answer_length bigint, answer_sha256 bytea
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    r      record;
    moment timestamptz;
BEGIN
    SELECT t.*, coalesce(n.lapses_at, t.lapses_at) AS lapses INTO r
      FROM idempotency_records t
      LEFT JOIN idempotency_records_renewals n ON n.id = t.id AND n.token = t.token
     WHERE t.id = p_id;
    moment := clock_timestamp();
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF r.format = 1 AND r.state BETWEEN 1 AND 5 THEN
        IF r.state = 1 AND r.expires_at IS NOT NULL THEN
            r.expires_at := r.lapses + r.retention * interval '1 microsecond';
        END IF;
        IF r.expires_at <= moment THEN
            RETURN;
        END IF;
    END IF;
    RETURN QUERY SELECT
        r.format, r.state, r.token, r.attempt, r.fingerprint,
        (extract(epoch FROM r.lapses - moment) * 1000000)::bigint,
        r.status,
        (extract(epoch FROM r.began_at) * 1000000)::bigint,
        (extract(epoch FROM r.completed_at) * 1000000)::bigint,
        r.kept_for, r.answer, r.answer_length, r.answer_sha256;
END
$$;

-- Removes the record. 0: there was none, 1: it is gone, 2: it is in flight and
-- alive, and stays unless forced. Null: this version can't read it, so it
-- stays unless forced.
CREATE OR REPLACE FUNCTION idempotency_records_forget(p_id bytea, p_force boolean)
RETURNS smallint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    r      record;
    moment timestamptz;
    locked boolean := false;
BEGIN
    LOOP
        SELECT t.*, coalesce(n.lapses_at, t.lapses_at) AS lapses INTO r
          FROM idempotency_records t
          LEFT JOIN idempotency_records_renewals n ON n.id = t.id AND n.token = t.token
         WHERE t.id = p_id;
        IF NOT FOUND THEN
            RETURN 0;
        END IF;
        moment := clock_timestamp();
        IF r.format <> 1 OR r.state NOT BETWEEN 1 AND 5 THEN
            IF NOT p_force THEN
                RETURN NULL;
            END IF;
        ELSE
            IF r.state = 1 AND r.expires_at IS NOT NULL THEN
                r.expires_at := r.lapses + r.retention * interval '1 microsecond';
            END IF;
            IF r.expires_at <= moment THEN
                RETURN 0;
            END IF;
            IF NOT p_force AND r.state = 1 AND r.lapses > moment THEN
                RETURN 2;
            END IF;
        END IF;
        EXIT WHEN locked;
        PERFORM FROM idempotency_records t WHERE t.id = p_id FOR UPDATE;
        locked := FOUND;
    END LOOP;
    IF r.state = 1 AND NOT p_force THEN
        -- Above read committed the renewal of a moment ago may not be visible,
        -- and then this fails.
        INSERT INTO idempotency_records_renewals (id, token, lapses_at)
        VALUES (p_id, r.token, r.lapses)
        ON CONFLICT (id) DO UPDATE SET lapses_at = excluded.lapses_at;
    END IF;
    DELETE FROM idempotency_records t WHERE t.id = p_id;
    DELETE FROM idempotency_records_renewals n WHERE n.id = p_id;
    DELETE FROM idempotency_records_steps s WHERE s.id = p_id;
    PERFORM idempotency_records_changed(p_id);
    RETURN 1;
END
$$;

-- Tells those who wait for a change of the record, if anybody does: a
-- notification takes a lock of the whole server at the commit.
CREATE OR REPLACE FUNCTION idempotency_records_changed(p_id bytea)
RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    locked boolean;
BEGIN
    -- Until the commit: who is about to wait can see that something changes. An
    -- assignment costs the server less than PERFORM, which runs a query.
    locked := pg_advisory_xact_lock(
        hashtextextended('idempotency_records' || encode(p_id, 'hex'), 0)) IS NOT NULL;
    DELETE FROM idempotency_records_waiters w WHERE w.id = p_id;
    IF FOUND THEN
        PERFORM pg_notify('idempotency_records', encode(p_id, 'hex'));
    END IF;
END
$$;

-- Asks for a notification of the record's next change, to be called before
-- the claim that decides whether to wait. False: it is changing at this
-- moment, perhaps without a notification.
CREATE OR REPLACE FUNCTION idempotency_records_wait(p_id bytea, p_listener bytea, p_for bigint)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock_shared(
        hashtextextended('idempotency_records' || encode(p_id, 'hex'), 0))
    THEN
        RETURN false;
    END IF;
    INSERT INTO idempotency_records_waiters (id, listener, until)
    VALUES (p_id, p_listener, clock_timestamp() + p_for * interval '1 microsecond')
    ON CONFLICT (id, listener) DO UPDATE SET until = excluded.until;
    RETURN true;
END
$$;

-- Removes at most so many records past their end, and says how many. It waits
-- for nobody and makes nobody wait for long.
CREATE OR REPLACE FUNCTION idempotency_records_purge(p_batch integer)
RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment  timestamptz := clock_timestamp();
    due     bytea[];
    removed bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'idempotency_records_purge needs a transaction at READ COMMITTED'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    SELECT array_agg(d.id) INTO due FROM (
        SELECT t.id FROM idempotency_records t
         WHERE t.expires_at <= moment AND t.format = 1 AND t.state BETWEEN 1 AND 5
           AND NOT (t.state = 1 AND EXISTS (
               SELECT FROM idempotency_records_renewals n
                WHERE n.id = t.id AND n.token = t.token
                  AND n.lapses_at + t.retention * interval '1 microsecond' > moment))
         ORDER BY t.expires_at LIMIT p_batch
         FOR UPDATE OF t SKIP LOCKED
    ) d;
    -- Again, now that none of them can be renewed any more.
    WITH gone AS (
        DELETE FROM idempotency_records t
         WHERE t.id = ANY (due) AND t.expires_at <= moment
           AND t.format = 1 AND t.state BETWEEN 1 AND 5
           AND NOT (t.state = 1 AND EXISTS (
               SELECT FROM idempotency_records_renewals n
                WHERE n.id = t.id AND n.token = t.token
                  AND n.lapses_at + t.retention * interval '1 microsecond' > moment))
        RETURNING t.id
    ), renewals AS (
        DELETE FROM idempotency_records_renewals n USING gone WHERE n.id = gone.id
    ), steps AS (
        DELETE FROM idempotency_records_steps s USING gone WHERE s.id = gone.id
    )
    SELECT count(*) INTO removed FROM gone;
    -- What operations that have ended left behind.
    DELETE FROM idempotency_records_renewals n WHERE n.id IN (
        SELECT o.id FROM idempotency_records_renewals o
         WHERE o.lapses_at < moment
           AND NOT EXISTS (SELECT FROM idempotency_records t
                            WHERE t.id = o.id AND t.token = o.token AND t.state = 1)
         LIMIT p_batch FOR UPDATE SKIP LOCKED);
    DELETE FROM idempotency_records_waiters w WHERE (w.id, w.listener) IN (
        SELECT s.id, s.listener FROM idempotency_records_waiters s
         WHERE s.until < moment LIMIT p_batch FOR UPDATE SKIP LOCKED);
    RETURN removed;
END
$$;

COMMENT ON TABLE idempotency_records IS 'tower-idempotency schema 1, revision 6';

-- What a list of records is read by. On a table that has records `migrate` makes
-- both with CREATE INDEX CONCURRENTLY, each in a statement of its own and after the
-- rest, and so should you.
CREATE INDEX IF NOT EXISTS "idempotency_records_by_state"
    ON idempotency_records (state, token, id) WHERE state <> 3;
CREATE INDEX IF NOT EXISTS "idempotency_records_by_scope"
    ON idempotency_records (scope, token, id) WHERE scope IS NOT NULL;
