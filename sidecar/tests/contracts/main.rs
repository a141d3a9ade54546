//! Contracts that APIs have published, each as one file, and what it promises
//! as requests: to the program `tower-idempotency-sidecar` with that file, in
//! front of a small upstream. `docs/vendor-contracts.md` is the table of them.

#[macro_use]
mod lines;

mod adyen;
mod agentpay;
mod api;
mod checkout;
mod hostinger;
mod ietf;
mod modern_treasury;
mod paypal;
mod razorpay;
mod request;
mod resend;
mod sidecar;
mod starship;
mod stripe;
mod upstream;
mod vmarea;
mod worldpay;
