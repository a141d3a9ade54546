//! The contract as OpenAPI must be valid, complete in itself, and fit to be merged
//! into another document.

use std::collections::HashSet;

use http::Method;
use serde_json::{Value, json};
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::options::Require;
use tower_idempotency::rejection::RejectionCode;

use crate::layers::{api_key, full};

/// Fails unless the document fits the official schema of OpenAPI.
#[track_caller]
pub(crate) fn assert_valid(document: &Value, name: &str) {
    let schema = include_str!("openapi-3.1/schema.json");
    let schema = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
    let errors: Vec<_> = schema
        .iter_errors(document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}");
}

/// Returns layers whose OpenAPI documents differ in structure.
fn layers() -> Vec<(&'static str, IdempotencyLayer)> {
    let ignored = |options: tower_idempotency::RouteOptions| options.require(Require::Ignored);
    let built = |builder: tower_idempotency::IdempotencyLayerBuilder| builder.build().unwrap();
    vec![
        ("defaults", built(api_key())),
        ("full", full()),
        ("nothing", built(api_key().defaults(ignored))),
        (
            "only routes",
            built(
                api_key()
                    .defaults(|options| options.methods([]))
                    .route("DELETE /a/{x}", |options| options)
                    .route("POST /a/{y}", |options| options.require(Require::Required))
                    .route("PUT /a/{y}/{{b}}/{*rest}", |options| options)
                    .route("PURGE /cache", |options| {
                        options.methods([Method::from_bytes(b"PURGE").unwrap()])
                    }),
            ),
        ),
        (
            "bodies of many types",
            built(
                api_key()
                    .rejection_body(RejectionCode::KeyInvalid, "text/plain", "{code}")
                    .rejection_body(
                        RejectionCode::ScopeMissing,
                        "application/json",
                        r#"{"errors":[{"status":{status}},"{title}",null,[]],"fatal":true}"#,
                    )
                    .rejection_body(
                        RejectionCode::BodyUnreadable,
                        "application/json",
                        r#"{"error":"{code}"}"#,
                    )
                    .route("POST /a", |options| options.key_length(8..=usize::MAX)),
            ),
        ),
        (
            "keys in bodies",
            built(
                api_key()
                    .defaults(|options| options.key_in_body(["/key"]))
                    .route("POST /a", |options| {
                        let required = options.require(Require::Required);
                        required.key_in_body(["/meta/idempotency-key", "/meta/key"])
                    }),
            ),
        ),
        (
            "rendered",
            built(api_key().render_rejections(
                |rejection: &tower_idempotency::rejection::Rejection, _: &http::request::Parts| {
                    rejection.answer("application/json", r#"{"a":1}"#)
                },
            )),
        ),
    ]
}

#[test]
fn every_document_is_valid_openapi_3_1() {
    for (name, layer) in layers() {
        assert_valid(&layer.contract().openapi(), name);
    }
}

#[test]
#[should_panic(expected = "/paths/~1a/post/parameters/0")]
fn a_document_that_is_not_valid_fails() {
    let mut document = layers().swap_remove(3).1.contract().openapi();
    document["paths"]["/a"] = json!({ "post": { "parameters": [{ "in": "nowhere" }] } });
    assert_valid(&document, "a wrong one");
}

/// Collects every member with this name, at any depth.
fn all<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(members) => {
            for (own, value) in members {
                if own == name {
                    found.push(value);
                }
                all(value, name, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| all(item, name, found)),
        _ => {}
    }
}

fn found<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    all(value, name, &mut found);
    found
}

/// Returns a validator of the schema, with the components that the schema refers
/// to.
pub(crate) fn validator(document: &Value, schema: &Value) -> jsonschema::Validator {
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    jsonschema::draft202012::new(&schema).unwrap()
}

