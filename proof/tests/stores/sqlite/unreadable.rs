//! Another program wrote these records, or something damaged them.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, SqlitePool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::store::{Encryption, ForgetMode, Forgotten, Release, Store, StoreErrorKind};
use tower_idempotency::{IdempotencyLayer, SqliteStore, scope};

use super::{Directory, acquire, answer, claim, id, pool_of};

const TABLES: &str = include_str!("../../../../docs/sql/sqlite.sql");

/// Makes tables whose columns accept any value.
async fn lenient(pool: &SqlitePool) -> SqliteStore {
    let tables = TABLES
        .replace(" STRICT", "")
        .replace("BLOB    NOT NULL", "BLOB")
        .replace("INTEGER NOT NULL", "INTEGER");
    sqlx::raw_sql(AssertSqlSafe(tables))
        .execute(pool)
        .await
        .unwrap();
    SqliteStore::open(pool.clone()).await.unwrap()
}

/// Makes records in every state. A claim would replay or take over each of these
/// records.
async fn in_every_state(store: &SqliteStore, pool: &SqlitePool) {
    let completed = acquire(store, &claim(1)).await;
    store.complete(&completed, &answer("paid")).await.unwrap();
    acquire(store, &claim(2)).await;
    for (number, how) in [(3, Release::MayRunAgain), (4, Release::OutcomeUnknown)] {
        let lease = acquire(store, &claim(number)).await;
        store
            .release(&id(number), &lease.claim.nonce, how)
            .await
            .unwrap();
    }
    change(pool, "lapses_at = 1 WHERE state = 1").await;
}

async fn change(pool: &SqlitePool, what: &str) {
    let statement = format!("UPDATE idempotency_records SET {what}");
    let changed = sqlx::query(AssertSqlSafe(statement))
        .execute(pool)
        .await
        .unwrap();
    assert!(changed.rows_affected() > 0, "{what}");
}

async fn is_unreadable(store: &SqliteStore, number: u32, what: &str) {
    let expected = StoreErrorKind::Unreadable;
    let claimed = store.claim(&claim(number)).await;
    let kind = claimed.map_err(|error| error.kind());
    assert!(
        matches!(kind, Err(kind) if kind == expected),
        "{number}, {what}: {kind:?}"
    );
    let found = store.look_up(&id(number)).await;
    assert_eq!(found.unwrap_err().kind(), expected, "{number}, {what}");
}

#[tokio::test]
async fn what_is_not_as_it_should_be_is_never_taken_for_anything() {
    let directory = Directory::new();
    let pool = pool_of(&directory.file()).await;
    let store = lenient(&pool).await;
    for what in [
        "format = 2",
        "format = 2, expires_at = 1",
        "format = NULL",
        "format = 'one'",
        "state = 9",
        "state = 9, expires_at = 1",
        "state = 0",
        "state = 'done'",
        "state = NULL",
        "token = -1",
        "token = 9007199254740992",
        "token = 'a'",
        "token = 1.5",
        "attempt = -1",
        "attempt = NULL",
        "nonce = NULL",
        "fingerprint = NULL",
        "fingerprint = 7",
        "lapses_at = 'soon'",
        "expires_at = 'later'",
        "expires_at = x'00'",
    ] {
        sqlx::raw_sql("DELETE FROM idempotency_records")
            .execute(&pool)
            .await
            .unwrap();
        in_every_state(&store, &pool).await;
        change(&pool, what).await;
        for number in 1..=4 {
            is_unreadable(&store, number, what).await;
        }
    }
}

#[tokio::test]
async fn what_is_in_flight_for_nobody_knows_how_long_is_unreadable() {
    let directory = Directory::new();
    let store = super::connect(&directory.file()).await;
    let pool = pool_of(&directory.file()).await;
    let lease = acquire(&store, &claim(1)).await;
    change(&pool, "lapses_at = NULL").await;
    is_unreadable(&store, 1, "lapses_at = NULL").await;
    let error = store
        .forget(&lease.claim.id, ForgetMode::UnlessAlive)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unreadable);
}

