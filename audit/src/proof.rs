//! One record with the proof that it is in the log (C2SP tlog-proof).
//!
//! A text that needs nothing beside it but the record and the log's public key:
//! index, inclusion proof, checkpoint. What it says is checked without the log.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::{
    checkpoint::Checkpoint,
    envelope::LEAF_LEN_MAX,
    merkle::{self, Hash, ProofError},
    note::{NOTE_LEN_MAX, NoteError, Verifier},
};

/// First line of every proof.
const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Most hashes in a proof: the height of the tallest tree.
const HASHES_MAX: usize = 64;

/// Longest proof that is read, in bytes. Extra data, which nothing here makes, is
/// bounded by it.
pub const PROOF_LEN_MAX: usize = 2 * NOTE_LEN_MAX;

/// Longest record that is read, in bytes.
pub const RECORD_LEN_MAX: usize = LEAF_LEN_MAX;

/// That a record is in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Index of the record, from 0.
    pub index: u64,
    /// Hashes beside the way from the record up to the root.
    pub hashes: Vec<Hash>,
    /// The signed note of the checkpoint.
    pub checkpoint: String,
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofFault {
    /// The checkpoint is not one of the log that the key names.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] NoteError),
    /// The text is no proof.
    #[error("line {line}: {what}")]
    Malformed {
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The record is not the one that the log has there.
    #[error("record {index}: {cause}")]
    Record {
        /// Its index, as the proof says.
        index: u64,
        /// What the hashes say.
        cause: ProofError,
    },
}

impl Proof {
    /// Reads the text of a proof, and believes nothing of it yet.
    ///
    /// # Errors
    /// [`ProofFault::Malformed`] for anything that is no proof of version 1.
    pub fn parse(text: &str) -> Result<Self, ProofFault> {
        let bad = |line, what| ProofFault::Malformed { line, what };
        if text.len() > PROOF_LEN_MAX {
            return Err(bad(1, "the file is too long for a proof"));
        }
        // The checkpoint has blank lines of its own: the first one ends our part.
        let (head, checkpoint) = text
            .split_once("\n\n")
            .ok_or(bad(1, "no blank line before the checkpoint"))?;
        let mut lines = (1..).zip(head.split('\n')).peekable();
        if lines.next().is_none_or(|(_, line)| line != HEADER) {
            return Err(bad(1, "not `c2sp.org/tlog-proof@v1`"));
        }
        // Unauthenticated, so nothing here reads it.
        lines.next_if(|(_, line)| line.starts_with("extra "));
        let (number, line) = lines.next().ok_or(bad(2, "no index"))?;
        let index = line
            .strip_prefix("index ")
            .and_then(decimal)
            .ok_or(bad(number, "not `index` and a decimal number"))?;
        let mut hashes = Vec::new();
        for (number, line) in lines {
            let hash = BASE64
                .decode(line)
                .ok()
                .and_then(|hash| hash.try_into().ok());
            hashes.push(hash.ok_or(bad(number, "not base64 of 32 bytes"))?);
            if hashes.len() > HASHES_MAX {
                return Err(bad(number, "more hashes than any tree is high"));
            }
        }
        Ok(Self {
            index,
            hashes,
            checkpoint: checkpoint.into(),
        })
    }

    /// Checks that `record`, an encoded `Envelope`, is in the log of `key`; gives
    /// the checkpoint that it is under.
    ///
    /// # Errors
    /// [`ProofFault`] when the checkpoint is not signed by `key`, or the record is
    /// not the one under it.
    pub fn verify(&self, record: &[u8], key: &Verifier) -> Result<Checkpoint, ProofFault> {
        let checkpoint = Checkpoint::open(key, &self.checkpoint)?;
        let leaf = merkle::leaf(record);
        let (index, size) = (self.index, checkpoint.size);
        merkle::verify_inclusion(&leaf, index, size, &self.hashes, &checkpoint.root)
            .map_err(|cause| ProofFault::Record { index, cause })?;
        Ok(checkpoint)
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\nindex {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", BASE64.encode(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

/// A decimal number without leading zeros, as C2SP writes sizes and indices.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        log::Log,
        testing::{encoded, open_log, reporter},
    };

    /// A log with some records, all under its checkpoint.
    fn log(dir: &tempfile::TempDir) -> Log {
        let log = open_log(dir);
        let stream = std::sync::Arc::new(crate::stream::StreamKey {
            reporter: reporter(),
            boot: ulid::Ulid::from_parts(7, 7),
            worker: 0,
        });
        let batch = (1..=300).map(|sequence| crate::log::Pending {
            stream: stream.clone(),
            sequence,
            record: encoded(sequence),
        });
        let mut receipt = log.append(batch.collect());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(receipt.checkpointed()).unwrap();
        log
    }

    fn proof(log: &Log, index: u64) -> Proof {
        let (checkpoint, hashes) = log.prove(index).unwrap();
        Proof {
            index,
            hashes,
            checkpoint: checkpoint.note,
        }
    }

    #[test]
    fn the_text_of_a_proof_proves_its_record_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir);
        for index in [0, 1, 255, 256, 300] {
            let text = proof(&log, index).to_string();
            let read = Proof::parse(&text).unwrap();
            assert_eq!(read, proof(&log, index));
            let leaf = log.leaf(index).unwrap();
            let under = read.verify(&leaf, log.verifier()).unwrap();
            assert!(under.size > index);
            let other = log.leaf((index + 1) % 301).unwrap();
            let refused = read.verify(&other, log.verifier());
            assert!(matches!(refused, Err(ProofFault::Record { .. })));
        }
    }

    #[test]
    fn another_log_s_key_proves_nothing() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (log, other) = (log(&dir), open_log(&other));
        let leaf = log.leaf(5).unwrap();
        let refused = proof(&log, 5).verify(&leaf, other.verifier());
        assert!(
            matches!(refused, Err(ProofFault::Checkpoint(_))),
            "{refused:?}"
        );
    }

    #[test]
    fn what_is_no_proof_is_refused_with_its_line() {
        let check = |text: &str, line| {
            let refused = Proof::parse(text);
            assert!(
                matches!(refused, Err(ProofFault::Malformed { line: l, .. }) if l == line),
                "{text}: {refused:?}"
            );
        };
        let hash = BASE64.encode([1; 32]);
        check("", 1);
        check("c2sp.org/tlog-proof@v2\nindex 1\n\nx\n", 1);
        check("c2sp.org/tlog-proof@v1\n\nx\n", 2);
        check("c2sp.org/tlog-proof@v1\nindex 01\n\nx\n", 2);
        check("c2sp.org/tlog-proof@v1\nindex +1\n\nx\n", 2);
        check("c2sp.org/tlog-proof@v1\nextra eA==\nindex -1\n\nx\n", 3);
        check(
            &format!("c2sp.org/tlog-proof@v1\nindex 1\n{hash}\nAAAA\n\nx\n"),
            4,
        );
        let many = format!("{hash}\n").repeat(65);
        check(&format!("c2sp.org/tlog-proof@v1\nindex 1\n{many}\nx\n"), 67);
        let extra = format!("c2sp.org/tlog-proof@v1\nextra eA==\nindex 1\n{hash}\n\nnote\n");
        assert_eq!(Proof::parse(&extra).unwrap().checkpoint, "note\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// No single flipped bit of record or proof is believed.
        #[test]
        fn a_changed_bit_is_refused(at in any::<prop::sample::Index>(), bit in 0..8u8, record in any::<bool>()) {
            let dir = tempfile::tempdir().unwrap();
            let log = log(&dir);
            let mut leaf = log.leaf(77).unwrap().to_vec();
            let mut text = proof(&log, 77).to_string().into_bytes();
            let changed = if record { &mut leaf } else { &mut text };
            let at = at.index(changed.len());
            changed[at] ^= 1 << bit;
            let Ok(text) = String::from_utf8(text) else { return Ok(()) };
            let verified = Proof::parse(&text).and_then(|p| p.verify(&leaf, log.verifier()));
            prop_assert!(verified.is_err(), "byte {at} of {}", if record { "record" } else { &text });
        }
    }
}
