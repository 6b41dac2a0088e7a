//! What a log signs beside its checkpoints: that it made an evidence package, that a review
//! was signed off before it.
//!
//! A signed note like a checkpoint and under the same key, so its first line is one that no
//! checkpoint can have: the origin of a log has no blank in it. Then the log, what kind of
//! statement it is, and one line for each fact.

use std::io;

use crate::note::{NoteError, Signer, Verifier};

/// First line of every statement.
const HEADER: &str = "palisade statement v1";

/// Longest value of a fact, in bytes.
pub const VALUE_LEN_MAX: usize = 1024;

/// Most facts of a statement.
pub const FACTS_MAX: usize = 16;

/// What a statement is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// An evidence package.
    Evidence,
    /// The sign-off of an access review.
    Review,
}

/// What a log says, signed or to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    subject: Subject,
    facts: Vec<(String, String)>,
}

/// Why something cannot be stated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// A value would look like another line, or is too long.
    #[error("`{0}` is empty, longer than {VALUE_LEN_MAX} bytes or has a control character in it")]
    Value(&'static str),
    /// There are too many facts.
    #[error("a statement has at most {FACTS_MAX} facts")]
    TooMany,
}

impl Subject {
    fn word(self) -> &'static str {
        match self {
            Self::Evidence => "evidence",
            Self::Review => "review",
        }
    }
}

impl Statement {
    /// One without facts.
    pub fn new(subject: Subject) -> Self {
        Self {
            subject,
            facts: Vec::new(),
        }
    }

    /// With one more fact.
    ///
    /// # Errors
    /// [`StatementError`] for a value that is no single line of at most
    /// [`VALUE_LEN_MAX`] bytes, and beyond [`FACTS_MAX`] facts.
    pub fn with(mut self, name: &'static str, value: &str) -> Result<Self, StatementError> {
        if value.is_empty() || value.len() > VALUE_LEN_MAX || value.chars().any(breaks) {
            return Err(StatementError::Value(name));
        }
        if self.facts.len() >= FACTS_MAX {
            return Err(StatementError::TooMany);
        }
        self.facts.push((name.to_owned(), value.to_owned()));
        Ok(self)
    }

    /// The value of a fact.
    pub fn fact(&self, name: &str) -> Option<&str> {
        let fact = self.facts.iter().find(|(known, _)| known == name);
        fact.map(|(_, value)| value.as_str())
    }

    /// The signed note.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub(crate) fn sign(&self, signer: &Signer) -> io::Result<String> {
        signer.sign(&self.text(signer.verifier().name()))
    }

    /// Reads a statement about `subject` that the log of `key` has signed.
    ///
    /// # Errors
    /// [`NoteError`] when it is none, or about something else.
    pub fn open(subject: Subject, key: &Verifier, note: &str) -> Result<Self, NoteError> {
        let text = key.open(note)?;
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(NoteError::Malformed("not a statement of a log"));
        }
        if lines.next() != Some(key.name()) {
            return Err(NoteError::Malformed("the log is not the key's name"));
        }
        if lines.next() != Some(subject.word()) {
            return Err(NoteError::Malformed("a statement about something else"));
        }
        let fact = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_owned(), value.to_owned()))
        };
        let facts: Option<Vec<_>> = lines.map(fact).collect();
        Ok(Self {
            subject,
            facts: facts.ok_or(NoteError::Malformed("a line is no fact"))?,
        })
    }

    fn text(&self, log: &str) -> String {
        let mut text = format!("{HEADER}\n{log}\n{}\n", self.subject.word());
        for (name, value) in &self.facts {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text
    }
}

/// Whether a character begins another line for somebody who reads, or hides what is there.
fn breaks(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, origin};

    fn signer() -> (tempfile::TempDir, Signer) {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::load(&dir.path().join("key"), &origin("acme.test"), true).unwrap();
        (dir, signer)
    }

    #[test]
    fn a_statement_reads_back_and_is_neither_of_another_subject_nor_a_checkpoint() {
        let (_dir, signer) = signer();
        let said = Statement::new(Subject::Review)
            .with("by", "Ben: of audit")
            .unwrap();
        let note = said.sign(&signer).unwrap();
        let key = signer.verifier();
        let read = Statement::open(Subject::Review, key, &note).unwrap();
        assert_eq!(read, said);
        assert_eq!(read.fact("by"), Some("Ben: of audit"));
        assert!(Statement::open(Subject::Evidence, key, &note).is_err());
        assert!(Checkpoint::open(key, &note).is_err());
        let root = [0; 32];
        let checkpoint = Checkpoint::sign(&signer, 1, root, jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert!(Statement::open(Subject::Review, key, &checkpoint.note).is_err());
        let changed = note.replace("Ben", "Eve");
        assert!(matches!(
            Statement::open(Subject::Review, key, &changed),
            Err(NoteError::Forged(_))
        ));
    }

    #[test]
    fn a_value_is_one_line_of_bounded_length() {
        let with = |value: &str| Statement::new(Subject::Review).with("by", value);
        assert!(with(&"x".repeat(VALUE_LEN_MAX)).is_ok());
        for bad in ["", "a\nsha256: 00", "a\rb", "a\u{1b}[1m", "a\u{2028}b"] {
            assert_eq!(with(bad), Err(StatementError::Value("by")), "{bad:?}");
        }
        assert!(with(&"x".repeat(VALUE_LEN_MAX + 1)).is_err());
        let mut full = Statement::new(Subject::Review);
        for _ in 0..FACTS_MAX {
            full = full.with("by", "x").unwrap();
        }
        assert_eq!(full.with("by", "x"), Err(StatementError::TooMany));
    }
}