#[tokio::test]
async fn a_foreign_record_is_changed_by_nobody_but_by_force() {
    let directory = Directory::new();
    let store = super::connect(&directory.file()).await;
    let pool = pool_of(&directory.file()).await;
    for foreign in [
        "format = 2",
        "format = 2, expires_at = 1, lapses_at = 1",
        "format = 2, state = 3, nonce = zeroblob(16)",
        "format = 2, state = 5, expires_at = 1, token = 1",
        "state = 9",
        "state = 9, expires_at = 1, lapses_at = 1, token = 1",
        "state = 0, expires_at = 1",
    ] {
        let lease = acquire(&store, &claim(1)).await;
        change(&pool, foreign).await;
        let before = row(&pool).await;
        is_unreadable(&store, 1, foreign).await;
        let (id, nonce) = (&lease.claim.id, &lease.claim.nonce);
        let errors = [
            store.renew(&lease).await.expect_err(foreign),
            store
                .complete(&lease, &answer("paid"))
                .await
                .expect_err(foreign),
            store
                .release(id, nonce, Release::MayRunAgain)
                .await
                .expect_err(foreign),
            store
                .forget(id, ForgetMode::UnlessAlive)
                .await
                .expect_err(foreign),
        ];
        for error in errors {
            assert_eq!(error.kind(), StoreErrorKind::Unreadable, "{foreign}");
        }
        assert_eq!(store.purge().await.unwrap(), 0, "{foreign}");
        assert_eq!(row(&pool).await, before, "{foreign}");
        let forgotten = store.forget(id, ForgetMode::Forced).await.unwrap();
        assert_eq!(forgotten, Forgotten::Gone, "{foreign}");
    }
}

