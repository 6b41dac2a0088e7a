//! Checks a log against its signatures, without changing or trusting it.
//!
//! Reads every byte of every segment once: CRC, leaf hash against the tile, root
//! against every stored checkpoint, signature of each, and per stream whether
//! every number is there. What differs is named by leaf, file, offset and, where
//! it can be decoded, the record. A log that is being written is verified up to
//! its latest checkpoint. Works on a copy as well as on the original; only the
//! public key has to come from somewhere trusted.

use std::path::Path;
#[cfg(feature = "index")]
use std::sync::Arc;

#[cfg(feature = "index")]
use crate::archive::Archive;
use crate::{
    going::{Ended, Going},
    log::stored::is_live,
    note::Verifier,
};

mod ahead;
mod certificates;
mod earlier;
mod pass;
mod report;
mod signers;
mod stored;
mod streams;

pub use earlier::{Earlier, EarlierReport, Standing};
use pass::Pass;
pub use report::{
    AbsentReport, CertificateReport, CertificatesReport, CheckpointReport, Finding, FindingKind,
    RecordName, StreamReport, VerifyReport,
};

/// Findings named in a report; more are counted.
pub const FINDINGS_MAX: usize = 1000;

/// Records between calls of the progress callback.
pub const PROGRESS_RECORDS: u64 = 16 * 1024;

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Records read.
    pub records: u64,
    /// Bytes of segments read.
    pub bytes: u64,
    /// Bytes of all segments.
    pub bytes_total: u64,
}

/// How to verify.
#[derive(Default)]
pub struct VerifyOptions<'a> {
    /// The key to trust; the one stored with the log when absent, which then
    /// proves only that the log agrees with itself.
    pub key: Option<Verifier>,
    /// Checkpoints of the log that somebody kept from before: it must continue them.
    pub earlier: Vec<Earlier>,
    /// Where segments are that went away; those are not read otherwise, which is told.
    #[cfg(feature = "index")]
    pub archive: Option<Arc<Archive>>,
    /// Called now and then, and once at the end.
    pub progress: Option<&'a mut dyn FnMut(Progress)>,
    /// Called with the index of each record that is there, and its bytes as they are hashed, in
    /// the order of the log: whoever needs all of them need not read it again. A verification
    /// that begins anew begins with the first. They are what was signed if the report says so.
    pub seen: Option<Seen<'a>>,
}

/// Sees records.
pub type Seen<'a> = &'a mut dyn FnMut(u64, &[u8]);

/// Verifies the log in `dir`.
pub fn verify(dir: &Path, options: VerifyOptions<'_>) -> VerifyReport {
    verify_while(&Going::default(), dir, options).expect("nobody else has what would end it")
}

/// The same, as long as somebody waits for it.
///
/// # Errors
/// When nobody does any more: then nothing is known.
pub fn verify_while(
    going: &Going,
    dir: &Path,
    mut options: VerifyOptions<'_>,
) -> Result<VerifyReport, Ended> {
    let mut run = || {
        let progress: Option<&mut dyn FnMut(Progress)> = match &mut options.progress {
            Some(progress) => Some(&mut **progress),
            None => None,
        };
        let seen: Option<Seen<'_>> = match &mut options.seen {
            Some(seen) => Some(&mut **seen),
            None => None,
        };
        let pass = Pass::new(dir, going, progress, seen);
        #[cfg(feature = "index")]
        let pass = pass.with(options.archive.clone());
        pass.run(options.key.clone(), &options.earlier)
    };
    let report = run();
    // A writer that started meanwhile leaves what looks like foreign bytes.
    let writer_came = !report.live && is_live(dir);
    let report = match writer_came && !report.findings.is_empty() {
        true => run(),
        false => report,
    };
    going.ask().map(|()| report)
}

#[cfg(test)]
mod tests;
