//! Options from files.

#![cfg(all(feature = "config", feature = "memory"))]

mod damaged;
mod examples;
mod schema;
mod wrong;
