//! `records`: what a person does with records on the command line. `docs/records.md` of this package
//! describes it.

mod arguments;
mod print;

use std::error::Error;
use std::io::{IsTerminal as _, Write as _};
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use http::Request;
use serde_json::{Value, json};
use tower_idempotency::store::{
    Completion, Forgotten, ListQuery, ListedRecord, Outcome, Record, RecordId, RecordState,
};
use tower_idempotency::{FindError, IdempotencyLayer, Records, Resolved};

pub(crate) use arguments::{Action, Command, command};
use arguments::{Change, List, What, Which};

pub(crate) const HELP: &str = "\
Shows and settles the records in the store of a sidecar.

Usage: tower-idempotency-sidecar --config FILE records ACTION [--json]

  list [--state STATE] [--older-than 10m] [--route 'POST /payments'] [--caller C | --scope DIGEST]
       [--limit N] [--cursor CURSOR]
      STATE is in-flight, lapsed, unknown, sealed, completed or released
  show ID [--body]
  show --request 'POST /payments' --key KEY --caller CALLER [--body]
  show --request 'POST /payments' --header 'Idempotency-Key: KEY' --header 'x-api-key: C' [--body]
  resolve ID --happened --status 201 [--header 'N: V'] [--body FILE] [--retention 24h] CHANGE
  resolve ID --happened --sealed [--retention 24h] CHANGE
  resolve ID --did-not-happen CHANGE
  forget ID CHANGE

CHANGE is --who WHO --why WHY --seen VERSION, as `show` prints it; --force instead of --seen, to change
whatever is there (and, with forget, also what is in flight); --yes, to be asked nothing.

Every resolve and forget is one event of the log on stderr (idempotency::audit).

Exit status: 0 done; 1 the file or the store can't be used; 2 wrong arguments; 3 no such record;
4 nothing was changed, since the record has moved on, is in flight, or is done.
";

type Failure = Box<dyn Error>;

/// There is no such record.
const ABSENT: u8 = 3;
/// The record was not changed.
const REFUSED: u8 = 4;

pub(crate) async fn run(
    layer: &IdempotencyLayer,
    json: bool,
    action: &Action,
) -> Result<ExitCode, Failure> {
    let records = layer.records();
    match action {
        Action::Help => Ok(ExitCode::SUCCESS),
        Action::List(list) => self::list(records, json, list).await,
        Action::Show { which, with_body } => show(records, json, which, *with_body).await,
        Action::Change(change) => self::change(records, json, change).await,
    }
}

