//! The file decides how the sidecar's own refusals look, as it does for the layer's rejections.

use serde_json::{Value, json};
use tower_idempotency::for_sidecar::GatewayCode;

use crate::support::{
    Client, File, Message, Running, Step, Upstream, answer, nobody, ok, post, until,
};

/// Sidecars with the same tables: one whose upstream listens, and one whose upstream does not.
struct Both {
    up: Running,
    down: Running,
    /// Its upstream has as many protected requests as it may have.
    full: Running,
    _held: Client,
    _upstream: Upstream,
    _authorizer: Upstream,
}

impl Both {
    async fn start(tables: &str) -> Self {
        let upstream = Upstream::start(|request| match request.target() {
            "/breaks" => vec![Step::Close],
            "/hangs" => vec![Step::Hang],
            _ => ok("done"),
        })
        .await;
        let authorizer = Upstream::start(|request| match request.field("x-original-uri") {
            Some("/denied") => answer("401 Unauthorized", "WWW-Authenticate: Basic\r\n", ""),
            Some("/unknown") => answer("500 Internal Server Error", "", ""),
            _ => answer("204 No Content", "", ""),
        })
        .await;
        let file = |upstream| {
            File::new(upstream)
                .top(&format!(
                    "authorize = 'http://{}/check'",
                    authorizer.address
                ))
                .top("upstream_timeout = '100ms'")
                .idempotency(tables)
        };
        let full = file(upstream.address).top("limits.max_upstream_requests = 2");
        let full = full.top("upstream_timeout = '1m'");
        let full = full.top("connect_timeout = '100ms'").start().await;
        let mut held = full.client().await;
        held.send(&post("/hangs", "held", "")).await;
        until(async || !upstream.seen().is_empty()).await;
        Self {
            full,
            _held: held,
            up: file(upstream.address).start().await,
            down: file(nobody()).start().await,
            _upstream: upstream,
            _authorizer: authorizer,
        }
    }

    /// Has the sidecar refuse a request with this code.
    async fn refused(&self, code: GatewayCode, fields: &str) -> Message {
        let key = &*format!("Idempotency-Key: {code}");
        let (line, host, more) = match code {
            GatewayCode::UpstreamUnreachable | GatewayCode::OverCapacity => {
                ("POST /orders", "Host: a", key)
            }
            GatewayCode::UpstreamBroken => ("POST /breaks", "Host: a", key),
            GatewayCode::UpstreamTimeout => ("POST /hangs", "Host: a", key),
            GatewayCode::BodyUnreadable => {
                ("POST /orders", "Host: a", "Transfer-Encoding: chunked")
            }
            GatewayCode::PathAmbiguous => ("POST //orders", "Host: a", key),
            GatewayCode::MethodInvalid => ("post /orders", "Host: a", key),
            GatewayCode::HostInvalid => ("POST /orders", "Host: a\r\nHost: b", key),
            GatewayCode::RequestMalformed => ("POST *", "Host: a", key),
            GatewayCode::TransferCodingUnknown => (
                "POST /orders",
                "Host: a",
                "Transfer-Encoding: gzip, chunked",
            ),
            GatewayCode::ConnectRefused => ("CONNECT a:1", "Host: a", key),
            GatewayCode::NotAuthorized => ("POST /denied", "Host: a", key),
            GatewayCode::AuthorizerUnavailable => ("POST /unknown", "Host: a", key),
        };
        let to = match code {
            GatewayCode::UpstreamUnreachable => &self.down,
            GatewayCode::OverCapacity => &self.full,
            _ => &self.up,
        };
        let broken = match code {
            GatewayCode::BodyUnreadable => "5\r\nhello\r\nno number\r\n",
            _ => "",
        };
        let request = format!("{line} HTTP/1.1\r\n{host}\r\n{more}\r\n{fields}\r\n{broken}");
        to.exchange(&request).await
    }
}

const DEFAULT: &str = r#"
[idempotency.rejections.default]
content_type = "application/json; charset=utf-8"
body = '{"error":{"type":"{code}","message":"{detail}","status":{status},"retry":"{retry}","id":"{request_id}"}}'
"#;

fn status(code: GatewayCode) -> u16 {
    match code {
        // It is the authorizer's.
        GatewayCode::NotAuthorized => 401,
        code => code.default_status().as_u16(),
    }
}

