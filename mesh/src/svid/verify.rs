//! Verification of a peer's X.509-SVID (X509-SVID standard, sections 2 to 5).
//!
//! The chain is verified by webpki against the bundle in force at that moment;
//! then the leaf must hold exactly one URI SAN, a SPIFFE ID of the trust domain.
//! DNS names and the common name are never looked at.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{
    CertificateDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
    pem::PemObject,
};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{
    Claim, Identity, Peer, TrustBundle,
    foundation::{Foundation, Witness},
};
use crate::spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};

/// Most certificates a peer may send.
const CHAIN_LEN_MAX: usize = 8;

/// Why a peer's certificate is refused; each has a name for records.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PeerError {
    /// The chain is malformed, or breaks a rule that has no variant of its own.
    #[error("certificate chain does not verify: {0}")]
    Chain(webpki::Error),
    /// More certificates than any chain of ours has.
    #[error("certificate chain of more than 8 certificates")]
    ChainTooLong,
    /// A certificate of the chain has ended. Both times are told, because a
    /// wrong clock looks the same.
    #[error("certificate expired at {not_after_s}, it is {now_s} here")]
    Expired {
        /// Our time, seconds since the Unix epoch.
        now_s: u64,
        /// End of the certificate's validity, seconds since the Unix epoch.
        not_after_s: u64,
    },
    /// The leaf may sign certificates.
    #[error("leaf certificate is a CA")]
    LeafIsCa,
    /// The leaf is not made for both sides of TLS.
    #[error("certificate lacks the extended key usage of a TLS client and server")]
    MissingUsage,
    /// The peer sent none.
    #[error("no certificate")]
    NoCertificate,
    /// No URI SAN at all.
    #[error("certificate holds no URI SAN")]
    NoUriSan,
    /// The URI SAN is no SPIFFE ID.
    #[error("URI SAN is not a SPIFFE ID: {0}")]
    NotSpiffe(#[from] SpiffeIdError),
    /// A certificate of the chain has not begun.
    #[error("certificate begins at {not_before_s}, it is {now_s} here")]
    NotValidYet {
        /// Our time, seconds since the Unix epoch.
        now_s: u64,
        /// Start of the certificate's validity, seconds since the Unix epoch.
        not_before_s: u64,
    },
    /// More than one URI SAN.
    #[error("certificate holds {0} URI SANs instead of one")]
    SeveralUriSans(usize),
    /// The chain does not lead to a root of the bundle.
    #[error("certificate was not issued under the trust bundle")]
    UnknownIssuer,
    /// Not an X.509 certificate.
    #[error("certificate cannot be read")]
    Unreadable,
    /// A valid SVID, but not the one that was expected.
    #[error("peer is `{0}`, which was not expected here")]
    UnexpectedId(SpiffeId),
    /// A SPIFFE ID of another trust domain.
    #[error("peer belongs to trust domain `{0}`")]
    WrongTrustDomain(String),
}

impl PeerError {
    /// The constant word for records.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Chain(_) => "chain_invalid",
            Self::ChainTooLong => "chain_too_long",
            Self::Expired { .. } => "expired",
            Self::LeafIsCa => "leaf_is_ca",
            Self::MissingUsage => "missing_usage",
            Self::NoCertificate => "no_certificate",
            Self::NoUriSan => "no_uri_san",
            Self::NotSpiffe(_) => "not_spiffe",
            Self::NotValidYet { .. } => "not_valid_yet",
            Self::SeveralUriSans(_) => "several_uri_sans",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Unreadable => "unreadable",
            Self::UnexpectedId(_) => "unexpected_id",
            Self::WrongTrustDomain(_) => "wrong_trust_domain",
        }
    }

    /// Finds the refusal inside the error that a TLS handshake ended with.
    pub fn of_handshake(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        match tls_error(error)? {
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            tls => Refused::of(tls).map(|refused| refused.reason.clone()),
        }
    }
}

