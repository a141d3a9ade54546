//! What the Model Context Protocol (MCP) asks of a route: which messages are protected, and what an
//! answer of a tool means for its record.
//!
//! The sections that these files cite are those of the revision 2026-07-28 of MCP, whose requests
//! stand alone; the revisions 2025-03-26 to 2025-11-25 differ where that is said.

mod answer;
mod message;
mod pieces;
mod replay;

pub(crate) use answer::ToolAnswer;
pub(crate) use pieces::EventPieces;
pub(crate) use replay::{Unfit, for_retry};

use http::{HeaderName, Method};

use crate::options::key::Key;
use crate::options::recording::RecordHeaders;
use crate::options::{EventStreams, FingerprintBody, JsonFingerprint, Require, RouteOptions};
use crate::rejection::json_rpc::JsonRpcRequest;
use crate::rejection::{Rejection, RejectionCode};
use message::Message;

/// Where the Universal Commerce Protocol has the key of a tool's call: `meta["idempotency-key"]` of
/// the arguments (its MCP binding, "Request Metadata", editions 2026-01-23 and later).
const KEY: &str = "/params/arguments/meta/idempotency-key";

/// The session that an answer belongs to (revisions before 2026-07-28). A client that finds another
/// one in an answer goes on in that one.
const SESSION: &str = "mcp-session-id";

/// Which tools of an MCP server are protected. Set by [`RouteOptions::mcp_tools`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum McpTools {
    /// Every tool.
    #[default]
    All,
    /// The tools of these names.
    Only(Vec<String>),
    /// Every tool but those of these names, such as the ones that a server lists with
    /// `readOnlyHint`.
    Except(Vec<String>),
}

impl McpTools {
    /// The tools of these names.
    #[must_use]
    pub fn only<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Self {
        Self::Only(names.into_iter().map(Into::into).collect())
    }

    /// Every tool but those of these names.
    #[must_use]
    pub fn except<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Self {
        Self::Except(names.into_iter().map(Into::into).collect())
    }

    fn protect(&self, tool: &[u8]) -> bool {
        let is_named = |names: &[String]| names.iter().any(|name| name.as_bytes() == tool);
        match self {
            Self::All => true,
            Self::Only(names) => is_named(names),
            Self::Except(names) => !is_named(names),
        }
    }
}

impl RouteOptions {
    /// The options of an endpoint of the Model Context Protocol (Streamable HTTP). Options that are
    /// set after this one change single ones of them.
    ///
    /// - Of all messages only calls of tools (`tools/call`) are protected, those that
    ///   [`mcp_tools`](Self::mcp_tools) chooses. Everything else is passed on.
    /// - The key is the member `meta["idempotency-key"]` of the tool's arguments, where the Universal
    ///   Commerce Protocol has it; [`key_in_body`](Self::key_in_body) names other places.
    /// - Calls are compared as JSON, without their `id` and their `_meta`: a client sends a call that
    ///   it retries under a new id. [`fingerprint_body`](Self::fingerprint_body) leaves them out too.
    /// - A replay has the `id` and the progress token of the retry, and is the recorded answer
    ///   otherwise.
    /// - Streams of events are recorded ([`event_streams`](Self::event_streams)). The event with the
    ///   answer is sent once the stream has ended and is recorded (G3), or has reached a limit and is
    ///   sealed; events before it do not wait.
    /// - The layer's rejections are JSON-RPC errors, in JSON or in a stream, as the request accepts.
    ///   Their `data` has the members `code` and `retry`.
    /// - An error of the server (JSON-RPC -32603, -32000 to -32099) and a result that asks for more
    ///   input (`input_required`) are not recorded: the call can be sent again with the same key.
    ///   Errors of the tool itself (`isError`) are results, and are recorded.
    /// - A stream that has no answer, or two, for the one id of the call is sealed, and logged.
    /// - A batch (revision 2025-03-26) is rejected with `key-invalid`.
    ///
    /// `docs/agents.md` says more, and what becomes of a call whose client closes the stream.
    ///
    /// ```
    /// use tower_idempotency::options::{McpTools, Require};
    /// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
    ///
    /// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::header("authorization"))
    ///     .route("POST /mcp", |options| {
    ///         let tools = McpTools::only(["complete_checkout", "cancel_checkout"]);
    ///         options.mcp().mcp_tools(tools).require(Require::Required)
    ///     })
    ///     .build()?;
    /// # Ok::<(), tower_idempotency::ConfigError>(())
    /// ```
    #[must_use]
    pub fn mcp(mut self) -> Self {
        self.mcp = Some(McpTools::default());
        self.event_streams = EventStreams::Record;
        let usual = RecordHeaders::default().names;
        let names = usual.iter().map(HeaderName::as_str).chain([SESSION]);
        let recorded = RecordHeaders::deny(names);
        self.fingerprint.of_attempt = ["/id", "/params/_meta"].map(message::pointer).into();
        self.methods([Method::POST])
            .key_in_body([KEY])
            .fingerprint_body(FingerprintBody::Json(JsonFingerprint::new()))
            .record_headers(recorded)
    }

    /// A route's `preset = "none"` in a file. What the preset has changed can't be told from what stands
    /// beside it.
    #[cfg(feature = "config")]
    pub(crate) fn without_preset(mut self) -> Self {
        if self.mcp.is_some() {
            self.fail(
                "preset",
                "can't be none on a route while it is mcp under [idempotency]: write mcp on each \
                 [[route]] that is an endpoint of MCP instead",
            );
        }
        self
    }

    /// Which tools are protected, on a route with the options of [`mcp`](Self::mcp). A call of
    /// another tool is passed on, with or without a key. Default: [`McpTools::All`].
    ///
    /// A server lists the tools that change nothing with `readOnlyHint`, but the layer does not
    /// learn them from that list: the hint is the server's own word, which may change while calls
    /// are retried, and instances of a service have not seen the same lists.
    #[must_use]
    pub fn mcp_tools(mut self, tools: McpTools) -> Self {
        match &mut self.mcp {
            Some(own) => *own = tools,
            None if tools == McpTools::All => {}
            None => self.fail("mcp_tools", "needs the preset `mcp` on the same route"),
        }
        self
    }
}

/// What a request whose body was read asks for.
pub(crate) enum Wanted {
    /// Nothing that is protected, whatever its key.
    Nothing,
    /// An operation, with its key if it has one.
    Operation {
        key: Option<Result<Key, Rejection>>,
        /// The request of JSON-RPC, on a route with the options of MCP.
        call: Option<JsonRpcRequest>,
    },
}

impl RouteOptions {
    /// What a request with this body asks for, and by which key.
    pub(crate) fn wanted(&self, in_header: Option<(Key, HeaderName)>, body: &[u8]) -> Wanted {
        let key = || self.keys.read_with_body(in_header, body);
        let Some(tools) = &self.mcp else {
            let (key, call) = (key(), None);
            return Wanted::Operation { key, call };
        };
        let refused = match tools.message(body) {
            Message::Call(call) => {
                let (key, call) = (key(), Some(call));
                return Wanted::Operation { key, call };
            }
            Message::Other => return Wanted::Nothing,
            Message::Batch => Message::BATCH,
            Message::Unreadable => {
                // The server refuses the message too, or takes it as it will: that does no harm to a
                // client that asked for no protection.
                if self.require == Require::Optional && key().is_none() {
                    return Wanted::Nothing;
                }
                Message::UNREADABLE
            }
        };
        Wanted::Operation {
            key: Some(Err(Rejection::new(RejectionCode::KeyInvalid, refused))),
            call: Some(JsonRpcRequest::default()),
        }
    }
}
