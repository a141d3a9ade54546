//! This is the contract of the Iceberg REST catalog: the parameter `idempotency-key`, and
//! `idempotency-key-lifetime` of `CatalogConfig`, in
//! <https://github.com/apache/iceberg/blob/main/open-api/rest-catalog-open-api.yaml>.

use http::Method;
use serde_json::json;

use crate::api::{Api, NO_MARK, Request};
use crate::refusals::Refused;
use crate::upstream::Reply;

const TABLE: &str = "/v1/main/namespaces/accounting/tables/invoices";
/// The requests that the document has keys for, one for each form of a path.
const MUTATIONS: [(Method, &str); 17] = [
    (Method::POST, "/v1/main/namespaces"),
    (Method::DELETE, "/v1/main/namespaces/accounting"),
    (Method::POST, "/v1/main/namespaces/accounting/properties"),
    (Method::POST, "/v1/main/namespaces/accounting/tables"),
    (
        Method::POST,
        "/v1/main/namespaces/accounting/tables/invoices/plan",
    ),
    (
        Method::DELETE,
        "/v1/main/namespaces/accounting/tables/invoices/plan/p-1",
    ),
    (
        Method::POST,
        "/v1/main/namespaces/accounting/tables/invoices/tasks",
    ),
    (Method::POST, "/v1/main/namespaces/accounting/register"),
    (Method::POST, TABLE),
    (Method::DELETE, TABLE),
    (
        Method::POST,
        "/v1/main/namespaces/accounting/tables/invoices/unregister",
    ),
    (Method::POST, "/v1/main/tables/rename"),
    (Method::POST, "/v1/main/transactions/commit"),
    (
        Method::POST,
        "/v1/main/namespaces/accounting/views/by_month",
    ),
    (
        Method::DELETE,
        "/v1/main/namespaces/accounting/views/by_month",
    ),
    (Method::POST, "/v1/main/views/rename"),
    (Method::POST, "/v1/main/namespaces/accounting/register-view"),
];

contract! { "iceberg.toml":
    a_finalized_request_is_replayed,
    a_key_is_optional_and_a_uuid_of_version_7,
    a_key_belongs_to_an_account_and_not_to_its_token,
    a_key_is_not_reused_for_another_operation,
    a_request_in_flight_is_to_be_sent_again,
    no_5xx_and_no_expired_token_is_finalized,
    tokens_signatures_metrics_and_reads_are_left_alone,
    without_a_store_the_service_is_unavailable,
    keys_live_as_long_as_the_catalog_says,
    the_metadata_of_a_large_table_is_kept,
}

/// Whether a refusal is an `IcebergErrorResponse`.
fn is_error(refused: &Refused) -> bool {
    let message = refused.sentence("/error/message");
    let error = json!({ "message": message, "type": refused.code, "code": refused.status });
    refused.content_type == "application/json" && refused.body == json!({ "error": error })
}

/// A UUID of version 7.
fn key(number: usize) -> String {
    format!("017F22E2-79B0-7CC3-98C4-DC0C0C07{number:04X}")
}

fn commit(api: &Api, number: usize) -> Request {
    mutation(api, &Method::POST, TABLE, number)
}

fn mutation(api: &Api, method: &Method, path: &str, number: usize) -> Request {
    let request = api
        .request(method.clone(), path)
        .header("authorization", "Bearer acme-1")
        .header("idempotency-key", &key(number));
    if method == Method::DELETE {
        return request;
    }
    request.json(
        r#"{"requirements":[{"type":"assert-ref-snapshot-id","ref":"main","snapshot-id":3051729675574597004}],"updates":[{"action":"set-properties","updates":{"owner":"Hank Bendickson"}}]}"#,
    )
}

async fn a_finalized_request_is_replayed(api: &Api) {
    for (number, (method, path)) in MUTATIONS.iter().enumerate() {
        let status = if *method == Method::DELETE { 204 } else { 200 };
        api.answers_next(Reply::status(status));
        let first = mutation(api, method, path, number).executes().await;
        let again = mutation(api, method, path, number);
        again.replays(&first, NO_MARK).await;
    }
    for (number, status) in [400, 404, 406, 409, 422].into_iter().enumerate() {
        let exists = r#"{"error":{"message":"The given table already exists","type":"AlreadyExistsException","code":409}}"#;
        api.answers_next(Reply::status(status).body(exists));
        let first = commit(api, 100 + number).executes().await;
        commit(api, 100 + number).replays(&first, NO_MARK).await;
    }
}

