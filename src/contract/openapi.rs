//! The contract as a fragment of an OpenAPI 3.1 document.

use std::collections::BTreeMap;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, LINK, RETRY_AFTER};
use http::{HeaderName, Method};
use serde_json::{Map, Value, json};

use crate::contract::path::Template;
use crate::contract::schema::{Schemas, example_body, key_body, key_parameter};
use crate::contract::{Contract, Endpoint, RejectionExample, sentences};
use crate::display::{header_name, join_with};

impl Contract {
    /// The contract as an OpenAPI 3.1 document, to be merged into the document of
    /// an API: an operation for each route, with the header and the member of a JSON body that carry the
    /// key, the errors, and the headers of other responses. The document contains
    /// nothing else.
    ///
    /// The rules for all other endpoints have no operation. Their parameters and
    /// responses are components, for the API's own operations to refer to:
    /// `IdempotencyKey`, `IdempotencyBody`, `IdempotencyResponse`, `Idempotency409`.
    ///
    /// An operation refers to schemas among the components and to nothing else, so
    /// that it can be moved to another document together with them.
    #[must_use]
    pub fn openapi(&self) -> Value {
        let mut schemas = Schemas::default();
        let mut paths = Paths::default();
        let mut components = Map::new();
        let mut left_out = Vec::new();
        for endpoint in self.with_keys() {
            let responses = responses(endpoint, &mut schemas);
            match &endpoint.path {
                Some(path) => {
                    let mut operation =
                        json!({ "parameters": parameters(endpoint), "responses": responses });
                    if let Some(body) = request_body(endpoint) {
                        operation["requestBody"] = body;
                    }
                    left_out.extend(paths.add(endpoint, path, &operation));
                }
                None => components = reusable(endpoint, responses),
            }
        }
        if !schemas.0.is_empty() {
            components.insert("schemas".to_owned(), Value::Object(schemas.0));
        }
        let mut description = self.markdown();
        if !left_out.is_empty() {
            let note = format!(
                "\nOpenAPI has no operations for {}.\n",
                join_with(&left_out, "and")
            );
            description.push_str(&note);
        }
        let mut document = json!({
            "openapi": "3.1.0",
            "info": { "title": "Idempotency", "version": "1", "description": description },
            "paths": paths.items,
            "components": components,
        });
        if let Some(url) = &self.docs_url {
            document["externalDocs"] = json!({ "url": url });
        }
        document
    }
}

/// Path items, one for each shape of a path.
#[derive(Default)]
struct Paths {
    items: Map<String, Value>,
    templates: BTreeMap<String, Template>,
}

