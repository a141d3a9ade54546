//! G2 and G3 for responses of any form: however a handler writes its response,
//! the client gets all of it, and so does a retry.

use std::time::Duration;

use http::{HeaderMap, StatusCode, Version};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::options::OnOversize;

use crate::support::store::{Fault, Steered};
use crate::support::{Runs, handler, poll_times, post, with_policy};
use crate::written::{Announced, End, Got, Part, Written, paused, tasks};

#[derive(Clone, Debug)]
struct Case {
    written: Written,
    cap: usize,
    oversize: OnOversize,
    version: Version,
}

impl Case {
    fn too_large(&self) -> bool {
        self.written.len() > self.cap
    }

    /// The responses that a retry may get.
    fn retry(&self) -> &'static [&'static str] {
        let oversize = match self.oversize {
            OnOversize::Seal => "response-unavailable",
            _ => "fresh",
        };
        match self.written.end {
            _ if self.written.status != StatusCode::CREATED => &["fresh"],
            _ if self.written.lies() => &["response-unavailable"],
            End::Broken | End::Panicked => &["response-unavailable"],
            End::Whole if self.too_large() => match oversize {
                "fresh" => &["fresh"],
                _ => &["response-unavailable"],
            },
            End::Whole => &["replay"],
        }
    }

    /// Sends a request and drops it after so many polls, then sends a retry.
    /// Returns the first response, if it was read to its end, and the retry's.
    async fn ask_twice(&self, polls: usize) -> (Option<Got>, Got) {
        let (store, runs) = (Steered::new(), Runs::default());
        store.let_all(Fault::Yields);
        let layer = with_policy(&store, |options| {
            options.max_recorded_body(self.cap).oversize(self.oversize)
        });
        let written = self.written.clone();
        let app = layer.layer(handler(&runs, move |_, _| written.response()));
        let ask = || {
            let mut request = post("k", "{}");
            *request.version_mut() = self.version;
            app.clone().oneshot(request)
        };
        let look = |got: &Got| self.assert_recorded_before(got, &store);
        let first = poll_times(polls, Got::all(ask(), look)).await;
        // This pause is longer than the longest pause in a body.
        sleep(Duration::from_secs(10)).await;
        assert_eq!(store.stats().in_flight, 0, "nothing is left behind");
        let ran = runs.count();
        let retry = Got::all(ask(), |_| {}).await;
        let again = usize::from(retry.kind() == "fresh");
        assert_eq!(runs.count(), ran + again);
        if ran > 0 {
            assert!(self.retry().contains(&retry.kind()), "{}", retry.kind());
        }
        // This pause is longer than the renewer's interval, after which its
        // task ends.
        sleep(Duration::from_secs(60)).await;
        assert_eq!(tasks(), 0, "no task is left behind");
        (first, retry)
    }

    /// G3: the last byte and the end of a response leave after its record is
    /// stored.
    fn assert_recorded_before(&self, got: &Got, store: &Steered) {
        let whole = self.written.is_known() && got.data.len() == self.written.len();
        let head = got.head.is_some();
        let ended = got.end.is_some() || got.trailers.is_some() || got.said_end;
        if (whole && head && self.written.len() > 0) || ended {
            let length = got.data.len();
            assert_eq!(store.stats().in_flight, 0, "recorded before {length} bytes");
        }
    }

    fn assert_is_what_was_written(&self, got: &Got) {
        let written = &self.written;
        if written.lies() {
            // The body breaks off, unless a panic comes first.
            assert!([Some(End::Broken), Some(written.end)].contains(&got.end));
            assert_ne!(got.end, Some(End::Whole));
            assert!((got.data.len() as u64) < written.announced().unwrap().max(1));
            assert!(written.data().starts_with(&got.data));
            assert_eq!(got.trailers, None);
            return;
        }
        assert_eq!(got.end, Some(written.end));
        let Some((status, _)) = &got.head else {
            assert_eq!(written.end, End::Panicked);
            return;
        };
        assert_eq!(*status, written.status);
        // A whole response arrives whole. If a response breaks off, the frame
        // that could be its last one is withheld where a client would take it
        // for the end: if the length is known, or over HTTP/1.0.
        let end_can_be_told = written.announced().is_none() && self.version > Version::HTTP_10;
        if written.end == End::Whole || end_can_be_told {
            assert_eq!(got.data.len(), written.len());
        }
        assert!(written.data().starts_with(&got.data));
        if written.end == End::Broken {
            assert_eq!(got.error, "as the test wants it");
        }
        assert_eq!(got.trailers, self.trailers());
        assert_eq!(got.header("idempotency-status"), None);
    }

    fn assert_is_replay(&self, got: &Got) {
        let (status, _) = got.head.as_ref().unwrap();
        assert_eq!(*status, self.written.status);
        assert!(got.data == self.written.data(), "{}", got.data.len());
        assert_eq!(got.trailers, self.trailers());
        assert_eq!(got.end, Some(End::Whole));
        if let Some(length) = got.header("content-length") {
            assert_eq!(length, self.written.len().to_string());
        }
    }

    fn trailers(&self) -> Option<HeaderMap> {
        let whole = self.written.trailers && self.written.end == End::Whole;
        whole.then(|| HeaderMap::from_iter([("sum".parse().unwrap(), "42".parse().unwrap())]))
    }

    /// Checks a client that reads the whole response, and its retry.
    fn check_staying(&self) {
        paused(async {
            let (first, retry) = self.ask_twice(usize::MAX).await;
            self.assert_is_what_was_written(&first.unwrap());
            match retry.kind() {
                "fresh" => self.assert_is_what_was_written(&retry),
                "replay" => self.assert_is_replay(&retry),
                _ => {}
            }
        });
    }

    /// Checks a client that leaves, at each poll in turn: its retry gets the
    /// same as the retry of a client that stays.
    fn check_leaving(&self) {
        for polls in 1.. {
            let over = paused(async {
                let (first, retry) = self.ask_twice(polls).await;
                match retry.kind() {
                    "fresh" => self.assert_is_what_was_written(&retry),
                    "replay" => self.assert_is_replay(&retry),
                    _ => {}
                }
                first.is_some()
            });
            if over {
                break;
            }
        }
    }
}

