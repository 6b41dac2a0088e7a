//! What the log itself is: whole, complete, on time.

use std::collections::BTreeMap;

use super::{of_groups, of_rows, share};
use crate::{
    index::StoreError,
    query::time::rfc3339,
    report::{
        evidence::{DAY_US, Evidence},
        model::{CellKind, Section, Table},
    },
    retention::{days_of, kept_for, left_of, segment_of},
};

/// Findings of a verification that are shown.
const FINDINGS_MAX: usize = 50;

/// Figures that follow from the checkpoint alone.
pub(crate) const SIZE: &str = "records under the checkpoint of this report";
pub(crate) const ROOT: &str = "root";
pub(crate) const SIGNED: &str = "signed";

/// What reads and compares every byte, and says of every stream whether it is complete.
const VERIFY: &str = "palisade audit verify";

/// What the log says before records go.
const DROPPED: &str = "class:log_lifecycle verb:records_dropped";

/// The same, and what it says of those that did not go.
const DROPPED_OR_LEFT: &str = "class:log_lifecycle (verb:records_dropped OR verb:records_left)";

/// What every record of a decision must have to say who, what, when, where from, with
/// what result, and on what (PCI DSS 10.2.2).
const MANDATORY: &[(&str, &str)] = &[
    ("user identification", "principal"),
    ("type of event", "class"),
    ("success or failure", "decision"),
    ("origination", "source"),
    ("affected component", "service"),
    ("affected resource", "resource"),
];

/// Whether the log is what was signed.
pub(crate) fn statement(e: &Evidence<'_>) -> Result<Section, StoreError> {
    let report = e.verified()?;
    let mark = e.mark();
    let section = Section::new(
        "log-integrity",
        "Log integrity",
        "Every byte of the log was read, every record hashed into the Merkle tree (RFC 6962), and every signed checkpoint compared with it. \
         `intact` means that no record below the checkpoint was altered, removed, added or reordered since it was signed. The checkpoint \
         is a signed note (C2SP tlog-checkpoint): whoever holds the log's public key can check it without Palisade.",
    );
    let mut table = Table::new(&[
        ("severity", CellKind::Text),
        ("file", CellKind::Text),
        ("record", CellKind::Number),
        ("finding", CellKind::Text),
    ]);
    table.total = u64::try_from(report.findings.len()).unwrap_or(u64::MAX) + report.findings_more;
    for finding in report.findings.iter().take(FINDINGS_MAX) {
        table.rows.push(vec![
            format!("{:?}", finding.severity).to_lowercase(),
            finding.file.clone(),
            finding.leaf.map(|n| n.to_string()).unwrap_or_default(),
            finding.what.clone(),
        ]);
    }
    let mut section = section
        .figure(
            "result",
            match report.verdict() {
                Some(true) => "intact",
                Some(false) => "NOT INTACT",
                None => "NOT ALL READ",
            },
        )
        .figure("records read", report.records)
        .figure("signed checkpoints", report.checkpoints)
        .figure(SIZE, mark.size)
        .figure(ROOT, &mark.root)
        .figure(SIGNED, &mark.time)
        .figure("public key", &report.key);
    section.table = (!table.rows.is_empty()).then_some(table);
    if report.unread > 0 {
        let unread = report.unread;
        section = section.cannot_show(&format!(
            "{unread} records: their segments are in an archive, and could not be read there"
        ));
    }
    Ok(section
        .cannot_show("that a proxy recorded everything it saw: a proxy that was taken over can keep silent")
        .cannot_show("that nobody else was shown another log, until a witness outside signs its checkpoints, too")
        .command(VERIFY)
        .momentary())
}

/// The result of a verification, with how many streams are complete.
pub(crate) fn verified(e: &Evidence<'_>) -> Result<Section, StoreError> {
    let mut section = statement(e)?;
    let streams = streams(e, 0)?;
    section.figures.extend(streams.figures);
    section.commands = streams.commands;
    Ok(section)
}

