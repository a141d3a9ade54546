//! The desk, as a service and in a browser.

mod access;
mod browser;
mod chromium;
mod malformed;
mod support;
mod views;
