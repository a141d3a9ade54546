//! The contract over HTTP.

use bytes::Bytes;
use http::header::{ACCEPT, IF_NONE_MATCH};
use http::{Method, Request, Response};

use crate::layers::full;

fn ask(method: Method, target: &str, headers: &[(http::HeaderName, &str)]) -> Response<Bytes> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    full()
        .contract()
        .respond(&request.body(()).unwrap().into_parts().0)
}

fn type_of(response: &Response<Bytes>) -> &str {
    response.headers()["content-type"].to_str().unwrap()
}

const MARKDOWN: &str = "text/markdown; charset=utf-8";
const JSON: &str = "application/json";
const OPENAPI: &str = "application/vnd.oai.openapi+json;version=3.1";

#[test]
fn accept_chooses_the_format_and_whoever_takes_none_gets_markdown() {
    for (accept, content_type) in [
        ("", MARKDOWN),
        ("*/*", MARKDOWN),
        (
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            MARKDOWN,
        ),
        ("image/png", MARKDOWN),
        ("text/*", MARKDOWN),
        ("application/json", JSON),
        ("Application/JSON; charset=utf-8", JSON),
        ("application/*", JSON),
        ("application/vnd.oai.openapi+json", OPENAPI),
        (
            "application/vnd.oai.openapi+json;version=3.1, application/json;q=0.9",
            OPENAPI,
        ),
        ("application/json;q=0.5, text/markdown;q=0.4", JSON),
        (
            "*/*;q=0.5, application/json;q=0.1, text/markdown;q=0",
            OPENAPI,
        ),
        ("text/markdown;q=0, */*", JSON),
        ("application/json;q=nonsense", MARKDOWN),
    ] {
        let response = ask(Method::GET, "/contract", &[(ACCEPT, accept)]);
        assert_eq!(type_of(&response), content_type, "{accept}");
        assert_eq!(response.headers()["vary"], "accept");
    }
    assert_eq!(type_of(&ask(Method::GET, "/contract", &[])), MARKDOWN);
}

#[test]
fn the_query_chooses_before_accept_and_an_unknown_format_is_refused() {
    let asked = |query: &str| {
        let target = format!("/contract?{query}");
        ask(Method::GET, &target, &[(ACCEPT, "application/json")])
    };
    assert_eq!(type_of(&asked("format=markdown")), MARKDOWN);
    assert_eq!(type_of(&asked("a=b&format=openapi")), OPENAPI);
    assert_eq!(type_of(&asked("formats=openapi")), JSON);
    let refused = asked("format=yaml");
    assert_eq!(refused.status(), 400);
    assert_eq!(
        *refused.body(),
        "`format` is `markdown`, `json` or `openapi`.\n"
    );
}

#[test]
fn the_body_is_the_contract_in_that_format() {
    let contract = full().contract();
    let body = |format: &str| ask(Method::GET, &format!("/?format={format}"), &[]).into_body();
    assert_eq!(body("markdown"), contract.markdown());
    let read = |body: Bytes| serde_json::from_slice::<serde_json::Value>(&body).unwrap();
    assert_eq!(read(body("json")), contract.json());
    assert_eq!(read(body("openapi")), contract.openapi());
}

#[test]
fn only_get_and_head_are_answered() {
    let got = ask(Method::GET, "/", &[]);
    let head = ask(Method::HEAD, "/", &[]);
    assert!(head.body().is_empty());
    assert_eq!(head.headers(), got.headers());
    assert_eq!(
        got.headers()["content-length"],
        got.body().len().to_string()
    );
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let response = ask(method, "/", &[]);
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
    }
}

#[test]
fn who_has_it_already_is_not_sent_it_again() {
    let first = ask(Method::GET, "/", &[]);
    assert_eq!(first.headers()["cache-control"], "max-age=300");
    let tag = first.headers()["etag"].to_str().unwrap();
    for known in [tag.to_owned(), format!("\"x\", W/{tag}"), "*".to_owned()] {
        let again = ask(Method::GET, "/", &[(IF_NONE_MATCH, &known)]);
        assert_eq!(again.status(), 304, "{known}");
        assert!(again.body().is_empty());
        assert_eq!(again.headers()["etag"], tag);
        assert!(!again.headers().contains_key("content-length"));
    }
    let other = ask(Method::GET, "/?format=json", &[(IF_NONE_MATCH, tag)]);
    assert_eq!(other.status(), 200);
}
