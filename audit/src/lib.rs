//! Every decision kept, provable and searchable.
//!
//! The log is the truth: append-only segment files whose records are the leaves
//! of a Merkle tree with signed checkpoints. Everything else is derived from it
//! and can be built again at any time. In reading order:
//!
//! - [`buffer`], [`spool`], [`local`]: where a part of the mesh leaves its records
//! - [`ingest`], [`stream`]: how they arrive, numbered, each once
//! - [`log`], [`segment`], [`envelope`]: how they are kept
//! - [`merkle`], [`note`], [`checkpoint`]: how anybody can check it
//! - [`verify`]: the check itself
//! - [`query`]: the language in which the log is asked
//! - [`item`], [`row`]: a record as it is asked and as it is shown
//! - [`source`], [`index`]: the index that answers, and what it needs from the log

#[cfg(feature = "log")]
pub mod buffer;
#[cfg(feature = "log")]
pub mod checkpoint;
#[cfg(feature = "log")]
pub mod envelope;
#[cfg(feature = "log")]
mod files;
#[cfg(feature = "index")]
pub mod index;
#[cfg(feature = "log")]
pub mod ingest;
#[cfg(feature = "index")]
pub mod item;
#[cfg(feature = "log")]
pub mod local;
#[cfg(feature = "log")]
pub mod log;
#[cfg(feature = "log")]
pub mod merkle;
#[cfg(feature = "log")]
pub mod note;
#[cfg(feature = "index")]
pub mod query;
#[cfg(feature = "index")]
pub mod row;
#[cfg(feature = "log")]
pub mod segment;
#[cfg(feature = "index")]
pub mod source;
#[cfg(feature = "log")]
pub mod spool;
#[cfg(feature = "log")]
pub mod stream;
#[cfg(feature = "log")]
pub mod verify;

#[cfg(test)]
#[cfg(feature = "log")]
mod testing;
