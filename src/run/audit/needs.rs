//! What is kept beside a log, and is begun where nothing in the log needs it: the keys of
//! persons, and the legal holds.

use std::{path::Path, sync::Arc};

use palisade_audit::{
    archive::Archive,
    holds::HOLD_ADDED,
    log::{Log, LogError, LogOptions},
};
use palisade_mesh::{clock::Clock, spiffe_id::TrustDomain, wire::record::record::Body};

/// What the records of a log need beside them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The keys of persons: something is sealed.
    pub(super) keys: bool,
    /// The holds: at least one was ordered.
    pub(super) holds: bool,
}

impl Needs {
    /// Of the log in `dir`, which nobody writes now. Blocks while it reads the log, as far
    /// as it must: only for whoever misses one of them.
    ///
    /// # Errors
    /// [`LogError`], when the log cannot be read.
    pub(super) fn of(
        dir: &Path,
        domain: &TrustDomain,
        clock: &Clock,
        archive: Option<Arc<Archive>>,
    ) -> Result<Self, LogError> {
        let mut needs = Self::default();
        if Log::is_new(dir)? {
            return Ok(needs);
        }
        let options = LogOptions {
            read_only: true,
            archive,
            ..LogOptions::new(domain.clone())
        };
        let log = Log::open(dir, options, clock.clone())?;
        // What is beyond is cut off if it is torn, and nobody was told to forget it.
        let signed = log.checkpoint().size;
        for entry in log.scan(0) {
            let entry = match entry {
                Ok(entry) if entry.index >= signed => break,
                Err(LogError::Tampered(damage)) if damage.leaf >= signed => break,
                // Of a later version.
                Err(LogError::Undecodable { .. }) => continue,
                entry => entry?,
            };
            needs.keys |= entry.envelope.sealed.is_some();
            needs.holds |=
                matches!(&entry.record.body, Some(Body::Admin(a)) if a.verb == HOLD_ADDED);
            if needs.keys && needs.holds {
                break;
            }
        }
        Ok(needs)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

    use palisade_audit::{
        local::LocalSink,
        privacy::{Handling, Personal, Rules, Vault},
    };
    use palisade_mesh::wire::record::{Admin, PolicyChange};

    use super::{super::Reads, *};

    /// Only what a log cannot do without is asked for.
    #[tokio::test]
    async fn a_log_needs_keys_once_something_is_sealed_and_holds_once_one_is_ordered() {
        let dir = tempfile::tempdir().unwrap();
        let [log, keys, kek] = ["log", "subjects", "kek"].map(|name| dir.path().join(name));
        let domain = TrustDomain::parse("acme.test").unwrap();
        let clock = Clock::system();
        let needs = || Needs::of(&log, &domain, &clock, None).unwrap();
        assert_eq!(needs(), Needs::default(), "there is no log");
        let author = Body::PolicyChange(PolicyChange {
            author: "alice".into(),
            ..PolicyChange::default()
        });
        let admin = |verb: &str| {
            Body::Admin(Admin {
                verb: verb.to_owned(),
                ..Admin::default()
            })
        };
        let keep = async |body: Body| {
            let vault = Vault::open(&keys, &kek, true).unwrap();
            let options = LogOptions {
                rules: Arc::new(Rules::new([(Personal::Author, Handling::Sealed)])),
                vault: Some(Arc::new(vault)),
                ..LogOptions::new(domain.clone())
            };
            let log = Log::open(&log, options, clock.clone()).unwrap();
            let us = domain.role("audit");
            let sink = LocalSink::new(log.clone(), us.clone(), clock.clone());
            let reads = Reads::new(sink, us, false, clock.clone());
            reads.keep(body).await.unwrap();
            log.close();
        };
        keep(admin("killed")).await;
        assert_eq!(needs(), Needs::default(), "nothing of either");
        keep(admin(HOLD_ADDED)).await;
        let holds = Needs {
            holds: true,
            ..Needs::default()
        };
        assert_eq!(needs(), holds);
        keep(author).await;
        let both = Needs {
            keys: true,
            holds: true,
        };
        assert_eq!(needs(), both);
    }
}
