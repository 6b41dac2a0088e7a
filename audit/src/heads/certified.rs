//! The certificates that boots sign with, for whoever follows many of them.

use palisade_mesh::spiffe_id::SpiffeId;
use rustc_hash::FxHashMap;
use ulid::Ulid;

use super::{Place, Signature, Statement};
use crate::{merkle::Hash, stream::StreamKey};

/// Most boots whose certificate is remembered; those heard longest ago are forgotten, until
/// they send it again.
const BOOTS_MAX: usize = 16 * 1024;

/// How many are forgotten at once.
const FORGOTTEN: usize = BOOTS_MAX / 4;

/// Certificates of a boot that have signed and are remembered: the one that it signs with, and
/// some that whoever can write its spool may have made and signed with, too.
const KNOWN_MAX: usize = 4;

/// Most certificates that are remembered of all boots.
const CERTIFICATES_MAX: usize = 2 * BOOTS_MAX;

/// Longest certificate that is remembered, in bytes.
pub(crate) const CERTIFICATE_LEN_MAX: usize = 4096;

/// Certificates by boot.
#[derive(Debug, Default)]
pub(crate) struct Certified {
    boots: FxHashMap<(SpiffeId, Ulid), Known>,
    /// Certificates that are remembered.
    certificates: usize,
    /// Certificates that came so far.
    heard: u64,
}

/// A certificate and its digest.
type Leaf = (Hash, Vec<u8>);

#[derive(Debug, Default)]
struct Known {
    /// Those that have signed, the one that was named last at the end.
    signed: Vec<Leaf>,
    /// One that came with heads whose signature could not be checked then.
    claimed: Option<Leaf>,
    heard: u64,
}

impl Known {
    /// Whether it has signed with this certificate, which is then the one that was named last.
    fn names(&mut self, certificate: &Hash) -> bool {
        let mut signed = self.signed.iter();
        let Some(at) = signed.position(|(digest, _)| digest == certificate) else {
            return false;
        };
        let leaf = self.signed.remove(at);
        self.signed.push(leaf);
        true
    }

    /// Keeps one that has signed, in the place of the one that was named longest ago where there
    /// are too many.
    fn keep(&mut self, leaf: Leaf) {
        if self.names(&leaf.0) {
            return;
        }
        if self.signed.len() >= KNOWN_MAX {
            self.signed.remove(0);
        }
        self.signed.push(leaf);
    }

    fn count(&self) -> usize {
        self.signed.len() + usize::from(self.claimed.is_some())
    }
}

impl Certified {
    /// Whether a certificate comes with a statement in `stream` that is to be remembered, and is
    /// none that has signed. Such a one is heard again, and stays before those that are not
    /// named: nobody has to sign for that.
    pub(crate) fn is_new(&mut self, statement: &Statement, stream: &StreamKey) -> bool {
        let comes = sent(statement).is_some();
        let boot = (stream.reporter.clone(), stream.boot);
        let (Some(known), Some(named)) = (self.boots.get_mut(&boot), statement.named()) else {
            return comes;
        };
        if !known.names(&named) {
            return comes;
        }
        if comes {
            self.heard += 1;
            known.heard = self.heard;
        }
        false
    }

    /// Keeps the certificate that comes with a statement whose signature cannot be checked now, for
    /// those that come without it. It takes the place of none that has signed.
    pub(crate) fn claim(&mut self, statement: &Statement, stream: &StreamKey) {
        if let Some(leaf) = leaf(statement) {
            self.change(stream, |known| known.claimed = Some(leaf));
        }
    }

    /// Remembers the certificate of a statement in `stream`. To be called only where the signature
    /// holds: what anybody else sends takes the place of none.
    pub(crate) fn remember(&mut self, statement: &Statement, stream: &StreamKey) {
        if let Some(leaf) = leaf(statement) {
            return self.change(stream, |known| known.keep(leaf));
        }
        let boot = (stream.reporter.clone(), stream.boot);
        let claimed = self.boots.get_mut(&boot).map(|known| &mut known.claimed);
        let is_named = |leaf: &mut Leaf| Some(leaf.0) == statement.named();
        if let Some(leaf) = claimed.and_then(|claimed| claimed.take_if(is_named)) {
            self.certificates -= 1;
            self.change(stream, |known| known.keep(leaf));
        }
    }

