//! An evidence package: one file with a report in all its forms, the records that it rests
//! on, the proof of each, and the log's signature over all of it.
//!
//! Whoever has the file and the log's public key needs nothing else, and nobody's word:
//! the sums are under the signature, each record is proven to be in the log, and the report
//! is made again from these records alone and compared. The signature is looked at first:
//! nothing that it does not speak for is unpacked or read. Below the name of the file:
//!
//! ```text
//! README.txt            how to check it, with Palisade and without
//! SHA256SUMS  .note     the sum of every other file, and the signed statement over them
//! checkpoint  .pub      what the log had signed, and the key that it claims
//! cosigned              the same, cosigned by witnesses, where there are any
//! oscal-ar.json         the report as OSCAL assessment results
//! policy/               the policies in force, where they were at hand, and those that the
//!                       decisions of the records name and that were kept, by their SHA-256
//! queries.txt           every query that was asked
//! records/              proofs.jsonl, records.jsonl, records.parquet; in-force.jsonl, what the
//!                       PDP recorded of the policies at another time, with the proofs
//! report/               report.json, .html, .pdf, .xlsx, and a CSV for each table
//! verify.html           a page that checks all of this in a browser
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use palisade_mesh::diagnostic::Diagnostic;

use super::{
    Checked, Evidence, Ground, Mark, Report, Section,
    check::{compared, period_of, remade},
    evidence::program,
    to_csv, to_html, to_oscal, to_pdf, to_xlsx, verifier,
};
use crate::{
    checkpoint::Checkpoint,
    envelope::DecisionRef,
    going::Going,
    index::{Store, StoreError},
    log::{Log, LogError},
    merkle::{Hash, hex, sha256, verify_consistency},
    note::Verifier,
    source::Source,
    statement::{Statement, StatementError, Subject},
};

mod archive;
mod in_force;
mod records;

pub use archive::{FILES_MAX, NAME_LEN_MAX, PACKAGE_BYTES_MAX};
use archive::{Fault, Files};
use records::Records;

/// Records of a package where nobody says how many it may have.
pub const RECORDS_MAX: usize = 50_000;

/// Most records that can be asked for: all of them are in memory at once.
pub const RECORDS_MOST: usize = 1_000_000;

const SUMS: &str = "SHA256SUMS";
const NOTE: &str = "SHA256SUMS.note";
const CHECKPOINT: &str = "checkpoint";
const KEY: &str = "checkpoint.pub";
const COSIGNED: &str = "cosigned";
const CONSISTENCY: &str = "cosigned.consistency";
const PROOFS: &str = "records/proofs.jsonl";
const ROWS: &str = "records/records.jsonl";
const COLUMNS: &str = "records/records.parquet";
const REPORT: &str = "report/report.json";
const ATTACHED: &str = "policy/";
const BUNDLE: &str = ".bundle";
const ABOUT: &str = "README.txt";
const OSCAL: &str = "oscal-ar.json";
const VERIFIER: &str = "verify.html";

/// Files that packages have not always had. Where the log signed none, there is none to
/// compare.
const LATER: [&str; 2] = [OSCAL, VERIFIER];

/// Bytes of revisions that go with the records of a package, all together; what is beyond
/// them is left out, and decisions under it cannot be made again from the package alone.
const REVISIONS_BYTES_MAX: usize = 256 << 20;
/// Most of them; the other files of a package need room, too.
const REVISIONS_MAX: usize = FILES_MAX - 128;
/// Longest report in a package, in bytes.
const REPORT_LEN_MAX: u64 = 64 << 20;
/// Longest file of sums, notes, keys and words, in bytes.
const SMALL_LEN_MAX: u64 = 1 << 20;

/// Sections that a report may have though only policies can tell them. What they say, the
/// log alone does not bear out: whoever has the engine makes them again.
const OF_POLICIES: [(&str, &str); 5] = [
    ("access-review", "access-in-force"),
    ("reach", "effective-access"),
    ("unused", "unused-grants"),
    ("unused", "permits"),
    ("unused", "proposed-change"),
];

const README: &str = "\
Evidence from the audit log of a Palisade mesh.

With Palisade, and the log's public key from somewhere that you trust:
    palisade report verify THIS-FILE --key acme.pub
It checks the signature, the sums, that each record is in the log, makes the report again
from these records, and each decision again whose revision is in `policy/`; the others are
counted. The file `checkpoint.pub` in here is what the package says of itself: compare it
with the one that you were given.

Without: `sha256sum -c SHA256SUMS`; `SHA256SUMS.note` and `checkpoint` are C2SP signed notes
(Ed25519), the first has the SHA-256 of SHA256SUMS; each line of `records/proofs.jsonl` has a
leaf and its RFC 6962 inclusion proof under the root in `checkpoint`.

