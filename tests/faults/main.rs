//! What happens to the store's server, and what must not come of it.
