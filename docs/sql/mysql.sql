-- The tables and procedures of tower-idempotency in MySQL (8.0.29 or later) and
-- MariaDB (10.6 or later). `migrate()` runs this very text; to run it by other
-- means, feed it to the `mysql` or `mariadb` client. For another table than
-- `idempotency_records`, replace that name throughout.
--
-- Times are microseconds since 1970, UTC, and lengths of time microseconds: no
-- session's time zone touches an integer. docs/stores.md describes columns,
-- procedures and answers. The comment of a procedure ends in the first 16 digits
-- of the SHA-256 of this text, taken without them: so `open()` sees a procedure
-- that another version of this text has made.
--
-- A procedure whose body deals with steps has a name that programs without steps don't
-- know: their text, run later, puts back the older names alone.
--
-- Each procedure but those for the inside of a transaction begins by taking back
-- what its session left uncommitted, and says at each end of a transaction what
-- `completion_type` would say otherwise. Claims that find something, look-ups and lists
-- end by ROLLBACK: the COMMIT of a transaction that has only read syncs InnoDB's log once
-- more, if the one before it in the session wrote.

DELIMITER //

-- A procedure keeps the sql_mode that it was created under.
SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'
//

-- Where renewals go: the row of a record may be locked by its handler's own
-- transaction, and must not change under that.
CREATE TABLE IF NOT EXISTS idempotency_records_renewals (
  id        BINARY(32) NOT NULL PRIMARY KEY,
  nonce     BINARY(16) NOT NULL,
  lapses_at BIGINT     NOT NULL,
  KEY lapses (lapses_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = binary
  COMMENT = 'tower-idempotency 1'
//

-- state: 1 in flight, 2 unknown, 3 completed, 4 sealed, 5 released.
-- lapses_at, expires_at: as the claim left them. A row of renewals with the same
-- nonce says anew when a lease lapses, and its end is a retention after that.
-- expires_at is null while a record stays until someone resolves it.
-- scope to first_token, by_state and by_scope: a table of before is given them by
-- `migrate()`, or by the statements in docs/stores.md. route and trace are those of
-- the claim whose token origin_of is: programs of before leave what they find.
-- first_token is that of the first claim since there was no record, or since it was
-- past its end. Programs of before leave it null, or as it was: see the claim.
CREATE TABLE IF NOT EXISTS idempotency_records (
  id            BINARY(32) NOT NULL PRIMARY KEY,
  format        TINYINT    NOT NULL,
  state         TINYINT    NOT NULL,
  nonce         BINARY(16) NOT NULL,
  token         BIGINT     NOT NULL,
  attempt       BIGINT     NOT NULL,
  fingerprint   BINARY(32) NOT NULL,
  lapses_at     BIGINT     NOT NULL,
  retention     BIGINT     NOT NULL,
  expires_at    BIGINT     NULL,
  status        SMALLINT   NULL,
  began_at      BIGINT     NULL,
  completed_at  BIGINT     NULL,
  kept_for      BIGINT     NULL,
  answer_length BIGINT     NULL,
  answer_sha256 BINARY(32) NULL,
  answer        LONGBLOB   NULL,
  scope         BINARY(32) NULL,
  route         VARBINARY(255) NULL,
  trace         VARBINARY(55) NULL,
  origin_of     BIGINT     NULL,
  first_token   BIGINT     NULL,
  KEY expires (expires_at),
  KEY by_state (state, token),
  KEY by_scope (scope, token)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = binary
  COMMENT = 'tower-idempotency 1'
//

-- The results of steps, apart from their record for the same reason as renewals. One
-- that is not of the record's first_token (null: 0) means nothing any more, and is purged.
CREATE TABLE IF NOT EXISTS idempotency_records_steps (
  id          BINARY(32) NOT NULL,
  first_token BIGINT     NOT NULL,
  name_sha256 BINARY(32) NOT NULL,
  name        LONGBLOB   NOT NULL,
  result      LONGBLOB   NOT NULL,
  recorded_at BIGINT     NOT NULL,
  PRIMARY KEY (id, first_token, name_sha256)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = binary
  COMMENT = 'tower-idempotency 1'
//

-- Inside a transaction: locks the renewals of a record, whether there are any
-- or not (p_renewed is 0 then). Whoever renews a lease or takes it away does this first, so that one
-- of them sees what the other did.
DROP PROCEDURE IF EXISTS idempotency_records_hold
//
CREATE PROCEDURE idempotency_records_hold (
  IN p_id BINARY(32), IN p_nonce BINARY(16), OUT p_renewed BIGINT
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  INSERT INTO idempotency_records_renewals (id, nonce, lapses_at) VALUES (p_id, p_nonce, 0)
    ON DUPLICATE KEY UPDATE lapses_at = lapses_at;
  SELECT IF(nonce = p_nonce, lapses_at, 0) INTO p_renewed
    FROM idempotency_records_renewals WHERE id = p_id FOR UPDATE;
END
//

-- Inside a transaction: puts the end of the lease one length ahead, if the
-- record is in flight under the nonce. It reads the record without a lock: who
-- takes the lease away has committed before the renewals could be locked.
DROP PROCEDURE IF EXISTS idempotency_records_extend
//
CREATE PROCEDURE idempotency_records_extend (
  IN p_id BINARY(32), IN p_nonce BINARY(16), IN p_lease BIGINT, OUT p_held TINYINT
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  DECLARE v_renewed, v_now BIGINT;
  CALL idempotency_records_hold(p_id, p_nonce, v_renewed);
  SET v_now = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6));
  SELECT COUNT(*) INTO p_held FROM idempotency_records
    WHERE id = p_id AND format = 1 AND state = 1 AND nonce = p_nonce
      AND (expires_at IS NULL OR IF(v_renewed, v_renewed, lapses_at) + retention > v_now);
  IF p_held THEN
    UPDATE idempotency_records_renewals
      SET nonce = p_nonce, lapses_at = v_now + p_lease WHERE id = p_id;
  END IF;
END
//

-- One row: outcome 1 (acquired: token, attempt, and of an attempt after the first one
-- row for each step, or one with a step that is null), 0 (found: the record) or 2 (in
-- flight: another transaction has the row locked; the token and attempt that it had
-- before).
DROP PROCEDURE IF EXISTS idempotency_records_claim_v3
//
CREATE PROCEDURE idempotency_records_claim_v3 (
  IN p_id BINARY(32), IN p_nonce BINARY(16), IN p_fingerprint BINARY(32),
  IN p_lease BIGINT, IN p_retention BIGINT,
  -- A lapsed lease: whether this claim leaves its own for someone to resolve,
  -- whether it takes over another's, and whether of another fingerprint too.
  IN p_stays TINYINT, IN p_takes_over TINYINT, IN p_any_fingerprint TINYINT,
  IN p_scope BINARY(32), IN p_route VARBINARY(255), IN p_trace VARBINARY(55)
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  DECLARE v_format, v_state TINYINT;
  DECLARE v_token, v_attempt, v_lapses_at, v_retention, v_expires_at, v_renewed, v_now BIGINT;
  DECLARE v_first_token BIGINT;
  DECLARE v_nonce BINARY(16);
  DECLARE v_fingerprint BINARY(32);
  DECLARE v_locks, v_over, v_free, v_there TINYINT DEFAULT FALSE;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  again: LOOP
    -- Whatever the session is set to: one snapshot of now for the look, and
    -- under the lock every read is of what is committed.
    ROLLBACK AND NO CHAIN NO RELEASE;
    SET v_state = NULL;
    IF v_locks THEN
      SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
      START TRANSACTION;
      SELECT format, state, nonce, token, attempt, fingerprint, lapses_at, retention, expires_at,
             first_token
        INTO v_format, v_state, v_nonce, v_token, v_attempt, v_fingerprint, v_lapses_at,
             v_retention, v_expires_at, v_first_token
        FROM idempotency_records WHERE id = p_id FOR UPDATE SKIP LOCKED;
      IF v_state = 1 THEN
        CALL idempotency_records_hold(p_id, v_nonce, v_renewed);
      END IF;
    ELSE
      SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
      START TRANSACTION;
      -- No more than a replay and the claim of a new record need.
      SELECT format, state, expires_at INTO v_format, v_state, v_expires_at
        FROM idempotency_records WHERE id = p_id;
      IF v_format = 1 AND v_state IN (3, 4)
          AND v_expires_at > TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) THEN
        SELECT 0 AS outcome, format, state, token, attempt, fingerprint, 0 AS lapses_in,
               status, began_at, completed_at, kept_for, answer_length, answer_sha256, answer,
               scope, IF(origin_of = token, route, NULL) AS route,
               IF(origin_of = token, trace, NULL) AS trace
          FROM idempotency_records WHERE id = p_id;
        ROLLBACK AND NO CHAIN NO RELEASE;
        LEAVE again;
      END IF;
      IF v_state IS NOT NULL THEN
        SELECT nonce, token, attempt, fingerprint, lapses_at, retention
          INTO v_nonce, v_token, v_attempt, v_fingerprint, v_lapses_at, v_retention
          FROM idempotency_records WHERE id = p_id;
      END IF;
      IF v_state = 1 THEN
        SELECT MAX(lapses_at) INTO v_renewed FROM idempotency_records_renewals
          WHERE id = p_id AND nonce = v_nonce;
      END IF;
    END IF;
    IF v_state = 1 AND v_renewed THEN
      SET v_lapses_at = v_renewed;
    END IF;
    -- Each statement of a procedure has a clock of its own: this is after any wait.
    SET v_now = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6));

    IF v_state IS NULL AND v_locks THEN
      -- Not IF EXISTS: what is no statement of its own reads under a lock.
      SELECT COUNT(*) INTO v_there FROM idempotency_records WHERE id = p_id;
      ROLLBACK AND NO CHAIN NO RELEASE;
      IF v_there THEN
        SELECT 2 AS outcome, v_token AS token, v_attempt AS attempt;
        LEAVE again;
      END IF;
      SET v_locks = FALSE;
      ITERATE again;
    END IF;

    IF v_state IS NULL THEN
      SET v_there = FALSE;
      ROLLBACK AND NO CHAIN NO RELEASE;
      SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
      START TRANSACTION;
      BEGIN
        DECLARE CONTINUE HANDLER FOR 1062 SET v_there = TRUE;
        INSERT INTO idempotency_records
            (id, format, state, nonce, token, attempt, fingerprint, lapses_at, retention, expires_at,
             scope, route, trace, origin_of, first_token)
          VALUES (p_id, 1, 1, p_nonce, v_now, 1, p_fingerprint, v_now + p_lease, p_retention,
                  IF(p_stays, NULL, v_now + p_lease + p_retention),
                  p_scope, p_route, p_trace, v_now, v_now);
      END;
      IF v_there THEN
        ROLLBACK AND NO CHAIN NO RELEASE;
        ITERATE again;
      END IF;
      -- The nonce may have claimed before: those renewals are not of this lease.
      DELETE FROM idempotency_records_renewals WHERE id = p_id;
      COMMIT AND NO CHAIN NO RELEASE;
      SELECT 1 AS outcome, v_now AS token, 1 AS attempt;
      LEAVE again;
    END IF;

    SET v_over = COALESCE(
      IF(v_state = 1 AND v_expires_at IS NOT NULL, v_lapses_at + v_retention, v_expires_at) <= v_now,
      FALSE);
    IF v_format = 1 AND v_state = 1 AND v_nonce = p_nonce AND NOT v_over THEN
      ROLLBACK AND NO CHAIN NO RELEASE;
      SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
      START TRANSACTION;
      CALL idempotency_records_extend(p_id, p_nonce, p_lease, v_free);
      IF v_free THEN
        SELECT 1 AS outcome, v_token AS token, v_attempt AS attempt, s.name AS step, s.result
          FROM idempotency_records r
          LEFT JOIN idempotency_records_steps s
            ON s.id = r.id AND s.first_token = COALESCE(r.first_token, 0)
          WHERE r.id = p_id ORDER BY s.recorded_at, s.name_sha256;
        COMMIT AND NO CHAIN NO RELEASE;
        LEAVE again;
      END IF;
      ROLLBACK AND NO CHAIN NO RELEASE;
      SET v_locks = FALSE;
      ITERATE again;
    END IF;
    SET v_free = v_format = 1 AND (
      v_state = 5
      OR v_state BETWEEN 1 AND 4 AND v_over
      OR (v_state = 2 OR v_state = 1 AND v_lapses_at <= v_now)
         AND p_takes_over AND (p_any_fingerprint OR v_fingerprint = p_fingerprint));

    IF v_free AND v_locks THEN
      -- A program without steps may have begun the operation: what steps there are then are
      -- those of an earlier one.
      IF v_over OR v_first_token IS NULL OR v_attempt = 1 AND v_first_token <> v_token THEN
        SET v_first_token = GREATEST(v_token + 1, v_now);
        DELETE FROM idempotency_records_steps WHERE id = p_id;
      END IF;
      SET v_token = GREATEST(v_token + 1, v_now), v_attempt = IF(v_over, 1, v_attempt + 1);
      UPDATE idempotency_records
        SET state = 1, nonce = p_nonce, token = v_token, attempt = v_attempt,
            fingerprint = p_fingerprint, lapses_at = v_now + p_lease, retention = p_retention,
            expires_at = IF(p_stays, NULL, v_now + p_lease + p_retention),
            status = NULL, began_at = NULL, completed_at = NULL, kept_for = NULL,
            answer_length = NULL, answer_sha256 = NULL, answer = NULL,
            scope = COALESCE(p_scope, scope), route = p_route, trace = p_trace, origin_of = v_token,
            first_token = v_first_token
        WHERE id = p_id;
      DELETE FROM idempotency_records_renewals WHERE id = p_id;
      -- Before the commit: until then nobody takes the record and its steps away.
      SELECT 1 AS outcome, v_token AS token, v_attempt AS attempt, s.name AS step, s.result
        FROM idempotency_records r
        LEFT JOIN idempotency_records_steps s
          ON s.id = r.id AND s.first_token = COALESCE(r.first_token, 0)
        WHERE r.id = p_id ORDER BY s.recorded_at, s.name_sha256;
      COMMIT AND NO CHAIN NO RELEASE;
      LEAVE again;
    ELSEIF v_free THEN
      SET v_locks = TRUE;
    ELSEIF v_locks THEN
      ROLLBACK AND NO CHAIN NO RELEASE;
      SET v_locks = FALSE;
    ELSE
      SELECT 0 AS outcome, format, state, token, attempt, fingerprint,
             v_lapses_at - v_now AS lapses_in,
             status, began_at, completed_at, kept_for, answer_length, answer_sha256, answer,
             scope, IF(origin_of = token, route, NULL) AS route,
             IF(origin_of = token, trace, NULL) AS trace
        FROM idempotency_records WHERE id = p_id;
      ROLLBACK AND NO CHAIN NO RELEASE;
      LEAVE again;
    END IF;
  END LOOP;
END
//

-- The same, as programs call it that know no steps.
DROP PROCEDURE IF EXISTS idempotency_records_claim_v2
//
CREATE PROCEDURE idempotency_records_claim_v2 (
  IN p_id BINARY(32), IN p_nonce BINARY(16), IN p_fingerprint BINARY(32),
  IN p_lease BIGINT, IN p_retention BIGINT,
  IN p_stays TINYINT, IN p_takes_over TINYINT, IN p_any_fingerprint TINYINT,
  IN p_scope BINARY(32), IN p_route VARBINARY(255), IN p_trace VARBINARY(55)
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  CALL idempotency_records_claim_v3(p_id, p_nonce, p_fingerprint, p_lease, p_retention, p_stays,
    p_takes_over, p_any_fingerprint, p_scope, p_route, p_trace);
END
//

-- The same, as programs call it that know no origin.
DROP PROCEDURE IF EXISTS idempotency_records_claim
//
CREATE PROCEDURE idempotency_records_claim (
  IN p_id BINARY(32), IN p_nonce BINARY(16), IN p_fingerprint BINARY(32),
  IN p_lease BIGINT, IN p_retention BIGINT,
  IN p_stays TINYINT, IN p_takes_over TINYINT, IN p_any_fingerprint TINYINT
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  CALL idempotency_records_claim_v3(p_id, p_nonce, p_fingerprint, p_lease, p_retention, p_stays,
    p_takes_over, p_any_fingerprint, NULL, NULL, NULL);
END
//

-- A claim by hand: takes over the lapsed record of this token and attempt, and makes
-- none. Outcome 1 (acquired: token and attempt, and a row for each step, or one with a
-- step that is null) or 0 (it is another record, it has not lapsed, or another
-- transaction has the row locked).
DROP PROCEDURE IF EXISTS idempotency_records_claim_by_hand
//
CREATE PROCEDURE idempotency_records_claim_by_hand (
  IN p_id BINARY(32), IN p_nonce BINARY(16), IN p_fingerprint BINARY(32),
  IN p_lease BIGINT, IN p_retention BIGINT, IN p_stays TINYINT, IN p_any_fingerprint TINYINT,
  IN p_scope BINARY(32), IN p_route VARBINARY(255), IN p_trace VARBINARY(55),
  IN p_token BIGINT, IN p_attempt BIGINT
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  DECLARE v_format, v_state TINYINT;
  DECLARE v_token, v_attempt, v_lapses_at, v_retention, v_expires_at, v_renewed, v_now BIGINT;
  DECLARE v_first_token BIGINT;
  DECLARE v_nonce BINARY(16);
  DECLARE v_fingerprint BINARY(32);
  DECLARE v_outcome TINYINT DEFAULT 0;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  ROLLBACK AND NO CHAIN NO RELEASE;
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  START TRANSACTION;
  SELECT format, state, nonce, token, attempt, fingerprint, lapses_at, retention, expires_at,
         first_token
    INTO v_format, v_state, v_nonce, v_token, v_attempt, v_fingerprint, v_lapses_at, v_retention,
         v_expires_at, v_first_token
    FROM idempotency_records WHERE id = p_id FOR UPDATE SKIP LOCKED;
  IF v_state = 1 THEN
    CALL idempotency_records_hold(p_id, v_nonce, v_renewed);
    SET v_lapses_at = IF(v_renewed, v_renewed, v_lapses_at);
    IF v_expires_at IS NOT NULL THEN
      SET v_expires_at = v_lapses_at + v_retention;
    END IF;
  END IF;
  SET v_now = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6));
  IF v_format = 1 AND (v_expires_at IS NULL OR v_expires_at > v_now) THEN
    IF v_state = 1 AND v_nonce = p_nonce THEN
      UPDATE idempotency_records_renewals
        SET nonce = p_nonce, lapses_at = v_now + p_lease WHERE id = p_id;
      SET v_outcome = 1;
    ELSEIF v_token = p_token AND v_attempt = p_attempt
        AND (v_state = 2 OR v_state = 1 AND v_lapses_at <= v_now)
        AND (p_any_fingerprint OR v_fingerprint = p_fingerprint) THEN
      -- As in the other claim.
      IF v_first_token IS NULL OR v_attempt = 1 AND v_first_token <> v_token THEN
        SET v_first_token = GREATEST(v_token + 1, v_now);
        DELETE FROM idempotency_records_steps WHERE id = p_id;
      END IF;
      SET v_token = GREATEST(v_token + 1, v_now), v_attempt = v_attempt + 1;
      UPDATE idempotency_records
        SET state = 1, nonce = p_nonce, token = v_token, attempt = v_attempt,
            fingerprint = p_fingerprint, lapses_at = v_now + p_lease, retention = p_retention,
            expires_at = IF(p_stays, NULL, v_now + p_lease + p_retention),
            scope = COALESCE(p_scope, scope), route = p_route, trace = p_trace, origin_of = v_token,
            first_token = v_first_token
        WHERE id = p_id;
      DELETE FROM idempotency_records_renewals WHERE id = p_id;
      SET v_outcome = 1;
    END IF;
  END IF;
  IF v_outcome THEN
    -- Before the commit: until then nobody takes the record and its steps away.
    SELECT 1 AS outcome, v_token AS token, v_attempt AS attempt, s.name AS step, s.result
      FROM idempotency_records r
      LEFT JOIN idempotency_records_steps s
        ON s.id = r.id AND s.first_token = COALESCE(r.first_token, 0)
      WHERE r.id = p_id ORDER BY s.recorded_at, s.name_sha256;
    COMMIT AND NO CHAIN NO RELEASE;
  ELSE
    ROLLBACK AND NO CHAIN NO RELEASE;
    SELECT 0 AS outcome;
  END IF;
END
//

-- One page of records, of at most p_limit rows: by id (p_by 0), or by token those in
-- p_state (1) or of p_scope (2), after the token and the id given.
DROP PROCEDURE IF EXISTS idempotency_records_list
//
CREATE PROCEDURE idempotency_records_list (
  IN p_by TINYINT, IN p_state TINYINT, IN p_scope BINARY(32), IN p_token BIGINT,
  IN p_id BINARY(32), IN p_limit INT
) READS SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  DECLARE v_now BIGINT;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;
  ROLLBACK AND NO CHAIN NO RELEASE;
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  START TRANSACTION;
  SET v_now = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6));
  SELECT v_now AS moment, r.id, r.format, r.state, r.token, r.attempt, r.status, r.completed_at,
         COALESCE(n.lapses_at, r.lapses_at) - v_now AS lapses_in,
         IF(n.lapses_at IS NULL OR r.expires_at IS NULL, r.expires_at,
            n.lapses_at + r.retention) - v_now AS expires_in,
         r.scope, IF(r.origin_of = r.token, r.route, NULL) AS route,
         IF(r.origin_of = r.token, r.trace, NULL) AS trace
    FROM (
      (SELECT id, format, state, nonce, token, attempt, status, completed_at, lapses_at, expires_at,
              retention, scope, route, trace, origin_of
         FROM idempotency_records
         WHERE p_by = 0 AND id > p_id ORDER BY id LIMIT p_limit)
      UNION ALL
      (SELECT id, format, state, nonce, token, attempt, status, completed_at, lapses_at, expires_at,
              retention, scope, route, trace, origin_of
         FROM idempotency_records
         WHERE p_by = 1 AND state = p_state AND token >= p_token AND (token > p_token OR id > p_id)
         ORDER BY token, id LIMIT p_limit)
      UNION ALL
      (SELECT id, format, state, nonce, token, attempt, status, completed_at, lapses_at, expires_at,
              retention, scope, route, trace, origin_of
         FROM idempotency_records
         WHERE p_by = 2 AND scope = p_scope AND token >= p_token AND (token > p_token OR id > p_id)
         ORDER BY token, id LIMIT p_limit)
    ) r
    LEFT JOIN idempotency_records_renewals n
      ON r.state = 1 AND n.id = r.id AND n.nonce = r.nonce AND n.lapses_at > 0;
  ROLLBACK AND NO CHAIN NO RELEASE;
END
//

-- The record, or no row.
DROP PROCEDURE IF EXISTS idempotency_records_look_up
//
CREATE PROCEDURE idempotency_records_look_up (IN p_id BINARY(32))
  READS SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  DECLARE v_now BIGINT;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;
  ROLLBACK AND NO CHAIN NO RELEASE;
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  START TRANSACTION;
  SET v_now = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6));
  SELECT 0 AS outcome, r.format, r.state, r.token, r.attempt, r.fingerprint,
         COALESCE(n.lapses_at, r.lapses_at) - v_now AS lapses_in,
         r.status, r.began_at, r.completed_at, r.kept_for, r.answer_length, r.answer_sha256,
         r.answer, r.scope, IF(r.origin_of = r.token, r.route, NULL) AS route,
         IF(r.origin_of = r.token, r.trace, NULL) AS trace
    FROM idempotency_records r
    LEFT JOIN idempotency_records_renewals n ON n.id = r.id AND n.nonce = r.nonce
    WHERE r.id = p_id
      AND (r.format <> 1 OR r.expires_at IS NULL
           OR IF(r.state = 1, COALESCE(n.lapses_at, r.lapses_at) + r.retention,
                 r.expires_at) > v_now);
  ROLLBACK AND NO CHAIN NO RELEASE;
