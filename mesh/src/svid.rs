//! X.509-SVIDs and the rustls glue that proves and demands them.
//!
//! An [`Identity`] holds one SVID and the trust bundle. It is replaced whole:
//! the next state is built completely, then published with one atomic swap, so
//! no handshake ever sees a half-finished rotation. Server and client
//! configurations made from it follow the swap by themselves.
//!
//! TLS 1.3 only, X25519MLKEM768 first, no resumption: a resumed session would
//! skip the verification against the present bundle.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::{
    changes::{Changes, Follower},
    clock::Clock,
    snapshot::Digest,
    spiffe_id::{SpiffeId, TrustDomain},
};

mod claim;
mod foundation;
mod introduction;
mod signed;
mod verify;

pub use claim::{CLAIM_LEN_MAX, Claim, SERIAL_LEN_MAX};
pub use foundation::{Foundation, PeerFacts, Witness};
pub use introduction::unproven_client_config;
pub use signed::{Signed, verify_signed};
use verify::{Expected, SpiffeVerifier};
pub use verify::{PeerError, peer_of_chain, peer_of_pem, verify_chain};

/// An X.509-SVID with its private key.
#[derive(Clone)]
pub struct X509Svid {
    /// The identity it proves.
    pub id: SpiffeId,
    /// DER certificates, leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Private key, PKCS#8 DER.
    pub key: Zeroizing<Vec<u8>>,
    /// Start of the leaf's validity, seconds since the Unix epoch.
    pub not_before_s: i64,
    /// End of the leaf's validity, seconds since the Unix epoch.
    pub not_after_s: i64,
    /// Serial number of the leaf, big-endian.
    pub serial: Vec<u8>,
}

impl X509Svid {
    /// Reads identity, validity and serial from the chain's leaf.
    ///
    /// # Errors
    /// When there is no leaf or it is no X.509-SVID. The chain is not verified
    /// against a bundle here.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Zeroizing<Vec<u8>>,
    ) -> Result<Self, PeerError> {
        let leaf = chain.first().ok_or(PeerError::NoCertificate)?;
        let peer = verify::read_leaf(leaf)?;
        Ok(Self {
            id: peer.id,
            not_before_s: peer.not_before_s,
            not_after_s: peer.not_after_s,
            serial: peer.serial.to_vec(),
            chain,
            key,
        })
    }
}

impl std::fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("X509Svid")
            .field("id", &self.id)
            .field("not_after_s", &self.not_after_s)
            .finish_non_exhaustive()
    }
}

/// The roots of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// Whose roots they are.
    pub trust_domain: TrustDomain,
    /// DER root certificates.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Who is at the other end, as the handshake proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// SPIFFE ID.
    pub id: SpiffeId,
    /// Serial number of the leaf, big-endian.
    pub serial: Arc<[u8]>,
    /// Start of the leaf's validity, seconds since the Unix epoch.
    pub not_before_s: i64,
    /// End of the leaf's validity, seconds since the Unix epoch.
    pub not_after_s: i64,
}

/// A local identity that rotates under running listeners and connections.
#[derive(Debug, Clone)]
pub struct Identity {
    state: Arc<ArcSwap<State>>,
    provider: Arc<CryptoProvider>,
    clock: Clock,
    changes: Changes,
}

#[derive(Debug)]
struct State {
    /// Counts the bundles, from 0.
    trust_revision: u64,
    svid: X509Svid,
    bundle: TrustBundle,
    certified: Arc<CertifiedKey>,
    anchors: Vec<rustls_pki_types::TrustAnchor<'static>>,
    /// The keys of the anchors, as a [`Foundation`] names its root.
    roots: Vec<Digest>,
}

