//! The client's half: keys, retries, and what is told of them. Without a
//! network first, in paused time; then over sockets, with a server that drops
//! connections and with processes that are killed.

#![allow(clippy::duplicate_mod, reason = "each example has a shop of its own")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../../examples/client_hyper.rs"]
#[allow(dead_code, reason = "an example has a `main`")]
mod client_hyper;
#[path = "../../examples/client_reqwest.rs"]
#[allow(dead_code, reason = "an example has a `main`")]
mod client_reqwest;

mod answers;
mod errors;
mod keys;
mod killed;
mod languages;
mod pauses;
mod received;
mod scripted;
mod shop;
mod sockets;
mod table;