async fn a_key_is_optional_and_a_uuid_of_version_7(api: &Api) {
    let keyless = || commit(api, 0).without("idempotency-key");
    keyless().executes_twice().await;
    let version_4 = "919108f7-52d1-4320-9bac-f847db4148a8";
    for wrong in [
        "retry-1",
        "017F22E2-79B0-7CC3-98C4-DC0C0C07398",
        version_4,
        "",
    ] {
        let refused = keyless()
            .header("idempotency-key", wrong)
            .refused(400)
            .await;
        refused.is("key-invalid", is_error);
    }
}

async fn a_key_belongs_to_an_account_and_not_to_its_token(api: &Api) {
    let first = commit(api, 200).executes().await;
    let with = |token: &str| {
        commit(api, 200)
            .without("authorization")
            .header("authorization", token)
    };
    with("Bearer acme-2").replays(&first, NO_MARK).await;
    with("Bearer globex-1").executes().await;
    let before = api.executions();
    let denied = with("Bearer unknown").send().await;
    assert_eq!((denied.status(), api.executions()), (401, before));
}

async fn a_key_is_not_reused_for_another_operation(api: &Api) {
    let first = commit(api, 300).executes().await;
    for other in [
        commit(api, 300).json(r#"{"requirements":[],"updates":[]}"#),
        commit(api, 300).to("/v1/main/tables/rename"),
    ] {
        other.refused(400).await.is("key-reused", is_error);
    }
    let in_utf8 = commit(api, 300)
        .without("content-type")
        .header("content-type", "application/json;charset=utf-8");
    in_utf8.replays(&first, NO_MARK).await;
}

/// A 409 would tell the client of an update that the commit failed.
async fn a_request_in_flight_is_to_be_sent_again(api: &Api) {
    let running = commit(api, 400).begins().await;
    let refused = commit(api, 400).refused(503).await;
    refused.is("in-flight", is_error);
    assert_eq!(refused.header("retry-after"), Some("1"));
    let first = running.ends().await;
    commit(api, 400).replays(&first, NO_MARK).await;
}

async fn no_5xx_and_no_expired_token_is_finalized(api: &Api) {
    for (number, status) in [500, 502, 503, 504, 401, 419].into_iter().enumerate() {
        api.answers_next(Reply::status(status));
        let failed = commit(api, 500 + number).executes().await;
        assert_eq!(failed.status(), status);
        let first = commit(api, 500 + number).executes().await;
        commit(api, 500 + number).replays(&first, NO_MARK).await;
    }
}

async fn tokens_signatures_metrics_and_reads_are_left_alone(api: &Api) {
    for (method, path) in [
        (Method::POST, "/v1/oauth/tokens"),
        (
            Method::POST,
            "/v1/main/namespaces/accounting/tables/invoices/sign",
        ),
        (
            Method::POST,
            "/v1/main/namespaces/accounting/tables/invoices/metrics",
        ),
        (Method::GET, "/v1/main/namespaces"),
        (Method::GET, TABLE),
        (Method::HEAD, TABLE),
    ] {
        mutation(api, &method, path, 600).executes_twice().await;
    }
}

async fn without_a_store_the_service_is_unavailable(api: &Api) {
    let api = Api::start_without_store(api.file()).await;
    let refused = commit(&api, 700).refused(503).await;
    refused.is("store-unavailable", is_error);
    assert_eq!(refused.header("retry-after"), Some("1"));
}

/// `idempotency-key-lifetime` is the catalog's to say, and the file has to keep it.
async fn keys_live_as_long_as_the_catalog_says(api: &Api) {
    let config = r#"{"defaults":{},"overrides":{},"idempotency-key-lifetime":"PT30M"}"#;
    api.answers_next(Reply::status(200).body(config));
    let asked = api
        .request(Method::GET, "/v1/config")
        .header("authorization", "Bearer acme-1");
    let told = asked.executes().await.json();
    let lifetime = told["idempotency-key-lifetime"].as_str().unwrap();
    let minutes = lifetime.strip_prefix("PT").unwrap().strip_suffix('M');
    let minutes = minutes.unwrap().parse().unwrap();
    api.keeps_answers_for_minutes(minutes).await;
}

async fn the_metadata_of_a_large_table_is_kept(api: &Api) {
    let limit = 4 << 20;
    let answer = |length: usize| Reply::status(200).body(vec![b' '; length]);
    api.answers_next(answer(limit));
    let first = commit(api, 800).executes().await;
    commit(api, 800).replays(&first, NO_MARK).await;
    api.answers_next(answer(limit + 1));
    commit(api, 801).executes().await;
    let refused = commit(api, 801).refused(500).await;
    refused.is("response-unavailable", is_error);

    commit(api, 802).json(vec![b' '; limit]).executes().await;
    let too_large = commit(api, 803).json(vec![b' '; limit + 1]);
    too_large.refused(413).await.is("body-too-large", is_error);
}
