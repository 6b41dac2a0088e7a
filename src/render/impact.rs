//! What a candidate changes of recorded decisions, as `policy impact` prints it.

use std::fmt::Write;

use palisade_mesh::diagnostic::Diagnostic;

use super::{
    BAD, DIM, GOOD, WARN,
    comparison::without,
    count, next, paint,
    report::Grid,
    screen,
    snippet::clean,
    strong,
    table::{self, col},
    thousands,
};
use crate::{
    cli::policy::impact::Report,
    history::{
        Covered,
        flips::{Edge, Group, Lacks, Side},
    },
};

/// Groups that are told one by one.
const GROUPS_SHOWN: usize = 10;

/// What is said of requests to services that only the candidate has.
pub(crate) const NEWLY_SERVED: &str =
    "of services that the revision compared with does not have, which so allows nothing there";

/// A report for people.
pub(crate) fn lines(report: &Report) -> Vec<String> {
    let flips = &report.flips;
    let mut out = vec![headline(report)];
    let absent = report.absent.iter();
    out.extend(absent.map(|a| paint(WARN, clean(&without(a)))));
    tell_side("newly denied", &flips.newly_denied, BAD, "", &mut out);
    let served = match flips.newly_served {
        0 => String::new(),
        n => format!("   {} of them {NEWLY_SERVED}", thousands(n)),
    };
    tell_side(
        "newly allowed",
        &flips.newly_allowed,
        WARN,
        &served,
        &mut out,
    );
    let other = match flips.other_reason {
        0 => String::new(),
        n => format!("   {} of them for another reason", thousands(n)),
    };
    tell_side("unchanged", &flips.unchanged, GOOD, &other, &mut out);
    tell_causes("not replayable", &flips.not_replayable, &mut out);
    if flips.broken.count > 0 {
        tell_causes("broken", &flips.broken, &mut out);
    }
    out.push(paint(DIM, read(&report.covered)));
    if report.covered.interrupted {
        let text = "interrupted: what was not read is not counted";
        out.push(paint(WARN, text));
    }
    let failed = report.failed.iter();
    out.extend(failed.map(|failed| format!("{} {failed}", paint(BAD, "✗"))));
    out
}

/// Prints how one of the changed decisions is looked at.
pub(crate) fn hint(report: &Report) {
    let sides = [&report.flips.newly_denied, &report.flips.newly_allowed];
    let first = sides
        .into_iter()
        .find_map(|side| side.largest().first()?.1.samples.first());
    let Some(id) = first else {
        return;
    };
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

fn tell_side(what: &str, side: &Side, style: anstyle::Style, note: &str, out: &mut Vec<String>) {
    out.push(format!(
        "{}{}",
        number(what, side.count, style),
        paint(DIM, note)
    ));
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
    out.extend(rows.lines(screen::width()));
    let rest = rest(side, &groups);
    out.extend(rest.map(|rest| paint(DIM, format!("    and {rest} more in other groups"))));
}

fn tell_causes(what: &str, lacks: &Lacks, out: &mut Vec<String>) {
    out.push(number(what, lacks.count, WARN));
    let causes = lacks.causes.iter();
    out.extend(causes.map(|(cause, group)| {
        let count = thousands(group.count);
        let sample = group.samples.first().map_or_else(String::new, |id| {
            paint(DIM, format!("  such as {}", clean(id)))
        });
        format!("    {count:>9}  {}{sample}", clean(cause))
    }));
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

/// How many decisions of a side are in groups that are not shown.
fn rest(side: &Side, groups: &[(&Edge, &Group)]) -> Option<String> {
    let hidden = groups.iter().skip(GROUPS_SHOWN);
    let decisions: u64 = hidden.map(|(_, group)| group.count).sum();
    let decisions = decisions + side.ungrouped;
    (decisions > 0).then(|| thousands(decisions))
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
pub(crate) fn incomplete(report: &Report) -> Option<Diagnostic> {
    let flips = &report.flips;
    let lacking = flips.not_replayable.count;
    let message = format!(
        "{} of {} decisions cannot be replayed exactly",
        thousands(lacking),
        thousands(flips.decisions)
    );
    let percent = lacking as f64 * 100.0 / flips.decisions.max(1) as f64;
    let told = Diagnostic::warning(2207, message)
        .cause(flips.not_replayable.largest().unwrap_or_default())
        .help(format!(
            "the counts may be off by at most {percent:.3} %; have a policy of @mode(\"shadow\") read what the records lack, and replay what is recorded from then on"
        ));
    (lacking > 0).then_some(told)
}

/// A report as tables, for pull requests.
pub(crate) fn tables(report: &Report) -> Vec<Grid> {
    let flips = &report.flips;
    let counts = Grid {
        title: format!(
            "{} made again, compared with {}; {}",
            count(flips.decisions, "recorded decision", "recorded decisions"),
            report.against,
            read(&report.covered)
        ),
        head: vec![
            "newly denied",
            "newly allowed",
            "unchanged",
            "not replayable",
            "broken",
        ],
        rows: vec![
            [
                flips.newly_denied.count,
                flips.newly_allowed.count,
                flips.unchanged.count,
                flips.not_replayable.count,
                flips.broken.count,
            ]
            .map(thousands)
            .to_vec(),
        ],
    };
    vec![
        counts,
        grid("Newly denied", &flips.newly_denied),
        grid("Newly allowed", &flips.newly_allowed),
        grid("Unchanged", &flips.unchanged),
        causes("Not replayable", &flips.not_replayable),
        causes("Broken", &flips.broken),
    ]
}

/// A side's groups as a table.
fn grid(what: &str, side: &Side) -> Grid {
    let groups = side.largest();
    let shown = groups.iter().take(GROUPS_SHOWN).map(|(edge, group)| {
        vec![
            thousands(group.count),
            edge.from.clone(),
            edge.action.clone(),
            edge.to.clone(),
            by(edge),
            group.samples.first().cloned().unwrap_or_default(),
        ]
    });
    let rest = rest(side, &groups).map(|rest| {
        let mut row = vec![String::new(); 6];
        if let [count, from, ..] = row.as_mut_slice() {
            (*count, *from) = (rest, "others".to_owned());
        }
        row
    });
    Grid {
        title: what.to_owned(),
        head: vec!["decisions", "from", "action", "to", "by", "sample"],
        rows: shown.chain(rest).collect(),
    }
}

fn causes(what: &str, lacks: &Lacks) -> Grid {
    let rows = lacks.causes.iter();
    Grid {
        title: what.to_owned(),
        head: vec!["decisions", "cause", "sample"],
        rows: rows
            .map(|(cause, group)| {
                let sample = group.samples.first().cloned().unwrap_or_default();
                vec![thousands(group.count), cause.clone(), sample]
            })
            .collect(),
    }
}
