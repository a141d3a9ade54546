//! What the arguments after `records` ask for.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use lexopt::ValueExt as _;
use lexopt::prelude::{Long, Short, Value};
use tower_idempotency::Audit;
use tower_idempotency::store::{Cursor, ListedState, RecordId, RecordVersion, ScopeDigest};

pub(crate) struct Command {
    pub(crate) config: Option<PathBuf>,
    pub(crate) json: bool,
    pub(crate) action: Action,
}

pub(crate) enum Action {
    Help,
    List(List),
    Show { which: Which, with_body: bool },
    Change(Change),
}

pub(crate) struct List {
    pub(crate) state: Option<ListedState>,
    pub(crate) older_than: Option<Duration>,
    pub(crate) route: Option<String>,
    pub(crate) caller: Option<String>,
    pub(crate) scope: Option<ScopeDigest>,
    pub(crate) limit: usize,
    pub(crate) cursor: Option<Cursor>,
}

/// The record that a command is about, as its arguments name it.
pub(crate) enum Which {
    Id(RecordId),
    /// The record of a request with these headers, among them its key and its caller.
    Request(Method, Uri, Vec<(HeaderName, HeaderValue)>),
    /// The record of a caller's key.
    Key {
        method: Method,
        uri: Uri,
        key: String,
        caller: String,
    },
}

pub(crate) struct Change {
    pub(crate) id: RecordId,
    pub(crate) what: What,
    pub(crate) audit: Audit,
    pub(crate) force: bool,
    pub(crate) yes: bool,
}

pub(crate) enum What {
    Forget,
    Free,
    Sealed(Duration),
    Happened {
        status: StatusCode,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Option<PathBuf>,
        retention: Duration,
    },
}

/// Each option, as it was given.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option without a value"
)]
struct Given {
    config: Option<PathBuf>,
    help: bool,
    json: bool,
    state: Option<ListedState>,
    older_than: Option<Duration>,
    route: Option<String>,
    caller: Option<String>,
    scope: Option<ScopeDigest>,
    limit: Option<usize>,
    cursor: Option<Cursor>,
    id: Option<RecordId>,
    request: Option<(Method, Uri)>,
    key: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Option<PathBuf>,
    with_body: bool,
    happened: bool,
    did_not_happen: bool,
    sealed: bool,
    status: Option<StatusCode>,
    retention: Option<Duration>,
    who: Option<String>,
    why: Option<String>,
    seen: Option<RecordVersion>,
    force: bool,
    yes: bool,
}

/// The options of each action, beside those of all.
const OF_ALL: &[&str] = &["config", "help", "json"];
const LIST: &[&str] = &[
    "state",
    "older-than",
    "route",
    "caller",
    "scope",
    "limit",
    "cursor",
];
const SHOW: &[&str] = &["request", "key", "caller", "header", "body"];
const RESOLVE: &[&str] = &[
    "happened",
    "did-not-happen",
    "sealed",
    "status",
    "header",
    "body",
    "retention",
    "who",
    "why",
    "seen",
    "force",
    "yes",
];
const FORGET: &[&str] = &["who", "why", "seen", "force", "yes"];

type Parsed<T> = Result<T, lexopt::Error>;

/// Reads what follows `records`. `config` is what came before.
pub(crate) fn command(mut arguments: lexopt::Parser, config: Option<PathBuf>) -> Parsed<Command> {
    let mut given = Given {
        config,
        ..Given::default()
    };
    let (action, allowed) = match arguments.next()? {
        Some(Value(action)) => match &*action.string()? {
            "list" => ("list", LIST),
            "show" => ("show", SHOW),
            "resolve" => ("resolve", RESOLVE),
            "forget" => ("forget", FORGET),
            other => {
                return Err(
                    format!("`records {other}` is none of list, show, resolve, forget").into(),
                );
            }
        },
        Some(Long("help") | Short('h')) => ("help", OF_ALL),
        _ => return Err("`records` needs one of list, show, resolve, forget".into()),
    };
    given.help = action == "help";
    while let Some(argument) = arguments.next()? {
        let name = match argument {
            Long(name) => name.to_owned(),
            Short('c') => "config".to_owned(),
            Short('h') => "help".to_owned(),
            Value(id) if action != "list" && given.id.is_none() => {
                given.id = Some(id.parse()?);
                continue;
            }
            other => return Err(other.unexpected()),
        };
        if !OF_ALL.contains(&&*name) && !allowed.contains(&&*name) {
            return Err(format!("`records {action}` has no option `--{name}`").into());
        }
        given.read(&name, action, &mut arguments)?;
    }
    let (config, json) = (given.config.take(), given.json);
    let action = if given.help {
        Action::Help
    } else {
        match action {
            "list" => Action::List(given.list()?),
            "show" => {
                let with_body = given.with_body;
                let which = given.which()?;
                Action::Show { which, with_body }
            }
            "resolve" => {
                let what = given.outcome()?;
                Action::Change(given.change(what)?)
            }
            _ => Action::Change(given.change(What::Forget)?),
        }
    };
    Ok(Command {
        config,
        json,
        action,
    })
}

