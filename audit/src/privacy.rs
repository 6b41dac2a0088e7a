//! What is personal in records, and what becomes of it.
//!
//! A reporter takes it out of a record before anything is hashed ([`Rules`]). What is
//! masked is gone. Of the rest the record keeps a commitment, and the value goes beside it
//! to the log, which seals it under a key of that person and writes nothing else
//! ([`Vault`]). Heads that a reporter signs, leaves and proofs are about the record with
//! the commitment: when the key is destroyed, all of them hold as before.

use std::{fmt, str::FromStr};

use palisade_mesh::wire::record::Record;

mod commitment;
mod cover;
mod joined;
mod rules;
mod table;
mod vault;

pub(crate) use joined::Joined;
pub use palisade_mesh::{
    personal::{Personal, UnknownField},
    wire::record::cover::Handling,
};
pub use rules::Rules;
pub use vault::{Fate, Keeping, Known, Revealed, SUBJECTS_MAX, Vault, VaultError};

/// Most values of a record that are kept for the log; what is beyond is masked.
pub const VALUES_MAX: usize = 12;

/// Most values of one list that are kept for the log: whoever sends a request chooses how
/// long its lists are, and must not crowd out what else is to be kept.
pub const LIST_VALUES_MAX: usize = 4;

/// What pseudonyms begin with, so that no name is taken for one.
pub const MARK: &str = "p-";

/// Bytes of a pseudonym.
pub const PSEUDONYM_LEN: usize = 16;

/// What stands for a person in the log: without the key of the log nobody can tell whom
/// it means, and with it only whoever knows the name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pseudonym(pub [u8; PSEUDONYM_LEN]);

impl Pseudonym {
    /// Of the bytes of a sealed value.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARK)?;
        f.write_str(&crate::merkle::hex(&self.0))
    }
}

impl fmt::Debug for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pseudonym {
    type Err = ();

    /// Reads `p-` and 32 hex digits, lower case.
    fn from_str(text: &str) -> Result<Self, ()> {
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let text = text.strip_prefix(MARK).ok_or(())?;
        let whole = text.len() == 2 * PSEUDONYM_LEN && text.bytes().all(lower);
        let number = whole.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        number.map(|n| Self(n.to_be_bytes())).ok_or(())
    }
}

/// Checks that what goes beside a record is what its covers promise.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn check(record: &Record) -> Result<(), &'static str> {
    let promised = record.covers.iter().filter(|c| !c.commitment.is_empty());
    let mut disclosed = record.disclosures.iter();
    for cover in promised {
        let kept = matches!(cover.handling(), Handling::Pseudonym | Handling::Sealed);
        let Some(disclosure) = disclosed.next().filter(|_| kept) else {
            return Err("a cover has no value");
        };
        if !commitment::opens(cover, disclosure) {
            return Err("a value is not the one that its cover commits to");
        }
    }
    match disclosed.next() {
        Some(_) => Err("a value has no cover"),
        None if record.disclosures.len() > VALUES_MAX => Err("it has too many covered values"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