impl Claim {
    /// What the certificate claimed that a TLS handshake was refused for; nothing,
    /// when it ended otherwise.
    pub fn of_handshake(error: &(dyn std::error::Error + 'static)) -> Self {
        tls_error(error)
            .and_then(Refused::of)
            .map(|refused| refused.claim.clone())
            .unwrap_or_default()
    }
}

/// A refusal on its way through rustls.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
struct Refused {
    reason: PeerError,
    claim: Claim,
}

impl Refused {
    fn of(error: &rustls::Error) -> Option<&Self> {
        match error {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
                other.0.downcast_ref()
            }
            _ => None,
        }
    }

    fn into_tls(self) -> rustls::Error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(rustls::OtherError(
            Arc::new(self),
        )))
    }
}

impl From<webpki::Error> for PeerError {
    fn from(error: webpki::Error) -> Self {
        match error {
            webpki::Error::CaUsedAsEndEntity => Self::LeafIsCa,
            webpki::Error::CertExpired { time, not_after } => Self::Expired {
                now_s: time.as_secs(),
                not_after_s: not_after.as_secs(),
            },
            webpki::Error::CertNotValidYet { time, not_before } => Self::NotValidYet {
                now_s: time.as_secs(),
                not_before_s: not_before.as_secs(),
            },
            webpki::Error::EmptyEkuExtension | webpki::Error::RequiredEkuNotFoundContext(_) => {
                Self::MissingUsage
            }
            // An issuer of the right name with the wrong key is no issuer of ours.
            webpki::Error::InvalidSignatureForPublicKey | webpki::Error::UnknownIssuer => {
                Self::UnknownIssuer
            }
            other => Self::Chain(other),
        }
    }
}

fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        return io.get_ref().and_then(|inner| tls_error(inner));
    }
    error.source().and_then(tls_error)
}

/// Reads the peer of a chain that a handshake has already verified.
///
/// # Errors
/// As verification: the leaf must be an X.509-SVID.
pub fn peer_of_chain(chain: &[CertificateDer<'_>]) -> Result<Peer, PeerError> {
    read_leaf(chain.first().ok_or(PeerError::NoCertificate)?)
}

/// Reads the peer of a certificate in PEM that somebody else has verified.
///
/// # Errors
/// As verification: it must be an X.509-SVID.
pub fn peer_of_pem(pem: &[u8]) -> Result<Peer, PeerError> {
    let leaf = CertificateDer::from_pem_slice(pem).map_err(|_| PeerError::Unreadable)?;
    read_leaf(&leaf)
}

/// Reads identity, serial and validity of a leaf.
pub(super) fn read_leaf(leaf: &CertificateDer<'_>) -> Result<Peer, PeerError> {
    read(&parse(leaf)?)
}

fn parse<'a>(leaf: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PeerError> {
    match X509Certificate::from_der(leaf) {
        Ok(([], cert)) => Ok(cert),
        _ => Err(PeerError::Unreadable),
    }
}

fn read(cert: &X509Certificate<'_>) -> Result<Peer, PeerError> {
    if may_sign(cert)? {
        return Err(PeerError::LeafIsCa);
    }
    let names = cert
        .subject_alternative_name()
        .map_err(|_| PeerError::Unreadable)?
        .map(|san| san.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next().ok_or(PeerError::NoUriSan)?;
    match uris.count() {
        0 => {}
        more => return Err(PeerError::SeveralUriSans(more + 1)),
    }
    Ok(Peer {
        id: SpiffeId::parse(uri)?,
        serial: cert.raw_serial().into(),
        not_before_s: cert.validity().not_before.timestamp(),
        not_after_s: cert.validity().not_after.timestamp(),
    })
}

/// Whether a certificate claims the right to sign others: by its basic
/// constraints or its key usage, which webpki does not look at
/// (X509-SVID sections 4.1, 4.3 and 5.2).
fn may_sign(cert: &X509Certificate<'_>) -> Result<bool, PeerError> {
    let usage = cert.key_usage().map_err(|_| PeerError::Unreadable)?;
    Ok(cert.is_ca() || usage.is_some_and(|u| u.value.key_cert_sign() || u.value.crl_sign()))
}

/// Demands both TLS usages of a leaf. webpki accepts a certificate without the
/// extension; every SVID has it (X509-SVID section 4.4).
fn check_usage(cert: &X509Certificate<'_>) -> Result<(), PeerError> {
    let usage = cert
        .extended_key_usage()
        .map_err(|_| PeerError::Unreadable)?;
    match usage {
        Some(usage) if usage.value.client_auth && usage.value.server_auth => Ok(()),
        _ => Err(PeerError::MissingUsage),
    }
}

/// Verifies a chain, leaf first, as a handshake against `bundle` would: path,
/// validity at `now`, usages, and one SPIFFE ID of the trust domain.
///
/// # Errors
/// The first rule it breaks.
pub fn verify_chain(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: UnixTime,
) -> Result<Peer, PeerError> {
    let (leaf, intermediates) = chain.split_first().ok_or(PeerError::NoCertificate)?;
    let anchors = bundle
        .roots
        .iter()
        .map(webpki::anchor_from_trusted_cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(PeerError::Chain)?;
    let algorithms =
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let path = Path {
        leaf,
        intermediates,
        anchors: &anchors,
        algorithms: algorithms.all,
        now,
    };
    let (peer, _) = path.verify(&bundle.trust_domain, KeyUsage::client_auth())?;
    Ok(peer)
}

/// What a chain is verified with.
struct Path<'a> {
    leaf: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    anchors: &'a [TrustAnchor<'a>],
    algorithms: &'a [&'a dyn SignatureVerificationAlgorithm],
    now: UnixTime,
}

