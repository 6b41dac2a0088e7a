//! Issuance: from an agent's request to a certificate that has been checked twice.
//!
//! Of the request only the public key, the proof and the attested selectors are
//! taken; every field of the certificate comes from the registration and from us
//! (attack T45). What was signed is parsed again and verified like a peer's before
//! it leaves, so a mistake here is an error and not a certificate.

use std::{collections::HashSet, time::Duration};

use palisade_mesh::{
    snapshot::Digest,
    spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain},
    svid::{PeerError, TrustBundle, verify_chain},
    wire::ca::IssueRequest,
};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use ulid::Ulid;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{
    authority::mint::{MintError, Signer, serial, set_validity, uri},
    join::NodeName,
    registration::{Registration, SELECTORS_MAX},
    request::{point_of, proven},
    selector::{Selector, SelectorError},
    store::StoreError,
};

/// Longest public key accepted, in bytes, before anything looks into it.
pub const SPKI_LEN_MAX: usize = 16 * 1024;
/// Longest proof accepted, in bytes; a P-256 signature has at most 72.
pub const PROOF_LEN_MAX: usize = 256;

/// Why no certificate was issued; each has a name for records.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The key is an authority's.
    #[error("key belongs to an authority")]
    AuthorityKey,
    /// The kill list bars the identity, or the authority that would sign.
    #[error("kill list bars it: entry `{0}`")]
    Barred(Ulid),
    /// What we signed is not what we meant.
    #[error("bug: issued certificate does not verify: {0}")]
    Faulty(&'static str),
    /// What we signed would be refused by peers.
    #[error("bug: issued certificate does not verify: {0}")]
    FaultyChain(#[from] PeerError),
    /// The identity is not a SPIFFE ID.
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
    /// The key is certified for another identity.
    #[error("key is bound to another identity")]
    KeyBound,
    /// Not a P-256 key in its only encoding.
    #[error("public key is not an uncompressed P-256 key")]
    KeyType,
    /// The certificate cannot be made.
    #[error(transparent)]
    Mint(#[from] MintError),
    /// No authority can sign now.
    #[error("no authority is active")]
    NoAuthority,
    /// The registration wants more than was attested.
    #[error("attested selectors do not satisfy a registration of `{0}`")]
    NotAttested(SpiffeId),
    /// It is registered, but not for the host that asks.
    #[error("identity `{0}` is not registered for this node")]
    OtherNode(SpiffeId),
    /// The caller does not hold the key.
    #[error("proof of possession does not verify")]
    Proof,
    /// A selector cannot be read.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// The store could not keep the certificate.
    #[error(transparent)]
    Store(StoreError),
    /// Larger than anything an agent of ours sends.
    #[error("request exceeds its limits")]
    TooLarge,
    /// The certificate would outlive its issuer.
    #[error("certificate would end {0} s after its issuer")]
    TtlPastIssuer(i64),
    /// Its record could not be kept.
    #[error("issuance cannot be recorded: {0}")]
    Unrecorded(#[from] palisade_mesh::sink::SinkError),
    /// Nobody registered the identity.
    #[error("identity `{0}` is not registered")]
    Unregistered(SpiffeId),
    /// The identity belongs to another trust domain.
    #[error("identity belongs to trust domain `{0}`")]
    WrongTrustDomain(String),
}

impl Refusal {
    /// The constant word for records.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::AuthorityKey => "authority_key",
            Self::Barred(_) => "barred",
            Self::Faulty(_) | Self::FaultyChain(_) => "faulty",
            Self::Id(_) => "not_spiffe",
            Self::KeyBound => "key_bound",
            Self::KeyType => "key_type",
            Self::Mint(_) => "mint_failed",
            Self::NoAuthority => "no_authority",
            Self::NotAttested(_) => "not_attested",
            Self::OtherNode(_) => "other_node",
            Self::Proof => "proof_invalid",
            Self::Selector(_) => "selector_invalid",
            Self::Store(_) => "store_failed",
            Self::TooLarge => "too_large",
            Self::TtlPastIssuer(_) => "ttl_past_issuer",
            Self::Unrecorded(_) => "unrecorded",
            Self::Unregistered(_) => "unregistered",
            Self::WrongTrustDomain(_) => "wrong_trust_domain",
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::NoAuthority | Self::Store(_) | Self::TtlPastIssuer(_) | Self::Unrecorded(_)
        )
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::KeyBound => Self::KeyBound,
            other => Self::Store(other),
        }
    }
}

