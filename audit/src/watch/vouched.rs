//! Certificates of reporters that the mesh stands for.
//!
//! The authority records each certificate that it issues, with its SHA-256, before it leaves;
//! and while one can be held against the trust bundle, that says the same. A certificate that
//! neither stands for is refused, and stays so until the record that it was issued arrives.

use std::collections::VecDeque;

use palisade_mesh::{spiffe_id::SpiffeId, wire::record::Credential};
use prost::Message as _;
use rustc_hash::{FxHashMap, FxHashSet};

use super::FAULTS_MAX;
use crate::{
    checkpoint::domain,
    envelope::{CREDENTIAL, EnvelopeRef, RecordPeek},
    heads::{Roots, Signer},
    merkle::Hash,
    stream::StreamKey,
};

/// Certificates that are remembered as issued; the oldest is forgotten with one more, and then
/// rests on the bundle alone.
const ISSUED_MAX: usize = 1 << 18;

/// The authority's word for a certificate that it has issued.
const ISSUED: &str = "issued";

/// What was issued, and what was refused.
#[derive(Default)]
pub(super) struct Vouched {
    authority: Option<SpiffeId>,
    issued: FxHashSet<Hash>,
    /// The oldest first.
    order: VecDeque<Hash>,
    /// Leaves that were refused once, those among them that were recorded since.
    refused: FxHashMap<Hash, Vec<u8>>,
}

/// What is to be thought of a certificate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The mesh stands for it.
    Good,
    /// It was refused before, or it came without its chain: it says nothing.
    Open,
    /// It is refused, and why.
    Refused(String),
}

impl Vouched {
    /// Of the log that this key is of: its trust domain says who the authority is.
    pub(super) fn new(origin: &str) -> Self {
        let authority = domain(origin).map(|domain| format!("spiffe://{domain}/palisade/ca"));
        Self {
            authority: authority.and_then(|id| SpiffeId::parse(&id).ok()),
            ..Self::default()
        }
    }

    /// Takes in a record; gives the digest of the certificate if it says that one was issued.
    pub(super) fn take(
        &mut self,
        envelope: &EnvelopeRef<'_>,
        peek: &RecordPeek<'_>,
    ) -> Option<Hash> {
        if peek.class != CREDENTIAL {
            return None;
        }
        let reporter = StreamKey::decode(envelope.stream)?.reporter;
        let issued = Credential::decode(peek.body).ok()?;
        if Some(&reporter) != self.authority.as_ref() || issued.verb != ISSUED {
            return None;
        }
        let certificate = issued.certificate.as_slice().try_into().ok()?;
        if self.issued.insert(certificate) {
            self.order.push_back(certificate);
        }
        if self.order.len() > ISSUED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.issued.remove(&oldest);
        }
        Some(certificate)
    }

    /// A leaf that was refused once.
    pub(super) fn leaf(&self, certificate: &[u8]) -> Option<&[u8]> {
        let certificate: &Hash = certificate.try_into().ok()?;
        self.refused.get(certificate).map(Vec::as_slice)
    }

    /// What is to be thought of the certificate that has signed, which came with this `chain`
    /// if that is not empty. Without roots there is nothing to hold it against.
    pub(super) fn stands(
        &mut self,
        signer: &Signer,
        chain: &[Vec<u8>],
        roots: Option<&dyn Roots>,
        now_s: i64,
    ) -> Standing {
        let Signer { peer, certificate } = signer;
        let Some(roots) = roots.filter(|_| !self.issued.contains(certificate)) else {
            return Standing::Good;
        };
        let Some(leaf) = chain
            .first()
            .filter(|_| !self.refused.contains_key(certificate))
        else {
            return Standing::Open;
        };
        // One that has ended is held against the roots as of its end.
        let Err(why) = roots.hold(chain, now_s.min(peer.not_after_s)) else {
            return Standing::Good;
        };
        if self.refused.len() < FAULTS_MAX {
            self.refused.insert(*certificate, leaf.clone());
        }
        Standing::Refused(why)
    }
}