/// Whether every number of every stream has arrived.
pub(crate) fn streams(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let report = e.verified()?;
    let mut section = Section::new(
        "streams",
        "Streams and their numbers",
        "Each worker of each start of a reporter numbers its records without a gap. A number that is missing here was given to a record \
         that has not arrived; a stream that was not closed and has a successor may have lost its last records.",
    );
    let mut table = Table::new(&[
        ("reporter", CellKind::Text),
        ("boot", CellKind::Text),
        ("worker", CellKind::Number),
        ("records", CellKind::Number),
        ("last number", CellKind::Number),
        ("missing", CellKind::Text),
        ("state", CellKind::Text),
    ]);
    table.total = u64::try_from(report.streams.len()).unwrap_or(u64::MAX);
    let incomplete = report.streams.iter().filter(|s| !s.complete()).count();
    let mut streams: Vec<_> = report.streams.iter().collect();
    // What an auditor looks for comes first.
    streams.sort_by_key(|s| (s.complete(), s.reporter.clone(), s.boot.clone(), s.worker));
    for stream in streams.into_iter().take(most) {
        let missing: Vec<String> = stream.missing.iter().map(ToString::to_string).collect();
        let state = match (stream.closed, stream.superseded) {
            (true, _) => "closed",
            (false, true) => "not closed, and a later start exists",
            (false, false) => "open",
        };
        table.rows.push(vec![
            stream.reporter.clone(),
            stream.boot.clone(),
            stream.worker.to_string(),
            stream.records.to_string(),
            stream.last_sequence.to_string(),
            missing.join(", "),
            state.to_owned(),
        ]);
    }
    section.table = Some(table);
    Ok(section
        .figure("streams", report.streams.len())
        .figure("streams that are not complete", incomplete)
        .command(VERIFY)
        .command(&e.gaps())
        .momentary())
}

/// What the authority has issued, against who has signed heads of streams.
pub(crate) fn certificates(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let found = &e.verified()?.certificates;
    let mut table = Table::new(&[
        ("identity", CellKind::Text),
        ("serial", CellKind::Text),
        ("record", CellKind::Number),
        ("issued", CellKind::Time),
        ("not after", CellKind::Time),
        ("state", CellKind::Text),
    ]);
    table.total = found.silent;
    for one in found.without.iter().take(most) {
        let state = match one.reports {
            true => "certificate issued, no records under it; the identity has others",
            false => "certificate issued, no records",
        };
        table.rows.push(vec![
            one.spiffe_id.clone(),
            one.serial.clone(),
            one.entry.to_string(),
            one.issued.clone(),
            one.not_after.clone(),
            state.to_owned(),
        ]);
    }
    let mut section = Section::new(
        "certificates-and-streams",
        "Certificates without records",
        "Whoever keeps a spool signs every ten seconds, with the certificate it has, how far its streams are. A certificate that was issued and \
         has signed nothing is that of a workload without a proxy, of one that was replaced at once, or of a proxy of which the log has \
         nothing. Heads by a certificate that was never issued are findings of the verification.",
    )
    .figure("certificates issued to workloads", found.issued)
    .figure("have signed heads of streams", found.signed)
    .figure("too new to tell", found.settling)
    .figure("certificates issued, no records", found.silent);
    section.table = (!table.rows.is_empty()).then_some(table);
    if found.unknown > 0 {
        section = section.cannot_show(&format!(
            "who has {} certificates: not all records were read",
            found.unknown
        ));
    }
    if found.unrecorded > 0 {
        section = section.cannot_show(&format!(
            "who has signed {} heads of streams: that their certificates were issued is not in the log",
            found.unrecorded
        ));
    }
    if found.beyond > 0 {
        section = section.cannot_show(&format!(
            "{} certificates: more were issued than one verification compares",
            found.beyond
        ));
    }
    Ok(section.command(VERIFY).momentary())
}