#[test]
fn references_lead_to_schemas_and_schemas_take_their_examples() {
    let mut references = 0;
    for (name, layer) in layers() {
        let document = layer.contract().openapi();
        for reference in found(&document, "$ref") {
            let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
            assert!(
                pointer.starts_with("/components/schemas/"),
                "{name}: {pointer}"
            );
            assert!(document.pointer(pointer).is_some(), "{name}: {pointer}");
            references += 1;
        }
        for schema in found(&document, "schema") {
            jsonschema::draft202012::meta::validate(schema).unwrap();
        }
        for schema in found(&document, "schemas")
            .iter()
            .flat_map(|all| all.as_object().unwrap().values())
        {
            jsonschema::draft202012::meta::validate(schema).unwrap();
        }
        for content in found(&document, "content") {
            for (content_type, media) in content.as_object().unwrap() {
                let Some(schema) = media.get("schema") else {
                    assert_eq!(name, "rendered");
                    continue;
                };
                let validator = validator(&document, schema);
                for example in media["examples"].as_object().unwrap().values() {
                    let value = &example["value"];
                    assert!(validator.is_valid(value), "{name}: {content_type} {value}");
                }
            }
        }
        for parameter in found(&document, "parameters") {
            for parameter in parameter.as_array().into_iter().flatten() {
                if let Some(example) = parameter.get("example") {
                    assert!(validator(&document, &parameter["schema"]).is_valid(example));
                }
            }
        }
    }
    assert!(references > 10);
}

#[test]
fn path_parameters_are_declared_once_and_paths_differ_in_more_than_names() {
    for (_, layer) in layers() {
        let document = layer.contract().openapi();
        let mut shapes = HashSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let names: Vec<_> = path
                .split('{')
                .skip(1)
                .map(|part| part.split_once('}').unwrap().0)
                .collect();
            let shape = names
                .iter()
                .fold(path.clone(), |path, name| path.replace(name, ""));
            assert!(shapes.insert(shape), "{path}");
            for operation in item.as_object().unwrap().values() {
                let declared: Vec<_> = operation["parameters"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|parameter| parameter["in"] == "path")
                    .map(|parameter| parameter["name"].as_str().unwrap())
                    .collect();
                assert_eq!(declared, names, "{path}");
            }
        }
    }
}

