//! Who has signed the heads of a log, as far as the log says.
//!
//! Heads whose certificate is not known may have come before it. So they wait, and what is
//! said of those that it never came for is said when all of the log was read: only then it is
//! known whether the record that would have had it is one that is not here.

use std::collections::VecDeque;

use palisade_mesh::{diagnostic::Severity, spiffe_id::SpiffeId};
use rustc_hash::FxHashMap;
use ulid::Ulid;

use super::Finding;
use crate::{
    heads::{
        CERTIFICATE_LEN_MAX, CERTIFICATES_EVERY, Place, Signature, Signer, Statement, long_ago,
    },
    merkle::sha256,
    stream::{Range, StreamKey},
};

/// Certificates of a start that are known at a time: the one that it signs with, and those
/// before it, for heads that come late.
const KNOWN_MAX: usize = 4;

/// Starts whose certificates are known at a time; those heard longest ago are forgotten, until
/// they send theirs again.
const CERTIFIED_MAX: usize = 64 * 1024;

/// How many are forgotten at once.
const FORGOTTEN: usize = CERTIFIED_MAX / 4;

/// Heads of a start that wait for their certificate; more are as those that it never came for.
const WAITING_MAX: usize = 4 * CERTIFICATES_EVERY as usize;

/// Bytes of heads of one reporter that wait, and of all; more are not checked, and counted.
pub(super) const WAITING_BYTES_EACH_MAX: usize = 4 << 20;
const WAITING_BYTES_MAX: usize = 256 << 20;

/// Certificates and heads by start.
#[derive(Default)]
pub(super) struct Signers {
    boots: FxHashMap<(SpiffeId, Ulid), Boot>,
    waiting: Waiting,
    /// Heads that came so far.
    heard: u64,
    /// Starts of which a certificate is known.
    certified: usize,
}

/// Bytes that wait.
#[derive(Default)]
struct Waiting {
    of: FxHashMap<SpiffeId, usize>,
    all: usize,
    /// Heads that were more than may.
    beyond: u64,
}

impl Waiting {
    /// Makes room for so many bytes of a reporter, if there is some.
    fn admit(&mut self, reporter: &SpiffeId, bytes: usize) -> bool {
        let of = self.of.entry(reporter.clone()).or_default();
        let fits = *of + bytes <= WAITING_BYTES_EACH_MAX && self.all + bytes <= WAITING_BYTES_MAX;
        match fits {
            true => (*of, self.all) = (*of + bytes, self.all + bytes),
            false => self.beyond += 1,
        }
        fits
    }

    fn release(&mut self, reporter: &SpiffeId, bytes: usize) {
        if let Some(of) = self.of.get_mut(reporter) {
            *of -= bytes;
            self.all -= bytes;
        }
    }
}

#[derive(Default)]
struct Boot {
    /// The newest last.
    certificates: VecDeque<Vec<u8>>,
    waiting: Vec<Said>,
    /// The last record of heads that it has signed, by stream and number.
    signed: Option<(u32, u64)>,
    /// When it was heard last.
    heard: u64,
    /// Its certificates were forgotten: it is not its fault that they are not known.
    forgotten: bool,
}

/// Heads, and where they are.
pub(super) struct Said {
    pub(super) statement: Statement,
    pub(super) stream: StreamKey,
    pub(super) sequence: u64,
    pub(super) leaf: u64,
    /// A finding about them, without words.
    pub(super) finding: Finding,
    /// The last number before them that heads are known to be signed in.
    pub(super) after: u64,
}

impl Said {
    fn check(&self, certificates: &VecDeque<Vec<u8>>) -> Signature {
        let at = Place {
            stream: &self.stream,
            sequence: self.sequence,
        };
        self.statement.check(at, |digest| {
            let mut known = certificates.iter();
            let found = known.find(|leaf| sha256(leaf).as_slice() == digest);
            found.map(Vec::as_slice)
        })
    }
}

impl Boot {
    /// Remembers the certificate with which `said` was signed.
    fn learn(&mut self, said: &Said, signer: &Signer) {
        let place = (said.stream.worker, said.sequence);
        self.signed = self.signed.max(Some(place));
        let leaf = said.statement.certificate();
        let Some(leaf) = leaf.filter(|leaf| leaf.len() <= CERTIFICATE_LEN_MAX) else {
            return;
        };
        let is_known = |known: &Vec<u8>| sha256(known) == signer.certificate;
        if !self.certificates.iter().any(is_known) {
            self.certificates.push_back(leaf.to_vec());
            if self.certificates.len() > KNOWN_MAX {
                self.certificates.pop_front();
            }
        }
    }
}

