//! A layer in observe mode: what passes is what would have passed without a layer, and the report is
//! what protection would have done.

#![cfg(feature = "memory")]

#[path = "../support/mod.rs"]
mod support;

mod bytes;
mod frames;
mod keys_in_bodies;
mod long_runs;
mod oracle;
mod planted;
mod served;
mod slow_claims;
mod streams;
