//! Numbers and signatures: whose word a revision is in force by.

use std::sync::Arc;

use palisade_mesh::{
    diagnostic::Diagnostic,
    place::Place,
    wire::policy::{Attestation, Proof, Revision, Stamp},
};

use super::{
    super::{
        bundled::Vouched, foreign, keep::REVISION_LEN_MAX, older, proving::unproved, slices::Slices,
    },
    Published, Source, name_of,
    returning::taken_back,
};
use crate::{
    bundle::{
        codes::{TOO_LARGE, UNSIGNED_FOLDER},
        key::SigningKey,
        proofs,
        statement::{self, Statement},
        trust::{self, SignedBy},
    },
    compiled::Compiled,
};

impl Source {
    /// The content in force is there again, perhaps signed by more or stamped anew.
    pub(super) fn renew(
        &mut self,
        current: &Published,
        vouched: Vouched,
    ) -> Result<(), Diagnostic> {
        if let Some(next) = self.renewed(current, vouched)? {
            self.keep.store(&next.revision)?;
            self.state.send_modify(|s| s.current = Some(Arc::new(next)));
        }
        Ok(())
    }

    /// `before` with what is vouched for it now; none where that is nothing new.
    ///
    /// # Errors
    /// When it may not be in force as it is signed now.
    pub(super) fn renewed(
        &self,
        before: &Published,
        vouched: Vouched,
    ) -> Result<Option<Published>, Diagnostic> {
        let issued = |stamp: &Option<Stamp>| stamp.as_ref().map(|s| s.issued_us);
        let mut revision = before.revision.clone();
        // Copies that lag behind take nothing away.
        if issued(&vouched.stamp) > issued(&revision.stamp) {
            revision.stamp = vouched.stamp;
        }
        if !vouched.content.is_empty() {
            revision.content_signatures = vouched.content;
        }
        if let Some(given) = vouched.attestation {
            revision.attestation = Some(self.better_vouched(&before.compiled, &revision, given)?);
        }
        if let Some(found) = vouched.proved {
            self.attest(&before.compiled, &mut revision, found);
        }
        if let Some(release) = vouched.release {
            revision.issued_us = release.issued_us;
            revision.release_signatures = release.signatures;
            if let Some(given) = release.way_back {
                let domain = &before.compiled.trust_domain;
                revision.way_back = Some(self.renewed_way_back(domain, &revision, given));
            }
        }
        let signed = self.accepted(&before.compiled, &revision)?;
        if revision == before.revision {
            return Ok(None);
        }
        Ok(Some(Published {
            stamp: self.stamps(&revision),
            signed,
            compiled: before.compiled.clone(),
            git_revision: before.git_revision.clone(),
            since_us: before.since_us,
            diagnostics: before.diagnostics.clone(),
            unproved: unproved(&before.compiled, &revision),
            slices: Slices::default(),
            revision,
        }))
    }

    /// The word about what was proved that a revision has once it came again with `given`, which
    /// takes the place of one that has not what is demanded where it has, and else only of one
    /// whose every proof and every signer it has, too. A forged one takes it, for that is told.
    fn better_vouched(
        &self,
        compiled: &Compiled,
        revision: &Revision,
        given: Attestation,
    ) -> Result<Attestation, Diagnostic> {
        let Some(held) = &revision.attestation else {
            return Ok(given);
        };
        let trust = trust::load(self.trust.as_ref())?;
        let weight = |attestation: &Attestation| {
            let (domain, digest) = (&compiled.trust_domain, compiled.digest);
            trust::vouchers(trust.as_ref(), domain, digest, attestation)
        };
        let (Ok(before), Ok(now)) = (weight(held), weight(&given)) else {
            return Ok(given);
        };
        let has_proof = |p: &Proof| given.proofs.iter().any(|q| q.invariant == p.invariant);
        let has_all =
            held.proofs.iter().all(has_proof) && before.keys.iter().all(|k| now.keys.contains(k));
        let is_better = match (before.is_enough, now.is_enough) {
            (false, true) => true,
            (true, false) => false,
            (true, true) | (false, false) => has_all,
        };
        Ok(match is_better {
            true => given,
            false => held.clone(),
        })
    }

    /// Whether a revision can have its number: a higher one than any that was used, or that
    /// of the same content, where it was never in force or was not believed at the start.
    pub(super) fn check_number(&self, revision: &Revision) -> Result<(), Diagnostic> {
        if self.was_taken_back(revision.sequence) {
            return Err(taken_back(revision.sequence));
        }
        let in_force = self.state.borrow().current.as_ref().map(|c| c.sequence());
        let is_same = name_of(revision) == self.used && in_force < Some(revision.sequence);
        match revision.sequence > self.sequence || is_same {
            true => Ok(()),
            false => Err(older(revision.sequence, self.sequence)),
        }
    }

    /// Notes that a number is used.
    pub(super) fn use_number(&mut self, revision: &Revision) {
        self.sequence = revision.sequence;
        self.used = name_of(revision);
    }