END
//

-- One row: outcome 1 (held), 0 (lost), or 3 (the record is of format `format`).
DROP PROCEDURE IF EXISTS idempotency_records_renew
//
CREATE PROCEDURE idempotency_records_renew (
  IN p_id BINARY(32), IN p_nonce BINARY(16), IN p_lease BIGINT
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  DECLARE v_format, v_state, v_held, v_outcome TINYINT;
  DECLARE v_expires_at, v_now BIGINT;
  DECLARE v_again TINYINT DEFAULT FALSE;
  DECLARE v_nonce BINARY(16);
  DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  again: LOOP
    ROLLBACK AND NO CHAIN NO RELEASE;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    SET v_format = NULL, v_state = NULL, v_nonce = NULL;
    SELECT format, state, nonce, expires_at INTO v_format, v_state, v_nonce, v_expires_at
      FROM idempotency_records WHERE id = p_id;
    SET v_now = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6));
    IF v_format = 1 AND v_state = 1 AND v_nonce = p_nonce THEN
      CALL idempotency_records_extend(p_id, p_nonce, p_lease, v_held);
      IF v_held THEN
        COMMIT AND NO CHAIN NO RELEASE;
        SET v_outcome = 1;
        LEAVE again;
      END IF;
      ROLLBACK AND NO CHAIN NO RELEASE;
      -- Ended in between, or, if it looks the same again, past its end.
      IF v_again THEN
        SET v_outcome = 0;
        LEAVE again;
      END IF;
      SET v_again = TRUE;
      ITERATE again;
    END IF;
    COMMIT AND NO CHAIN NO RELEASE;
    SET v_outcome = CASE
      WHEN v_format <> 1 OR v_state NOT BETWEEN 1 AND 5 THEN 3
      WHEN v_state IN (3, 4) AND v_nonce = p_nonce AND v_expires_at > v_now THEN 1
      ELSE 0 END;
    LEAVE again;
  END LOOP;
  SELECT v_outcome AS outcome, v_format AS format, v_state AS state;
