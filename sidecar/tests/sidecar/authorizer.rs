//! The sidecar claims and replays nothing before the authorizer has allowed the
//! request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tower_idempotency::config::Config;

use crate::support::{File, Message, Running, Step, Upstream, answer, get, nobody, ok, post};

/// `Both` is an upstream, and an authorizer whose response a test can change.
struct Both {
    upstream: Upstream,
    authorizer: Upstream,
    says: Arc<Mutex<Vec<Step>>>,
    sidecar: Running,
}

impl Both {
    async fn start(change: impl FnOnce(File) -> File) -> Self {
        let upstream = Upstream::start(|_| ok("done")).await;
        let says = Arc::new(Mutex::new(answer(
            "204 No Content",
            "X-Account: alice\r\n",
            "",
        )));
        let authorizer = {
            let says = Arc::clone(&says);
            Upstream::start(move |_| says.lock().unwrap().clone()).await
        };
        let file = change(with_authorizer(upstream.address, authorizer.address));
        let sidecar = file.start().await;
        Self {
            upstream,
            authorizer,
            says,
            sidecar,
        }
    }

    fn says(&self, steps: Vec<Step>) {
        *self.says.lock().unwrap() = steps;
    }

    async fn charge(&self) -> Message {
        self.sidecar.exchange(&post("/charges", "k", "{}")).await
    }
}

fn with_authorizer(upstream: SocketAddr, authorizer: SocketAddr) -> File {
    File::new(upstream).top(&format!(
        "authorize = {{ url = 'http://{authorizer}/check?by=us', timeout = '1s', \
         headers = ['x-account'] }}"
    ))
}

#[tokio::test]
async fn who_is_denied_gets_no_replay() {
    let both = Both::start(|file| file).await;
    assert_eq!(both.charge().await.status(), 200);
    assert_eq!(
        both.charge().await.field("idempotency-replayed"),
        Some("true")
    );
    both.says(answer(
        "401 Unauthorized",
        "WWW-Authenticate: Bearer realm=\"a\"\r\nWWW-Authenticate: Basic\r\nX-Secret: 1\r\n",
        "who are you?",
    ));
    let denied = both.charge().await;
    assert_eq!(
        (denied.status(), denied.code().as_str()),
        (401, "not-authorized")
    );
    let challenges = &denied.named()["www-authenticate"];
    assert_eq!(challenges, "Bearer realm=\"a\", Basic");
    assert_eq!(denied.field("x-secret"), None);
    assert_eq!(denied.field("cache-control"), Some("no-store"));
    both.says(answer("403 Forbidden", "", ""));
    assert_eq!(both.charge().await.status(), 403);
    assert_eq!(both.upstream.seen().len(), 1);
    assert_eq!(
        both.authorizer.seen().len(),
        4,
        "nothing is remembered of its answers"
    );
}

#[tokio::test]
async fn who_is_denied_claims_nothing() {
    let both = Both::start(|file| file).await;
    both.says(answer("403 Forbidden", "", ""));
    assert_eq!(both.charge().await.status(), 403);
    both.says(answer("200 OK", "", ""));
    assert_eq!(both.charge().await.status(), 200);
    assert_eq!(both.upstream.last().field("idempotency-attempt"), Some("1"));
}

/// The sidecar does not ask the client for the body (100 Continue) before the
/// authorizer has allowed the request.
#[tokio::test]
async fn who_is_denied_need_not_send_a_body() {
    let both = Both::start(|file| file).await;
    both.says(answer("403 Forbidden", "", ""));
    let mut client = both.sidecar.client().await;
    client
        .send(
            "POST /charges HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\n\
             Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n",
        )
        .await;
    assert_eq!(client.head().await.status(), 403);
}

#[tokio::test]
async fn without_a_clear_word_nothing_is_executed() {
    let both = Both::start(|file| file).await;
    for word in [
        answer("500 Internal Server Error", "", ""),
        answer("302 Found", "Location: /login\r\n", ""),
        answer("404 Not Found", "", ""),
        answer("304 Not Modified", "", ""),
        answer("407 Proxy Authentication Required", "", ""),
        vec![Step::Close],
        vec![Step::Hang],
    ] {
        both.says(word);
        let answer = both.charge().await;
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (502, "authorizer-unavailable")
        );
    }
    assert!(both.upstream.seen().is_empty());
    both.says(answer("200 OK", "", ""));
    assert_eq!(both.charge().await.status(), 200);
    assert_eq!(both.upstream.last().field("idempotency-attempt"), Some("1"));
    let file = with_authorizer(both.upstream.address, nobody());
    let sidecar = file.start().await;
    let answer = sidecar.exchange(&post("/charges", "other", "{}")).await;
    assert_eq!(
        (answer.status(), answer.code().as_str()),
        (502, "authorizer-unavailable")
    );
    assert_eq!(both.upstream.seen().len(), 1);
}

