//! The client's half: keys, retries, and what is told of them. Without a
//! network first, in paused time; then over sockets, with a server that drops
//! connections and with processes that are killed.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod errors;
mod keys;
mod pauses;
mod received;
mod scripted;
mod table;
