//! Schemas of keys and of errors, for OpenAPI 3.1.

use http::HeaderName;
use serde_json::{Map, Value, json};

use crate::contract::{RejectionExample, Terms};
use crate::display::header_name;
use crate::options::key::{KeySyntax, UUID};
use crate::rejection::RejectionCode;

const UUID_PATTERN: &str = "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}";
/// What anybody can send who does not make up a key.
const EXAMPLE: &str = "2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f1";

/// The parameter of this header. A value that fits its schema is accepted,
/// unless a format of the application's own refuses it; there are others that
/// are accepted too, such as those with escapes.
pub(super) fn key_parameter(terms: &Terms, name: &HeaderName, description: &str) -> Value {
    let strict = terms.key_syntax == KeySyntax::Strict;
    let is_uuid = terms.key_format.as_deref() == Some(UUID);
    let pattern = match terms.key_syntax {
        KeySyntax::Strict if is_uuid => format!("^\"{UUID_PATTERN}\"$"),
        _ if is_uuid => format!("^{UUID_PATTERN}$"),
        KeySyntax::Strict => "^\"[ !#-\\[\\]-~]+\"$".to_owned(),
        // Space around it does not count, so that it would be too long.
        KeySyntax::Lenient => "^[!#-~]([ -~]*[!-~])?$".to_owned(),
        KeySyntax::Raw => "^[!-~]([ -~]*[!-~])?$".to_owned(),
    };
    let quotes = if strict { 2 } else { 0 };
    let mut schema = json!({
        "type": "string",
        "minLength": terms.key_length.start().saturating_add(quotes),
        "pattern": pattern,
    });
    if let Some(longest) = terms.key_length.end().checked_add(quotes) {
        schema["maxLength"] = json!(longest);
    }
    if is_uuid && !strict {
        schema["format"] = json!("uuid");
    }
    let mut parameter = json!({
        "name": header_name(name),
        "in": "header",
        "description": description,
        // Of several, any one will do.
        "required": terms.key_required && terms.header.len() == 1,
        "schema": schema,
    });
    let any_will_do = is_uuid || terms.key_format.is_none();
    if any_will_do && terms.key_length.contains(&EXAMPLE.len()) {
        let example = if strict {
            format!("\"{EXAMPLE}\"")
        } else {
            EXAMPLE.to_owned()
        };
        parameter["example"] = json!(example);
    }
    parameter
}

/// The schemas of errors that a document has so far, by name.
#[derive(Default)]
pub(super) struct Schemas(pub(super) Map<String, Value>);

impl Schemas {
    /// The schema of this body. `None` where answers are made from requests: an
    /// example says little about the others.
    pub(super) fn of(&mut self, refusal: &RejectionExample) -> Option<Value> {
        if refusal.rendered {
            return None;
        }
        let body = refusal.is_json().then(|| refusal.body()).flatten();
        Some(match body {
            None => json!({ "type": "string" }),
            Some(body) if is_problem(refusal, &body) => self.named("IdempotencyProblem", problem()),
            Some(body) => self.named("IdempotencyError", shape(&body)),
        })
    }

    /// A reference to this schema, under this name or one like it.
    fn named(&mut self, name: &str, schema: Value) -> Value {
        let known = self.0.iter().find(|(_, own)| **own == schema);
        let name = known.map_or_else(
            || {
                let mut names = (2..).map(|number| format!("{name}{number}"));
                let first = Some(name.to_owned()).filter(|name| !self.0.contains_key(name));
                first.or_else(|| names.find(|name| !self.0.contains_key(name)))
            },
            |(name, _)| Some(name.clone()),
        );
        let name = name.expect("there is always another number");
        let reference = json!({ "$ref": format!("#/components/schemas/{name}") });
        self.0.insert(name, schema);
        reference
    }
}

fn is_problem(refusal: &RejectionExample, body: &Value) -> bool {
    refusal.content_type() == Some("application/problem+json") && body["source"] == "idempotency"
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
                "description": "What the client can do: send the same request again, correct it and \
                                use a new key, or neither.",
            },
            "source": { "type": "string", "enum": ["idempotency"] },
        },
    })
}

/// The schema of all bodies that only differ in the values of their members.
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
                // Some readers want to know of what it is one.
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
