//! Values that only one option takes.

use schemars::JsonSchema;
use serde::Deserialize;

use super::amount::Time;
use super::field::{Name, text};
use super::value::{Plain, Setting, values};
use crate::display::Words;
use crate::options::fingerprint::FingerprintBody;
use crate::options::json::JsonFingerprint;
use crate::options::json::member::MemberPointer;
use crate::options::key::KeyFormat;
use crate::options::recording::RecordHeaders;
use crate::options::{self, ExactlyOnce, McpTools, OnInFlight, ReplayedMember, RouteOptions};

values! {
    /// What a key has to look like.
    Format(KeyFormat): "`any`, `uuid` or `uuid7`",
        { "type": "string", "enum": ["any", "uuid", "uuid7"] },
        |plain| match text(&plain)? {
            "any" => Some(KeyFormat::any()),
            "uuid" => Some(KeyFormat::uuid()),
            "uuid7" => Some(KeyFormat::uuid7()),
            _ => None,
        };
    /// What a duplicate gets while the first request runs.
    Waiting(OnInFlight): "`reject` or a table such as { wait = \"10s\" }", { "const": "reject" },
        |plain| (text(&plain)? == "reject").then_some(OnInFlight::Reject),
        or Wait, |table| OnInFlight::Wait(table.wait.0);
    /// Whether handlers commit their claims in transactions of their own, and make them there.
    Exactly(ExactlyOnce): "`false`, `committed` (or `true`) or `in_transaction`",
        { "enum": [false, true, "no", "committed", "in_transaction"] },
        |plain| match plain {
            Plain::Switch(on) => Some(on.into()),
            Plain::Text(text) => {
                ExactlyOnce::WORDS.iter().find(|(word, _)| *word == text).map(|(_, own)| *own)
            }
            Plain::Number(_) => None,
        };
    /// How the request's body is compared.
    Body(FingerprintBody): "`bytes`, `json`, `none` or a table such as \
        { json = { exclude = [\"/sent_at\"] } }",
        { "enum": ["bytes", "json", "none"] },
        |plain| match text(&plain)? {
            "bytes" => Some(FingerprintBody::Bytes),
            "json" => Some(FingerprintBody::Json(JsonFingerprint::new())),
            "none" => Some(FingerprintBody::None),
            _ => None,
        },
        or Json, |table| {
            let Pointers { include, exclude } = table.json;
            let all = JsonFingerprint::new();
            let some = include.set().into_iter().fold(all, JsonFingerprint::include);
            FingerprintBody::Json(exclude.set().into_iter().fold(some, JsonFingerprint::exclude))
        };
    /// A JSON pointer.
    Pointer(String): "a JSON pointer such as \"/amount\" or \"/to/iban\"",
        { "type": "string", "pattern": "^(/.*)?$" },
        |plain| {
            let is_one = |text: &&str| text.is_empty() || text.starts_with('/');
            text(&plain).filter(is_one).map(str::to_owned)
        };
    /// A JSON pointer that leads through objects alone.
    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    MemberName(String): "a JSON pointer to a member, such as \"/idempotency_key\" or \
        \"/meta/idempotency-key\"",
        { "type": "string", "pattern": "^(/([^~/]|~[01])*)+$" },
        |plain| {
            let is_one = |text: &&str| MemberPointer::parse(text).is_ok();
            text(&plain).filter(is_one).map(str::to_owned)
        };
    /// A member of a JSON response, or a member with a value.
    SkipMember(String): "a JSON pointer to a member, or a pointer and a value such as \
        \"/result/isError: true\"",
        { "type": "string", "pattern": format!("^(/([^~/:]|~[01])*)+( *: *({SCALAR}) *)?$") },
        |plain| {
            let is_one = |text: &&str| options::skip_json::SkipMember::read(text).is_ok();
            text(&plain).filter(is_one).map(str::to_owned)
        };
    /// Options for one kind of endpoint: whether it is MCP.
    Preset(bool): "`none` or `mcp`", { "enum": ["none", "mcp"] },
        |plain| match text(&plain)? {
            "none" => Some(false),
            "mcp" => Some(true),
            _ => None,
        };
    /// Which tools of an MCP server are protected.
    Tools(McpTools): "`all` or a table such as { only = [\"pay\"] } or { except = [\"look\"] }",
        { "const": "all" },
        |plain| (text(&plain)? == "all").then_some(McpTools::All),
        or ToolNames, |table| match table {
            ToolNames::Only(names) => McpTools::Only(names),
            ToolNames::Except(names) => McpTools::Except(names),
        };
    /// What a member of a replay is set to.
    Replayed(ReplayedMember): "`true`, `false`, a whole number from 0, a string, or a member of the \
        request such as \"request:/id\"",
        {
            "anyOf": [
                { "type": "boolean" },
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^request:(/([^~/]|~[01])*)+$" },
                { "type": "string", "not": { "pattern": "^request:" } },
            ],
        },
        |plain| Some(match plain {
            Plain::Switch(on) => ReplayedMember::constant(on),
            Plain::Number(number) => ReplayedMember::constant(number),
            Plain::Text(text) => match text.strip_prefix("request:") {
                None => ReplayedMember::constant(text),
                Some(pointer) => {
                    MemberPointer::parse(pointer).ok()?;
                    ReplayedMember::of_request(pointer)
                }
            },
        });
    /// How recorded responses are encrypted; whether responses that are not are replayed, too.
    Encrypting(bool): "`xchacha20-poly1305` or a table such as \
        { cipher = \"xchacha20-poly1305\", also_plain = true }",
        { "type": "string", "enum": [CIPHER] },
        |plain| (text(&plain)? == CIPHER).then_some(false),
        or EncryptionTable, |EncryptionTable { cipher: Cipher(()), also_plain }| also_plain == Some(true);
    /// The only cipher there is.
    Cipher(()): "`xchacha20-poly1305`", { "type": "string", "enum": [CIPHER] },
        |plain| (text(&plain)? == CIPHER).then_some(());
}

