//! The parameters of a completion.

use std::time::Duration;

use crate::record::TraceContext;
use crate::store::Lease;
use crate::store::encoding::EncodedCompletion;
use crate::store::row::{micros, state};

/// The fields that the completion of a record writes, in the order of `docs/stores.md`. The
/// numbers are signed, because all engines keep signed numbers.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "no engine binds every field")]
pub(super) struct CompleteRow<'a> {
    pub(super) id: &'a [u8],
    pub(super) state: i64,
    pub(super) nonce: &'a [u8],
    pub(super) token: i64,
    pub(super) attempt: i64,
    pub(super) fingerprint: &'a [u8],
    pub(super) retention: i64,
    pub(super) status: Option<i16>,
    pub(super) began_at: Option<i64>,
    pub(super) completed_at: Option<i64>,
    pub(super) kept_for: i64,
    pub(super) answer: Option<&'a [u8]>,
    pub(super) answer_length: Option<i64>,
    pub(super) answer_sha256: Option<&'a [u8]>,
    /// The caller and the origin of the lease's claim, which a record that is made anew gets.
    pub(super) scope: &'a [u8],
    pub(super) route: Option<&'a str>,
    pub(super) trace: Option<TraceContext>,
}

impl<'a> CompleteRow<'a> {
    pub(super) fn trace_text(&self) -> Option<String> {
        self.trace.map(|trace| trace.to_string())
    }

    /// Makes the row from a lease and from the outcome, which [`EncodedCompletion::of_outcome`]
    /// has encoded.
    pub(super) fn of(
        lease: &'a Lease,
        (answer, kept_for): &'a (Option<EncodedCompletion>, Duration),
    ) -> Self {
        let answer = answer.as_ref();
        Self {
            id: lease.claim.id.as_bytes(),
            state: match answer {
                Some(_) => state::COMPLETED,
                None => state::SEALED,
            },
            nonce: lease.claim.nonce.as_bytes(),
            token: lease.token.get().cast_signed(),
            attempt: lease.attempt.cast_signed(),
            fingerprint: lease.claim.fingerprint.as_bytes(),
            retention: micros(lease.claim.retention),
            status: answer.map(|answer| answer.status.cast_signed()),
            began_at: answer.map(|answer| answer.began_at),
            completed_at: answer.map(|answer| answer.completed_at),
            kept_for: micros(*kept_for),
            answer: answer.map(|answer| &answer.answer[..]),
            answer_length: answer.map(|answer| answer.length.cast_signed()),
            answer_sha256: answer.map(|answer| &answer.checksum[..]),
            scope: lease.claim.scope.as_bytes(),
            route: lease.claim.origin.kept_route().map(|route| &**route),
            trace: lease.claim.origin.trace,
        }
    }
}

/// Binds these fields of a row to the parameters of a statement, in this order.
macro_rules! bind {
    ($statement:expr, $row:ident: $($field:ident)*) => {
        $statement$(.bind($row.$field))*
    };
}
pub(super) use bind;
