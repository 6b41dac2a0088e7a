//! A package is made of a report that the log bears out.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::{
    ABOUT, ATTACHED, BUNDLE, CHECKPOINT, COLUMNS, KEY, NOTE, PROOFS, README, README_PAGE,
    RECORDS_MOST, ROWS, SUMS, VERIFIER,
    archive::{self, FILES_MAX, Files, PACKAGE_BYTES_MAX},
    facts, forms, in_force, is_bundle,
    records::Records,
    refusals::{unpacked, unsaid, unsaid_of, unsigned},
    seal::{statement, sums, witnessed},
    strange,
};
use crate::{
    envelope::DecisionRef,
    going::Going,
    index::StoreError,
    log::Log,
    merkle::{Hash, hex, sha256},
    report::{
        Evidence, Report,
        check::{checkpoint, compared},
        evidence::program,
        verifier,
    },
};

/// Bytes of revisions that go with the records of a package, all together; what is beyond
/// them is left out, and decisions under it cannot be made again from the package alone.
const REVISIONS_BYTES_MAX: usize = 256 << 20;
/// Most of them; the other files of a package need room, too.
const REVISIONS_MAX: usize = FILES_MAX - 128;

/// Packs a report that was made from a whole log. It is made again first, but for what only
/// policies can tell, which is for the caller: the key of a log
/// signs nothing that the log does not say. What describes the log as it was then is put as
/// it is now, with the time and the program that say so; so is what the report lacks, but for
/// what only the caller can tell. Blocks on the disk.
///
/// # Errors
/// `PLS7826` for a report that the log does not bear out, `PLS7821` for more than
/// `records_max` records, `PLS7825` where the signing key is not there, `PLS7827` for a
/// file that is not to be attached.
pub fn pack(
    report: &Report,
    evidence: &Evidence<'_>,
    beside: Beside<'_>,
    records_max: usize,
    now: jiff::Timestamp,
) -> Result<Vec<u8>, StoreError> {
    let Beside {
        mut attached,
        kept,
        lacks,
    } = beside;
    let log = evidence
        .log()
        .ok_or(StoreError::Bug("a package of a package"))?;
    let mut of_log = report.clone();
    let of_policies = of_log.take_of_policies();
    if let Some(section) = strange(&report.name, &of_policies) {
        return Err(unsaid_of(section).into());
    }
    let going = evidence.going();
    // Behind those of the report: the records are found, read and written.
    going.parts(3);
    let (checked, again) = compared(&of_log, evidence)?;
    let (checkpoint, signed) = checkpoint(&report.header.checkpoint, log)?;
    if !signed || !checked.differences.is_empty() || checked.more > 0 {
        return Err(unsaid(&checked).into());
    }
    let report = &borne_out(report, again, lacks, evidence);
    let entries = evidence.records_behind(records_max.min(RECORDS_MOST))?;
    going.part_done();
    let (records, proofs) = Records::of_log(going, log, entries, checkpoint.size)?;
    going.part_done();
    let named = revisions(&records, kept);
    let digests: BTreeSet<Hash> = named.iter().map(|(digest, _)| *digest).collect();
    let in_force = in_force::of_log(evidence, log, (&digests, &records))?;
    let of_digests = named.into_iter().map(|(_, bundle)| bundle);
    attached.extend(of_digests.map(|b| (format!("{}{BUNDLE}", hex(&sha256(&b))), b)));
    let mut files = forms(report)?;
    let rows = records.rows(going, &facts(report));
    let (rows, columns) = rows.map_err(|e| unpacked(&e))?;
    files.insert(PROOFS.into(), proofs);
    files.insert(ROWS.into(), rows);
    files.insert(COLUMNS.into(), columns);
    files.insert(CHECKPOINT.into(), checkpoint.note.clone().into());
    files.insert(KEY.into(), format!("{}\n", log.verifier()).into());
    files.insert(ABOUT.into(), format!("{README}{README_PAGE}").into());
    files.insert(VERIFIER.into(), verifier::page().into());
    files.extend(witnessed(log, &checkpoint));
    for (name, content) in attached {
        let name = format!("{ATTACHED}{name}");
        if !is_bundle(&name, &content) {
            return Err(unpacked(&format!("`{name}` is not named by its SHA-256")).into());
        }
        files.insert(name, content);
    }
    if !in_force.is_empty() {
        files.insert(in_force::FILE.into(), in_force);
    }
    sealed(files, report, (log, going), now)
}

