//! Checks the settings of the server.

use std::collections::HashMap;

use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{Cmd, RedisError, Value};
use tracing::{info, warn};

use super::errors::{RIGHTS, is_forbidden, is_never_allowed, not_opened, unsuitable};
use super::link::Link;
use super::scripts::REHEARSE;
use crate::store::StoreError;

/// The oldest version whose scripts may read the clock and then write.
const OLDEST: u32 = 5;

/// Warns of each setting that loses records, on every primary.
///
/// # Errors
/// If the server can't be reached, or can't serve.
pub(super) async fn check(link: &Link) -> Result<(), StoreError> {
    let servers = match ask(link, &["INFO"]).await {
        Ok(servers) => servers,
        Err(error) if is_forbidden(&error) => {
            unchecked("INFO");
            return Ok(());
        }
        Err(error) => return Err(not_opened(error)),
    };
    for (address, answer) in &servers {
        judge(address, &lines(answer), link.is_cluster())?;
    }
    match ask(link, &["CONFIG", "GET", "appendfsync"]).await {
        Ok(servers) => {
            for (address, answer) in &servers {
                if texts(answer).iter().any(|text| text == "no") {
                    warn!(
                        server = address,
                        "`appendfsync` is `no`: a crash of the machine loses the records of some \
                         30 s, and their operations run again; set `everysec` or `always`"
                    );
                }
            }
        }
        Err(error) if is_forbidden(&error) => unchecked("CONFIG GET"),
        Err(error) => return Err(not_opened(error)),
    }
    Ok(())
}

/// The longest string that every primary takes, in bytes: `proto-max-bulk-len`, or its default where
/// the server does not say.
pub(super) async fn largest_value(link: &Link) -> usize {
    let answers = ask(link, &["CONFIG", "GET", "proto-max-bulk-len"]).await;
    let answers = answers.unwrap_or_default();
    let said = answers.iter().flat_map(|(_, answer)| texts(answer));
    let said = said.filter_map(|text| text.parse().ok());
    said.min().unwrap_or(512 << 20)
}

/// Checks that the server runs scripts, and every command in them.
///
/// # Errors
/// If a command is forbidden. A server that takes no writes at the moment is no
/// error: it can still replay.
pub(super) async fn rehearse(link: &Link, key: &str) -> Result<(), StoreError> {
    let answer = REHEARSE.call(link, key, &[]).await.map_err(not_opened)?;
    let [command, why] = &texts(&answer)[..] else {
        return Ok(());
    };
    if !is_never_allowed(why) {
        return Ok(());
    }
    if command == "PUBLISH" {
        info!("the server does not let scripts call PUBLISH: waiters look every second ({why})");
        return Ok(());
    }
    Err(unsuitable(format!(
        "scripts may not call {command} ({why}): {RIGHTS}"
    )))
}

fn unchecked(command: &str) {
    info!(
        "the server does not answer {command}: see yourself that it keeps records \
         (`appendonly yes`, `appendfsync everysec` or `always`, `maxmemory-policy noeviction`)"
    );
}

fn judge(address: &str, lines: &HashMap<&str, &str>, in_cluster: bool) -> Result<(), StoreError> {
    let get = |name| lines.get(name).copied().unwrap_or_default();
    if get("role") == "slave" {
        return Err(unsuitable(
            "the server is a replica, which takes no writes: connect to its primary",
        ));
    }
    if get("cluster_enabled") == "1" && !in_cluster {
        return Err(unsuitable(
            "the server is a node of a cluster: list nodes with commas, or write \
             redis+cluster:// instead of redis://",
        ));
    }
    let version = get("redis_version");
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    if major.is_some_and(|major: u32| major < OLDEST) {
        return Err(unsuitable(format!(
            "the server is Redis {version}: Redis {OLDEST} or later, or Valkey, is needed"
        )));
    }
    let policy = get("maxmemory_policy");
    if !policy.is_empty() && policy != "noeviction" {
        warn!(
            server = address,
            "`maxmemory-policy` is `{policy}`: at its memory limit the server drops records, also \
             of operations in flight, and they run again; set `noeviction`"
        );
    }
    if get("aof_enabled") == "0" {
        warn!(
            server = address,
            "`appendonly` is `no`: a server that crashes forgets the records since its last \
             snapshot, or all of them, and their operations run again; set `yes`"
        );
    }
    Ok(())
}

/// The replies of the server, or of every primary, by address.
async fn ask(link: &Link, words: &[&str]) -> Result<Vec<(String, Value)>, RedisError> {
    let mut command = Cmd::new();
    for word in words {
        command.arg(*word);
    }
    let Link::Cluster(cluster) = link else {
        return Ok(vec![(String::new(), link.send(&command).await?)]);
    };
    let primaries = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
    let answers = cluster.clone().route_command(command, primaries).await?;
    let Value::Map(answers) = answers else {
        return Ok(Vec::new());
    };
    let answers = answers.into_iter().map(|(address, answer)| {
        let address = texts(&address).pop().unwrap_or_default();
        Ok((address, answer.extract_error()?))
    });
    answers.collect()
}

fn lines(answer: &Value) -> HashMap<&str, &str> {
    let text = match answer {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        Value::VerbatimString { text, .. } => text,
        _ => "",
    };
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .collect()
}

/// All strings in a reply: it is a list under RESP2, and a map under RESP3.
fn texts(answer: &Value) -> Vec<String> {
    match answer {
        Value::BulkString(bytes) => vec![String::from_utf8_lossy(bytes).into_owned()],
        Value::SimpleString(text) => vec![text.clone()],
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        Value::Map(pairs) => pairs.iter().flat_map(|(_, value)| texts(value)).collect(),
        _ => Vec::new(),
    }
}
