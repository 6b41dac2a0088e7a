//! TLS between an authority and a host that does not know it yet.
//!
//! The server proves who it is and asks for nothing; it sends its roots after its
//! chain, so that a host that knows only their digests can find them. The client checks
//! that the server holds the key of its certificate, and decides about the certificate
//! afterwards: it must send nothing secret before it has.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Identity, verify::no_tls12};
use crate::clock::Clock;

impl Identity {
    /// A server for hosts without an identity. It presents its chain, and after it the
    /// roots of the bundle. TLS 1.3, no resumption.
    pub fn introducing_config(&self, alpn: &[&[u8]]) -> ServerConfig {
        let mut config =
            ServerConfig::builder_with_details(self.provider.clone(), Arc::new(self.clock.clone()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("the provider has TLS 1.3 suites")
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(WithRoots(self.clone())));
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config
    }
}

/// A client that shakes hands with whoever holds the key of its certificate. Whether
/// the certificate is the right one is for the caller to decide, by
/// [`super::verify_chain`], before it says anything.
pub fn unproven_client_config(clock: &Clock, alpn: &[&[u8]]) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Unproven(provider.clone()));
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(clock.clone()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 suites")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    config
}

#[derive(Debug)]
struct WithRoots(Identity);

impl rustls::server::ResolvesServerCert for WithRoots {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let state = self.0.state.load();
        let chain = state.svid.chain.iter().chain(&state.bundle.roots);
        let key = state.certified.key.clone();
        Some(Arc::new(CertifiedKey::new(chain.cloned().collect(), key)))
    }
}

#[derive(Debug)]
struct Unproven(Arc<CryptoProvider>);

impl ServerCertVerifier for Unproven {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
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
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
