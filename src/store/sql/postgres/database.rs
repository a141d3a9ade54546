//! Calling the functions in the database.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection, Postgres};

use super::super::{Connections, PURGE_BATCH, Table, failed};
use super::meaning::{self, condition, meaning};
use super::row::{column, listed};
use super::schema;
use super::sessions::Sessions;
use crate::store::encoding::unreadable;
use crate::store::listed_row::{Order, Position, read};
use crate::store::{ListQuery, RecordPage, StoreError};

/// How often a call is sent if it fails because of a concurrent call. Each time, one of the calls
/// that conflict succeeds.
pub(super) const TRIES: u32 = 10;

/// A replay reads one row, without a function. In every other case the function
/// decides, in a later snapshot than that of the first part.
///
/// `LIMIT` ends the statement after its first row, so that the function is not called where the first
/// part has one: by the later clock of the function the record could be over, and the claim that the
/// function makes would be nobody's. A condition of the second part that says the same would cost each
/// replay and each claim another look at the record.
///
/// The steps are read in a later snapshot than the claim's, and only by a claim of a record that was
/// there. Above READ COMMITTED there is no later snapshot: the steps are then null, and a second
/// call asks for them.
const CLAIM: &str = "
    SELECT false AS acquired, format, state, token, attempt, fingerprint,
           0::bigint AS lapses_in, status,
           (extract(epoch FROM began_at) * 1000000)::bigint AS began_at,
           (extract(epoch FROM completed_at) * 1000000)::bigint AS completed_at,
           kept_for, answer, answer_length, answer_sha256, scope, route, trace,
           NULL::bytea[] AS steps
      FROM {table}
     WHERE id = $1 AND format = 1 AND state IN (3, 4) AND expires_at > statement_timestamp()
    UNION ALL
    SELECT c.*, CASE WHEN c.acquired AND (c.attempt > 1 OR c.state = 1)
                      AND current_setting('transaction_isolation') = 'read committed'
                     THEN {table}_steps_of($1) END
      FROM {table}_claim_v2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) c
     LIMIT 1";

/// The claim of a transaction that the handler commits. The lock is taken first, and the function, which
/// reads in snapshots of its own, sees what the last transaction that had the lock has committed.
/// Without the lock the function is not called: it would wait for the row of another transaction.
///
/// The number of the lock is a digest of the id and of the table, so that it is not among the small
/// numbers that applications choose, nor the lock of the same key in another table.
const CLAIM_WITHIN: &str = "
    WITH lock AS MATERIALIZED (
        SELECT pg_try_advisory_xact_lock(
            hashtextextended(encode($1, 'hex'), '{table}'::regclass::oid::bigint)) AS got
    )
    SELECT c.* FROM lock, LATERAL {table}_claim_v2(
        CASE WHEN got THEN $1 END, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) c
     WHERE got";

/// Removes the record that the claim has made, and releases one that it took over.
const UNCLAIM_WITHIN: &str = "
    WITH made AS (
        DELETE FROM {table} WHERE id = $1 AND nonce = $2 AND attempt = 1
    )
    UPDATE {table}
       SET state = 5, fingerprint = NULL, lapses_at = clock.now,
           expires_at = clock.now + retention * interval '1 microsecond'
      FROM (SELECT clock_timestamp() AS now) clock
     WHERE id = $1 AND nonce = $2 AND attempt > 1";

/// Nobody changes the version of the row that was locked, so that the function takes over that
/// version or none. A claim that was sent before has the record.
const CLAIM_BY_HAND: &str = "
    WITH meant AS MATERIALIZED (
        SELECT t.id FROM {table} t
         WHERE t.id = $1 AND t.format = 1
           AND (t.state IN (1, 2) AND t.token = $12 AND t.attempt = $13
                OR t.state = 1 AND t.nonce = $2)
           AND (t.expires_at IS NULL OR clock_timestamp() < coalesce(
               (SELECT n.lapses_at + t.retention * interval '1 microsecond'
                  FROM {table}_renewals n
                 WHERE n.id = t.id AND n.token = t.token AND t.state = 1), t.expires_at))
           FOR UPDATE OF t SKIP LOCKED
    )
    SELECT c.*, CASE WHEN c.acquired
                      AND current_setting('transaction_isolation') = 'read committed'
                     THEN {table}_steps_of(meant.id) END AS steps
      FROM meant, LATERAL
        {table}_claim_v2(meant.id, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) c";

/// A transaction that has completed the record keeps it locked until the
/// transaction ends.
const FATE: &str = "
    WITH free AS MATERIALIZED (
        SELECT state, nonce = $2 AS own FROM {table}
         WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED
    )
    SELECT (SELECT state FROM free), (SELECT own FROM free),
           EXISTS (SELECT FROM {table} WHERE id = $1)";