END
//

-- Adds the result of a step to a record in flight, once for each name. One row: outcome
-- 1 (held), 0 (lost), or 3 (the record is of format `format`). With p_within it is part
-- of the caller's own transaction: then nobody takes the record over, completes or
-- releases it before the end.
DROP PROCEDURE IF EXISTS idempotency_records_record_step
//
CREATE PROCEDURE idempotency_records_record_step (
  IN p_id BINARY(32), IN p_nonce BINARY(16), IN p_name LONGBLOB, IN p_result LONGBLOB,
  IN p_within TINYINT
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  DECLARE v_format, v_state TINYINT;
  DECLARE v_first_token BIGINT;
  DECLARE v_nonce BINARY(16);
  DECLARE v_outcome TINYINT DEFAULT 0;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
      IF NOT p_within THEN
        ROLLBACK AND NO CHAIN NO RELEASE;
      END IF;
      RESIGNAL;
    END;

  IF NOT p_within THEN
    ROLLBACK AND NO CHAIN NO RELEASE;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
  END IF;
  -- In the way of whoever changes the record, and of no renewal and no other step.
  SELECT format, state, nonce, COALESCE(first_token, 0)
    INTO v_format, v_state, v_nonce, v_first_token
    FROM idempotency_records WHERE id = p_id LOCK IN SHARE MODE;
  IF v_format <> 1 OR v_state NOT BETWEEN 1 AND 5 THEN
    SET v_outcome = 3;
  ELSEIF v_state = 1 AND v_nonce = p_nonce THEN
    INSERT INTO idempotency_records_steps
        (id, first_token, name_sha256, name, result, recorded_at)
      VALUES (p_id, v_first_token, UNHEX(SHA2(p_name, 256)), p_name, p_result,
              TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)))
      ON DUPLICATE KEY UPDATE recorded_at = recorded_at;
    SET v_outcome = 1;
  END IF;
  IF NOT p_within THEN
    COMMIT AND NO CHAIN NO RELEASE;
  END IF;
  SELECT v_outcome AS outcome, v_format AS format, v_state AS state;
