//! Two operations are the same if, and only if, the same caller sends the same
//! request with the same key. No choice of strings lets the end of one part
//! pass for the beginning of the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tower::{Layer, ServiceExt};
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::options::KeysPer;
use tower_idempotency::scope::{self, Caller, Scope};
use tower_idempotency::store::{
    Claim, Claimed, Lease, Outcome, Ownership, Release, Store, StoreError,
};
use tower_idempotency::store::{Nonce, RecordId};

use crate::support::{Runs, counting};

/// A store that keeps a copy of every claim and then rejects it.
#[derive(Clone, Default)]
struct Claims(Arc<Mutex<Vec<Claim>>>);

impl Store for Claims {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.0.lock().unwrap().push(claim.clone());
        Ok(Claimed::OverCapacity)
    }
    async fn renew(&self, _: &Lease) -> Result<Ownership, StoreError> {
        unreachable!("nothing was acquired")
    }
    async fn complete(&self, _: &Lease, _: &Outcome) -> Result<Ownership, StoreError> {
        unreachable!("nothing was acquired")
    }
    async fn release(&self, _: &RecordId, _: &Nonce, _: Release) -> Result<Ownership, StoreError> {
        unreachable!("nothing was acquired")
    }
}

/// The caller of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    /// The kind and the value of a caller's id, as a closure returns them.
    Caller(&'static str, String),
    /// The values of `x-a` and `x-b`, as many of them as the scope reads.
    Headers(Vec<String>),
    Shared,
}

const COMPARED: [&str; 2] = ["content-type", "x-version"];

/// All parts that identify an operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Operation {
    namespace: String,
    who: Who,
    keys_per: Per,
    key: String,
    method: &'static str,
    path: String,
    query: Option<String>,
    /// The values of the two headers that the fingerprint includes.
    headers: [Vec<String>; 2],
    body: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Per {
    Scope,
    Route,
}

/// What tells one record from another, and one request of a record from
/// another: the record's id and the fingerprint.
type Identity = ([u8; 32], [u8; 32]);

impl Operation {
    fn scope(&self) -> Box<dyn Scope> {
        match self.who.clone() {
            Who::Caller(kind, id) => Box::new(move |_: &Parts| Some(Caller::new(kind, &id))),
            Who::Headers(values) => {
                let names = &["x-a", "x-b"][..values.len()];
                Box::new(scope::headers(names))
            }
            Who::Shared => Box::new(scope::shared()),
        }
    }

    /// `quoted` says how the key is written; both forms mean the same key.
    fn request(&self, quoted: bool) -> Request<Full<Bytes>> {
        let query = self.query.iter().map(|query| format!("?{query}"));
        let target: String = [self.path.clone()].into_iter().chain(query).collect();
        let key = if quoted || self.key.starts_with(['"', ' ']) || self.key.ends_with(' ') {
            let escaped = self.key.replace('\\', r"\\").replace('"', "\\\"");
            format!("\"{escaped}\"")
        } else {
            self.key.clone()
        };
        let mut request = Request::new(Full::from(self.body.clone()));
        *request.method_mut() = Method::from_bytes(self.method.as_bytes()).unwrap();
        *request.uri_mut() = target.parse().unwrap();
        let headers = request.headers_mut();
        let value = |text: &str| HeaderValue::from_str(text).unwrap();
        headers.insert("idempotency-key", value(&key));
        if let Who::Headers(values) = &self.who {
            for (name, own) in ["x-a", "x-b"].into_iter().zip(values) {
                headers.insert(name, value(own));
            }
        }
        for (name, values) in COMPARED.into_iter().zip(&self.headers) {
            for own in values {
                headers.append(name, value(own));
            }
        }
        request
    }

    async fn identity(&self, secret: Option<&str>, quoted: bool) -> Identity {
        let claims = Claims::default();
        let keys_per = match self.keys_per {
            Per::Scope => KeysPer::Scope,
            Per::Route => KeysPer::Route,
        };
        let method = Method::from_bytes(self.method.as_bytes()).unwrap();
        let layer = IdempotencyLayer::builder(claims.clone(), self.scope())
            .namespace(&*self.namespace)
            .secrets(secret)
            .defaults(|options| {
                options
                    .keys_per(keys_per)
                    .methods([method])
                    .fingerprint_headers(COMPARED)
            })
            .build()
            .unwrap();
        let runs = Runs::default();
        let app = layer.layer(counting(&runs));
        let answer = app.oneshot(self.request(quoted)).await.unwrap();
        assert_eq!((answer.status().as_u16(), runs.count()), (503, 0));
        let claims = claims.0.lock().unwrap();
        let [claim] = &**claims else {
            panic!("{} claims for {self:?}", claims.len());
        };
        (*claim.id.as_bytes(), *claim.fingerprint.as_bytes())
    }
}

/// There are so few strings that one part often is the beginning or the end of
/// another. Separators, lengths and escapes are among them.
fn text() -> impl Strategy<Value = String> {
    select(vec![
        "", "a", "b", "ab", "aa", "a:b", ":", "a,b", "1", "a\"", "\\",
    ])
    .prop_map(str::to_owned)
}

fn key() -> impl Strategy<Value = String> {
    select(vec![
        "a", "b", "ab", "aa", "a:b", ":", " ", "a ", "1", "\"", "\"a\"", "\\", "\\\"", "POST", "/a",
    ])
    .prop_map(str::to_owned)
}

