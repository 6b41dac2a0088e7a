//! Checkpoints: what the log commits itself to (C2SP tlog-checkpoint).
//!
//! A signed note of origin, size and root. The time of signing travels in an
//! extension line, `time MICROSECONDS`, covered by the signature.

use std::io;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;

use crate::{
    merkle::Hash,
    note::{NoteError, Signer, Verifier},
    proof::decimal,
};

/// Origin line of the log of a trust domain.
pub fn origin(trust_domain: &str) -> String {
    format!("palisade/{trust_domain}")
}

/// The trust domain that an origin line names.
pub(crate) fn domain(origin: &str) -> Option<&str> {
    origin.strip_prefix("palisade/")
}

/// A commitment to the first `size` records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: `palisade/TRUST_DOMAIN`.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// When it was signed, on the audit clock.
    pub time: Timestamp,
    /// The signed note.
    pub note: String,
}

impl Checkpoint {
    /// Signs a checkpoint.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn sign(signer: &Signer, size: u64, root: Hash, time: Timestamp) -> io::Result<Self> {
        let unsigned = Self::unsigned(signer.verifier().name(), size, root, time);
        Ok(Self {
            note: signer.sign(&unsigned.note)?,
            ..unsigned
        })
    }

    /// One whose note is the text that is to be signed.
    pub(crate) fn unsigned(origin: &str, size: u64, root: Hash, time: Timestamp) -> Self {
        let text = format!(
            "{origin}\n{size}\n{}\ntime {}\n",
            BASE64.encode(root),
            time.as_microsecond()
        );
        Self {
            note: text,
            origin: origin.into(),
            size,
            root,
            time,
        }
    }

    /// Reads a checkpoint and checks its signature.
    ///
    /// # Errors
    /// [`NoteError`] when it is not one of the log that `verifier` names.
    pub fn open(verifier: &Verifier, note: &str) -> Result<Self, NoteError> {
        let text = verifier.open(note)?;
        let Head { origin, size, root } = Head::read(text)?;
        if origin != verifier.name() {
            return Err(NoteError::Malformed("origin is not the key's name"));
        }
        let time = text
            .lines()
            .skip(3)
            .find_map(|line| line.strip_prefix("time "))
            .and_then(|us| us.parse().ok())
            .and_then(|us| Timestamp::from_microsecond(us).ok())
            .ok_or(NoteError::Malformed("no time line"))?;
        Ok(Self {
            origin: origin.into(),
            size,
            root,
            time,
            note: note.into(),
        })
    }
}

/// What every log commits itself to in a checkpoint, whatever else it says there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) origin: &'a str,
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

impl<'a> Head<'a> {
    /// Reads the text of a checkpoint.
    pub(crate) fn read(text: &'a str) -> Result<Self, NoteError> {
        let mut lines = text.lines();
        let origin = lines.next().filter(|origin| !origin.is_empty());
        Ok(Self {
            origin: origin.ok_or(NoteError::Malformed("no origin"))?,
            size: lines
                .next()
                .and_then(decimal)
                .ok_or(NoteError::Malformed("size is not a decimal number"))?,
            root: lines
                .next()
                .and_then(|line| BASE64.decode(line).ok())
                .and_then(|root| root.try_into().ok())
                .ok_or(NoteError::Malformed("root is not base64 of 32 bytes"))?,
        })
    }
}

/// Splits a history of checkpoints, notes one after another, into its notes.
pub(crate) fn notes(history: &str) -> impl Iterator<Item = &str> {
    // A note is text, a blank line, and signature lines: it ends where a line
    // after a signature line is none.
    let mut rest = history;
    std::iter::from_fn(move || {
        let mut end = 0;
        let mut signed = false;
        for line in rest.split_inclusive('\n') {
            let signature = line.starts_with('\u{2014}');
            if signed && !signature {
                break;
            }
            signed |= signature;
            end += line.len();
        }
        let (note, after) = rest.split_at_checked(end)?;
        rest = after;
        (!note.is_empty()).then_some(note)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> (tempfile::TempDir, Signer) {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::load(&dir.path().join("key"), &origin("acme.test"), true).unwrap();
        (dir, signer)
    }

    #[test]
    fn a_checkpoint_reads_back_as_it_was_signed() {
        let (_dir, signer) = signer();
        let time = Timestamp::from_microsecond(1_763_650_000_123_456).unwrap();
        let signed = Checkpoint::sign(&signer, 7, [9; 32], time).unwrap();
        assert!(signed.note.starts_with("palisade/acme.test\n7\nCQkJ"));
        let read = Checkpoint::open(signer.verifier(), &signed.note).unwrap();
        assert_eq!(read, signed);
    }

    #[test]
    fn malformed_bodies_are_refused_though_they_are_signed() {
        let (_dir, signer) = signer();
        let root = BASE64.encode([0; 32]);
        for body in [
            format!("palisade/other.test\n1\n{root}\ntime 1\n"),
            format!("palisade/acme.test\n01\n{root}\ntime 1\n"),
            format!("palisade/acme.test\n+1\n{root}\ntime 1\n"),
            format!("palisade/acme.test\n-1\n{root}\ntime 1\n"),
            format!("palisade/acme.test\n18446744073709551616\n{root}\ntime 1\n"),
            "palisade/acme.test\n1\nAAAA\ntime 1\n".into(),
            format!("palisade/acme.test\n1\n{root}\n"),
            format!("palisade/acme.test\n1\n{root}\ntime x\n"),
            "palisade/acme.test\n".into(),
        ] {
            let opened = Checkpoint::open(signer.verifier(), &signer.sign(&body).unwrap());
            assert!(matches!(opened, Err(NoteError::Malformed(_))), "{body}");
        }
    }

    #[test]
    fn a_history_splits_into_its_notes() {
        let (_dir, signer) = signer();
        let all: Vec<String> = (0..3)
            .map(|size| {
                Checkpoint::sign(&signer, size, [1; 32], Timestamp::UNIX_EPOCH)
                    .unwrap()
                    .note
            })
            .collect();
        assert_eq!(notes(&all.concat()).collect::<Vec<_>>(), all);
        assert_eq!(notes("").count(), 0);
        assert_eq!(notes("torn\n1").count(), 1);
    }
}
