//! Records as text and as JSON. No byte of a stored record reaches a terminal as it is.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use serde_json::{Map, Value, json};
use tower_idempotency::store::{
    Completion, ListedRecord, Record, RecordId, RecordState, ScopeDigest,
};

/// RFC 3339, in UTC.
fn time(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    Some(time.to_string())
}

/// The digits of a caller's digest, as `--scope` takes them.
pub(super) fn digest(scope: &ScopeDigest) -> String {
    RecordId::from_bytes(*scope.as_bytes()).to_string()
}

/// How long ago a time was, as a person says it.
fn age(time: SystemTime, now: SystemTime) -> String {
    match now.duration_since(time) {
        Ok(age) => length(age),
        Err(ahead) => format!("in {}", length(ahead.duration())),
    }
}

fn length(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn seconds(time: Option<SystemTime>, now: SystemTime) -> Option<f64> {
    let age = now.duration_since(time?).ok()?;
    Some(age.as_secs_f64())
}

/// A record of a list, in JSON.
pub(super) fn listed(record: &ListedRecord, now: SystemTime) -> Value {
    json!({
        "id": record.id.to_string(),
        "state": record.state.as_str(),
        "version": record.version().to_string(),
        "token": record.token.get(),
        "attempt": record.attempt,
        "scope": record.scope.as_ref().map(digest),
        "route": record.origin.route.as_deref(),
        "trace": record.origin.trace.map(|trace| trace.to_string()),
        "claimed_at": record.claimed_at.and_then(time),
        "age_seconds": seconds(record.claimed_at, now),
        "completed_at": record.completed_at.and_then(time),
        "expires_at": record.expires_at.and_then(time),
        "status": record.status.map(|status| status.as_u16()),
    })
}

/// A table for people, a line a record.
pub(super) fn table(records: &[ListedRecord], now: SystemTime) -> String {
    if records.is_empty() {
        return "no records\n".to_owned();
    }
    let mut text = format!(
        "{:<64}  {:<9}  {:>5}  {:>6}  {:<24}  {:>7}  {}\n",
        "ID", "STATE", "AGE", "STATUS", "VERSION", "ATTEMPT", "ROUTE"
    );
    for record in records {
        let age = record
            .claimed_at
            .map_or("-".to_owned(), |time| age(time, now));
        let status = record
            .status
            .map_or("-".to_owned(), |status| status.as_str().to_owned());
        let route = record.origin.route.as_deref().unwrap_or("-");
        let _ = writeln!(
            text,
            "{:<64}  {:<9}  {age:>5}  {status:>6}  {:<24}  {:>7}  {}",
            record.id,
            record.state.as_str(),
            record.version().to_string(),
            record.attempt,
            route.escape_debug()
        );
    }
    text
}

/// The state of a record that was looked up. A look-up does not tell a lease that has lapsed from an owner that
/// said it does not know.
fn state(state: &RecordState) -> &'static str {
    match state {
        RecordState::InFlight { .. } => "in-flight",
        RecordState::Lapsed { .. } => "lapsed",
        RecordState::Completed { .. } => "completed",
        RecordState::Sealed { .. } => "sealed",
        _ => "released",
    }
}

/// How long a lease still lasts; `None` if it does not lapse by time.
fn lapses_in(record: &Record) -> Option<Duration> {
    match record.state {
        RecordState::InFlight { lapses_in, .. } => {
            Some(lapses_in).filter(|left| *left < Duration::MAX)
        }
        _ => None,
    }
}

/// A record that was looked up, in JSON.
pub(super) fn record(id: &RecordId, record: &Record, with_body: bool, now: SystemTime) -> Value {
    let response = match &record.state {
        RecordState::Completed { completion, .. } => Some(response(completion, with_body)),
        _ => None,
    };
    json!({
        "id": id.to_string(),
        "state": state(&record.state),
        "version": record.version().to_string(),
        "token": record.token.get(),
        "attempt": record.attempt,
        "scope": record.scope.as_ref().map(digest),
        "route": record.origin.route.as_deref(),
        "trace": record.origin.trace.map(|trace| trace.to_string()),
        "claimed_at": record.claimed_at.and_then(time),
        "age_seconds": seconds(record.claimed_at, now),
        "lapses_in_seconds": lapses_in(record).map(|left| left.as_secs_f64()),
        "response": response,
    })
}

