//! Records and reports about them, as `palisade audit` prints them.

use std::collections::BTreeSet;

use anstyle::Style;
use serde_json::Value;

use super::{
    BAD, DIM, GOOD, NAME, STRONG, WARN, count, faithful, json, line, next, paint, screen,
    snippet::clean,
    summaries,
    table::{self, col},
    thousands,
};
use crate::{
    cli::{short_id, short_service},
    run::audit::Found,
};

/// Findings of a verification that are printed one by one.
const FINDINGS_SHOWN: usize = 10;
/// Characters of an id that tell it from every other in practice: its millisecond, and
/// whose record it is.
const ID_LEN_MIN: usize = 16;
/// Policies that a row names.
const POLICIES_SHOWN: usize = 2;

/// Prints the answer to a query: rows, counts, or a timeline.
pub(crate) fn print_answer(answer: &Value, query: &str) {
    if let Some(rows) = answer.get("rows").and_then(Value::as_array) {
        print_rows(rows);
        print_total(answer, rows.len());
        print_next(answer, rows, query);
    } else if let Some(groups) = answer.get("groups").and_then(Value::as_array) {
        summaries::print_groups(answer, groups);
    } else if let Some(steps) = answer.get("steps").and_then(Value::as_array) {
        summaries::print_steps(steps);
    } else {
        json(answer);
    }
    summaries::print_coverage(answer);
}

/// Prints records one below the other, aligned.
fn print_rows(rows: &[Value]) {
    if rows.is_empty() {
        return;
    }
    let mut out = table::Table::new(&[
        col("TIME (UTC)"),
        col(""),
        col("FROM"),
        col("TO"),
        col("WHAT").short(),
        col("WHY").short(),
        col("STATUS").right().optional(),
        col("ID").cut(ID_LEN_MIN),
    ]);
    for row in rows {
        out.row(cells(row));
    }
    out.print();
}

/// Prints one record on one line, as it arrives.
pub(crate) fn print_row(row: &Value) {
    if let Some(n) = row.get("skipped").and_then(Value::as_u64) {
        return line(&paint(
            WARN,
            format!(
                "… {} records were skipped: they came faster than they could be shown",
                thousands(n)
            ),
        ));
    }
    if let Some(at) = row.get("unreadable").and_then(Value::as_u64) {
        return line(&paint(
            BAD,
            format!("✗ record {at} of the log cannot be read: palisade audit verify"),
        ));
    }
    let [time, verdict, from, to, what, why, status, id] = columns(row);
    let (style, _) = standing(row);
    let verdict = format!("{verdict:<7}");
    let edge = format!("{:<20}", format!("{from} → {to}"));
    let status = if status.is_empty() {
        status
    } else {
        format!("  {status}")
    };
    let rest = format!("{what:<27}  {why}{status}");
    let width = screen::width().unwrap_or(usize::MAX);
    let id = match width {
        0..110 => id.chars().take(ID_LEN_MIN).collect(),
        _ => id,
    };
    let taken = [&time, &verdict, &edge, &id].map(|t| t.chars().count() + 2);
    let rest = screen::fit(&rest, width.saturating_sub(taken.iter().sum()));
    line(&format!(
        "{}  {}  {edge}  {}  {rest}",
        paint(DIM, time),
        paint(style.bold(), verdict),
        paint(DIM, id),
    ));
}

fn cells(row: &Value) -> [table::Cell; 8] {
    let (style, _) = standing(row);
    let [time, verdict, from, to, what, why, status, id] = columns(row);
    [
        table::styled(DIM, time),
        table::styled(style.bold(), verdict),
        from.into(),
        to.into(),
        what.into(),
        why.into(),
        status.into(),
        table::styled(DIM, id),
    ]
}

