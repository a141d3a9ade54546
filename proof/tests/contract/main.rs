//! What a layer publishes of itself: that it says everything, that it is
//! valid where it has to be, and that it is true.

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