fn response(completion: &Completion, with_body: bool) -> Value {
    let mut response = Map::new();
    let mut put = |name: &str, value| response.insert(name.to_owned(), value);
    put("status", json!(completion.status.as_u16()));
    put("body_length", json!(completion.body.len()));
    put("began_at", json!(time(completion.began_at)));
    put("completed_at", json!(time(completion.completed_at)));
    put("kept_until", json!(completion.kept_until().and_then(time)));
    if with_body {
        put("headers", fields(&completion.headers));
        put(
            "trailers",
            completion.trailers.as_ref().map_or(Value::Null, fields),
        );
        match str::from_utf8(&completion.body) {
            Ok(text) => put("body", json!(text)),
            Err(_) => put(
                "body_base64",
                json!(BASE64_STANDARD.encode(&completion.body)),
            ),
        };
    }
    Value::Object(response)
}

/// Pairs of name and value, since a name may come more than once.
fn fields(fields: &HeaderMap) -> Value {
    let pairs = fields
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]));
    Value::Array(pairs.collect())
}

/// A record that was looked up, for people.
pub(super) fn text(id: &RecordId, record: &Record, with_body: bool, now: SystemTime) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<9}  {value}");
    };
    line("id", id.to_string());
    let meaning = match &record.state {
        RecordState::InFlight { .. } => match lapses_in(record) {
            Some(left) => format!(
                ": its owner runs it; the lease lapses in {} unless it is renewed",
                length(left)
            ),
            None => ": its owner runs it".to_owned(),
        },
        RecordState::Lapsed { .. } => {
            ": nobody knows the outcome. Find out, then `records resolve`".to_owned()
        }
        RecordState::Sealed { .. } => ": done, and the response was not kept".to_owned(),
        RecordState::Completed { .. } => String::new(),
        _ => ": a retry executes".to_owned(),
    };
    line("state", format!("{}{meaning}", state(&record.state)));
    line("version", record.version().to_string());
    line("attempt", record.attempt.to_string());
    if let Some(at) = record.claimed_at {
        let at_text = time(at).unwrap_or_default();
        line("began", format!("{at_text} ({} ago)", age(at, now)));
    }
    if let Some(route) = &record.origin.route {
        line("route", route.escape_debug().to_string());
    }
    if let Some(trace) = &record.origin.trace {
        line("trace", trace.to_string());
    }
    if let Some(scope) = &record.scope {
        line("scope", digest(scope));
    }
    if let RecordState::Completed { completion, .. } = &record.state {
        let ended = time(completion.completed_at).unwrap_or_default();
        line(
            "response",
            format!(
                "{}, {} bytes",
                completion.status.as_u16(),
                completion.body.len()
            ),
        );
        line(
            "ended",
            format!("{ended} ({} ago)", age(completion.completed_at, now)),
        );
        if with_body {
            text += &body_text(completion);
        } else {
            let _ = writeln!(text, "           --body shows its headers and its body");
        }
    }
    text
}

fn body_text(completion: &Completion) -> String {
    let mut text = String::from("\n");
    for (name, value) in &completion.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let _ = writeln!(text, "{name}: {}", shown(&value));
    }
    match str::from_utf8(&completion.body) {
        Ok(body) => {
            let lines: Vec<_> = body.lines().map(shown).collect();
            let _ = writeln!(text, "\n{}", lines.join("\n"));
        }
        Err(_) => {
            let _ = writeln!(
                text,
                "\n({} bytes that are no text: --json has them)",
                completion.body.len()
            );
        }
    }
    for (name, value) in completion.trailers.iter().flatten() {
        let _ = writeln!(
            text,
            "{name}: {}",
            shown(&String::from_utf8_lossy(value.as_bytes()))
        );
    }
    text
}

/// A line without what could move a cursor or change the order of a text.
fn shown(line: &str) -> String {
    let mut out = String::new();
    for char in line.chars() {
        let debug = char.escape_debug();
        match char {
            '\'' | '"' | '\\' | '\t' => out.push(char),
            _ if debug.len() == 1 => out.push(char),
            _ => out.extend(debug),
        }
    }
    out
}
