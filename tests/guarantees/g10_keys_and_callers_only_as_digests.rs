//! G10: keys, credentials and caller ids reach stores and logs only as digests.
//! With a secret, the digests are HMACs.

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_idempotency::options::OnStoreError;
use tower_idempotency::scope::{Caller, Scope};
use tower_idempotency::store::{Claim, Store, StoreErrorKind};
use tower_idempotency::{
    IdempotencyContext, IdempotencyLayer, IdempotencyLayerBuilder, ResponseBody, scope,
};

use crate::support::body::{Script, Step};
use crate::support::log::Log;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    API_KEY, answer, builder, by, created, post, post_with, quiet, with, without,
};

const KEY: &str = "a-readable-key";
const CREDENTIAL: &str = "a-readable-credential";
const BODY: &str = "a-readable-body";
const SECRET: &str = "a-readable-secret-of-32-bytes!!!";

#[track_caller]
fn assert_unreadable(what: &str, text: &str) {
    for secret in [KEY, CREDENTIAL, BODY, SECRET] {
        assert!(!text.contains(secret), "{secret} in {what}: {text}");
    }
}

fn ask(end: &'static str) -> Request<Full<Bytes>> {
    let request = post(&format!("{KEY} {end}"), BODY);
    with(by(CREDENTIAL, request), "end", end)
}

/// A handler that ends as the header `end` of the request says. It stores the
/// debug output of the context that it received.
fn ending(
    contexts: &Arc<Mutex<String>>,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = &'static str,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    let contexts = Arc::clone(contexts);
    service_fn(move |request: Request<Full<Bytes>>| {
        let contexts = Arc::clone(&contexts);
        async move {
            let context = request.extensions().get::<IdempotencyContext>();
            write!(contexts.lock().unwrap(), "{context:?}").unwrap();
            match request.headers()["end"].to_str().unwrap() {
                "error" => Err("as the test wants it"),
                "panic" => panic!("as the test wants it"),
                "transient" => Ok(answer(StatusCode::SERVICE_UNAVAILABLE, "later")),
                "large" => Ok(created(vec![b'x'; 2 << 20])),
                "slow" => {
                    sleep(Duration::from_secs(100)).await;
                    Ok(created("done"))
                }
                _ => Ok(created("done")),
            }
        }
    })
}

async fn tell<A>(app: &A, request: Request<Full<Bytes>>)
where
    A: Service<Request<Full<Bytes>>, Response = Response<ResponseBody<Full<Bytes>>>>,
    A: Clone + Send + 'static,
    A::Error: Send,
    A::Future: Send,
{
    // The request runs in a task of its own, since the handler may panic.
    let told = tokio::spawn(app.clone().oneshot(request)).await;
    if let Ok(Ok(response)) = told {
        let head = format!("{:?}", response.headers());
        assert_unreadable("an answer's head", &head);
    }
}

/// Makes everything happen once that can succeed or fail.
async fn all_that_can_happen<A>(app: &A, store: &Steered)
where
    A: Service<Request<Full<Bytes>>, Response = Response<ResponseBody<Full<Bytes>>>>,
    A: Clone + Send + Sync + 'static,
    A::Error: Send,
    A::Future: Send,
{
    for end in ["well", "error", "panic", "transient", "large"] {
        tell(app, ask(end)).await;
        tell(app, ask(end)).await;
    }
    tell(app, ask("well").map(|_| Full::from("other"))).await;
    tell(
        app,
        with(ask("well"), "idempotency-key", format!("\"{KEY}")),
    )
    .await;
    tell(app, with(ask("well"), "idempotency-key", KEY.repeat(30))).await;
    tell(app, without(ask("well"), "idempotency-key")).await;
    tell(app, without(ask("well"), API_KEY)).await;
    for kind in [
        StoreErrorKind::NotSent,
        StoreErrorKind::Unknown,
        StoreErrorKind::Contention,
        StoreErrorKind::Unreadable,
        StoreErrorKind::Unsupported,
    ] {
        for op in [Op::Claim, Op::Complete, Op::Release, Op::LookUp] {
            store.make(op, Fault::Fails(kind));
            tell(app, ask("well again")).await;
            tell(app, ask("transient")).await;
            sleep(Duration::from_secs(100)).await;
            store.heal(op);
        }
    }
    // This operation is overtaken, and then runs for too long.
    store.make(Op::Renew, Fault::Fails(StoreErrorKind::Unknown));
    let slow = {
        let app = app.clone();
        tokio::spawn(async move { tell(&app, ask("slow")).await })
    };
    sleep(Duration::from_secs(31)).await;
    tell(app, ask("slow")).await;
    store.heal(Op::Renew);
    slow.await.unwrap();
    // The client of this operation leaves.
    drop(
        tokio::time::timeout(
            Duration::from_secs(1),
            app.clone().oneshot(ask("slow left")),
        )
        .await,
    );
    sleep(Duration::from_secs(200)).await;
    quiet().await;
}

fn layers(store: &Steered) -> Vec<IdempotencyLayerBuilder> {
    vec![
        builder(store),
        builder(store).secrets([SECRET]),
        builder(store).secrets([SECRET, "an older secret, as long"]),
        builder(store).defaults(|options| {
            options
                .on_store_error(OnStoreError::RunUnprotected)
                .max_operation(Duration::from_secs(40))
        }),
    ]
}

