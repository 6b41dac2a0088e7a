//! Feeds `bodies/spiffe_id.rs`, which says what must hold.

#![no_main]

#[path = "../bodies/spiffe_id.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::check(bytes));