#[tokio::test]
async fn the_authorizer_sees_the_head_as_nginx_would_show_it() {
    let both = Both::start(|file| file).await;
    both.sidecar
        .exchange(
            "POST /%6frders/?a=%62 HTTP/1.1\r\nHost: shop.example\r\nIdempotency-Key: k\r\n\
             Authorization: Bearer abc\r\nCookie: a=1\r\nContent-Type: application/json\r\n\
             Content-Encoding: identity\r\nIf-Match: \"x\"\r\nRange: bytes=0-1\r\n\
             X-Original-Method: GET\r\nX_Original_URI: /free\r\nX-Account: mallory\r\n\
             Connection: x-hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\n{}",
        )
        .await;
    let asked = both.authorizer.last();
    assert_eq!(asked.start, "GET /check?by=us HTTP/1.1");
    assert!(asked.body.is_empty());
    let address = both.authorizer.address.to_string();
    let expected = [
        ("authorization", "Bearer abc"),
        ("cache-control", "no-store"),
        ("cookie", "a=1"),
        ("host", &address),
        ("idempotency-key", "k"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-proto", "http"),
        ("x-original-method", "POST"),
        ("x-original-uri", "/%6frders/?a=%62"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(asked.named(), expected.into());
}

#[tokio::test]
async fn the_caller_is_who_the_authorizer_says_and_not_who_the_client_says() {
    let both = Both::start(|file| file.idempotency("scope = ['header:x-account']")).await;
    let charge = |account: &str| {
        format!(
            "POST /charges HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\n{account}\
             Content-Length: 0\r\n\r\n"
        )
    };
    for claims in ["", "X-Account: bob\r\n", "X_Account: bob\r\n"] {
        both.sidecar.exchange(&charge(claims)).await;
    }
    let seen = both.upstream.seen();
    assert_eq!(seen.len(), 1, "all three were alice");
    assert_eq!(seen[0].named()["x-account"], "alice");
    both.says(answer("200 OK", "X-Account: bob\r\n", ""));
    let bob = both.sidecar.exchange(&charge("X-Account: alice\r\n")).await;
    assert_eq!(bob.field("idempotency-replayed"), None);
    // The authorizer does not name a caller, so the request has no caller.
    both.says(answer("200 OK", "", ""));
    let nobody = both.sidecar.exchange(&charge("X-Account: alice\r\n")).await;
    assert_eq!(nobody.code(), "scope-missing");
}

#[tokio::test]
async fn an_unprotected_request_is_not_asked_about_and_can_claim_nothing() {
    let both = Both::start(|file| file).await;
    both.says(answer("403 Forbidden", "", ""));
    for sent in ["X-Account: mallory\r\n", "X_Account: mallory\r\n"] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{sent}\r\n");
        assert_eq!(both.sidecar.exchange(&request).await.status(), 200);
        let seen = both.upstream.last();
        assert_eq!(
            (seen.field("x-account"), seen.field("x_account")),
            (None, None)
        );
    }
    assert_eq!(both.sidecar.exchange(&get("/")).await.status(), 200);
    assert!(both.authorizer.seen().is_empty());
}

#[test]
fn what_an_authorizer_can_t_say_is_refused_at_its_line() {
    let right = File::new(([127, 0, 0, 1], 9000).into());
    for (names, place, says) in [
        (
            "'x-account', 'Transfer-Encoding'",
            1,
            "belongs to one connection",
        ),
        ("'connection'", 0, "belongs to one connection"),
        ("'te'", 0, "belongs to one connection"),
        ("'content-length'", 0, "says how the request is read"),
        ("'Content_Type'", 0, "says how the request is read"),
        ("'host'", 0, "says how the request is read"),
        ("'expect'", 0, "says how the request is read"),
        ("'idempotency-key'", 0, "is for the client and the sidecar"),
        (
            "'idempotency_attempt'",
            0,
            "is for the client and the sidecar",
        ),
        ("'x-forwarded-for'", 0, "is for proxies and the sidecar"),
        ("'X_Forwarded-Proto'", 0, "is for proxies and the sidecar"),
        ("'forwarded'", 0, "is for proxies and the sidecar"),
        ("'x-a', 'X-A'", 1, "is read as the same as `x-a`"),
        ("'x_a', 'x-b', 'x-a'", 2, "is read as the same as `x_a`"),
    ] {
        let authorize = format!("authorize = {{ url = 'http://auth', headers = [{names}] }}");
        let text = right.clone().top(&authorize).text();
        let error = Config::from_toml(&text).unwrap_err().to_string();
        let entry = format!("`authorize.headers[{place}]`");
        for part in ["4:", &entry, says] {
            assert!(error.contains(part), "{names}: {error}");
        }
    }
    let authorize = "authorize = { url = 'http://auth', headers = ['x-account', 'Cookie'] }";
    assert!(Config::from_toml(&right.top(authorize).text()).is_ok());
}
