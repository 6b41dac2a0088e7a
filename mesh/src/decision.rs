//! A question to the PDP and its answer, with the four outcomes kept apart.

use std::{any::Any, fmt, net::SocketAddr, sync::Arc};

use http::HeaderMap;
use smol_str::SmolStr;
use ulid::Ulid;

use crate::{
    canonical::CanonicalRequest,
    catalogue::Service,
    operation::Operation,
    svid::Peer,
    wire::record::{Flip, Verdict as WireVerdict},
};

/// The four outcomes of a decision (design, invariant 2). Deny is not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// A permit matched and no forbid did.
    Allow,
    /// A `forbid` matched.
    Forbidden,
    /// No permit matched.
    NotPermitted,
    /// There was no way to decide; a fault, answered with 503.
    Undecided(Undecided),
}

/// Why there was no decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Undecided {
    /// A `forbid` failed to evaluate, so it may have been skipped.
    ForbidErrored,
    /// A `forbid` tests membership of an entity that the snapshot lacks.
    MissingEntity,
    /// No policy snapshot has arrived yet.
    NoSnapshot,
    /// The request could not be put to the engine.
    NotEncodable,
    /// The snapshot holds the policies of another service only.
    NotServed,
    /// The snapshot is older than its limit.
    Stale,
}

impl Verdict {
    /// Whether the request may pass.
    pub fn is_allow(self) -> bool {
        self == Self::Allow
    }

    /// The constant word for records and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Allow => "permitted",
            Self::Forbidden => "forbidden",
            Self::NotPermitted => "no_permit",
            Self::Undecided(Undecided::ForbidErrored) => "forbid_errored",
            Self::Undecided(Undecided::MissingEntity) => "missing_entity",
            Self::Undecided(Undecided::NoSnapshot) => "no_snapshot",
            Self::Undecided(Undecided::NotEncodable) => "not_encodable",
            Self::Undecided(Undecided::NotServed) => "not_served",
            Self::Undecided(Undecided::Stale) => "stale_snapshot",
        }
    }

    /// As it is written into records.
    pub fn wire(self) -> WireVerdict {
        match self {
            Self::Allow => WireVerdict::Allow,
            Self::Forbidden => WireVerdict::Forbidden,
            Self::NotPermitted => WireVerdict::NotPermitted,
            Self::Undecided(_) => WireVerdict::Undecided,
        }
    }
}

/// What is known of a connection, gathered once when it is accepted.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The identity the peer proved in the handshake.
    pub peer: Peer,
    /// The peer's address, not a forwarded one.
    pub source: SocketAddr,
    /// Facts of the TLS session.
    pub tls: TlsFacts,
}

/// What policies may know about the TLS session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFacts {
    /// Version, `1.3`.
    pub version: &'static str,
    /// Whether the peer proved an identity.
    pub mtls: bool,
    /// Server name the peer asked for.
    pub sni: Option<SmolStr>,
    /// Negotiated application protocol.
    pub alpn: Option<SmolStr>,
}

/// One request, as the PDP is asked about it.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The connection it came on.
    pub connection: &'a Connection,
    /// The request in its only spelling.
    pub request: &'a CanonicalRequest,
    /// Header fields; only declared ones are read.
    pub headers: &'a HeaderMap,
    /// The service it is for.
    pub service: &'a Service,
    /// The operation it is, if it is one.
    pub operation: Option<&'a Operation>,
    /// Time of the request, microseconds since the Unix epoch.
    pub now_us: i64,
}

/// What a decider keeps of its answers on one connection. Each connection has its own, for
/// each decider that is asked about it; what is in it is that decider's.
#[derive(Default)]
pub struct Pins(Option<Box<dyn Any>>);

impl Pins {
    /// What is kept, beginning anew where it is of another kind.
    pub fn of<T: Any + Default>(&mut self) -> &mut T {
        if !self.0.as_deref().is_some_and(<dyn Any>::is::<T>) {
            self.0 = Some(Box::new(T::default()));
        }
        let kept = self.0.as_deref_mut().and_then(<dyn Any>::downcast_mut);
        kept.expect("it was put there above where it was not of this kind")
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = if self.0.is_some() { "kept" } else { "empty" };
        f.debug_tuple("Pins").field(&kept).finish()
    }
}

