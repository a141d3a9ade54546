//! HTTP messages: reading bodies, the body types of requests and responses, and the pipe.

pub(crate) mod body;
pub(crate) mod media_type;
pub(crate) mod pipe;
pub(crate) mod request_body;
pub(crate) mod response_body;
