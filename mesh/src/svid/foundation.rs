//! What a verified chain rests on, so that an open connection can be ended when
//! that is trusted no more.
//!
//! A handshake verifies a chain once. The connection outlives the bundle it was
//! verified against, so it keeps the little that is needed to ask again: a digest
//! of the root's key and the key identifiers of the authorities in between, not
//! the certificates.

use std::sync::{Arc, OnceLock};

use webpki::VerifiedPath;
use x509_parser::{
    extensions::ParsedExtension,
    prelude::{FromDer, X509Certificate},
};

use super::Peer;
use crate::snapshot::Digest;

/// The authorities that a verified chain rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foundation {
    /// SHA-256 of the public key (SubjectPublicKeyInfo) of the root.
    root: Digest,
    /// Key identifier of each certificate's issuer, the leaf's first, as far as
    /// the certificates name one.
    authorities: Box<[Box<[u8]>]>,
}

impl Foundation {
    /// Of a path that has just been verified.
    pub(super) fn of(path: &VerifiedPath<'_>, leaf: &X509Certificate<'_>) -> Self {
        let mut authorities: Vec<_> = issuer_key(leaf).into_iter().collect();
        for between in path.intermediate_certificates() {
            let der = between.der();
            if let Ok((_, cert)) = X509Certificate::from_der(&der) {
                authorities.extend(issuer_key(&cert));
            }
        }
        Self {
            root: root_of(path.anchor()),
            authorities: authorities.into(),
        }
    }

    /// SHA-256 of the root's public key.
    pub fn root(&self) -> Digest {
        self.root
    }

    /// Key identifiers of the authorities, the leaf's issuer first.
    pub fn authorities(&self) -> impl Iterator<Item = &[u8]> {
        self.authorities.iter().map(AsRef::as_ref)
    }
}

/// By what a [`Foundation`] knows its root.
pub(super) fn root_of(anchor: &rustls_pki_types::TrustAnchor<'_>) -> Digest {
    Digest::of(&anchor.subject_public_key_info)
}

fn issuer_key(cert: &X509Certificate<'_>) -> Option<Box<[u8]>> {
    cert.extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(aki) => {
                aki.key_identifier.as_ref().map(|id| id.0.into())
            }
            _ => None,
        })
}

/// Learns in a handshake what the peer's chain rests on. For one connection.
#[derive(Debug, Clone, Default)]
pub struct Witness(Arc<OnceLock<Arc<Foundation>>>);

impl Witness {
    pub(super) fn tell(&self, foundation: Foundation) {
        // One connection has one handshake.
        let _ = self.0.set(Arc::new(foundation));
    }

    /// What the chain rests on; none before the chain has been verified.
    pub fn foundation(&self) -> Option<Arc<Foundation>> {
        self.0.get().cloned()
    }
}

/// Everything by which a peer can be barred while its connection is open.
#[derive(Debug, Clone, Copy)]
pub struct PeerFacts<'a> {
    /// Identity, serial number and validity of the leaf.
    pub peer: &'a Peer,
    /// The authorities behind it.
    pub foundation: &'a Foundation,
}
