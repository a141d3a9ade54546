//! Listing: a step of `SCAN` on one server, and the fields of the records that it names. A page ends
//! where its step does: the same step, taken later, may reach further, and what lies between would be
//! in no page.
//!
//! A set of the records in each state would cost every claim and every completion a write, each
//! record a hundred bytes more, and could not forget a record with its expiry.

use std::collections::BTreeMap;

use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{Cmd, Pipeline, RedisError, RedisResult, Value, cmd};

use super::errors::failed;
use super::keys::Keys;
use super::link::Link;
use super::scripts::{digits, origin_columns};
use crate::store::encoding::unreadable;
use crate::store::listed_row::{ListedRow, READ, fits};
use crate::store::row::state;
use crate::store::{Cursor, ListQuery, ListedRecord, RecordPage, StoreError};

const FIELDS: [&str; 9] = [
    "format",
    "state",
    "token",
    "attempt",
    "lapses_at",
    "status",
    "completed_at",
    "scope",
    "origin",
];

/// Where a page begins.
struct Position {
    /// A slot of the node of a cluster that is being read. Nodes are read in the order of their
    /// lowest slots.
    slot: u16,
    /// The cursor of `SCAN`.
    scan: u64,
    /// The records of one bucket may be more than a page has. The next page then repeats the step to
    /// this cursor, and leaves out the records up to that one. Zeros: the page before ended where its
    /// step did.
    until: u64,
    after: [u8; 32],
}

impl Position {
    fn of(query: &ListQuery) -> Result<Self, StoreError> {
        let Some(cursor) = &query.cursor else {
            return Ok(Self::at(0, 0));
        };
        let read = |bytes: &[u8]| {
            let (slot, rest) = bytes.split_first_chunk()?;
            let (scan, rest) = rest.split_first_chunk()?;
            let (until, after) = rest.split_first_chunk()?;
            let position = Self {
                slot: u16::from_be_bytes(*slot),
                scan: u64::from_be_bytes(*scan),
                until: u64::from_be_bytes(*until),
                after: after.try_into().ok()?,
            };
            Some(position).filter(|position| position.slot < SLOTS)
        };
        read(cursor.as_bytes()).ok_or_else(StoreError::invalid_cursor)
    }

    fn at(slot: u16, scan: u64) -> Self {
        Self {
            slot,
            scan,
            until: 0,
            after: [0; 32],
        }
    }

    fn is_within_a_step(&self) -> bool {
        self.after != [0; 32]
    }

    fn cursor(&self) -> Option<Cursor> {
        let (slot, scan) = (self.slot.to_be_bytes(), self.scan.to_be_bytes());
        let until = self.until.to_be_bytes();
        Cursor::from_bytes([&slot[..], &scan, &until, &self.after].concat())
    }
}

/// The number of slots of a cluster.
const SLOTS: u16 = 1 << 14;

pub(super) async fn list(
    link: &Link,
    keys: &Keys,
    query: &ListQuery,
) -> Result<RecordPage, StoreError> {
    let at = Position::of(query)?;
    let size = usize::from(query.page_size());
    let mut count = if at.is_within_a_step() {
        1
    } else {
        usize::from(READ)
    };
    loop {
        let (mut records, next) = step(link, keys, query, &at, count).await?;
        let found = records.len();
        if found > size && count > 1 {
            // A smaller step, which is likely to have no more than fit.
            count = (count * size * 3 / (found * 4)).max(1);
            continue;
        }
        records.truncate(size);
        let next = match (records.last(), next) {
            (Some(last), until) if found > size => Some(Position {
                until,
                after: *last.id.as_bytes(),
                ..at
            }),
            (_, 0) => {
                let next = next_node(link, at.slot).await;
                next.map_err(|error| failed(error, link.is_cluster()))?
            }
            (_, scan) => Some(Position::at(at.slot, scan)),
        };
        let next = next.and_then(|next| next.cursor());
        return Ok(RecordPage::new(records, next));
    }
}

/// One step of `SCAN` through about this many keys: the records that fit, in the order of their ids,
/// and the cursor of the next step.
async fn step(
    link: &Link,
    keys: &Keys,
    query: &ListQuery,
    at: &Position,
    count: usize,
) -> Result<(Vec<ListedRecord>, u64), StoreError> {
    let failed = |error: RedisError| failed(error, link.is_cluster());
    let mut scan = cmd("SCAN");
    scan.arg(at.scan).arg("MATCH").arg(keys.pattern());
    scan.arg("COUNT").arg(count).arg("TYPE").arg("hash");
    let scanned = send_to(link, at.slot, scan).await.map_err(failed)?;
    let (next, found): (u64, Vec<Vec<u8>>) =
        redis::from_redis_value(scanned).map_err(|error| unreadable(error.to_string()))?;
    // A step that ends elsewhere is another one: to name a record twice is better than to miss one.
    let is_repeated = at.is_within_a_step() && at.until == next;
    let ids: BTreeMap<[u8; 32], String> = found
        .into_iter()
        .filter_map(|key| {
            let key = String::from_utf8(key).ok()?;
            Some((*keys.id(&key)?.as_bytes(), key))
        })
        .filter(|(id, _)| !is_repeated || *id > at.after)
        .collect();
    let mut pipeline = Pipeline::with_capacity(1 + 2 * ids.len());
    pipeline.cmd("TIME");
    for key in ids.values() {
        pipeline.cmd("HMGET").arg(key).arg(&FIELDS);
        pipeline.cmd("PTTL").arg(key);
    }
    let mut answers = pipe_to(link, at.slot, pipeline)
        .await
        .map_err(failed)?
        .into_iter();
    let now = answers.next().and_then(clock);
    let now = now.ok_or_else(|| unreadable("the server did not say its time"))?;
    let mut records = Vec::new();
    for id in ids.into_keys() {
        let (Some(fields), Some(left)) = (answers.next(), answers.next()) else {
            break;
        };
        let record = row(id, fields, left, now).and_then(|row| row.listed(now));
        records.extend(record.filter(|record| fits(query, record, now)));
    }
    Ok((records, next))
}