    /// A number and the signatures that were vouched for it, or our own.
    pub(super) fn signed(&self, compiled: &Compiled, vouched: Vouched, now_us: i64) -> Revision {
        let (domain, digest) = (&compiled.trust_domain, compiled.digest);
        let own = |said: Statement<'_>| vec![said.sign(&self.key)];
        let mut revision = Revision {
            bundle: compiled.bundle.clone(),
            sha256: digest.0.to_vec(),
            content_signatures: vouched.content,
            stamp: vouched.stamp,
            attestation: vouched.attestation,
            ..Revision::default()
        };
        if revision.content_signatures.is_empty() {
            revision.content_signatures = own(statement::content(domain, digest));
        }
        match vouched.release {
            Some(release) => {
                revision.sequence = release.sequence;
                revision.issued_us = release.issued_us;
                revision.release_signatures = release.signatures;
                revision.way_back = release.way_back;
            }
            None => {
                revision.sequence = self.sequence.saturating_add(1);
                revision.issued_us = now_us;
                let release = statement::release(domain, digest, &revision);
                revision.release_signatures = own(release);
            }
        }
        if let Some(found) = vouched.proved {
            self.attest(compiled, &mut revision, found);
        }
        revision
    }

    /// Signs what was found proved of a revision here, with what we have signed before: a
    /// solver that had less time takes nothing away.
    fn attest(&self, compiled: &Compiled, revision: &mut Revision, found: Attestation) {
        let own = self.key.public();
        let is_ours = |a: &&Attestation| a.signatures.iter().any(|s| s.key == own.as_bytes());
        let before = revision.attestation.as_ref().filter(is_ours);
        let mut proofs = found.proofs;
        for proof in before.iter().flat_map(|a| &a.proofs) {
            if proofs.iter().all(|p| p.invariant != proof.invariant) {
                proofs.push(proof.clone());
            }
        }
        proofs.sort_by(|a, b| a.invariant.cmp(&b.invariant));
        let mut attestation = Attestation {
            proofs,
            signatures: Vec::new(),
        };
        // What has no name that can be signed is not proved to anybody else.
        let Ok(says) = proofs::says(&attestation) else {
            return;
        };
        let said = Statement {
            domain: &compiled.trust_domain,
            digest: compiled.digest,
            says,
        };
        attestation.signatures = vec![said.sign(&self.key)];
        revision.attestation = Some(attestation);
    }

    /// Whether a revision may be put in force now.
    pub(super) fn accepted(
        &self,
        compiled: &Compiled,
        revision: &Revision,
    ) -> Result<SignedBy, Diagnostic> {
        if self.trust.is_some() && !self.place.is_bundle() {
            return Err(unsigned_place(&self.place));
        }
        if let Some(own) = self
            .domain
            .as_ref()
            .filter(|d| **d != compiled.trust_domain)
        {
            return Err(foreign(&compiled.trust_domain, own));
        }
        check_len(revision)?;
        let trust = trust::load(self.trust.as_ref())?;
        let (domain, digest) = (&compiled.trust_domain, compiled.digest);
        let signed = trust::check(trust.as_ref(), domain, digest, revision)?;
        proofs::fit(revision.attestation.as_ref(), compiled)?;
        if let Some(trust) = &trust {
            let named = (digest, revision.sequence);
            trust.check_stamp(domain, named, revision.stamp.as_ref(), self.clock.now_us())?;
        }
        Ok(signed)
    }

    /// Whether those who must have signed have.
    pub(super) fn believed(
        &self,
        compiled: &Compiled,
        revision: &Revision,
    ) -> Result<SignedBy, Diagnostic> {
        let trust = trust::load(self.trust.as_ref())?;
        let domain = &compiled.trust_domain;
        trust::check(trust.as_ref(), domain, compiled.digest, revision)
    }

    pub(super) fn published(
        &self,
        compiled: Compiled,
        since_us: i64,
        revision: Revision,
        diagnostics: Vec<Diagnostic>,
    ) -> Published {
        let signed = self.believed(&compiled, &revision);
        Published {
            // What is not believed any more is nobody's word but ours.
            signed: signed.unwrap_or(SignedBy::Pdp),
            stamp: self.stamps(&revision),
            git_revision: compiled.git_revision.clone(),
            since_us,
            diagnostics,
            unproved: unproved(&compiled, &revision),
            compiled: Arc::new(compiled),
            slices: Slices::default(),
            revision,
        }
    }

    pub(super) fn stamps(&self, revision: &Revision) -> Result<Stamp, Arc<SigningKey>> {
        revision.stamp.clone().ok_or_else(|| self.key.clone())
    }
}

/// A revision is sent and kept whole; room is left for what is around it.
fn check_len(revision: &Revision) -> Result<(), Diagnostic> {
    let len = prost::Message::encoded_len(revision);
    if len <= REVISION_LEN_MAX - (1 << 20) {
        return Ok(());
    }
    Err(
        Diagnostic::error(TOO_LARGE, "the policy revision is too large to be sent")
            .cause(format!(
                "it has {len} bytes, the limit is {REVISION_LEN_MAX} less 1 MiB"
            ))
            .help("take out what is not policy; see which file is large"),
    )
}

/// Content that can be signed by nobody, where somebody must have.
fn unsigned_place(place: &Place) -> Diagnostic {
    Diagnostic::error(
        UNSIGNED_FOLDER,
        format!("`{place}` is no bundle, and carries no signatures of it"),
    )
    .cause("`policy_trust` demands that policies are signed")
    .help("serve a signed file: palisade bundle build DIR -f FILE, then palisade bundle sign FILE --key KEY --sequence N")
}
