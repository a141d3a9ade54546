//! A store that answers the claim after the handler has responded: what ended meanwhile is known to
//! the duplicates.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::RequestBody;
use tower_idempotency::options::Mode;
use tower_idempotency::rejection::RejectionCode;

use crate::support::store::{Fault, Op, Steered};
use crate::support::{Runs, answer, builder, handler, post};

const LATE: Duration = Duration::from_millis(100);

fn events() -> Response<Full<Bytes>> {
    let mut response = answer(StatusCode::OK, "data: 1\n\n");
    let kind = "text/event-stream".parse().unwrap();
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn switch() -> Response<Full<Bytes>> {
    answer(StatusCode::SWITCHING_PROTOCOLS, "")
}

fn empty() -> Response<Full<Bytes>> {
    answer(StatusCode::NO_CONTENT, "")
}

fn short() -> Response<Full<Bytes>> {
    answer(StatusCode::CREATED, "ok")
}

/// What becomes of the response before the claim is answered.
#[derive(Clone, Copy, Debug)]
enum Client {
    Reads,
    Leaves,
}

#[tokio::test(start_paused = true)]
async fn a_response_that_ends_before_the_claim_is_answered_is_known_to_duplicates() {
    let unavailable = Some(RejectionCode::ResponseUnavailable);
    for (respond, client, refused) in [
        (switch as fn() -> _, Client::Reads, unavailable),
        (switch, Client::Leaves, unavailable),
        (events, Client::Reads, unavailable),
        (events, Client::Leaves, unavailable),
        (empty, Client::Reads, None),
        (empty, Client::Leaves, None),
        (short, Client::Reads, None),
        (short, Client::Leaves, None),
    ] {
        let case = format!("{:?} {client:?}", respond());
        // A lease of this store does not end with the process's last handle to it.
        let store = Steered::unguarded();
        store.make(Op::Claim, Fault::Late(LATE));
        let layer = builder(&store)
            .defaults(|options| options.mode(Mode::Observe))
            .observed_body(RequestBody::<Full<Bytes>>::observed)
            .build()
            .unwrap();
        let runs = Runs::default();
        for _ in 0..2 {
            let service = layer.layer(handler(&runs, move |_, _| respond()));
            let request = post("k", "paid").map(RequestBody::new);
            let response = service.oneshot(request).await.unwrap();
            match client {
                Client::Reads => drop(response.into_body().collect().await.unwrap()),
                Client::Leaves => drop(response),
            }
            sleep(2 * LATE).await;
        }
        let observed = layer.counts().observed;
        assert_eq!(observed.execute, 1, "{case}");
        match refused {
            Some(code) => assert_eq!(observed.reject(code), 1, "{case}: {observed:?}"),
            None => assert_eq!(observed.replay, 1, "{case}: {observed:?}"),
        }
        assert_eq!(observed.reject(RejectionCode::InFlight), 0, "{case}");
    }
}