fn columns(row: &Value) -> [String; 8] {
    let (_, word) = standing(row);
    let who = ["principal", "actor", "spiffe_id"]
        .iter()
        .map(|k| text(row, k))
        .find(|t| !t.is_empty());
    // What a refused certificate claimed must not look like what another one proved.
    let who = match text(row, "claimed") {
        "" => short_id(who.unwrap_or_default()).to_owned(),
        claimed => format!("{claimed}?"),
    };
    let object = ["service", "object", "listener", "reporter"]
        .iter()
        .map(|k| text(row, k))
        .find(|t| !t.is_empty());
    let what = match text(row, "method") {
        "" => text(row, "verb").to_owned(),
        method => format!("{method} {}", text(row, "path")),
    };
    let policies: Vec<&str> = row
        .get("policy")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let why = match policies.len() {
        0 => text(row, "reason").replace('_', " "),
        n => {
            let named: Vec<&str> = policies.into_iter().take(POLICIES_SHOWN).collect();
            let more = n - named.len();
            let more = if more > 0 {
                format!(" +{more}")
            } else {
                String::new()
            };
            named.join(", ") + &more
        }
    };
    let status = row
        .get("status")
        .and_then(Value::as_u64)
        .map_or(String::new(), |s| s.to_string());
    [
        clean(&time_of_day(text(row, "time"))),
        clean(&word),
        clean(&who),
        clean(short_service(object.unwrap_or_default())),
        clean(&what),
        clean(&why),
        status,
        clean(text(row, "id")),
    ]
}

/// The word for what a record says, and its style.
/// How a record stands, in a word, and its colour.
pub(crate) fn standing(row: &Value) -> (Style, String) {
    match text(row, "decision") {
        "allow" => (GOOD, "ALLOW".into()),
        "forbidden" | "not_permitted" => (BAD, "DENY".into()),
        "undecided" => (WARN, "FAULT".into()),
        "refused" => (WARN, "REFUSED".into()),
        _ => (STRONG, text(row, "class").to_owned()),
    }
}

/// `2026-11-20T12:04:11.482931Z` as `12:04:11.482`, with the date where it is not today's.
fn time_of_day(time: &str) -> String {
    let (date, clock) = time.split_once('T').unwrap_or(("", time));
    let clock: String = clock.trim_end_matches('Z').chars().take(12).collect();
    if date
        == jiff::Zoned::now()
            .with_time_zone(jiff::tz::TimeZone::UTC)
            .date()
            .to_string()
    {
        clock
    } else {
        format!("{date} {clock}")
    }
}

fn print_total(answer: &Value, shown: usize) {
    let total = answer.get("total");
    let count = total
        .and_then(|t| t.get("count"))
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let at_least = total
        .and_then(|t| t.get("relation"))
        .and_then(Value::as_str)
        == Some("at_least");
    let total = format!(
        "{}{}",
        thousands(count),
        if at_least { " or more" } else { "" }
    );
    let took = answer
        .get("took_us")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let records = if count == 1 { "record" } else { "records" };
    let how_many = match shown {
        0 => "no record matches".into(),
        n if u64::try_from(n).is_ok_and(|n| n == count) => format!("{total} {records}"),
        n => format!("the newest {n} of {total} {records}"),
    };
    line(&paint(
        DIM,
        format!("{how_many} · {}.{} ms", took / 1000, took / 100 % 10),
    ));
}

/// What one would ask after these rows.
fn print_next(answer: &Value, rows: &[Value], query: &str) {
    let mut steps = Vec::new();
    let decision = rows.iter().find(|r| text(r, "class") == "decision");
    if let Some(decision) = decision {
        steps.push((
            format!("palisade why {}", clean(text(decision, "id"))),
            "the policies and the clause behind it",
        ));
    } else if rows.is_empty() {
        steps.push((
            "palisade audit search 'last:30d'".into(),
            "a day is searched where no time is given",
        ));
    }
    if let Some(cursor) = answer.get("cursor").and_then(Value::as_str) {
        let query = clean(query);
        steps.push((
            format!("palisade audit search '{query}' --cursor {cursor}"),
            "older",
        ));
    }
    next(&steps);
}

