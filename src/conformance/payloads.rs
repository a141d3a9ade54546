//! Rules by which a store keeps every part of a completion.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::record::Completion;
use crate::store::RecordState;

use crate::conformance::answer::answer_with;
use crate::conformance::expect::{Checked, broken, ensure, held, sealed, state};
use crate::conformance::stage::{Stores, request, rival};
use crate::conformance::{Rule, rule};

pub(crate) fn rules() -> Vec<Rule> {
    vec![
        rule(
            "every-byte-of-a-body-is-kept",
            "A body is found as it was, whatever its bytes are.",
            every_byte_of_a_body_is_kept,
        ),
        rule(
            "bodies-are-kept-whole",
            "Bodies from none to a mebibyte are found whole.",
            bodies_are_kept_whole,
        ),
        rule(
            "headers-are-kept",
            "All headers are found, with repeated names in order, empty values and bytes of 0x80 and above.",
            headers_are_kept,
        ),
        rule(
            "trailers-are-kept",
            "Trailers are found as they were, and apart from the headers; an answer without any has none.",
            trailers_are_kept,
        ),
        rule(
            "a-status-is-kept-or-the-record-sealed",
            "Statuses from 200 to 599 are found as they were; any other may be sealed instead, and \
             is never found as something else.",
            a_status_is_kept_or_the_record_sealed,
        ),
        rule(
            "times-are-kept-to-the-microsecond",
            "When an operation began and completed, and how long its answer is kept, are found as \
             given, to the microsecond.",
            times_are_kept_to_the_microsecond,
        ),
    ]
}

async fn is_kept(stores: &Stores, what: &str, change: impl FnOnce(&mut Completion)) -> Checked {
    let answer = answer_with(change);
    let claim = request();
    let owner = stores.a.acquire("the first claim", &claim).await?;
    let tenure = stores.a.complete(&owner, &answer.outcome()).await?;
    held(&format!("the completion with {what}"), tenure)?;
    let found = stores.b.find("a later claim", &rival(&claim)).await?;
    answer.is_found(what, &found, &owner)
}

async fn every_byte_of_a_body_is_kept(stores: Stores) -> Checked {
    let each: Vec<u8> = (0..=u8::MAX).collect();
    let every_pair: Vec<u8> = each
        .iter()
        .flat_map(|one| each.iter().flat_map(|other| [*one, *other]))
        .collect();
    is_kept(&stores, "a body of every pair of bytes", |kept| {
        kept.body = every_pair.into();
    })
    .await?;
    for byte in [0, b'\n', b'\\', b'\'', 0x80, 0xff] {
        let what = format!("a body of the byte {byte:#04x}");
        is_kept(&stores, &what, |kept| kept.body = vec![byte].into()).await?;
    }
    Ok(())
}

async fn bodies_are_kept_whole(stores: Stores) -> Checked {
    for length in [0, 1, 63, 64, 16_383, 16_384, 65_535, 65_536, 1 << 20] {
        let seed: u8 = rand::random();
        let body: Vec<u8> = (0..length)
            .map(|at: usize| u8::try_from(at.wrapping_mul(31) / 7 % 251).expect("below 251") ^ seed)
            .collect();
        let what = format!("a body of {length} bytes");
        is_kept(&stores, &what, |kept| kept.body = body.into()).await?;
    }
    Ok(())
}

fn many_fields(prefix: &str) -> HeaderMap {
    let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).expect("a header's value");
    let name = |number: usize| -> HeaderName {
        format!("{prefix}-{number}")
            .parse()
            .expect("a header's name")
    };
    let mut fields = HeaderMap::new();
    for number in 0..100 {
        fields.append(name(number), value(format!("value {number}").as_bytes()));
    }
    for turn in ["first", "", "third", "first", "Third, and \"quoted\"; more"] {
        fields.append(name(100), value(turn.as_bytes()));
    }
    let visible: Vec<u8> = (0x21..=0x7e).chain(0x80..=0xff).collect();
    fields.insert(name(101), value(&visible));
    fields.insert(name(102), value(b"in\tbetween and more"));
    fields.insert(name(103), value(b""));
    fields.insert(name(104), value(&[b'a'; 8000]));
    fields.insert(HeaderName::from_static("!#$%&'*+-.^_`|~09az"), value(b"x"));
    fields
}

async fn headers_are_kept(stores: Stores) -> Checked {
    is_kept(&stores, "many headers", |kept| {
        kept.headers = many_fields("x-head");
    })
    .await?;
    is_kept(&stores, "no headers", |kept| {
        kept.headers = HeaderMap::new();
    })
    .await
}

async fn trailers_are_kept(stores: Stores) -> Checked {
    is_kept(&stores, "many trailers", |kept| {
        kept.trailers = Some(many_fields("x-trail"));
    })
    .await?;
    is_kept(&stores, "trailers named as the headers are", |kept| {
        let mut trailers = kept.headers.clone();
        trailers.insert("x-answer", HeaderValue::from_static("other"));
        kept.trailers = Some(trailers);
        kept.body = bytes::Bytes::new();
    })
    .await?;
    is_kept(&stores, "no trailers", |kept| kept.trailers = None).await
}

async fn a_status_is_kept_or_the_record_sealed(stores: Stores) -> Checked {
    let Stores { a, b, .. } = &stores;
    for status in [
        200, 201, 204, 206, 299, 301, 304, 404, 422, 451, 499, 500, 503, 599,
    ] {
        let status = StatusCode::from_u16(status).expect("a status");
        is_kept(&stores, &format!("the status {status}"), |kept| {
            kept.status = status;
        })
        .await?;
    }
    for status in [100, 101, 199, 600, 999] {
        let status = StatusCode::from_u16(status).expect("a status");
        let answer = answer_with(|kept| kept.status = status);
        let claim = request();
        let owner = a.acquire("the first claim", &claim).await?;
        let what = format!("the completion with status {status}");
        held(&what, a.complete(&owner, &answer.outcome()).await?)?;
        let found = b.find("a later claim", &rival(&claim)).await?;
        match &found.state {
            RecordState::Completed { .. } => answer.is_found(&what, &found, &owner)?,
            RecordState::Sealed { .. } => sealed(&what, &found, &owner)?,
            other => broken!(
                "{what}: expected it completed or sealed, it is {}",
                state(other)
            ),
        }
    }
    Ok(())
}

async fn times_are_kept_to_the_microsecond(stores: Stores) -> Checked {
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    ensure!(
        since > Duration::ZERO,
        "the clock of this machine is before 1970"
    );
    for micros in [0, 1, 999, 1000, 999_999] {
        let second = UNIX_EPOCH + Duration::from_secs(since.as_secs());
        let ended = second + Duration::from_micros(micros);
        let what = format!("times {micros} microseconds past a second");
        is_kept(&stores, &what, |kept| {
            kept.completed_at = ended;
            kept.began_at = ended - Duration::from_micros(1_234_567);
            kept.retention = Duration::from_micros(86_400_000_000 + micros);
        })
        .await?;
    }
    // A clock that was never set has a time in 1970.
    is_kept(&stores, "times in 1970", |kept| {
        kept.began_at = UNIX_EPOCH;
        kept.completed_at = UNIX_EPOCH + Duration::from_nanos(1_999);
    })
    .await
}
