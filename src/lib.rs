//! Palisade: the roof over proxy, pdp, ca and audit.
//!
//! Reads what was asked for ([`cli`]), what was configured ([`config`]), wires the
//! roles together ([`run`], `demo`), opens the links between them ([`net`]), tells the
//! service manager how they stand ([`notify`]), and answers people on the local socket
//! ([`control`]) in a readable form ([`render`]).
//!
//! The feature `full` is everything. Without it this is the program that runs beside
//! workloads: the roles `proxy` and `agent`, each a feature, and what operates them.

#[cfg(not(any(feature = "agent", feature = "proxy")))]
compile_error!("choose what to build: the feature `full`, or one or both of `agent` and `proxy`");

#[cfg(feature = "full")]
mod archive;
pub mod cli;
pub mod config;
pub mod control;
#[cfg(feature = "full")]
pub mod demo;
#[cfg(feature = "full")]
mod grants;
#[cfg(feature = "full")]
mod history;
pub mod net;
pub mod notify;
pub mod render;
#[cfg(feature = "full")]
mod review;
pub mod run;
