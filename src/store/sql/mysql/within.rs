//! The claim of a transaction that the handler commits, on MariaDB.
//!
//! The row of the record is the lock: until its transaction has ended, nobody else can insert a row of
//! the same id. With a lock timeout of zero the server says so at once, instead of waiting.

use std::sync::Arc;

use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, Row};

use super::errors::{is_duplicate, is_locked};
use crate::record::{FencingToken, Fingerprint};
use crate::store::encoding::unreadable;
use crate::store::row::{FORMAT, micros, state};
use crate::store::sql::Table;
use crate::store::sql::transaction::ClaimedInside;
use crate::store::{Claim, Lease, OnLapsedLease, RecordVersion, StoreError};

/// Most operations have no record, and then this is all. It reads nothing, so that the snapshot of the
/// transaction is one of after the claim.
const INSERT: &str = "
    SET STATEMENT innodb_lock_wait_timeout = 0 FOR
    INSERT INTO {table} (id, format, state, nonce, token, attempt, fingerprint, lapses_at, retention,
        expires_at, scope, route, trace, origin_of, first_token)
    SELECT ?, 1, 1, ?, clock.now, 1, ?, clock.now + ?, ?, IF(?, NULL, clock.now + ? + ?), ?, ?, ?,
        clock.now, clock.now
    FROM (SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) AS now) clock
    RETURNING token";

/// Locks the record that is there, and reads its renewals without a lock.
const FIND: &str = "
    SET STATEMENT innodb_lock_wait_timeout = 0 FOR
    SELECT CAST(r.format AS SIGNED) AS format, CAST(r.state AS SIGNED) AS state, r.nonce, r.token,
        r.attempt, r.fingerprint, r.lapses_at, r.retention, r.expires_at, r.first_token,
        (SELECT MAX(n.lapses_at) FROM {table}_renewals n WHERE n.id = r.id AND n.nonce = r.nonce)
            AS renewed,
        TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) AS now
    FROM {table} r WHERE r.id = ? FOR UPDATE";

/// Locks the renewals of the record, whether there are any or not (0 then), as each renewal does. So
/// either the renewal is found here, or its owner is told afterwards that the lease is lost.
const HOLD: &str = "
    SET STATEMENT innodb_lock_wait_timeout = 0 FOR
    INSERT INTO {table}_renewals (id, nonce, lapses_at) VALUES (?, ?, 0)
    ON DUPLICATE KEY UPDATE lapses_at = lapses_at
    RETURNING IF(nonce = ?, lapses_at, 0) AS renewed,
        TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) AS now";

const TAKE_OVER: &str = "
    UPDATE {table}
    SET state = 1, nonce = ?, token = ?, attempt = ?, fingerprint = ?, lapses_at = ?, retention = ?,
        expires_at = ?, status = NULL, began_at = NULL, completed_at = NULL, kept_for = NULL,
        answer_length = NULL, answer_sha256 = NULL, answer = NULL, scope = ?, route = ?, trace = ?,
        origin_of = ?, first_token = ?
    WHERE id = ?";

const REMOVE: &str = "DELETE FROM {table} WHERE id = ? AND nonce = ?";

const RELEASE: &str = "
    UPDATE {table}
    SET state = 5, lapses_at = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)),
        expires_at = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) + retention
    WHERE id = ? AND nonce = ?";

pub(super) struct Within {
    insert: Arc<str>,
    find: Arc<str>,
    hold: Arc<str>,
    take_over: Arc<str>,
    remove: Arc<str>,
    release: Arc<str>,
}

impl Within {
    pub(super) fn of(table: &Table) -> Self {
        let statement = |text| table.in_statement(text).into();
        Self {
            insert: statement(INSERT),
            find: statement(FIND),
            hold: statement(HOLD),
            take_over: statement(TAKE_OVER),
            remove: statement(REMOVE),
            release: statement(RELEASE),
        }
    }

    pub(super) async fn claim(
        &self,
        transaction: &mut MySqlConnection,
        claim: &Claim,
    ) -> Result<ClaimedInside, sqlx::Error> {
        let (lease, retention) = (micros(claim.lease), micros(claim.retention));
        let inserted = sqlx::query(AssertSqlSafe(Arc::clone(&self.insert)))
            .bind(&claim.id.as_bytes()[..])
            .bind(&claim.nonce.as_bytes()[..])
            .bind(&claim.fingerprint.as_bytes()[..])
            .bind(lease)
            .bind(retention)
            .bind(claim.on_lapsed_lease == OnLapsedLease::Refuse)
            .bind(lease)
            .bind(retention)
            .bind(&claim.scope.as_bytes()[..])
            .bind(claim.origin.kept_route().map(|route| route.as_bytes()))
            .bind(trace(claim))
            .fetch_all(&mut *transaction)
            .await;
        match inserted {
            Ok(rows) => {
                let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
                acquired(claim, row.try_get("token")?, 1)
            }
            Err(error) if is_locked(&error) => Ok(ClaimedInside::InFlight),
            Err(error) if is_duplicate(&error) => self.claim_again(transaction, claim).await,
            Err(error) => Err(error),
        }
    }