/// Returns all columns of the only record, as text.
async fn row(pool: &SqlitePool) -> String {
    let query = "SELECT concat_ws(' ', format, state, hex(nonce), token, attempt, \
                 hex(fingerprint), retention, lapses_at, expires_at, status, kept_for, hex(answer)) \
                 FROM idempotency_records";
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn an_answer_is_read_whole_or_not_at_all() {
    let directory = Directory::new();
    let pool = pool_of(&directory.file()).await;
    let store = lenient(&pool).await;
    let lease = acquire(&store, &claim(1)).await;
    store.complete(&lease, &answer("paid")).await.unwrap();
    sqlx::raw_sql("CREATE TABLE sound AS SELECT * FROM idempotency_records")
        .execute(&pool)
        .await
        .unwrap();
    let mut changes = vec![
        "answer = NULL".to_owned(),
        "answer = 'paid'".to_owned(),
        "answer = 7".to_owned(),
        "answer = CAST(answer || x'00' AS BLOB)".to_owned(),
        "answer = CAST(answer || x'00' AS BLOB), answer_length = answer_length + 1".to_owned(),
        "answer_length = -1".to_owned(),
        "answer_length = NULL".to_owned(),
        "answer_sha256 = NULL".to_owned(),
        "answer_sha256 = x'00'".to_owned(),
        "answer_sha256 = zeroblob(32)".to_owned(),
        "status = 200".to_owned(),
        "status = NULL".to_owned(),
        "status = 66000".to_owned(),
        "began_at = NULL".to_owned(),
        "completed_at = 'today'".to_owned(),
        "kept_for = -1".to_owned(),
        "kept_for = NULL".to_owned(),
        "fingerprint = x'00'".to_owned(),
    ];
    let length: i64 = sqlx::query_scalar("SELECT length(answer) FROM sound")
        .fetch_one(&pool)
        .await
        .unwrap();
    for length in 0..length {
        changes.push(format!("answer = substr(answer, 1, {length})"));
        changes.push(format!(
            "answer = substr(answer, 1, {length}), answer_length = {length}"
        ));
    }
    for what in changes {
        change(&pool, &what).await;
        is_unreadable(&store, 1, &what).await;
        let restore = "DELETE FROM idempotency_records;
            INSERT INTO idempotency_records SELECT * FROM sound";
        sqlx::raw_sql(restore).execute(&pool).await.unwrap();
        store.look_up(&id(1)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn who_meets_one_can_remove_it_by_hand() {
    let directory = Directory::new();
    let pool = pool_of(&directory.file()).await;
    let store = lenient(&pool).await;
    in_every_state(&store, &pool).await;
    change(&pool, "format = 2").await;
    for number in 1..=4 {
        store.forget(&id(number), ForgetMode::Forced).await.unwrap();
        assert_eq!(acquire(&store, &claim(number)).await.attempt, 1);
    }
}

/// The response of another program can have more fields than this program can hold. This one is a
/// Binary HTTP message of known length, with one-letter names and values.
fn with_fields(headers: usize, trailers: usize) -> Vec<u8> {
    let number = |number: usize| (u32::try_from(number).unwrap() | 0x8000_0000).to_be_bytes();
    let fields = |count: usize| {
        let name = |at: usize| format!("{at:05}");
        let field = |at| [&[5], name(at).as_bytes(), b"\x011"].concat();
        let fields: Vec<u8> = (0..count).flat_map(field).collect();
        [&number(fields.len())[..], &fields].concat()
    };
    let (status, no_content) = ([1, 0x40, 201], [0]);
    [
        &status[..],
        &fields(headers),
        &no_content,
        &fields(trailers),
    ]
    .concat()
}

#[tokio::test]
async fn a_response_with_forty_thousand_fields_is_a_rejection_and_not_a_panic() {
    let directory = Directory::new();
    let store = super::connect(&directory.file()).await;
    let pool = pool_of(&directory.file()).await;
    let layer = IdempotencyLayer::new(store, scope::shared()).unwrap();
    let app = Router::new().route("/", post(async || StatusCode::CREATED).layer(layer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let mut connection = TcpStream::connect(address).await.unwrap();
    let mut ask = async || {
        let request =
            b"POST / HTTP/1.1\r\nhost: a\r\nidempotency-key: k\r\ncontent-length: 0\r\n\r\n";
        connection.write_all(request).await.unwrap();
        let mut answer = vec![0; 1 << 16];
        let length = connection.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    assert!(ask().await.starts_with("HTTP/1.1 201 "));
    for (headers, trailers) in [(40_000, 0), (0, 40_000)] {
        let planted = with_fields(headers, trailers);
        sqlx::query(
            "UPDATE idempotency_records SET answer = ?, answer_length = ?, answer_sha256 = ?",
        )
        .bind(&planted)
        .bind(i64::try_from(planted.len()).unwrap())
        .bind(&Sha256::digest(&planted)[..])
        .execute(&pool)
        .await
        .unwrap();
        let answer = ask().await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("store-unavailable"), "{answer}");
    }
    server.abort();
}

/// Whoever can write to the file can move the end of a record, but not that of its retention.
#[tokio::test]
async fn the_retention_that_was_encrypted_ends_a_response_whatever_the_row_says() {
    let directory = Directory::new();
    let pool = pool_of(&directory.file()).await;
    let retention = Duration::from_millis(500);
    let layer = IdempotencyLayer::builder(super::connect(&directory.file()).await, scope::shared())
        .secrets(["a secret of thirty-two bytes ..."])
        .encryption(Encryption::xchacha20_poly1305())
        .defaults(|options| options.retention(retention))
        .build()
        .unwrap();
    let service = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("paid")))
    }));
    let ask = async || {
        let request = Request::post("/").header("idempotency-key", "k");
        let request = request.body(Full::default()).unwrap();
        service.clone().oneshot(request).await.unwrap()
    };
    assert!(!ask().await.headers().contains_key("idempotency-replayed"));
    // The time may be moved at any moment, so it is moved before the record's end.
    let kept = "UPDATE idempotency_records SET expires_at = expires_at + 1000000000000";
    sqlx::raw_sql(kept).execute(&pool).await.unwrap();
    assert!(ask().await.headers().contains_key("idempotency-replayed"));
    tokio::time::sleep(retention.mul_f64(1.1)).await;
    assert_eq!(ask().await.status(), StatusCode::SERVICE_UNAVAILABLE);
    // Nor does a later beginning of the retention help.
    let moved = "UPDATE idempotency_records SET completed_at = completed_at + 1000000000000";
    sqlx::raw_sql(moved).execute(&pool).await.unwrap();
    assert_eq!(ask().await.status(), StatusCode::SERVICE_UNAVAILABLE);
}
