//! What a candidate changes of recorded decisions, as `policy impact` prints it.

use std::fmt::Write;

use palisade_mesh::diagnostic::Diagnostic;

use super::{
    BAD, DIM, GOOD, Output, WARN, count, diagnostics, line, next, paint,
    report::{Grid, markdown},
    snippet::clean,
    strong,
    table::{self, col},
    thousands,
};
use crate::{
    cli::policy::impact::Report,
    history::{
        Covered,
        flips::{Edge, Group, Side},
    },
};

/// Groups that are printed one by one.
const GROUPS_SHOWN: usize = 10;

/// Prints a report for people.
pub(crate) fn print(report: &Report) {
    line(&headline(report));
    let flips = &report.flips;
    print_side("newly denied", &flips.newly_denied, BAD);
    print_side("newly allowed", &flips.newly_allowed, WARN);
    let other = match flips.other_reason {
        0 => String::new(),
        n => paint(
            DIM,
            format!("   {} of them for another reason", thousands(n)),
        ),
    };
    line(&format!(
        "{}{other}",
        number("unchanged", flips.unchanged, GOOD)
    ));
    let lacking = &flips.not_replayable;
    line(&number("not replayable", lacking.count, WARN));
    for (cause, group) in &lacking.causes {
        line(&format!(
            "    {:>9}  {}",
            thousands(group.count),
            clean(cause)
        ));
    }
    line(&paint(DIM, read(&report.covered)));
    if lacking.count > 0 {
        diagnostics(Output::Human, &[incomplete(report)]);
    }
    if report.covered.interrupted {
        line(&paint(
            WARN,
            "interrupted: what was not read is not counted",
        ));
    }
    for failed in &report.failed {
        line(&format!("{} {failed}", paint(BAD, "✗")));
    }
    let sides = [&flips.newly_denied, &flips.newly_allowed];
    let first = sides
        .into_iter()
        .find_map(|side| side.largest().first()?.1.samples.first());
    if let Some(id) = first {
        let hint = match &report.folder {
            Some(dir) => (
                format!("palisade why {id} --policies {}", dir.display()),
                "one of them under the candidate, clause by clause",
            ),
            None => (
                format!("palisade why {id}"),
                "one of them as it was decided, clause by clause",
            ),
        };
        next(&[hint]);
    }
}

fn headline(report: &Report) -> String {
    let flips = &report.flips;
    let share = match report.sample {
        Some(n) if n > 1 => format!(" (one in {})", thousands(n)),
        _ => String::new(),
    };
    format!(
        "replayed {}{share} in {} with the production engine, {} evaluated\n{}",
        strong(count(flips.decisions, "decision", "decisions")),
        duration(report.took_ms),
        thousands(report.evaluated),
        paint(
            DIM,
            format!(
                "candidate {} sha256:{}, compared with {}",
                clean(&report.candidate),
                report.digest.get(..8).unwrap_or_default(),
                clean(&report.against)
            )
        ),
    )
}

fn duration(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{:02} s", ms / 1000, ms % 1000 / 10),
        _ => super::duration(std::time::Duration::from_millis(ms)),
    }
}

fn number(what: &str, n: u64, style: anstyle::Style) -> String {
    let n_text = format!("{:>12}", thousands(n));
    let n_text = if n == 0 { n_text } else { paint(style, n_text) };
    format!("  {what:<15}{n_text}")
}

fn print_side(what: &str, side: &Side, style: anstyle::Style) {
    line(&number(what, side.count, style));
    let groups = side.largest();
    if groups.is_empty() {
        return;
    }
    let mut rows = table::Table::new(&[
        col("   "),
        col("").right(),
        col("FROM").short(),
        col("ACTION"),
        col("TO").short(),
        col("BY").short(),
        col("SAMPLE").cut(16),
    ]);
    for (edge, group) in groups.iter().take(GROUPS_SHOWN) {
        rows.row([
            "".into(),
            thousands(group.count).into(),
            edge.from.as_str().into(),
            edge.action.as_str().into(),
            edge.to.as_str().into(),
            by(edge).into(),
            table::styled(DIM, group.samples.first().map_or("", String::as_str)),
        ]);
    }
    rows.print();
    if let Some(rest) = rest(side, &groups) {
        line(&paint(DIM, format!("    {rest}")));
    }
}