    /// There is a record already: takes it over, if the claim takes over such a record.
    async fn claim_again(
        &self,
        transaction: &mut MySqlConnection,
        claim: &Claim,
    ) -> Result<ClaimedInside, sqlx::Error> {
        let found = sqlx::query(AssertSqlSafe(Arc::clone(&self.find)))
            .bind(&claim.id.as_bytes()[..])
            .fetch_all(&mut *transaction)
            .await;
        let rows = match found {
            Ok(rows) => rows,
            Err(error) if is_locked(&error) => return Ok(ClaimedInside::InFlight),
            Err(error) => return Err(error),
        };
        // The record went between the two statements: another request is at it.
        let Some(row) = rows.first() else {
            return Ok(ClaimedInside::InFlight);
        };
        let mut found = Found::read(row)?;
        if found.state == state::IN_FLIGHT && found.is_taken_over_by(claim) {
            match self.hold(transaction, claim, &mut found).await {
                Ok(()) => {}
                Err(error) if is_locked(&error) => return Ok(ClaimedInside::InFlight),
                Err(error) => return Err(error),
            }
        }
        if !found.is_taken_over_by(claim) {
            return Ok(if found.is_alive() {
                ClaimedInside::InFlight
            } else {
                ClaimedInside::Found
            });
        }
        let now = found.now;
        let token = now.max(found.token + 1);
        let attempt = if found.is_over() {
            1
        } else {
            found.attempt + 1
        };
        let lapses_at = now + micros(claim.lease);
        let stays = claim.on_lapsed_lease == OnLapsedLease::Refuse;
        sqlx::query(AssertSqlSafe(Arc::clone(&self.take_over)))
            .bind(&claim.nonce.as_bytes()[..])
            .bind(token)
            .bind(attempt)
            .bind(&claim.fingerprint.as_bytes()[..])
            .bind(lapses_at)
            .bind(micros(claim.retention))
            .bind((!stays).then_some(lapses_at + micros(claim.retention)))
            .bind(&claim.scope.as_bytes()[..])
            .bind(claim.origin.kept_route().map(|route| route.as_bytes()))
            .bind(trace(claim))
            .bind(token)
            // Steps of an earlier operation mean nothing under another token. The commit or a purge
            // removes them: to remove them here would keep others from inserting theirs beside them
            // until the transaction has ended.
            .bind(if found.keeps_steps() {
                found.first_token
            } else {
                Some(token)
            })
            .bind(&claim.id.as_bytes()[..])
            .execute(transaction)
            .await?;
        acquired(claim, token, attempt)
    }

    /// Keeps the lease of a record from being renewed any more, and reads its last renewal.
    async fn hold(
        &self,
        transaction: &mut MySqlConnection,
        claim: &Claim,
        found: &mut Found,
    ) -> Result<(), sqlx::Error> {
        let rows = sqlx::query(AssertSqlSafe(Arc::clone(&self.hold)))
            .bind(&claim.id.as_bytes()[..])
            .bind(&found.nonce)
            .bind(&found.nonce)
            .fetch_all(transaction)
            .await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let renewed: i64 = row.try_get("renewed")?;
        found.lapses_at = found.lapses_at.max(renewed);
        found.now = row.try_get("now")?;
        Ok(())
    }

    pub(super) async fn unclaim(
        &self,
        transaction: &mut MySqlConnection,
        lease: &Lease,
    ) -> Result<(), sqlx::Error> {
        let statement = if lease.attempt == 1 {
            &self.remove
        } else {
            &self.release
        };
        let removed = sqlx::query(AssertSqlSafe(Arc::clone(statement)))
            .bind(&lease.claim.id.as_bytes()[..])
            .bind(&lease.claim.nonce.as_bytes()[..])
            .execute(transaction);
        removed.await.map(drop)
    }
}

fn trace(claim: &Claim) -> Option<Vec<u8>> {
    let trace = claim.origin.trace?;
    Some(trace.to_string().into_bytes())
}

fn acquired(claim: &Claim, token: i64, attempt: i64) -> Result<ClaimedInside, sqlx::Error> {
    let token = u64::try_from(token).ok().and_then(FencingToken::new);
    match (token, u64::try_from(attempt)) {
        (Some(token), Ok(attempt)) => {
            let lease = Lease::new(claim, token, attempt);
            Ok(ClaimedInside::Acquired(Box::new(lease)))
        }
        _ => Err(decode(unreadable("its tokens or attempts are used up"))),
    }
}

fn decode(error: StoreError) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

/// What decides whether a record is taken over: its columns, and the time by the server's clock.
struct Found {
    format: i64,
    state: i64,
    nonce: Vec<u8>,
    token: i64,
    attempt: i64,
    fingerprint: Vec<u8>,
    lapses_at: i64,
    retention: i64,
    expires_at: Option<i64>,
    first_token: Option<i64>,
    now: i64,
}