async fn list(records: Records<'_>, json: bool, list: &List) -> Result<ExitCode, Failure> {
    let mut query = ListQuery::new();
    (query.state, query.older_than) = (list.state, list.older_than);
    (query.scope, query.cursor) = (list.scope, list.cursor.clone());
    if let Some(caller) = &list.caller {
        let digests = records.digests_of(caller);
        query.scope = match &*digests {
            [digest] => Some(*digest),
            [] => return Err("`--caller` is none that the scopes of this file could find".into()),
            several => {
                let several: Vec<_> = several.iter().map(print::digest).collect();
                let several = several.join(", ");
                return Err(format!(
                    "this caller has several digests: give one as --scope: {several}"
                )
                .into());
            }
        };
    }
    let mut listed: Vec<ListedRecord> = Vec::new();
    let next = loop {
        let left = list.limit - listed.len();
        let size = u16::try_from(left)
            .unwrap_or(u16::MAX)
            .min(ListQuery::MAX_LIMIT);
        query.limit = NonZeroU16::new(size).expect("the list is not full yet");
        let page = records.list(&query).await?;
        let is_meant = |record: &ListedRecord| {
            let route = record.origin.route.as_deref();
            list.route.is_none() || list.route.as_deref() == route
        };
        listed.extend(page.records.into_iter().filter(is_meant));
        if page.next.is_none() || listed.len() >= list.limit {
            break page.next;
        }
        query.cursor = page.next;
    };
    let now = SystemTime::now();
    if json {
        let listed: Vec<_> = listed
            .iter()
            .map(|record| print::listed(record, now))
            .collect();
        let next = next.map(|next| next.to_string());
        say_json(&json!({ "records": listed, "next": next }))?;
    } else {
        let mut text = print::table(&listed, now);
        if let Some(next) = next {
            text = format!("{text}\nmore: --cursor {next}\n");
        }
        crate::print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(
    records: Records<'_>,
    json: bool,
    which: &Which,
    with_body: bool,
) -> Result<ExitCode, Failure> {
    let found = match which {
        Which::Id(id) => {
            let record = records.look_up(id).await?;
            record.map(|record| (*id, record)).into_iter().collect()
        }
        Which::Key {
            method,
            uri,
            key,
            caller,
        } => records
            .find(caller, key, method, uri)
            .await
            .map_err(why_none)?,
        Which::Request(method, uri, headers) => {
            let (mut request, ()) = Request::new(()).into_parts();
            (request.method, request.uri) = (method.clone(), uri.clone());
            request.headers.extend(headers.iter().cloned());
            records.find_request(&request).await.map_err(why_none)?
        }
    };
    if found.is_empty() {
        return absent(json);
    }
    let now = SystemTime::now();
    if json {
        let found = found.iter();
        let found: Vec<_> = found
            .map(|(id, record)| print::record(id, record, with_body, now))
            .collect();
        say_json(&json!({ "records": found }))?;
    } else {
        let found = found.iter();
        let texts: Vec<_> = found
            .map(|(id, record)| print::text(id, record, with_body, now))
            .collect();
        crate::print(&texts.join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn absent(json: bool) -> Result<ExitCode, Failure> {
    if json {
        say_json(&json!({ "records": [] }))?;
    } else {
        crate::complain(
            "there is no such record: it was never made, it was released and forgotten, or its retention is over\n",
        );
    }
    Ok(ExitCode::from(ABSENT))
}

/// What is to be done about a request without a record.
fn why_none(error: FindError) -> Failure {
    let what = match &error {
        FindError::Unprotected => "see the routes and methods of the file",
        FindError::Key => "give it as --key, or as a --header of the file's key header",
        FindError::Caller => {
            "give --caller, or a --header for each header of the file's `scope`; an IP address is given as --caller"
        }
        _ => return error.into(),
    };
    format!("{error}: {what}").into()
}

async fn change(records: Records<'_>, json: bool, change: &Change) -> Result<ExitCode, Failure> {
    let outcome = outcome(&change.what)?;
    let Some(found) = records.look_up(&change.id).await? else {
        return tell(records, json, change, "absent", ABSENT).await;
    };
    if !change.yes && std::io::stdin().is_terminal() && !is_confirmed(change, &found)? {
        crate::complain("nothing was changed\n");
        return Ok(ExitCode::from(REFUSED));
    }
    let Change { id, audit, .. } = change;
    let (word, status) = match (&change.what, &outcome) {
        (What::Forget, _) => {
            let forgotten = if change.force {
                records.forget_forced(id, audit).await?
            } else {
                records.forget(id, audit).await?
            };
            forgotten_word(forgotten)
        }
        (_, Some(outcome)) => resolved_word(records.resolve(id, outcome, audit).await?),
        (_, None) => resolved_word(records.free(id, audit).await?),
    };
    tell(records, json, change, word, status).await
}

fn outcome(what: &What) -> Result<Option<Outcome>, Failure> {
    Ok(match what {
        What::Forget | What::Free => None,
        What::Sealed(retention) => Some(Outcome::Sealed {
            retention: *retention,
        }),
        What::Happened {
            status,
            headers,
            body,
            retention,
        } => {
            let body = match body {
                Some(file) => std::fs::read(file)
                    .map_err(|error| format!("can't read {}: {error}", file.display()))?,
                None => Vec::new(),
            };
            let mut completion = Completion::new(*status, body, SystemTime::now());
            completion.headers.extend(headers.iter().cloned());
            completion.retention = *retention;
            Some(Outcome::Completed(Arc::new(completion)))
        }
    })
}

fn resolved_word(resolved: Resolved) -> (&'static str, u8) {
    match resolved {
        Resolved::Recorded => ("recorded", 0),
        Resolved::Freed => ("freed", 0),
        Resolved::Absent => ("absent", ABSENT),
        Resolved::InFlight => ("in-flight", REFUSED),
        Resolved::Done => ("done", REFUSED),
        _ => ("moved", REFUSED),
    }
}

fn forgotten_word(forgotten: Forgotten) -> (&'static str, u8) {
    match forgotten {
        Forgotten::Gone => ("gone", 0),
        Forgotten::Absent => ("absent", ABSENT),
        Forgotten::InFlight => ("in-flight", REFUSED),
        _ => ("moved", REFUSED),
    }
}

/// Says what will happen, and asks.
fn is_confirmed(change: &Change, found: &Record) -> Result<bool, Failure> {
    let effect = match &change.what {
        What::Forget if matches!(found.state, RecordState::InFlight { .. }) && change.force => {
            "The record goes, and a retry executes the operation BESIDE the owner that still runs it."
        }
        What::Forget => {
            "The record goes with its outcome, and a retry executes the operation again."
        }
        What::Free => "The key is free: a retry executes the operation.",
        What::Sealed(_) => {
            "Retries are told that it is done (response-unavailable), and never execute."
        }
        What::Happened { .. } => "Retries get this response, and never execute.",
    };
    let text = print::text(&change.id, found, false, SystemTime::now());
    let mut stderr = std::io::stderr();
    write!(stderr, "{text}\n{effect}\nType yes to do it: ")?;
    stderr.flush()?;
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed)?;
    Ok(typed.trim() == "yes")
}

/// Tells what came of a change, and what the record is now.
async fn tell(
    records: Records<'_>,
    json: bool,
    change: &Change,
    word: &str,
    status: u8,
) -> Result<ExitCode, Failure> {
    let id: &RecordId = &change.id;
    // The change was made or refused: that the record can't be shown any more is no failure of it.
    let found = records.look_up(id).await.ok().flatten();
    let now = SystemTime::now();
    if json {
        let found = found.map(|record| print::record(id, &record, false, now));
        say_json(&json!({ "id": id.to_string(), "result": word, "record": found }))?;
        return Ok(ExitCode::from(status));
    }
    let said = match word {
        "recorded" => "recorded: retries get the outcome that you gave",
        "freed" => "freed: a retry executes the operation",
        "gone" => "gone: a retry executes the operation",
        "absent" => "there is no such record any more: a retry executes the operation",
        "in-flight" => {
            "nothing was changed: the operation is in flight, and its owner is alive. Wait for its end"
        }
        "done" => {
            "nothing was changed: the operation has an outcome. `records forget` removes it, and a retry then executes"
        }
        _ => {
            "nothing was changed: the record has moved on since you saw it. Decide by what it is now, and give its \
              version as --seen"
        }
    };
    let record = found.map(|record| print::text(id, &record, false, now));
    let record = record
        .map(|record| format!("\n{record}"))
        .unwrap_or_default();
    if status == 0 {
        crate::print(&format!("{said}\n{record}"))?;
    } else {
        crate::complain(&format!("{said}\n{record}"));
    }
    Ok(ExitCode::from(status))
}

fn say_json(value: &Value) -> Result<(), Failure> {
    crate::print(&format!("{value}\n"))
}
