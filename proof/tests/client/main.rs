//! These tests run the client over sockets: with hyper and with reqwest, against a
//! server that drops connections, with processes that are killed, and in other
//! languages.

#![allow(clippy::duplicate_mod, reason = "each example has a shop of its own")]

#[path = "../../../examples/client_hyper.rs"]
#[allow(dead_code, reason = "an example has a `main`")]
mod client_hyper;
#[path = "../../examples/client_reqwest.rs"]
#[allow(dead_code, reason = "an example has a `main`")]
mod client_reqwest;

mod killed;
mod languages;
mod shop;
mod sockets;
