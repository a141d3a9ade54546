//! What the sidecar promises to clients: the contract of its layer, and the errors
//! of requests on their way to the service and back.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::contract::Contract;
use tower_idempotency::for_sidecar::{self, GatewayCode, Limits, Refusals};

use crate::options::Settings;
use crate::problem::usual;

mod serve;
#[cfg(test)]
mod tests;

/// What a sidecar promises to the clients of the API behind it: what its layer
/// promises, and the sidecar's own errors.
#[derive(Clone, Debug)]
pub struct SidecarContract {
    layer: Contract,
    limits: Limits,
    errors: Vec<ProxyError>,
}

/// A response that the sidecar makes itself, besides the layer's rejections.
#[derive(Clone, Debug)]
struct ProxyError {
    code: GatewayCode,
    status: StatusCode,
    when: &'static str,
    advice: &'static str,
    content_type: String,
    body: Bytes,
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const AGAIN: &str = "Send the same request again in a moment, with the same key.";
const IN_DOUBT: &str =
    "The operation may have been executed or not. Send the same request again, with the same key.";
const CORRECT: &str = "Correct the request.";

/// What a client has to know about a service behind a proxy.
const SERVICE: &str = "Only a response of the service is recorded. A 409 of the service with \
                       `Retry-After` is not recorded: the same request with the same key is executed again.\n\n\
                       If the service breaks off, or takes too long to respond, it may have executed the \
                       operation or not. The key then counts as in flight for a while, as it does after a \
                       server died.";

/// When the sidecar refuses a request with this code, and what a client can do. `None` for what
/// another part of the contract describes: the layer's rejections have `body-unreadable` and
/// `over-capacity` too.
const fn for_clients(code: GatewayCode) -> Option<(&'static str, &'static str)> {
    Some(match code {
        GatewayCode::UpstreamUnreachable => {
            ("The service was not reached. Nothing was executed.", AGAIN)
        }
        GatewayCode::UpstreamBroken => ("The service broke off before it had responded.", IN_DOUBT),
        GatewayCode::UpstreamTimeout => ("The service did not respond in time.", IN_DOUBT),
        GatewayCode::PathAmbiguous => (
            "The path can be read in more than one way. Nothing was executed.",
            CORRECT,
        ),
        GatewayCode::MethodInvalid => (
            "The method is not in upper case. Nothing was executed.",
            CORRECT,
        ),
        GatewayCode::HostInvalid => (
            "The request does not name one host. Nothing was executed.",
            CORRECT,
        ),
        GatewayCode::RequestMalformed => (
            "The request is not as HTTP requires. Nothing was executed.",
            CORRECT,
        ),
        GatewayCode::TransferCodingUnknown => (
            "The body has another transfer coding than `chunked`. Nothing was executed.",
            CORRECT,
        ),
        GatewayCode::ConnectRefused => (
            "The method is CONNECT. Nothing was executed.",
            "Send the request to the service.",
        ),
        GatewayCode::NotAuthorized => (
            "The caller may not do this; the status is 401 or 403. Nothing was executed or replayed.",
            "Authenticate the request.",
        ),
        GatewayCode::AuthorizerUnavailable => (
            "At the moment the API can't find out whether the caller may do this. Nothing was executed.",
            AGAIN,
        ),
        GatewayCode::BodyUnreadable | GatewayCode::OverCapacity => return None,
    })
}

const fn needs_authorizer(code: GatewayCode) -> bool {
    matches!(
        code,
        GatewayCode::NotAuthorized | GatewayCode::AuthorizerUnavailable
    )
}

impl SidecarContract {
    pub(crate) fn new(layer: &IdempotencyLayer, settings: &Settings) -> Self {
        let authorize = settings.authorize.as_ref();
        let refusals = for_sidecar::refusals(layer);
        let codes = GatewayCode::ALL.iter().copied();
        let errors = codes
            .filter(|code| authorize.is_some() || !needs_authorizer(*code))
            .filter_map(|code| ProxyError::new(code, &refusals));
        let verified = authorize.map_or(&[][..], |authorize| &authorize.headers);
        Self {
            errors: errors.collect(),
            limits: settings.limits.clone(),
            layer: for_sidecar::contract(layer, verified),
        }
    }

    /// The contract as a page for people, in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        self.layer.markdown() + &self.section()
    }

    /// The contract as JSON. The member `gateway` lists the sidecar's own errors, and
    /// `gateway_limits` its own limits: a share that is `null` is seven times what is free. The other members are those of
    /// [`Contract::json`](tower_idempotency::contract::Contract::json).
    #[must_use]
    pub fn json(&self) -> Value {
        let mut document = self.layer.json();
        let errors = self.errors.iter().map(|error| {
            json!({
                "code": error.code.as_str(),
                "status": error.status.as_u16(),
                "when": error.when,
                "advice": error.advice,
                "content_type": error.content_type,
                "body": error.json_body(),
            })
        });
        document["gateway"] = errors.collect();
        let own = &self.limits;
        document["gateway_limits"] = json!({
            "max_connections": own.max_connections,
            "max_connections_per_peer": own.max_connections_per_peer,
            "max_head_bytes": own.max_head_bytes,
            "head_timeout": own.head_timeout.as_secs_f64(),
            "max_streams": own.max_streams,
            "max_resets_per_second": own.max_resets_per_second,
            "client_timeout": own.client_timeout.as_secs_f64(),
            "max_upstream_requests": own.max_upstream_requests,
            "max_upstream_requests_per_caller": own.max_upstream_requests_per_caller,
            "max_upstream_queue": own.max_upstream_queue,
        });
        document
    }