impl Signers {
    /// Takes in heads; gives those of which it is known now who has signed them, with those
    /// that waited for what came with them.
    pub(super) fn judge(&mut self, mut said: Said) -> Vec<(Said, Signature)> {
        self.make_room();
        self.heard += 1;
        let reporter = said.stream.reporter.clone();
        let boot = (reporter.clone(), said.stream.boot);
        let boot = self.boots.entry(boot).or_default();
        boot.heard = self.heard;
        let mut judged = Vec::new();
        match said.check(&boot.certificates) {
            Signature::Unknown => {
                let of_stream = |(worker, _): &(u32, u64)| *worker == said.stream.worker;
                let before = boot.signed.filter(of_stream).map(|(_, number)| number);
                said.after = before.filter(|n| *n < said.sequence).unwrap_or_default();
                if boot.waiting.len() >= WAITING_MAX {
                    let what = "too many before it name a certificate that is not here";
                    return vec![(said, Signature::Wrong(what))];
                }
                if self.waiting.admit(&reporter, said.statement.len()) {
                    boot.waiting.push(said);
                }
            }
            Signature::Holds(signer) => {
                let before = boot.certificates.is_empty();
                boot.learn(&said, &signer);
                let comes = said.statement.certificate().is_some();
                judged.push((said, Signature::Holds(signer)));
                for said in comes
                    .then(|| std::mem::take(&mut boot.waiting))
                    .into_iter()
                    .flatten()
                {
                    match said.check(&boot.certificates) {
                        Signature::Unknown => boot.waiting.push(said),
                        known => {
                            self.waiting.release(&reporter, said.statement.len());
                            judged.push((said, known));
                        }
                    }
                }
                self.certified += usize::from(before && !boot.certificates.is_empty());
            }
            wrong @ Signature::Wrong(_) => judged.push((said, wrong)),
        }
        judged
    }

    /// Forgets the certificates of starts that were heard longest ago, where there are too many.
    fn make_room(&mut self) {
        if self.certified < CERTIFIED_MAX {
            return;
        }
        let certified = self.boots.values().filter(|b| !b.certificates.is_empty());
        let last = long_ago(certified.map(|boot| boot.heard), FORGOTTEN);
        for boot in self.boots.values_mut().filter(|b| b.heard <= last) {
            if !boot.certificates.is_empty() {
                self.certified -= 1;
                boot.certificates.clear();
                boot.forgotten = true;
            }
        }
    }

    /// Heads that were not checked, because too many wait for their certificate.
    pub(super) fn beyond(&self) -> u64 {
        self.waiting.beyond
    }

    /// Whether a start has signed heads.
    pub(super) fn signs(&self, reporter: &SpiffeId, boot: Ulid) -> bool {
        let boot = self.boots.get(&(reporter.clone(), boot));
        boot.is_some_and(|boot| boot.signed.is_some())
    }

    /// What there is to say of heads whose certificate never came; `missing` gives the numbers of a
    /// stream that are not here.
    pub(super) fn unknown<'m>(
        &mut self,
        missing: impl Fn(&StreamKey) -> &'m [Range],
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        for boot in self.boots.values_mut() {
            let mut waiting = std::mem::take(&mut boot.waiting);
            waiting.sort_by_key(|said| (said.stream.worker, said.sequence));
            findings.extend(unknown(waiting, boot.forgotten, &missing));
        }
        findings.sort_by_key(|finding| finding.leaf);
        findings
    }
}

