//! Who signs for a start of a reporter, as far as that was heard.

use super::vouched::{Standing, Vouched};
use crate::{
    heads::{CERTIFICATES_EVERY, Place, Roots, Signature, Signer, Statement},
    merkle::{Hash, sha256},
};

/// The certificate of a start.
#[derive(Debug, Default)]
pub(super) struct Signatory {
    /// The one that it signed with last, leaf first; empty before the first.
    chain: Vec<Vec<u8>>,
    /// The digest of its leaf, once the mesh stood for it.
    vouched: Option<Hash>,
    /// One came, be it one that was refused.
    known: bool,
    /// Heads in a row whose certificate is not known.
    unknown: u32,
    /// Whether the certificate can have come with a record that is not here.
    excused: bool,
}

impl Signatory {
    /// Whether a certificate of the start is known.
    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    /// Judges heads of it that came in the record `at`; `whole` says that nothing is missing
    /// before that. A certificate that is not known is excused where one can be missing, until
    /// it must have been sent again.
    pub(super) fn judge(
        &mut self,
        statement: &Statement,
        at: Place<'_>,
        whole: bool,
        vouched: &Vouched,
    ) -> Signature {
        let found = self.check(statement, at, vouched);
        match found {
            Signature::Holds(_) => (self.unknown, self.excused) = (0, false),
            Signature::Unknown => {
                self.unknown = self.unknown.saturating_add(1);
                self.excused |= !whole;
                if !self.excused || self.unknown > CERTIFICATES_EVERY {
                    return Signature::Wrong("the certificate that it names was never sent");
                }
            }
            Signature::Wrong(_) => {}
        }
        found
    }

    /// Who has signed heads of it that came in the record `at`, by what is known.
    pub(super) fn check(
        &self,
        statement: &Statement,
        at: Place<'_>,
        vouched: &Vouched,
    ) -> Signature {
        statement.check(at, |digest| {
            let own = self.chain.first().map(Vec::as_slice);
            own.filter(|leaf| sha256(leaf).as_slice() == digest)
                .or_else(|| vouched.leaf(digest))
        })
    }

    /// Whether it signs with this certificate already, as far as `roots` were asked.
    pub(super) fn signs_with(&self, certificate: &Hash, roots: Option<&dyn Roots>) -> bool {
        self.vouched == Some(*certificate) || roots.is_none() && self.is_own(certificate)
    }

    fn is_own(&self, certificate: &Hash) -> bool {
        let own = self.chain.first();
        own.is_some_and(|leaf| sha256(leaf) == *certificate)
    }

    /// Asks whether the mesh stands for the certificate of heads whose signature holds; one for
    /// which it does is the start's from then on.
    pub(super) fn stands(
        &mut self,
        signer: &Signer,
        statement: &Statement,
        (roots, now_s): (Option<&dyn Roots>, i64),
        vouched: &mut Vouched,
    ) -> Standing {
        if self.vouched == Some(signer.certificate) {
            return Standing::Good;
        }
        let mut chain = match statement.certificates() {
            // What came before this start of ours was not held against anything.
            [] if self.is_own(&signer.certificate) => self.chain.clone(),
            sent => sent.to_vec(),
        };
        let standing = vouched.stands(signer, &chain, roots, now_s);
        self.known |= standing != Standing::Open;
        if standing == Standing::Good {
            if chain.is_empty() {
                chain.extend(vouched.leaf(&signer.certificate).map(<[u8]>::to_vec));
            }
            self.chain = chain;
            self.vouched = roots.map(|_| signer.certificate);
        }
        standing
    }
}
