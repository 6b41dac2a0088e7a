//! Feeds `bodies/leaf.rs`, which says what must hold.

#![no_main]

#[path = "../bodies/leaf.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::check(bytes));