/// What the PDP says, shared by all requests that get the same answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The outcome.
    pub verdict: Verdict,
    /// Cedar action id, e.g. `GET` or `orders:refund`.
    pub action: SmolStr,
    /// Cedar resource type, `Operation` or `Service`.
    pub resource_type: &'static str,
    /// Cedar resource id.
    pub resource_id: SmolStr,
    /// Ids of the determining policies, sorted; empty for a default deny.
    pub determining: Vec<SmolStr>,
    /// Ids of the policies that failed to evaluate, sorted.
    pub errors: Vec<SmolStr>,
    /// Ids of the permits in shadow mode that matched, sorted; never enforced.
    pub shadow_permits: Vec<SmolStr>,
    /// The author's words for the caller (`@deny_message`).
    pub deny_message: Option<SmolStr>,
    /// The author's link for the caller (`@help_url`).
    pub help_url: Option<SmolStr>,
    /// What the slice read of the context, as JSON: the input of a replay.
    pub context_json: SmolStr,
    /// When the answer may change by itself, microseconds since the Unix epoch.
    pub valid_until_us: Option<i64>,
}

impl Decision {
    /// What would be decided if the permits in shadow mode were enforced, and what that
    /// changes for a request that would be `known` to the catalogue, or forwarded all the
    /// same; none where no such permit matched.
    pub fn with_shadow_permits(&self, known: bool) -> Option<(Verdict, Flip)> {
        if self.shadow_permits.is_empty() {
            return None;
        }
        let would_allow = self.verdict == Verdict::NotPermitted;
        let verdict = match would_allow {
            true => Verdict::Allow,
            false => self.verdict,
        };
        let flip = match would_allow && known {
            true => Flip::NewlyAllowed,
            false => Flip::Unspecified,
        };
        Some((verdict, flip))
    }
}

/// A decision as one request received it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The decision.
    pub decision: Arc<Decision>,
    /// Whether it came out of a cache.
    pub cached: bool,
}

/// Joins a decision with its outcome and re-judgements; a ULID, sortable by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecisionId(pub Ulid);

impl DecisionId {
    /// Parses the 26 characters of a ULID.
    pub fn parse(text: &str) -> Option<Self> {
        Ulid::from_string(text).ok().map(Self)
    }

    /// The 16 bytes for records.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }
}

impl std::fmt::Display for DecisionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Makes decision ids without asking the system for randomness each time.
///
/// An id is unique, not secret: its random part starts at a random point and
/// counts up, so ids of one worker in one millisecond stay in order.
#[derive(Debug)]
pub struct DecisionIds {
    next: u128,
}

impl DecisionIds {
    /// A generator of its own for each worker.
    pub fn new() -> Self {
        let mut seed = [0_u8; 16];
        // The system's generator does not fail on any platform we run on; a zero
        // seed would still be unique within the worker.
        let _ = aws_lc_rs::rand::fill(&mut seed);
        Self {
            next: u128::from_be_bytes(seed) >> 48,
        }
    }

    /// The next id, for a moment in microseconds since the Unix epoch.
    pub fn next(&mut self, now_us: i64) -> DecisionId {
        self.next = self.next.wrapping_add(1) & ((1 << 80) - 1);
        let ms = u64::try_from(now_us / 1000).unwrap_or_default();
        DecisionId(Ulid::from_parts(ms, self.next))
    }
}

impl Default for DecisionIds {
    fn default() -> Self {
        Self::new()
    }
}

/// What the sampled comparison of an engine with its reference found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SelfCheck {
    /// Decisions compared.
    pub checked: u64,
    /// Of these, how many differed: anything but 0 is an alarm.
    pub mismatched: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_another_kind_begin_anew() {
        let mut pins = Pins::default();
        *pins.of::<u8>() = 7;
        assert_eq!(*pins.of::<u8>(), 7);
        assert_eq!(*pins.of::<u16>(), 0);
        assert_eq!(*pins.of::<u8>(), 0);
    }

    #[test]
    fn ids_of_two_workers_differ_and_those_of_one_ascend() {
        let (mut a, mut b) = (DecisionIds::new(), DecisionIds::new());
        let (first, second) = (a.next(1_000_000), a.next(1_000_000));
        assert!(first.0 < second.0);
        assert_ne!(b.next(1_000_000), first);
        assert_eq!(DecisionId::parse(&first.to_string()), Some(first));
    }
}
