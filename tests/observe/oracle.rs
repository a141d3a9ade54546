//! The oracle: the same requests, once to a layer that protects and once to one that observes. What
//! the second reports is what the first did.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_idempotency::observer::Would;
use tower_idempotency::options::{
    FingerprintBody, JsonFingerprint, KeysPer, Mode, OnLapsedLease, OnMismatch, OnOversize, Require,
};
use tower_idempotency::recording::Statuses;
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::{IdempotencyLayer, MemoryStore, RequestBody, RouteOptions};

use crate::support::{Runs, builder, by, post, to, with, without};

/// One request, and what its handler responds if it runs.
#[derive(Clone, Copy, Debug)]
struct Asked {
    key: Option<&'static str>,
    caller: Option<&'static str>,
    path: &'static str,
    body: &'static str,
    answer: &'static str,
}

#[derive(Clone, Copy, Debug)]
struct Options {
    on_lapsed_lease: OnLapsedLease,
    on_mismatch: OnMismatch,
    keys_per: KeysPer,
    oversize: OnOversize,
    json: bool,
}

type Body = RequestBody<Full<Bytes>>;

impl Options {
    fn layer(self, mode: Mode) -> IdempotencyLayer {
        let change = move |options: RouteOptions| {
            options
                .mode(mode)
                .mark_observed(true)
                .on_lapsed_lease(self.on_lapsed_lease)
                .on_mismatch(self.on_mismatch)
                .keys_per(self.keys_per)
                .oversize(self.oversize)
                .fingerprint_body(if self.json {
                    FingerprintBody::Json(JsonFingerprint::new())
                } else {
                    FingerprintBody::Bytes
                })
                .in_doubt(Statuses::none().with(504..505))
                .key_length(2..=8)
                .max_request_body(24)
                .max_recorded_body(8)
        };
        builder(&MemoryStore::new())
            .defaults(change)
            .route("POST /required", |options| {
                options.require(Require::Required)
            })
            .observed_body(Body::observed)
            .build()
            .unwrap()
    }
}

impl Asked {
    fn request(self) -> Request<Body> {
        let mut request = to(self.path, post("", self.body));
        request = match self.key {
            Some(key) => with(request, "idempotency-key", key),
            None => without(request, "idempotency-key"),
        };
        request = match self.caller {
            Some(caller) => by(caller, request),
            None => without(request, "x-api-key"),
        };
        request = with(request, "content-type", "application/json");
        with(request, "x-answer", self.answer).map(RequestBody::new)
    }
}

/// The status is what the request asks for, so that it does not depend on how often the handler ran.
async fn respond(request: Request<Body>, runs: Runs) -> Result<Response<Full<Bytes>>, BoxError> {
    runs.begin();
    let (head, body) = request.into_parts();
    assert_eq!(head.method, Method::POST);
    body.collect().await?;
    let body = match head.headers["x-answer"].to_str()? {
        "error" => return Err("the handler gave up".into()),
        "large" => "more than is recorded",
        _ => "ok",
    };
    let status = head.headers["x-answer"].to_str()?.parse().unwrap_or(201);
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::from_u16(status)?;
    Ok(response)
}

/// What a layer that protects has done.
async fn protected(layer: &IdempotencyLayer, asked: Asked) -> Would {
    let runs = Runs::default();
    let own = runs.clone();
    let service = layer.layer(service_fn(move |request| respond(request, own.clone())));
    let ran = if asked.key.is_some() {
        Would::Execute
    } else {
        Would::Pass
    };
    let Ok(response) = service.oneshot(asked.request()).await else {
        return ran;
    };
    let is_replay = response.headers().contains_key("idempotency-replayed");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    match (runs.count(), is_replay) {
        (1, false) => ran,
        (0, true) => Would::Replay,
        (0, false) => {
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let mut codes = RejectionCode::ALL.iter();
            let code = codes.find(|code| problem["code"] == code.as_str());
            Would::Reject(*code.unwrap())
        }
        other => panic!("{other:?}"),
    }
}

