//! These tests run the sidecar over TCP, between clients and upstreams that see
//! every byte.

mod asked_again;
mod authorizer;
mod failures;
mod forwarded;
mod forwarding;
mod gateways;
mod http2;
mod limits;
mod own_paths;
mod pages;
mod paths;
mod program;
mod refusals;
mod said_by_the_layer;
mod shutdown;
mod stalled;
mod store;
mod streaming;
mod support;
mod tunnels;
