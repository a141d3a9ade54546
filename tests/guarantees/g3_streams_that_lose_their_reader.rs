//! G3: if the task that reads a body is gone before the end of the body, the
//! body is cut.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::runtime::Builder;
use tokio::time::timeout;
use tower::{Layer, ServiceExt};
use tower_idempotency::MemoryStore;
use tower_idempotency::recording::ResponseHead;

use crate::support::store::{Fault, Op, Steered};
use crate::support::{Runs, handler, post, protected, with_policy};
use crate::written::{Announced, End, Got, Part, Written};

const MINUTE: Duration = Duration::from_secs(60);

fn written() -> Written {
    let parts = [Part::Data(100), Part::Wait(1000), Part::Data(100)];
    Written::new(Announced::Nothing, parts)
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_store_panics_is_cut() {
    let store = Steered::new();
    store.make(Op::Complete, Fault::Panics);
    let app = protected(&store).layer(handler(&Runs::default(), |_, _| written().response()));
    let first = Got::all(app.oneshot(post("k", "{}")), |_| {});
    let first = timeout(MINUTE, first).await.expect("the body has an end");
    assert_ne!(first.end, Some(End::Whole));
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_record_policy_panics_is_cut() {
    let layer = with_policy(&MemoryStore::new(), |options| {
        options.record(|_: &ResponseHead<'_>| -> bool { panic!("as the test wants it") })
    });
    let app = layer.layer(handler(&Runs::default(), |_, _| written().response()));
    let first = Got::all(app.oneshot(post("k", "{}")), |_| {});
    let first = timeout(MINUTE, first).await.expect("the body has an end");
    assert_ne!(first.end, Some(End::Whole));
}

/// A server may have one runtime for each thread. Here one of the runtimes is
/// shut down.
#[test]
fn an_answer_whose_runtime_is_shut_down_is_cut() {
    let runtime = || {
        let mut runtime = Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap()
    };
    let one = runtime();
    let app = protected(&MemoryStore::new())
        .layer(handler(&Runs::default(), |_, _| written().response()));
    let response = one.block_on(app.oneshot(post("k", "{}"))).unwrap();
    drop(one);
    runtime().block_on(async {
        let body = timeout(MINUTE, response.into_body().collect()).await;
        assert!(body.expect("the body has an end").is_err());
    });
}
