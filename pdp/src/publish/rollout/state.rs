//! The words of a rollout: where it stands, what is seen, what stops it.

use palisade_mesh::{snapshot::Digest, spiffe_id::SpiffeId};
use serde::{Deserialize, Serialize};

use super::Evidence;

/// A revision's digest and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// SHA-256 of its bundle.
    #[serde(with = "digest")]
    pub digest: Digest,
    /// Its number.
    pub sequence: u64,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "revision {} ({})", self.sequence, self.digest.short())
    }
}

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Proxies get the candidate to try; none enforces it.
    Planned,
    /// All proxies try it beside what they enforce.
    Shadow,
    /// Some enforce it: those of this step of the plan and of the steps before.
    Canary(usize),
    /// All enforce it, and are watched.
    Full,
    /// It was stopped; proxies are on their way back.
    Halted(Why),
    /// It was stopped, and proxies are back where they were.
    RolledBack(Why),
    /// It is the revision in force, and nothing but that.
    Completed,
}

/// Why a rollout was stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// What stopped it.
    pub by: Stop,
    /// In words.
    pub text: String,
    /// The phase it was stopped in.
    pub during: String,
}

/// What stops a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// Somebody said so.
    Aborted,
    /// A gate was exceeded.
    Gate,
    /// A proxy refused the revision.
    Refused,
    /// A newer revision came.
    Superseded,
    /// A phase reached the end of its time without what it needs.
    TimedOut,
}

/// Something that happened to a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// When, microseconds since the Unix epoch.
    pub at_us: i64,
    /// The phase it led to, or what was done.
    pub what: String,
    /// Why, in words.
    pub why: String,
    /// Who wanted it; none where it happened by itself.
    pub by: Option<String>,
}

/// A rollout that waits for somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when, microseconds since the Unix epoch.
    pub since_us: i64,
    /// Who paused it.
    pub by: String,
}

/// What is known of a proxy that is connected, or of the decision APIs.
#[derive(Debug, Clone, PartialEq)]
pub struct Proxy {
    /// Who it is.
    pub identity: SpiffeId,
    /// What it calls itself.
    pub instance: String,
    /// The services of its identity, `NAMESPACE/NAME`; of the APIs, all that they answer about.
    pub services: Vec<String>,
    /// Whether it is the decision APIs of the PDP.
    pub apis: bool,
    /// Whether it can be taken back to a lower number.
    pub returns: bool,
    /// Number of the revision it enforces; 0 for none.
    pub enforces: u64,
    /// Number of the revision it tries beside it; 0 for none.
    pub tries: u64,
    /// The revision it refused, to enforce or to try, and why.
    pub refused: Option<(u64, String)>,
}

/// Who asks which revision is for them.
#[derive(Debug, Clone, Copy)]
pub struct Seat<'s> {
    /// Who it proved to be.
    pub identity: &'s SpiffeId,
    /// What it calls itself.
    pub instance: &'s str,
    /// Whether it can be taken back to a lower number, where the signers of the higher said so.
    pub returns: bool,
}

impl Proxy {
    /// Somebody of whom nothing is known but who it is.
    pub(crate) fn seated(seat: Seat<'_>, apis: bool) -> Self {
        Self {
            identity: seat.identity.clone(),
            instance: seat.instance.to_owned(),
            services: Vec::new(),
            apis,
            returns: seat.returns,
            enforces: 0,
            tries: 0,
            refused: None,
        }
    }

    /// Who it is.
    pub fn seat(&self) -> Seat<'_> {
        Seat {
            identity: &self.identity,
            instance: &self.instance,
            returns: self.returns,
        }
    }
}

/// What is seen at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'s> {
    /// The time, microseconds since the Unix epoch.
    pub now_us: i64,
    /// The proxies that are connected, and the decision APIs, where there are any.
    pub proxies: &'s [Proxy],
    /// Proxies that were connected not long ago and are not.
    pub away: &'s [Proxy],
    /// What came of requests since the rollout began.
    pub evidence: &'s Evidence,
}

/// Which of the two revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one before.
    Baseline,
    /// The new one.
    Candidate,
}

/// Why an order cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Everybody has it, and it may not be taken back any more.
    #[error("every proxy has it, and its way back has ended")]
    NoWayBack,
    /// It is on its way back, or has ended.
    #[error("the rollout is on its way back, or has ended")]
    Ended,
    /// It is paused already.
    #[error("the rollout is paused already")]
    Paused,
    /// It is not paused.
    #[error("the rollout is not paused")]
    Running,
}

/// Digests are written as people see them.
mod digest {
    use palisade_mesh::snapshot::Digest;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(digest: &Digest, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(digest)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(d: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(d)?;
        Digest::from_hex(&text).ok_or_else(|| D::Error::custom("not 64 hexadecimal digits"))
    }
}
