//! The stores for more than one process, against the real thing.

mod sqlite;
//! Every store against its real server.

mod redis;
//! Every store against its real server.

mod postgres;
//! Stores on real servers: `scripts/test` starts them.

mod mysql;
