//! These tests run the stores that several processes can share, against real
//! servers. The servers come from `scripts/servers`, which `scripts/test` starts.

mod any;
mod listing;
#[path = "../../../tests/support/log.rs"]
mod log;
mod mysql;
#[path = "../support/nobody.rs"]
mod nobody;
mod once;
mod payments;
mod postgres;
mod redis;
mod rewritten;
#[path = "../support/servers.rs"]
mod servers;
mod sqlite;
mod steering;
mod steps;