impl Paths {
    /// Returns the methods for which OpenAPI has no operation.
    fn add(&mut self, endpoint: &Endpoint, pattern: &str, operation: &Value) -> Vec<String> {
        let template = Template::of(pattern);
        let template = self.templates.entry(template.shape()).or_insert(template);
        let mut operation = operation.clone();
        if let Value::Array(parameters) = &mut operation["parameters"] {
            parameters.extend(template.parameters.iter().map(|own| {
                let mut parameter = json!({
                    "name": own.name, "in": "path", "required": true,
                    "schema": { "type": "string" },
                });
                if own.rest {
                    parameter["description"] = json!("The rest of the path, slashes included.");
                }
                parameter
            }));
        }
        let mut left_out = Vec::new();
        for method in &endpoint.methods {
            if [Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(method) {
                let item = self.items.entry(template.path.clone()).or_insert(json!({}));
                item[method.as_str().to_ascii_lowercase()] = operation.clone();
            } else {
                left_out.push(format!("`{method} {pattern}`"));
            }
        }
        left_out
    }
}

/// Components for operations that no pattern names.
fn reusable(endpoint: &Endpoint, responses: Map<String, Value>) -> Map<String, Value> {
    let numbered = |(at, parameter)| match at {
        0 => ("IdempotencyKey".to_owned(), parameter),
        _ => (format!("IdempotencyKey{}", at + 1), parameter),
    };
    let parameters = parameters(endpoint).into_iter().enumerate().map(numbered);
    let named = |(status, response): (String, Value)| match &*status {
        "default" => ("IdempotencyResponse".to_owned(), response),
        _ => (format!("Idempotency{status}"), response),
    };
    let responses = responses.into_iter().map(named);
    let mut components = Map::from_iter([
        ("parameters".to_owned(), Value::Object(parameters.collect())),
        ("responses".to_owned(), Value::Object(responses.collect())),
    ]);
    if let Some(body) = request_body(endpoint) {
        let bodies = json!({ "IdempotencyBody": body });
        components.insert("requestBodies".to_owned(), bodies);
    }
    components
}

/// The body of a request, where it may carry the key.
fn request_body(endpoint: &Endpoint) -> Option<Value> {
    let keys = &endpoint.options.keys;
    if keys.in_body.is_empty() {
        return None;
    }
    let example = example_body(keys).map(|body| ("key".to_owned(), json!({ "value": body })));
    let examples: Map<_, _> = example.into_iter().collect();
    let content = json!({ "schema": key_body(keys), "examples": examples });
    Some(json!({ "content": { "application/json": content } }))
}

fn parameters(endpoint: &Endpoint) -> Vec<Value> {
    let description = sentences::paragraphs(sentences::sending(endpoint));
    let names = endpoint.options.keys.headers.iter();
    names
        .map(|name| key_parameter(&endpoint.options, name, &description))
        .collect()
}

/// Responses by status, and `default` for the operation's own response.
fn responses(endpoint: &Endpoint, schemas: &mut Schemas) -> Map<String, Value> {
    let mut by_status: BTreeMap<&str, Vec<&RejectionExample>> = BTreeMap::new();
    for example in &endpoint.rejections {
        let examples = by_status.entry(example.status.as_str()).or_default();
        examples.push(example);
    }
    let mut responses = Map::new();
    for (status, examples) in by_status {
        responses.insert(status.to_owned(), errors(&examples, schemas));
    }
    responses.insert("default".to_owned(), own_response(endpoint));
    responses
}

/// The response for one status, which several rejections may share.
fn errors(examples: &[&RejectionExample], schemas: &mut Schemas) -> Value {
    let when = |example: &&RejectionExample| {
        let (when, _) = example.code.for_clients();
        format!("- `{}`: {when}", example.code)
    };
    let description: Vec<_> = examples.iter().map(when).collect();
    let mut headers = Map::new();
    let mut content: BTreeMap<&str, Vec<&RejectionExample>> = BTreeMap::new();
    for example in examples {
        for (name, value) in &example.headers {
            if name != CONTENT_TYPE
                && let Ok(value) = value.to_str()
            {
                headers
                    .entry(header_name(name))
                    .or_insert_with(|| header(name, value));
            }
        }
        if let Some(content_type) = example.content_type() {
            content.entry(content_type).or_default().push(example);
        }
    }
    let content = content.into_iter().map(|(content_type, examples)| {
        let mut own: Vec<Option<Value>> = Vec::new();
        for schema in examples.iter().map(|example| schemas.of(example)) {
            if !own.contains(&schema) {
                own.push(schema);
            }
        }
        let mut media_type = json!({});
        // A rendered body can be anything, so the media type gets no schema.
        if let Some(mut own) = own.into_iter().collect::<Option<Vec<_>>>() {
            media_type["schema"] = match own.len() {
                1 => own.remove(0),
                _ => json!({ "anyOf": own }),
            };
        }
        let examples = examples.iter().filter_map(|own| {
            let example = json!({ "summary": own.code.title(), "value": own.json_body()? });
            Some((own.code.as_str().to_owned(), example))
        });
        media_type["examples"] = examples.collect::<Map<_, _>>().into();
        (content_type.to_owned(), media_type)
    });
    json!({
        "description": description.join("\n"),
        "headers": headers,
        "content": content.collect::<Map<_, _>>(),
    })
}

fn header(name: &HeaderName, value: &str) -> Value {
    let (description, schema) = match *name {
        RETRY_AFTER => (
            "How many seconds to wait before the next attempt.",
            json!({ "type": "integer", "minimum": 0 }),
        ),
        LINK => (
            "Where this API's documentation is.",
            json!({ "type": "string" }),
        ),
        CACHE_CONTROL => ("Errors must not be cached.", json!({ "type": "string" })),
        _ if name == "x-request-id" => (
            "The id of the request, or an id that was made for the request.",
            json!({ "type": "string" }),
        ),
        _ => ("", json!({ "type": "string" })),
    };
    let number = value.parse::<u64>().ok().filter(|_| name == RETRY_AFTER);
    let example = number.map_or(json!(value), |number| json!(number));
    let mut header = json!({ "schema": schema, "example": example });
    if !description.is_empty() {
        header["description"] = json!(description);
    }
    header
}

/// The response of the operation itself, with the headers that the layer adds.
fn own_response(endpoint: &Endpoint) -> Value {
    let options = &*endpoint.options;
    let mut headers = Map::new();
    let mut mark = |name: &HeaderName, description: &str, schema: Value| {
        let header = json!({ "description": description, "schema": schema });
        headers.insert(header_name(name), header);
    };
    let time = || json!({ "type": "string", "format": "date-time" });
    if let Some(name) = &options.replayed_header {
        let marked = "This is the first response again: nothing was executed this time.";
        mark(name, marked, json!({ "type": "string", "enum": ["true"] }));
    }
    if let Some(name) = &options.created_at_header {
        mark(name, "When the execution began.", time());
    }
    if let Some(name) = &options.expires_at_header {
        mark(name, "Until when the response is kept.", time());
    }
    if options.echo_key {
        for name in &options.keys.headers {
            mark(
                name,
                "The key, as it was sent.",
                json!({ "type": "string" }),
            );
        }
    }
    mark(
        &HeaderName::from_static("idempotency-status"),
        "Which protection the response lacks: the response was not recorded in time, or the operation was \
         executed without protection.",
        json!({ "type": "string", "enum": ["unrecorded", "unprotected"] }),
    );
    json!({
        "description": format!(
            "The operation's own response, or the first response again.\n\n{}",
            sentences::paragraphs(sentences::retrying(endpoint))
        ),
        "headers": headers,
    })
}
