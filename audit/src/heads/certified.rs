//! The certificates that boots sign with, for whoever follows many of them.

use palisade_mesh::spiffe_id::SpiffeId;
use rustc_hash::FxHashMap;
use ulid::Ulid;

use super::{Place, Signature, Statement};
use crate::{merkle::sha256, stream::StreamKey};

/// Most boots whose certificate is remembered; those heard longest ago are forgotten, until
/// they send it again.
const BOOTS_MAX: usize = 16 * 1024;

/// How many are forgotten at once.
const FORGOTTEN: usize = BOOTS_MAX / 4;

/// Longest certificate that is remembered, in bytes.
pub(crate) const CERTIFICATE_LEN_MAX: usize = 4096;

/// Certificates by boot.
#[derive(Debug, Default)]
pub(crate) struct Certified {
    boots: FxHashMap<(SpiffeId, Ulid), Known>,
    /// Certificates that came so far.
    heard: u64,
}

#[derive(Debug)]
struct Known {
    leaf: Vec<u8>,
    heard: u64,
}

impl Certified {
    /// Remembers the certificate that comes with a statement in `stream`. Whether it is the
    /// one that has signed is looked at when something is made of it.
    pub(crate) fn remember(&mut self, statement: &Statement, stream: &StreamKey) {
        let sent = statement.certificate();
        if let Some(leaf) = sent.filter(|leaf| leaf.len() <= CERTIFICATE_LEN_MAX) {
            self.heard += 1;
            let known = Known {
                leaf: leaf.to_vec(),
                heard: self.heard,
            };
            let boot = (stream.reporter.clone(), stream.boot);
            self.boots.insert(boot, known);
            self.make_room();
        }
    }

    /// Checks who has signed a statement that came in the record `at`.
    pub(crate) fn check(&self, statement: &Statement, at: Place<'_>) -> Signature {
        statement.check(at, |digest| {
            let boot = (at.stream.reporter.clone(), at.stream.boot);
            let leaf = self.boots.get(&boot)?.leaf.as_slice();
            (sha256(leaf).as_slice() == digest).then_some(leaf)
        })
    }

    fn make_room(&mut self) {
        if self.boots.len() <= BOOTS_MAX {
            return;
        }
        let last = long_ago(self.boots.values().map(|known| known.heard), FORGOTTEN);
        self.boots.retain(|_, known| known.heard > last);
    }
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

    /// Those heard longest ago make room, and are known again when they send it again.
    #[test]
    fn so_many_certificates_are_remembered() {
        let mut certified = Certified::default();
        let mut web = Speaker::new(1);
        let (with, without) = (web.statement(), web.statement());
        let holds = |certified: &Certified, of: &StreamKey| {
            let at = Place {
                stream: of,
                sequence: 2,
            };
            matches!(certified.check(&without, at), Signature::Holds(_))
        };
        let own = web.stream(Speaker::OWN);
        certified.remember(&with, &own);
        assert!(holds(&certified, &own));
        for boot in 2..=BOOTS_MAX as u64 {
            let mut other = own.clone();
            other.boot = Ulid::from_parts(boot, 0);
            certified.remember(&with, &other);
        }
        assert_eq!(certified.boots.len(), BOOTS_MAX);
        assert!(holds(&certified, &own));
        let mut other = own.clone();
        other.boot = Ulid::from_parts(0, 7);
        certified.remember(&with, &other);
        assert!(certified.boots.len() < BOOTS_MAX);
        assert!(!holds(&certified, &own));
        certified.remember(&with, &own);
        assert!(holds(&certified, &own));
    }
}
