//! Claims that handlers commit in transactions of their own (G7): the same tests
//! on each database, and what one of them alone can do.

#![allow(clippy::duplicate_mod, reason = "the same tests on each database")]

mod mysql;
mod postgres;
mod sqlite;
mod wire;