impl Path<'_> {
    fn verify(
        &self,
        domain: &TrustDomain,
        usage: KeyUsage,
    ) -> Result<(Peer, Foundation), PeerError> {
        if self.intermediates.len() >= CHAIN_LEN_MAX {
            return Err(PeerError::ChainTooLong);
        }
        let end = EndEntityCert::try_from(self.leaf).map_err(|_| PeerError::Unreadable)?;
        let path = end.verify_for_usage(
            self.algorithms,
            self.anchors,
            self.intermediates,
            self.now,
            usage,
            None,
            None,
        )?;
        let leaf = parse(self.leaf)?;
        check_usage(&leaf)?;
        let peer = read(&leaf)?;
        if peer.id.is_member_of(domain) {
            Ok((peer, Foundation::of(&path, &leaf)))
        } else {
            Err(PeerError::WrongTrustDomain(peer.id.trust_domain().into()))
        }
    }
}

/// Which valid SVIDs are welcome.
#[derive(Debug)]
pub(super) enum Expected {
    /// Exactly these.
    OneOf(Box<[SpiffeId]>),
    /// Any of our own trust domain; authorization follows per request.
    TrustDomain,
}

/// Verifies peers for rustls, on either side.
#[derive(Debug)]
pub(super) struct SpiffeVerifier {
    identity: Identity,
    expected: Expected,
    witness: Option<Witness>,
    /// Whether a client may come without any certificate.
    optional: bool,
}

impl SpiffeVerifier {
    pub(super) fn new(identity: Identity, expected: Expected) -> Self {
        Self {
            identity,
            expected,
            witness: None,
            optional: false,
        }
    }

    /// Lets a client in that shows no certificate at all.
    pub(super) fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Tells `witness` what the verified chain rests on.
    pub(super) fn before(mut self, witness: &Witness) -> Self {
        self.witness = Some(witness.clone());
        self
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), rustls::Error> {
        let refused = |reason| {
            let claim = Claim::of_leaf(leaf);
            Refused { reason, claim }.into_tls()
        };
        let state = self.identity.state.load();
        let path = Path {
            leaf,
            intermediates,
            anchors: &state.anchors,
            algorithms: self.identity.provider.signature_verification_algorithms.all,
            now,
        };
        let verified = path.verify(&state.bundle.trust_domain, usage);
        let (peer, foundation) = verified.map_err(refused)?;
        if let Expected::OneOf(ids) = &self.expected
            && !ids.contains(&peer.id)
        {
            return Err(refused(PeerError::UnexpectedId(peer.id)));
        }
        if let Some(witness) = &self.witness {
            witness.tell(foundation);
        }
        Ok(())
    }

    fn signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.identity.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.identity
            .provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

pub(super) fn no_tls12() -> rustls::Error {
    rustls::Error::General("bug: TLS 1.2 signature, though only TLS 1.3 is offered".into())
}

impl ClientCertVerifier for SpiffeVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
