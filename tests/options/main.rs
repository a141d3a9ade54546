//! Every option is tested by its effect on requests.

#![cfg(feature = "memory")]
#![allow(
    clippy::unchecked_time_subtraction,
    reason = "of lengths that stand here"
)]

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod config_errors;
mod counts;
mod deadlines;
mod disconnect;
mod early_wake_ups;
#[cfg(feature = "encryption")]
mod encryption;
mod event_streams;
mod fingerprint;
mod foreign_bodies;
mod giving_up;
mod in_doubt;
mod kept;
mod key_in_body;
mod keys;
mod lapses;
mod lifetimes;
mod mcp;
mod mcp_retries;
mod mcp_streams;
mod mistakes;
mod namespace_and_secrets;
mod observer;
mod origins;
mod recording;
mod rejections;
mod replay_json;
mod replays;
mod routes;
mod skip_json;
mod store_errors;
mod streams;
mod waiting;
