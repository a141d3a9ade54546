//! These tests run the sidecar over TCP, between clients and upstreams that see
//! every byte.

mod alarms;
mod answers;
mod asked_again;
mod authorizer;
mod bodies;
mod browsers;
#[cfg(feature = "tls")]
mod certificates;
mod configured;
mod connections;
mod desk;
mod environment;
mod expectations;
mod exposition;
mod failures;
mod floods;
mod forwarded;
mod forwarding;
mod frames;
mod gateways;
mod grpc;
mod heads;
mod http2;
mod kept;
mod leaving;
mod limits;
#[cfg(unix)]
mod listening;
mod malformed;
#[cfg(target_os = "linux")]
mod memory;
mod metrics;
mod observed;
mod own_paths;
mod pages;
mod paths;
mod places;
mod program;
mod proxies;
#[cfg(all(
    feature = "mysql",
    feature = "postgres",
    feature = "redis",
    feature = "sqlite"
))]
mod records;
mod refusals;
mod refused;
#[cfg(all(feature = "encryption", feature = "sqlite"))]
mod rewritten;
mod said_by_the_layer;
#[cfg(all(
    feature = "mysql",
    feature = "postgres",
    feature = "redis",
    feature = "sqlite"
))]
#[path = "../../../proof/tests/support/servers.rs"]
mod servers;
mod shutdown;
mod signals;
mod stalled;
mod store;
mod streaming;
mod streams;
mod suggested;
mod support;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_files;
#[cfg(feature = "tls")]
mod tls_upstream;
mod tunnels;
mod unread;
#[cfg(all(
    feature = "mysql",
    feature = "postgres",
    feature = "redis",
    feature = "sqlite"
))]
mod unusable_store;
