//! The shop of `examples/checkout.rs`, ended at every point of every step (G12): before the step, during
//! it, and after it is recorded. Each thing is done once by partners that know their keys, and no step
//! whose result was recorded runs again.

#[path = "../../../examples/checkout.rs"]
#[allow(dead_code, reason = "its partners are for who runs it")]
mod checkout;
#[path = "../support/servers.rs"]
mod servers;

mod killed;
mod partners;
mod point;
mod survived;
