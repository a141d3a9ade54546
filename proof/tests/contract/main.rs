//! These tests check that what a layer publishes about itself is complete, valid
//! and true.

#[path = "../../../tests/support/mod.rs"]
mod support;

mod answers;
mod client;
mod example;
mod keys;
mod layers;
mod openapi;
mod options;
mod page;
mod truth;