impl Given {
    fn read(&mut self, name: &str, action: &str, arguments: &mut lexopt::Parser) -> Parsed<()> {
        match name {
            "help" => self.help = true,
            "json" => self.json = true,
            "force" => self.force = true,
            "yes" => self.yes = true,
            "happened" => self.happened = true,
            "did-not-happen" => self.did_not_happen = true,
            "sealed" => self.sealed = true,
            "body" if action == "show" => self.with_body = true,
            "body" => self.body = Some(arguments.value()?.into()),
            "config" => self.config = Some(arguments.value()?.into()),
            "state" => self.state = Some(arguments.value()?.parse()?),
            "older-than" => self.older_than = Some(duration(name, arguments.value()?)?),
            "retention" => self.retention = Some(duration(name, arguments.value()?)?),
            "route" => self.route = Some(arguments.value()?.string()?),
            "caller" => self.caller = Some(arguments.value()?.string()?),
            "key" => self.key = Some(arguments.value()?.string()?),
            "who" => self.who = Some(arguments.value()?.string()?),
            "why" => self.why = Some(arguments.value()?.string()?),
            "seen" => self.seen = Some(arguments.value()?.parse()?),
            "cursor" => self.cursor = Some(arguments.value()?.parse()?),
            "status" => self.status = Some(arguments.value()?.parse()?),
            "limit" => {
                let limit = arguments.value()?.parse()?;
                if limit == 0 {
                    return Err("`--limit` is at least 1".into());
                }
                self.limit = Some(limit);
            }
            "scope" => {
                let id: RecordId = arguments.value()?.parse()?;
                self.scope = Some(ScopeDigest::from_bytes(*id.as_bytes()));
            }
            "request" => self.request = Some(request(&arguments.value()?.string()?)?),
            "header" => self.headers.push(header(&arguments.value()?.string()?)?),
            other => unreachable!("`{other}` is not listed"),
        }
        Ok(())
    }

    fn list(self) -> Parsed<List> {
        if self.scope.is_some() && self.caller.is_some() {
            return Err("`--scope` and `--caller` both say whose records to list: give one".into());
        }
        Ok(List {
            state: self.state,
            older_than: self.older_than,
            route: self.route,
            caller: self.caller,
            scope: self.scope,
            limit: self.limit.unwrap_or(100),
            cursor: self.cursor,
        })
    }

    fn which(self) -> Parsed<Which> {
        match (self.id, self.request, self.key, self.caller) {
            (Some(id), None, None, None) if self.headers.is_empty() => Ok(Which::Id(id)),
            (None, Some((method, uri)), Some(key), Some(caller)) if self.headers.is_empty() => {
                Ok(Which::Key {
                    method,
                    uri,
                    key,
                    caller,
                })
            }
            (None, Some((method, uri)), None, None) if !self.headers.is_empty() => {
                Ok(Which::Request(method, uri, self.headers))
            }
            _ => Err("say which record: its ID; or --request 'POST /path' with --key and --caller; or \
                      --request with a --header for the key and for each header that tells the caller"
                .into()),
        }
    }

    fn outcome(&mut self) -> Parsed<What> {
        let retention = self.retention.unwrap_or(Duration::from_hours(24));
        let has_response = self.status.is_some() || self.body.is_some() || !self.headers.is_empty();
        match (self.happened, self.did_not_happen, self.sealed, self.status) {
            (true, false, false, Some(status)) => Ok(What::Happened {
                status,
                headers: std::mem::take(&mut self.headers),
                body: self.body.take(),
                retention,
            }),
            (true, false, true, None) if !has_response => Ok(What::Sealed(retention)),
            (false, true, false, None) if !has_response && self.retention.is_none() => {
                Ok(What::Free)
            }
            _ => Err("say what became of the operation: --happened with --status (and --header, --body) \
                      for the response that retries get; --happened --sealed if there is none to give; or \
                      --did-not-happen, and a retry executes"
                .into()),
        }
    }

    fn change(self, what: What) -> Parsed<Change> {
        let id = self
            .id
            .ok_or("say which record: its ID, as `records list` and `show` print it")?;
        let who = self
            .who
            .ok_or("`--who` is missing: who decides this? The log gets it")?;
        let why = self
            .why
            .ok_or("`--why` is missing: what is known, such as a ticket? The log gets it")?;
        let mut audit = Audit::new(who, why).map_err(|error| error.to_string())?;
        match self.seen {
            Some(seen) => audit = audit.seen(seen),
            None if self.force => {}
            None => {
                return Err("`--seen` is missing: the version that `records show` prints, so that a record \
                            that has moved on since is not changed (or --force, to change whatever is there)"
                    .into());
            }
        }
        Ok(Change {
            id,
            what,
            audit,
            force: self.force,
            yes: self.yes,
        })
    }
}

/// A length of time, such as `90s`, `10m`, `3h` or `2d`.
fn duration(name: &str, value: OsString) -> Parsed<Duration> {
    let text = value.string()?;
    let seconds = || {
        let unit = match text.chars().last()? {
            's' => 1,
            'm' => 60,
            'h' => 60 * 60,
            'd' => 24 * 60 * 60,
            _ => return None,
        };
        let number: u64 = text[..text.len() - 1].parse().ok()?;
        number.checked_mul(unit)
    };
    let seconds = seconds().ok_or_else(|| {
        format!(
            "`--{name} {}` is no length of time, such as 90s, 10m, 3h or 2d",
            text.escape_debug()
        )
    })?;
    Ok(Duration::from_secs(seconds))
}

/// `POST /payments`.
fn request(text: &str) -> Parsed<(Method, Uri)> {
    let parts = text.split_once(' ').and_then(|(method, target)| {
        let uri: Uri = target.trim().parse().ok()?;
        Some((method.parse().ok()?, uri))
    });
    parts.ok_or_else(|| {
        format!(
            "`--request {}` is not a method and a path, such as 'POST /payments'",
            text.escape_debug()
        )
        .into()
    })
}

/// `Name: value`.
fn header(text: &str) -> Parsed<(HeaderName, HeaderValue)> {
    let parts = text
        .split_once(':')
        .and_then(|(name, value)| Some((name.trim().parse().ok()?, value.trim().parse().ok()?)));
    // The value may be a credential, so that no message repeats it.
    parts.ok_or_else(|| {
        "a `--header` is not a name, a colon and a value, such as 'x-api-key: K'".into()
    })
}
