//! Each of these contracts, which APIs have published, is one configuration file
//! and a list of promises. The tests start the program `tower-idempotency-sidecar`
//! with the file, in front of a small upstream, and check each promise with
//! requests. `docs/vendor-contracts.md` lists the contracts.

#[macro_use]
mod lines;

mod acp;
mod adcp;
mod adyen;
mod agentpay;
mod api;
mod checkout;
mod hostinger;
mod iceberg;
mod ietf;
mod mcp;
mod modern_treasury;
mod paypal;
mod razorpay;
mod refusals;
mod request;
mod resend;
mod sdks;
mod sidecar;
mod starship;
mod stripe;
mod ucp;
mod ucp_mcp;
mod upstream;
mod vmarea;
mod worldpay;
