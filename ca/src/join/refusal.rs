//! Why a host is turned away at the authority's doors.
//!
//! Each has a code, in the text that goes over the wire too, so that the host's own
//! log says what the authority's record says.

use palisade_mesh::diagnostic::Diagnostic;

use super::SKEW_MAX_S;

const BANNED: u16 = 4106;
const UNKNOWN_TOKEN: u16 = 4111;
const USED_TOKEN: u16 = 4112;
const OTHER_NODE: u16 = 4113;
const CLOCK: u16 = 4115;
const CHALLENGE: u16 = 4116;
const PROOF: u16 = 4117;
const UNKNOWN_NODE: u16 = 4118;
const BUSY: u16 = 4119;
const ROLE: u16 = 4123;
const MALFORMED: u16 = 4124;

/// Why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum JoinRefusal {
    /// An operator has banned the node.
    #[error("node `{0}` is banned")]
    Banned(String),
    /// Too much is under way.
    #[error("too many hosts join at this moment; come back")]
    Busy,
    /// It was not given here, is too old, or was used before: a replay.
    #[error("challenge is stale, of another key, or was used before")]
    Challenge,
    /// The clocks differ too much.
    #[error(
        "clocks differ: it is {node} on the node and {ours} at the authority; {SKEW_MAX_S} s are allowed"
    )]
    Clock {
        /// The node's time.
        node: String,
        /// The authority's time.
        ours: String,
    },
    /// A request that no agent of ours sends.
    #[error("request is malformed: {0}")]
    Malformed(&'static str),
    /// No certificate can be made now.
    #[error("no certificate: {0}")]
    NoCertificate(String),
    /// The token names another node.
    #[error("join token `{token}` is not for node `{node}`")]
    OtherNode {
        /// Its id.
        token: String,
        /// Who came with it.
        node: String,
    },
    /// The signature is not by the key.
    #[error("proof of possession does not verify")]
    Proof,
    /// The node was not given the role.
    #[error("node `{node}` was not given the role `{role}`")]
    Role {
        /// Who.
        node: String,
        /// Which.
        role: String,
    },
    /// Its state could not be written.
    #[error("the authority cannot keep it: {0}")]
    Store(String),
    /// Nobody joined under this name with this key.
    #[error("no node `{0}` has joined with this key")]
    UnknownNode(String),
    /// Revoked, expired, or never made here.
    #[error("join token `{0}` is unknown, expired or revoked")]
    UnknownToken(String),
    /// Somebody was first.
    #[error("join token `{token}` was used already, by node `{node}`")]
    UsedToken {
        /// Its id.
        token: String,
        /// By whom.
        node: String,
    },
}

impl JoinRefusal {
    /// Its code.
    pub fn code(&self) -> u16 {
        match self {
            Self::Banned(_) => BANNED,
            Self::Busy | Self::NoCertificate(_) | Self::Store(_) => BUSY,
            Self::Challenge => CHALLENGE,
            Self::Clock { .. } => CLOCK,
            Self::Malformed(_) => MALFORMED,
            Self::OtherNode { .. } => OTHER_NODE,
            Self::Proof => PROOF,
            Self::Role { .. } => ROLE,
            Self::UnknownNode(_) => UNKNOWN_NODE,
            Self::UnknownToken(_) => UNKNOWN_TOKEN,
            Self::UsedToken { .. } => USED_TOKEN,
        }
    }

    /// The constant word for records.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Banned(_) => "node_banned",
            Self::Busy => "busy",
            Self::Challenge => "challenge_invalid",
            Self::Clock { .. } => "clock_skew",
            Self::Malformed(_) => "malformed",
            Self::NoCertificate(_) => "no_certificate",
            Self::OtherNode { .. } => "token_of_other_node",
            Self::Proof => "proof_invalid",
            Self::Role { .. } => "role_not_given",
            Self::Store(_) => "store_failed",
            Self::UnknownNode(_) => "node_unknown",
            Self::UnknownToken(_) => "token_unknown",
            Self::UsedToken { .. } => "token_used",
        }
    }

    /// Whether the same may succeed later without anybody's doing.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Busy | Self::NoCertificate(_) | Self::Store(_))
    }

    /// For people.
    pub fn diagnostic(&self) -> Diagnostic {
        Diagnostic::error(self.code(), self.to_string())
    }

    /// As it goes over the wire: with its code in front.
    pub fn wire(&self) -> String {
        format!("PLS{}: {self}", self.code())
    }
}

/// The code in front of a text from the wire, and the rest of it.
pub fn code_of(text: &str) -> Option<(u16, &str)> {
    let (code, rest) = text.strip_prefix("PLS")?.split_once(": ")?;
    Some((code.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_code_over_the_wire() {
        let refusal = JoinRefusal::UnknownToken("abc".into());
        let (code, text) = (refusal.code(), refusal.to_string());
        assert_eq!(code_of(&refusal.wire()), Some((code, text.as_str())));
        assert_eq!(code_of("something else"), None);
    }
}