END
//

-- One row: outcome 1 (held), 0 (lost), or 3 (the record is of format `format`).
-- p_state is 3 (completed) or 4 (sealed: the parameters after p_kept_for null).
DROP PROCEDURE IF EXISTS idempotency_records_complete_v2
//
CREATE PROCEDURE idempotency_records_complete_v2 (
  IN p_id BINARY(32), IN p_nonce BINARY(16), IN p_fingerprint BINARY(32),
  IN p_token BIGINT, IN p_attempt BIGINT, IN p_state TINYINT, IN p_kept_for BIGINT,
  IN p_status SMALLINT, IN p_began_at BIGINT, IN p_completed_at BIGINT,
  IN p_answer_length BIGINT, IN p_answer_sha256 BINARY(32), IN p_answer LONGBLOB,
  -- Of the claim, for a record that is made anew.
  IN p_scope BINARY(32), IN p_route VARBINARY(255), IN p_trace VARBINARY(55)
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  DECLARE v_format, v_state TINYINT;
  DECLARE v_token, v_lapses_at, v_retention, v_expires_at, v_renewed, v_now BIGINT;
  DECLARE v_nonce BINARY(16);
  DECLARE v_outcome, v_lost TINYINT DEFAULT FALSE;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  again: LOOP
    ROLLBACK AND NO CHAIN NO RELEASE;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    SET v_format = NULL, v_state = NULL;
    SELECT format, state, nonce, token, lapses_at, retention, expires_at
      INTO v_format, v_state, v_nonce, v_token, v_lapses_at, v_retention, v_expires_at
      FROM idempotency_records WHERE id = p_id FOR UPDATE;
    SET v_now = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6));
    IF v_state IS NULL THEN
      SET v_lost = FALSE;
      BEGIN
        DECLARE CONTINUE HANDLER FOR 1062 SET v_lost = TRUE;
        INSERT INTO idempotency_records
            (id, format, state, nonce, token, attempt, fingerprint, lapses_at, retention, expires_at,
             status, began_at, completed_at, kept_for, answer_length, answer_sha256, answer,
             scope, route, trace, origin_of)
          VALUES (p_id, 1, p_state, p_nonce, p_token, p_attempt, p_fingerprint, v_now, p_kept_for,
                  v_now + p_kept_for, p_status, p_began_at, p_completed_at, p_kept_for,
                  p_answer_length, p_answer_sha256, p_answer, p_scope, p_route, p_trace, p_token);
      END;
      IF v_lost THEN
        ROLLBACK AND NO CHAIN NO RELEASE;
        ITERATE again;
      END IF;
      COMMIT AND NO CHAIN NO RELEASE;
      SET v_outcome = 1;
      LEAVE again;
    END IF;

    IF v_format <> 1 OR v_state NOT BETWEEN 1 AND 5 THEN
      ROLLBACK AND NO CHAIN NO RELEASE;
      SET v_outcome = 3;
      LEAVE again;
    END IF;
    IF v_state = 1 AND v_nonce <> p_nonce AND v_token <= p_token AND v_expires_at IS NOT NULL THEN
      CALL idempotency_records_hold(p_id, v_nonce, v_renewed);
      SET v_now = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)),
          v_expires_at = IF(v_renewed, v_renewed, v_lapses_at) + v_retention;
    END IF;
    IF v_state IN (1, 2) AND v_nonce = p_nonce
        OR v_token <= p_token AND (v_state = 5 OR v_expires_at <= v_now) THEN
      -- An older program names no caller and no origin.
      IF p_scope IS NOT NULL THEN
        UPDATE idempotency_records
          SET scope = p_scope, route = p_route, trace = p_trace, origin_of = p_token
          WHERE id = p_id;
      END IF;
      UPDATE idempotency_records
        SET state = p_state, nonce = p_nonce, token = p_token, attempt = p_attempt,
            fingerprint = p_fingerprint, expires_at = v_now + p_kept_for, status = p_status,
            began_at = p_began_at, completed_at = p_completed_at, kept_for = p_kept_for,
            answer_length = p_answer_length, answer_sha256 = p_answer_sha256, answer = p_answer
        WHERE id = p_id;
      DELETE FROM idempotency_records_steps WHERE id = p_id;
      COMMIT AND NO CHAIN NO RELEASE;
      SET v_outcome = 1;
    ELSE
      ROLLBACK AND NO CHAIN NO RELEASE;
      SET v_outcome = v_state IN (3, 4) AND v_nonce = p_nonce;
    END IF;
    LEAVE again;
  END LOOP;
  SELECT v_outcome AS outcome, v_format AS format, v_state AS state;
