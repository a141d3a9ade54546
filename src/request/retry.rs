//! Replays that fit the retry that they are sent to (`replay_json`, and the ids of MCP).

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;

use crate::options::RouteOptions;
use crate::options::mcp::{Unfit, for_retry};
use crate::options::rewrite::TooLarge;
use crate::rejection::Rejection;
use crate::rejection::json_rpc::JsonRpcRequest;
use crate::request::stop::{Replay, Stop};

/// To search more bytes takes more than about a tenth of a millisecond, and so is not done on a thread
/// that serves requests (G11).
pub(crate) const LONG: usize = 64 * 1024;

/// Whether replays on a route differ from what is recorded.
pub(crate) fn is_fitted(options: &RouteOptions) -> bool {
    !options.replay_json.is_empty() || options.mcp.is_some()
}

/// What a replay takes from the retry that it is sent to.
pub(crate) struct Retry {
    pub(crate) head: RetryHead,
    pub(crate) body: Bytes,
}

/// What a replay takes from the head of the retry.
#[derive(Clone)]
pub(crate) struct RetryHead {
    headers: HeaderMap,
    call: Option<JsonRpcRequest>,
}

impl RetryHead {
    pub(crate) fn of(parts: &Parts) -> Self {
        Self {
            headers: parts.headers.clone(),
            call: parts.extensions.get().cloned(),
        }
    }

    /// A replay with its members set (`replay_json`), and with the id of a call of MCP, for a retry with
    /// this body.
    pub(crate) fn fit(self, options: &RouteOptions, mut replay: Replay, body: &[u8]) -> Stop {
        let (members, most) = (&options.replay_json, options.max_recorded_body);
        match members.set(&replay.completion, &self.headers, body, most) {
            Ok(None) => {}
            Ok(Some(set)) => replay.completion = Arc::new(set),
            Err(TooLarge) => return Rejection::response_unavailable().into(),
        }
        let call = self.call.filter(|_| options.mcp.is_some());
        match call.map(|call| for_retry(&call, &replay.completion, most)) {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(own))) => replay.completion = Arc::new(own),
            Some(Err(Unfit)) => return Rejection::response_unavailable().into(),
        }
        Stop::Replay(replay)
    }
}