/// Prints everything that was recorded under one id.
pub(crate) fn print_found(found: &Found) {
    for row in &found.rows {
        let (style, word) = standing(row);
        line(&format!(
            "{}  {}",
            paint(style.bold(), word),
            paint(DIM, text(row, "id"))
        ));
        print_fields(row);
    }
    line(&if found.checkpointed {
        paint(DIM, "under a signed checkpoint")
    } else {
        paint(WARN, "not under a signed checkpoint yet")
    });
    let decision = found.rows.iter().find(|r| text(r, "class") == "decision");
    if let Some(decision) = decision {
        next(&[(
            format!("palisade why {}", clean(text(decision, "id"))),
            "the policies and the clause behind it",
        )]);
    }
}

/// Prints the fields of a record.
pub(crate) fn print_fields(row: &Value) {
    for (key, value) in row.as_object().into_iter().flatten() {
        print_field(key, value);
    }
}

/// Prints a field as a query names it; an object field by field.
fn print_field(key: &str, value: &Value) {
    let one = |value: &Value| clean(&value.as_str().map_or_else(|| value.to_string(), Into::into));
    let shown = match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                print_field(&format!("{key}.{name}"), value);
            }
            return;
        }
        Value::Array(items) => items.iter().map(one).collect::<Vec<_>>().join(", "),
        other => one(other),
    };
    let key = paint(NAME, format!("{:<16}", clean(key)));
    line(&format!("  {key}  {shown}"));
}

/// Whether a verification found every signed byte as it was signed, and every decision as its
/// policies say where these were made again.
pub(crate) fn is_verified(report: &Value) -> bool {
    is_signed(report) && report.get("replay").is_none_or(faithful::holds)
}

fn is_signed(report: &Value) -> bool {
    // The list names so many; of those of before there is no count.
    let counted = report.get("errors").and_then(Value::as_u64);
    counted.unwrap_or_default() == 0 && errors(report).next().is_none()
}

fn errors(report: &Value) -> impl Iterator<Item = &Value> {
    findings(report).filter(|f| text(f, "severity") == "error")
}

fn findings(report: &Value) -> impl Iterator<Item = &Value> {
    let findings = report.get("findings").and_then(Value::as_array);
    findings.into_iter().flatten()
}

/// Prints the report of a verification.
pub(crate) fn print_verified(report: &Value) {
    let number = |key: &str| report.get(key).and_then(Value::as_u64).unwrap_or_default();
    let warnings = || findings(report).filter(|f| text(f, "severity") != "error");
    for (style, mark, found) in [
        (BAD, "✗", errors(report).collect::<Vec<_>>()),
        (WARN, "!", warnings().collect()),
    ] {
        for finding in found.iter().take(FINDINGS_SHOWN) {
            print_finding(&paint(style, mark), finding);
        }
        let more = found.len().saturating_sub(FINDINGS_SHOWN);
        if more > 0 {
            line(&paint(style, format!("  and {more} more")));
        }
    }
    let checkpoint = report.get("checkpoint");
    let root = checkpoint.map_or("", |c| text(c, "root"));
    let signed = checkpoint.map_or("", |c| text(c, "time"));
    let read = format!(
        "{} in {}, {}",
        count(number("records"), "record", "records"),
        count(number("segments"), "segment", "segments"),
        count(
            number("checkpoints"),
            "signed checkpoint",
            "signed checkpoints"
        ),
    );
    if is_signed(report) {
        line(&format!(
            "{}: {read}; every byte is as it was signed",
            paint(GOOD.bold(), "✓ verified")
        ));
    } else {
        let why = why_not(&errors(report).map(|f| text(f, "kind")).collect::<Vec<_>>());
        let told = paint(BAD.bold(), "✗ not verified");
        line(&format!("{told}: {read}; {why}"));
    }
    if !root.is_empty() {
        for (name, value) in [
            ("log", text(report, "origin")),
            ("signed", signed),
            ("root", root),
        ] {
            line(&paint(DIM, format!("  {name:<7} {}", clean(value))));
        }
    }
    if number("dropped") > 0 {
        let why = match is_signed(report) {
            true => " when their time was over, as signed records say",
            false => "",
        };
        let dropped = thousands(number("dropped"));
        line(&format!("  {dropped} of them were dropped{why}"));
    }
    if number("moved") > 0 {
        let moved = count(number("moved"), "segment", "segments");
        line(&format!("  {moved} read in the archive"));
    }
    if number("unread") > 0 {
        let unread = count(number("unread"), "record", "records");
        line(&format!("  {unread} in the archive were not read"));
    }
    if number("unsigned") > 0 {
        line(&paint(
            DIM,
            format!(
                "  {} since then, for the next checkpoint",
                count(number("unsigned"), "newer record", "newer records")
            ),
        ));
    }
    print_streams(report);
    print_ends(report);
    print_earlier(report);
    print_certificates(report);
    if let Some(replay) = report.get("replay") {
        faithful::print(replay);
    }
}