/// After a completion inside a transaction, which removed the steps that its snapshot showed.
const CHANGED: &str = "
    WITH done AS (
        DELETE FROM {table}_steps s USING {table} t
         WHERE s.id = $1 AND t.id = s.id AND t.state IN (3, 4)
    )
    SELECT {table}_changed($1)";

/// Nobody changes the version of the row that was locked, so that the function removes that
/// version or none.
const FORGET_UNCHANGED: &str = "
    WITH meant AS MATERIALIZED (
        SELECT id FROM {table}
         WHERE id = $1 AND format = 1 AND state BETWEEN 1 AND 5
           AND token = $3 AND attempt = $4 AND (state IN (3, 4))::int = $5
           FOR UPDATE
    )
    SELECT {table}_forget(id, $2) FROM meant";

/// What a look-up finds, and its origin, if no other claim took the record over between the two.
const LOOK_UP: &str = "
    SELECT l.*, t.scope, t.route, t.trace
      FROM {table}_look_up($1) l
      LEFT JOIN {table} t ON t.id = $1 AND t.token = l.token";

/// `{which}` is the condition, the order and the number of the records that the page reads.
const LIST: &str = "
    SELECT r.id, r.format, r.state, r.token, r.attempt, r.status, r.scope, r.route, r.trace,
           (extract(epoch FROM r.completed_at) * 1000000)::bigint AS completed_at,
           (extract(epoch FROM coalesce(n.lapses_at, r.lapses_at) - statement_timestamp())
               * 1000000)::bigint AS lapses_in,
           (extract(epoch FROM CASE WHEN n.lapses_at IS NOT NULL AND r.expires_at IS NOT NULL
                   THEN n.lapses_at + r.retention * interval '1 microsecond'
                   ELSE r.expires_at END - statement_timestamp())
               * 1000000)::bigint AS expires_in,
           (extract(epoch FROM statement_timestamp()) * 1000000)::bigint AS moment
      FROM (SELECT id, format, state, token, attempt, status, scope, route, trace, completed_at,
                   lapses_at, expires_at, retention
              FROM {table} WHERE {which}) r
      LEFT JOIN {table}_renewals n ON r.state = 1 AND n.id = r.id AND n.token = r.token";

pub(super) fn no_answer() -> StoreError {
    unreadable("a function of its table gave no answer")
}

/// A pool and the statements of one table.
#[derive(Clone)]
pub(super) struct Database {
    pub(super) connections: Connections<Postgres>,
    pub(super) sessions: Sessions,
    pub(super) statements: Arc<Statements>,
    table: Table,
}

pub(super) struct Statements {
    pub(super) claim: Arc<str>,
    pub(super) claim_within: Arc<str>,
    pub(super) unclaim_within: Arc<str>,
    pub(super) claim_by_hand: Arc<str>,
    pub(super) renew: Arc<str>,
    pub(super) complete: Arc<str>,
    pub(super) complete_within: Arc<str>,
    pub(super) fate: Arc<str>,
    pub(super) changed: Arc<str>,
    pub(super) release: Arc<str>,
    pub(super) record_step: Arc<str>,
    pub(super) steps_of: Arc<str>,
    pub(super) look_up: Arc<str>,
    pub(super) forget: Arc<str>,
    pub(super) forget_unchanged: Arc<str>,
    purge: Arc<str>,
}

pub(super) type Call<'q> = Query<'q, Postgres, PgArguments>;

impl Statements {
    fn of(table: &Table) -> Self {
        let statement = |text| table.in_statement(text).into();
        Self {
            claim: statement(CLAIM),
            claim_within: statement(CLAIM_WITHIN),
            unclaim_within: statement(UNCLAIM_WITHIN),
            claim_by_hand: statement(CLAIM_BY_HAND),
            renew: statement("SELECT {table}_renew($1, $2, $3)"),
            complete: statement(
                "SELECT {table}_complete_v2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, \
                 $13, $14, $15, $16)",
            ),
            complete_within: statement(
                "SELECT {table}_complete_within($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            ),
            fate: statement(FATE),
            changed: statement(CHANGED),
            release: statement("SELECT {table}_release($1, $2, $3)"),
            record_step: statement("SELECT {table}_record_step($1, $2, $3, $4)"),
            steps_of: statement("SELECT {table}_steps_of($1) AS steps"),
            look_up: statement(LOOK_UP),
            forget: statement("SELECT {table}_forget($1, $2)"),
            forget_unchanged: statement(FORGET_UNCHANGED),
            purge: statement("SELECT {table}_purge($1)"),
        }
    }
}

impl Database {
    pub(super) fn new(pool: PgPool, sessions: Sessions, table: &Table) -> Self {
        Self {
            connections: Connections::new(pool, meaning, true),
            sessions,
            statements: Arc::new(Statements::of(table)),
            table: table.clone(),
        }
    }

