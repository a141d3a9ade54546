//! In these tests handlers commit claims in transactions of their own (G7). The
//! same tests run on each database, and some tests run on one database only.

#![allow(clippy::duplicate_mod, reason = "the same tests on each database")]

mod mysql;
mod postgres;
mod sqlite;
mod wire;
