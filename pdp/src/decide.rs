//! The engine: questions in, decisions out, under one immutable snapshot.
//!
//! Cedar's own authorizer visits every policy for every request. Here a
//! [`Snapshot`] files policies by scope when it is built, and each worker's
//! [`Engine`] keeps what it looked up and decided, keyed by exactly what the
//! policies concerned can read. [`Snapshot::reference`] is the same decision the
//! slow way; tests, and a sample of live requests, compare the two.
//!
//! ```ignore
//! let snapshot = Snapshot::new(compiled, 7)?;
//! let mut engine = snapshot.engine();          // one for each worker
//! let answer = engine.decide(&question);
//! if !answer.decision.verdict.is_allow() {
//!     println!("{}", serde_json::to_string(&snapshot.explain(&question))?);
//! }
//! ```
//!
//! Rules that Cedar does not have, and that engine and reference share:
//!
//! - A `forbid` that errs may have been skipped wrongly, so without a satisfied
//!   `forbid` the decision is undecided.
//! - So is one for which a `forbid` tests for the members, an attribute or a tag of an
//!   entity that the snapshot lacks. Membership in a `TrustDomain` follows from the SPIFFE ID and
//!   an `Unregistered` has no members, so these two are never missing.
//! - A permit past its `@expires` does not exist; one in shadow mode is
//!   evaluated and counted only.
//! - A value that cannot be put to Cedar without guessing (a repeated or non-UTF-8
//!   header) makes the decision undecided if a policy in scope reads it.
//! - The determining policies of an undecided decision are the forbids to blame.

mod access;
pub(crate) mod asked;
mod cache;
pub(crate) mod core;
mod cost;
mod engine;
mod explain;
pub(crate) mod fact;
#[cfg(feature = "faults")]
pub mod faults;
pub(crate) mod field;
mod index;
mod known;
pub(crate) mod oracle;
mod outcome;
mod pinned;
mod record;
mod replay;
pub(crate) mod rule;
mod slice;
mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;
mod watch;
pub(crate) mod world;

use smol_str::SmolStr;

pub use self::core::NESTING_MAX;
pub(crate) use self::core::{
    Accepting, Body, Condition, Glob, Kind, Network, Node, Term, nesting, written,
};
pub use access::{Access, Caller, Given, May, OpenClause, OpenPolicy, Survey, Target, Who};
pub use cost::{Costs, PolicyCost};
pub use engine::{
    DECISION_BYTES_MAX, DECISIONS_MAX, Engine, KEY_LEN_MAX, SELF_CHECK_EVERY,
    SELF_CHECK_EVERY_PER_POLICY, SELF_CHECK_FIRST, SELF_CHECK_HITS_EVERY,
    SELF_CHECK_HITS_EVERY_PER_POLICY, SLICE_BYTES_MAX, SLICES_MAX, Told,
};
pub use explain::{
    Clause, ClauseKind, ClauseState, EntityName, ExplainError, Explanation, Outcome, PolicyView,
    Seen,
};
pub use known::Known;
pub use palisade_mesh::decision::SelfCheck;
pub use pinned::PINS_MAX;
pub use replay::{Again, Lacking, PATH_LEN_MAX, Past, Replay};
pub(crate) use rule::{Scope, Shape};
pub use snapshot::Snapshot;
pub use watch::{OneWay, PolicyUse};

/// Why no snapshot can be made of a compiled repository; the compiler is to blame.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The schema's context of an action is not the one that the mesh makes.
    #[error("context of action `{action}` does not fit the mesh vocabulary: {cause}")]
    Context {
        /// Id of the action.
        action: SmolStr,
        /// What the schema says about the mesh's context.
        cause: String,
    },
    /// The entities contradict each other.
    #[error("invalid entities: {0}")]
    Entities(#[from] Box<cedar_policy::entities_errors::EntitiesError>),
    /// A policy without its `PolicyInfo`.
    #[error("policy `{id}` has no source information")]
    NoInfo {
        /// Id of the policy.
        id: SmolStr,
    },
    /// `@expires` or `@mode("shadow")` on a `forbid`, which would widen access.
    #[error("forbid `{id}` must not expire or be in shadow mode")]
    WeakenedForbid {
        /// Id of the policy.
        id: SmolStr,
    },
    /// The `PolicyInfo` of a policy is not about it.
    #[error("source information of policy `{id}` contradicts the policy")]
    WrongInfo {
        /// Id of the policy.
        id: SmolStr,
    },
}
