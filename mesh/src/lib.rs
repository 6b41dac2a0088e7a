//! The words every part of Palisade speaks.
//!
//! Pure: this crate opens no socket and no file. An item enters it only when two
//! parts need it to mean the same thing. In reading order:
//!
//! - [`spiffe_id`], [`svid`], [`kill`]: who somebody is, how TLS proves it, and who is barred
//! - [`canonical`], [`fields`], [`operation`], [`catalogue`]: what a request is
//! - [`decision`], [`snapshot`]: what the PDP is asked and says, and under which versions
//! - [`place`]: where policy comes from
//! - [`personal`]: what records can say of persons, and what policy leaves out of them
//! - [`sink`], [`spread`], [`wire`], [`merkle`]: what is recorded and counted, how messages
//!   travel, and how one digest stands for many of them
//! - [`diagnostic`], [`yaml`], [`clock`], [`changes`]: how mistakes are told and found, what
//!   time it is, and how followers learn that something was swapped

pub mod canonical;
pub mod catalogue;
pub mod changes;
pub mod clock;
pub mod decision;
pub mod diagnostic;
pub mod differences;
pub mod fields;
pub mod flip;
pub mod kill;
pub mod link;
pub mod merkle;
pub mod operation;
pub mod personal;
pub mod place;
pub mod sink;
pub mod snapshot;
pub mod spiffe_id;
pub mod spread;
pub mod svid;
pub mod wire;
pub mod yaml;
