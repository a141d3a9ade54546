//! One test app for each place in which the layer can be used: axum,
//! tower-http's and tower's layers on both sides, a hyper server, a
//! `service_fn`.

#![cfg(feature = "memory")]

mod axum;
#[cfg(feature = "axum")]
mod axum_at_once;
#[cfg(feature = "axum")]
mod axum_observed;
mod common;
mod hyper;
mod record_ids;
mod service_fn;
mod tower;
mod tower_http;
