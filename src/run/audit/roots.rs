//! The trust bundle, for whoever holds certificates against it that came in a record.

use palisade_audit::heads::Roots;
use palisade_mesh::{
    clock::Clock,
    svid::{Identity, verify_chain},
};
use rustls_pki_types::{CertificateDer, UnixTime};

/// The bundle that an identity has at the moment.
pub(super) struct Bundled {
    pub(super) identity: Identity,
    pub(super) clock: Clock,
}

impl Roots for Bundled {
    fn hold(&self, chain: &[Vec<u8>]) -> Result<(), String> {
        let now_s = u64::try_from(self.clock.now_us() / 1_000_000).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now_s));
        let chain: Vec<CertificateDer<'_>> = chain
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let held = verify_chain(&chain, &self.identity.bundle(), now);
        held.map(|_| ()).map_err(|e| e.to_string())
    }
}
