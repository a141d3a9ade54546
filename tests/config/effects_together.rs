//! What an option in a file changes for requests that arrive together, and for
//! the calls of the store.

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};
use tower_idempotency::MemoryStore;
use tower_idempotency::config::Config;
use tower_idempotency::store::StoreErrorKind;

use crate::layer;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Gate, Runs, Seen, by, counting, held_back, post, quiet, request, send, with};

#[tokio::test(start_paused = true)]
async fn what_a_duplicate_gets_meanwhile_is_in_the_file() {
    for (option, status, told) in [
        ("echo_key = false", 409, "1"),
        ("retry_after = '5s'", 409, "5"),
        ("on_in_flight = { wait = '10s' }", 201, ""),
        ("on_in_flight = { wait = '10s' }\nmax_waiters = 0", 409, "1"),
        ("rejections.in-flight.status = 425", 425, "1"),
    ] {
        let text = format!("[idempotency]\nscope = ['shared']\n{option}");
        let (runs, gate) = (Runs::default(), Gate::closed());
        let app = layer(MemoryStore::new(), &text).layer(held_back(&runs, &gate));
        let first = tokio::spawn(app.clone().oneshot(post("k", "{}")));
        gate.begun().await;
        let second = {
            let app = app.clone();
            tokio::spawn(async move { send(&app, post("k", "{}")).await })
        };
        quiet().await;
        gate.open();
        let second = second.await.unwrap();
        assert_eq!(second.status, status, "{option}");
        assert_eq!(second.header("retry-after").unwrap_or(""), told, "{option}");
        Seen::whole(first.await.unwrap().unwrap())
            .await
            .assert_fresh("run 1");
    }
}

#[tokio::test(start_paused = true)]
async fn what_happens_without_the_store_is_in_the_file() {
    for (option, fault, status, seconds) in [
        ("", Fault::Fails(StoreErrorKind::NotSent), 503, 0),
        (
            "on_store_error = 'open'",
            Fault::Fails(StoreErrorKind::NotSent),
            201,
            0,
        ),
        ("", Fault::Stalls, 503, 2),
        ("store_timeout = '7s'", Fault::Stalls, 503, 7),
    ] {
        let store = Steered::new();
        store.make(Op::Claim, fault);
        let text = format!("[idempotency]\nscope = ['shared']\n{option}");
        let app = layer(store, &text).layer(counting(&Runs::default()));
        let sent = Instant::now();
        let seen = send(&app, post("k", "{}")).await;
        assert_eq!(
            (seen.status, sent.elapsed().as_secs()),
            (status, seconds),
            "{option}"
        );
    }
}

#[tokio::test]
async fn records_are_kept_apart_by_what_the_file_says() {
    const SECRET: &str = "secrets = ['the current secret']\n";
    let plain = "[idempotency]\nscope = ['shared']\n";
    let namespace = "[idempotency]\nscope = ['shared']\nnamespace = 'billing'";
    let secret = format!("{SECRET}{plain}");
    let rotated = format!("secrets = ['another, newer secret', 'the current secret']\n{plain}");
    for (one, other, same) in [
        (plain, plain, true),
        (plain, namespace, false),
        (plain, &*secret, false),
        (&*secret, &*rotated, true),
    ] {
        let (store, runs) = (MemoryStore::new(), Runs::default());
        for text in [one, other] {
            send(
                &layer(store.clone(), text).layer(counting(&runs)),
                post("k", "{}"),
            )
            .await;
        }
        assert_eq!(runs.count() == 1, same, "{one}\n{other}");
    }
}

#[tokio::test]
async fn encryption_is_in_the_file() {
    let plain = "secrets = ['the current secret']\n[idempotency]\nscope = ['shared']\n";
    let encrypted = format!("{plain}encryption = 'xchacha20-poly1305'");
    let both =
        format!("{plain}encryption = {{ cipher = 'xchacha20-poly1305', also_plain = true }}");
    for (one, other, second) in [
        (plain, &*encrypted, 503),
        (plain, &*both, 201),
        (&*encrypted, &*both, 201),
        (&*encrypted, &*encrypted, 201),
    ] {
        let (store, runs) = (MemoryStore::new(), Runs::default());
        let app = layer(store.clone(), one).layer(counting(&runs));
        assert_eq!(send(&app, post("k", "{}")).await.status, 201);
        let app = layer(store, other).layer(counting(&runs));
        assert_eq!(
            send(&app, post("k", "{}")).await.status,
            second,
            "{one} {other}"
        );
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test]
async fn the_application_can_say_whose_a_key_is() {
    use tower_idempotency::scope;

    let config = Config::from_toml("[[route]]\nmatch = 'PUT /a'").unwrap();
    let builder = config.builder_with_scope(MemoryStore::new(), scope::header("x-api-key"));
    let app = builder
        .unwrap()
        .build()
        .unwrap()
        .layer(counting(&Runs::default()));
    let put = || {
        let request = request(Method::PUT, "/a", Full::<Bytes>::default());
        with(request, "idempotency-key", "k")
    };
    let first = send(&app, put()).await;
    send(&app, put()).await.assert_replays(&first);
    send(&app, by("bob", put())).await.assert_fresh("run 2");
}

/// Whether the store can commit claims is not known while the file is read.
#[test]
fn claims_are_committed_only_where_the_store_can() {
    let config = Config::from_toml("idempotency = { scope = ['shared'], exactly_once = true }");
    let error = config.unwrap().builder(MemoryStore::new()).unwrap().build();
    assert_eq!(error.unwrap_err().option(), "exactly_once");
    let open = "[idempotency]\nexactly_once = true\non_store_error = 'open'";
    let error = Config::from_toml(open).unwrap_err().to_string();
    assert!(
        error.starts_with("2:1: `idempotency.exactly_once` can't go with"),
        "{error}"
    );
}