/// Why a group changed.
fn by(edge: &Edge) -> String {
    let policies = edge.policies.join(", ");
    match edge.reason {
        "no_permit" if policies.is_empty() => "no permit matches".to_owned(),
        "no_permit" => format!("no more by {policies}"),
        "forbidden" | "permitted" => policies,
        reason => format!("{reason} {policies}").trim_end().to_owned(),
    }
}

/// What of a side is not shown.
fn rest(side: &Side, groups: &[(&Edge, &Group)]) -> Option<String> {
    let hidden = groups.iter().skip(GROUPS_SHOWN);
    let decisions: u64 = hidden.map(|(_, group)| group.count).sum();
    let decisions = decisions + side.ungrouped;
    (decisions > 0).then(|| format!("and {} more in other groups", thousands(decisions)))
}

/// Where the decisions came from, and from when.
pub(crate) fn read(covered: &Covered) -> String {
    let at = |us: Option<i64>| us.and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    let mut text = format!("read from {}", clean(&covered.origin));
    let begins = at(covered.begins_us);
    if let Some(from) = at(covered.from_us) {
        let from = begins.map_or(from, |begins| from.max(begins));
        let _ = write!(text, ", since {from:.0}");
    } else if let Some(begins) = begins {
        let _ = write!(text, ", since {begins:.0}");
    }
    if let (Some(from), Some(begins)) = (at(covered.from_us), begins)
        && begins > from
    {
        text.push_str(", since when the log has all of them");
    }
    text
}

/// That some of what was asked is not known.
fn incomplete(report: &Report) -> Diagnostic {
    let flips = &report.flips;
    let lacking = flips.not_replayable.count;
    let message = format!(
        "{} of {} decisions cannot be replayed exactly",
        thousands(lacking),
        thousands(flips.decisions)
    );
    let percent = lacking as f64 * 100.0 / flips.decisions.max(1) as f64;
    let causes = flips.not_replayable.causes.iter();
    let largest = causes.max_by_key(|(_, group)| group.count);
    Diagnostic::warning(2207, message)
        .cause(largest.map_or_else(String::new, |(cause, _)| cause.clone()))
        .help(format!(
            "the counts may be off by at most {percent:.3} %; they are counted, never guessed"
        ))
}

/// Prints a report for a comment on a pull request.
pub(crate) fn print_markdown(report: &Report) {
    let flips = &report.flips;
    let mark = match report.failed.is_empty() {
        true => "✅",
        false => "❌",
    };
    line(&format!("### {mark} Impact on recorded decisions\n"));
    line("| newly denied | newly allowed | unchanged | not replayable |");
    line("|---:|---:|---:|---:|");
    line(&format!(
        "| {} | {} | {} | {} |\n",
        thousands(flips.newly_denied.count),
        thousands(flips.newly_allowed.count),
        thousands(flips.unchanged),
        thousands(flips.not_replayable.count)
    ));
    for (what, side) in [
        ("Newly denied", &flips.newly_denied),
        ("Newly allowed", &flips.newly_allowed),
    ] {
        markdown_side(what, side);
    }
    if flips.not_replayable.count > 0 {
        line("<details><summary>Not replayable</summary>\n");
        for (cause, group) in &flips.not_replayable.causes {
            line(&format!(
                "- {}: {}",
                thousands(group.count),
                markdown::escape(cause)
            ));
        }
        line("\n</details>\n");
    }
    for failed in &report.failed {
        line(&format!("**{}**\n", markdown::escape(failed)));
    }
    line(&format!(
        "<sub>{} replayed with the production engine in {}, compared with {}; {}.</sub>",
        count(flips.decisions, "decision", "decisions"),
        duration(report.took_ms),
        markdown::escape(&report.against),
        markdown::escape(&read(&report.covered)),
    ));
}

/// A side's groups as a table.
fn markdown_side(what: &str, side: &Side) {
    let groups = side.largest();
    let shown = groups.iter().take(GROUPS_SHOWN);
    let grid = Grid {
        title: what.to_owned(),
        head: vec!["decisions", "from", "action", "to", "by", "sample"],
        rows: shown
            .map(|(edge, group)| {
                let sample = group.samples.first().cloned().unwrap_or_default();
                let (from, action) = (edge.from.clone(), edge.action.clone());
                vec![
                    thousands(group.count),
                    from,
                    action,
                    edge.to.clone(),
                    by(edge),
                    sample,
                ]
            })
            .collect(),
    };
    let mut text = String::new();
    markdown::table(&grid, &mut text);
    if let Some(rest) = rest(side, &groups) {
        text.push_str(&format!("\n{rest}\n"));
    }
    if !text.is_empty() {
        line(&text);
    }
}
