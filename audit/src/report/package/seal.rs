//! What is signed of a package: the sums of its files, by the log, and its checkpoint, by
//! witnesses too.

use std::collections::BTreeMap;

use palisade_mesh::diagnostic::Diagnostic;

use super::{
    ABOUT, ATTACHED, CHECKPOINT, CONSISTENCY, COSIGNED, KEY, NOTE, REPORT, SUMS,
    archive::{Files, Gate, PACKAGE_BYTES_MAX},
    is_bundle,
    refusals::{changed, missing, not_signed},
    text,
};
use crate::{
    checkpoint::Checkpoint,
    log::Log,
    merkle::{hex, sha256, verify_consistency},
    note::Verifier,
    report::Report,
    statement::{Statement, StatementError, Subject},
};

/// Longest report in a package, in bytes.
const REPORT_LEN_MAX: u64 = 64 << 20;
/// Longest file of sums, notes, keys and words, in bytes.
const SMALL_LEN_MAX: u64 = 1 << 20;

/// The signature over the sums, and these over every other file: looked at as they come,
/// before whatever is large.
pub(super) struct Seal<'k> {
    key: &'k Verifier,
    /// What came before the sums were known to be signed.
    early: Files,
    signed: Option<Signed>,
}

/// Sums that are signed.
struct Signed {
    statement: Statement,
    /// Of files that have not come yet.
    sums: BTreeMap<String, String>,
}

impl<'k> Seal<'k> {
    pub(super) fn new(key: &'k Verifier) -> Self {
        Self {
            key,
            early: Files::new(),
            signed: None,
        }
    }

    /// Reads the sums, if they are what was signed, and looks at what came before.
    fn open(&self) -> Result<Signed, Diagnostic> {
        let sums = text(&self.early, SUMS)?;
        let note = text(&self.early, NOTE)?;
        let statement = Statement::open(Subject::Evidence, self.key, note)
            .map_err(|e| not_signed(NOTE, &e.to_string()))?;
        if statement.fact("sha256sums") != Some(hex(&sha256(sums.as_bytes())).as_str()) {
            return Err(changed(SUMS, "it is not what was signed"));
        }
        let line = |line: &str| {
            let (sum, name) = line.split_once("  ")?;
            Some((name.to_owned(), sum.to_owned()))
        };
        let sums: Option<BTreeMap<_, _>> = sums.lines().map(line).collect();
        let mut signed = Signed {
            statement,
            sums: sums.ok_or_else(|| changed(SUMS, "a line is no sum and name"))?,
        };
        let early = self.early.iter();
        for (name, content) in early.filter(|(name, _)| *name != SUMS && *name != NOTE) {
            signed.speaks_for(name, content)?;
        }
        Ok(signed)
    }

    /// What was signed, once every file has come.
    pub(super) fn whole(mut self) -> Result<Statement, Diagnostic> {
        let signed = match self.signed.take() {
            Some(signed) => signed,
            None => self.open()?,
        };
        match signed.sums.keys().next() {
            Some(name) => Err(missing(name)),
            None => Ok(signed.statement),
        }
    }
}

impl Gate for Seal<'_> {
    fn room(&self, name: &str) -> u64 {
        match name {
            REPORT => REPORT_LEN_MAX,
            SUMS | NOTE | CHECKPOINT | KEY | COSIGNED | CONSISTENCY | ABOUT => SMALL_LEN_MAX,
            // Before the signature nothing else is due.
            _ if name < NOTE => 0,
            _ => PACKAGE_BYTES_MAX,
        }
    }

    fn pass(&mut self, name: &str, content: &[u8]) -> Result<(), Diagnostic> {
        if name <= NOTE {
            self.early.insert(name.to_owned(), content.to_vec());
        }
        if name < NOTE {
            return Ok(());
        }
        let mut signed = match self.signed.take() {
            Some(signed) => signed,
            None => self.open()?,
        };
        if name > NOTE {
            signed.speaks_for(name, content)?;
        }
        self.signed = Some(signed);
        Ok(())
    }
}