#[test]
fn patterns_become_paths_and_what_has_no_place_is_said() {
    let (_, layer) = layers().swap_remove(3);
    let document = layer.contract().openapi();
    let paths = document["paths"].as_object().unwrap();
    let keys = |item: &Value| {
        item.as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let paths: Vec<_> = paths
        .iter()
        .map(|(path, item)| (path.as_str(), keys(item)))
        .collect();
    assert_eq!(
        paths,
        [
            ("/a/{x}", "delete post".to_owned()),
            ("/a/{y}/%7Bb%7D/{rest}", "put".to_owned()),
        ]
    );
    let description = document["info"]["description"].as_str().unwrap();
    assert!(description.ends_with("OpenAPI has no operations for `PURGE /cache`.\n"));
}

#[test]
fn what_holds_for_every_other_path_is_among_the_components() {
    let document = full().contract().openapi();
    let components = &document["components"];
    let key = &components["parameters"]["IdempotencyKey"];
    assert_eq!(key["name"], "Idempotency-Key");
    assert_eq!(key["required"], false);
    let responses = components["responses"].as_object().unwrap();
    let names: Vec<_> = responses.keys().collect();
    assert_eq!(
        names,
        [
            "Idempotency400",
            "Idempotency408",
            "Idempotency409",
            "Idempotency413",
            "Idempotency503",
            "IdempotencyResponse",
        ]
    );
    // The ignored route has no operation.
    assert_eq!(document["paths"].as_object().unwrap().len(), 3);
}

#[test]
fn a_body_that_may_carry_the_key_has_a_schema() {
    let layer = api_key()
        .defaults(|options| options.key_in_body(["/key"]))
        .route("POST /a", |options| {
            let required = options.require(Require::Required);
            required.key_in_body(["/meta/idempotency-key", "/meta/key"])
        });
    let document = layer.build().unwrap().contract().openapi();
    let operation = &document["paths"]["/a"]["post"];
    assert_eq!(operation["parameters"][0]["required"], false);
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let members = &schema["properties"]["meta"]["properties"];
    for key in ["idempotency-key", "key"] {
        assert_eq!(members[key]["maxLength"], 255);
    }
    let elsewhere = &document["components"]["requestBodies"]["IdempotencyBody"];
    let schema = &elsewhere["content"]["application/json"]["schema"];
    assert_eq!(schema["properties"]["key"]["type"], "string");
}

#[test]
fn an_operation_has_the_key_the_errors_and_the_marks() {
    let document = full().contract().openapi();
    let operation = &document["paths"]["/orders"]["post"];
    let key = &operation["parameters"][0];
    assert_eq!(key["name"], "Idempotency-Key");
    assert_eq!(key["required"], true);
    assert_eq!(
        key["schema"],
        json!({
            "type": "string", "minLength": 8, "maxLength": 64,
            "pattern": r"^[!#-+\--~]([ -+\--~]*[!-+\--~])?$",
        })
    );
    let responses = &operation["responses"];
    let statuses: Vec<_> = responses.as_object().unwrap().keys().collect();
    assert_eq!(statuses, ["400", "408", "409", "413", "503", "default"]);
    // Rejections with the same status share one response.
    let conflict = &responses["409"]["content"]["application/problem+json"];
    let codes: Vec<_> = conflict["examples"].as_object().unwrap().keys().collect();
    assert_eq!(codes, ["in-flight", "key-reused", "response-unavailable"]);
    assert_eq!(responses["409"]["headers"]["Retry-After"]["example"], 1);
    assert_eq!(responses["413"]["headers"].get("Retry-After"), None);
    let bad = responses["400"]["content"].as_object().unwrap();
    let types: Vec<_> = bad.keys().collect();
    assert_eq!(types, ["application/json", "application/problem+json"]);
    let marks: Vec<_> = responses["default"]["headers"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    assert_eq!(
        marks,
        [
            "Idempotency-Created-At",
            "Idempotency-Expires-At",
            "Idempotency-Key",
            "Idempotency-Replayed",
            "Idempotency-Status",
        ]
    );
    let strict = &document["paths"]["/orders/{id}/lines/{rest}"]["put"]["parameters"];
    assert_eq!(
        strict[0]["example"],
        "\"2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f1\""
    );
    assert_eq!(strict[1]["name"], "X-Request-Key");
}

/// utoipa silently leaves out what it does not know, so this test checks that
/// utoipa knows every member.
#[test]
fn utoipa_reads_all_of_a_document() {
    for (name, layer) in layers() {
        let document = layer.contract().openapi();
        let read: utoipa::openapi::OpenApi = serde_json::from_value(document.clone()).unwrap();
        let written = serde_json::to_value(&read).unwrap();
        assert_eq!(lost(&document, &written), None, "{name}");
    }
}

/// Returns the path of the first member that `all` has and `some` does not have.
/// Empty members do not count.
fn lost(all: &Value, some: &Value) -> Option<String> {
    match (all, some) {
        (Value::Object(all), Value::Object(some)) => all
            .iter()
            .filter(|(_, value)| !value.as_object().is_some_and(serde_json::Map::is_empty))
            .find_map(|(name, value)| match some.get(name) {
                Some(own) => lost(value, own).map(|at| format!("/{name}{at}")),
                None => Some(format!("/{name}")),
            }),
        (Value::Array(all), Value::Array(some)) if all.len() == some.len() => {
            let mut pairs = all.iter().zip(some).enumerate();
            pairs.find_map(|(at, (all, some))| lost(all, some).map(|rest| format!("/{at}{rest}")))
        }
        (all, some) => (all != some).then(|| format!(": {all} is {some}")),
    }
}