fn who() -> impl Strategy<Value = Who> {
    // The kinds include an application's own and those of the built-in scopes.
    let kind = select(vec!["", "a", "header:x-a", "header:x-a,x-b", "shared"]);
    let value = || select(vec!["a", "b", "ab", "a,b"]).prop_map(str::to_owned);
    prop_oneof![
        (kind, prop_oneof![Just(String::new()), value()])
            .prop_map(|(kind, id)| Who::Caller(kind, id)),
        vec(value(), 1..=2).prop_map(Who::Headers),
        Just(Who::Shared),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    // Bodies contain zeros and ones, because the lengths that are hashed beside
    // a body consist of these bytes.
    vec(select(vec![0, 1, 2, b'a', b'b']), 0..3)
}

fn operation() -> impl Strategy<Value = Operation> {
    let path = select(vec!["/", "/a", "/a/", "/ab", "/a/b", "//a", "/a%2Fb", "/b"]);
    let query = select(vec![
        None,
        Some(""),
        Some("a"),
        Some("b"),
        Some("ab"),
        Some("a?b"),
    ]);
    let values = || {
        vec(
            select(vec!["", "a", "b", "ab", "a, b"]).prop_map(str::to_owned),
            0..3,
        )
    };
    (
        text(),
        who(),
        select(vec![Per::Scope, Per::Route]),
        key(),
        select(vec!["POST", "PATCH", "PUT", "P", "PO"]),
        path,
        query,
        [values(), values()],
        body(),
    )
        .prop_map(
            |(namespace, who, keys_per, key, method, path, query, headers, body)| Operation {
                namespace,
                who,
                keys_per,
                key,
                method,
                path: path.to_owned(),
                query: query.map(str::to_owned),
                headers,
                body,
            },
        )
}

/// Operations that share most of their parts: each one takes the parts that its
/// mask names from the first operation, so that two operations differ in one or
/// two parts.
fn relatives() -> impl Strategy<Value = Vec<Operation>> {
    let mask = select((0..9).map(|own| 1_u16 << own).collect::<Vec<_>>());
    let masks = (mask.clone(), mask).prop_map(|(one, other)| one | other);
    (operation(), vec((operation(), masks), 1..24)).prop_map(|(first, others)| {
        let mut all: Vec<_> = others
            .into_iter()
            .map(|(other, differs)| mix(&first, other, differs))
            .collect();
        all.push(first);
        all
    })
}

fn mix(first: &Operation, other: Operation, differs: u16) -> Operation {
    let differs = |part: u16| differs & (1 << part) != 0;
    Operation {
        namespace: either(differs(0), &first.namespace, other.namespace),
        who: either(differs(1), &first.who, other.who),
        keys_per: either(differs(2), &first.keys_per, other.keys_per),
        key: either(differs(3), &first.key, other.key),
        method: either(differs(4), &first.method, other.method),
        path: either(differs(5), &first.path, other.path),
        query: either(differs(6), &first.query, other.query),
        headers: either(differs(7), &first.headers, other.headers),
        body: either(differs(8), &first.body, other.body),
    }
}

fn either<T: Clone>(other: bool, first: &T, second: T) -> T {
    if other { second } else { first.clone() }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn operations_have_one_identity_if_and_only_if_they_are_equal(
        operations in relatives(),
        quoted in any::<u32>(),
        secret in select(vec![None, Some("a secret of 16 b")]),
    ) {
        let mut by_identity: HashMap<Identity, Operation> = HashMap::new();
        let mut by_operation: HashMap<Operation, Identity> = HashMap::new();
        for (number, operation) in operations.into_iter().enumerate() {
            let quoted = quoted >> (number % 32) & 1 == 1;
            let identity = block_on(operation.identity(secret, quoted));
            if let Some(other) = by_identity.insert(identity, operation.clone()) {
                prop_assert_eq!(&other, &operation, "two operations are one");
            }
            if let Some(other) = by_operation.insert(operation, identity) {
                prop_assert_eq!(other, identity, "one operation is two");
            }
        }
    }

    /// Callers of two different kinds are never the same caller, whatever ids
    /// an application gives them.
    #[test]
    fn callers_are_one_if_and_only_if_they_are_equal(
        first in operation(),
        callers in vec(who(), 2..24),
    ) {
        let mut by_identity: HashMap<Identity, Who> = HashMap::new();
        for who in callers {
            let operation = Operation { who: who.clone(), ..first.clone() };
            let identity = block_on(operation.identity(None, false));
            if let Some(other) = by_identity.insert(identity, who.clone()) {
                prop_assert_eq!(other, who);
            }
        }
    }

    /// A record belongs to a key, not to a request: if a key arrives with
    /// another request, that request must find the key's record, so that the
    /// layer can reject it.
    #[test]
    fn a_record_is_one_callers_key_whatever_is_asked(
        one in operation(),
        other in operation(),
        same_route in any::<bool>(),
    ) {
        let mut asks_for_more = Operation {
            namespace: one.namespace.clone(),
            who: one.who.clone(),
            keys_per: one.keys_per,
            key: one.key.clone(),
            ..other
        };
        if same_route {
            asks_for_more.method = one.method;
            asks_for_more.path = one.path.clone();
        }
        let same_route = (asks_for_more.method, &asks_for_more.path) == (one.method, &one.path);
        let (id, fingerprint) = block_on(one.identity(None, false));
        let (other_id, other_fingerprint) = block_on(asks_for_more.identity(None, true));
        prop_assert_eq!(id == other_id, one.keys_per == Per::Scope || same_route);
        prop_assert_eq!(fingerprint == other_fingerprint, asks_for_more == one);
    }
}
