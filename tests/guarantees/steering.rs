//! An operator decides about a record as it was shown. A record that has moved on since is left as it
//! is, and the log says who wanted what.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Uri};
use tokio::time::sleep;
use tower::Layer;
use tower_idempotency::scope::{self, Scope};
use tower_idempotency::store::{
    Completion, Forgotten, Outcome, RecordState, RecordVersion, StoreErrorKind,
};
use tower_idempotency::{
    Audit, FindError, IdempotencyLayer, MemoryStore, Resolved, scope::PeerAddr,
};

use crate::by_hand::{Doubt, id, in_doubt, paid};
use crate::owners::{First, LEASE, Owners, SECOND, begin};
use crate::support::log::Log;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Runs, builder, by_operator, counting, post, quiet, request, send, to, with, with_policy,
};

/// What was shown to the operator.
async fn shown(layer: &IdempotencyLayer) -> RecordVersion {
    let found = layer.records().look_up(&id(layer)).await.unwrap();
    found.unwrap().version()
}

/// Tries every action with this version, none of which may change anything.
async fn nothing_is_done(layer: &IdempotencyLayer, seen: RecordVersion) {
    let (id, records, audit) = (id(layer), layer.records(), by_operator().seen(seen));
    let before = shown(layer).await;
    let sealed = Outcome::Sealed { retention: SECOND };
    for outcome in [paid(), sealed] {
        let resolved = records.resolve(&id, &outcome, &audit).await.unwrap();
        assert_eq!(resolved, Resolved::Moved);
    }
    assert_eq!(records.free(&id, &audit).await.unwrap(), Resolved::Moved);
    assert_eq!(records.forget(&id, &audit).await.unwrap(), Forgotten::Moved);
    let forced = records.forget_forced(&id, &audit).await.unwrap();
    assert_eq!(forced, Forgotten::Moved);
    assert_eq!(shown(layer).await, before);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_its_late_owner_has_completed_since_it_was_shown_is_left_alone() {
    let store = Steered::unguarded();
    let (layer, owners, retry, owner) = in_doubt(&store, Doubt::Lapse).await;
    let seen = shown(&layer).await;
    owners.gate.open();
    let first = owner.unwrap().await.unwrap();
    first.assert_fresh("run 1");
    nothing_is_done(&layer, seen).await;
    retry("{}").await.assert_replays(&first);

    // What was seen since can be forgotten.
    let audit = by_operator().seen(shown(&layer).await);
    let forgotten = layer.records().forget(&id(&layer), &audit).await.unwrap();
    assert_eq!(forgotten, Forgotten::Gone);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_took_over_since_the_record_was_shown_is_left_alone() {
    let store = Steered::unguarded();
    let (layer, owners) = (with_policy(&store, |options| options), Owners::new());
    let app = layer.layer(owners.service(First::Answers));
    store.make(Op::Renew, Fault::Stalls);
    let _first = begin(&app);
    owners.gate.begun().await;
    sleep(LEASE).await;
    let seen = shown(&layer).await;
    store.heal(Op::Renew);
    let second = begin(&app);
    owners.gate.begun().await;
    nothing_is_done(&layer, seen).await;

    owners.gate.open();
    owners.gate.open();
    let second = crate::support::Seen::whole(second.await.unwrap().unwrap()).await;
    second.assert_fresh("run 2");
    nothing_is_done(&layer, seen).await;
    send(&app, post("k", "{}")).await.assert_replays(&second);
}

/// The owner completes after the look-up of the action, and before its step.
#[tokio::test(start_paused = true)]
async fn an_outcome_that_comes_while_an_action_is_under_way_is_kept() {
    for seen in [true, false] {
        for op in [Op::Claim, Op::Forget] {
            let store = Steered::unguarded();
            let (layer, owners, retry, owner) = in_doubt(&store, Doubt::Lapse).await;
            let audit = if seen {
                by_operator().seen(shown(&layer).await)
            } else {
                by_operator()
            };
            store.make(op, Fault::ArrivesLate(SECOND));
            let (acting, id) = (layer.clone(), id(&layer));
            let acted = tokio::spawn(async move {
                match op {
                    Op::Claim => acting.records().resolve(&id, &paid(), &audit).await,
                    _ => acting.records().free(&id, &audit).await,
                }
            });
            quiet().await;
            owners.gate.open();
            let first = owner.unwrap().await.unwrap();
            first.assert_fresh("run 1");
            let expected = match (op, seen) {
                (Op::Claim, false) => Resolved::Done,
                _ => Resolved::Moved,
            };
            assert_eq!(acted.await.unwrap().unwrap(), expected, "{op:?}");
            store.heal(op);
            retry("{}").await.assert_replays(&first);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_freed_only_of_an_unknown_outcome() {
    let store = Steered::unguarded();
    let (layer, owners, retry, _) = in_doubt(&store, Doubt::Error).await;
    let (id, records) = (id(&layer), layer.records());
    let audit = by_operator().seen(shown(&layer).await);
    assert_eq!(records.free(&id, &audit).await.unwrap(), Resolved::Freed);
    assert_eq!(records.free(&id, &audit).await.unwrap(), Resolved::Absent);
    owners.gate.open();
    retry("{}").await.assert_fresh("run 2");
    let freed = records.free(&id, &by_operator()).await.unwrap();
    assert_eq!(freed, Resolved::Done);
    assert!(retry("{}").await.is_replay());
}

#[tokio::test(start_paused = true)]
async fn every_action_is_one_event_with_who_why_and_what_came_of_it() {
    let store = Steered::unguarded();
    let (layer, _, _, _) = in_doubt(&store, Doubt::Error).await;
    let (id, records, seen) = (id(&layer), layer.records(), shown(&layer).await);
    let hex = id.to_string();
    let audit = Audit::new(
        "eve\nINFO idempotency::audit: result=\"gone\"",
        "x\u{1b}[2Jy",
    )
    .unwrap();
    let right = audit.clone().seen(seen);
    let wrong = audit.clone().seen("7.7".parse().unwrap());
    let of = |seen: &RecordVersion| format!("token={} attempt={}", seen.token, seen.attempt);
    let log = Log::default();
    let listening = log.listen();

    records.free(&id, &wrong).await.unwrap();
    records.resolve(&id, &paid(), &right).await.unwrap();
    let done = shown(&layer).await;
    records.resolve(&id, &paid(), &audit).await.unwrap();
    records
        .forget(&id, &audit.clone().seen(done))
        .await
        .unwrap();
    records.forget_forced(&id, &audit).await.unwrap();
    store.make(Op::Forget, Fault::Fails(StoreErrorKind::NotSent));
    records.forget(&id, &audit).await.unwrap_err();
    store.make(Op::LookUp, Fault::Stalls);
    drop(crate::support::poll_times(1, records.free(&id, &right)).await);
    drop(listening);

    let text = log.text();
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.contains("idempotency::audit: a record by hand"))
        .collect();
    assert_eq!(lines.len(), 7, "{text}");
    for (line, (level, parts)) in lines.iter().zip([
        (
            "WARN",
            vec![
                "action=\"free\"",
                "result=\"moved\"",
                "seen=\"7.7\"",
                &of(&seen),
            ],
        ),
        (
            "INFO",
            vec!["action=\"resolve\"", "result=\"recorded\"", &of(&seen)],
        ),
        (
            "WARN",
            vec!["action=\"resolve\"", "result=\"done\"", &of(&done)],
        ),
        (
            "INFO",
            vec!["action=\"forget\"", "result=\"gone\"", &of(&done)],
        ),
        ("WARN", vec!["action=\"forget\"", "result=\"absent\""]),
        (
            "WARN",
            vec!["action=\"forget\"", "result=\"failed\"", "error=\""],
        ),
        ("WARN", vec!["action=\"free\"", "result=\"abandoned\""]),
    ]) {
        assert!(line.contains(&format!(" {level} ")), "{line}");
        assert!(line.contains(&format!("id={hex} ")), "{line}");
        // The words of a person stay in their field, and in one line.
        assert!(
            line.contains("who=\"eve\\\\nINFO idempotency::audit: result=\\\"gone\\\"\""),
            "{line}"
        );
        assert!(line.contains("why=\"x\\\\u{1b}[2Jy\""), "{line}");
        for part in parts {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}

fn layer_with(scope: impl Scope) -> IdempotencyLayer {
    IdempotencyLayer::new(MemoryStore::new(), scope).unwrap()
}

#[derive(Clone)]
struct Account(u64);

#[tokio::test]
async fn a_record_is_found_by_caller_and_key_for_each_scope() {
    let peer = |ip: &str| {
        let mut request = post("k", "{}");
        let address = std::net::SocketAddr::new(ip.parse().unwrap(), 9);
        request.extensions_mut().insert(PeerAddr(address));
        request
    };
    let of_account = |id| {
        let mut request = post("k", "{}");
        request.extensions_mut().insert(Account(id));
        request
    };
    let account = || scope::extension("account", |account: &Account| account.0);
    let two = || with(post("k", "{}"), "x-tenant", "t");
    for (layer, request, caller, other) in [
        (
            layer_with(scope::header("x-api-key")),
            post("k", "{}"),
            "alice",
            "bob",
        ),
        (
            layer_with(scope::headers(["x-api-key", "x-tenant"])),
            two(),
            "alice\nt",
            "t\nalice",
        ),
        (
            layer_with(scope::peer_ip()),
            peer("192.0.2.1"),
            "192.0.2.1",
            "192.0.2.2",
        ),
        (
            layer_with(scope::peer_ip()),
            peer("::ffff:192.0.2.1"),
            "192.0.2.1",
            "::1",
        ),
        (layer_with(account()), of_account(7), "7", "8"),
        (
            layer_with(account().or(scope::peer_ip())),
            peer("::1"),
            "::1",
            "7",
        ),
        (layer_with(scope::shared()), post("k", "{}"), "anybody", ""),
    ] {
        let app = layer.layer(counting(&Runs::default()));
        send(&app, request).await.assert_fresh("run 1");
        let (records, uri) = (layer.records(), Uri::from_static("/payments?a=b"));
        let found = records
            .find(caller, "k", &Method::POST, &uri)
            .await
            .unwrap();
        assert_eq!(found.len(), 1, "{caller}");
        assert!(matches!(found[0].1.state, RecordState::Completed { .. }));
        let nobody = records
            .find(caller, "l", &Method::POST, &uri)
            .await
            .unwrap();
        assert!(nobody.is_empty(), "{caller}");
        if !other.is_empty() {
            let others = records.find(other, "k", &Method::POST, &uri).await.unwrap();
            assert!(others.is_empty(), "{other}");
        }
    }
}

#[tokio::test]
async fn a_record_under_an_old_secret_is_found_too() {
    let store = MemoryStore::new();
    let (old, new) = (
        "the old secret, 16 bytes at least",
        "the new secret, 16 bytes at least",
    );
    let of = |secrets: &[&str]| builder(&store).secrets(secrets.to_vec()).build().unwrap();
    let before = of(&[old]);
    send(&before.layer(counting(&Runs::default())), post("k", "{}")).await;
    let rotating = of(&[new, old]);
    let uri = Uri::from_static("/payments");
    let found = rotating
        .records()
        .find("alice", "k", &Method::POST, &uri)
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, id(&before));
    let (parts, _) = post("k", "{}").into_parts();
    let same = rotating.records().find_request(&parts).await.unwrap();
    assert_eq!(same[0].0, id(&before));
}

#[tokio::test]
async fn what_has_no_record_is_told_why() {
    let layer = layer_with(scope::header("x-api-key"));
    let uri = Uri::from_static("/payments");
    let find = async |caller: &str, key: &str, method: Method| {
        layer
            .records()
            .find(caller, key, &method, &uri)
            .await
            .unwrap_err()
    };
    assert!(matches!(
        find("alice", "k", Method::GET).await,
        FindError::Unprotected
    ));
    assert!(matches!(
        find("alice", "", Method::POST).await,
        FindError::Key
    ));
    assert!(matches!(
        find("alice", "a\nb", Method::POST).await,
        FindError::Key
    ));
    assert!(matches!(
        find("", "k", Method::POST).await,
        FindError::Caller
    ));
    assert!(matches!(
        find("alice\nbob", "k", Method::POST).await,
        FindError::Caller
    ));
    let none = to(
        "/payments",
        request(
            Method::POST,
            "/payments",
            http_body_util::Full::<bytes::Bytes>::default(),
        ),
    );
    let (parts, _) = none.into_parts();
    let error = layer.records().find_request(&parts).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the request has no valid key, so it has no record"
    );
}

/// A completion by hand is kept for as long as it says, also under another version.
#[tokio::test(start_paused = true)]
async fn a_resolution_says_which_version_was_resolved() {
    let store = Steered::new();
    let (layer, _, retry, _) = in_doubt(&store, Doubt::Panic).await;
    let seen = shown(&layer).await;
    let mut completion = Completion::new(http::StatusCode::CREATED, "paid", SystemTime::now());
    completion.retention = Duration::from_secs(60);
    let outcome = Outcome::Completed(Arc::new(completion));
    let audit = by_operator().seen(seen);
    let resolved = layer
        .records()
        .resolve(&id(&layer), &outcome, &audit)
        .await
        .unwrap();
    assert_eq!(resolved, Resolved::Recorded);
    let now = shown(&layer).await;
    assert_eq!((now.attempt, now.done), (seen.attempt + 1, true));
    assert!(retry("{}").await.is_replay());
    nothing_is_done(&layer, seen).await;
}
