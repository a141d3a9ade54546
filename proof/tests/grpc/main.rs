//! In these tests tonic's client calls a tonic server behind the layer, over TCP.

#[path = "../../../tests/support/mod.rs"]
mod support;

mod client;
mod deadlines;
mod leaving;
mod refusals;
mod replays;
mod shop;
mod uploads;
