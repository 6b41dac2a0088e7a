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
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{Identity, Peer};
use crate::spiffe_id::{SpiffeId, SpiffeIdError};

/// Most certificates a peer may send.
const CHAIN_LEN_MAX: usize = 8;

/// Why a peer's certificate is refused; each has a name for records.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PeerError {
    /// The chain does not lead to the bundle, or is outside its validity.
    #[error("certificate chain does not verify: {0}")]
    Chain(String),
    /// More certificates than any chain of ours has.
    #[error("certificate chain of more than 8 certificates")]
    ChainTooLong,
    /// The leaf may sign certificates.
    #[error("leaf certificate is a CA")]
    LeafIsCa,
    /// The peer sent none.
    #[error("no certificate")]
    NoCertificate,
    /// No URI SAN at all.
    #[error("certificate holds no URI SAN")]
    NoUriSan,
    /// The URI SAN is no SPIFFE ID.
    #[error("URI SAN is not a SPIFFE ID: {0}")]
    NotSpiffe(#[from] SpiffeIdError),
    /// More than one URI SAN.
    #[error("certificate holds {0} URI SANs instead of one")]
    SeveralUriSans(usize),
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
            Self::Chain(e) if e.contains("Expired") => "expired",
            Self::Chain(e) if e.contains("NotValidYet") => "not_valid_yet",
            Self::Chain(e) if e.contains("UnknownIssuer") => "unknown_issuer",
            Self::Chain(_) => "chain_invalid",
            Self::ChainTooLong => "chain_too_long",
            Self::LeafIsCa => "leaf_is_ca",
            Self::NoCertificate => "no_certificate",
            Self::NoUriSan => "no_uri_san",
            Self::NotSpiffe(_) => "not_spiffe",
            Self::SeveralUriSans(_) => "several_uri_sans",
            Self::Unreadable => "unreadable",
            Self::UnexpectedId(_) => "unexpected_id",
            Self::WrongTrustDomain(_) => "wrong_trust_domain",
        }
    }

    /// Finds the refusal inside the error that a TLS handshake ended with.
    pub fn of_handshake(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let tls = tls_error(error)?;
        match tls {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
                other.0.downcast_ref::<Self>().cloned()
            }
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            _ => None,
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

/// Reads identity, serial and validity of a leaf.
pub(super) fn read_leaf(leaf: &CertificateDer<'_>) -> Result<Peer, PeerError> {
    let (rest, cert) = X509Certificate::from_der(leaf).map_err(|_| PeerError::Unreadable)?;
    if !rest.is_empty() {
        return Err(PeerError::Unreadable);
    }
    if cert.is_ca() {
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
}

impl SpiffeVerifier {
    pub(super) fn new(identity: Identity, expected: Expected) -> Self {
        Self { identity, expected }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), PeerError> {
        if intermediates.len() >= CHAIN_LEN_MAX {
            return Err(PeerError::ChainTooLong);
        }
        let state = self.identity.state.load();
        let cert = EndEntityCert::try_from(leaf).map_err(|_| PeerError::Unreadable)?;
        let algorithms = self.identity.provider.signature_verification_algorithms.all;
        cert.verify_for_usage(
            algorithms,
            &state.anchors,
            intermediates,
            now,
            usage,
            None,
            None,
        )
        .map_err(|e| PeerError::Chain(format!("{e:?}")))?;
        let peer = read_leaf(leaf)?;
        if !peer.id.is_member_of(&state.bundle.trust_domain) {
            return Err(PeerError::WrongTrustDomain(peer.id.trust_domain().into()));
        }
        match &self.expected {
            Expected::OneOf(ids) if !ids.contains(&peer.id) => {
                Err(PeerError::UnexpectedId(peer.id))
            }
            _ => Ok(()),
        }
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

fn refused(error: PeerError) -> rustls::Error {
    rustls::Error::InvalidCertificate(rustls::CertificateError::Other(rustls::OtherError(
        Arc::new(error),
    )))
}

fn no_tls12() -> rustls::Error {
    rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic)
}

impl ClientCertVerifier for SpiffeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, now, KeyUsage::client_auth())
            .map_err(refused)?;
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
        self.verify(leaf, intermediates, now, KeyUsage::server_auth())
            .map_err(refused)?;
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
