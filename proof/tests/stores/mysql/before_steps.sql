-- The procedures that dealt with steps later, as the version before steps made them.

DELIMITER //

SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'
//

DROP PROCEDURE IF EXISTS idempotency_records_claim_v2
//
CREATE PROCEDURE idempotency_records_claim_v2 (
  IN p_id BINARY(32), IN p_nonce BINARY(16), IN p_fingerprint BINARY(32),
  IN p_lease BIGINT, IN p_retention BIGINT,
  -- A lapsed lease: whether this claim leaves its own for someone to resolve,
  -- whether it takes over another's, and whether of another fingerprint too.
  IN p_stays TINYINT, IN p_takes_over TINYINT, IN p_any_fingerprint TINYINT,
  IN p_scope BINARY(32), IN p_route VARBINARY(255), IN p_trace VARBINARY(55)
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 3ce25b41d4985717'
BEGIN
  DECLARE v_format, v_state TINYINT;
  DECLARE v_token, v_attempt, v_lapses_at, v_retention, v_expires_at, v_renewed, v_now BIGINT;
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
      SELECT format, state, nonce, token, attempt, fingerprint, lapses_at, retention, expires_at
        INTO v_format, v_state, v_nonce, v_token, v_attempt, v_fingerprint, v_lapses_at,
             v_retention, v_expires_at
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
        COMMIT AND NO CHAIN NO RELEASE;
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
      COMMIT AND NO CHAIN NO RELEASE;
      IF v_there THEN
        SELECT 2 AS outcome, v_token AS token, v_attempt AS attempt;
        LEAVE again;
      END IF;
      SET v_locks = FALSE;
      ITERATE again;
    END IF;

    IF v_state IS NULL THEN
      SET v_there = FALSE;
      COMMIT AND NO CHAIN NO RELEASE;
      SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
      START TRANSACTION;
      BEGIN
        DECLARE CONTINUE HANDLER FOR 1062 SET v_there = TRUE;
        INSERT INTO idempotency_records
            (id, format, state, nonce, token, attempt, fingerprint, lapses_at, retention, expires_at,
             scope, route, trace, origin_of)
          VALUES (p_id, 1, 1, p_nonce, v_now, 1, p_fingerprint, v_now + p_lease, p_retention,
                  IF(p_stays, NULL, v_now + p_lease + p_retention),
                  p_scope, p_route, p_trace, v_now);
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
        COMMIT AND NO CHAIN NO RELEASE;
        SELECT 1 AS outcome, v_token AS token, v_attempt AS attempt;
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
      SET v_token = GREATEST(v_token + 1, v_now), v_attempt = IF(v_over, 1, v_attempt + 1);
      UPDATE idempotency_records
        SET state = 1, nonce = p_nonce, token = v_token, attempt = v_attempt,
            fingerprint = p_fingerprint, lapses_at = v_now + p_lease, retention = p_retention,
            expires_at = IF(p_stays, NULL, v_now + p_lease + p_retention),
            status = NULL, began_at = NULL, completed_at = NULL, kept_for = NULL,
            answer_length = NULL, answer_sha256 = NULL, answer = NULL,
            scope = COALESCE(p_scope, scope), route = p_route, trace = p_trace, origin_of = v_token
        WHERE id = p_id;
      DELETE FROM idempotency_records_renewals WHERE id = p_id;
      COMMIT AND NO CHAIN NO RELEASE;
      SELECT 1 AS outcome, v_token AS token, v_attempt AS attempt;
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
      COMMIT AND NO CHAIN NO RELEASE;
      LEAVE again;
    END IF;
  END LOOP;
END
//


DROP PROCEDURE IF EXISTS idempotency_records_complete_within
//
CREATE PROCEDURE idempotency_records_complete_within (
  IN p_id BINARY(32), IN p_nonce BINARY(16), IN p_state TINYINT, IN p_kept_for BIGINT,
  IN p_status SMALLINT, IN p_began_at BIGINT, IN p_completed_at BIGINT,
  IN p_answer_length BIGINT, IN p_answer_sha256 BINARY(32), IN p_answer LONGBLOB
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 3ce25b41d4985717'
BEGIN
  UPDATE idempotency_records
    SET state = p_state,
        expires_at = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) + p_kept_for,
        status = p_status, began_at = p_began_at, completed_at = p_completed_at,
        kept_for = p_kept_for, answer_length = p_answer_length,
        answer_sha256 = p_answer_sha256, answer = p_answer
    WHERE id = p_id AND nonce = p_nonce AND state IN (1, 2) AND format = 1;
  SELECT ROW_COUNT() AS outcome;
END
//


DROP PROCEDURE IF EXISTS idempotency_records_forget_v2
//
CREATE PROCEDURE idempotency_records_forget_v2 (
  IN p_id BINARY(32), IN p_force TINYINT,
  -- The record that is meant, and whether it is done. All null: any record.
  IN p_token BIGINT, IN p_attempt BIGINT, IN p_done TINYINT
) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 3ce25b41d4985717'
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
    DELETE FROM idempotency_records WHERE id = p_id;
    COMMIT AND NO CHAIN NO RELEASE;
  END IF;
  SELECT v_outcome AS outcome, v_format AS format, v_state AS state;
END
//


DROP PROCEDURE IF EXISTS idempotency_records_purge
//
CREATE PROCEDURE idempotency_records_purge (IN p_limit INT)
  MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'tower-idempotency 1 3ce25b41d4985717'
BEGIN
  DECLARE v_id BINARY(32);
  DECLARE v_nonce BINARY(16);
  DECLARE v_state TINYINT;
  DECLARE v_lapses_at, v_retention, v_renewed, v_now BIGINT;
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
  SELECT v_removed AS removed;
END
//

DELIMITER ;