/// The fields of one record; `None` if it is gone since.
fn row(id: [u8; 32], fields: Value, left: Value, now: i64) -> Option<ListedRow> {
    let Value::Array(fields) = fields else {
        return None;
    };
    let mut fields = fields.into_iter().map(|field| match field {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    });
    let mut next = || fields.next().flatten();
    let number = |field: Option<Vec<u8>>| digits(&field?);
    let (format, kept) = (number(next())?, number(next())?);
    let (token, attempt) = (number(next())?, number(next())?);
    let lapses_in = number(next()).map_or(0, |at| at.saturating_sub(now));
    let (status, completed_at) = (number(next()), number(next()));
    let origin = origin_columns(next(), next(), token);
    let is_completed = kept == state::COMPLETED;
    Some(ListedRow {
        id: id.to_vec(),
        format,
        state: kept,
        token,
        attempt,
        lapses_in,
        expires_in: match left {
            // In milliseconds; below zero: the record has no end.
            Value::Int(millis) if millis >= 0 => Some(millis.saturating_mul(1000).max(1)),
            _ => None,
        },
        // A takeover leaves the fields of an answer that expired where they are.
        status: status.filter(|_| is_completed),
        completed_at: completed_at.filter(|_| is_completed),
        origin,
    })
}

fn clock(answer: Value) -> Option<i64> {
    let (seconds, micros): (i64, i64) = redis::from_redis_value(answer).ok()?;
    Some(seconds * 1_000_000 + micros)
}

async fn send_to(link: &Link, slot: u16, command: Cmd) -> RedisResult<Value> {
    match link {
        Link::Server(_) => link.send(&command).await,
        Link::Cluster(cluster) => {
            let route = RoutingInfo::SingleNode(node(slot));
            cluster.clone().route_command(command, route).await
        }
    }
}

async fn pipe_to(link: &Link, slot: u16, pipeline: Pipeline) -> RedisResult<Vec<Value>> {
    match link {
        Link::Server(server) => server.send_all(&pipeline).await,
        Link::Cluster(cluster) => {
            let answers = pipeline.len();
            let mut cluster = cluster.clone();
            cluster
                .route_pipeline(pipeline, 0, answers, node(slot))
                .await
        }
    }
}

fn node(slot: u16) -> SingleNodeRoutingInfo {
    SingleNodeRoutingInfo::SpecificNode(Route::new(slot, SlotAddr::Master))
}

/// Where the next node begins: the one whose lowest slot follows that of the node of this slot.
async fn next_node(link: &Link, slot: u16) -> RedisResult<Option<Position>> {
    if !link.is_cluster() {
        return Ok(None);
    }
    let mut slots = cmd("CLUSTER");
    slots.arg("SLOTS");
    let Value::Array(ranges) = send_to(link, slot, slots).await? else {
        return Ok(None);
    };
    let mut lowest: BTreeMap<Vec<u8>, u16> = BTreeMap::new();
    let mut own = None;
    for range in ranges {
        let Some((first, last, primary)) = range_of(range) else {
            continue;
        };
        if (first..=last).contains(&slot) {
            own = Some(primary.clone());
        }
        let low = lowest.entry(primary).or_insert(first);
        *low = first.min(*low);
    }
    let own = own
        .and_then(|own| lowest.get(&own).copied())
        .unwrap_or(slot);
    let next = lowest.into_values().filter(|low| *low > own).min();
    Ok(next.map(|slot| Position::at(slot, 0)))
}

/// A range of slots, and the id of its primary.
fn range_of(range: Value) -> Option<(u16, u16, Vec<u8>)> {
    let Value::Array(range) = range else {
        return None;
    };
    let [
        Value::Int(first),
        Value::Int(last),
        Value::Array(primary),
        ..,
    ] = &range[..]
    else {
        return None;
    };
    let Some(Value::BulkString(id)) = primary.get(2) else {
        return None;
    };
    Some((
        u16::try_from(*first).ok()?,
        u16::try_from(*last).ok()?,
        id.clone(),
    ))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    #[test]
    fn a_cursor_is_that_of_this_store_or_an_error() {
        let position = Position {
            slot: 5461,
            scan: u64::MAX,
            until: 9,
            after: [7; 32],
        };
        let query = ListQuery::new().limit(NonZeroU16::MIN);
        let again = Position::of(&query.clone().cursor(position.cursor().unwrap())).unwrap();
        assert_eq!(
            (again.slot, again.scan, again.until, again.after),
            (5461, u64::MAX, 9, [7; 32])
        );
        for wrong in [&[][..], &[0; 49], &[0; 51], &[0xff; 50]] {
            let query = query.clone().cursor(Cursor::from_bytes(wrong).unwrap());
            assert!(Position::of(&query).is_err());
        }
    }
}