END
//

-- The same, as programs call it that know no origin.
DROP PROCEDURE IF EXISTS idempotency_records_complete
//
CREATE PROCEDURE idempotency_records_complete (
  IN p_id BINARY(32), IN p_nonce BINARY(16), IN p_fingerprint BINARY(32),
  IN p_token BIGINT, IN p_attempt BIGINT, IN p_state TINYINT, IN p_kept_for BIGINT,
  IN p_status SMALLINT, IN p_began_at BIGINT, IN p_completed_at BIGINT,
  IN p_answer_length BIGINT, IN p_answer_sha256 BINARY(32), IN p_answer LONGBLOB
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  CALL idempotency_records_complete_v2(p_id, p_nonce, p_fingerprint, p_token, p_attempt, p_state,
    p_kept_for, p_status, p_began_at, p_completed_at, p_answer_length, p_answer_sha256, p_answer,
    NULL, NULL, NULL);
END
//

-- Inside the caller's own transaction, which it commits together with the
-- operation's effects: one row, outcome 1 (done, once that is committed) or 0 (the
-- record is not in flight under this nonce: roll it back). The parameters are those
-- of completing. The row stays locked, so that nobody takes over before the end.
DROP PROCEDURE IF EXISTS idempotency_records_complete_within_v2
//
CREATE PROCEDURE idempotency_records_complete_within_v2 (
  IN p_id BINARY(32), IN p_nonce BINARY(16), IN p_state TINYINT, IN p_kept_for BIGINT,
  IN p_status SMALLINT, IN p_began_at BIGINT, IN p_completed_at BIGINT,
  IN p_answer_length BIGINT, IN p_answer_sha256 BINARY(32), IN p_answer LONGBLOB
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  DECLARE v_done, v_steps BIGINT DEFAULT 0;
  UPDATE idempotency_records
    SET state = p_state,
        expires_at = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) + p_kept_for,
        status = p_status, began_at = p_began_at, completed_at = p_completed_at,
        kept_for = p_kept_for, answer_length = p_answer_length,
        answer_sha256 = p_answer_sha256, answer = p_answer
    WHERE id = p_id AND nonce = p_nonce AND state IN (1, 2) AND format = 1;
  SET v_done = ROW_COUNT();
  IF v_done THEN
    -- Only what is there is removed: above READ COMMITTED, to remove nothing locks the
    -- gap into which others insert theirs.
    SELECT COUNT(*) INTO v_steps FROM idempotency_records_steps WHERE id = p_id;
    IF v_steps THEN
      DELETE FROM idempotency_records_steps WHERE id = p_id;
    END IF;
  END IF;
  SELECT v_done AS outcome;
