//! What the sidecar promises to clients: the contract of its layer, and the errors
//! of requests on their way to the service and back.

use http::StatusCode;
use serde_json::{Map, Value, json};
use tower_idempotency::contract::Contract;
use tower_idempotency::{IdempotencyLayer, for_sidecar};

use crate::options::Settings;
use crate::problem::{
    BAD_METHOD, BAD_PATH, BROKEN, NO_AUTHORIZER, NOT_ALLOWED, Problem, TIMED_OUT, UNREACHED,
};

mod serve;
#[cfg(test)]
mod tests;

/// What a sidecar promises to the clients of the API behind it: what its layer
/// promises, and the sidecar's own errors.
#[derive(Clone, Debug)]
pub struct SidecarContract {
    layer: Contract,
    errors: Vec<ProxyError>,
}

/// A response that the sidecar makes itself, besides the layer's rejections.
#[derive(Clone, Debug)]
struct ProxyError {
    code: &'static str,
    status: StatusCode,
    when: &'static str,
    advice: &'static str,
}

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

impl SidecarContract {
    pub(crate) fn new(layer: &IdempotencyLayer, settings: &Settings) -> Self {
        let mut errors = vec![
            ProxyError::new(
                &UNREACHED,
                "The service was not reached. Nothing was executed.",
                AGAIN,
            ),
            ProxyError::new(
                &BROKEN,
                "The service broke off before it had responded.",
                IN_DOUBT,
            ),
            ProxyError::new(&TIMED_OUT, "The service did not respond in time.", IN_DOUBT),
            ProxyError::new(
                &BAD_PATH,
                "The path can be read in more than one way. Nothing was executed.",
                CORRECT,
            ),
            ProxyError::new(
                &BAD_METHOD,
                "The method is not in upper case. Nothing was executed.",
                CORRECT,
            ),
        ];
        let authorize = settings.authorize.as_ref();
        if authorize.is_some() {
            errors.push(ProxyError::new(
                &NOT_ALLOWED,
                "The caller may not do this; the status is 401 or 403. Nothing was executed or replayed.",
                "Authenticate the request.",
            ));
            errors.push(ProxyError::new(
                &NO_AUTHORIZER,
                "At the moment the API can't find out whether the caller may do this. Nothing was executed.",
                AGAIN,
            ));
        }
        let verified = authorize.map_or(&[][..], |authorize| &authorize.headers);
        Self {
            layer: for_sidecar::contract(layer, verified),
            errors,
        }
    }

    /// The contract as a page for people, in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        self.layer.markdown() + &self.section()
    }

    /// The contract as JSON. The member `gateway` lists the sidecar's own errors,
    /// the other members are those of
    /// [`Contract::json`](tower_idempotency::contract::Contract::json).
    #[must_use]
    pub fn json(&self) -> Value {
        let mut document = self.layer.json();
        let errors = self.errors.iter().map(|error| {
            json!({
                "code": error.code,
                "status": error.status.as_u16(),
                "when": error.when,
                "advice": error.advice,
            })
        });
        document["gateway"] = errors.collect();
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
        for error in &self.errors {
            let name = format!("{prefix}{}", error.status.as_u16());
            let response = responses
                .entry(name)
                .or_insert_with(|| json!({ "content": { "application/problem+json": {} } }));
            let own = format!("- `{}`: {}", error.code, error.when);
            response["description"] = match response["description"].as_str() {
                Some(others) => json!(format!("{others}\n{own}")),
                None => json!(own),
            };
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
            } = error;
            format!("| `{code}` | {} | {when} | {advice} |\n", status.as_u16())
        });
        let rows: String = rows.collect();
        format!(
            "\n## The service behind the proxy\n\n{SERVICE}\n\n## Errors on the way to the service\n\n\
             | code | status | when | what to do |\n| --- | --- | --- | --- |\n{rows}"
        )
    }
}

impl ProxyError {
    fn new(problem: &Problem, when: &'static str, advice: &'static str) -> Self {
        Self {
            code: problem.code,
            status: problem.status,
            when,
            advice,
        }
    }
}
