//! Each refusal, of the layer and of the sidecar, has the form that a vendor's errors have, since
//! a vendor's libraries know no other.

use std::collections::BTreeSet;

use serde_json::Value;
use tower_idempotency::config::Config;
use tower_idempotency::for_sidecar::GatewayCode;
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency_sidecar::Sidecar;

/// This is a refusal as a client gets it.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) code: String,
    pub(crate) status: u16,
    pub(crate) content_type: String,
    /// The body is a string if it is not JSON.
    pub(crate) body: Value,
}

/// Whether a refusal has the form of the vendor's errors.
pub(crate) type IsError = fn(&Refused) -> bool;

impl Refused {
    /// Returns the sentence for people at this place of the body, or a text that is at no place.
    pub(crate) fn sentence(&self, pointer: &str) -> &str {
        let text = self.body.pointer(pointer).and_then(Value::as_str);
        let text = text.filter(|text| text.contains(' ') && text.ends_with('.'));
        text.unwrap_or("no sentence")
    }

    /// Returns the id of the request at this place of the body, or a text that is at no place.
    pub(crate) fn id(&self, pointer: &str) -> &str {
        let id = self.body.pointer(pointer).and_then(Value::as_str);
        id.filter(|id| id.len() == 36).unwrap_or("no id")
    }
}

/// Checks the form of every code under the tables of this file.
pub(crate) fn all_are_errors(file: &str, is_error: IsError) {
    let all = refusals(file);
    let codes: BTreeSet<&str> = all.iter().map(|refused| &*refused.code).collect();
    let layer = RejectionCode::ALL.iter().map(|code| code.as_str());
    let sidecar = GatewayCode::ALL.iter().map(|code| code.as_str());
    assert_eq!(codes, layer.chain(sidecar).collect());
    for refused in &all {
        assert!(is_error(refused), "{refused:#?}");
    }
}

/// The refusals that a file describes with the tables of this one, and with options under which a
/// request can get every code.
pub(crate) fn refusals(file: &str) -> Vec<Refused> {
    let mut text = "listen = '127.0.0.1:0'\nupstream = 'http://127.0.0.1:1'\nstore = 'memory:'\n\
                    authorize = 'http://127.0.0.1:1/'\n[idempotency]\nscope = ['header:x']\n\
                    require = 'required'\nkey_length.min = 2\non_lapsed_lease = 'refuse'\n"
        .to_owned();
    if file.contains("preset = \"mcp\"") {
        text.push_str("preset = 'mcp'\n");
    }
    let mut is_kept = false;
    for line in file.lines() {
        if line.starts_with('[') {
            is_kept = line.starts_with("[idempotency.rejections");
        }
        if is_kept {
            text.push_str(line);
            text.push('\n');
        }
    }
    let contract = Sidecar::contract(&Config::from_toml(&text).unwrap()).unwrap();
    let json = contract.json();
    let layer = json["endpoints"][0]["rejections"].as_array().unwrap();
    let sidecar = json["gateway"].as_array().unwrap();
    let both = layer.iter().chain(sidecar);
    both.map(|own| Refused {
        code: own["code"].as_str().unwrap().to_owned(),
        status: own["status"].as_u64().unwrap().try_into().unwrap(),
        content_type: [&own["headers"]["content-type"], &own["content_type"]]
            .into_iter()
            .find_map(Value::as_str)
            .unwrap()
            .to_owned(),
        body: own["body"].clone(),
    })
    .collect()
}
