//! Reports on a terminal: which there are, what one says, whether it still holds.

use std::path::PathBuf;

use palisade_audit::report::{Checked, Kind, Report, package::Package};

use crate::cli::{
    audit::proof,
    report::{
        evidence::Seen,
        files::{Format, format_of},
    },
};

use super::{
    BAD, DIM, GOOD, NAME, STRONG, WARN, count, line, next, paint,
    snippet::clean,
    table::{Table, col, styled},
    thousands,
};

/// Differences that are printed.
const DIFFERENCES_SHOWN: usize = 10;

/// What is not as it was of sections about the whole log, as far as it is printed.
const MOVED_SHOWN: usize = 30;

/// Prints which reports there are.
pub(crate) fn print_kinds(kinds: &[Kind]) {
    let mut out = Table::new(&[
        col("REPORT"),
        col("ANSWERS").short(),
        col("CONTROLS").short().optional(),
    ]);
    for kind in kinds {
        out.row([
            styled(NAME, kind.name),
            kind.question.into(),
            styled(DIM, kind.controls.join(", ")),
        ]);
    }
    out.print();
    next(&[(
        "palisade report run pci-dss --period last:90d --to pci.html".to_owned(),
        "make one",
    )]);
}

/// Prints a report in short, or where it went.
pub(crate) fn print(report: &Report, files: &[PathBuf]) {
    let header = &report.header;
    line(&format!(
        "{}  {}",
        paint(STRONG, clean(&report.title)),
        paint(
            DIM,
            format!("{} to {}", clean(&header.from), clean(&header.to))
        )
    ));
    for section in &report.sections {
        let figures: Vec<String> = section
            .figures
            .iter()
            .filter(|figure| figure.value.len() <= 24)
            .map(|figure| format!("{} {}", clean(&figure.label), clean(&figure.value)))
            .collect();
        line(&format!("  {}", clean(&section.title)));
        if !figures.is_empty() {
            line(&paint(DIM, format!("    {}", figures.join(" · "))));
        }
    }
    line(&format!(
        "{} in the period, {} of evidence, under a checkpoint of {}",
        count(header.records, "record", "records"),
        count(header.rows, "row", "rows"),
        count(header.checkpoint.size, "record", "records"),
    ));
    if !header.complete {
        line(&paint(
            WARN,
            format!(
                "the report is not complete: {}",
                clean(&header.lacks.join("; "))
            ),
        ));
    }
    for file in files {
        let path = clean(&file.display().to_string());
        line(&format!("{} {path}", paint(GOOD.bold(), "✓ written")));
    }
    let name = clean(&report.name);
    let to_check = files.iter().find(|file| {
        let ending = file.extension().and_then(|e| e.to_str());
        matches!(ending, Some("html" | "json" | "zst"))
    });
    next(&[match (to_check, files.is_empty()) {
        (Some(file), _) => {
            let path = clean(&file.display().to_string());
            match format_of(file) {
                Ok(Format::Package) => (
                    format!("palisade report verify {path} --key checkpoint.pub"),
                    "with the log's key alone, which an auditor has from elsewhere",
                ),
                _ => (
                    format!("palisade report verify {path}"),
                    "made again from the log and compared",
                ),
            }
        }
        (None, true) => (
            format!("palisade report run {name} --to {name}.html --to {name}.pdf"),
            "in full",
        ),
        (None, false) => (
            format!("palisade report run {name} --to {name}.json"),
            "a form that can be verified",
        ),
    }]);
}

/// Prints what is signed of a package, and by whom.
pub(crate) fn print_signed(package: &Package, seen: &Seen) {
    let signed = clean(package.signed());
    let checkpoint = package.checkpoint();
    line(&format!(
        "{}: {} of {}, each proven to be in the log; {}, all as signed at {signed}",
        paint(GOOD.bold(), "✓ signed"),
        count(package.records(), "record", "records"),
        clean(&checkpoint.origin),
        count(package.files().count(), "file", "files"),
    ));
    let size = seen.records.unwrap_or_default();
    for (name, time_s) in &seen.cosigned {
        line(&format!(
            "  cosigned by {} at {}: {} of this log",
            clean(name),
            proof::moment(*time_s),
            count(size, "record", "records"),
        ));
    }
    if !seen.unverified.is_empty() {
        let names = clean(&seen.unverified.join(", "));
        let said = format!("  as it says also by {names}, which was not verified: --witness KEY");
        line(&paint(DIM, said));
    }
}

/// Prints what came of making a report again.
pub(crate) fn print_checked(report: &Report, checked: &Checked) {
    let things = ("figure, point or row", "figures, points and rows");
    print_again(report, checked, things, "from the log");
}

/// Prints what came of making again what follows from a report and its records.
pub(crate) fn print_texts(report: &Report, checked: &Checked) {
    print_again(
        report,
        checked,
        ("text", "texts"),
        "from report and records",
    );
}

fn print_again(report: &Report, checked: &Checked, (one, many): (&str, &str), from: &str) {
    for difference in checked.differences.iter().take(DIFFERENCES_SHOWN) {
        line(&format!(
            "{} {}, {}",
            paint(BAD.bold(), "✗"),
            clean(&difference.section),
            clean(&difference.what)
        ));
        line(&format!("    report  {}", clean(&difference.report)));
        line(&format!("    log     {}", clean(&difference.log)));
    }
    let told = checked.differences.len();
    let more = u64::try_from(told.saturating_sub(DIFFERENCES_SHOWN)).unwrap_or(u64::MAX);
    match more.saturating_add(checked.more) {
        0 => {}
        n => line(&paint(BAD, format!("  and {} more", thousands(n)))),
    }
    if !checked.checkpoint {
        line(&format!(
            "{} the checkpoint is not one that this log signed and still begins with",
            paint(BAD.bold(), "✗")
        ));
    }
    let title = clean(&report.title);
    let compared = count(checked.compared, one, many);
    let but = match checked.momentary.is_empty() && checked.not_compared.is_empty() {
        true => "",
        false => "; but for what is named below",
    };
    line(&match checked.holds() {
        true => format!(
            "{}: {title}: {compared} made again {from}, all the same{but}",
            paint(GOOD.bold(), "✓ holds")
        ),
        false => format!(
            "{}: {title}: {compared} made again {from}",
            paint(BAD.bold(), "✗ does not hold")
        ),
    });
    if !checked.momentary.is_empty() {
        line(&paint(
            DIM,
            format!(
                "only their texts compared, because they describe the log as it was then: {}",
                clean(&checked.momentary.join(", "))
            ),
        ));
    }
    for moved in checked.moved.iter().take(MOVED_SHOWN) {
        line(&paint(
            WARN,
            format!(
                "not as it was: {}, {}: then {}, now {}",
                clean(&moved.section),
                clean(&moved.what),
                then(&moved.report),
                then(&moved.log)
            ),
        ));
    }
    match checked.moved.len().saturating_sub(MOVED_SHOWN) {
        0 => {}
        more => line(&paint(WARN, format!("  and {more} more, with `-o json`"))),
    }
    print_not_compared(&checked.not_compared);
}

/// What was not compared, and why.
pub(crate) fn print_not_compared(not_compared: &[String]) {
    for what in not_compared {
        line(&paint(WARN, format!("not compared: {}", clean(what))));
    }
}

/// What was or is said, where that is nothing, too.
fn then(said: &str) -> String {
    match said {
        "" => "nothing".to_owned(),
        said => clean(said),
    }
}
