//! The revision that a proxy tries beside the one in force, from its subscription's side.
//!
//! It comes and goes by the PDP's word. It is never kept on disk, and without a word for
//! its limit it is dropped: one that was withdrawn while the PDP is away does not stay.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use palisade_mesh::{
    diagnostic::Diagnostic,
    snapshot::Digest,
    wire::policy::{Candidate, Revision, Trial},
};
use tokio::{task::spawn_blocking, time::Instant};

use super::{codes, keep};
use crate::bundle::{
    Opened,
    trust::{self, TrustConfig},
};

/// Longest time without a word that a PDP may allow.
const LIMIT_MAX: Duration = Duration::from_secs(600);

/// Tries revisions; the binary plugs the proxy in.
pub trait Beside: Send + Sync + std::fmt::Debug {
    /// Puts one decision in `every` to `revision` from now on; called where blocking is
    /// no harm.
    ///
    /// # Errors
    /// Why it cannot be tried; the PDP is told.
    fn begin(&self, revision: &Revision, every: u32) -> Result<(), Diagnostic>;

    /// Drops what is tried.
    fn end(&self);
}

/// What is tried, or was refused.
#[derive(Debug)]
struct Held {
    digest: Digest,
    sequence: u64,
    limit: Duration,
    heard: Instant,
    refused: Option<String>,
}

/// The trial of one subscription.
#[derive(Debug)]
pub(crate) struct Tried {
    beside: Option<Arc<dyn Beside>>,
    /// Who must have signed what is tried, too: it asks live traffic questions.
    trust: Option<TrustConfig>,
    held: Mutex<Option<Held>>,
}

impl Tried {
    pub(crate) fn new(beside: Option<Arc<dyn Beside>>, trust: Option<TrustConfig>) -> Self {
        Self {
            beside,
            trust,
            held: Mutex::default(),
        }
    }

    /// Does what the PDP says: tries another revision, goes on, or drops what there is.
    pub(crate) async fn take(&self, candidate: Candidate) {
        let Some(revision) = candidate.revision else {
            return self.end();
        };
        let limit = Duration::from_millis(candidate.limit_ms).min(LIMIT_MAX);
        let digest = Digest::from_slice(&revision.sha256).unwrap_or_default();
        let sequence = revision.sequence;
        let is_known = |held: &Held| (held.digest, held.sequence) == (digest, sequence);
        if let Some(held) = self.held().as_mut().filter(|held| is_known(held)) {
            (held.limit, held.heard) = (limit, Instant::now());
            return;
        }
        let began = self.begin(revision, candidate.every).await;
        if let Err(refused) = &began {
            tracing::warn!(error = %refused, sequence, "policy revision cannot be tried");
        }
        *self.held() = Some(Held {
            digest,
            sequence,
            limit,
            heard: Instant::now(),
            refused: began.err().map(|refused| refused.to_string()),
        });
    }

    /// The PDP still wants the revision with this digest to be tried.
    pub(crate) fn confirm(&self, sha256: &[u8]) {
        if let Some(held) = self.held().as_mut().filter(|h| h.digest.0 == *sha256) {
            held.heard = Instant::now();
        }
    }

    /// Drops what the PDP has not spoken of for its limit.
    pub(crate) fn expire(&self) {
        let is_over = |held: &Held| held.heard.elapsed() >= held.limit;
        if self.held().as_ref().is_some_and(is_over) {
            tracing::info!("tried policy revision is dropped: its PDP is silent");
            self.end();
        }
    }

    /// Whether something is tried, so that the PDP wants to hear often.
    pub(crate) fn is_held(&self) -> bool {
        self.held().is_some()
    }

    /// What to tell in place of counts, where it could not be tried.
    pub(crate) fn refused(&self) -> Option<Trial> {
        let held = self.held();
        let held = held.as_ref()?;
        Some(Trial {
            sha256: held.digest.0.to_vec(),
            sequence: held.sequence,
            refused: held.refused.clone()?,
            ..Trial::default()
        })
    }

