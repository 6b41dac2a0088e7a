//! Feeds `bodies/issue_request.rs`, which says what must hold.

#![no_main]

#[path = "../bodies/issue_request.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::check(bytes));
