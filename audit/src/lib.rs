//! Every decision kept, provable and searchable.
//!
//! The log is the truth: append-only segment files whose records are the leaves
//! of a Merkle tree with signed checkpoints. Everything else is derived from it
//! and can be built again at any time. In reading order:
//!
//! - [`buffer`], [`spool`], [`local`]: where a part of the mesh leaves its records
//! - [`privacy`]: what is personal in them, and what becomes of it
//! - [`ingest`], [`stream`]: how they arrive, numbered, each once
//! - [`heads`], [`watch`]: what reporters sign about their streams, and who is silent
//! - [`log`], [`segment`], [`envelope`]: how they are kept
//! - [`merkle`], [`note`], [`checkpoint`], [`proof`], [`statement`]: how anybody can check it
//! - [`cosignature`], [`witness`]: who else has seen the log, and what we have seen of others
//! - [`verify`]: the check itself
//! - [`policies`]: the policy revisions that decisions name, kept so that these can be made again
//! - [`query`]: the language in which the log is asked
//! - [`item`], [`row`]: a record as it is asked and as it is shown
//! - [`export`]: rows as files that other programs read
//! - [`report`]: what an auditor asks for, made from the log and made again to check it
//! - [`holds`]: records that must stay
//! - [`retention`]: how long the others do
//! - [`archive`]: where old segments go, so that they need no disk here
//! - [`alert`]: rules over the log as it grows
//! - [`decisions`]: all decisions of a time, for a replay
//! - [`reconcile`]: what both sides of a request recorded, held against each other
//! - [`source`], [`index`]: the index that answers, and what it needs from the log
//! - [`going`]: long work, how far it is, and whether anybody still waits for it

#![cfg(feature = "log")]

#[cfg(feature = "index")]
pub mod alert;
#[cfg(feature = "index")]
pub mod archive;
pub mod buffer;
pub mod checkpoint;
pub mod cosignature;
#[cfg(feature = "index")]
pub mod decisions;
mod diagnostics;
pub mod disk;
pub mod envelope;
#[cfg(feature = "index")]
pub mod export;
mod files;
pub mod going;
pub mod heads;
#[cfg(feature = "index")]
pub mod holds;
#[cfg(feature = "index")]
pub mod index;
pub mod ingest;
#[cfg(feature = "index")]
pub mod item;
pub mod local;
pub mod log;
pub mod merkle;
pub mod note;
pub mod policies;
pub mod privacy;
pub mod proof;
#[cfg(feature = "index")]
pub mod query;
#[cfg(feature = "index")]
pub mod reconcile;
#[cfg(feature = "index")]
pub mod report;
#[cfg(feature = "index")]
pub mod retention;
#[cfg(feature = "index")]
pub mod row;
pub mod segment;
#[cfg(feature = "index")]
pub mod source;
pub mod spool;
pub mod statement;
pub mod stream;
mod told;
pub mod verify;
#[cfg(feature = "index")]
pub mod watch;
pub mod witness;

#[cfg(test)]
mod testing;
