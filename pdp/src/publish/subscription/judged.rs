//! Whether a revision is believed, and what becomes of one that is, or not yet.

use std::sync::{Arc, PoisonError};

use palisade_mesh::{
    diagnostic::Diagnostic,
    snapshot::Digest,
    spiffe_id::TrustDomain,
    wire::policy::{Ack, Newest, Revision, Stamp},
};
use tokio::task::spawn_blocking;

use super::{
    super::{codes, keep, older, word::Held},
    Apply, Subscription,
};
use crate::bundle::{
    Opened,
    trust::{self, SignedBy, Trust},
};

/// Whose word a revision is.
pub(super) struct Believed {
    pub(super) domain: TrustDomain,
    pub(super) signed: SignedBy,
}

impl Subscription {
    /// The PDP said what the newest revision is.
    pub(super) async fn note_newest(&self, newest: &Newest) {
        let ahead_us = newest.now_us - self.config.clock.now_us();
        self.state
            .send_modify(|s| s.clock_ahead_us = Some(ahead_us));
        let (sequence, digest, domain) = {
            let state = self.state.borrow();
            (state.sequence, state.digest, state.domain.clone())
        };
        let Some(domain) = domain else {
            return;
        };
        if newest.sequence != sequence || Digest::from_slice(&newest.sha256) != Some(digest) {
            return;
        }
        let (trust, now_us) = (self.config.trust.clone(), self.freshness.now_us());
        let stamp = newest.stamp.clone();
        let in_force = self.revision.borrow().clone();
        let stamped = blocking(move || {
            let trust = trust::load(trust.as_ref())?;
            // A key that was taken out counts no longer, also for what is in force.
            if let (Some(trust), Some(in_force)) = (&trust, &in_force) {
                trust.check(&domain, digest, in_force)?;
            }
            held(trust.as_ref(), &domain, (digest, sequence), stamp, now_us)
        })
        .await;
        if let Ok(stamp) = stamped {
            self.freshness.confirm(sequence, digest, stamp);
        }
        self.state.send_if_modified(|s| {
            let unstamped = stamped.err();
            let news = s.unstamped != unstamped;
            if news && let Some(error) = &unstamped {
                tracing::error!(%error, "policy revision is not confirmed");
            }
            s.unstamped = unstamped;
            news
        });
    }

    /// Whether those who must have signed a revision have, and stamped it.
    async fn believed(
        &self,
        domain: TrustDomain,
        digest: Digest,
        revision: &Revision,
    ) -> Result<(Believed, Option<Held>), Diagnostic> {
        let (trust, now_us) = (self.config.trust.clone(), self.freshness.now_us());
        let revision = revision.clone();
        blocking(move || {
            let trust = trust::load(trust.as_ref())?;
            let signed = trust::check(trust.as_ref(), &domain, digest, &revision)?;
            let of = (digest, revision.sequence);
            let stamp = held(trust.as_ref(), &domain, of, revision.stamp, now_us)?;
            Ok((Believed { domain, signed }, stamp))
        })
        .await
    }

    pub(super) fn doubt(&self, revision: Option<Revision>) {
        *self.doubted.lock().unwrap_or_else(PoisonError::into_inner) = revision;
    }

    /// Puts in force what was not believed when it came, if it is now.
    pub(super) async fn reconsider<A>(&self, newest: &Newest, apply: &Apply<A>) -> Option<Ack>
    where
        A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
    {
        let doubted = self
            .doubted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut revision =
            doubted.filter(|r| r.sequence == newest.sequence && r.sha256 == newest.sha256)?;
        revision.stamp = newest.stamp.clone().or(revision.stamp);
        let (sha256, sequence) = (revision.sha256.clone(), revision.sequence);
        self.accept(revision, apply).await.ok()?;
        self.doubt(None);
        Some(Ack { sha256, sequence })
    }

    /// The revision in force has come with other signatures.
    async fn resigned(
        &self,
        domain: TrustDomain,
        digest: Digest,
        revision: Revision,
    ) -> Result<(), Diagnostic> {
        let is_news = self.revision.borrow().as_ref().is_some_and(|had| {
            had.content_signatures != revision.content_signatures
                || had.release_signatures != revision.release_signatures
                || had.way_back != revision.way_back
                || had.attestation != revision.attestation
        });
        if !is_news {
            return Ok(());
        }
        let (believed, stamp) = self.believed(domain, digest, &revision).await?;
        let (keep, kept) = (self.keep.clone(), revision.clone());
        if let Ok(Err(diagnostic)) = spawn_blocking(move || keep.store(&kept)).await {
            tracing::error!(error = %diagnostic, "policy revision is not kept");
        }
        self.freshness.confirm(revision.sequence, digest, stamp);
        self.in_force(revision, believed, false);
        Ok(())
    }

