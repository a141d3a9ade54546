//! Responses: which of them a retry gets, when, and which it does not get.

use http::HeaderName;

use crate::contract::Endpoint;
use crate::contract::sentences::{Sentences, gets, names, quoted};
use crate::display::{bytes, duration, header_name, join_with};
use crate::options::RouteOptions;
use crate::options::json::member::MemberPointer;
use crate::options::recording::{RecordRule, Statuses};
use crate::options::replay_json::Source;
use crate::options::{
    EventStreams, OnDisconnect, OnInFlight, OnLapsedLease, OnOversize, OnStoreError,
};
use crate::rejection::RejectionCode;

/// What a retry gets, and for how long.
pub(in crate::contract) fn retrying(endpoint: &Endpoint) -> Sentences {
    let options = &*endpoint.options;
    let statuses: Vec<_> = options
        .replay_status
        .iter()
        .map(|(from, to)| format!("{} as {}", from.as_u16(), to.as_u16()))
        .collect();
    let statuses = match &*statuses {
        [] => String::new(),
        some => format!(
            "Some responses are replayed with another status: {}.",
            join_with(some, "and")
        ),
    };
    let members = set_members(options);
    let mark = match &options.replayed_header {
        Some(name) => format!("`{}: true` marks a replayed response.", header_name(name)),
        None => "A replayed response has no mark.".to_owned(),
    };
    let own = &options.record_headers.names;
    let headers = match (options.record_headers.allow, own.is_empty()) {
        (true, true) => {
            "Of the headers, only those are replayed that say how the body is read.".to_owned()
        }
        (true, false) => format!(
            "Of the headers, only {} are replayed, and those that say how the body is read.",
            names(own, "and")
        ),
        (false, true) => {
            "All headers are replayed, except those of a single connection.".to_owned()
        }
        (false, false) => format!(
            "All headers are replayed, except {}, and those of a single connection.",
            names(own, "and")
        ),
    };
    let time = |name: Option<&HeaderName>, says: &str| {
        let name = name.map(|name| format!("`{}` says {says} (RFC 3339).", header_name(name)));
        name.unwrap_or_default()
    };
    let echo = if options.echo_key {
        format!(
            "The response of the operation, first and replayed, has the key in {} as it was sent.",
            names(&options.keys.headers, "or")
        )
    } else {
        String::new()
    };
    let disconnect = match options.on_disconnect {
        OnDisconnect::Finish => {
            "An operation that has begun continues when you close the connection: a retry gets its \
             response."
        }
        OnDisconnect::Cancel => {
            "Closing the connection cancels an operation that has not responded yet."
        }
    };
    vec![
        "A retry is the same request with the same key. It gets the recorded response: status, headers, \
         body and trailers. The operation is not executed again."
            .to_owned(),
        statuses,
        members,
        mark,
        headers,
        format!(
            "Responses are kept for {} after the operation has ended. After that the key is unknown, and a \
             request with this key is a new operation: stop retrying well before.",
            duration(options.retention)
        ),
        time(
            options.created_at_header.as_ref(),
            "when the execution began, on first responses and on replays",
        ),
        time(
            options.expires_at_header.as_ref(),
            "until when the response is kept, on replays and on most first responses",
        ),
        echo,
        disconnect.to_owned(),
    ]
}

/// What of a JSON response is another on a replay.
fn set_members(options: &RouteOptions) -> String {
    let members = options
        .replay_json
        .0
        .iter()
        .map(|(pointer, own)| match &own.0 {
            Source::Constant(value) => format!("`{pointer}` is `{value}`"),
            Source::Request(source) => {
                let source = source
                    .as_ref()
                    .map_or_else(String::as_str, MemberPointer::as_str);
                format!("`{pointer}` is `{source}` of the retry's own body")
            }
        });
    let members: Vec<_> = members.collect();
    match &*members {
        [] => String::new(),
        some => format!(
            "In a JSON response, and in each JSON message of an event stream, some members are set when it is \
             replayed: {}.",
            join_with(some, "and")
        ),
    }
}