Everything that the mesh recorded in the period is in `records/`, whatever the report was
kept to: give the file to nobody who may not read all of it.
";

/// What is said of the page, where a package has it.
const README_PAGE: &str = "
In a browser: open `verify.html`, which works offline and sends nothing, give it the log's
public key and choose the folder that this file was unpacked into. It says what it has checked
and what it has not. Whoever made this package could have changed the page as well:
use one that you have from somewhere that you trust. It is the same in every package of one
version of Palisade.
";

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
    let (checkpoint, signed) = super::check::checkpoint(&report.header.checkpoint, log)?;
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

/// A section that no report of this name has from policies, or has twice.
fn strange<'s>(
    report: &str,
    of_policies: impl IntoIterator<Item = &'s Section>,
) -> Option<&'s Section> {
    let mut seen = BTreeSet::new();
    of_policies.into_iter().find(|section| {
        let known = OF_POLICIES.contains(&(report, section.id.as_str()));
        !known || !seen.insert(section.id.as_str())
    })
}

/// Whether a file of this name holds policies: the name is their SHA-256.
fn is_bundle(name: &str, content: &[u8]) -> bool {
    let stem = name.strip_prefix(ATTACHED);
    let stem = stem.and_then(|name| name.strip_suffix(BUNDLE));
    stem == Some(hex(&sha256(content)).as_str())
}