impl Found {
    fn read(row: &MySqlRow) -> Result<Self, sqlx::Error> {
        let state = row.try_get("state")?;
        let renewed = row.try_get::<Option<i64>, _>("renewed")?;
        let renewed = renewed.filter(|at| *at > 0 && state == state::IN_FLIGHT);
        let lapses_at = row.try_get("lapses_at")?;
        Ok(Self {
            format: row.try_get("format")?,
            state,
            nonce: row.try_get("nonce")?,
            token: row.try_get("token")?,
            attempt: row.try_get("attempt")?,
            fingerprint: row.try_get("fingerprint")?,
            lapses_at: renewed.unwrap_or(lapses_at),
            retention: row.try_get("retention")?,
            expires_at: row.try_get("expires_at")?,
            first_token: row.try_get("first_token")?,
            now: row.try_get("now")?,
        })
    }

    fn version(&self) -> Option<RecordVersion> {
        Some(RecordVersion {
            token: FencingToken::new(u64::try_from(self.token).ok()?)?,
            attempt: u64::try_from(self.attempt).ok()?,
            done: false,
        })
    }

    fn is_alive(&self) -> bool {
        self.state == state::IN_FLIGHT && self.lapses_at > self.now
    }

    fn is_over(&self) -> bool {
        let end = self.expires_at.map(|end| match self.state {
            state::IN_FLIGHT => self.lapses_at.saturating_add(self.retention),
            _ => end,
        });
        end.is_some_and(|end| end <= self.now)
    }

    /// Whether what steps there are belong to this operation, as the procedure for a claim decides it.
    fn keeps_steps(&self) -> bool {
        let begun_by_another = self.attempt == 1 && self.first_token != Some(self.token);
        !self.is_over() && self.first_token.is_some() && !begun_by_another
    }

    fn is_taken_over_by(&self, claim: &Claim) -> bool {
        let is_known = (state::IN_FLIGHT..=state::RELEASED).contains(&self.state);
        if self.format != FORMAT || !is_known {
            return false;
        }
        let fingerprint = <[u8; 32]>::try_from(&self.fingerprint[..]).map(Fingerprint::from_bytes);
        let lapsed = matches!(self.state, state::IN_FLIGHT | state::UNKNOWN) && !self.is_alive();
        self.state == state::RELEASED
            || self.is_over()
            || lapsed
                && fingerprint.is_ok_and(|own| {
                    let version = self.version();
                    version.is_some_and(|version| claim.takes_over(version, &own))
                })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{RecordId, ScopeDigest};

    fn found(state: i64) -> Found {
        Found {
            format: 1,
            state,
            nonce: vec![1; 16],
            token: 7,
            attempt: 3,
            fingerprint: vec![3; 32],
            lapses_at: 100,
            retention: 1000,
            expires_at: Some(1100),
            first_token: Some(5),
            now: 50,
        }
    }

    #[test]
    fn a_claim_takes_over_what_the_procedure_would_take_over() {
        let (id, scope) = (
            RecordId::from_bytes([1; 32]),
            ScopeDigest::from_bytes([2; 32]),
        );
        let claim = Claim::new(id, scope, Fingerprint::from_bytes([3; 32]));
        let mut refuses = claim.clone();
        refuses.on_lapsed_lease = OnLapsedLease::Refuse;
        let other = Claim::new(id, scope, Fingerprint::from_bytes([4; 32]));
        // By state and time: whether the three claims take the record over.
        for (state, now, takes) in [
            (state::IN_FLIGHT, 50, [false; 3]),
            (state::IN_FLIGHT, 100, [true, false, false]),
            (state::IN_FLIGHT, 1100, [true; 3]),
            (state::UNKNOWN, 50, [true, false, false]),
            (state::COMPLETED, 1099, [false; 3]),
            (state::COMPLETED, 1100, [true; 3]),
            (state::SEALED, 1099, [false; 3]),
            (state::RELEASED, 50, [true; 3]),
            (6, 2000, [false; 3]),
        ] {
            let found = Found {
                now,
                ..found(state)
            };
            let taken = [&claim, &refuses, &other].map(|claim| found.is_taken_over_by(claim));
            assert_eq!(taken, takes, "state {state} at {now}");
        }
        let of_another_version = Found {
            format: 2,
            now: 2000,
            ..found(state::RELEASED)
        };
        assert!(!of_another_version.is_taken_over_by(&claim));
    }

    #[test]
    fn steps_are_kept_unless_a_program_without_steps_has_begun_the_operation() {
        let kept = |attempt, first_token, now| {
            let found = Found {
                attempt,
                first_token,
                now,
                ..found(state::RELEASED)
            };
            found.keeps_steps()
        };
        assert!(kept(3, Some(5), 50));
        assert!(kept(1, Some(7), 50));
        assert!(!kept(3, None, 50));
        assert!(!kept(1, Some(5), 50));
        assert!(!kept(3, Some(5), 1100));
    }
}
