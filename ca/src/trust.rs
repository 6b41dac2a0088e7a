//! What an agent needs to know: the roots to trust and the identities to serve.

use std::{net::SocketAddr, time::Duration};

use palisade_mesh::{
    spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain},
    svid::TrustBundle,
    wire::ca as wire,
};
use serde::{Deserialize, Serialize};

use crate::{
    join::NodeRole,
    registration::{REGISTRATIONS_MAX, Registration, TTL_MAX, TTL_MIN},
    selector::{Selector, SelectorError},
};

/// Most entries a directory may hold.
pub const DIRECTORY_MAX: usize = 256;
/// Most roots a bundle may hold; a rotation needs three.
pub const ROOTS_MAX: usize = 32;

/// Most intermediates that may be superseded at once.
pub const SUPERSEDED_MAX: usize = 64;

/// Bundle and registrations, always complete, under one number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustState {
    /// Which life of the authority's state this is: grows when it is made, repaired
    /// or restored. A state of a later epoch is newer whatever its sequence.
    pub epoch: u64,
    /// Grows with every change of any part.
    pub sequence: u64,
    /// Intermediates whose certificates are to be replaced before their time.
    pub superseded: Vec<Superseded>,
    /// Over which span replacements are spread.
    pub reissue_over: Duration,
    /// Roots of the trust domain.
    pub bundle: TrustBundle,
    /// Who may be served, in the order of the list.
    pub registrations: Vec<Registration>,
    /// Where the parts of the mesh are. Changes without a new sequence.
    pub directory: Vec<DirectoryEntry>,
}

/// Where one part of the mesh can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntry {
    /// Which part.
    pub role: NodeRole,
    /// Where.
    pub address: SocketAddr,
    /// The node that announced it; empty for the authority's own host.
    pub node: String,
}

impl TrustState {
    /// Its place in the order of states.
    pub fn place(&self) -> (u64, u64) {
        (self.epoch, self.sequence)
    }

    /// Whether it says the same as `other`, wherever the parts of the mesh are.
    #[cfg(feature = "agent")]
    #[cfg(any(feature = "agent", feature = "server"))]
    pub(crate) fn says_as(&self, other: &Self) -> bool {
        let here = Self {
            directory: other.directory.clone(),
            ..self.clone()
        };
        here == *other
    }
}

/// An intermediate whose certificates are to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superseded {
    /// Its key id.
    pub authority: Vec<u8>,
    /// Replace at once: its key, or the one above it, is in strange hands.
    pub tainted: bool,
}

/// Why a trust state from the wire is refused.
#[derive(Debug, thiserror::Error)]
pub enum TrustStateError {
    /// A trust domain or an identity is no SPIFFE name.
    #[error("trust state names an invalid identity: {0}")]
    Id(#[from] SpiffeIdError),
    /// More roots or registrations than any authority of ours has.
    #[error("trust state exceeds its limits")]
    Limit,
    /// A selector cannot be read.
    #[error("trust state holds an unknown selector: {0}")]
    Selector(#[from] SelectorError),
    /// A lifetime is outside of what is issued.
    #[error("trust state holds an impossible lifetime of {0} s")]
    Ttl(u32),
    /// It belongs to another trust domain.
    #[error("trust state belongs to trust domain `{0}`")]
    TrustDomain(String),
}

impl From<&TrustState> for wire::TrustState {
    fn from(state: &TrustState) -> Self {
        Self {
            trust_domain: state.bundle.trust_domain.to_string(),
            bundle_sequence: state.sequence,
            roots: state.bundle.roots.iter().map(|r| r.to_vec()).collect(),
            registrations: state.registrations.iter().map(Into::into).collect(),
            directory: state.directory.iter().map(Into::into).collect(),
            epoch: state.epoch,
            superseded: state
                .superseded
                .iter()
                .map(|s| wire::Superseded {
                    authority: s.authority.clone(),
                    tainted: s.tainted,
                })
                .collect(),
            reissue_over_ms: u32::try_from(state.reissue_over.as_millis()).unwrap_or(u32::MAX),
        }
    }
}

impl TryFrom<wire::TrustState> for TrustState {
    type Error = TrustStateError;

    fn try_from(state: wire::TrustState) -> Result<Self, TrustStateError> {
        let trust_domain = TrustDomain::parse(&state.trust_domain)?;
        if state.roots.len() > ROOTS_MAX
            || state.registrations.len() > REGISTRATIONS_MAX
            || state.directory.len() > DIRECTORY_MAX
            || state.superseded.len() > SUPERSEDED_MAX
        {
            return Err(TrustStateError::Limit);
        }
        // Parts that only a newer authority knows are left out.
        let directory = state.directory.iter().filter_map(entry).collect();
        let registrations = state
            .registrations
            .into_iter()
            .map(|r| registration(r, &trust_domain))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            epoch: state.epoch,
            sequence: state.bundle_sequence,
            superseded: state
                .superseded
                .into_iter()
                .map(|s| Superseded {
                    authority: s.authority,
                    tainted: s.tainted,
                })
                .collect(),
            reissue_over: Duration::from_millis(state.reissue_over_ms.into()),
            bundle: TrustBundle {
                trust_domain,
                roots: state.roots.into_iter().map(Into::into).collect(),
            },
            registrations,
            directory,
        })
    }
}