    pub(super) async fn accept<A>(
        &self,
        revision: Revision,
        apply: &Apply<A>,
    ) -> Result<(), Diagnostic>
    where
        A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
    {
        let Opened { bundle, digest } = keep::open(&revision)?;
        let have = {
            let state = self.state.borrow();
            (state.sequence, state.digest)
        };
        if have == (revision.sequence, digest) {
            let domain = trust::domain_of(&bundle.trust_domain)?;
            return self.resigned(domain, digest, revision).await;
        }
        let domain = trust::domain_of(&bundle.trust_domain)?;
        drop(bundle);
        let named = (revision.sequence, digest);
        self.may_follow(&domain, named).await?;
        let (believed, stamp) = self.believed(domain, digest, &revision).await?;
        applied(apply, revision.clone()).await?;
        let keep = self.keep.clone();
        let kept = revision.clone();
        // In force whether or not it can be kept: the older one on disk would be
        // worse, and is what a restart falls back to.
        if let Ok(Err(diagnostic)) = spawn_blocking(move || keep.succeed(&kept)).await {
            tracing::error!(error = %diagnostic, "policy revision is not kept");
        }
        self.freshness.confirm(revision.sequence, digest, stamp);
        self.keep_word().await;
        self.in_force(revision, believed, false);
        Ok(())
    }

    /// Whether a revision may follow what was in force here: it has a higher number than any
    /// that was; it is what was in force last, which may be lost, or have been refused on
    /// disk; or it is what the highest says that it may be taken back to, which happens once.
    async fn may_follow(
        &self,
        domain: &TrustDomain,
        (sequence, digest): (u64, Digest),
    ) -> Result<(), Diagnostic> {
        let (highest, last) = (self.freshness.highest(), self.freshness.last());
        let Some(highest) = highest.filter(|highest| sequence <= highest.0) else {
            return Ok(());
        };
        if last == Some((sequence, digest)) {
            return Ok(());
        }
        if last != Some(highest) || sequence == highest.0 {
            return Err(older(sequence, highest.0));
        }
        let is_held = move |r: &Revision| r.sequence == highest.0 && r.sha256 == highest.1.0;
        let in_force = self.revision.borrow().clone();
        let in_force = in_force.filter(|r| is_held(r));
        let (trust, keep) = (self.config.trust.clone(), self.keep.clone());
        let (domain, now_us) = (domain.clone(), self.freshness.latest_us());
        blocking(move || {
            // Killed between the two files of a change, it is not in force but on disk.
            let from = match in_force {
                Some(in_force) => Some((*in_force).clone()),
                None => {
                    let past = keep.past().unwrap_or_default();
                    past.into_iter().find(is_held)
                }
            };
            let Some(from) = from.filter(|from| from.way_back.is_some()) else {
                return Err(older(sequence, highest.0));
            };
            let trust = trust::load(trust.as_ref())?;
            trust::way_back(trust.as_ref(), &domain, &from, (digest, sequence), now_us)?;
            tracing::warn!(
                from = highest.0,
                to = sequence,
                "policy revision is taken back"
            );
            Ok(())
        })
        .await
    }

    pub(super) fn in_force(&self, revision: Revision, believed: Believed, from_disk: bool) {
        self.state.send_modify(|s| {
            s.sequence = revision.sequence;
            s.digest = Digest::from_slice(&revision.sha256).unwrap_or_default();
            s.from_disk = from_disk;
            s.domain = Some(believed.domain.clone());
            s.signed = Some(believed.signed.clone());
            s.last_error = None;
        });
        self.revision.send_replace(Some(Arc::new(revision)));
    }
}

/// The stamp of a revision, where one is demanded and this one is good.
fn held(
    trust: Option<&Trust>,
    domain: &TrustDomain,
    revision: (Digest, u64),
    stamp: Option<Stamp>,
    now_us: i64,
) -> Result<Option<Held>, Diagnostic> {
    let Some(trust) = trust else {
        return Ok(None);
    };
    let until_us = trust.check_stamp(domain, revision, stamp.as_ref(), now_us)?;
    let held = stamp.zip(until_us).map(|(stamp, until_us)| Held {
        issued_us: stamp.issued_us,
        until_us,
    });
    Ok(held)
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Diagnostic> + Send + 'static,
) -> Result<T, Diagnostic> {
    spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Diagnostic::error(
            codes::APPLY_FAILED,
            "policy revision could not be put in force",
        )
        .cause(format!("bug: {error}"))
        .help("the revision before stays in force; report this with the log"))
    })
}

pub(super) async fn applied<A>(apply: &Apply<A>, revision: Revision) -> Result<(), Diagnostic>
where
    A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
{
    let apply = apply.clone();
    blocking(move || {
        let mut apply = apply.lock().unwrap_or_else(PoisonError::into_inner);
        apply(revision)
    })
    .await
}
