//! What is kept beside a log, and is begun where nothing in the log needs it: the keys of
//! persons, and the legal holds.

use std::{path::Path, sync::Arc};

use palisade_audit::{
    archive::Archive,
    log::{Log, LogError, LogOptions, Needs},
};
use palisade_mesh::{clock::Clock, spiffe_id::TrustDomain};

/// What the records of the log in `dir` need beside them, which nobody writes now. Blocks while
/// it reads the log, as far as it must: only for whoever misses one of them. Nothing is fetched.
///
/// # Errors
/// [`LogError`], when the log cannot be read.
pub(super) fn needs_of(
    dir: &Path,
    domain: &TrustDomain,
    clock: &Clock,
    archive: Option<Arc<Archive>>,
) -> Result<Needs, LogError> {
    if Log::is_new(dir)? {
        return Ok(Needs::default());
    }
    let options = LogOptions {
        read_only: true,
        archive,
        ..LogOptions::new(domain.clone())
    };
    Log::open(dir, options, clock.clone())?.needs()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

    use std::{ops::ControlFlow, time::Duration};

    use palisade_audit::{
        archive::{After, Run},
        holds::HOLD_ADDED,
        local::LocalSink,
        privacy::{Handling, Personal, Rules, Vault},
    };
    use palisade_mesh::wire::record::{Admin, PolicyChange, record::Body};

    use super::{super::Reads, *};

    /// Only what a log cannot do without is asked for.
    #[tokio::test]
    async fn a_log_needs_keys_once_something_is_sealed_and_holds_once_one_is_ordered() {
        let dir = tempfile::tempdir().unwrap();
        let [log, keys, kek] = ["log", "subjects", "kek"].map(|name| dir.path().join(name));
        let domain = TrustDomain::parse("acme.test").unwrap();
        let clock = Clock::system();
        let needs = || needs_of(&log, &domain, &clock, None).unwrap();
        assert_eq!(needs(), Needs::default(), "there is no log");
        let author = Body::PolicyChange(PolicyChange {
            authors: vec!["alice".into()],
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

    /// What is in an archive that cannot be asked is known from what stays of it.
    #[tokio::test]
    async fn a_start_fetches_nothing_to_know_what_a_log_needs() {
        let dir = tempfile::tempdir().unwrap();
        let [log, keys, kek, store] =
            ["log", "subjects", "kek", "store"].map(|name| dir.path().join(name));
        std::fs::create_dir(&store).unwrap();
        let domain = TrustDomain::parse("acme.test").unwrap();
        let clock = Clock::system();
        let archive = || Arc::new(Archive::folder(&store, &log, 8 << 10).unwrap());
        let vault = Vault::open(&keys, &kek, true).unwrap();
        let options = LogOptions {
            segment_bytes: 1500,
            rules: Arc::new(Rules::new([(Personal::Author, Handling::Sealed)])),
            vault: Some(Arc::new(vault)),
            archive: Some(archive()),
            ..LogOptions::new(domain.clone())
        };
        let open = Log::open(&log, options, clock.clone()).unwrap();
        let us = domain.role("audit");
        let sink = LocalSink::new(open.clone(), us.clone(), clock.clone());
        let reads = Reads::new(sink, us, false, clock.clone());
        let author = Body::PolicyChange(PolicyChange {
            authors: vec!["alice".into()],
            ..PolicyChange::default()
        });
        let admin = |verb: &str| {
            Body::Admin(Admin {
                verb: verb.to_owned(),
                ..Admin::default()
            })
        };
        reads.keep(author).await.unwrap();
        reads.keep(admin(HOLD_ADDED)).await.unwrap();
        for _ in 0..40 {
            reads.keep(admin("killed")).await.unwrap();
        }
        let run = {
            let (log, now) = (open.clone(), clock.now() + Duration::from_secs(1));
            tokio::task::spawn_blocking(move || {
                log.await_signature().unwrap();
                let (log, behind) = (&log, None);
                let run = Run { log, now, behind };
                let none = After::parse("0 days").unwrap();
                run.go(&none, &mut |_| ControlFlow::Continue(())).unwrap()
            })
        };
        let moved = run.await.unwrap();
        assert!(moved.faults.is_empty() && moved.segments > 1, "{moved:?}");
        open.close();
        drop((open, reads));
        std::fs::rename(&store, dir.path().join("away")).unwrap();
        let needs = needs_of(&log, &domain, &clock, Some(archive())).unwrap();
        assert!(needs.keys && needs.holds, "{needs:?}");
    }
}