END
//

-- The same, as programs call it that know no steps.
DROP PROCEDURE IF EXISTS idempotency_records_complete_within
//
CREATE PROCEDURE idempotency_records_complete_within (
  IN p_id BINARY(32), IN p_nonce BINARY(16), IN p_state TINYINT, IN p_kept_for BIGINT,
  IN p_status SMALLINT, IN p_began_at BIGINT, IN p_completed_at BIGINT,
  IN p_answer_length BIGINT, IN p_answer_sha256 BINARY(32), IN p_answer LONGBLOB
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  CALL idempotency_records_complete_within_v2(p_id, p_nonce, p_state, p_kept_for, p_status, p_began_at,
    p_completed_at, p_answer_length, p_answer_sha256, p_answer);
END
//

-- What became of a transaction with that in it, without waiting for its end: one
-- row, with the record's state and whether it has this nonce, both null while a
-- transaction has it locked; and whether there is a record.
DROP PROCEDURE IF EXISTS idempotency_records_fate
//
CREATE PROCEDURE idempotency_records_fate (
  IN p_id BINARY(32), IN p_nonce BINARY(16)
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  DECLARE v_state, v_own TINYINT;
  DECLARE v_there TINYINT DEFAULT FALSE;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  ROLLBACK AND NO CHAIN NO RELEASE;
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  START TRANSACTION;
  SELECT state, nonce = p_nonce INTO v_state, v_own
    FROM idempotency_records WHERE id = p_id FOR UPDATE SKIP LOCKED;
  SELECT TRUE INTO v_there FROM idempotency_records WHERE id = p_id;
  ROLLBACK AND NO CHAIN NO RELEASE;
  SELECT v_state AS state, v_own AS own, v_there AS there;
END
//

-- One row: outcome 1 (held), 0 (lost), or 3 (the record is of format `format`).
DROP PROCEDURE IF EXISTS idempotency_records_release
//
CREATE PROCEDURE idempotency_records_release (
  IN p_id BINARY(32), IN p_nonce BINARY(16), IN p_unknown TINYINT
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  DECLARE v_format, v_state TINYINT;
  DECLARE v_lapses_at, v_renewed, v_retention, v_expires_at, v_now BIGINT;
  DECLARE v_nonce BINARY(16);
  DECLARE v_outcome TINYINT DEFAULT 0;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  ROLLBACK AND NO CHAIN NO RELEASE;
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  START TRANSACTION;
  SELECT format, state, nonce, lapses_at, retention, expires_at
    INTO v_format, v_state, v_nonce, v_lapses_at, v_retention, v_expires_at
    FROM idempotency_records WHERE id = p_id FOR UPDATE;
  IF v_format <> 1 OR v_state NOT BETWEEN 1 AND 5 THEN
    SET v_outcome = 3;
  ELSEIF v_state IN (1, 2) AND v_nonce = p_nonce THEN
    IF v_state = 1 AND v_expires_at IS NOT NULL THEN
      SELECT lapses_at INTO v_renewed FROM idempotency_records_renewals
        WHERE id = p_id AND nonce = p_nonce;
      SET v_expires_at = COALESCE(v_renewed, v_lapses_at) + v_retention;
    END IF;
    SET v_now = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6));
    IF v_expires_at IS NULL OR v_expires_at > v_now THEN
      UPDATE idempotency_records
        SET state = IF(p_unknown, 2, 5), lapses_at = v_now,
            expires_at = IF(p_unknown AND expires_at IS NULL, NULL, v_now + v_retention)
        WHERE id = p_id;
      SET v_outcome = 1;
    END IF;
  END IF;
  COMMIT AND NO CHAIN NO RELEASE;
  SELECT v_outcome AS outcome, v_format AS format, v_state AS state;
END
//

-- One row: outcome 1 (gone), 0 (there was none), 2 (in flight and alive), 3 (the
-- record is of format `format`, and p_force is 0 or a version is meant) or 4 (the
-- record is of another version).
DROP PROCEDURE IF EXISTS idempotency_records_forget_v3
//
CREATE PROCEDURE idempotency_records_forget_v3 (
  IN p_id BINARY(32), IN p_force TINYINT,
  -- The record that is meant, and whether it is done. All null: any record.
  IN p_token BIGINT, IN p_attempt BIGINT, IN p_done TINYINT
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  DECLARE v_format, v_state TINYINT;
  DECLARE v_token, v_attempt, v_lapses_at, v_renewed, v_retention, v_expires_at, v_now BIGINT;
  DECLARE v_nonce BINARY(16);
  DECLARE v_outcome TINYINT DEFAULT 0;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  ROLLBACK AND NO CHAIN NO RELEASE;
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  START TRANSACTION;
  SELECT format, state, nonce, token, attempt, lapses_at, retention, expires_at
    INTO v_format, v_state, v_nonce, v_token, v_attempt, v_lapses_at, v_retention, v_expires_at
    FROM idempotency_records WHERE id = p_id FOR UPDATE;
  IF v_state = 1 THEN
    CALL idempotency_records_hold(p_id, v_nonce, v_renewed);
    SET v_lapses_at = IF(v_renewed, v_renewed, v_lapses_at);
    IF v_expires_at IS NOT NULL THEN
      SET v_expires_at = v_lapses_at + v_retention;
    END IF;
  END IF;
  SET v_now = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6));
  SET v_outcome = CASE
    WHEN v_state IS NULL THEN 0
    WHEN v_format <> 1 OR v_state NOT BETWEEN 1 AND 5 THEN IF(p_force AND p_token IS NULL, 1, 3)
    WHEN v_expires_at <= v_now THEN 0
    WHEN p_token IS NOT NULL AND NOT (v_token = p_token AND v_attempt = p_attempt
                                      AND (v_state IN (3, 4)) = p_done) THEN 4
    WHEN v_state = 1 AND v_lapses_at > v_now AND NOT p_force THEN 2
    ELSE 1 END;
  IF v_state IS NULL OR v_outcome IN (2, 3, 4) THEN
    ROLLBACK AND NO CHAIN NO RELEASE;
  ELSE
    DELETE FROM idempotency_records_renewals WHERE id = p_id;
    DELETE FROM idempotency_records_steps WHERE id = p_id;
    DELETE FROM idempotency_records WHERE id = p_id;
    COMMIT AND NO CHAIN NO RELEASE;
  END IF;
  SELECT v_outcome AS outcome, v_format AS format, v_state AS state;
