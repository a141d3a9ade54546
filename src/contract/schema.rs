//! Schemas of keys and of errors, for OpenAPI 3.1.

use http::HeaderName;
use serde_json::{Map, Value, json};

use crate::contract::RejectionExample;
use crate::display::header_name;
use crate::options::key::{KeyRules, KeySyntax, UUID, UUID7};
use crate::options::{Require, RouteOptions};
use crate::rejection::RejectionCode;

const UUID_PATTERN: &str = "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}";
const UUID7_PATTERN: &str =
    "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-7[0-9A-Fa-f]{3}-[89ABab][0-9A-Fa-f]{3}-[0-9A-Fa-f]{12}";
/// The key in examples.
const EXAMPLE: &str = "2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f1";
const EXAMPLE7: &str = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";

/// The parameter for this header. The layer accepts every value that fits the
/// schema, unless the application's own key format rejects the value. The layer
/// also accepts some values that don't fit the schema, such as those with escapes.
pub(super) fn key_parameter(options: &RouteOptions, name: &HeaderName, description: &str) -> Value {
    let keys = &options.keys;
    let strict = keys.syntax == KeySyntax::Strict;
    let uuid = uuid_pattern(keys);
    let pattern = match (keys.syntax, uuid) {
        (KeySyntax::Strict, Some(uuid)) => format!("^\"{uuid}\"$"),
        (_, Some(uuid)) => format!("^{uuid}$"),
        (KeySyntax::Strict, None) => "^\"[ !#-\\[\\]-~]+\"$".to_owned(),
        // The layer removes spaces at the ends before it counts the characters,
        // so a value with such spaces could be shorter than `minLength`.
        (KeySyntax::Lenient, None) => r"^[!#-+\--~]([ -+\--~]*[!-+\--~])?$".to_owned(),
        (KeySyntax::Raw, None) => "^[!-~]([ -~]*[!-~])?$".to_owned(),
    };
    let quotes = if strict { 2 } else { 0 };
    let mut schema = json!({
        "type": "string",
        "minLength": keys.length.start().saturating_add(quotes),
        "pattern": pattern,
    });
    if let Some(longest) = keys.length.end().checked_add(quotes) {
        schema["maxLength"] = json!(longest);
    }
    if uuid.is_some() && !strict {
        schema["format"] = json!("uuid");
    }
    let mut parameter = json!({
        "name": header_name(name),
        "in": "header",
        "description": description,
        // If several places may carry the key, none of them is required.
        "required": options.require == Require::Required
            && keys.headers.len() == 1
            && keys.in_body.is_empty(),
        "schema": schema,
    });
    if let Some(example) = example(keys) {
        let example = if strict {
            format!("\"{example}\"")
        } else {
            example.to_owned()
        };
        parameter["example"] = json!(example);
    }
    parameter
}

/// The pattern of keys that must be UUIDs.
fn uuid_pattern(keys: &KeyRules) -> Option<&'static str> {
    match keys.format.name()? {
        UUID => Some(UUID_PATTERN),
        UUID7 => Some(UUID7_PATTERN),
        _ => None,
    }
}

/// The example, if it is a key under these rules.
fn example(keys: &KeyRules) -> Option<&'static str> {
    let example = match keys.format.name() {
        None | Some(UUID) => EXAMPLE,
        Some(UUID7) => EXAMPLE7,
        Some(_) => return None,
    };
    keys.length.contains(&example.len()).then_some(example)
}

/// An example of a body with a key.
pub(super) fn example_body(keys: &KeyRules) -> Option<Value> {
    let (pointer, example) = keys.in_body.first().zip(example(keys))?;
    let names = pointer.names().iter().rev();
    Some(names.fold(json!(example), |inner, name| json!({ name: inner })))
}

