//! How a list is signed and how it is believed.
//!
//! The signer is the certificate authority, by the X.509-SVID it holds like any
//! other part of the mesh: who has the trust bundle can check a list, and whoever
//! passes it on can neither change it nor make one up.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use prost::Message;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, aws_lc_rs::ECDSA_P256_SHA256};

use super::{BadEntry, ENTRIES_MAX, Entry, KillList};
use crate::{
    spiffe_id::{SpiffeId, TrustDomain},
    svid::{PeerError, TrustBundle, X509Svid, verify_chain},
    wire::kill as wire,
};

/// Longest encoded list, in bytes; a full one of usual entries is a tenth of it.
pub const LIST_LEN_MAX: usize = 3 << 20;
/// Names the purpose of the signature, so that it serves no other.
const DOMAIN: &[u8] = b"palisade/kill-list/v1\0";

/// Why a list is not believed.
#[derive(Debug, thiserror::Error)]
pub enum KillListError {
    /// The signer's chain does not verify.
    #[error("kill list is not signed under the trust bundle: {0}")]
    Chain(#[from] PeerError),
    /// It holds what no list may hold.
    #[error("kill list holds an entry that cannot stand: {0}")]
    Entry(BadEntry),
    /// The signing key cannot be used.
    #[error("kill list cannot be signed with this key")]
    Key,
    /// Signed by somebody else.
    #[error("kill list is signed by `{0}`, which is not the authority")]
    NotTheAuthority(SpiffeId),
    /// It knows less than the one that is held.
    #[error("kill list {offered} is older than {held}, which is in force")]
    Older {
        /// Sequence of the one that arrived.
        offered: u64,
        /// Sequence of the present one.
        held: u64,
    },
    /// The list of another trust domain.
    #[error("kill list is of trust domain `{0}`")]
    OtherDomain(String),
    /// The signature is not over these bytes.
    #[error("signature of the kill list does not verify")]
    Signature,
    /// Longer than [`LIST_LEN_MAX`].
    #[error("kill list of {0} bytes exceeds the limit of 3 MiB")]
    TooLong(usize),
    /// More entries than [`ENTRIES_MAX`].
    #[error("kill list of {0} entries exceeds the limit of {ENTRIES_MAX}")]
    TooManyEntries(usize),
    /// An entry bars something that this build does not know.
    #[error("kill list bars something that this build does not know")]
    UnknownTarget,
    /// Not an encoded list.
    #[error("kill list cannot be read")]
    Unreadable,
}

/// Signs `list` as the authority that `svid` proves.
///
/// # Errors
/// [`KillListError::TooLong`], and [`KillListError::Key`] when the key is not P-256.
pub fn sign(list: &KillList, svid: &X509Svid) -> Result<wire::SignedKillList, KillListError> {
    let bytes = wire::KillList {
        trust_domain: list.trust_domain().to_string(),
        sequence: list.sequence(),
        issued_us: list.issued_us(),
        entries: list.entries().iter().map(Into::into).collect(),
    }
    .encode_to_vec();
    if bytes.len() > LIST_LEN_MAX {
        return Err(KillListError::TooLong(bytes.len()));
    }
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &svid.key)
        .map_err(|_| KillListError::Key)?;
    let signature = key
        .sign(&SystemRandom::new(), &[DOMAIN, &bytes].concat())
        .map_err(|_| KillListError::Key)?;
    Ok(wire::SignedKillList {
        list: bytes,
        chain: svid.chain.iter().map(|c| c.to_vec()).collect(),
        signature: signature.as_ref().to_vec(),
    })
}

/// Reads a list that the authority of `bundle`'s trust domain signed.
///
/// `at` is when its signature must have been good: now for a list that arrives, the
/// time it was accepted for one that was kept on disk.
///
/// # Errors
/// Every reason not to believe it.
pub fn open(
    signed: &wire::SignedKillList,
    bundle: &TrustBundle,
    at: UnixTime,
) -> Result<KillList, KillListError> {
    if signed.list.len() > LIST_LEN_MAX {
        return Err(KillListError::TooLong(signed.list.len()));
    }
    let chain: Vec<CertificateDer<'_>> = signed
        .chain
        .iter()
        .map(|c| CertificateDer::from(c.as_slice()))
        .collect();
    let signer = verify_chain(&chain, bundle, at)?.id;
    if signer != bundle.trust_domain.role("ca") {
        return Err(KillListError::NotTheAuthority(signer));
    }
    verify_signature(&chain, signed)?;
    read(&signed.list, &bundle.trust_domain)
}

fn verify_signature(
    chain: &[CertificateDer<'_>],
    signed: &wire::SignedKillList,
) -> Result<(), KillListError> {
    let leaf = chain.first().ok_or(PeerError::NoCertificate)?;
    let message = [DOMAIN, &signed.list].concat();
    EndEntityCert::try_from(leaf)
        .and_then(|leaf| leaf.verify_signature(ECDSA_P256_SHA256, &message, &signed.signature))
        .map_err(|_| KillListError::Signature)
}

/// Reads a list whose signature was checked before, such as one that was kept on disk.
///
/// # Errors
/// When it is no list of `domain`.
pub fn read(bytes: &[u8], domain: &TrustDomain) -> Result<KillList, KillListError> {
    let list = wire::KillList::decode(bytes).map_err(|_| KillListError::Unreadable)?;
    if list.trust_domain != domain.as_str() {
        return Err(KillListError::OtherDomain(list.trust_domain));
    }
    if list.entries.len() > ENTRIES_MAX {
        return Err(KillListError::TooManyEntries(list.entries.len()));
    }
    let entries = list
        .entries
        .into_iter()
        .map(Entry::try_from)
        .collect::<Result<_, _>>()?;
    KillList::new(domain.clone(), list.sequence, list.issued_us, entries)
}