/// What a layer that observes reports, in its counts and in the header. The handler runs each time.
async fn observed(layer: &IdempotencyLayer, asked: Asked) -> Would {
    let runs = Runs::default();
    let own = runs.clone();
    let before = reports(layer);
    let service = layer.layer(service_fn(move |request| respond(request, own.clone())));
    let response = service.oneshot(asked.request()).await;
    let mut header = None;
    if let Ok(response) = response {
        header = Some(response.headers()["idempotency-status"].clone());
        response.into_body().collect().await.unwrap();
    }
    assert_eq!(runs.count(), 1, "every request passes");
    let after = reports(layer);
    let mut new = after
        .iter()
        .zip(&before)
        .filter(|(after, before)| after.1 > before.1);
    let would = new.next().expect("every request is reported").0.0;
    assert!(new.next().is_none(), "and once");
    if let Some(header) = header {
        let code = match would {
            Would::Reject(code) => format!("; code={code}"),
            _ => String::new(),
        };
        assert_eq!(header, format!("observed; would={}{code}", would.as_str()));
    }
    would
}

fn reports(layer: &IdempotencyLayer) -> Vec<(Would, u64)> {
    let counts = layer.counts();
    assert_eq!(counts.observed.not_observed, 0);
    assert_eq!(counts.replayed, 0);
    let rejected = |code: &RejectionCode| assert_eq!(counts.rejected(*code), 0);
    RejectionCode::ALL.iter().for_each(rejected);
    let mut all = vec![
        (Would::Execute, counts.observed.execute),
        (Would::Replay, counts.observed.replay),
        (Would::Pass, counts.observed.pass),
    ];
    let codes = RejectionCode::ALL.iter();
    all.extend(codes.map(|code| (Would::Reject(*code), counts.observed.reject(*code))));
    all
}

fn requests() -> impl Strategy<Value = Vec<Asked>> {
    let key = prop_oneof![
        8 => prop_oneof![Just("k1"), Just("\"k1\""), Just("k2")].prop_map(Some),
        1 => prop_oneof![Just(""), Just("k"), Just("too long by far"), Just("\"k")].prop_map(Some),
        1 => Just(None),
    ];
    let caller = prop_oneof![6 => Just(Some("alice")), 3 => Just(Some("bob")), 1 => Just(None)];
    let path =
        prop_oneof![4 => Just("/payments"), 1 => Just("/required"), 1 => Just("/payments?q")];
    let body = prop_oneof![
        6 => Just("{\"a\":1}"),
        2 => Just("{ \"a\": 1.0 }"),
        2 => Just("{\"a\":2}"),
        1 => Just(""),
        1 => Just("{\"a\":\"more than is accepted\"}"),
    ];
    let answer = prop_oneof![
        8 => Just("201"), 3 => Just("500"), 2 => Just("error"), 2 => Just("large"), 1 => Just("504"),
    ];
    let asked =
        (key, caller, path, body, answer).prop_map(|(key, caller, path, body, answer)| Asked {
            key,
            caller,
            path,
            body,
            answer,
        });
    prop::collection::vec(asked, 1..24)
}

fn options() -> impl Strategy<Value = Options> {
    let words = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    words.prop_map(|(refuse, replay, route, rerun, json)| Options {
        on_lapsed_lease: if refuse {
            OnLapsedLease::Refuse
        } else {
            OnLapsedLease::Rerun
        },
        on_mismatch: if replay {
            OnMismatch::Replay
        } else {
            OnMismatch::Reject
        },
        keys_per: if route {
            KeysPer::Route
        } else {
            KeysPer::Scope
        },
        oversize: if rerun {
            OnOversize::Rerun
        } else {
            OnOversize::Seal
        },
        json,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(192) })]

    #[test]
    fn what_is_reported_is_what_protection_does(requests in requests(), options in options()) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build().unwrap();
        runtime.block_on(async {
            let (protect, observe) = (options.layer(Mode::Protect), options.layer(Mode::Observe));
            for (at, asked) in requests.iter().enumerate() {
                let expected = protected(&protect, *asked).await;
                prop_assert_eq!(observed(&observe, *asked).await, expected, "request {}", at);
            }
            Ok::<_, TestCaseError>(())
        })?;
    }
}
