//! G3 for responses that are not as long as their `Content-Length` says: the
//! client relies on the header, so the layer must do so too.

use tower::{Layer, ServiceExt};

use crate::support::store::{Fault, Steered};
use crate::support::{Runs, handler, post, protected};
use crate::written::{Announced, End, Got, Part, Written};

const LARGE: usize = 100_000;

/// A server sends no more than the header says, so the layer must not let all
/// of that leave.
#[tokio::test(start_paused = true)]
async fn an_answer_longer_than_it_says_is_cut_before_the_last_byte_announced() {
    for length in [10, LARGE] {
        let store = Steered::new();
        store.let_all(Fault::Yields);
        let parts = [Part::Data(length), Part::Wait(1000), Part::Data(5)];
        let written = Written::new(Announced::ByHeader(-5), parts);
        let app =
            protected(&store).layer(handler(&Runs::default(), move |_, _| written.response()));
        let first = Got::all(app.clone().oneshot(post("k", "{}")), |_| {}).await;
        assert_eq!(first.end, Some(End::Broken));
        assert!(first.data.len() < length);
        let retry = Got::all(app.oneshot(post("k", "{}")), |_| {}).await;
        assert_eq!(retry.kind(), "response-unavailable");
    }
}

/// The server breaks the connection off, so the client did not see a complete
/// response. A replay with a length of its own would look complete.
#[tokio::test(start_paused = true)]
async fn an_answer_shorter_than_it_says_is_not_replayed_as_a_whole_one() {
    for length in [5, LARGE] {
        let written = Written::new(Announced::ByHeader(1), [Part::Data(length), Part::Yield]);
        let app = protected(&Steered::new())
            .layer(handler(&Runs::default(), move |_, _| written.response()));
        Got::all(app.clone().oneshot(post("k", "{}")), |_| {}).await;
        let retry = Got::all(app.oneshot(post("k", "{}")), |_| {}).await;
        assert_eq!(retry.kind(), "response-unavailable");
    }
}
