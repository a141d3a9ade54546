//! The attacks. Each runs until its runtime ends, from the address 127.0.0.2 and with a
//! credential of its own.

mod connection;
mod connections;
mod json;
mod operations;
mod streams;
mod unread;
mod uploads;

pub(crate) use connection::Attacker;

use std::pin::Pin;

type Run = fn(Attacker) -> Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// The attack takes the processor's time.
    pub(crate) cpu: bool,
    /// The sidecar speaks HTTP/2 to the upstream, which allows 100 streams.
    pub(crate) upstream_http2: bool,
    /// The route of the sidecar's file that the attack uses, or nothing.
    pub(crate) route: &'static str,
    pub(crate) run: Run,
}

/// An attack on the defaults.
const USUAL: Attack = Attack {
    name: "",
    about: "",
    cpu: false,
    upstream_http2: false,
    route: "",
    run: |_| Box::pin(std::future::ready(())),
};

pub(crate) const ALL: [Attack; 12] = [
    Attack {
        name: "streams",
        about: "opens 100 streams of slow operations, resets them after 60 ms, and again",
        run: |own| Box::pin(streams::reset(own)),
        ..USUAL
    },
    Attack {
        name: "window",
        about: "asks for responses of 1 MiB and reads none of them",
        run: |own| Box::pin(unread::responses(own)),
        ..USUAL
    },
    Attack {
        name: "uploads",
        about: "300 uploads of 1 MiB that lack their last byte",
        run: |own| Box::pin(uploads::silent(own)),
        ..USUAL
    },
    Attack {
        name: "waiters",
        about: "500 requests that wait for one slow operation",
        route: "match = \"POST /wait\"\non_in_flight = { wait = \"60s\" }",
        run: |own| Box::pin(operations::waiters(own)),
        ..USUAL
    },
    Attack {
        name: "large",
        about: "responses of 1 MiB that fill the store",
        run: |own| Box::pin(operations::large(own)),
        ..USUAL
    },
    Attack {
        name: "tombstones",
        about: "operations whose responses are not recorded, each with a key of its own",
        run: |own| Box::pin(operations::tombstones(own)),
        ..USUAL
    },
    Attack {
        name: "doubt",
        about: "operations that stay in doubt for ever",
        route: "match = \"POST /doubt\"\non_lapsed_lease = \"refuse\"",
        run: |own| Box::pin(operations::doubt(own)),
        ..USUAL
    },
    Attack {
        name: "heads",
        about: "1000 connections whose heads never end",
        run: |own| Box::pin(connections::heads(own)),
        ..USUAL
    },
    Attack {
        name: "metrics",
        about: "1000 connections to the address of the metrics",
        run: |own| Box::pin(connections::metrics(own)),
        ..USUAL
    },
    Attack {
        name: "json",
        about: "8 connections that send 1 MiB of JSON, whose canonical form is compared",
        cpu: true,
        route: "match = \"POST /json\"\nfingerprint_body = \"json\"",
        run: |own| Box::pin(json::bodies(own)),
        ..USUAL
    },
    Attack {
        name: "silence",
        about: "1000 connections that send nothing",
        run: |own| Box::pin(connections::silence(own)),
        ..USUAL
    },
    Attack {
        name: "upstream",
        about: "slow operations whose clients leave, before an upstream that allows 100 streams",
        upstream_http2: true,
        run: |own| Box::pin(streams::leave(own)),
        ..USUAL
    },
];
