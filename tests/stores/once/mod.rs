//! Claims that handlers commit in transactions of their own (G7): the same tests
//! on each database, and what one of them alone can do.

mod mysql;
mod postgres;
mod sqlite;
mod wire;
