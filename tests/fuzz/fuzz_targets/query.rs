//! Feeds `bodies/query.rs`, which says what must hold.

#![no_main]

#[path = "../bodies/query.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::check(bytes));
