//! The contract of a store, as tests that any store can run.