/// Checkpoints from before that the log continues; what it does not continue is a finding.
fn print_earlier(report: &Value) {
    let earlier = report.get("earlier").and_then(Value::as_array);
    for one in earlier.into_iter().flatten() {
        let size = one.get("size").and_then(Value::as_u64).unwrap_or_default();
        let of = format!(
            "{} ({}, signed {})",
            clean(text(one, "name")),
            count(size, "record", "records"),
            clean(text(one, "time")),
        );
        match text(one, "standing") {
            "continued" => line(&format!("  continues {of}")),
            "not_compared" => line(&paint(WARN, format!("  ! not compared with {of}"))),
            _ => {}
        }
    }
}

/// Certificates that were issued and with which nothing was signed, by identity.
fn print_certificates(report: &Value) {
    let certificates = report.get("certificates");
    let without = certificates.and_then(|c| c.get("without"));
    let without = without.and_then(Value::as_array).into_iter().flatten();
    let mut by_identity: Vec<(&str, usize, &str)> = Vec::new();
    for one in without {
        let (id, issued) = (text(one, "spiffe_id"), text(one, "issued"));
        match by_identity.last_mut() {
            Some((last, n, newest)) if *last == id => (*n, *newest) = (*n + 1, issued),
            _ => by_identity.push((id, 1, issued)),
        }
    }
    for (id, n, newest) in by_identity.iter().take(FINDINGS_SHOWN) {
        let issued = count(*n, "certificate issued", "certificates issued");
        line(&paint(
            WARN,
            format!(
                "  ! {issued}, no records: {}, the last {}",
                clean(id),
                clean(newest)
            ),
        ));
    }
    let more = by_identity.len().saturating_sub(FINDINGS_SHOWN);
    if more > 0 {
        line(&paint(
            WARN,
            format!("  and those of {more} more identities"),
        ));
    }
    let unknown = certificates.and_then(|c| c.get("unknown"));
    if let Some(unknown @ 1..) = unknown.and_then(Value::as_u64) {
        let issued = count(unknown, "certificate issued", "certificates issued");
        line(&format!("  {issued} of which records may be among those"));
    }
    let unrecorded = certificates.and_then(|c| c.get("unrecorded"));
    if let Some(unrecorded @ 1..) = unrecorded.and_then(Value::as_u64) {
        let heads = count(unrecorded, "signed head rests", "signed heads rest");
        line(&format!(
            "  {heads} on certificates whose issue is not in the log"
        ));
    }
}

/// What is wrong, by the kinds of what was found: what was not read is not known to be damaged.
fn why_not(kinds: &[&str]) -> &'static str {
    let archived = |kind: &&str| ["archive", "unread"].contains(kind);
    if !kinds.iter().all(archived) {
        "the log is not what was signed"
    } else if kinds.contains(&"archive") {
        "segments in the archive are missing, or not what was signed"
    } else {
        "what was read is as it was signed, and segments in the archive could not be read"
    }
}

