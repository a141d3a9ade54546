//! A tonic server behind the layer on TCP, and tonic's client.

#[path = "../../../tests/support/mod.rs"]
mod support;

mod client;
mod leaving;
mod refusals;
mod replays;
mod shop;
mod uploads;
