//! The policy decision point: from a policy repository to a decision.
//!
//! In reading order:
//!
//! - [`author`]: a repository becomes one validated, reproducible bundle; its tests run
//! - [`bundle`]: its digest, and the signatures of those who vouch for it
//! - [`compiled`]: what comes out of that, and what an engine is built from
//! - [`decide`]: the engine that answers questions under one immutable snapshot
//! - [`apis`]: the decision APIs for whoever is no proxy of the mesh
//! - `analysis`: two revisions compared, and what the newer one allows proved
//! - [`links`]: who may call a part of the mesh itself
//! - [`readers`]: who may ask the audit log what
//! - [`publish`]: following sources, numbering revisions, sending them to proxies
//!
//! `cedar-policy` is used nowhere else in the workspace.

#[cfg(feature = "analysis")]
pub mod analysis;
pub mod apis;
pub mod author;
pub mod bundle;
pub mod compiled;
pub mod decide;
pub mod links;
pub mod publish;
pub mod readers;

#[cfg(test)]
mod testing;