/// What goes with a report into its package.
pub struct Beside<'k> {
    /// Bundles of policies, by the names of their files.
    pub attached: BTreeMap<String, Vec<u8>>,
    /// The revisions that decisions name.
    pub kept: &'k Kept<'k>,
    /// What the report lacks that the log alone cannot tell.
    pub lacks: Vec<String>,
}

/// Gives the bundle of a revision by its digest, where it is kept.
pub type Kept<'k> = dyn Fn(&Hash) -> Option<Vec<u8>> + 'k;

/// The revisions that the decisions among the records name, by their digests; where there are
/// too many, those of most decisions.
fn revisions(records: &Records, kept: &Kept<'_>) -> Vec<(Hash, Vec<u8>)> {
    let decisions = records
        .leaves()
        .filter_map(|(_, leaf)| DecisionRef::of_leaf(leaf));
    let mut named: BTreeMap<Hash, u64> = BTreeMap::new();
    for digest in decisions.filter_map(|decision| decision.policy_digest.try_into().ok()) {
        *named.entry(digest).or_default() += 1;
    }
    let mut named: Vec<_> = named.into_iter().collect();
    named.sort_by_key(|(digest, decisions)| (std::cmp::Reverse(*decisions), *digest));
    let mut room = REVISIONS_BYTES_MAX;
    let mut files = Vec::new();
    let kept = |(digest, _)| Some((digest, kept(&digest)?));
    for (digest, bundle) in named.into_iter().filter_map(kept) {
        if files.len() >= REVISIONS_MAX {
            break;
        }
        if let Some(left) = room.checked_sub(bundle.len()) {
            room = left;
            files.push((digest, bundle));
        }
    }
    files
}

/// The report with what of it is of this moment: sections that describe the whole log, the
/// time, the program, the checkpoint as the log has it, and what it lacks, with `lacks`.
fn borne_out(
    report: &Report,
    again: Report,
    lacks: Vec<String>,
    evidence: &Evidence<'_>,
) -> Report {
    let mut report = report.clone();
    for section in &mut report.sections {
        let found = again.sections.iter().find(|found| found.id == section.id);
        if let Some(found) = found.filter(|found| found.momentary && !section.of_policies) {
            *section = found.clone();
        }
    }
    report.header.rows = report.rows();
    report.header.lacks = again.header.lacks;
    report.header.lacks.extend(lacks);
    report.header.complete = report.header.lacks.is_empty();
    report.header.made = again.header.made;
    report.header.program = program();
    report.header.checkpoint = evidence.mark().clone();
    report
}

/// The files with their sums and the statement over these, in one.
pub(super) fn sealed(
    mut files: Files,
    report: &Report,
    (log, going): (&Log, &Going),
    now: jiff::Timestamp,
) -> Result<Vec<u8>, StoreError> {
    let bytes: usize = files.values().map(Vec::len).sum();
    if u64::try_from(bytes).is_ok_and(|bytes| bytes > PACKAGE_BYTES_MAX) {
        return Err(unpacked("its files are more than 2 GiB").into());
    }
    let sums = sums(&files);
    let note = statement(report, &sums, now).map_err(|e| unpacked(&e.to_string()))?;
    let note = log.sign(&note).map_err(|e| unsigned(&e))?;
    files.insert(SUMS.into(), sums.into());
    files.insert(NOTE.into(), note.into());
    if files.len() > FILES_MAX {
        let many = format!("it would have {} files, {FILES_MAX} at most", files.len());
        return Err(unpacked(&many).into());
    }
    let mut out = Heeding {
        out: Vec::new(),
        going,
    };
    archive::write(&files, &mut out)?;
    Ok(out.out)
}

/// Takes bytes as long as somebody waits for them.
struct Heeding<'g> {
    out: Vec<u8>,
    going: &'g Going,
}

impl io::Write for Heeding<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.going.ask().map_err(io::Error::other)?;
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
