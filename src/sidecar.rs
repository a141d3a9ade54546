//! The layer as a process, in front of a service in any language.

pub(crate) mod settings;

pub(crate) use settings::{Authorize, Settings};
