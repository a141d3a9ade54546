//! Answers: which a retry gets, when, and which it does not.

use http::HeaderName;

use crate::contract::words::{Sentences, names, refused, retry_after};
use crate::contract::{HeaderChoice, Terms};
use crate::display::{bytes, duration, header_name, join_with};
use crate::options::{OnDisconnect, OnInFlight, OnOversize, OnStoreError};
use crate::rejection::RejectionCode;
use crate::store::OnLapsedLease;

/// What a retry gets, and for how long.
pub(in crate::contract) fn retrying(terms: &Terms) -> Sentences {
    let statuses: Vec<_> = terms
        .replay_status
        .iter()
        .map(|(from, to)| format!("{} as {}", from.as_u16(), to.as_u16()))
        .collect();
    let statuses = match &*statuses {
        [] => String::new(),
        some => format!(
            "Some answers are replayed with another status: {}.",
            join_with(some, "and")
        ),
    };
    let mark = match &terms.replayed_header {
        Some(name) => format!("`{}: true` marks a replayed answer.", header_name(name)),
        None => "A replayed answer has no mark.".to_owned(),
    };
    let headers = match &terms.record_headers {
        HeaderChoice::Only(own) if own.is_empty() => "Headers are not replayed.".to_owned(),
        HeaderChoice::Only(own) => {
            format!("Of the headers only {} are replayed.", names(own, "and"))
        }
        HeaderChoice::AllBut(own) if own.is_empty() => {
            "Headers are replayed, but for those of one connection.".to_owned()
        }
        HeaderChoice::AllBut(own) => format!(
            "Headers are replayed, but for {}, and those of one connection.",
            names(own, "and")
        ),
    };
    let time = |name: Option<&HeaderName>, says: &str| {
        let name = name.map(|name| format!("`{}` {says} (RFC 3339).", header_name(name)));
        name.unwrap_or_default()
    };
    let echo = names(&terms.header, "or");
    let echo =
        format!("The operation's answers, first and replayed, carry {echo} back as it was sent.");
    let echo = Some(echo).filter(|_| terms.echo_key).unwrap_or_default();
    let disconnect = match terms.on_disconnect {
        OnDisconnect::Finish => {
            "Closing the connection does not stop an operation that has begun: a retry gets its answer."
        }
        OnDisconnect::Cancel => {
            "Closing the connection cancels an operation that has not answered yet."
        }
    };
    vec![
        "A retry, which is the same request with the same key, gets the recorded answer: status, headers, \
         body and trailers. The operation is not executed again."
            .to_owned(),
        statuses,
        mark,
        headers,
        format!(
            "Answers are kept for {} after the operation has ended. From then on the key is unknown, and a \
             request that carries it is a new operation: stop retrying well before.",
            duration(terms.retention)
        ),
        time(
            terms.created_at_header.as_ref(),
            "says when the execution began, on first answers and on replays",
        ),
        time(
            terms.expires_at_header.as_ref(),
            "says until when the answer is kept, on replays and on most first answers",
        ),
        echo,
        disconnect.to_owned(),
    ]
}