/// What the proxies at both ends of a request recorded, held against each other.
pub(crate) fn both_sides(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let found = e.reconciled()?;
    let mut table = Table::new(&[
        ("time", CellKind::Time),
        ("kind", CellKind::Text),
        ("record", CellKind::Number),
        ("id", CellKind::Text),
        ("reporter", CellKind::Text),
        ("caller", CellKind::Text),
        ("service", CellKind::Text),
        ("method", CellKind::Text),
        ("path", CellKind::Text),
        ("loss known", CellKind::Text),
    ]);
    let named = u64::try_from(found.one_sided.len()).unwrap_or(u64::MAX);
    table.total = named.saturating_add(found.one_sided_more);
    for one in found.one_sided.iter().take(most) {
        table.rows.push(vec![
            rfc3339(one.time_us),
            one.kind.word().to_owned(),
            one.entry.to_string(),
            one.id.clone(),
            one.reporter.clone(),
            one.caller.clone(),
            one.service.clone(),
            one.method.clone(),
            one.path.clone(),
            if one.loss_known { "yes" } else { "no" }.to_owned(),
        ]);
    }
    let named: u64 = found.without_proxy.values().sum();
    let alone = named.saturating_add(found.without_proxy_more);
    let mut section = Section::new(
        "both-sides",
        "Both sides of each request",
        "The caller's proxy records a call under an id, and the destination's decision repeats it. What only one of them recorded went \
         past a proxy, or the other proxy kept silent; where a loss of its records is known, that is the likely reason.",
    )
    .figure("requests that both recorded", found.agreed)
    .figure("one-sided requests", table.total)
    .figure("calls that nobody answered or decided about", found.unanswered)
    .figure("records whose other half may still arrive", found.settling)
    .figure("decisions about callers without a proxy", alone)
    .figure("compared from", rfc3339(found.from_us))
    .figure("until", rfc3339(found.to_us));
    section.table = (!table.rows.is_empty()).then_some(table);
    if !found.whole {
        section = section.cannot_show(
            "requests before `compared from` or after `until`: the period has more records than one comparison reads, or more of them without their other half than it holds",
        );
    }
    Ok(section
        .cannot_show(
            "requests that both proxies kept silent about, and those of callers without a proxy",
        )
        .command(&e.gaps())
        .momentary())
}

/// What reporters said they lost, and gaps that were found and closed.
pub(crate) fn losses(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "losses",
        "Declared losses and gaps",
        "Records that found no room were refused a number and counted; their reporter declares them, and between which times that was \
         (`lost_from`, `lost_until`). Gaps in the numbers are noted when they are found and when they close.",
    );
    let filter =
        "(class:spool_event verb:dropped) OR (class:log_lifecycle (verb:gap OR verb:gap_closed))";
    let section = of_rows(
        section,
        e,
        e.records(&format!("({filter})")),
        &[
            ("time", CellKind::Time),
            ("class", CellKind::Text),
            ("verb", CellKind::Text),
            ("reporter", CellKind::Text),
            ("lost_from", CellKind::Time),
            ("lost_until", CellKind::Time),
            ("dropped_strict", CellKind::Number),
            ("dropped_spool", CellKind::Number),
            ("dropped_best_effort", CellKind::Number),
            ("detail", CellKind::Text),
        ],
        most,
    )?;
    let dropped = e.count(&e.records("class:spool_event verb:dropped"))?;
    Ok(section.figure("declarations of a loss", dropped))
}

/// When the log was opened, closed, recovered.
pub(crate) fn lifecycle(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "log-lifecycle",
        "Starts, stops and incidents of the log",
        "Each opening and closing of the log, recoveries after a crash, files that were removed or replaced under it, and disks that \
         filled up.",
    );
    of_rows(
        section,
        e,
        e.records("(class:log_lifecycle OR class:spool_event)"),
        &[
            ("time", CellKind::Time),
            ("class", CellKind::Text),
            ("verb", CellKind::Text),
            ("reporter", CellKind::Text),
            ("detail", CellKind::Text),
        ],
        most,
    )
}

