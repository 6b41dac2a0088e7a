//! Cosignatures of witnesses (C2SP tlog-cosignature), Ed25519.
//!
//! A witness signs a checkpoint together with the time at which it was the largest
//! that the witness had seen of that log, and consistent with all before.

use std::{fmt, io, path::Path};

use crate::note::{self, COSIGNATURE_TYPE, NoteError, Signer, Verifier};

/// Bytes of a cosignature behind its key id: a time and an Ed25519 signature.
const LEN: usize = 8 + 64;

/// Cosigns checkpoints.
pub struct Cosigner(Signer);

/// Checks cosignatures of one witness; its text form is `NAME+HASH+KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CosignerKey(Verifier);

impl Cosigner {
    /// Loads the key at `path`, 32 bytes of seed; with `create`, makes it when absent.
    /// It must be no other signer's: a cosignature does not say whose it is.
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` for a file that holds no key.
    pub fn load(path: &Path, name: &str, create: bool) -> io::Result<Self> {
        Signer::load_as(COSIGNATURE_TYPE, path, name, create).map(Self)
    }

    /// The public half.
    pub fn key(&self) -> CosignerKey {
        CosignerKey(self.0.verifier().clone())
    }

    /// A signature line over the text of a checkpoint, at `time_s` seconds since the
    /// Unix epoch.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub(crate) fn cosign(&self, text: &str, time_s: u64) -> io::Result<String> {
        self.0.line(&time_s.to_be_bytes(), &message(text, time_s))
    }
}

impl fmt::Debug for Cosigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cosigner").field(&self.key()).finish()
    }
}

impl CosignerKey {
    /// Reads `NAME+HASH+KEY`.
    ///
    /// # Errors
    /// [`NoteError::Key`] for anything else, or a key of another kind.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        Verifier::parse_as(COSIGNATURE_TYPE, text).map(Self)
    }

    /// Name of the witness.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// When this witness cosigned `note`, in seconds since the Unix epoch; `None` when
    /// it did not.
    ///
    /// # Errors
    /// [`NoteError`] when it is no note, or a cosignature that claims to be of this
    /// witness is not.
    pub fn time_on(&self, note: &str) -> Result<Option<u64>, NoteError> {
        let (text, lines) = note::parts(note)?;
        let Some(line) = lines.iter().find(|line| self.0.is_of(line)) else {
            return Ok(None);
        };
        let forged = || NoteError::Forged(self.name().into());
        let (time, signature) = line.signature.split_first_chunk().ok_or_else(forged)?;
        if line.signature.len() != LEN {
            return Err(forged());
        }
        let time_s = u64::from_be_bytes(*time);
        self.0.check(&message(text, time_s), signature)?;
        Ok(Some(time_s))
    }

    /// The line of `answer` that this witness signed over the text of `checkpoint`, a
    /// signed note.
    ///
    /// # Errors
    /// As [`CosignerKey::time_on`]; [`NoteError::Unsigned`] when there is none.
    pub fn line_of(&self, checkpoint: &str, answer: &str) -> Result<String, NoteError> {
        let (text, _) = note::parts(checkpoint)?;
        let ours = format!("\u{2014} {} ", self.name());
        let mut refused = NoteError::Unsigned(self.name().into());
        for line in answer.lines().filter(|line| line.starts_with(&ours)) {
            match self.time_on(&format!("{text}\n{line}\n")) {
                Ok(Some(_)) => return Ok(format!("{line}\n")),
                Ok(None) => {}
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}

impl fmt::Display for CosignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is signed.
fn message(text: &str, time_s: u64) -> String {
    format!("cosignature/v1\ntime {time_s}\n{text}")
}

/// Names and times, in seconds since the Unix epoch, of what claims to be cosignatures on
/// a note. Without the keys of the witnesses nothing of it is proven.
#[cfg(feature = "index")]
pub(crate) fn said(note: &str) -> Vec<(String, u64)> {
    let lines = note::parts(note)
        .map(|(_, lines)| lines)
        .unwrap_or_default();
    let cosignatures = lines.iter().filter(|line| line.signature.len() == LEN);
    let said = cosignatures.filter_map(|line| {
        let time = line.signature.first_chunk::<8>()?;
        Some((line.name.to_owned(), u64::from_be_bytes(*time)))
    });
    said.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosigner(name: &str) -> (tempfile::TempDir, Cosigner) {
        let dir = tempfile::tempdir().unwrap();
        let cosigner = Cosigner::load(&dir.path().join("key"), name, true).unwrap();
        (dir, cosigner)
    }

    fn checkpoint() -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::load(&dir.path().join("key"), "palisade/acme.test", true).unwrap();
        let note = signer.sign("palisade/acme.test\n7\nAAAA\n").unwrap();
        (dir, note)
    }

    #[test]
    fn a_cosigned_note_tells_when_and_by_whom() {
        let ((_a, witness), (_b, other)) = (cosigner("b.test/witness"), cosigner("c.test/witness"));
        let (_c, note) = checkpoint();
        let text = "palisade/acme.test\n7\nAAAA\n";
        let answer = other.cosign(text, 5).unwrap() + &witness.cosign(text, 1_763_650_000).unwrap();
        let key = CosignerKey::parse(&witness.key().to_string()).unwrap();
        let ours = key.line_of(&note, &answer).unwrap();
        assert_eq!(ours.lines().count(), 1);
        assert_eq!(
            key.time_on(&format!("{note}{ours}")),
            Ok(Some(1_763_650_000))
        );
        assert_eq!(key.time_on(&note), Ok(None));
        let strange = key.line_of(&note, &other.cosign(text, 5).unwrap());
        assert!(matches!(strange, Err(NoteError::Unsigned(_))));
    }

    /// An answer cannot move where the text ends, nor have more kept than was signed.
    #[test]
    fn an_answer_is_read_line_by_line() {
        let (_a, witness) = cosigner("b.test/witness");
        let (_b, note) = checkpoint();
        let text = "palisade/acme.test\n7\nAAAA\n";
        let good = witness.cosign(text, 5).unwrap();
        let key = witness.key();
        let planted = format!("{good}\u{2014} b.test/witness AAAAAAAA\n");
        assert_eq!(key.line_of(&note, &planted), Ok(good.clone()));
        let moved = format!("\n{}", witness.cosign(&format!("{note}\n"), 5).unwrap());
        let refused = key.line_of(&note, &moved);
        assert!(matches!(refused, Err(NoteError::Forged(_))), "{refused:?}");
    }

    #[test]
    fn another_text_or_time_is_forged() {
        let (_a, witness) = cosigner("b.test/witness");
        let (_b, note) = checkpoint();
        let forged = witness.cosign("palisade/acme.test\n8\nAAAA\n", 5).unwrap();
        let key = witness.key();
        let refused = key.line_of(&note, &forged);
        assert!(matches!(refused, Err(NoteError::Forged(_))), "{refused:?}");
        // A key of a log is none of a witness, and the other way round.
        assert!(Verifier::parse(&key.to_string()).is_err());
    }
}
