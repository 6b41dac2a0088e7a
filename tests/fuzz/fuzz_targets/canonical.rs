//! Feeds `bodies/canonical.rs`, which says what must hold.

#![no_main]

#[path = "../bodies/canonical.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::check(bytes));