#[tokio::test]
async fn one_template_is_the_form_of_every_refusal() {
    let both = Both::start(DEFAULT).await;
    for code in GatewayCode::ALL {
        let refused = both.refused(*code, "X-Request-Id: r-1\r\n").await;
        assert_eq!(refused.status(), status(*code), "{code}");
        let content_type = "application/json; charset=utf-8";
        assert_eq!(refused.field("content-type"), Some(content_type), "{code}");
        assert_eq!(refused.field("cache-control"), Some("no-store"), "{code}");
        assert_eq!(refused.field("x-request-id"), Some("r-1"), "{code}");
        let error: Value = serde_json::from_slice(&refused.body).unwrap();
        let error = &error["error"];
        assert_eq!(error["type"], code.as_str());
        assert_eq!(error["status"], status(*code), "{code}");
        assert_eq!(error["id"], "r-1", "{code}");
        let message = error["message"].as_str().unwrap();
        assert!(message.ends_with('.'), "{code}: {message}");
        let retry = error["retry"].as_str().unwrap();
        assert!(["same-key", "never"].contains(&retry), "{code}: {retry}");
    }
    let denied = both.refused(GatewayCode::NotAuthorized, "").await;
    assert_eq!(denied.field("www-authenticate"), Some("Basic"));
    let layers = both.up.exchange(
        "POST /a HTTP/1.1\r\nHost: a\r\nIdempotency-Key: \"\r\nContent-Length: 0\r\n\r\n",
    );
    let layers: Value = serde_json::from_slice(&layers.await.body).unwrap();
    assert_eq!(layers["error"]["type"], "key-invalid");
}

#[tokio::test]
async fn each_refusal_can_have_a_status_and_a_body_of_its_own() {
    let own = |code: &GatewayCode| {
        format!(
            "[idempotency.rejections.{code}]\nstatus = 418\ncontent_type = 'text/plain'\nbody = 'own \
             {{code}} {{status}} {{retry}}'\n"
        )
    };
    let tables: String = GatewayCode::ALL.iter().map(own).collect();
    let both = Both::start(&format!("{DEFAULT}{tables}")).await;
    for code in GatewayCode::ALL {
        let refused = both.refused(*code, "").await;
        assert_eq!(refused.status(), 418, "{code}");
        assert_eq!(refused.field("content-type"), Some("text/plain"), "{code}");
        let text = refused.text();
        assert!(text.starts_with(&format!("own {code} 418 ")), "{text}");
    }
}

#[tokio::test]
async fn a_status_alone_leaves_the_form_as_it_is() {
    let alone = "[idempotency.rejections.upstream-broken]\nstatus = 500\n";
    let problem = Both::start(alone).await;
    let refused = problem.refused(GatewayCode::UpstreamBroken, "").await;
    assert_eq!(
        (refused.status(), refused.code().as_str()),
        (500, "upstream-broken")
    );
    let both = Both::start(&format!("{DEFAULT}{alone}")).await;
    let refused = both.refused(GatewayCode::UpstreamBroken, "").await;
    assert_eq!(refused.status(), 500);
    let error: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(error["error"]["status"], 500);
}

#[tokio::test]
async fn a_request_that_is_not_protected_has_nothing_to_retry_with() {
    let both = Both::start(DEFAULT).await;
    let refused = both.up.exchange("GET /breaks HTTP/1.1\r\nHost: a\r\n\r\n");
    let error: Value = serde_json::from_slice(&refused.await.body).unwrap();
    let detail =
        "Nobody knows whether the request was executed. Find out before you send it again.";
    assert_eq!(error["error"]["retry"], "");
    assert_eq!(error["error"]["message"], detail);
}

/// A library of gRPC reads a status of HTTP if the response is not gRPC, and no body.
#[tokio::test]
async fn a_grpc_client_gets_the_usual_status_and_form() {
    let status = "[idempotency.rejections.upstream-unreachable]\nstatus = 400\n";
    let both = Both::start(&format!("{DEFAULT}{status}")).await;
    let grpc = "Content-Type: application/grpc\r\n";
    let refused = both.refused(GatewayCode::UpstreamUnreachable, grpc).await;
    assert_eq!(
        (refused.status(), refused.code().as_str()),
        (502, "upstream-unreachable")
    );
}

/// Clients parse these bytes, so a change of them breaks clients.
#[tokio::test]
async fn without_a_template_a_refusal_is_exactly_this() {
    let both = Both::start("docs_url = 'https://a.example/'").await;
    let refused = both
        .refused(GatewayCode::UpstreamUnreachable, "X-Request-Id: r-1\r\n")
        .await;
    assert_eq!(
        refused.text(),
        r#"{"code":"upstream-unreachable","detail":"The service behind this address can't be reached. Nothing was executed; send the same request again in a moment.","retry":"same-key","source":"idempotency-sidecar","status":502,"title":"Upstream not reached","type":"about:blank"}"#
    );
    let mut fields = refused.named();
    fields.remove("date");
    let expected = json!({
        "content-type": "application/problem+json",
        "cache-control": "no-store",
        "content-length": refused.body.len().to_string(),
    });
    assert_eq!(json!(fields), expected);
    for code in GatewayCode::ALL {
        let refused = both.refused(*code, "").await;
        assert_eq!(refused.code(), code.as_str());
        assert_eq!(refused.status(), status(*code), "{code}");
    }
}