impl From<&DirectoryEntry> for wire::DirectoryEntry {
    fn from(entry: &DirectoryEntry) -> Self {
        Self {
            role: entry.role.as_str().to_owned(),
            address: entry.address.to_string(),
            node: entry.node.clone(),
        }
    }
}

fn entry(wire: &wire::DirectoryEntry) -> Option<DirectoryEntry> {
    Some(DirectoryEntry {
        role: wire.role.parse().ok()?,
        address: wire.address.parse().ok()?,
        node: wire.node.clone(),
    })
}

fn registration(
    r: wire::Registration,
    domain: &TrustDomain,
) -> Result<Registration, TrustStateError> {
    let id = SpiffeId::parse(&r.spiffe_id)?;
    if !id.is_member_of(domain) {
        return Err(TrustStateError::TrustDomain(id.trust_domain().into()));
    }
    let ttl = Duration::from_secs(r.ttl_s.into());
    if ttl < TTL_MIN || ttl > TTL_MAX {
        return Err(TrustStateError::Ttl(r.ttl_s));
    }
    let selectors = r
        .selectors
        .iter()
        .map(|s| Selector::parse(s))
        .collect::<Result<_, _>>()?;
    Ok(Registration::new(id, selectors, ttl, r.hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> wire::TrustState {
        wire::TrustState {
            trust_domain: "acme.test".into(),
            bundle_sequence: 4,
            roots: vec![vec![1, 2]],
            registrations: vec![wire::Registration {
                spiffe_id: "spiffe://acme.test/web".into(),
                selectors: vec!["unix:uid:1".into()],
                ttl_s: 60,
                hint: "h".into(),
            }],
            directory: vec![wire::DirectoryEntry {
                role: "pdp".into(),
                address: "10.0.0.1:7443".into(),
                node: "host-1".into(),
            }],
            epoch: 9,
            superseded: vec![wire::Superseded {
                authority: vec![7; 20],
                tainted: true,
            }],
            reissue_over_ms: 250,
        }
    }

    #[test]
    fn a_state_survives_the_wire() {
        let there = TrustState::try_from(state()).unwrap();
        assert_eq!(wire::TrustState::from(&there), state());
    }

    #[test]
    fn a_state_that_no_authority_would_send_is_refused() {
        let changes: [fn(&mut wire::TrustState); 9] = [
            |s| s.directory = vec![s.directory[0].clone(); DIRECTORY_MAX + 1],
            |s| s.superseded = vec![s.superseded[0].clone(); SUPERSEDED_MAX + 1],
            |s| s.trust_domain = "Acme.test".into(),
            |s| s.roots = vec![vec![]; ROOTS_MAX + 1],
            |s| s.registrations[0].spiffe_id = "spiffe://evil.test/web".into(),
            |s| s.registrations[0].spiffe_id = "web".into(),
            |s| s.registrations[0].selectors = vec!["any".into()],
            |s| s.registrations[0].ttl_s = 9,
            |s| s.registrations = vec![s.registrations[0].clone(); REGISTRATIONS_MAX + 1],
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut bad = state();
            change(&mut bad);
            assert!(
                TrustState::try_from(bad).is_err(),
                "change {index} was accepted"
            );
        }
    }
}