/// How durable records had to be.
pub(crate) fn modes(e: &Evidence<'_>) -> Result<Section, StoreError> {
    let section = Section::new(
        "modes",
        "Audit modes",
        "`strict`: the request waited until its record was on disk; `spool`: at most 50 ms of records can be lost with a process; \
         `best_effort`: the request passes even where its record cannot be kept.",
    );
    let query = e.records("class:*") + " | first, last by mode, class | sort -count";
    let (section, counted) = of_groups(section, e, query, super::ROWS_MAX)?;
    let weak = e.count(&e.records("class:decision mode:best_effort"))?;
    let all = e.count(&e.records("class:decision"))?;
    Ok(section
        .figure("records", counted.total)
        .figure("decisions in mode best_effort", weak)
        .figure("share of all decisions", share(weak, all)))
}

/// Clocks that were not believed.
pub(crate) fn clocks(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "clocks",
        "Clocks",
        "Each record has the reporter's time and the time of receipt. Where the first is more than 5 minutes ahead or 31 days behind, \
         the record is filed under its receipt and counted here, by reporter.",
    );
    let query = e.records("class:* suspect:true") + " | first, last by reporter | sort -count";
    let (section, counted) = of_groups(section, e, query, most)?;
    Ok(section
        .figure("records with a clock that was not believed", counted.total)
        .cannot_show("whether the hosts' clocks are synchronised; that is the hosts' own evidence"))
}

/// Every decision says who, what, when, where from and with what result.
pub(crate) fn fields(e: &Evidence<'_>) -> Result<Section, StoreError> {
    let mut section = Section::new(
        "record-fields",
        "What every decision records",
        "How many decisions have each of the details that PCI DSS 10.2.2 asks for. Proxies decide about \
         proven callers alone; an answer of a decision API has none where whoever asked named nobody. A request that matched no operation has its service as resource. Date and time are never missing.",
    );
    let all = e.count(&e.records("class:decision"))?;
    let mut table = Table::new(&[
        ("detail", CellKind::Text),
        ("field", CellKind::Text),
        ("decisions with it", CellKind::Number),
        ("decisions", CellKind::Number),
        ("share", CellKind::Text),
    ]);
    for (detail, field) in MANDATORY {
        let query = e.records(&format!("class:decision {field}:*"));
        let with = e.count(&query)?;
        section.queries.push(query);
        table.rows.push(vec![
            (*detail).to_owned(),
            (*field).to_owned(),
            with.to_string(),
            all.to_string(),
            share(with, all),
        ]);
    }
    table.total = u64::try_from(MANDATORY.len()).unwrap_or(u64::MAX);
    section.table = Some(table);
    Ok(section.figure("decisions", all))
}

/// How far back the log goes, against the year that PCI DSS asks for.
pub(crate) fn retention(e: &Evidence<'_>) -> Result<Section, StoreError> {
    let asks = "PCI DSS 10.5.1 asks for 12 months, three of them immediately available; a log that is younger than that cannot show it yet.";
    kept(e, asks, "12 months kept", 365)
}

/// The same, against the six years that HIPAA asks for.
pub(crate) fn six_years(e: &Evidence<'_>) -> Result<Section, StoreError> {
    let asks =
        "45 CFR 164.316 asks for six years; a log that is younger than that cannot show it yet.";
    kept(e, asks, "six years kept", 6 * 365 + 2)
}