    /// The contract as a fragment of an OpenAPI 3.1 document: see
    /// [`Contract::openapi`](tower_idempotency::contract::Contract::openapi). The
    /// sidecar's own errors are among the responses of each operation.
    #[must_use]
    pub fn openapi(&self) -> Value {
        let mut document = self.layer.openapi();
        let description = document["info"]["description"].as_str().unwrap_or_default();
        document["info"]["description"] = json!(format!("{description}{}", self.section()));
        let items = document["paths"].as_object_mut();
        let items = items.into_iter().flatten().map(|(_, item)| item);
        let operations = items.flat_map(|item| item.as_object_mut().into_iter().flatten());
        for (_, operation) in operations {
            self.add_to(operation["responses"].as_object_mut(), "");
        }
        self.add_to(
            document["components"]["responses"].as_object_mut(),
            "Idempotency",
        );
        document
    }

    /// Adds the sidecar's errors to responses whose names are `prefix` and a status.
    fn add_to(&self, responses: Option<&mut Map<String, Value>>, prefix: &str) {
        let Some(responses) = responses else { return };
        // No operation has the method CONNECT.
        let errors = self.errors.iter();
        for error in errors.filter(|error| error.code != GatewayCode::ConnectRefused) {
            let name = format!("{prefix}{}", error.status.as_u16());
            let response = responses.entry(name).or_insert_with(|| json!({}));
            let own = format!("- `{}`: {}", error.code, error.when);
            response["description"] = match response["description"].as_str() {
                Some(others) => json!(format!("{others}\n{own}")),
                None => json!(own),
            };
            let media_type = &mut response["content"][&error.content_type];
            // A schema that stands there describes the layer's rejections.
            if let Some(layer) = media_type.get("schema").cloned()
                && layer["description"] != GATEWAY
            {
                media_type["schema"] = json!({ "anyOf": [layer, {}], "description": GATEWAY });
            }
            let example = json!({ "summary": error.when, "value": error.json_body() });
            media_type["examples"][error.code.as_str()] = example;
        }
    }

    /// The sections that the sidecar adds to the layer's page.
    fn section(&self) -> String {
        let rows = self.errors.iter().map(|error| {
            let ProxyError {
                code,
                status,
                when,
                advice,
                ..
            } = error;
            format!("| `{code}` | {} | {when} | {advice} |\n", status.as_u16())
        });
        let rows: String = rows.collect();
        let examples: String = self.errors.iter().map(ProxyError::example).collect();
        let limits = limits(&self.limits);
        format!(
            "\n## The service behind the proxy\n\n{SERVICE}\n\n{limits}\n## Errors on the way to the service\n\n\
             | code | status | when | what to do |\n| --- | --- | --- | --- |\n{rows}{examples}"
        )
    }
}

/// The limits of the way to the service, as a section of the page.
fn limits(own: &Limits) -> String {
    let share = |share: Option<usize>| {
        share.map_or("seven times what is free".to_owned(), |share| {
            share.to_string()
        })
    };
    format!(
        "## Limits of the way to the service\n\n\
         | limit | all | one client | beyond it |\n| --- | --- | --- | --- |\n\
         | connections | {} | {} | they wait, or are closed |\n\
         | requests at the service | {} | {} | they wait, up to {} of each kind, then `over-capacity` |\n\
         | bytes of the head of a request | | {} | 431 |\n\
         | requests at a time on a connection of HTTP/2 | | {} | the stream is refused |\n\
         | streams that a client resets in a second | | {} | the connection ends |\n\n\
         A client that neither reads nor sends for {:?} is disconnected.\n",
        own.max_connections,
        share(own.max_connections_per_peer),
        own.max_upstream_requests,
        share(own.max_upstream_requests_per_caller),
        own.max_upstream_queue,
        own.max_head_bytes,
        own.max_streams,
        own.max_resets_per_second,
        own.client_timeout,
    )
}

/// What the schema of a media type is for that some of the layer's rejections have too.
const GATEWAY: &str = "An error of this API, or of the way to its service.";

impl ProxyError {
    fn new(code: GatewayCode, refusals: &Refusals) -> Option<Self> {
        let (when, advice) = for_clients(code)?;
        let id = HeaderValue::from_static("6d2f7c1e-0b0a-4b6e-9a53-5c1d0e9f8a77");
        let asked = refusals.asked(&HeaderMap::from_iter([(REQUEST_ID, id)]));
        let (head, body) = refusals.response(&usual(code), &asked).into_parts();
        let content_type = head.headers.get(CONTENT_TYPE);
        let content_type = content_type.and_then(|own| own.to_str().ok());
        Some(Self {
            code,
            status: head.status,
            when,
            advice,
            content_type: content_type.unwrap_or_default().to_owned(),
            body,
        })
    }

    /// The body as JSON if it is JSON, else as a string.
    fn json_body(&self) -> Value {
        let text = || String::from_utf8_lossy(&self.body).into_owned();
        serde_json::from_slice(&self.body).unwrap_or_else(|_| Value::String(text()))
    }

    /// The response as HTTP/1.1 sends it.
    fn example(&self) -> String {
        let Self {
            code,
            status,
            content_type,
            ..
        } = self;
        let body = String::from_utf8_lossy(&self.body);
        format!(
            "\n### `{code}`\n\n```http\nHTTP/1.1 {status}\nContent-Type: {content_type}\n\n{}\n```\n",
            body.trim_end()
        )
    }
}