END
//

-- The same, as programs call it that know no steps.
DROP PROCEDURE IF EXISTS idempotency_records_forget_v2
//
CREATE PROCEDURE idempotency_records_forget_v2 (
  IN p_id BINARY(32), IN p_force TINYINT,
  IN p_token BIGINT, IN p_attempt BIGINT, IN p_done TINYINT
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  CALL idempotency_records_forget_v3(p_id, p_force, p_token, p_attempt, p_done);
END
//

-- The same, as programs call it that compare no version.
DROP PROCEDURE IF EXISTS idempotency_records_forget
//
CREATE PROCEDURE idempotency_records_forget (IN p_id BINARY(32), IN p_force TINYINT)
  MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  CALL idempotency_records_forget_v3(p_id, p_force, NULL, NULL, NULL);
END
//

-- One row: how many records past their end were removed. It passes over what
-- others have locked; renewals of what has ended go too, and some of the steps without a record.
DROP PROCEDURE IF EXISTS idempotency_records_purge_v2
//
CREATE PROCEDURE idempotency_records_purge_v2 (IN p_limit INT)
  MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  DECLARE v_id, v_name, v_from BINARY(32);
  DECLARE v_nonce BINARY(16);
  DECLARE v_state TINYINT;
  DECLARE v_lapses_at, v_retention, v_renewed, v_first_token, v_now BIGINT;
  DECLARE v_removed BIGINT DEFAULT 0;
  DECLARE v_done TINYINT DEFAULT FALSE;
  DECLARE c_over CURSOR FOR
    SELECT r.id, r.nonce, r.state, r.lapses_at, r.retention FROM idempotency_records r
      WHERE r.expires_at <= v_now AND r.format = 1 AND r.state BETWEEN 1 AND 5
        AND NOT (r.state = 1 AND EXISTS (
          SELECT 1 FROM idempotency_records_renewals n
            WHERE n.id = r.id AND n.nonce = r.nonce AND n.lapses_at + r.retention > v_now))
      ORDER BY r.expires_at LIMIT p_limit FOR UPDATE SKIP LOCKED;
  DECLARE c_ended CURSOR FOR
    SELECT n.id, n.nonce FROM idempotency_records_renewals n
      LEFT JOIN idempotency_records r ON r.id = n.id AND r.nonce = n.nonce AND r.state = 1
      WHERE n.lapses_at <= v_now AND r.id IS NULL
      ORDER BY n.lapses_at LIMIT p_limit;
  -- Steps of no record, and of operations before the one of their record: each such purge reads
  -- some of all steps, from an id that differs each time. Ids are random.
  DECLARE c_left CURSOR FOR
    SELECT s.id, s.first_token, s.name_sha256 FROM (
      (SELECT id, first_token, name_sha256 FROM idempotency_records_steps
         WHERE id >= v_from ORDER BY id, first_token, name_sha256 LIMIT p_limit)
      UNION ALL
      (SELECT id, first_token, name_sha256 FROM idempotency_records_steps
         WHERE id < v_from ORDER BY id, first_token, name_sha256 LIMIT p_limit)
    ) s
    LEFT JOIN idempotency_records r
      ON r.id = s.id AND COALESCE(r.first_token, 0) = s.first_token
    WHERE r.id IS NULL;
  DECLARE CONTINUE HANDLER FOR NOT FOUND SET v_done = TRUE;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  ROLLBACK AND NO CHAIN NO RELEASE;
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  START TRANSACTION;
  SET v_now = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6));
  OPEN c_over;
  records: LOOP
    FETCH c_over INTO v_id, v_nonce, v_state, v_lapses_at, v_retention;
    IF v_done THEN
      LEAVE records;
    END IF;
    IF v_state = 1 THEN
      CALL idempotency_records_hold(v_id, v_nonce, v_renewed);
      IF v_renewed + v_retention > v_now THEN
        ITERATE records;
      END IF;
      DELETE FROM idempotency_records_renewals WHERE id = v_id;
    END IF;
    DELETE FROM idempotency_records_steps WHERE id = v_id;
    DELETE FROM idempotency_records WHERE id = v_id;
    SET v_removed = v_removed + 1;
  END LOOP;
  CLOSE c_over;
  COMMIT AND NO CHAIN NO RELEASE;

  SET v_done = FALSE;
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  START TRANSACTION;
  OPEN c_ended;
  renewals: LOOP
    FETCH c_ended INTO v_id, v_nonce;
    IF v_done THEN
      LEAVE renewals;
    END IF;
    DELETE FROM idempotency_records_renewals
      WHERE id = v_id AND nonce = v_nonce AND lapses_at <= v_now;
  END LOOP;
  CLOSE c_ended;
  COMMIT AND NO CHAIN NO RELEASE;

  -- Once for a backlog, not for each batch of it.
  IF v_removed < p_limit THEN
    SET v_done = FALSE, v_from = UNHEX(SHA2(RAND(), 256));
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    OPEN c_left;
    steps: LOOP
      FETCH c_left INTO v_id, v_first_token, v_name;
      IF v_done THEN
        LEAVE steps;
      END IF;
      DELETE FROM idempotency_records_steps
        WHERE id = v_id AND first_token = v_first_token AND name_sha256 = v_name;
    END LOOP;
    CLOSE c_left;
    COMMIT AND NO CHAIN NO RELEASE;
  END IF;
  SELECT v_removed AS removed;
END
//

-- The same, as programs call it that know no steps.
DROP PROCEDURE IF EXISTS idempotency_records_purge
//
CREATE PROCEDURE idempotency_records_purge (IN p_limit INT)
  MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 a00f9d804f960fe0'
BEGIN
  CALL idempotency_records_purge_v2(p_limit);
END
//

DELIMITER ;