    /// Calls a function that returns one row.
    pub(super) async fn call<'q>(
        &self,
        statement: &Arc<str>,
        bind: impl Fn(Call<'q>) -> Call<'q> + Send,
    ) -> Result<PgRow, StoreError> {
        let row = self.call_for_any(statement, bind).await?;
        row.ok_or_else(no_answer)
    }

    /// Calls a function that returns one row or none. Calls it again if it
    /// failed because of a concurrent call: that happens where a role or a
    /// database has another isolation level than READ COMMITTED. Calls it once more
    /// on another connection if this one leads to the wrong server.
    pub(super) async fn call_for_any<'q>(
        &self,
        statement: &Arc<str>,
        bind: impl Fn(Call<'q>) -> Call<'q> + Send,
    ) -> Result<Option<PgRow>, StoreError> {
        let rows = self.call_for_all(statement, bind).await?;
        Ok(rows.into_iter().next())
    }

    /// As [`call_for_any`](Self::call_for_any), for any number of rows.
    async fn call_for_all<'q>(
        &self,
        statement: &Arc<str>,
        bind: impl Fn(Call<'q>) -> Call<'q> + Send,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut lent = self.connections.lend().await?;
        let (mut tries, mut is_second) = (1, false);
        loop {
            let call = bind(sqlx::query(AssertSqlSafe(Arc::clone(statement))));
            let is_prepared = self.sessions.may_prepare();
            match self.sessions.fetch_all(lent.get(), call).await {
                Ok(rows) => {
                    lent.give_back();
                    return Ok(rows);
                }
                Err(error) if meaning::lost_a_race(&error) && tries < TRIES => tries += 1,
                Err(error) if self.sessions.prove_shared(&error) && is_prepared => {}
                Err(error) => {
                    if !lent.failed(condition(&error)) || is_second {
                        return Err(failed(error, meaning));
                    }
                    is_second = true;
                    lent = self.connections.lend().await?;
                }
            }
        }
    }

    /// Reads the records of one page, and the server's clock.
    pub(super) async fn list(&self, query: &ListQuery) -> Result<RecordPage, StoreError> {
        let order = Order::of(query);
        let Position { token, id } = Position::of(query)?;
        let which = match order {
            Order::Id => "id > $1 ORDER BY id".to_owned(),
            Order::State(state) => format!(
                "state = {state} AND token >= $2 AND (token > $2 OR id > $1) ORDER BY token, id"
            ),
            Order::Scope => "scope = $3 AND token >= $2 AND (token > $2 OR id > $1) \
                             ORDER BY token, id"
                .to_owned(),
        };
        let which = format!("{which} LIMIT {}", read(query));
        let statement = self.table.in_statement(&LIST.replace("{which}", &which));
        let statement = statement.into();
        let rows = self.call_for_all(&statement, |call| {
            let call = call.bind(id.to_vec());
            match order {
                Order::Id => call,
                Order::State(_) => call.bind(token),
                Order::Scope => {
                    let scope = query.scope.map(|scope| scope.as_bytes().to_vec());
                    call.bind(token).bind(scope)
                }
            }
        });
        let rows = rows.await?;
        let now = match rows.first() {
            Some(row) => column(row, "moment")?,
            None => 0,
        };
        let listed = rows.iter().map(listed).collect::<Result<_, _>>()?;
        Ok(order.page(query, listed, now))
    }

    pub(super) async fn purge(&self) -> Result<u64, StoreError> {
        let mut lent = self.connections.lend().await?;
        match self.purge_on(lent.get()).await {
            Ok(row) => {
                lent.give_back();
                column(&row, 0).map(i64::cast_unsigned)
            }
            Err(error) => {
                self.sessions.prove_shared(&error);
                lent.failed(condition(&error));
                Err(failed(error, meaning))
            }
        }
    }

    async fn purge_on(&self, connection: &mut PgConnection) -> Result<PgRow, sqlx::Error> {
        let mut transaction = connection.begin_with(schema::BEGIN).await?;
        let row = sqlx::query(AssertSqlSafe(Arc::clone(&self.statements.purge)))
            .bind(PURGE_BATCH.cast_signed())
            .persistent(self.sessions.may_prepare())
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(row)
    }
}
