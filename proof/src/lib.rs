//! Proof that the library keeps its guarantees: tests that need servers or heavy
//! dependencies.
//!
//! Everything stands in `tests/`, `examples/` and `benches/` of this package.
