//! One test app for each place that the layer can stand in: axum, tower-http's
//! and tower's layers on both sides, a raw hyper server, a `service_fn`.

#![cfg(feature = "memory")]

mod axum;
mod common;
mod hyper;
mod record_ids;
mod service_fn;
mod tower;
mod tower_http;