/// The files with their sums and the statement over these, in one.
fn sealed(
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

/// A report in every form.
fn forms(report: &Report) -> Result<Files, Diagnostic> {
    let failed = |e: &dyn std::fmt::Display| unpacked(&e.to_string());
    let mut json = serde_json::to_vec_pretty(report).map_err(|e| failed(&e))?;
    json.push(b'\n');
    let html = to_html(report).map_err(|e| failed(&e))?;
    let mut files = Files::from([
        (REPORT.to_owned(), json),
        (OSCAL.to_owned(), to_oscal(report).map_err(|e| failed(&e))?),
        ("report/report.html".to_owned(), html.into_bytes()),
        (
            "report/report.pdf".to_owned(),
            to_pdf(report).map_err(|e| failed(&e))?,
        ),
        (
            "report/report.xlsx".to_owned(),
            to_xlsx(report).map_err(|e| failed(&e))?,
        ),
    ]);
    for (name, content) in to_csv(report).map_err(|e| failed(&e))? {
        files.insert(format!("report/report-{name}"), content);
    }
    let queries = report.sections.iter().flat_map(|s| {
        let head = format!("# {}\n", s.id);
        let queries = s.queries.iter();
        let queries = queries.map(|q| format!("{}\n", super::render::visible(q)));
        std::iter::once(head).chain(queries)
    });
    files.insert("queries.txt".into(), queries.collect::<String>().into());
    match files.keys().find(|name| !archive::is_name(name)) {
        Some(name) => Err(unpacked(&format!(
            "`{name}` is no name for a file of a package"
        ))),
        None => Ok(files),
    }
}

/// What witnesses cosigned, and that it and the checkpoint are of one log.
fn witnessed(log: &Log, checkpoint: &Checkpoint) -> Vec<(String, Vec<u8>)> {
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

fn ordered<'c>(a: &'c Checkpoint, b: &'c Checkpoint) -> (&'c Checkpoint, &'c Checkpoint) {
    match a.size <= b.size {
        true => (a, b),
        false => (b, a),
    }
}

/// As `sha256sum` writes and reads them.
fn sums(files: &Files) -> String {
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

fn statement(
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
fn speaks_of(said: &Statement, report: &Report) -> Result<(), Diagnostic> {
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

fn facts(report: &Report) -> [(&'static str, String); 4] {
    let header = &report.header;
    [
        ("palisade.log", header.log.clone()),
        ("palisade.from", header.from.clone()),
        ("palisade.to", header.to.clone()),
        ("palisade.checkpoint", header.checkpoint.size.to_string()),
    ]
}

/// A package whose sums, signature and proofs hold.
#[derive(Debug)]
pub struct Package {
    /// The report in it.
    pub report: Report,
    files: Files,
    records: Records,
    /// Records of when its revisions were in force, of another time.
    in_force: Records,
    checkpoint: Checkpoint,
    signed: String,
}

impl Package {
    /// Opens a package with the public key of the log, and nothing else.
    ///
    /// # Errors
    /// `PLS7820` for what is none, `PLS7822` for a file that is missing, changed or not
    /// spoken for, `PLS7823` for a signature that is not by `key`, `PLS7824` for a record
    /// that is not proven to be in the log.
    pub fn open(bytes: &[u8], key: &Verifier) -> Result<Self, Diagnostic> {
        let mut seal = Seal::new(key);
        let files = archive::read(bytes, PACKAGE_BYTES_MAX, &mut seal).map_err(no_package)?;
        let said = seal.whole()?;
        let report_text = text(&files, REPORT)?;
        let report = super::read(report_text)?;
        let of_policies = report.sections.iter().filter(|s| s.of_policies);
        if let Some(section) = strange(&report.name, of_policies) {
            return Err(unsaid_of(section));
        }
        let checkpoint = Checkpoint::open(key, text(&files, CHECKPOINT)?)
            .map_err(|e| not_signed(CHECKPOINT, &e.to_string()))?;
        if report.header.checkpoint != Mark::of(&checkpoint) {
            return Err(changed(
                REPORT,
                "it rests on another checkpoint than is here",
            ));
        }
        if text(&files, KEY)?.trim_end() != key.to_string() {
            return Err(changed(KEY, "it is another key than the trusted one"));
        }
        cosigned(&files, &checkpoint, key)?;
        speaks_of(&said, &report)?;
        let proofs = files.get(PROOFS).ok_or_else(|| missing(PROOFS))?;
        let proven = |lines: &[u8]| Records::proven(lines, &checkpoint).map_err(|e| unproven(&e));
        let records = proven(proofs)?;
        let in_force = files.get(in_force::FILE).map(|lines| proven(lines));
        Ok(Self {
            report,
            signed: said.fact("time").unwrap_or_default().to_owned(),
            files,
            records,
            in_force: in_force.transpose()?.unwrap_or_default(),
            checkpoint,
        })
    }

    /// How many records it has, all of them proven.
    pub fn records(&self) -> u64 {
        self.records.len()
    }

    /// Names of its files.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Its records as they are hashed, by index in the log.
    pub fn leaves(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.records.leaves()
    }

    /// Records of when its revisions were in force, as [`Package::leaves`] gives those of its period.
    pub fn in_force(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.in_force.leaves()
    }

    /// The policy bundles that it has.
    pub fn policies(&self) -> impl Iterator<Item = &[u8]> {
        let files = self.files.iter();
        let bundles = files.filter(|(name, content)| is_bundle(name, content));
        bundles.map(|(_, content)| content.as_slice())
    }

    /// When it was signed, as the log says.
    pub fn signed(&self) -> &str {
        &self.signed
    }

    /// The checkpoint that its records are under.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The note that witnesses have cosigned, where there is one.
    pub fn cosigned(&self) -> Option<&str> {
        text(&self.files, COSIGNED).ok()
    }

    /// What an index over its records is made from.
    pub fn source(&self) -> Arc<dyn Source> {
        self.records.clone().source()
    }

    /// The parts of its report that only policies can tell: [`Package::check`] does not.
    pub fn of_policies(&self) -> Vec<Section> {
        self.report.of_policies()
    }

    /// Makes the report again from the index over its records, and every other file from
    /// these and the report; not [`Package::of_policies`]. Blocks on the disk.
    ///
    /// # Errors
    /// When the index cannot answer, or the head of the report cannot be read.
    pub fn check(&self, store: &Store, now_us: i64) -> Result<Checked, StoreError> {
        let mut report = self.report.clone();
        report.take_of_policies();
        let period = period_of(&report.header)?;
        let begins_us = self.records.begins_us();
        let ground = Ground::Records { begins_us };
        let scope = &report.header.scope;
        let evidence = Evidence::new(store, ground, period, scope, &self.checkpoint, now_us)?;
        // Behind those of the report: every file is made again.
        store.going().parts(1);
        let mut checked = remade(&report, &evidence)?;
        checked.checkpoint = true;
        checked.made(&report.header, now_us);
        self.files_again(store.going(), &mut checked)?;
        store.going().part_done();
        Ok(checked)
    }

    /// Compares the files that follow from report and records, and finds those that do not
    /// belong there.
    fn files_again(&self, going: &Going, checked: &mut Checked) -> Result<(), StoreError> {
        let mut again = forms(&self.report)?;
        let rows = self.records.rows(going, &facts(&self.report));
        let (rows, columns) = rows.map_err(|e| unpacked(&e))?;
        again.insert(ROWS.into(), rows);
        again.insert(COLUMNS.into(), columns);
        again.insert(VERIFIER.into(), verifier::page().into());
        let page = self.files.contains_key(VERIFIER).then_some(README_PAGE);
        let about = format!("{README}{}", page.unwrap_or_default());
        again.insert(ABOUT.into(), about.into());
        let given = [
            SUMS,
            NOTE,
            CHECKPOINT,
            KEY,
            COSIGNED,
            CONSISTENCY,
            PROOFS,
            in_force::FILE,
        ];
        for (name, content) in &self.files {
            let known = again.contains_key(name)
                || given.contains(&name.as_str())
                || is_bundle(name, content);
            if !known {
                checked.same("package", name, "there", "no file of a package");
            }
        }
        let (made, here) = (&self.report.header.program, program());
        if *made != here {
            // What people see was not looked at: nobody may take it for verified.
            let this = format!("this is {here}: not compared, verify it with that version");
            let what = "the forms of the report and the rows of the records";
            checked.same("package", what, &format!("made by {made}"), &this);
            return Ok(());
        }
        for (name, content) in &again {
            // The sums say that nobody took it away.
            if LATER.contains(&name.as_str()) && !self.files.contains_key(name) {
                let what = format!("`{name}`, which the package was made without");
                checked.not_compared.push(what);
                continue;
            }
            let (said, found) = match self.files.get(name) == Some(content) {
                true => ("", ""),
                false => ("another content", "what follows from report and records"),
            };
            checked.same("package", name, said, found);
        }
        Ok(())
    }
}

/// The signature over the sums, and these over every other file: looked at as they come,
/// before whatever is large.
struct Seal<'k> {
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
    fn new(key: &'k Verifier) -> Self {
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
    fn whole(mut self) -> Result<Statement, Diagnostic> {
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

impl archive::Gate for Seal<'_> {
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

/// Whether what witnesses cosigned is of the same log.
fn cosigned(files: &Files, checkpoint: &Checkpoint, key: &Verifier) -> Result<(), Diagnostic> {
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

fn text<'f>(files: &'f Files, name: &str) -> Result<&'f str, Diagnostic> {
    let content = files.get(name).ok_or_else(|| missing(name))?;
    std::str::from_utf8(content).map_err(|_| changed(name, "it is not UTF-8"))
}

fn no_package(why: Fault) -> Diagnostic {
    if let Fault::Refused(told) = why {
        return *told;
    }
    Diagnostic::error(7820, "this is no evidence package")
        .cause(why.to_string())
        .help("take the file as `palisade report run NAME --to evidence.tar.zst` wrote it")
}

fn changed(name: &str, why: &str) -> Diagnostic {
    let name = super::render::visible(name);
    Diagnostic::error(7822, format!("`{name}` is not what was packed"))
        .cause(why)
        .help("take the package from where it was delivered; if it came from the log's operator, keep it as evidence")
}

fn missing(name: &str) -> Diagnostic {
    let name = super::render::visible(name);
    Diagnostic::error(7822, format!("`{name}` is missing from the package"))
        .cause("what was signed has it")
        .help("take the package from where it was delivered; if it came from the log's operator, keep it as evidence")
}

fn not_signed(name: &str, why: &str) -> Diagnostic {
    Diagnostic::error(
        7823,
        format!("`{name}` is not signed by the log of this key"),
    )
    .cause(why)
    .help("see that the key is the one of this log; if it is, keep the package as evidence")
}

fn unproven(why: &str) -> Diagnostic {
    Diagnostic::error(7824, "the records are not proven to be in the log")
        .cause(format!("`{PROOFS}`, {why}"))
        .help("if the package came from the log's operator, keep it as evidence")
}

/// What is said where the signing key of a log is not there.
pub fn unsigned(why: &LogError) -> Diagnostic {
    Diagnostic::error(7825, "nothing can be signed for this log")
        .cause(why.to_string())
        .help("ask the running mesh, or use the folder that has `checkpoint.key`; where a device has the key, see that it is there")
}

/// What is said where the log does not bear out what it is to sign.
pub fn unsaid(checked: &Checked) -> Diagnostic {
    let first = checked.differences.first();
    let cause = first.map_or_else(
        || "its checkpoint is not one that this log signed".to_owned(),
        |d| format!("{}, {}: {} against {}", d.section, d.what, d.report, d.log),
    );
    Diagnostic::error(7826, "the log does not say what the report says")
        .cause(cause)
        .help("make the report again")
}

fn unsaid_of(section: &Section) -> Diagnostic {
    let id = super::render::visible(&section.id);
    Diagnostic::error(7826, "the log does not say what the report says")
        .cause(format!(
            "no report of this name has a section `{id}` from policies"
        ))
        .help("make the report again")
}

fn unpacked(why: &str) -> Diagnostic {
    Diagnostic::error(7827, "the package cannot be made").cause(why).help(
        "make it of a shorter period; if that does not help, write the report's formats one by one",
    )
}

#[cfg(test)]
pub(crate) mod tests;
