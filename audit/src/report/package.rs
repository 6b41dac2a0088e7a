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
//! queries.txt           every query that was asked, and after `$` commands that show the same
//! records/              proofs.jsonl, records.jsonl, records.parquet; in-force.jsonl, what the
//!                       PDP recorded of the policies at another time, with the proofs
//! report/               report.json, .html, .pdf, .xlsx, and a CSV for each table
//! verify.html           a page that checks all of this in a browser
//! ```

use std::collections::BTreeSet;

use palisade_mesh::diagnostic::Diagnostic;

use super::{Report, Section, render::visible, to_csv, to_html, to_oscal, to_pdf, to_xlsx};
use crate::merkle::{hex, sha256};

mod archive;
mod in_force;
mod opened;
mod pack;
mod records;
mod refusals;
mod seal;

use archive::Files;
pub use archive::{FILES_MAX, NAME_LEN_MAX, PACKAGE_BYTES_MAX};
pub use opened::Package;
pub use pack::{Beside, Kept, pack};
use refusals::{changed, missing, unpacked};
pub use refusals::{unsaid, unsigned};

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
const PDF: &str = "report/report.pdf";
const XLSX: &str = "report/report.xlsx";
const ATTACHED: &str = "policy/";
const BUNDLE: &str = ".bundle";
const ABOUT: &str = "README.txt";
const OSCAL: &str = "oscal-ar.json";
const VERIFIER: &str = "verify.html";

/// Files that packages have not always had. Where the log signed none, there is none to
/// compare.
const LATER: [&str; 2] = [OSCAL, VERIFIER];

/// Sections that a report may have though only policies can tell them. What they say, the
/// log alone does not bear out: whoever has the engine makes them again.
const OF_POLICIES: [(&str, &str); 6] = [
    ("access-review", "access-in-force"),
    ("personal-data", "service-labels"),
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
counted. `palisade-verify package THIS-FILE --key acme.pub` is a small program that does the
same but for the report's figures, and its forms as PDF, XLSX and Parquet. The file `checkpoint.pub` in here is what the package says of itself: compare it
with the one that you were given.

Without: `sha256sum -c SHA256SUMS`; `SHA256SUMS.note` and `checkpoint` are C2SP signed notes
(Ed25519), the first has the SHA-256 of SHA256SUMS; each line of `records/proofs.jsonl` has a
leaf and its RFC 6962 inclusion proof under the root in `checkpoint`.

Everything that the mesh recorded in the period is in `records/`, whatever the report was
kept to, and what the report asks of the time before it: give the file to nobody who may not read all of it.
";

/// What an auditor's program does not make again: it has neither an index nor what draws these.
const NOT_AS_TEXT: [&str; 3] = [PDF, XLSX, COLUMNS];

/// What is said of the page, where a package has it.
const README_PAGE: &str = "
In a browser: open `verify.html`, which works offline and sends nothing, give it the log's
public key and choose the folder that this file was unpacked into. It says what it has checked
and what it has not. Whoever made this package could have changed the page as well:
use one that you have from somewhere that you trust. It is the same in every package of one
version of Palisade.
";

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

/// A report in every form.
fn forms(report: &Report) -> Result<Files, Diagnostic> {
    let failed = |e: &dyn std::fmt::Display| unpacked(&e.to_string());
    let mut files = texts(report)?;
    files.extend([
        (PDF.to_owned(), to_pdf(report).map_err(|e| failed(&e))?),
        (XLSX.to_owned(), to_xlsx(report).map_err(|e| failed(&e))?),
    ]);
    Ok(files)
}

/// A report in every form that is text, and the queries that it asked.
fn texts(report: &Report) -> Result<Files, Diagnostic> {
    let failed = |e: &dyn std::fmt::Display| unpacked(&e.to_string());
    let mut json = serde_json::to_vec_pretty(report).map_err(|e| failed(&e))?;
    json.push(b'\n');
    let html = to_html(report).map_err(|e| failed(&e))?;
    let mut files = Files::from([
        (REPORT.to_owned(), json),
        (OSCAL.to_owned(), to_oscal(report).map_err(|e| failed(&e))?),
        ("report/report.html".to_owned(), html.into_bytes()),
    ]);
    for (name, content) in to_csv(report).map_err(|e| failed(&e))? {
        files.insert(format!("report/report-{name}"), content);
    }
    let queries = report.sections.iter().flat_map(|s| {
        let head = format!("# {}\n", s.id);
        let queries = s.queries.iter();
        let queries = queries.map(|q| format!("{}\n", visible(q)));
        let commands = s.commands.iter();
        let commands = commands.map(|c| format!("$ {}\n", visible(c)));
        std::iter::once(head).chain(queries).chain(commands)
    });
    files.insert("queries.txt".into(), queries.collect::<String>().into());
    match files.keys().find(|name| !archive::is_name(name)) {
        Some(name) => Err(unpacked(&format!(
            "`{name}` is no name for a file of a package"
        ))),
        None => Ok(files),
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

fn text<'f>(files: &'f Files, name: &str) -> Result<&'f str, Diagnostic> {
    let content = files.get(name).ok_or_else(|| missing(name))?;
    std::str::from_utf8(content).map_err(|_| changed(name, "it is not UTF-8"))
}

#[cfg(test)]
pub(crate) mod tests;