/// A request that may be fulfilled.
#[derive(Debug)]
pub struct Order {
    /// The identity, registered.
    pub spiffe_id: SpiffeId,
    /// The key to certify, proven to be the caller's.
    pub spki: Vec<u8>,
    /// Lifetime, the registration's.
    pub ttl: Duration,
    /// What was attested of the workload.
    pub selectors: Vec<String>,
    /// The joined node that asks; none for the authority's own host.
    pub node: Option<NodeName>,
}

impl Order {
    pub(crate) fn key_digest(&self) -> [u8; 32] {
        Digest::of(&self.spki).0
    }
}

/// What requests are checked against: a pure function of what they say.
pub struct Desk<'a> {
    /// Whose identities are issued.
    pub trust_domain: &'a TrustDomain,
    /// Who is who; of several for one identity the first that is attested decides.
    pub registrations: &'a [Registration],
    /// Digests of every authority's SubjectPublicKeyInfo.
    pub authority_keys: &'a HashSet<[u8; 32]>,
    /// Which registrations are for the host that asks.
    pub serves: &'a (dyn Fn(&Registration) -> bool + Sync),
}

impl Desk<'_> {
    /// Decides whether a request is fulfilled, cheapest checks first.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, request: &IssueRequest) -> Result<Order, Refusal> {
        if request.spki.len() > SPKI_LEN_MAX
            || request.proof.len() > PROOF_LEN_MAX
            || request.selectors.len() > SELECTORS_MAX
        {
            return Err(Refusal::TooLarge);
        }
        let id = SpiffeId::parse(&request.spiffe_id)?;
        if !id.is_member_of(self.trust_domain) {
            return Err(Refusal::WrongTrustDomain(id.trust_domain().into()));
        }
        let registration = self.registration(&id, &request.selectors)?;
        let point = point_of(&request.spki).ok_or(Refusal::KeyType)?;
        if !proven(self.trust_domain, request, point) {
            return Err(Refusal::Proof);
        }
        let order = Order {
            spiffe_id: id,
            spki: request.spki.clone(),
            ttl: registration.ttl,
            selectors: request.selectors.clone(),
            node: None,
        };
        if self.authority_keys.contains(&order.key_digest()) {
            return Err(Refusal::AuthorityKey);
        }
        Ok(order)
    }

    fn registration(&self, id: &SpiffeId, selectors: &[String]) -> Result<&Registration, Refusal> {
        let attested = selectors
            .iter()
            .map(|s| Selector::parse(s))
            .collect::<Result<Vec<_>, _>>()?;
        let mut of_id = self
            .registrations
            .iter()
            .filter(|r| r.spiffe_id == *id)
            .peekable();
        if of_id.peek().is_none() {
            return Err(Refusal::Unregistered(id.clone()));
        }
        let mut of_id = of_id.filter(|r| (self.serves)(r)).peekable();
        if of_id.peek().is_none() {
            return Err(Refusal::OtherNode(id.clone()));
        }
        of_id
            .find(|r| r.matches(&attested))
            .ok_or_else(|| Refusal::NotAttested(id.clone()))
    }
}

/// A certificate that verified, with what is to be remembered of it.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) serial: Vec<u8>,
    pub(crate) not_before_s: i64,
    pub(crate) not_after_s: i64,
}

/// An intermediate at work, and the root its leaves are verified against.
pub(crate) struct Press {
    pub(crate) signer: Signer,
    pub(crate) anchor: TrustBundle,
}