/// The schema of a JSON body that may carry the key: an object for each step of a pointer, and the key
/// as its last member. It requires no member, since a header may carry the key too.
pub(super) fn key_body(keys: &KeyRules) -> Value {
    let mut key = json!({
        "type": "string",
        "description": "The idempotency key.",
        "minLength": keys.length.start(),
        "maxLength": keys.length.end(),
        "pattern": "^[ -~]*$",
    });
    if let Some(uuid) = uuid_pattern(keys) {
        key["pattern"] = json!(format!("^{uuid}$"));
        key["format"] = json!("uuid");
    }
    let mut body = json!({ "type": "object" });
    for pointer in &keys.in_body {
        let names = pointer.names().iter();
        let place = names.fold(&mut body, |object, name| {
            object["type"] = json!("object");
            &mut object["properties"][name]
        });
        *place = key.clone();
    }
    body
}

/// The schemas of errors in a document, by name.
#[derive(Default)]
pub(super) struct Schemas(pub(super) Map<String, Value>);

impl Schemas {
    /// The schema of this body. `None` if a renderer makes the bodies, because one
    /// example says little about the others.
    pub(super) fn of(&mut self, example: &RejectionExample) -> Option<Value> {
        if example.rendered {
            return None;
        }
        let body = example.is_json().then(|| example.json_body()).flatten();
        Some(match body {
            None => json!({ "type": "string" }),
            Some(body) if is_problem(example, &body) => self.named("IdempotencyProblem", problem()),
            Some(body) => self.named("IdempotencyError", shape(&body)),
        })
    }

    /// A reference to this schema, under `name` or `name` with a number.
    fn named(&mut self, name: &str, schema: Value) -> Value {
        let numbered = (2..).map(|number| format!("{name}{number}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        let free_or_equal = |name: &String| self.0.get(name).is_none_or(|own| *own == schema);
        let name = names.find(free_or_equal);
        let name = name.expect("there is always another number");
        let reference = json!({ "$ref": format!("#/components/schemas/{name}") });
        self.0.insert(name, schema);
        reference
    }
}

fn is_problem(example: &RejectionExample, body: &Value) -> bool {
    example.content_type() == Some("application/problem+json") && body["source"] == "idempotency"
}

fn problem() -> Value {
    let codes: Vec<_> = RejectionCode::ALL
        .iter()
        .map(|code| code.as_str())
        .collect();
    json!({
        "type": "object",
        "description": "A request that was not executed (RFC 9457).",
        "required": ["type", "title", "status", "detail", "code", "retry", "source"],
        "properties": {
            "type": { "type": "string", "format": "uri-reference" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string", "description": "For people." },
            "code": { "type": "string", "enum": codes },
            "retry": {
                "type": "string",
                "enum": ["same-key", "new-key", "never"],
                "description": "What the client can do: send the same request again with the same \
                                key, correct the request and use a new key, or neither.",
            },
            "source": { "type": "string", "enum": ["idempotency"] },
        },
    })
}

/// The schema of all bodies that differ only in the values of their members.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => json!({ "type": "null" }),
        Value::Bool(_) => json!({ "type": "boolean" }),
        Value::Number(_) => json!({ "type": "number" }),
        Value::String(_) => json!({ "type": "string" }),
        Value::Array(items) => {
            let mut shapes: Vec<Value> = Vec::new();
            for item in items.iter().map(shape) {
                if !shapes.contains(&item) {
                    shapes.push(item);
                }
            }
            match shapes.len() {
                // Some tools reject an array without `items`.
                0 => json!({ "type": "array", "items": {} }),
                1 => json!({ "type": "array", "items": shapes[0] }),
                _ => json!({ "type": "array", "items": { "anyOf": shapes } }),
            }
        }
        Value::Object(members) => {
            let required: Vec<_> = members.keys().collect();
            let properties = members
                .iter()
                .map(|(name, value)| (name.clone(), shape(value)));
            json!({
                "type": "object",
                "required": required,
                "properties": properties.collect::<Map<_, _>>(),
            })
        }
    }
}
