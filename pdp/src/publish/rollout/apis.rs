//! The decision APIs of the PDP in a rollout: one more place where a revision is enforced.

use palisade_mesh::spiffe_id::SpiffeId;

use super::{Flips, Load, Name};

/// What the APIs call themselves among the proxies.
pub const INSTANCE: &str = "decisions";

/// How the decision APIs stand, as they say it themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct Apis {
    /// SPIFFE ID of the PDP, which is theirs.
    pub identity: SpiffeId,
    /// Number of the revision they answer by: the candidate's, where any question is answered
    /// by it. 0 for none.
    pub enforces: u64,
    /// Number of the revision they try beside it; 0 for none.
    pub tries: u64,
    /// The revision they have no engine for, and why.
    pub refused: Option<(u64, String)>,
    /// What came of questions while two revisions are there.
    pub asked: Option<Asked>,
}

/// What came of questions about two revisions. It only grows, as long as they are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The revision before.
    pub baseline: Name,
    /// The new one.
    pub candidate: Name,
    /// What the new one changes.
    pub flips: Flips,
    /// Questions decided by the revision before.
    pub old: Load,
    /// Questions decided by the new one.
    pub new: Load,
}