/// Classes of which records were dropped, each with how long it was kept, and the queries.
/// What went once is gone, whenever the period was: all is asked that the log said of it under
/// the checkpoint. What was announced and then not done does not count.
pub(crate) fn dropped_after(e: &Evidence<'_>) -> Result<(Classes, Vec<String>), StoreError> {
    let mut said = Vec::new();
    let queries = e.records_ever(DROPPED_OR_LEFT);
    for query in &queries {
        e.visit_own(query, |row| {
            let detail = row.text("detail").unwrap_or_default().to_owned();
            said.push((row.entry, row.time_us, detail));
            true
        })?;
    }
    said.sort_unstable();
    let mut done: BTreeMap<u64, Vec<(i64, String)>> = BTreeMap::new();
    for (_, time_us, detail) in said {
        if let Some(segment) = left_of(&detail) {
            done.entry(segment).or_default().pop();
        } else if let Some(segment) = segment_of(&detail) {
            done.entry(segment).or_default().push((time_us, detail));
        }
    }
    let mut classes = Classes::new();
    for (time_us, detail) in done.values().flatten() {
        for (class, period) in kept_for(detail) {
            let of = (class.to_owned(), period.to_owned());
            let last_us = classes.entry(of).or_insert(i64::MIN);
            *last_us = (*last_us).max(*time_us);
        }
    }
    Ok((classes, queries))
}

/// Classes and the periods that they were kept for, each with when records last went for it.
type Classes = BTreeMap<(String, String), i64>;

/// Such ones in words.
pub(crate) fn in_words<'c>(classes: impl IntoIterator<Item = &'c (String, String)>) -> String {
    let classes = classes.into_iter();
    let classes = classes.map(|(class, period)| format!("{class} kept for {period}"));
    classes.collect::<Vec<_>>().join(", ")
}

/// Whether something of the last `enough` days before `to_us` may be gone, where records were
/// kept for `period` and last went at `last_us`.
fn is_short(period: &str, last_us: i64, to_us: i64, enough: i64) -> bool {
    let Some(days) = days_of(period) else {
        return true;
    };
    let gone_to_us = last_us.saturating_sub(days.saturating_mul(DAY_US));
    days < enough && gone_to_us > to_us.saturating_sub(enough.saturating_mul(DAY_US))
}

fn kept(e: &Evidence<'_>, asks: &str, label: &str, enough: i64) -> Result<Section, StoreError> {
    let begins = e.begins_us();
    let begins = begins.map_or_else(|| "unknown".to_owned(), rfc3339);
    let days = e.days_kept();
    let narrative = format!(
        "Records go only when the period of their class is over, where one is configured, and the log says each time what goes; all others are there and searchable. Names of persons that were sealed can be erased by destroying a key; their records stay, under a pseudonym. {asks}"
    );
    let erasures = e.count(&e.records("class:erasure"))?;
    let ours = e.of_the_log();
    let held = e.count(&e.records(&format!("class:admin verb:hold_added {ours}")))?;
    let released = e.count(&e.records(&format!("class:admin verb:hold_released {ours}")))?;
    let dropped = e.count(&e.records(DROPPED))?;
    let left = e.count(&e.records("class:log_lifecycle verb:records_left"))?;
    let (classes, queries) = dropped_after(e)?;
    let to_us = e.period.0.to_us;
    let short = classes
        .iter()
        .filter(|((_, period), last_us)| is_short(period, **last_us, to_us, enough));
    let short = in_words(short.map(|(of, _)| of));
    let is_kept = match short.is_empty() {
        false => format!("no: {short}"),
        true if days >= enough => "yes".to_owned(),
        true => "not yet".to_owned(),
    };
    let mut section = Section::new("retention", "Retention", &narrative)
        .figure("the log begins", begins)
        .figure("days from there to the end of the period", days)
        .figure(label, is_kept)
        .figure(
            "times in the period that records were announced to be dropped",
            dropped,
        )
        .figure("times that this was not carried out", left)
        .figure("persons erased", erasures)
        .figure("legal holds added", held)
        .figure("legal holds released", released);
    section.queries = queries;
    let section = section.cannot_show(
        "how much of it has to be fetched from an archive first: palisade audit archive status",
    );
    Ok(section.cannot_show("copies and backups of the log that are kept elsewhere"))
}

#[cfg(test)]
mod tests;
