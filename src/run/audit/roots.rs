//! The trust bundle, for whoever holds certificates against it that came in a record.

use palisade_audit::heads::Roots;
use palisade_mesh::svid::{Identity, verify_chain};
use rustls_pki_types::{CertificateDer, UnixTime};

/// The bundle that an identity has at the moment.
pub(super) struct Bundled {
    pub(super) identity: Identity,
}

impl Roots for Bundled {
    fn hold(&self, chain: &[Vec<u8>], at_s: i64) -> Result<(), String> {
        let at_s = u64::try_from(at_s).unwrap_or_default();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at_s));
        let chain: Vec<CertificateDer<'_>> = chain
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let held = verify_chain(&chain, &self.identity.bundle(), at);
        held.map(|_| ()).map_err(|e| e.to_string())
    }
}
