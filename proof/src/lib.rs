//! This package proves that the library keeps its guarantees. Its tests need
//! servers or heavy dependencies.
//!
//! Everything but the [pictures](picture) stands in `tests/`, `examples/`, `benches/` and `src/bin/` of this package.

pub mod picture;

/// Compiles the code of `docs/grpc.md` with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/grpc.md")]
pub struct Grpc;
