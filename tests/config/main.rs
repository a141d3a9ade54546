//! Options from files.

#![cfg(all(feature = "config", feature = "memory"))]

mod examples;
