//! The attacks that the mesh must refuse, each against a whole proxy over real
//! sockets. The table of cases is `docs/threat-model.md`.
//!
//! # How a case is written
//!
//! The name of a test starts with the numbers of its cases (`t1_…`, `t20_t21_…`),
//! so `cargo test --test attacks t20` runs one of them; `table.rs` checks that the
//! table of the threat model names the same tests.
//!
//! [`harness::Stage`] is the mesh of one test: a raw application ([`harness::upstream`]), an
//! inbound proxy before it, an outbound proxy that calls it, the real engine on the
//! policy of [`harness::policy`] (`forbid` on `/admin`, `permit` on `/public`), and
//! every record in memory. A case that is one request is data:
//!
//! ```text
//! stage.check(Ask::get("/public/../admin"), &Door::ALL, Expect::forbidden("/admin"));
//! ```
//!
//! [`harness::Stage::check`] sends it through each [`harness::Door`] (sidecar inbound and outbound,
//! HTTP/1.1 and HTTP/2) and asserts all three: the answer, what the application saw
//! byte for byte (or that it saw nothing), and the record (verdict, reason, path).
//! Where a request passes it also asserts that the engine was asked about the very
//! path that was recorded and sent.
//!
//! What is no request, or more than one, is written by hand: [`harness::Stage::wire`] opens a
//! connection, [`harness::h1::exchange`] sends bytes, [`harness::h2::Connection`] sends frames; then
//! [`harness::Stage::seen`] and [`harness::Stage::decisions`] tell what came of it. [`harness::Stage::set`]
//! takes other limits.
//!
//! Cases of certificates, policies, records on disk and of the process as such run the
//! binary itself, as a user does: [`guarded::Guarded`].

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

#[path = "../support/mod.rs"]
mod support;

mod bundles;
mod claims;
mod decision;
mod fields;
mod guarded;
mod harness;
mod load;
mod operations;
mod paths;
mod policy;
mod smuggling;
mod table;
mod tls;
