//! The stores for more than one process, against the real thing.

mod sqlite;