impl Press {
    /// Signs what was ordered, parses it again and verifies it.
    pub(crate) fn sign(&self, order: &Order, now_s: i64) -> Result<Leaf, Refusal> {
        let ttl_s = i64::try_from(order.ttl.as_secs()).map_err(|_| Refusal::TooLarge)?;
        let late_s = now_s + ttl_s - self.signer.authority.not_after_s;
        if late_s > 0 {
            return Err(Refusal::TtlPastIssuer(late_s));
        }
        let params = leaf_params(&order.spiffe_id, now_s, ttl_s)?;
        let key = SubjectPublicKeyInfo::from_der(&order.spki).map_err(MintError::Encode)?;
        let certificate: CertificateDer<'static> = params
            .signed_by(&key, &self.signer.issuer)
            .map_err(MintError::Encode)?
            .into();
        self.verify(order, &params, certificate, now_s)
    }

    /// The chain of a leaf, leaf first, without the root.
    pub(crate) fn chain(&self, leaf: &Leaf) -> Vec<CertificateDer<'static>> {
        vec![
            leaf.certificate.clone(),
            self.signer.authority.certificate.clone(),
        ]
    }

    fn verify(
        &self,
        order: &Order,
        meant: &CertificateParams,
        certificate: CertificateDer<'static>,
        now_s: i64,
    ) -> Result<Leaf, Refusal> {
        let chain = [certificate, self.signer.authority.certificate.clone()];
        let now = Duration::from_secs(u64::try_from(now_s).unwrap_or_default());
        let peer = verify_chain(&chain, &self.anchor, UnixTime::since_unix_epoch(now))?;
        let [certificate, _] = chain;
        if peer.id != order.spiffe_id {
            return Err(Refusal::Faulty("identity"));
        }
        if peer.not_before_s != meant.not_before.unix_timestamp()
            || peer.not_after_s != meant.not_after.unix_timestamp()
        {
            return Err(Refusal::Faulty("validity"));
        }
        check_profile(&certificate, &order.spki)?;
        Ok(Leaf {
            certificate,
            serial: peer.serial.to_vec(),
            not_before_s: peer.not_before_s,
            not_after_s: peer.not_after_s,
        })
    }
}

/// Everything in a leaf but its key and signature (X509-SVID section 4): one URI
/// SAN, critical since the subject is empty; digitalSignature; both TLS usages;
/// BasicConstraints present and false, which some clients insist on.
fn leaf_params(id: &SpiffeId, now_s: i64, ttl_s: i64) -> Result<CertificateParams, MintError> {
    let mut params = CertificateParams::default();
    set_validity(&mut params, now_s, ttl_s)?;
    params.serial_number = Some(serial());
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id.as_str())?];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// What the verification of peers does not look at.
fn check_profile(certificate: &[u8], spki: &[u8]) -> Result<(), Refusal> {
    let unreadable = |_| Refusal::Faulty("encoding");
    let (_, cert) =
        X509Certificate::from_der(certificate).map_err(|_| Refusal::Faulty("encoding"))?;
    let usage = cert.key_usage().map_err(unreadable)?;
    let basic = cert.basic_constraints().map_err(unreadable)?;
    let names = cert.subject_alternative_name().map_err(unreadable)?;
    let ids = cert.extensions().iter().filter(|e| {
        use x509_parser::prelude::ParsedExtension as P;
        matches!(
            e.parsed_extension(),
            P::AuthorityKeyIdentifier(_) | P::SubjectKeyIdentifier(_)
        )
    });
    let rules = [
        ("key", cert.public_key().raw == spki),
        ("subject", cert.subject().iter().next().is_none()),
        (
            "key usage",
            usage.is_some_and(|u| u.critical && u.value.flags == 1),
        ),
        ("basic constraints", basic.is_some_and(|b| !b.value.ca)),
        (
            "names",
            names.is_some_and(|n| {
                n.critical && matches!(n.value.general_names.as_slice(), [GeneralName::URI(_)])
            }),
        ),
        ("key identifiers", ids.count() == 2),
        ("extensions", cert.extensions().len() == 6),
        ("serial", cert.raw_serial().len() == 16),
    ];
    match rules.into_iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(Refusal::Faulty(what)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