/// What there is to say of heads of a start, by number. They are excused where a record before
/// them is missing or it was `forgotten`, until the certificate must have been sent again; once for
/// all of them.
fn unknown<'m>(
    waiting: Vec<Said>,
    forgotten: bool,
    missing: impl Fn(&StreamKey) -> &'m [Range],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut worker, mut before, mut excused, mut warned) = (None, 0, None, false);
    for said in waiting {
        if worker.replace(said.stream.worker) != Some(said.stream.worker) {
            (before, excused) = (0, forgotten.then_some(0));
        }
        if said.after > before {
            // One in between was signed with a certificate that is known.
            (before, excused) = (said.after, None);
        }
        let is_between = |range: &Range| range.from < said.sequence && range.to > before;
        if missing(&said.stream).iter().any(is_between) {
            excused = Some(0);
        }
        excused = excused
            .map(|since| since + 1)
            .filter(|since| *since <= CERTIFICATES_EVERY);
        before = said.sequence;
        if excused.is_none() {
            let what = "heads that its reporter has not signed: the certificate that they name was never sent";
            findings.push(Finding {
                what: what.into(),
                ..said.finding
            });
        } else if !std::mem::replace(&mut warned, true) {
            let what = "heads that cannot be checked count for nothing: the record that had their certificate is not here";
            findings.push(Finding {
                severity: Severity::Warning,
                what: what.into(),
                ..said.finding
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{
        super::{FindingKind, stored::about},
        *,
    };
    use crate::testing::{REPORTER, Speaker, TestSigner};

    /// The next heads of a start.
    fn said(speaker: &mut Speaker) -> Said {
        let statement = speaker.statement();
        Said {
            sequence: statement.heads.sequence,
            statement,
            stream: speaker.stream(Speaker::OWN),
            leaf: 0,
            finding: about(FindingKind::Heads, "", ""),
            after: 0,
        }
    }

    fn holds(judged: &[(Said, Signature)]) -> bool {
        matches!(judged, [(_, Signature::Holds(_))])
    }

    /// On both sides of the limit: heads of a certificate before the last ones count when they
    /// come late, and wait where it is forgotten.
    #[test]
    fn so_many_certificates_of_a_start_are_known() {
        let (mut signers, mut web) = (Signers::default(), Speaker::new(1));
        assert!(holds(&signers.judge(said(&mut web))));
        let [early, late] = [(); 2].map(|()| said(&mut web));
        for serial in 2..=KNOWN_MAX as u64 {
            web.signer = TestSigner::new(REPORTER, serial);
            assert!(holds(&signers.judge(said(&mut web))));
        }
        assert!(holds(&signers.judge(early)));
        web.signer = TestSigner::new(REPORTER, KNOWN_MAX as u64 + 1);
        assert!(holds(&signers.judge(said(&mut web))));
        assert!(signers.judge(late).is_empty());
        let boot = signers.boots.values().next().unwrap();
        assert_eq!(
            (boot.certificates.len(), boot.waiting.len()),
            (KNOWN_MAX, 1)
        );
    }

    /// On both sides of the limit: the start that was heard longest ago is forgotten, which is
    /// not its fault, and known again when it sends its certificate again.
    #[test]
    fn the_certificates_of_so_many_starts_are_known() {
        let (mut signers, mut web) = (Signers::default(), Speaker::new(1));
        let (mut old, mut newer) = (Speaker::new(2), Speaker::new(3));
        for speaker in [&mut old, &mut web] {
            assert!(holds(&signers.judge(said(speaker))));
        }
        for boot in 4..=CERTIFIED_MAX as u64 {
            signers.heard += 1;
            let other = Boot {
                certificates: VecDeque::from([Vec::new()]),
                heard: signers.heard,
                ..Boot::default()
            };
            let key = (web.stream(0).reporter, Ulid::from_parts(boot, 0));
            signers.boots.insert(key, other);
            signers.certified += 1;
        }
        // One less than may be: nobody is forgotten.
        assert_eq!(signers.certified, CERTIFIED_MAX - 1);
        assert!(holds(&signers.judge(said(&mut web))));
        assert_eq!(signers.certified, CERTIFIED_MAX - 1);
        // As many as may be: the next to be heard finds room made.
        assert!(holds(&signers.judge(said(&mut newer))));
        assert_eq!(signers.certified, CERTIFIED_MAX);
        assert!(holds(&signers.judge(said(&mut web))));
        assert!(signers.certified <= CERTIFIED_MAX - FORGOTTEN);
        assert!(signers.judge(said(&mut old)).is_empty());
        let boot = (old.stream(0).reporter, old.boot);
        assert!(signers.boots[&boot].forgotten);
        old.forget();
        let judged = signers.judge(said(&mut old));
        assert_eq!(judged.len(), 2, "with those that waited");
        let found = signers.unknown(|_| &[]);
        assert!(found.is_empty(), "{found:?}");
    }
}
