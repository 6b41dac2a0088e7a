//! Drafted permits, as `policy suggest` prints them: the patch to standard output, words
//! about it to standard error, so that the former can be piped into `git apply`.

use super::{DIM, GOOD, WARN, count, impact, line, note, paint, snippet::clean, strong, thousands};
use crate::{
    cli::policy::suggest::{Permit, Report},
    history::flips::short,
};

/// Prints a report for people.
pub(crate) fn print(report: &Report) {
    for permit in &report.permits {
        note(&told(permit));
    }
    if report.permits.is_empty() {
        note("nothing to draft: no denial was found that a permit could turn");
    } else {
        let also = match report.also_allows {
            0 => paint(GOOD, "and nothing else that was recorded"),
            n => paint(WARN, format!("and {} others", thousands(n))),
        };
        note(&format!(
            "replayed: {} would be allowed, {also}",
            count(report.allows, "denial", "denials")
        ));
    }
    for (why, n) in &report.left {
        note(&paint(DIM, format!("left out: {}, {why}", thousands(*n))));
    }
    note(&paint(DIM, impact::read(&report.covered)));
    if !report.patch.is_empty() {
        line(report.patch.trim_end());
    }
}

fn told(permit: &Permit) -> String {
    let actions: Vec<&str> = permit.wish.actions.iter().map(String::as_str).collect();
    format!(
        "{}  {} → {} {}  {}",
        strong(clean(&permit.id)),
        clean(short(&permit.wish.from)),
        clean(&actions.join(", ")),
        clean(short(&permit.wish.operation)),
        paint(DIM, count(permit.denials, "denial", "denials"))
    )
}
