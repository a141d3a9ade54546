//! The contract over HTTP, and what the sidecar adds to the layer's contract.

use bytes::Bytes;
use http::header::{ACCEPT, IF_NONE_MATCH};
use http::{Method, Request, Response};
use proptest::prelude::*;
use serde_json::Value;
use tower_idempotency::config::Config;

use super::SidecarContract;
use crate::Sidecar;

fn contract(more: &str) -> SidecarContract {
    let file = format!(
        r#"
        listen = "127.0.0.1:0"
        upstream = "http://127.0.0.1:9000"
        store = "memory:"
        {more}
        [[route]]
        match = "POST /orders"
        "#
    );
    Sidecar::contract(&Config::from_toml(&file).unwrap()).unwrap()
}

fn shared() -> SidecarContract {
    contract("idempotency.scope = ['shared']")
}

fn ask(method: Method, target: &str, headers: &[(http::HeaderName, &str)]) -> Response<Bytes> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    shared().respond(&request.body(()).unwrap().into_parts().0)
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
    let contract = shared();
    let body = |format: &str| ask(Method::GET, &format!("/?format={format}"), &[]).into_body();
    assert_eq!(body("markdown"), contract.markdown());
    let read = |body: Bytes| serde_json::from_slice::<Value>(&body).unwrap();
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

/// What completes "A key belongs to …" with these headers from the authorizer.
fn belongs_to(scope: &str, from_authorizer: &str) -> String {
    let contract = contract(&format!(
        "authorize = {{ url = 'http://127.0.0.1:9001', headers = [{from_authorizer}] }}
        idempotency.scope = [{scope}]"
    ));
    let scope = contract.json()["endpoints"][0]["scope"].take();
    let scope = scope.as_str().unwrap().to_owned();
    let sentence = format!("A key belongs to {scope}.");
    assert!(contract.markdown().contains(&sentence), "{sentence}");
    scope
}

/// The sidecar replaced text in the description of the scope, and the text for
/// several headers was another one: the contract then said that callers choose
/// what the authorizer sets.
#[test]
fn a_caller_is_known_by_every_header_that_the_authorizer_sets() {
    let known = "whoever is known to this API's authorisation by the same";
    assert_eq!(
        belongs_to("'header:X-Account'", "'X-Account'"),
        format!("{known} `X-Account`")
    );
    assert_eq!(
        belongs_to("'headers:X-Account,X-Tenant'", "'X-Account', 'X-Tenant'"),
        format!("{known} `X-Account` and `X-Tenant`")
    );
    assert_eq!(
        belongs_to("'headers:X-Account,X-Tenant'", "'X-Account'"),
        format!("{known} `X-Account` and sends the same header `X-Tenant`")
    );
    assert_eq!(
        belongs_to("'header:X-Account', 'peer-ip'", "'X-Account'"),
        format!("{known} `X-Account`, or else to whoever calls from the same address")
    );
    assert_eq!(
        belongs_to("'headers:X-Api-Key,X-App'", "'X-Account'"),
        "whoever sends the same headers `X-Api-Key` and `X-App`"
    );
}

/// Checks that each format of this contract has the sidecar's own errors, with an example each.
fn has_its_own_errors(contract: &SidecarContract, codes: usize) {
    let page = contract.markdown();
    let document = contract.openapi();
    let description = document["info"]["description"].as_str().unwrap();
    let all = &contract.json()["gateway"];
    assert_eq!(all.as_array().unwrap().len(), codes);
    for error in all.as_array().unwrap() {
        let (code, status) = (error["code"].as_str().unwrap(), &error["status"]);
        let row = format!("| `{code}` | {status} | ");
        assert!(page.contains(&row) && description.contains(&row), "{row}");
        let content_type = error["content_type"].as_str().unwrap();
        let example = format!("\n### `{code}`\n\n```http\nHTTP/1.1 {status} ");
        assert!(page.contains(&example), "{example}: {page}");
        if code == "connect-refused" {
            continue;
        }
        let responses = [
            &document["paths"]["/orders"]["post"]["responses"][status.to_string()],
            &document["components"]["responses"][format!("Idempotency{status}")],
        ];
        for response in responses {
            let description = response["description"].as_str().unwrap();
            assert!(description.contains(&format!("- `{code}`: ")), "{code}");
            let media_type = &response["content"][content_type];
            assert_eq!(media_type["examples"][code]["value"], error["body"]);
        }
    }
}

proptest! {
    /// `--check` prints a contract or names the entry that is wrong, whatever the pattern is.
    #[test]
    fn no_pattern_panics_the_check(
        pattern in "(POST )?/(/|\\{[a-z*]{0,2}\\}|[{}*:a-zA-Zé.;%~]|%[0-9A-F]{2}|/\\{a\\}){0,40}",
        fold in any::<bool>(),
    ) {
        let pattern = Value::from(pattern);
        let file = format!(
            r#"{{ "listen": "127.0.0.1:0", "upstream": "http://127.0.0.1:9000", "store": "memory:", "ignore_path_case": {fold},
                "idempotency": {{ "scope": ["shared"] }}, "route": [{{ "match": {pattern} }}] }}"#
        );
        match Config::from_json(&file).map(|config| Sidecar::contract(&config)) {
            Ok(Ok(contract)) => drop((contract.markdown(), contract.openapi())),
            Ok(Err(error)) => prop_assert!(error.to_string().contains("route[0]"), "{error}"),
            Err(error) => prop_assert_eq!(error.option(), Some("route[0].match")),
        }
    }
}

#[test]
fn its_own_errors_are_in_every_format() {
    has_its_own_errors(&shared(), 9);
    let asks = "authorize = 'http://127.0.0.1:9001'\nidempotency.scope = ['shared']";
    has_its_own_errors(&contract(asks), 11);
}

#[test]
fn its_own_errors_have_the_form_that_the_file_gives_them() {
    let contract = contract(
        r#"
        [idempotency]
        scope = ['shared']
        [idempotency.rejections.default]
        content_type = "application/json"
        body = '{"error":"{code}"}'
        [idempotency.rejections.upstream-broken]
        status = 500
        [idempotency.rejections.path-ambiguous]
        content_type = "text/plain"
        body = "no {code}"
        "#,
    );
    has_its_own_errors(&contract, 9);
    let json = contract.json();
    let error = |code: &str| {
        let mut all = json["gateway"].as_array().unwrap().iter();
        all.find(|error| error["code"] == code).unwrap()
    };
    let broken = error("upstream-broken");
    assert_eq!(broken["status"], 500);
    assert_eq!(
        broken["body"],
        serde_json::json!({ "error": "upstream-broken" })
    );
    assert_eq!(error("path-ambiguous")["content_type"], "text/plain");
    assert_eq!(error("path-ambiguous")["body"], "no path-ambiguous");
    let document = contract.openapi();
    let broken = &document["paths"]["/orders"]["post"]["responses"]["500"];
    assert_eq!(
        broken["description"],
        "- `upstream-broken`: The service broke off before it had responded."
    );
}
