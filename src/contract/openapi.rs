//! The contract as a fragment of an OpenAPI 3.1 document.

use std::collections::BTreeMap;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, LINK, RETRY_AFTER};
use http::{HeaderName, Method};
use serde_json::{Map, Value, json};

use crate::contract::path::Template;
use crate::contract::schema::{Schemas, key_parameter};
use crate::contract::{Contract, Endpoint, RejectionExample, Terms, refusals, words};
use crate::display::{header_name, join_with};

impl Contract {
    /// The contract as an OpenAPI 3.1 document that holds nothing else, to be
    /// merged into an API's own: an operation for each route, with the header
    /// that carries the key, the errors, and the headers of other answers.
    ///
    /// What holds for every other endpoint has no operation. Its parameters and
    /// responses are among the components, for the API's own operations to
    /// refer to: `IdempotencyKey`, `IdempotencyAnswer`, `Idempotency409`.
    ///
    /// Operations refer to schemas among the components and to nothing else, so
    /// that they can be moved.
    #[must_use]
    pub fn openapi(&self) -> Value {
        let mut schemas = Schemas::default();
        let mut paths = Paths::default();
        let mut components = Map::new();
        let mut unsaid = Vec::new();
        for endpoint in &self.endpoints {
            let Some(terms) = &endpoint.terms else {
                continue;
            };
            let mut responses = responses(terms, &mut schemas);
            self.add_gateway_errors(&mut responses);
            match &endpoint.path {
                Some(path) => {
                    let operation =
                        json!({ "parameters": parameters(terms), "responses": responses });
                    unsaid.extend(paths.add(endpoint, path, &operation));
                }
                None => components = reusable(terms, responses),
            }
        }
        if !schemas.0.is_empty() {
            components.insert("schemas".to_owned(), Value::Object(schemas.0));
        }
        let mut description = self.markdown();
        if !unsaid.is_empty() {
            let note = format!(
                "\nOpenAPI has no operations for {}.\n",
                join_with(&unsaid, "and")
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

    fn add_gateway_errors(&self, responses: &mut Map<String, Value>) {
        for error in &self.gateway {
            let said = format!("- `{}`: {}", error.code, error.when);
            let own = responses
                .entry(error.status.as_str())
                .or_insert_with(|| json!({ "content": { "application/problem+json": {} } }));
            own["description"] = match own["description"].as_str() {
                Some(before) => json!(format!("{before}\n{said}")),
                None => json!(said),
            };
        }
    }
}

/// Path items, one for each shape of a path.
#[derive(Default)]
struct Paths {
    items: Map<String, Value>,
    templates: BTreeMap<String, Template>,
}

impl Paths {
    /// Returns what OpenAPI has no word for.
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
        let mut unsaid = Vec::new();
        for method in &endpoint.methods {
            if [Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(method) {
                let item = self.items.entry(template.path.clone()).or_insert(json!({}));
                item[method.as_str().to_ascii_lowercase()] = operation.clone();
            } else {
                unsaid.push(format!("`{method} {pattern}`"));
            }
        }
        unsaid
    }
}

/// For operations that no pattern names.
fn reusable(terms: &Terms, responses: Map<String, Value>) -> Map<String, Value> {
    let numbered = |(at, parameter)| match at {
        0 => ("IdempotencyKey".to_owned(), parameter),
        _ => (format!("IdempotencyKey{}", at + 1), parameter),
    };
    let parameters = parameters(terms).into_iter().enumerate().map(numbered);
    let named = |(status, response): (String, Value)| match &*status {
        "default" => ("IdempotencyAnswer".to_owned(), response),
        _ => (format!("Idempotency{status}"), response),
    };
    let responses = responses.into_iter().map(named);
    Map::from_iter([
        ("parameters".to_owned(), Value::Object(parameters.collect())),
        ("responses".to_owned(), Value::Object(responses.collect())),
    ])
}

fn parameters(terms: &Terms) -> Vec<Value> {
    let description = words::paragraphs(words::sending(terms));
    let parameter = |name| key_parameter(terms, name, &description);
    terms.header.iter().map(parameter).collect()
}

/// By status, and `default` for the operation's own answers.
fn responses(terms: &Terms, schemas: &mut Schemas) -> Map<String, Value> {
    let mut by_status: BTreeMap<String, Vec<&RejectionExample>> = BTreeMap::new();
    for refusal in &terms.refusals {
        by_status
            .entry(refusal.status.as_str().to_owned())
            .or_default()
            .push(refusal);
    }
    let mut responses = Map::new();
    for (status, refusals) in by_status {
        responses.insert(status, errors(&refusals, schemas));
    }
    responses.insert("default".to_owned(), answer(terms));
    responses
}

/// The answer of one status, whatever is wrong.
fn errors(refusals: &[&RejectionExample], schemas: &mut Schemas) -> Value {
    let said = |refusal: &&RejectionExample| {
        format!("- `{}`: {}", refusal.code, refusals::when(refusal.code))
    };
    let description: Vec<_> = refusals.iter().map(said).collect();
    let mut headers = Map::new();
    let mut content: BTreeMap<&str, Vec<&RejectionExample>> = BTreeMap::new();
    for refusal in refusals {
        for (name, value) in &refusal.headers {
            if name != CONTENT_TYPE
                && let Ok(value) = value.to_str()
            {
                headers
                    .entry(header_name(name))
                    .or_insert_with(|| header(name, value));
            }
        }
        if let Some(content_type) = refusal.content_type() {
            content.entry(content_type).or_default().push(refusal);
        }
    }
    let content = content.into_iter().map(|(content_type, refusals)| {
        let mut own: Vec<Option<Value>> = Vec::new();
        for schema in refusals.iter().map(|refusal| schemas.of(refusal)) {
            if !own.contains(&schema) {
                own.push(schema);
            }
        }
        let mut media_type = json!({});
        // What fits any has no schema.
        if let Some(mut own) = own.into_iter().collect::<Option<Vec<_>>>() {
            media_type["schema"] = match own.len() {
                1 => own.remove(0),
                _ => json!({ "anyOf": own }),
            };
        }
        let examples = refusals.iter().filter_map(|refusal| {
            let example = json!({ "summary": refusal.code.title(), "value": refusal.body()? });
            Some((refusal.code.as_str().to_owned(), example))
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
        CACHE_CONTROL => ("Errors are not to be cached.", json!({ "type": "string" })),
        _ if name == "x-request-id" => (
            "The request's own id, or one that was made for it.",
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

/// What the operation itself answers, with the marks of the layer.
fn answer(terms: &Terms) -> Value {
    let mut headers = Map::new();
    let mut mark = |name: &str, description: &str, schema: Value| {
        let header = json!({ "description": description, "schema": schema });
        headers.insert(name.to_owned(), header);
    };
    let time = || json!({ "type": "string", "format": "date-time" });
    if let Some(name) = &terms.replayed_header {
        let marked = "The first answer again: nothing was executed this time.";
        mark(
            &header_name(name),
            marked,
            json!({ "type": "string", "enum": ["true"] }),
        );
    }
    if let Some(name) = &terms.created_at_header {
        mark(&header_name(name), "When the execution began.", time());
    }
    if let Some(name) = &terms.expires_at_header {
        mark(&header_name(name), "Until when the answer is kept.", time());
    }
    if terms.echo_key {
        for name in &terms.header {
            mark(
                &header_name(name),
                "The key, as it was sent.",
                json!({ "type": "string" }),
            );
        }
    }
    mark(
        "Idempotency-Status",
        "What protection the answer lacks: it was not recorded in time, or the operation was executed \
         without protection.",
        json!({ "type": "string", "enum": ["unrecorded", "unprotected"] }),
    );
    json!({
        "description": format!(
            "The operation's own answer, or the first one again.\n\n{}",
            words::paragraphs(words::retrying(terms))
        ),
        "headers": headers,
    })
}
