//! G10: with encryption, only the status, the length and the times of a
//! response can be read in the store.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tower::{Layer, Service};
use tower_idempotency::options::OnLapsedLease;
use tower_idempotency::store::{Completion, Encryption};
use tower_idempotency::store::{EncodedCompletion, Outcome, RecordState};
use tower_idempotency::{IdempotencyLayer, Resolved, ResponseBody};

use crate::support::body::{Script, Step};
use crate::support::store::Steered;
use crate::support::{Runs, builder, by_operator, handler, post_with, quiet, send};

const SECOND: Duration = Duration::from_secs(1);
/// No part of a response that is this long may be found in the store.
const READABLE: usize = 4;
const BODY: &str = "4242-4242-4242-4242 was charged";
const NAME: &str = "x-account-holder";
const VALUE: &str = "Alice Liddell";
const SUM: &str = "sum-of-it-all";

fn encrypting(store: &Steered) -> IdempotencyLayer {
    builder(store)
        .secrets(["a secret of sixteen bytes or more"])
        .encryption(Encryption::xchacha20_poly1305())
        .defaults(|options| options.on_lapsed_lease(OnLapsedLease::Refuse))
        .build()
        .unwrap()
}

fn ask(key: &str) -> Request<Script> {
    post_with(key, Script::frames(["{}"]))
}

/// A handler whose response depends on the key.
fn answering(
    runs: &Runs,
) -> impl Service<
    Request<Script>,
    Response = Response<Script>,
    Error = std::convert::Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    handler(runs, |_, request| {
        let wait = || Step::Wait(SECOND);
        let body = match request.headers()["idempotency-key"].to_str().unwrap() {
            "at once" => Script::frames([BODY]),
            "in parts" => Script::new([wait()])
                .then(Step::Data(Bytes::from_static(&BODY.as_bytes()[..9])))
                .then(wait())
                .then(Step::Data(Bytes::from_static(&BODY.as_bytes()[9..]))),
            "in many parts" => Script::repeated(BODY, 1_000).then(wait()),
            "nothing" => Script::new([]),
            other => panic!("{other}"),
        };
        let mut response = Response::new(body.and_trailer("x-sum", SUM));
        *response.status_mut() = StatusCode::CREATED;
        response.headers_mut().insert(NAME, VALUE.parse().unwrap());
        response
    })
}

fn assert_unreadable(kept: &[u8]) {
    for readable in [BODY, NAME, VALUE, "x-sum", SUM] {
        for part in readable.as_bytes().windows(READABLE) {
            let found = kept.windows(READABLE).any(|window| window == part);
            assert!(!found, "{} of {readable}", part.escape_ascii());
        }
    }
}

/// The completions that the store was asked to record.
fn kept(store: &Steered) -> Vec<Arc<Completion>> {
    let completion = |outcome| match outcome {
        Outcome::Completed(completion) => completion,
        other => panic!("{other:?}"),
    };
    store.outcomes().into_iter().map(completion).collect()
}

fn assert_encrypted(kept: &Completion) {
    assert_eq!(kept.status, StatusCode::CREATED);
    assert_eq!(kept.headers.len(), 1);
    assert_eq!(
        kept.headers["content-type"],
        "application/vnd.tower-idempotency.encrypted"
    );
    // The times have whole microseconds, so every store returns the same times,
    // whichever way it rounds.
    for time in [kept.began_at, kept.completed_at] {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(since_epoch.subsec_nanos() % 1000, 0);
    }
    assert_unreadable(&EncodedCompletion::of(kept).unwrap().answer);
    assert_unreadable(format!("{kept:?}").as_bytes());
}

#[tokio::test(start_paused = true)]
async fn no_part_of_an_answer_is_readable_at_rest_and_every_retry_gets_all_of_it() {
    for key in ["at once", "in parts", "in many parts", "nothing"] {
        let (store, runs) = (Steered::new(), Runs::default());
        let app = encrypting(&store).layer(answering(&runs));
        let first = send(&app, ask(key)).await;
        assert_eq!(first.header(NAME), Some(VALUE));
        assert_eq!(first.trailers.as_ref().unwrap()["x-sum"], SUM);
        quiet().await;

        let kept = kept(&store);
        assert_eq!(kept.len(), 1, "{key}");
        assert_encrypted(&kept[0]);

        // The first app is this process, the second one stands for another
        // process.
        let other = encrypting(&store).layer(answering(&runs));
        for app in [app, other] {
            let mut retry = send(&app, ask(key)).await;
            retry.assert_replays(&first);
            retry.headers.remove("idempotency-replayed");
            assert_eq!(retry.headers, first.headers);
        }
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test]
async fn equal_answers_are_not_equal_at_rest() {
    let (store, runs) = (Steered::new(), Runs::default());
    let layer = encrypting(&store);
    let app = layer.layer(answering(&runs));
    let id = |key| layer.records().id_of(&ask(key).into_parts().0).unwrap();
    for _ in 0..20 {
        send(&app, ask("at once")).await;
        layer
            .records()
            .forget(&id("at once"), &by_operator())
            .await
            .unwrap();
    }
    let kept = kept(&store);
    // These bytes of each body are the nonce, so equal responses are encrypted
    // differently.
    let nonces: HashSet<_> = kept.iter().map(|kept| &kept.body[9..33]).collect();
    assert_eq!((kept.len(), nonces.len()), (20, 20));
}

#[tokio::test(start_paused = true)]
async fn what_was_resolved_by_hand_is_encrypted_too() {
    let (store, runs) = (Steered::new(), Runs::default());
    let layer = encrypting(&store);
    let failing = tower::service_fn(async |_: Request<Script>| {
        Err::<Response<ResponseBody<Script>>, _>("as the test wants it")
    });
    let failed = tower::ServiceExt::oneshot(layer.layer(failing), ask("at once")).await;
    assert!(failed.is_err());

    let id = layer
        .records()
        .id_of(&ask("at once").into_parts().0)
        .unwrap();
    let began_at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_001);
    let mut paid = Completion::new(StatusCode::CREATED, BODY, began_at + SECOND);
    paid.began_at = began_at;
    paid.retention = 7 * SECOND;
    paid.headers.insert(NAME, VALUE.parse().unwrap());
    let outcome = Outcome::Completed(Arc::new(paid));
    assert_eq!(
        layer
            .records()
            .resolve(&id, &outcome, &by_operator())
            .await
            .unwrap(),
        Resolved::Recorded
    );
    assert_encrypted(&kept(&store)[0]);
    let retry = send(&layer.layer(answering(&runs)), ask("at once")).await;
    assert!(retry.is_replay());
    assert_eq!((retry.text(), retry.header(NAME)), (BODY, Some(VALUE)));
    // An application that has the layer can read the response.
    let record = layer.records().look_up(&id).await.unwrap().unwrap();
    let RecordState::Completed { completion, .. } = record.state else {
        panic!("{record:?}");
    };
    assert_eq!(completion.body, BODY);
    assert_eq!(completion.began_at, began_at);
    assert_eq!(completion.completed_at, began_at + SECOND);
    assert_eq!(completion.retention, 7 * SECOND);
}