    /// Changes what is known of the boot of `stream`, of which something is heard.
    fn change(&mut self, stream: &StreamKey, change: impl FnOnce(&mut Known)) {
        self.heard += 1;
        let boot = (stream.reporter.clone(), stream.boot);
        let known = self.boots.entry(boot).or_default();
        known.heard = self.heard;
        let before = known.count();
        change(known);
        self.certificates = self.certificates + known.count() - before;
        self.make_room();
    }

    /// Checks who has signed a statement that came in the record `at`.
    pub(crate) fn check(&self, statement: &Statement, at: Place<'_>) -> Signature {
        statement.check(at, |named| {
            let boot = (at.stream.reporter.clone(), at.stream.boot);
            let Known {
                signed, claimed, ..
            } = self.boots.get(&boot)?;
            let mut leaves = signed.iter().chain(claimed);
            let (_, leaf) = leaves.find(|(digest, _)| digest.as_slice() == named)?;
            Some(leaf.as_slice())
        })
    }

    fn make_room(&mut self) {
        if self.boots.len() <= BOOTS_MAX && self.certificates <= CERTIFICATES_MAX {
            return;
        }
        let last = long_ago(self.boots.values().map(|known| known.heard), FORGOTTEN);
        self.boots.retain(|_, known| known.heard > last);
        self.certificates = self.boots.values().map(Known::count).sum();
    }
}

/// The certificate that comes with a statement, if it can be remembered.
fn sent(statement: &Statement) -> Option<&[u8]> {
    let sent = statement.certificate();
    sent.filter(|leaf| leaf.len() <= CERTIFICATE_LEN_MAX)
}

fn leaf(statement: &Statement) -> Option<Leaf> {
    Some((statement.named()?, sent(statement)?.to_vec()))
}

