//! The client: keys, retries, and what the client reports about them, in paused
//! time. Tests that need sockets and processes are in `proof/tests/client`.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod errors;
mod keys;
mod pauses;
mod received;
mod scripted;
mod table;
