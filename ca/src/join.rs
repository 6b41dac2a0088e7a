//! Joining: how a host becomes a node of the mesh.
//!
//! A node has a name, a key of its own and the roles it was given. A join token, made
//! by an operator and good for one use, lets a key become a node's; from then on the
//! key speaks for itself: it renews the node's SVID, and brings a node back that was
//! away for longer than its SVID or the authority's roots lasted.
//!
//! - [`token`]: the one string that carries address, roots and secret
//! - [`proof`]: what is signed and vouched for at the enrolment door
//! - [`refusal`]: why a host is turned away, in words and codes

use std::{fmt, str::FromStr};

use palisade_mesh::{
    diagnostic::Diagnostic,
    spiffe_id::{SpiffeId, TrustDomain},
};
use serde::{Deserialize, Serialize};

#[cfg(any(feature = "agent", feature = "server"))]
pub mod proof;
pub mod refusal;
pub mod token;

/// Longest name of a node, in bytes.
pub const NODE_NAME_LEN_MAX: usize = 63;
/// How far the clocks of a node and the authority may differ, in seconds: as far as
/// certificates are dated back.
pub const SKEW_MAX_S: i64 = 60;
/// Stands for every node in a registration.
pub const ANY_NODE: &str = "*";

/// A node's name: what its certificate carries in `spiffe://TD/palisade/agent/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

impl NodeName {
    /// Parses a name: lower-case letters, digits, `-` and `.`, beginning and ending
    /// with a letter or digit, at most [`NODE_NAME_LEN_MAX`] bytes.
    ///
    /// # Errors
    /// `PLS4103`.
    pub fn parse(name: &str) -> Result<Self, Diagnostic> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        let edges =
            bytes.first().copied().is_some_and(plain) && bytes.last().copied().is_some_and(plain);
        let inside = bytes.iter().all(|b| plain(*b) || matches!(b, b'-' | b'.'));
        if edges && inside && name.len() <= NODE_NAME_LEN_MAX && !name.contains("..") {
            return Ok(Self(name.to_owned()));
        }
        let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        Err(
            Diagnostic::error(4103, format!("`{shown}` is not a name for a node"))
                .cause("it becomes part of the node's identity")
                .help("1 to 63 lower-case letters, digits, `-` and `.`, such as `host-2`"),
        )
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The node's identity.
    pub fn id(&self, domain: &TrustDomain) -> SpiffeId {
        domain.role(&format!("agent/{}", self.0))
    }

    /// The node that `id` names, if it names one of this trust domain.
    pub fn of_id(id: &SpiffeId, domain: &TrustDomain) -> Option<Self> {
        let name = id.path().strip_prefix("/palisade/agent/")?;
        id.is_member_of(domain)
            .then(|| Self::parse(name).ok())
            .flatten()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for NodeName {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name).map_err(|d| d.message)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

/// What a node may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// The audit service.
    Audit,
    /// The policy decision point.
    Pdp,
    /// Workloads and their proxies: what is registered for the node.
    Proxy,
}

impl NodeRole {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Pdp => "pdp",
            Self::Proxy => "proxy",
        }
    }

    /// Whether it is a part of the mesh with a reserved identity.
    pub fn is_part(self) -> bool {
        matches!(self, Self::Audit | Self::Pdp)
    }
}

impl FromStr for NodeRole {
    type Err = ();
    fn from_str(word: &str) -> Result<Self, ()> {
        [Self::Audit, Self::Pdp, Self::Proxy]
            .into_iter()
            .find(|r| r.as_str() == word)
            .ok_or(())
    }
}

/// SHA-256 of some bytes: of a token's secret, of a root certificate.
#[cfg(any(feature = "agent", feature = "server"))]
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    palisade_mesh::snapshot::Digest::of(bytes).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_plain_and_lower_case() {
        let longest = "a".repeat(NODE_NAME_LEN_MAX);
        for good in ["a", "host-2", "db.eu-1", "0", &longest] {
            assert!(NodeName::parse(good).is_ok(), "{good}");
        }
        let longer = format!("{longest}a");
        for bad in [
            "", "Host", "a/b", "-a", "a-", ".", "a..b", "a b", "ä", "*", &longer,
        ] {
            assert_eq!(NodeName::parse(bad).unwrap_err().code.0, 4103, "{bad}");
        }
    }

    #[test]
    fn only_an_identity_under_agent_names_a_node() {
        let domain = TrustDomain::parse("acme.test").unwrap();
        let name = NodeName::parse("host-2").unwrap();
        assert_eq!(
            NodeName::of_id(&name.id(&domain), &domain),
            Some(name.clone())
        );
        let other = TrustDomain::parse("other.test").unwrap();
        assert_eq!(NodeName::of_id(&name.id(&other), &domain), None);
        for role in ["agent", "pdp", "agent/a/b"] {
            assert_eq!(NodeName::of_id(&domain.role(role), &domain), None, "{role}");
        }
    }
}