/// What a duplicate gets while the first request runs, and after an operation that
/// ended without a response.
pub(in crate::contract) fn running(endpoint: &Endpoint) -> Sentences {
    let options = &*endpoint.options;
    let in_flight = gets(endpoint, RejectionCode::InFlight);
    let example = endpoint.rejection(RejectionCode::InFlight);
    let again = match example.and_then(|example| example.retry_after()) {
        Some(seconds) => format!("`Retry-After: {seconds}` says when to send it again."),
        None => "Send it again in a moment.".to_owned(),
    };
    let meanwhile = match options.on_in_flight {
        OnInFlight::Reject => {
            format!("While the first request runs, the same request {in_flight} at once. {again}")
        }
        OnInFlight::Wait(bound) => format!(
            "While the first request runs, the same request waits up to {} for the response and gets it. \
             After that time, or at once if too many requests wait already, it {in_flight}. {again}",
            duration(bound)
        ),
    };
    let lease = duration(options.lease);
    let unknown = "If an operation ends without a response, because it failed or its server died, it may \
                   have been executed or not.";
    let ended = match options.on_lapsed_lease {
        OnLapsedLease::Rerun => format!(
            "{unknown} The same request {in_flight} for up to {lease} more. The next attempt after that \
             executes the operation again."
        ),
        OnLapsedLease::Refuse => format!(
            "{unknown} The same request {in_flight} for up to {lease} more. After that it {}, and the \
             operation is not executed again until someone at this API has found out what happened.",
            gets(endpoint, RejectionCode::OutcomeUnknown)
        ),
    };
    vec![
        meanwhile,
        ended,
        format!(
            "An operation that takes more than {} may be treated like one whose server died.",
            duration(options.max_operation)
        ),
    ]
}

/// Which responses a retry does not get, and what happens instead.
pub(in crate::contract) fn not_recorded(endpoint: &Endpoint) -> Sentences {
    let options = &*endpoint.options;
    let again = "are never recorded: a retry executes the operation again.";
    let types = match &*options.skip_types {
        [] => String::new(),
        types => format!(
            "Responses with the content type {} {again}",
            quoted(types.iter(), "or")
        ),
    };
    let headers = match &*options.skip_headers {
        [] => String::new(),
        headers => format!(
            "Responses with the header {} {again}",
            quoted(headers.iter(), "or")
        ),
    };
    let members = match &*options.skip_json.0 {
        [] => String::new(),
        members => format!(
            "JSON responses with the member {} {again}",
            quoted(members.iter(), "or")
        ),
    };
    let unavailable = gets(endpoint, RejectionCode::ResponseUnavailable);
    let events = match options.event_streams {
        EventStreams::Seal => "a stream of events".to_owned(),
        EventStreams::Record => format!(
            "a stream of events that does not end within {}",
            duration(options.max_operation)
        ),
    };
    let large = format!(
        "A response of more than {}, {events} and an upgrade",
        bytes(options.max_recorded_body)
    );
    let large = match options.oversize {
        OnOversize::Seal => {
            format!(
                "{large} are sent once. The operation counts as executed: a retry {unavailable}."
            )
        }
        OnOversize::Rerun => {
            format!("{large} are not recorded: a retry executes the operation again.")
        }
    };
    let store = gets(endpoint, RejectionCode::StoreUnavailable);
    let store = match options.on_store_error {
        OnStoreError::Reject => format!(
            "If the API can't reach its records of keys, it can't find out whether a key was used. The \
             request then {store} and is not executed."
        ),
        OnStoreError::RunUnprotected => format!(
            "If the API can't reach its records of keys, the request is executed without protection. Its \
             response has `Idempotency-Status: unprotected`, and a retry executes the operation again. If \
             the API can't tell whether the key was recorded, the request {store} and is not executed."
        ),
    };
    let in_doubt = if options.in_doubt == Statuses::none() {
        String::new()
    } else {
        format!(
            "After {} the operation may still be running, so the key is not free: a retry gets what it gets \
             after an operation that ended without a response. ",
            options.in_doubt.describe()
        )
    };
    vec![
        format!(
            "These responses are recorded: {}. {in_doubt}After any other response the key is free again, \
             and the same request with this key is executed again. The application may decide otherwise \
             for a single response.",
            options.record.describe()
        ),
        types,
        headers,
        members,
        large,
        format!(
            "If a response that would be recorded breaks off on its way, the operation counts as executed: \
             a retry {unavailable}."
        ),
        store,
        "A first response with `Idempotency-Status: unrecorded` could not be recorded in time. Keep it: a \
         retry may execute the operation again."
            .to_owned(),
    ]
}
