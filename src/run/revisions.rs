//! Revisions that were in force lately, and an engine for whoever asks about one.
//!
//! Kept as the bytes that were distributed; engines are built when somebody asks,
//! one at a time, and only the last few are held.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use palisade_mesh::{diagnostic::Diagnostic, snapshot::Digest, wire::policy::Revision};
use palisade_pdp::decide::Snapshot;

use super::policy;

/// Revisions that can be asked about; older ones are forgotten.
const REVISIONS_MAX: usize = 64;
/// Bytes of all of them together, whatever their number; the newest is always kept.
const REVISION_BYTES_MAX: usize = 64 << 20;
/// Engines held for the next question.
const ENGINES_MAX: usize = 2;

/// The recent past of a policy folder.
#[derive(Default)]
pub(super) struct Revisions {
    kept: Mutex<VecDeque<Revision>>,
    engines: tokio::sync::Mutex<VecDeque<Arc<Snapshot>>>,
}

impl Revisions {
    /// Remembers a revision that has come into force.
    pub(super) fn note(&self, revision: &Revision) {
        let mut kept = self.kept();
        if kept.iter().any(|r| r.sequence == revision.sequence) {
            return;
        }
        kept.push_back(revision.clone());
        let bytes = |kept: &VecDeque<Revision>| kept.iter().map(|r| r.bundle.len()).sum::<usize>();
        while kept.len() > 1 && (kept.len() > REVISIONS_MAX || bytes(&kept) > REVISION_BYTES_MAX) {
            kept.pop_front();
        }
    }

    /// The engine of the newest revision with this digest; `None` when it is forgotten.
    /// One that came back by a rollback has another number than before.
    ///
    /// # Errors
    /// When it cannot be built.
    pub(super) async fn engine(
        &self,
        digest: &Digest,
    ) -> Result<Option<Arc<Snapshot>>, Diagnostic> {
        let mut engines = self.engines.lock().await;
        let newest_first =
            |kept: &VecDeque<Revision>| kept.iter().rev().find(|r| r.sha256 == digest.0).cloned();
        let revision = newest_first(&self.kept());
        let is_it = |snapshot: &Arc<Snapshot>| {
            let versions = snapshot.versions();
            let number = revision.as_ref().map(|r| r.sequence);
            versions.policy == *digest && number.is_none_or(|n| n == versions.sequence)
        };
        if let Some(at) = engines.iter().position(is_it) {
            let known = engines.remove(at);
            engines.extend(known.clone());
            return Ok(known);
        }
        let Some(revision) = revision else {
            return Ok(None);
        };
        let built = tokio::task::spawn_blocking(move || policy::of_revision(&revision)).await;
        let engine = built.map_err(|e| {
            Diagnostic::error(6001, "the engine cannot be built from this revision")
                .cause(e.to_string())
        })??;
        if engines.len() >= ENGINES_MAX {
            engines.pop_front();
        }
        engines.push_back(engine.clone());
        Ok(Some(engine))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, VecDeque<Revision>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn revision(sequence: u64, len: usize) -> Revision {
        let bundle = Bytes::from(vec![u8::try_from(sequence % 251).unwrap(); len]);
        Revision {
            sha256: Digest::of(&bundle).0.to_vec(),
            bundle,
            sequence,
            ..Revision::default()
        }
    }

    /// Both limits, and that the newest stays even where it alone exceeds one.
    #[test]
    fn the_past_is_bounded_by_number_and_size() {
        let revisions = Revisions::default();
        (0..=REVISIONS_MAX as u64).for_each(|n| revisions.note(&revision(n, 10)));
        assert_eq!(revisions.kept().len(), REVISIONS_MAX);
        assert_eq!(revisions.kept().front().map(|r| r.sequence), Some(1));
        revisions.note(&revision(1000, REVISION_BYTES_MAX + 1));
        assert_eq!(revisions.kept().len(), 1);
        revisions.note(&revision(1000, 10));
        assert_eq!(revisions.kept().len(), 1);
    }

    /// A rollback puts the texts of an older revision in force under a new number.
    #[tokio::test]
    async fn the_same_texts_under_another_number_are_known_by_the_newest() {
        let policies = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        let compiled = palisade_pdp::author::load(&policies).compiled.unwrap();
        let (bundle, digest) = (compiled.bundle, compiled.digest);
        let revision = |sequence| Revision {
            sha256: digest.0.to_vec(),
            bundle: bundle.clone(),
            sequence,
            ..Revision::default()
        };
        let revisions = Revisions::default();
        for sequence in [1, 3] {
            revisions.note(&revision(sequence));
            for _ in 0..2 {
                let engine = revisions.engine(&digest).await.unwrap().unwrap();
                assert_eq!(engine.versions().sequence, sequence);
            }
        }
    }

    #[tokio::test]
    async fn a_forgotten_revision_has_no_engine_and_a_broken_one_says_so() {
        let revisions = Revisions::default();
        let broken = revision(1, 10);
        let digest = Digest::of(&broken.bundle);
        assert!(matches!(revisions.engine(&digest).await, Ok(None)));
        revisions.note(&broken);
        assert!(revisions.engine(&digest).await.is_err());
    }
}
