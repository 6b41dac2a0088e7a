//! The body of an `add-checkpoint` request.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::{merkle::Hash, note::NOTE_LEN_MAX, proof::decimal};

/// Most lines of a consistency proof (C2SP tlog-witness).
const PROOF_MAX: usize = 63;

/// Longest request, in bytes.
pub const REQUEST_LEN_MAX: usize = NOTE_LEN_MAX + 4096;

/// A checkpoint on its way to a witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// Size that the witness has cosigned last.
    pub old: u64,
    /// That the tree of that size is a prefix of the checkpoint's.
    pub proof: Vec<Hash>,
    /// The signed note.
    pub checkpoint: String,
}

impl AddCheckpoint {
    /// Reads a request.
    pub(crate) fn parse(body: &str) -> Result<Self, &'static str> {
        if body.len() > REQUEST_LEN_MAX {
            return Err("the request is too long");
        }
        let (head, checkpoint) = body
            .split_once("\n\n")
            .ok_or("no blank line before the checkpoint")?;
        let mut lines = head.split('\n');
        let old = lines
            .next()
            .and_then(|line| line.strip_prefix("old "))
            .and_then(decimal)
            .ok_or("the first line is not `old` and a decimal number")?;
        let mut proof = Vec::new();
        for line in lines {
            let hash = BASE64
                .decode(line)
                .ok()
                .and_then(|hash| hash.try_into().ok());
            proof.push(hash.ok_or("a line of the proof is not base64 of 32 bytes")?);
            if proof.len() > PROOF_MAX {
                return Err("more than 63 lines of proof");
            }
        }
        Ok(Self {
            old,
            proof,
            checkpoint: checkpoint.into(),
        })
    }
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        for hash in &self.proof {
            writeln!(f, "{}", BASE64.encode(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_request_reads_back_and_no_text_panics(
            old in any::<u64>(), hashes in 0..63_usize, text in "\\PC*(\n\n)?\\PC*",
        ) {
            let request = AddCheckpoint {
                old,
                proof: vec![[7; 32]; hashes],
                checkpoint: "a log\n1\nAAAA\n\n\u{2014} a b\n".into(),
            };
            prop_assert_eq!(AddCheckpoint::parse(&request.to_string()), Ok(request));
            let _ = AddCheckpoint::parse(&text);
            let _ = AddCheckpoint::parse(&format!("old 1\n{text}"));
        }
    }
}