impl Preset {
    pub(super) fn is_mcp(&self) -> bool {
        self.0
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum ToolNames {
    /// The tools of these names.
    Only(Vec<String>),
    /// Every tool but those of these names.
    Except(Vec<String>),
}

/// A value of JSON that is no array and no object, in a JSON Schema.
const SCALAR: &str = r#"true|false|null|-?[0-9][-+.0-9eE]*|"([^"\\]|\\.)*""#;

const CIPHER: &str = "xchacha20-poly1305";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct Wait {
    /// For how long at most.
    wait: Time,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct Json {
    json: Pointers,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct Pointers {
    /// JSON pointers: only what they name is compared.
    #[serde(default)]
    include: Vec<Pointer>,
    /// JSON pointers: what they name is not compared.
    #[serde(default)]
    exclude: Vec<Pointer>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct EncryptionTable {
    /// With what.
    cipher: Cipher,
    /// Replays responses that are not encrypted, too: for as long as records live that were made
    /// before encryption was turned on.
    also_plain: Option<bool>,
}

#[cfg(feature = "encryption")]
impl Encrypting {
    pub(super) fn encryption(&self) -> crate::store::Encryption {
        let encryption = crate::store::Encryption::xchacha20_poly1305();
        if self.0 {
            encryption.also_plain()
        } else {
            encryption
        }
    }
}

/// The shortest key and the longest.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Lengths {
    /// The shortest, in characters.
    #[schemars(range(min = 1))]
    min: Option<usize>,
    /// The longest, in characters.
    #[schemars(range(min = 1))]
    max: Option<usize>,
}

impl Lengths {
    /// A bound that is left out stays as it is.
    pub(super) fn set(&self, options: RouteOptions) -> RouteOptions {
        let now = options.keys.length.clone();
        let min = self.min.unwrap_or(*now.start());
        let max = self.max.unwrap_or(*now.end());
        options.key_length(min..=max)
    }
}

/// Which headers of a response are recorded.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(try_from = "HeaderLists")]
#[schemars(with = "HeaderLists", inline)]
pub(super) struct Headers(RecordHeaders);

impl Setting for Headers {
    type Set = RecordHeaders;

    fn set(&self) -> RecordHeaders {
        self.0.clone()
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline, extend("minProperties" = 1, "maxProperties" = 1))]
struct HeaderLists {
    /// All headers but these are recorded.
    deny: Option<Vec<Name>>,
    /// Only these headers are recorded.
    allow: Option<Vec<Name>>,
}

impl TryFrom<HeaderLists> for Headers {
    type Error = &'static str;

    fn try_from(lists: HeaderLists) -> Result<Self, &'static str> {
        match (lists.deny, lists.allow) {
            (Some(deny), None) => Ok(Self(RecordHeaders::deny(deny.set()))),
            (None, Some(allow)) => Ok(Self(RecordHeaders::allow(allow.set()))),
            _ => Err("must have either `deny` or `allow`"),
        }
    }
}
