//! No client chooses the address by which it is told from others, whatever it sends in `Forwarded`,
//! `X-Forwarded-For` and `Host`.

#![no_main]

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderName, HeaderValue, Request};
use libfuzzer_sys::fuzz_target;
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::scope::{
    Caller, ForwardedHeader, ForwardedIp, PeerAddr, Scope, forwarded_ip, peer_ip,
};
use tower_idempotency::store::ScopeDigest;

const CLIENT: &str = "203.0.113.1";
const PROXY: &str = "10.0.0.1";

thread_local! {
    static FORWARDED: ForwardedIp = forwarded_ip(ForwardedHeader::Forwarded, ["10.0.0.0/8"]);
    static X_FORWARDED_FOR: ForwardedIp =
        forwarded_ip(ForwardedHeader::XForwardedFor, ["10.0.0.0/8"]);
    static FOUND: RefCell<Option<Caller>> = const { RefCell::new(None) };
    static DIGESTS: (fuzz::OneRecord, IdempotencyLayer) = {
        let store = fuzz::OneRecord::default();
        let found = |_: &http::request::Parts| FOUND.with_borrow(Clone::clone);
        let layer = IdempotencyLayer::new(store.clone(), found).expect("options that work");
        (store, layer)
    };
}

/// A caller shows nothing of itself but its digest.
fn digest(caller: Option<Caller>) -> Option<ScopeDigest> {
    FOUND.set(Some(caller?));
    DIGESTS.with(|(store, layer)| {
        let request = Request::post("/").header("idempotency-key", "k");
        let request = request.body(bytes::Bytes::new()).expect("a request");
        fuzz::call(layer, request, http::Response::default());
        store.take_claim().map(|claim| claim.scope)
    })
}

fn head(from: &str, name: &HeaderName, lines: &[&[u8]]) -> Option<http::request::Parts> {
    let mut request = Request::new(());
    let peer: IpAddr = from.parse().expect("an address");
    request
        .extensions_mut()
        .insert(PeerAddr(SocketAddr::new(peer, 1)));
    for line in lines {
        let value = HeaderValue::from_bytes(line).ok()?;
        request.headers_mut().append(name, value);
    }
    Some(request.into_parts().0)
}

/// What a proxy that quotes as RFC 9110, 5.6.4 says appends for the client.
fn appended(host: &str) -> String {
    let host = host.replace('\\', "\\\\").replace('"', "\\\"");
    format!("for={CLIENT};host=\"{host}\";proto=https")
}

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let sent = parts.next().unwrap_or_default();
    let host = parts.next().unwrap_or_default();
    let Ok(host) = std::str::from_utf8(host) else {
        return;
    };
    let client = head(CLIENT, &http::header::FORWARDED, &[]);
    let client = digest(client.and_then(|head| peer_ip().caller(&head)));
    assert!(client.is_some());

    let check = |scope: &ForwardedIp, name: &HeaderName, own: &str| {
        let found = |lines: &[&[u8]]| {
            let head = head(PROXY, name, lines)?;
            Some(digest(scope.caller(&head)))
        };
        // A value that no server passes on shows nothing.
        let Some(own_line) = found(&[sent, own.as_bytes()]) else {
            return;
        };
        assert_eq!(own_line, client, "in a line of its own");
        let joined = [sent, b", ", own.as_bytes()].concat();
        if let Some(joined) = found(&[&joined]) {
            assert!(joined.is_none() || joined == client, "in one line");
        }
        // Whoever calls without a proxy is not asked.
        let direct = head(CLIENT, name, &[sent]).and_then(|head| scope.caller(&head));
        assert_eq!(digest(direct), client);
    };
    FORWARDED.with(|scope| check(scope, &http::header::FORWARDED, &appended(host)));
    let name = HeaderName::from_static("x-forwarded-for");
    X_FORWARDED_FOR.with(|scope| check(scope, &name, CLIENT));
});
