//! The JSON Schema, as files are really read.

use schemars::Schema;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::Value;

/// What may be left out may not be `null` instead.
#[derive(Clone, Debug)]
pub(super) struct NoNull;

impl Transform for NoNull {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(members) = schema.as_object_mut() else {
            return;
        };
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
