//! The client's half: keys, retries, and what is told of them, in paused time. What
//! needs sockets and processes is in `proof/tests/client`.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod errors;
mod keys;
mod pauses;
mod received;
mod scripted;
mod table;