#[tokio::test(start_paused = true)]
async fn no_key_no_credential_and_no_request_is_readable_in_a_log_or_a_store() {
    for which in 0..layers(&Steered::new()).len() {
        let store = Steered::unguarded();
        let layer = layers(&store).swap_remove(which).build().unwrap();
        let log = Log::default();
        let contexts = Arc::default();
        {
            let _listening = log.listen();
            let app = layer.layer(ending(&contexts));
            all_that_can_happen(&app, &store).await;
        }
        let logged = log.text();
        for line in [
            "rejected",
            "claim failed",
            "completion failed, trying again",
            "release failed, trying again",
            "a lease was not renewed, trying again",
            "another owner has taken over",
        ] {
            assert!(logged.contains(line), "nothing logged {line}: {logged}");
        }
        assert_unreadable("the log", &logged);
        assert_unreadable("the store", &store.debug());
        assert_unreadable("contexts", &contexts.lock().unwrap());
        assert!(contexts.lock().unwrap().contains("attempt"));
        assert_unreadable("the layer", &format!("{layer:?}"));

        let mut seen = HashSet::new();
        for claim in store.claims() {
            for digest in digests(&claim) {
                assert_unreadable("a digest", &String::from_utf8_lossy(&digest));
            }
            if seen.insert(claim.id)
                && let Some(record) = store.look_up(&claim.id).await.unwrap()
            {
                assert_unreadable("a record", &format!("{record:?}"));
            }
        }
        assert!(seen.len() > 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_not_logged() {
    let log = Log::default();
    let _listening = log.listen();
    let service = service_fn(async |_: Request<Script>| {
        Ok::<_, &'static str>(Response::new(Script::frames(["done"])))
    });
    let app = builder(&Steered::new()).build().unwrap().layer(service);
    let body = Script::frames([BODY]).then(Step::Fail("reset by peer"));
    let refused = app.oneshot(by(CREDENTIAL, post_with(KEY, body))).await;
    assert_eq!(refused.unwrap().status(), 400);
    assert!(log.text().contains("reset by peer"));
    assert_unreadable("the log", &log.text());
}

fn digests(claim: &Claim) -> [[u8; 32]; 3] {
    [
        *claim.id.as_bytes(),
        *claim.scope.as_bytes(),
        *claim.fingerprint.as_bytes(),
    ]
}

/// The digests in the claim for a request, with these secrets.
async fn claimed(secrets: &[&str], request: Request<Full<Bytes>>) -> [[u8; 32]; 3] {
    let store = Steered::new();
    let layer = builder(&store).secrets(secrets.iter().copied());
    let app = layer.build().unwrap().layer(ending(&Arc::default()));
    app.oneshot(request).await.unwrap();
    digests(&store.claims()[0])
}

#[tokio::test]
async fn a_secret_changes_every_digest() {
    let plain = claimed(&[], ask("well")).await;
    let one = claimed(&[SECRET], ask("well")).await;
    let other = claimed(&["another-readable-secret"], ask("well")).await;
    let all: HashSet<_> = [plain, one, other].concat().into_iter().collect();
    assert_eq!(all.len(), 9);
    // Old secrets do not change a claim, and no digest is random.
    let rotated = claimed(&[SECRET, "another-readable-secret"], ask("well")).await;
    assert_eq!(rotated, one);
    assert_eq!(claimed(&[], ask("well")).await, plain);
}

/// A stored digest can't be found in a table of the digests of likely values.
#[tokio::test]
async fn a_digest_is_not_the_bare_sha_256_of_a_key_or_a_credential() {
    // The SHA-256 of `a`, as `sha256sum` prints it.
    let bare = [
        0xca, 0x97, 0x81, 0x12, 0xca, 0x1b, 0xbd, 0xca, 0xfa, 0xc2, 0x31, 0xb3, 0x9a, 0x23, 0xdc,
        0x4d, 0xa7, 0x86, 0xef, 0xf8, 0x14, 0x7c, 0x4e, 0x72, 0xb9, 0x80, 0x77, 0x85, 0xaf, 0xee,
        0x48, 0xbb,
    ];
    let request = with(by("a", post("a", "a")), "end", "well");
    assert!(!claimed(&[], request).await.contains(&bare));
}

#[test]
fn debug_shows_no_secret_and_no_caller() {
    let layer = IdempotencyLayer::builder(Steered::new(), scope::shared()).secrets([SECRET]);
    assert_unreadable("a builder", &format!("{layer:?}"));
    let layer = layer.build().unwrap();
    assert_unreadable("a layer", &format!("{layer:?}"));
    assert_unreadable("a service", &format!("{:?}", layer.layer("inner")));
    let caller = Caller::new("account", CREDENTIAL);
    assert_unreadable("a caller", &format!("{caller:?}"));
    let parts = by(CREDENTIAL, post(KEY, BODY)).into_parts().0;
    let caller = scope::header(API_KEY).caller(&parts);
    assert!(caller.is_some());
    assert_unreadable("a caller", &format!("{caller:?}"));
}