/// Of when boots were `heard`, until when the `count` were that were heard longest ago, and one
/// more; there are more than `count`.
pub(crate) fn long_ago(heard: impl Iterator<Item = u64>, count: usize) -> u64 {
    let mut heard: Vec<u64> = heard.collect();
    *heard.select_nth_unstable(count).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Speaker;

    /// Whether the second heads of a boot are believed, which come without their certificate.
    fn holds(certified: &Certified, second: &Statement) -> bool {
        let own = Speaker::new(1).stream(Speaker::OWN);
        let at = Place {
            stream: &own,
            sequence: 2,
        };
        matches!(certified.check(second, at), Signature::Holds(_))
    }

    /// Those heard longest ago make room, and are known again when they send it again.
    #[test]
    fn so_many_certificates_are_remembered() {
        let mut certified = Certified::default();
        let mut web = Speaker::new(1);
        let (with, without) = (web.statement(), web.statement());
        let own = web.stream(Speaker::OWN);
        certified.remember(&with, &own);
        assert!(holds(&certified, &without));
        for boot in 2..=BOOTS_MAX as u64 {
            let mut other = own.clone();
            other.boot = Ulid::from_parts(boot, 0);
            certified.remember(&with, &other);
        }
        assert_eq!(certified.boots.len(), BOOTS_MAX);
        assert!(holds(&certified, &without));
        let mut other = own.clone();
        other.boot = Ulid::from_parts(0, 7);
        certified.remember(&with, &other);
        assert!(certified.boots.len() < BOOTS_MAX);
        assert!(!holds(&certified, &without));
        certified.remember(&with, &own);
        assert!(holds(&certified, &without));
    }

    /// On both sides of the limit: boots with many certificates make room as many boots do.
    #[test]
    fn so_many_certificates_of_all_boots_are_remembered() {
        const EACH: usize = KNOWN_MAX + 1;
        let mut certified = Certified::default();
        let mut all = [(); EACH].map(|()| Speaker::new(1).statement());
        let own = Speaker::new(1).stream(Speaker::OWN);
        let of_boot = |boot: usize| StreamKey {
            boot: Ulid::from_parts(boot as u64, 0),
            ..own.clone()
        };
        let full = CERTIFICATES_MAX / EACH;
        for boot in 0..full {
            let (claimed, signed) = all.split_first().unwrap();
            certified.claim(claimed, &of_boot(boot));
            for statement in signed {
                certified.remember(statement, &of_boot(boot));
            }
        }
        let left = CERTIFICATES_MAX - full * EACH;
        assert!((1..KNOWN_MAX).contains(&left));
        for statement in &all[..left] {
            certified.remember(statement, &of_boot(full));
        }
        let counts = (certified.certificates, certified.boots.len());
        assert_eq!(counts, (CERTIFICATES_MAX, full + 1));
        // One that is known takes no room, and one more makes some.
        certified.remember(&all[0], &of_boot(full));
        assert_eq!(certified.certificates, CERTIFICATES_MAX);
        all.rotate_left(left);
        certified.remember(&all[0], &of_boot(full));
        let boots = full - FORGOTTEN;
        assert_eq!(certified.boots.len(), boots);
        assert_eq!(certified.certificates, (boots - 1) * EACH + left + 1);
    }

    /// One whose signature could not be checked stands beside the one that has signed, and is as
    /// that once it has signed itself.
    #[test]
    fn a_claimed_certificate_takes_the_place_of_none() {
        let mut certified = Certified::default();
        let (mut web, mut other) = (Speaker::new(1), Speaker::new(1));
        let own = web.stream(Speaker::OWN);
        let of_web = [(); 2].map(|()| web.statement());
        let of_other = [(); 2].map(|()| other.statement());
        assert!(certified.is_new(&of_web[0], &own));
        certified.remember(&of_web[0], &own);
        assert!(!certified.is_new(&of_web[0], &own));
        assert!(certified.is_new(&of_other[0], &own));
        certified.claim(&of_other[0], &own);
        assert!(certified.is_new(&of_other[0], &own));
        assert!(holds(&certified, &of_web[1]) && holds(&certified, &of_other[1]));
        certified.remember(&of_other[1], &own);
        assert!(!certified.is_new(&of_other[0], &own));
        assert!(holds(&certified, &of_other[1]) && holds(&certified, &of_web[1]));
        assert_eq!(certified.certificates, 2);
    }

    /// On both sides of the limit: the one that the reporter names stays, whatever others are
    /// signed with, and of these the one that was named longest ago makes room.
    #[test]
    fn so_many_certificates_of_a_boot_are_remembered() {
        let mut certified = Certified::default();
        let speak = |_| {
            let mut speaker = Speaker::new(1);
            [(); 2].map(|()| speaker.statement())
        };
        let web = speak(0);
        let others: Vec<_> = (1..=KNOWN_MAX).map(speak).collect();
        let own = Speaker::new(1).stream(Speaker::OWN);
        certified.remember(&web[0], &own);
        for other in &others[..KNOWN_MAX - 1] {
            certified.remember(&other[0], &own);
        }
        assert_eq!(certified.certificates, KNOWN_MAX);
        assert!(
            others[..KNOWN_MAX - 1]
                .iter()
                .all(|o| holds(&certified, &o[1]))
        );
        assert!(holds(&certified, &web[1]));
        // Heads without the certificate name it, too.
        assert!(!certified.is_new(&web[1], &own));
        certified.remember(&others[KNOWN_MAX - 1][0], &own);
        assert_eq!(certified.certificates, KNOWN_MAX);
        assert!(holds(&certified, &web[1]));
        assert!(!holds(&certified, &others[0][1]));
        assert!(others[1..].iter().all(|o| holds(&certified, &o[1])));
        // So many new ones in a row displace it, until it comes again.
        let more: Vec<_> = (0..KNOWN_MAX).map(speak).collect();
        for other in &more {
            certified.remember(&other[0], &own);
        }
        assert!(!holds(&certified, &web[1]));
        assert!(certified.is_new(&web[0], &own));
        certified.remember(&web[0], &own);
        assert!(holds(&certified, &web[1]));
    }
}
