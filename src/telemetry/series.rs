//! The series that a layer can have, for an exporter that shows each before its first event: the
//! increase of a series that begins with its first event misses that event.

use std::time::Duration;

use http::Method;

use super::instruments::{
    lapse_labels, limit_labels, operation_labels, request_labels, store_labels,
};
use crate::limits::Resource;
use crate::observer::{
    Decision, Ending, LapseCause, LeaseLapse, OperationEnd, ReachedLimit, RequestOutcome,
    StoreCall, StoreOperation, Would,
};
use crate::record::RecordId;
use crate::rejection::RejectionCode;

/// The labels that requests of a route can have. A request that is only observed has no other outcome.
pub fn request_series<'a>(
    method: &'a Method,
    route: Option<&'a str>,
    is_observed: bool,
) -> impl Iterator<Item = [(&'static str, &'a str); 5]> {
    let executed = |rejection| RequestOutcome::Executed {
        end: None,
        rejection,
    };
    let rejected = RejectionCode::ALL.iter().copied();
    let outcomes: Vec<_> = if is_observed {
        let rejected = rejected.map(Would::Reject);
        let all = [Would::Execute, Would::Replay, Would::Pass].into_iter();
        all.chain(rejected).map(RequestOutcome::Observed).collect()
    } else {
        let mut outcomes = vec![
            executed(None),
            // An owner that was overtaken gives its client no response of its own.
            executed(Some(RejectionCode::InFlight)),
            RequestOutcome::Replayed {
                age: Duration::ZERO,
            },
            RequestOutcome::Unprotected,
        ];
        outcomes.extend(rejected.map(RequestOutcome::Rejected));
        outcomes
    };
    outcomes.into_iter().map(move |outcome| {
        request_labels(&Decision {
            outcome,
            method,
            route,
            duration: Duration::ZERO,
            record: None,
            attempt: None,
            trace: None,
        })
    })
}

/// The labels that operations can have.
pub fn operation_series() -> impl Iterator<Item = [(&'static str, &'static str); 2]> {
    let record = RecordId::from_bytes([0; 32]);
    let protected = OperationEnd::ALL.map(|end| (end, false));
    // However an observed operation ends, it has one label.
    let observed = (OperationEnd::Recorded, true);
    let all = protected.into_iter().chain([observed]);
    all.flat_map(move |(end, is_observed)| {
        [1, 2].map(|attempt| {
            operation_labels(&Ending {
                end,
                record: &record,
                attempt,
                is_observed,
            })
        })
    })
}

/// The labels that lapses of leases can have.
pub fn lapse_series() -> impl Iterator<Item = [(&'static str, &'static str); 1]> {
    let record = RecordId::from_bytes([0; 32]);
    LapseCause::ALL.into_iter().map(move |cause| {
        lapse_labels(&LeaseLapse {
            cause,
            record: &record,
            attempt: 1,
        })
    })
}

/// The labels that calls of the store can have.
pub fn store_series() -> impl Iterator<Item = [(&'static str, &'static str); 2]> {
    StoreOperation::ALL.into_iter().flat_map(|operation| {
        operation.results().map(move |result| {
            store_labels(&StoreCall {
                operation,
                result,
                duration: Duration::ZERO,
            })
        })
    })
}

/// The labels that refusals of limits can have.
pub fn limit_series() -> impl Iterator<Item = [(&'static str, &'static str); 2]> {
    Resource::ALL.into_iter().flat_map(|of| {
        [true, false].map(|by_share| {
            limit_labels(&ReachedLimit {
                option: of.option(),
                by_share,
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::StoreErrorKind;

    #[test]
    fn no_series_is_listed_twice_and_none_has_a_word_of_another() {
        let unique = |series: Vec<[(&str, &str); 2]>| {
            let count = series.len();
            assert_eq!(series.into_iter().collect::<BTreeSet<_>>().len(), count);
            count
        };
        assert_eq!(unique(operation_series().collect()), 8 * 2);
        assert_eq!(unique(limit_series().collect()), 6 * 2);
        // The answers, a time-out, the errors that every operation can have, and `too_large` of two
        // operations and `invalid_cursor` of one.
        let errors = StoreErrorKind::ALL.len() - 2;
        assert_eq!(unique(store_series().collect()), 22 + 10 * (1 + errors) + 3);
        let requests = |is_observed| request_series(&Method::POST, Some("/a"), is_observed);
        let all: BTreeSet<_> = requests(false).collect();
        assert_eq!(all.len(), requests(false).count());
        assert_eq!(all.len(), RejectionCode::ALL.len() + 4);
        let observed: BTreeSet<_> = requests(true).collect();
        assert_eq!(observed.len(), requests(true).count());
        assert_eq!(observed.len(), RejectionCode::ALL.len() + 3);
    }
}
