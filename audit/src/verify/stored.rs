//! What the log's directory says about itself: key, checkpoints, segments.

use std::{io, path::Path};

use palisade_mesh::diagnostic::Severity;

use super::{Finding, FindingKind};
use crate::{
    checkpoint::{self, Checkpoint},
    files,
    log::{
        history,
        stored::{CHECKPOINT, COSIGNED, HISTORY, PUBLIC_KEY},
    },
    note::{NOTE_LEN_MAX, Verifier},
};

/// A finding about a whole file.
pub(super) fn about(kind: FindingKind, file: &str, what: impl Into<String>) -> Finding {
    Finding {
        severity: Severity::Error,
        kind,
        file: file.into(),
        leaf: None,
        offset: None,
        record: None,
        what: what.into(),
        stored: None,
        computed: None,
    }
}

/// The key to verify with.
pub(super) fn key(
    dir: &Path,
    given: Option<Verifier>,
    findings: &mut Vec<Finding>,
) -> Option<Verifier> {
    let stored = files::read_text(&dir.join(PUBLIC_KEY), NOTE_LEN_MAX)
        .map_err(|e| e.to_string())
        .and_then(|text| Verifier::parse(&text).map_err(|e| e.to_string()));
    match (given, stored) {
        (Some(given), Ok(stored)) if given != stored => {
            let mut finding = about(FindingKind::Key, PUBLIC_KEY, "it is not the trusted key");
            finding.stored = Some(stored.to_string());
            finding.computed = Some(given.to_string());
            findings.push(finding);
            Some(given)
        }
        (given, Err(e)) => {
            findings.push(about(FindingKind::Key, PUBLIC_KEY, e));
            given
        }
        (given, Ok(stored)) => Some(given.unwrap_or(stored)),
    }
}

/// The latest checkpoint, where it is a good one.
pub(super) fn latest(dir: &Path, key: &Verifier) -> Option<Checkpoint> {
    let note = files::read_text(&dir.join(CHECKPOINT), NOTE_LEN_MAX).ok()?;
    Checkpoint::open(key, &note).ok()
}

/// The latest checkpoint and all stored ones, by size.
pub(super) fn checkpoints(
    dir: &Path,
    key: &Verifier,
    live: bool,
    findings: &mut Vec<Finding>,
) -> (Option<Checkpoint>, Vec<Checkpoint>) {
    let open = |note: &str| Checkpoint::open(key, note);
    let mut bad = |file, what| findings.push(about(FindingKind::Checkpoint, file, what));
    let latest = match files::read_text(&dir.join(CHECKPOINT), NOTE_LEN_MAX) {
        Ok(note) => open(&note).map_err(|e| bad(CHECKPOINT, e.to_string())).ok(),
        Err(e) => {
            bad(CHECKPOINT, e.to_string());
            None
        }
    };
    let mut all = Vec::new();
    let mut glued = Vec::new();
    let history = history::read(dir).unwrap_or_else(|e| {
        bad(HISTORY, e.to_string());
        String::new()
    });
    // The last one may be half written, by a crash or right now; it is left out.
    for (n, note) in checkpoint::notes(&history).enumerate() {
        match open(note) {
            Ok(checkpoint) => all.push(checkpoint),
            Err(e) => match behind_half_a_note(key, note) {
                Some(checkpoint) => {
                    all.push(checkpoint);
                    glued.push(n);
                }
                None => bad(HISTORY, format!("checkpoint {n}: {e}")),
            },
        }
    }
    match files::read_text(&dir.join(COSIGNED), NOTE_LEN_MAX).map(|note| open(&note)) {
        Ok(Ok(checkpoint)) => all.push(checkpoint),
        Ok(Err(e)) => bad(COSIGNED, e.to_string()),
        // A log without witnesses has none.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => bad(COSIGNED, e.to_string()),
    }
    if let Some(latest) = &latest {
        let later = all
            .iter()
            .map(|c| c.size)
            .filter(|size| *size > latest.size);
        if let Some(later) = later.max().filter(|_| !live) {
            let size = latest.size;
            bad(
                CHECKPOINT,
                format!("it is of {size} records, but one of {later} was signed before"),
            );
        }
        // In a live log the history may be ahead of what was just read.
        all.retain(|checkpoint| checkpoint.size <= latest.size);
        all.push(latest.clone());
    }
    all.sort_by_key(|checkpoint| checkpoint.size);
    findings.extend(glued.into_iter().map(|n| Finding {
        severity: Severity::Warning,
        ..about(
            FindingKind::Checkpoint,
            HISTORY,
            format!("before checkpoint {n} stands half a one: a write of it was cut off"),
        )
    }));
    (latest, all)
}

/// The checkpoint that was written behind one that was cut off, as earlier versions did.
/// Whatever stands before it vouches for nothing.
fn behind_half_a_note(key: &Verifier, note: &str) -> Option<Checkpoint> {
    let at = note.rfind(&format!("{}\n", key.name()))?;
    Checkpoint::open(key, note.get(at..)?).ok()
}