/// What a duplicate gets meanwhile, and if the first request never ends.
pub(in crate::contract) fn running(terms: &Terms) -> Sentences {
    let in_flight = refused(terms, RejectionCode::InFlight);
    let again = match retry_after(terms.refusal(RejectionCode::InFlight)) {
        Some(seconds) => format!("`Retry-After: {seconds}` says when to send it again"),
        None => "send it again in a moment".to_owned(),
    };
    let meanwhile = match terms.on_in_flight {
        OnInFlight::Reject => {
            format!("While the first request runs, the same request {in_flight}, at once; {again}.")
        }
        OnInFlight::Wait(bound) => format!(
            "While the first request runs, the same request waits for its outcome, for up to {}, and gets \
             it. After that, or at once if too many wait already, it {in_flight}; {again}.",
            duration(bound)
        ),
    };
    let lease = duration(terms.lease);
    let broken = match terms.on_lapsed_lease {
        OnLapsedLease::Rerun if terms.forwarded => format!(
            "If the service breaks off or takes too long to answer, nobody knows whether the operation was \
             executed: it counts as running for up to {lease} more. The next attempt after that executes it \
             again, as it does if a server has died."
        ),
        OnLapsedLease::Refuse if terms.forwarded => format!(
            "If the service breaks off or takes too long to answer, or a server has died, nobody knows \
             whether the operation was executed: it counts as running for up to {lease} more. It is not \
             executed again: a retry then {}, until someone at this API has found out.",
            refused(terms, RejectionCode::OutcomeUnknown)
        ),
        OnLapsedLease::Rerun => format!(
            "An operation that fails without an answer is executed again by the next attempt; if its server \
             has died, by the next attempt after {lease}."
        ),
        OnLapsedLease::Refuse => format!(
            "If nobody knows how an operation ended, it is not executed again: a retry {}, until someone at \
             this API has found out. If its server has died, that begins {lease} later.",
            refused(terms, RejectionCode::OutcomeUnknown)
        ),
    };
    let long = duration(terms.max_operation);
    vec![
        meanwhile,
        broken,
        format!("An operation of more than {long} may be taken for one whose server has died."),
    ]
}

/// What a retry executes again, or gets no answer of.
pub(in crate::contract) fn not_kept(terms: &Terms) -> Sentences {
    let quoted = |own: &[String], conjunction: &str| {
        let own: Vec<_> = own.iter().map(|own| format!("`{own}`")).collect();
        join_with(&own, conjunction)
    };
    let types = match &*terms.skip_types {
        [] => String::new(),
        types => format!(
            "Answers of the content type {} are never recorded: a retry executes the operation again.",
            quoted(types, "or")
        ),
    };
    let headers = match &*terms.skip_headers {
        [] => String::new(),
        headers => format!(
            "Answers with the header {} are never recorded: a retry executes the operation again.",
            quoted(headers, "or")
        ),
    };
    let unavailable = refused(terms, RejectionCode::ResponseUnavailable);
    let large = bytes(terms.max_recorded_body);
    let large = match terms.oversize {
        OnOversize::Seal => format!(
            "An answer of more than {large}, a stream of events or an upgrade is given once. The operation \
             counts as done: a retry {unavailable}."
        ),
        OnOversize::Rerun => format!(
            "An answer of more than {large}, a stream of events or an upgrade is not recorded: a retry \
             executes the operation again."
        ),
    };
    let store = refused(terms, RejectionCode::StoreUnavailable);
    let store = match terms.on_store_error {
        OnStoreError::Reject => format!(
            "If it can't be told whether a key was used, because the record of keys is out of reach, a \
             request {store} and is not executed."
        ),
        OnStoreError::RunUnprotected => format!(
            "If the record of keys is out of reach, a request is executed without protection, and its answer \
             says `Idempotency-Status: unprotected`: a retry executes it again. If in doubt, it {store} \
             and is not executed."
        ),
    };
    vec![
        if terms.forwarded {
            format!(
                "What is recorded: {}, if the service gives it, and no 409 with `Retry-After`. After any \
                 other answer of the service the key is free again, and the same request with it is \
                 executed anew.",
                terms.record
            )
        } else {
            format!(
                "What is recorded: {}. After any other answer the key is free again, and the same request \
                 with it is executed anew. The application may say otherwise of a single answer.",
                terms.record
            )
        },
        types,
        headers,
        large,
        format!(
            "If an answer that would be recorded breaks off on its way, the operation counts as done: a \
             retry {unavailable}."
        ),
        store,
        "A first answer with `Idempotency-Status: unrecorded` could not be recorded in time. Keep it: a \
         retry may execute the operation again."
            .to_owned(),
    ]
}
