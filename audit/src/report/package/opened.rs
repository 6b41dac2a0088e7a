//! A package that is opened with the key of the log, and checked by making it again.

use std::sync::Arc;

use palisade_mesh::diagnostic::Diagnostic;

use super::{
    ABOUT, CHECKPOINT, COLUMNS, CONSISTENCY, COSIGNED, KEY, LATER, NOT_AS_TEXT, NOTE, PROOFS,
    README, README_PAGE, REPORT, ROWS, SUMS, VERIFIER,
    archive::{self, Files, PACKAGE_BYTES_MAX},
    facts, forms, in_force, is_bundle,
    records::Records,
    refusals::{changed, missing, no_package, not_signed, unpacked, unproven, unsaid_of},
    seal::{Seal, cosigned, speaks_of},
    strange, text, texts,
};
use crate::{
    checkpoint::Checkpoint,
    going::Going,
    index::{Store, StoreError},
    note::Verifier,
    report::{
        Checked, Evidence, Ground, Mark, Report, Section,
        check::{period_of, remade},
        evidence::program,
        read, verifier,
    },
    source::Source,
};

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
        let report = read(report_text)?;
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

    /// Makes again what follows from report and records as text, and finds what does not belong
    /// there; the report itself is taken as it was signed, for to make it takes an index. What was
    /// not compared is named.
    ///
    /// # Errors
    /// `PLS7827` when a file cannot be made, or nobody waits any more.
    pub fn check_texts(&self, going: &Going, now_us: i64) -> Result<Checked, Diagnostic> {
        let mut checked = Checked {
            checkpoint: true,
            ..Checked::default()
        };
        checked.made(&self.report.header, now_us);
        let mut again = texts(&self.report)?;
        let lines = self.records.lines(going).map_err(|e| unpacked(&e))?;
        again.insert(ROWS.into(), lines);
        self.compare_files(again, &NOT_AS_TEXT, &mut checked);
        let title = &self.report.title;
        let figures = format!("the figures and rows of \u{201c}{title}\u{201d}");
        let forms = NOT_AS_TEXT.map(|name| format!("`{name}`")).join(", ");
        checked.not_compared.push(format!(
            "{figures}, and {forms}: palisade report verify makes them again"
        ));
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
        self.compare_files(again, &[], checked);
        Ok(())
    }

    /// Compares the files with what was made `again`, and with what every package has; those of
    /// `aside` belong there, and are not compared.
    fn compare_files(&self, mut again: Files, aside: &[&str], checked: &mut Checked) {
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
                || aside.contains(&name.as_str())
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
            return;
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
    }
}
