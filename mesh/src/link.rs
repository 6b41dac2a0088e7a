//! Who may call a part of the mesh: the question every control link is put to.
//!
//! The parts ask through [`Gate`]; the engine behind it is the policy crate's, and the
//! binary plugs it in. A handshake has proven the peer before anybody asks.

use crate::spiffe_id::SpiffeId;

/// What a peer wants of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkAction {
    /// Of the authority: say where a part of the mesh is.
    Announce,
    /// Of the decision APIs: what the caller itself may do.
    Ask,
    /// Of the decision APIs: what somebody else may do, whom the caller asserts.
    Assert,
    /// Of the decision APIs: which policies made an answer.
    Explain,
    /// Of the authority: a certificate.
    Issue,
    /// Of the audit service: take records.
    Push,
    /// Of the decision APIs: who may do what, by listing.
    Search,
    /// Of the policy decision point: revisions and endpoints.
    Subscribe,
    /// Of the authority: trust bundle, registrations and directory.
    Watch,
}

impl LinkAction {
    /// The word for it, in policies and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Announce => "announce",
            Self::Ask => "ask",
            Self::Assert => "assert",
            Self::Explain => "explain",
            Self::Issue => "issue",
            Self::Push => "push",
            Self::Search => "search",
            Self::Subscribe => "subscribe",
            Self::Watch => "watch",
        }
    }

    /// The part it is asked of.
    pub fn part(self) -> &'static str {
        match self {
            Self::Announce | Self::Issue | Self::Watch => "ca",
            Self::Push => "audit",
            Self::Ask | Self::Assert | Self::Explain | Self::Search | Self::Subscribe => "pdp",
        }
    }
}

/// A call on a control link, before it is answered.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    /// Who calls, as the handshake proved it.
    pub peer: &'a SpiffeId,
    /// For what.
    pub action: LinkAction,
    /// Whether the peer is an identity of a service in the catalogue, where that is known.
    pub is_catalogued: bool,
    /// Roles the peer was given when it joined; empty for what is no node.
    pub roles: &'a [&'a str],
    /// The role that is announced or asked for, where there is one.
    pub role: Option<&'a str>,
    /// Services that the peer is an identity of, where that is known.
    pub services: &'a [&'a str],
    /// What a question to the decision APIs is about.
    pub about: Option<About<'a>>,
}

/// What a question to the decision APIs is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The API: `grpc`, `authzen` or `ext_authz`.
    pub api: &'a str,
    /// Whose rights are asked about; none in a search for subjects.
    pub subject: Option<&'a SpiffeId>,
    /// The service that would be called; none in a search over all.
    pub service: Option<&'a str>,
}

impl<'a> Link<'a> {
    /// A call of `peer` about which nothing else is known.
    pub fn new(peer: &'a SpiffeId, action: LinkAction) -> Self {
        Self {
            peer,
            action,
            is_catalogued: false,
            roles: &[],
            role: None,
            services: &[],
            about: None,
        }
    }
}

/// Code of a refused link.
const REFUSED: u16 = 4130;

/// A call that is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PLS{REFUSED}: `{peer}` may not {action} here{}", self.because())]
pub struct LinkRefused {
    /// Who called.
    pub peer: String,
    /// For what.
    pub action: &'static str,
    /// The policies that forbid it; empty where none permits it.
    pub policies: Vec<String>,
}

impl LinkRefused {
    fn because(&self) -> String {
        match self.policies.as_slice() {
            [] => ": no link policy permits it".into(),
            named => format!(": forbidden by {}", named.join(", ")),
        }
    }
}

/// Decides about control links.
pub trait Gate: Send + Sync {
    /// Lets the call pass, or not.
    ///
    /// # Errors
    /// Why not; whoever implements this has recorded it.
    fn ask(&self, link: &Link<'_>) -> Result<(), LinkRefused>;

    /// Whether the call would pass, where asking is no attempt: whoever records refusals
    /// does not record this.
    fn permits(&self, link: &Link<'_>) -> bool {
        self.ask(link).is_ok()
    }
}