fn parts(most: usize) -> impl Strategy<Value = Vec<Part>> {
    // The sizes lie around the limits for frames that are joined and for small
    // responses, and in between.
    const SIZES: &[usize] = &[0, 1, 1, 2, 100, 1023, 1024, 1025, 5000, 65_535, 65_537];
    let part = prop_oneof![
        4 => select(SIZES).prop_map(Part::Data),
        1 => (0..3000_usize).prop_map(Part::Data),
        2 => Just(Part::Yield),
        1 => (0..500_u64).prop_map(Part::Wait),
    ];
    vec(part, 0..most)
}

fn announced() -> impl Strategy<Value = Announced> {
    let off = prop_oneof![6 => Just(0), 1 => -70_000..70_000_i64, 1 => -2..3_i64];
    prop_oneof![
        Just(Announced::Nothing),
        off.clone().prop_map(Announced::ByHint),
        off.prop_map(Announced::ByHeader),
    ]
}

fn case(most: usize) -> impl Strategy<Value = Case> {
    let end = prop_oneof![4 => Just(End::Whole), 1 => Just(End::Broken), 1 => Just(End::Panicked)];
    let status = prop_oneof![5 => Just(StatusCode::CREATED), 1 => Just(StatusCode::BAD_GATEWAY)];
    let cap = prop_oneof![
        2 => Just(0_i64),
        2 => Just(-1),
        2 => Just(1),
        3 => Just(1 << 20),
        1 => -200_000..200_000_i64,
    ];
    let oversize = select(&[OnOversize::Seal, OnOversize::Rerun][..]);
    let version = select(&[Version::HTTP_10, Version::HTTP_11, Version::HTTP_11][..]);
    let written = (parts(most), announced(), end, status, any::<bool>());
    (written, cap, oversize, version).prop_map(|(written, cap, oversize, version)| {
        let (parts, announced, end, status, trailers) = written;
        let written = Written {
            status,
            parts,
            trailers,
            end,
            announced,
        };
        let cap = written.len().saturating_add_signed(cap.try_into().unwrap());
        Case {
            written,
            cap,
            oversize,
            version,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_client_gets_what_the_handler_wrote_and_its_retry_what_the_rules_say(case in case(12)) {
        case.check_staying();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_client_that_leaves_at_any_poll_leaves_the_record_of_one_that_stays(case in case(8)) {
        case.check_leaving();
    }
}
