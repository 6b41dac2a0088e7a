//! How an authority is set up.

use std::{path::PathBuf, time::Duration};

use palisade_mesh::spiffe_id::TrustDomain;

use super::CaError;
use crate::{
    REISSUE_RATE,
    registration::{Rules, TTL_MAX, TTL_MIN},
};

/// Shortest default of the time a rotation waits for acknowledgements.
pub const ACK_DEADLINE_MIN: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Configuration of a [`Ca`](super::Ca).
#[derive(Debug, Clone)]
pub struct CaConfig {
    /// The trust domain it speaks for; fixed once the state directory is made.
    pub trust_domain: TrustDomain,
    /// Folder of the database, mode 0700; made when missing.
    pub state_dir: PathBuf,
    /// File with the key-encryption key, 32 bytes, mode 0600. Default: `kek` in
    /// the state directory; on a server keep it elsewhere, so that a copy of the
    /// state alone opens nothing. Made on the first start when missing.
    pub kek_path: Option<PathBuf>,
    /// Life of a root. Default 90 days.
    pub root_lifetime: Duration,
    /// Life of an intermediate, at most a third of a root's. Default 7 days.
    pub intermediate_lifetime: Duration,
    /// Life of a certificate where no registration says otherwise, and of the
    /// mesh's own parts; from 10 s to half of an intermediate's. Default 1 hour.
    pub svid_ttl: Duration,
    /// How long a rotation waits for acknowledgements before it goes on without the
    /// rest. Default: `svid_ttl`, at least [`ACK_DEADLINE_MIN`]: by then nothing is
    /// valid any more that an agent which was not heard has handed out.
    pub ack_deadline: Option<Duration>,
    /// Certificates that may be replaced in a second after a forced rotation, at
    /// least 1. Default [`REISSUE_RATE`].
    pub reissue_rate: u32,
    /// Marks every record as a demo's.
    pub demo: bool,
}

impl CaConfig {
    /// The defaults for a trust domain.
    pub fn new(trust_domain: TrustDomain, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            trust_domain,
            state_dir: state_dir.into(),
            kek_path: None,
            root_lifetime: 90 * 24 * HOUR,
            intermediate_lifetime: 7 * 24 * HOUR,
            svid_ttl: HOUR,
            ack_deadline: None,
            reissue_rate: REISSUE_RATE,
            demo: false,
        }
    }

    /// What registrations have to keep to. An intermediate signs until half of its
    /// life is over, so a certificate of up to the other half always fits.
    pub fn rules(&self) -> Rules {
        Rules {
            trust_domain: self.trust_domain.clone(),
            ttl_default: self.svid_ttl,
            ttl_max: self.ttl_max(),
        }
    }

    /// The path of the key-encryption key.
    pub fn kek_path(&self) -> PathBuf {
        let default = || self.state_dir.join("kek");
        self.kek_path.clone().unwrap_or_else(default)
    }

    /// How long a rotation waits for acknowledgements.
    pub fn acknowledgement_deadline(&self) -> Duration {
        self.ack_deadline
            .unwrap_or(self.svid_ttl.max(ACK_DEADLINE_MIN))
    }

    /// Over which span the certificates of `identities` are replaced.
    pub(crate) fn reissue_over(&self, identities: usize) -> Duration {
        let identities = u32::try_from(identities).unwrap_or(u32::MAX);
        Duration::from_secs(1).saturating_mul(identities) / self.reissue_rate.max(1)
    }

    /// Checks that the lifetimes fit into each other.
    ///
    /// # Errors
    /// [`CaError::Lifetimes`], which says how they do not.
    pub fn check(&self) -> Result<(), CaError> {
        let refused = |what| Err(CaError::Lifetimes(what));
        if self.intermediate_lifetime > self.root_lifetime / 3 {
            return refused("an intermediate may live a third of a root's life at most");
        }
        if self.svid_ttl < TTL_MIN {
            return refused("a certificate lives for 10 s at least");
        }
        if self
            .ack_deadline
            .is_some_and(|d| d < Duration::from_secs(1))
        {
            return refused("a rotation waits for acknowledgements for 1 s at least");
        }
        if self.reissue_rate == 0 {
            return refused("at least one certificate is replaced in a second");
        }
        if self.svid_ttl > self.ttl_max() {
            return refused(
                "a certificate may live for half of an intermediate's life, and for 24 h, at most",
            );
        }
        Ok(())
    }

    /// The rotation happens at half-life or up to a tick of the clock later.
    fn ttl_max(&self) -> Duration {
        let half = (self.intermediate_lifetime / 2).saturating_sub(2 * super::TICK);
        TTL_MAX.min(half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_come_at_the_set_rate_and_deadlines_have_a_default() {
        let mut config = CaConfig::new(TrustDomain::parse("acme.test").unwrap(), "/tmp");
        assert_eq!(config.reissue_over(250), Duration::from_millis(2500));
        assert_eq!(config.acknowledgement_deadline(), HOUR);
        config.svid_ttl = TTL_MIN;
        assert_eq!(config.acknowledgement_deadline(), ACK_DEADLINE_MIN);
    }

    #[test]
    fn lifetimes_must_fit_into_each_other() {
        let check = |change: fn(&mut CaConfig)| {
            let mut config = CaConfig::new(TrustDomain::parse("acme.test").unwrap(), "/tmp");
            change(&mut config);
            config.check().is_ok()
        };
        assert!(check(|_| {}));
        assert!(check(|c| c.svid_ttl = TTL_MIN));
        assert!(!check(|c| c.svid_ttl = TTL_MIN - Duration::from_secs(1)));
        assert!(check(|c| c.svid_ttl = TTL_MAX));
        assert!(!check(|c| c.svid_ttl = TTL_MAX + Duration::from_secs(1)));
        assert!(check(|c| c.intermediate_lifetime = 30 * 24 * HOUR));
        assert!(!check(|c| c.intermediate_lifetime = 31 * 24 * HOUR));
        assert!(!check(|c| c.intermediate_lifetime = HOUR));
        assert!(check(|c| c.ack_deadline = Some(Duration::from_secs(1))));
        assert!(!check(|c| c.ack_deadline = Some(Duration::from_millis(999))));
        assert!(check(|c| c.reissue_rate = 1) && !check(|c| c.reissue_rate = 0));
    }
}
