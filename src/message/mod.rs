//! HTTP messages: how bodies are read, the body types of requests and responses, the
//! pipe between a task that reads a body and the client, and media types.
//!
//! Public items: `RequestBody`, `ResponseBody`, `ObservedBody`, `RequestTrailers`. May use:
//! `limits`, `runtime`.

pub(crate) mod body;
pub(crate) mod client_deadline;
pub(crate) mod event_stream;
pub(crate) mod first_read;
pub(crate) mod kept;
pub(crate) mod media_type;
pub(crate) mod observed_body;
pub(crate) mod own_head;
pub(crate) mod pipe;
pub(crate) mod pipe_body;
pub(crate) mod request_body;
pub(crate) mod response_body;
pub(crate) mod send_timeout;
pub(crate) mod watched_body;