impl Signed {
    /// Whether a file is what the sums say that it is.
    fn speaks_for(&mut self, name: &str, content: &[u8]) -> Result<(), Diagnostic> {
        match self.sums.remove(name) {
            Some(sum) if sum == hex(&sha256(content)) => {}
            Some(_) => return Err(changed(name, "its sum is not the one that was signed")),
            None => return Err(changed(name, "no sum speaks for it: it was added")),
        }
        match name.starts_with(ATTACHED) && !is_bundle(name, content) {
            true => Err(changed(name, "it is not named by its SHA-256")),
            false => Ok(()),
        }
    }
}

/// As `sha256sum` writes and reads them.
pub(super) fn sums(files: &Files) -> String {
    let sum = |(name, content): (&String, &Vec<u8>)| format!("{}  {name}\n", hex(&sha256(content)));
    files.iter().map(sum).collect()
}

/// What a statement says of a report.
fn said_of(report: &Report) -> [(&'static str, String); 4] {
    let header = &report.header;
    [
        ("report", report.name.clone()),
        ("from", header.from.clone()),
        ("to", header.to.clone()),
        ("checkpoint", header.checkpoint.size.to_string()),
    ]
}

pub(super) fn statement(
    report: &Report,
    sums: &str,
    now: jiff::Timestamp,
) -> Result<Statement, StatementError> {
    let mut said = Statement::new(Subject::Evidence);
    for (name, fact) in said_of(report) {
        said = said.with(name, &fact)?;
    }
    said.with("sha256sums", &hex(&sha256(sums.as_bytes())))?
        .with("time", &now.to_string())
}

/// Whether what the log signed is about this report.
pub(super) fn speaks_of(said: &Statement, report: &Report) -> Result<(), Diagnostic> {
    let other = said_of(report)
        .into_iter()
        .find(|(name, of_report)| said.fact(name) != Some(of_report.as_str()));
    match other {
        Some((name, _)) => Err(changed(
            NOTE,
            &format!("the log signed it for another report: `{name}` is not that of `{REPORT}`"),
        )),
        None => Ok(()),
    }
}

/// What witnesses cosigned, and that it and the checkpoint are of one log.
pub(super) fn witnessed(log: &Log, checkpoint: &Checkpoint) -> Vec<(String, Vec<u8>)> {
    let Some(cosigned) = log.cosigned() else {
        return Vec::new();
    };
    let (first, size) = ordered(checkpoint, &cosigned);
    let Ok(proof) = log.prove_prefix_of(first.size, size.size) else {
        return Vec::new();
    };
    let lines: String = proof
        .iter()
        .map(|hash| format!("{}\n", hex(hash)))
        .collect();
    vec![
        (COSIGNED.into(), cosigned.note.into_bytes()),
        (CONSISTENCY.into(), lines.into_bytes()),
    ]
}

/// Whether what witnesses cosigned is of the same log.
pub(super) fn cosigned(
    files: &Files,
    checkpoint: &Checkpoint,
    key: &Verifier,
) -> Result<(), Diagnostic> {
    if !files.contains_key(COSIGNED) {
        return Ok(());
    }
    let theirs = Checkpoint::open(key, text(files, COSIGNED)?)
        .map_err(|e| not_signed(COSIGNED, &e.to_string()))?;
    let unhex = |line: &str| -> Option<[u8; 32]> {
        let mut hash = [0; 32];
        if line.len() != 64 || !line.is_ascii() {
            return None;
        }
        for (i, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(line.get(2 * i..2 * i + 2)?, 16).ok()?;
        }
        Some(hash)
    };
    let proof: Option<Vec<_>> = text(files, CONSISTENCY)?.lines().map(unhex).collect();
    let proof = proof.ok_or_else(|| changed(CONSISTENCY, "a line is no hash"))?;
    let (first, second) = ordered(checkpoint, &theirs);
    verify_consistency(first.size, &first.root, second.size, &second.root, &proof)
        .map_err(|e| changed(COSIGNED, &format!("it is of another history: {e}")))
}

fn ordered<'c>(a: &'c Checkpoint, b: &'c Checkpoint) -> (&'c Checkpoint, &'c Checkpoint) {
    match a.size <= b.size {
        true => (a, b),
        false => (b, a),
    }
}