fn print_finding(mark: &str, finding: &Value) {
    let at = |key: &str| {
        finding
            .get(key)
            .and_then(Value::as_u64)
            .map(|n| format!(" {key} {n}"))
            .unwrap_or_default()
    };
    line(&format!(
        "{mark} {}{}{}: {}",
        clean(text(finding, "file")),
        at("offset"),
        at("leaf"),
        clean(text(finding, "what"))
    ));
    if let Some(record) = finding.get("record") {
        line(&format!(
            "      record {} ({}) of {}, number {}",
            super::strong(clean(text(record, "id"))),
            clean(text(record, "class")),
            clean(text(record, "reporter")),
            record
                .get("sequence")
                .and_then(Value::as_u64)
                .unwrap_or_default(),
        ));
    }
    for key in ["stored", "computed"] {
        match text(finding, key) {
            "" => {}
            value => line(&format!(
                "      {}  {}",
                paint(NAME, format!("{key:<8}")),
                clean(value)
            )),
        }
    }
}

fn print_streams(report: &Value) {
    let streams: Vec<&Value> = report
        .get("streams")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .collect();
    let missing: Vec<&&Value> = streams
        .iter()
        .filter(|s| {
            s.get("missing")
                .and_then(Value::as_array)
                .is_some_and(|m| !m.is_empty())
        })
        .collect();
    if missing.is_empty() && report.get("unread").is_some_and(|n| n.as_u64() > Some(0)) {
        return line(&paint(
            WARN,
            "  whether numbers are missing from streams is not known: not all was read",
        ));
    }
    if missing.is_empty() {
        return line(&paint(
            DIM,
            format!(
                "  {} of records, no number missing",
                count(streams.len(), "stream", "streams")
            ),
        ));
    }
    for stream in missing {
        let gaps = stream
            .get("missing")
            .map(Value::to_string)
            .unwrap_or_default();
        line(&paint(
            WARN,
            format!(
                "  ! {} boot {} lacks {gaps}",
                clean(text(stream, "reporter")),
                text(stream, "boot")
            ),
        ));
    }
}

/// Starts that ended without a last word, and those of which only another one tells.
fn print_ends(report: &Value) {
    let streams = report.get("streams").and_then(Value::as_array);
    let is = |stream: &Value, key: &str| stream.get(key).and_then(Value::as_bool) == Some(true);
    let start = |of: &Value| (text(of, "reporter").to_owned(), text(of, "boot").to_owned());
    let streams = streams.into_iter().flatten();
    let ended = streams.filter(|s| is(s, "superseded") && !is(s, "closed"));
    let ended: BTreeSet<_> = ended.map(start).collect();
    let absent = report.get("absent").and_then(Value::as_array);
    let absent: BTreeSet<_> = absent.into_iter().flatten().map(start).collect();
    for (starts, what) in [
        (
            &ended,
            "ended without a last word: what it had not written is lost",
        ),
        (
            &absent,
            "is named by a later start, and the log has nothing of it",
        ),
    ] {
        for (reporter, boot) in starts.iter().take(FINDINGS_SHOWN) {
            let start = format!("  ! {} boot {} {what}", clean(reporter), clean(boot));
            line(&paint(WARN, start));
        }
        let more = starts.len().saturating_sub(FINDINGS_SHOWN);
        if more > 0 {
            let starts = count(more, "start more", "starts more");
            line(&paint(WARN, format!("  ! and {starts}, which {what}")));
        }
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T93: every text of a record may come from a hostile reporter.
    #[test]
    fn no_cell_of_a_row_steers_the_terminal() {
        let evil = "x\u{1b}[2J\n\u{202e}";
        let keys = [
            "time",
            "decision",
            "class",
            "claimed",
            "principal",
            "service",
            "method",
            "path",
            "reason",
            "id",
        ];
        let mut row: serde_json::Map<String, Value> = keys
            .iter()
            .map(|k| ((*k).to_owned(), evil.into()))
            .collect();
        row.insert("policy".into(), vec![evil].into());
        let cells = columns(&Value::Object(row));
        for cell in &cells {
            let steers = |c: char| c.is_control() || c == '\u{202e}';
            assert!(!cell.contains(steers), "{cell:?}");
        }
        assert!(cells.iter().any(|c| c.ends_with('?')), "{cells:?}");
    }
}
