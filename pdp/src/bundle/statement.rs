//! What is signed about a bundle.
//!
//! A statement is a short text, so that it can be read, and checked with any tool that
//! knows Ed25519. Its first line says what it is for and in which version; no value in it
//! can hold a line break. So no statement can be taken for another.

use std::fmt;

use palisade_mesh::{
    snapshot::Digest,
    spiffe_id::TrustDomain,
    wire::policy::{Revision, Signature, Stamp, WayBack},
};

use super::key::{PublicKey, SigningKey};

/// Most signatures of one statement.
pub const SIGNATURES_MAX: usize = 64;

/// A statement about a bundle. Times are microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement<'a> {
    /// Whose policy it is.
    pub domain: &'a TrustDomain,
    /// Of the bundle.
    pub digest: Digest,
    /// What is said about it.
    pub says: Says,
}

/// What is said about a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// It is good content.
    Content,
    /// This was proved of it when it was built.
    Proved {
        /// Of the lines `INVARIANT SOLVER`, sorted.
        proofs: Digest,
    },
    /// It has a number, which only grows: a rollback is old content under a new one.
    Release {
        /// The number.
        sequence: u64,
        /// When it got it.
        issued_us: i64,
    },
    /// Under this number it was the newest at one time, and may be taken for that
    /// until another.
    Stamp {
        /// The number.
        sequence: u64,
        /// When it was the newest.
        issued_us: i64,
        /// Until when it may be taken for the newest.
        until_us: i64,
    },
    /// Under this number it may be taken back to one with a lower number, until a time.
    WayBack {
        /// The number.
        sequence: u64,
        /// Digest of the one that it may be taken back to.
        back: Digest,
        /// The number of that one.
        back_sequence: u64,
        /// Until when.
        until_us: i64,
    },
}

impl fmt::Display for Statement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.says {
            Says::Content => "content",
            Says::Proved { .. } => "proofs",
            Says::Release { .. } => "release",
            Says::Stamp { .. } => "stamp",
            Says::WayBack { .. } => "way-back",
        };
        writeln!(f, "palisade policy {kind} v1")?;
        writeln!(f, "trust-domain {}", self.domain)?;
        writeln!(f, "digest sha256:{}", self.digest)?;
        match self.says {
            Says::Content => Ok(()),
            Says::Proved { proofs } => writeln!(f, "proofs sha256:{proofs}"),
            Says::Release {
                sequence,
                issued_us,
            } => writeln!(f, "sequence {sequence}\nissued-us {issued_us}"),
            Says::Stamp {
                sequence,
                issued_us,
                until_us,
            } => writeln!(
                f,
                "sequence {sequence}\nissued-us {issued_us}\nuntil-us {until_us}"
            ),
            Says::WayBack {
                sequence,
                back,
                back_sequence,
                until_us,
            } => writeln!(
                f,
                "sequence {sequence}\nback-digest sha256:{back}\nback-sequence {back_sequence}\nuntil-us {until_us}"
            ),
        }
    }
}

impl Statement<'_> {
    /// Signs it.
    pub fn sign(&self, key: &SigningKey) -> Signature {
        key.sign(self.to_string().as_bytes())
    }

    /// The keys that signed it, each once.
    ///
    /// # Errors
    /// The key of a signature that is not one: somebody made it up, or changed what was
    /// signed.
    pub fn signers(&self, signatures: &[Signature]) -> Result<Vec<PublicKey>, Forged> {
        let text = self.to_string();
        let mut signers = Vec::new();
        for signature in signatures.iter().take(SIGNATURES_MAX) {
            let key = PublicKey::from_slice(&signature.key).ok_or(Forged(None))?;
            if !key.verifies(text.as_bytes(), &signature.signature) {
                return Err(Forged(Some(key)));
            }
            if !signers.contains(&key) {
                signers.push(key);
            }
        }
        Ok(signers)
    }
}

/// A signature does not verify; by whose key it claims to be, if by any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forged(pub Option<PublicKey>);

/// The statement that `revision` is content of `domain`.
pub fn content(domain: &TrustDomain, digest: Digest) -> Statement<'_> {
    Statement {
        domain,
        digest,
        says: Says::Content,
    }
}

/// The statement that `revision` has its number.
pub fn release<'a>(domain: &'a TrustDomain, digest: Digest, revision: &Revision) -> Statement<'a> {
    Statement {
        domain,
        digest,
        says: Says::Release {
            sequence: revision.sequence,
            issued_us: revision.issued_us,
        },
    }
}

/// The statement of a stamp on number `sequence`.
pub fn stamp<'a>(
    domain: &'a TrustDomain,
    digest: Digest,
    sequence: u64,
    stamp: &Stamp,
) -> Statement<'a> {
    Statement {
        domain,
        digest,
        says: Says::Stamp {
            sequence,
            issued_us: stamp.issued_us,
            until_us: stamp.until_us,
        },
    }
}

/// The statement that number `sequence` may be taken back; none where what it names is no
/// digest.
pub fn way_back<'a>(
    domain: &'a TrustDomain,
    digest: Digest,
    sequence: u64,
    back: &WayBack,
) -> Option<Statement<'a>> {
    Some(Statement {
        domain,
        digest,
        says: Says::WayBack {
            sequence,
            back: Digest::from_slice(&back.sha256)?,
            back_sequence: back.sequence,
            until_us: back.until_us,
        },
    })
}