impl Identity {
    /// Builds the first state.
    ///
    /// # Errors
    /// When the key does not fit the certificate or a root cannot be read.
    pub fn new(svid: X509Svid, bundle: TrustBundle, clock: Clock) -> Result<Self, IdentityError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let state = State::build(svid, bundle, &provider)?;
        Ok(Self {
            state: Arc::new(ArcSwap::from_pointee(state)),
            provider,
            clock,
            changes: Changes::default(),
        })
    }

    /// Publishes a new SVID and bundle. On error the present state stays.
    ///
    /// # Errors
    /// As [`Identity::new`]; and when the SVID is of somebody else, for records,
    /// announcements and open connections speak for who we were at the start.
    pub fn replace(&self, svid: X509Svid, bundle: TrustBundle) -> Result<(), IdentityError> {
        let own = self.id();
        if svid.id != own {
            return Err(IdentityError::OtherId {
                own,
                other: svid.id,
            });
        }
        let present = self.state.load();
        let mut next = State::build(svid, bundle, &self.provider)?;
        next.trust_revision = present.trust_revision + u64::from(next.bundle != present.bundle);
        self.state.store(Arc::new(next));
        self.changes.tell();
        Ok(())
    }

    /// Follows the replacements of SVID and bundle.
    pub fn follow(&self) -> Follower {
        self.changes.follow()
    }

    /// Whether the bundle in use still holds the root that a chain rests on.
    pub fn trusts(&self, foundation: &Foundation) -> bool {
        self.state.load().roots.contains(&foundation.root())
    }

    /// The SPIFFE ID in use.
    pub fn id(&self) -> SpiffeId {
        self.state.load().svid.id.clone()
    }

    /// The SVID in use.
    pub fn svid(&self) -> X509Svid {
        self.state.load().svid.clone()
    }

    /// End of the SVID's validity, seconds since the Unix epoch.
    pub fn not_after_s(&self) -> i64 {
        self.state.load().svid.not_after_s
    }

    /// The trust bundle in use.
    pub fn bundle(&self) -> TrustBundle {
        self.state.load().bundle.clone()
    }

    /// Grows with every replacement that changes the trust bundle: whoever keeps
    /// connections open compares it, and verifies their peers again when it differs.
    pub fn trust_revision(&self) -> u64 {
        self.state.load().trust_revision
    }

    /// A server that demands an X.509-SVID of the trust domain from every client.
    pub fn server_config(&self, alpn: &[&[u8]]) -> ServerConfig {
        self.server(
            alpn,
            SpiffeVerifier::new(self.clone(), Expected::TrustDomain),
        )
    }

    /// As [`Identity::server_config`], for one connection, whose witness learns
    /// what the client's chain rests on.
    pub fn server_session(&self, alpn: &[&[u8]]) -> (ServerConfig, Witness) {
        let witness = Witness::default();
        let verifier = SpiffeVerifier::new(self.clone(), Expected::TrustDomain);
        (self.server(alpn, verifier.before(&witness)), witness)
    }

    /// As [`Identity::server_session`], for a listener where a client without any
    /// certificate may come in, to prove itself in another way. One with a certificate
    /// that is no SVID of the trust domain may not.
    pub fn open_session(&self, alpn: &[&[u8]]) -> (ServerConfig, Witness) {
        let witness = Witness::default();
        let verifier = SpiffeVerifier::new(self.clone(), Expected::TrustDomain);
        let verifier = verifier.before(&witness).optional();
        (self.server(alpn, verifier), witness)
    }

    /// A client that presents our SVID and accepts only a server that is one of `ids`.
    pub fn client_config(&self, ids: &[SpiffeId], alpn: &[&[u8]]) -> ClientConfig {
        let expected = Expected::OneOf(ids.into());
        self.client(alpn, SpiffeVerifier::new(self.clone(), expected))
    }

    /// As [`Identity::client_config`], for one connection, whose witness learns
    /// what the server's chain rests on.
    pub fn client_session(&self, ids: &[SpiffeId], alpn: &[&[u8]]) -> (ClientConfig, Witness) {
        let witness = Witness::default();
        let verifier = SpiffeVerifier::new(self.clone(), Expected::OneOf(ids.into()));
        (self.client(alpn, verifier.before(&witness)), witness)
    }

    fn server(&self, alpn: &[&[u8]], verifier: SpiffeVerifier) -> ServerConfig {
        let mut config =
            ServerConfig::builder_with_details(self.provider.clone(), Arc::new(self.clock.clone()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("the provider has TLS 1.3 suites")
                .with_client_cert_verifier(Arc::new(verifier))
                .with_cert_resolver(Arc::new(Resolver(self.state.clone())));
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config
    }

    fn client(&self, alpn: &[&[u8]], verifier: SpiffeVerifier) -> ClientConfig {
        let mut config =
            ClientConfig::builder_with_details(self.provider.clone(), Arc::new(self.clock.clone()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("the provider has TLS 1.3 suites")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_client_cert_resolver(Arc::new(Resolver(self.state.clone())));
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        config
    }
}

impl State {
    fn build(
        svid: X509Svid,
        bundle: TrustBundle,
        provider: &CryptoProvider,
    ) -> Result<Self, IdentityError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.key.to_vec()));
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|e| IdentityError::Key(e.to_string()))?;
        let certified = CertifiedKey::new(svid.chain.clone(), key);
        certified
            .keys_match()
            .map_err(|e| IdentityError::Key(e.to_string()))?;
        let anchors = bundle
            .roots
            .iter()
            .map(|root| webpki::anchor_from_trusted_cert(root).map(|a| a.to_owned()))
            .collect::<Result<_, _>>()
            .map_err(|e| IdentityError::Root(e.to_string()))?;
        let anchors: Vec<rustls_pki_types::TrustAnchor<'static>> = anchors;
        Ok(Self {
            trust_revision: 0,
            svid,
            bundle,
            certified: Arc::new(certified),
            roots: anchors.iter().map(foundation::root_of).collect(),
            anchors,
        })
    }
}

/// Why a state could not be built.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The private key cannot be loaded or is not the leaf's.
    #[error("private key does not serve the certificate: {0}")]
    Key(String),
    /// A running part does not become another one.
    #[error("certificate is of `{other}`, this is `{own}`; restart to take the other identity")]
    OtherId {
        /// Who we are.
        own: SpiffeId,
        /// Whose the new certificate is.
        other: SpiffeId,
    },
    /// A root certificate cannot be read.
    #[error("trust bundle holds an unreadable root: {0}")]
    Root(String),
}

/// Presents whatever SVID is current when a handshake asks.
#[derive(Debug)]
struct Resolver(Arc<ArcSwap<State>>);

impl rustls::server::ResolvesServerCert for Resolver {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().certified.clone())
    }
}

impl rustls::client::ResolvesClientCert for Resolver {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
pub(crate) mod tests;
