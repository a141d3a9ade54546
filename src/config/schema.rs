//! Changes the derived JSON Schema where files are read otherwise.

use schemars::Schema;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::Value;

/// The derived schema lets an entry that may be left out be `null`, keeps the line breaks of comments, and
/// has a format `uint` that JSON Schema does not know. This transform removes all three.
#[derive(Clone, Debug)]
pub(super) struct AsRead;

impl Transform for AsRead {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(members) = schema.as_object_mut() else {
            return;
        };
        if let Some(Value::String(description)) = members.get_mut("description") {
            *description = description.replace('\n', " ");
        }
        if members.get("format").is_some_and(|format| format == "uint") {
            members.remove("format");
        }
        if let Some(Value::Array(types)) = members.get_mut("type") {
            types.retain(|own| own != "null");
            if let [only] = &**types {
                let only = only.clone();
                members.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(values)) = members.get_mut("enum") {
            values.retain(|own| !own.is_null());
        }
        let Some(Value::Array(some)) = members.get_mut("anyOf") else {
            return;
        };
        some.retain(|own| own != &serde_json::json!({ "type": "null" }));
        if let [Value::Object(only)] = &mut **some {
            let only = std::mem::take(only);
            members.remove("anyOf");
            for (name, value) in only {
                members.entry(name).or_insert(value);
            }
        }
    }
}