    async fn begin(&self, revision: Revision, every: u32) -> Result<(), Diagnostic> {
        let Some(beside) = self.beside.clone() else {
            return Err(
                Diagnostic::error(codes::UNTRIED, "this subscriber cannot try a revision")
                    .help("leave it out of the rollout, or upgrade it"),
            );
        };
        let trust = self.trust.clone();
        let begun = spawn_blocking(move || {
            let Opened { bundle, digest } = keep::open(&revision)?;
            let domain = trust::domain_of(&bundle.trust_domain)?;
            let trust = trust::load(trust.as_ref())?;
            trust::check(trust.as_ref(), &domain, digest, &revision)?;
            beside.begin(&revision, every)
        })
        .await;
        begun.unwrap_or_else(|error| {
            Err(
                Diagnostic::error(codes::APPLY_FAILED, "revision cannot be tried")
                    .cause(format!("bug: {error}"))
                    .help("the revision in force stays; report this with the log"),
            )
        })
    }

    fn end(&self) {
        if self.held().take().is_some()
            && let Some(beside) = &self.beside
        {
            beside.end();
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::publish::tests::revision_of;

    /// Counts, and refuses odd numbers.
    #[derive(Debug, Default)]
    struct Counting {
        begun: AtomicUsize,
        ended: AtomicUsize,
    }

    impl Beside for Counting {
        fn begin(&self, revision: &Revision, _every: u32) -> Result<(), Diagnostic> {
            self.begun.fetch_add(1, SeqCst);
            match revision.sequence % 2 {
                0 => Ok(()),
                _ => Err(Diagnostic::error(3012, "it does not compile")),
            }
        }

        fn end(&self) {
            self.ended.fetch_add(1, SeqCst);
        }
    }

    fn candidate(sequence: u64, limit: Duration) -> Candidate {
        Candidate {
            revision: Some(revision_of("abc", sequence)),
            every: 1,
            limit_ms: u64::try_from(limit.as_millis()).unwrap(),
        }
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(40);

    #[tokio::test]
    async fn it_comes_and_goes_by_the_word_of_the_pdp() {
        let counting = Arc::new(Counting::default());
        let tried = Tried::new(Some(counting.clone()), None);
        let seen = || (counting.begun.load(SeqCst), counting.ended.load(SeqCst));
        tried.take(candidate(2, LONG)).await;
        tried.take(candidate(2, LONG)).await;
        assert_eq!(seen(), (1, 0), "the same is not begun twice");
        assert!(tried.is_held() && tried.refused().is_none());
        tried.take(candidate(4, LONG)).await;
        assert_eq!(seen(), (2, 0), "one takes the place of another");
        tried.take(Candidate::default()).await;
        tried.take(Candidate::default()).await;
        assert_eq!(seen(), (2, 1));
        assert!(!tried.is_held());
    }

    /// Both sides of the limit.
    #[tokio::test]
    async fn without_a_word_it_is_dropped_at_its_limit() {
        let counting = Arc::new(Counting::default());
        let tried = Tried::new(Some(counting.clone()), None);
        tried.take(candidate(2, LONG)).await;
        tried.expire();
        assert!(tried.is_held());
        tried.take(candidate(2, SHORT)).await;
        tokio::time::sleep(SHORT).await;
        tried.confirm(&revision_of("abc", 0).sha256);
        tried.expire();
        assert!(tried.is_held(), "it was just spoken of");
        tokio::time::sleep(SHORT).await;
        tried.confirm(&Digest::of(b"another").0);
        tried.expire();
        assert!(!tried.is_held());
        assert_eq!(counting.ended.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_tried_is_told_with_its_reason() {
        let check = async |beside: Option<Arc<dyn Beside>>, candidate: Candidate, code: u16| {
            let tried = Tried::new(beside, None);
            tried.take(candidate).await;
            let refused = tried.refused().expect("refused");
            let told = format!("PLS{code}: ");
            assert!(refused.refused.starts_with(&told), "{}", refused.refused);
            assert_eq!(refused.sequence, 3);
        };
        let counting: Arc<dyn Beside> = Arc::new(Counting::default());
        check(Some(counting.clone()), candidate(3, LONG), 3012).await;
        check(None, candidate(3, LONG), codes::UNTRIED).await;
        let mut damaged = candidate(3, LONG);
        if let Some(revision) = &mut damaged.revision {
            revision.bundle = revision_of("abd", 3).bundle;
        }
        check(Some(counting), damaged, codes::DIGEST).await;
    }
}
