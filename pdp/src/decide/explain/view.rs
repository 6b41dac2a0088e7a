//! One policy of an explanation, with its conditions taken apart.

use serde::{Deserialize, Serialize};

use super::super::core::Kind;

/// A policy, and how far it got with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// Policy id.
    pub id: String,
    /// `permit` or `forbid`.
    pub effect: String,
    /// File in the repository.
    pub file: String,
    /// First line in the file.
    pub first_line: usize,
    /// Last line in the file.
    pub last_line: usize,
    /// The policy as it was written.
    pub text: String,
    /// `@owner`.
    pub owner: Option<String>,
    /// `@deny_message`.
    pub deny_message: Option<String>,
    /// `@help_url`.
    pub help_url: Option<String>,
    /// Git commit that last changed it.
    pub commit: Option<String>,
    /// Author of that commit.
    pub author: Option<String>,
    /// What keeps it from counting beside its text: expired, shadow mode, an
    /// entity that the snapshot lacks.
    pub notes: Vec<String>,
    /// Where its scope fails, e.g. ``wrong action: wants `GET` ``; empty if it holds.
    pub scope: Vec<String>,
    /// The `&&` parts of its conditions, in order.
    pub clauses: Vec<Clause>,
    /// How many of them let the policy go on.
    pub passed: usize,
}

/// One `&&` part of a `when` or `unless`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clause {
    /// Which kind of condition it stands in.
    pub kind: ClauseKind,
    /// Line in the file.
    pub line: usize,
    /// As it was written.
    pub text: String,
    /// How it came out, as it was written: a true part of an `unless` works
    /// against the policy.
    pub state: ClauseState,
    /// Whether this is what kept the policy from matching.
    pub blocks: bool,
    /// What it looked at.
    pub saw: Vec<Seen>,
    /// Why it failed to evaluate.
    pub error: Option<String>,
}

/// The two kinds of condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClauseKind {
    /// `unless { … }`
    Unless,
    /// `when { … }`
    When,
}

impl From<Kind> for ClauseKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Unless => Self::Unless,
            Kind::When => Self::When,
        }
    }
}

/// How a part of a condition came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClauseState {
    /// It failed to evaluate.
    Error,
    /// False.
    False,
    /// An earlier part decided.
    NotReached,
    /// It needs something that the record lacks.
    NotRecorded,
    /// True.
    True,
}

/// A value that a part looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// E.g. `context.http.path`.
    pub name: String,
    /// As Cedar shows it; `absent`; or `not recorded`.
    pub value: String,
}
