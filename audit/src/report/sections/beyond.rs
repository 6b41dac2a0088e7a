//! What stands beside the log: the index over it, the clocks of who reports, and who else
//! has seen it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cosignature,
    index::StoreError,
    query::time::rfc3339,
    report::{
        evidence::Evidence,
        model::{CellKind, Section, Table},
        scanned::Delay,
    },
};

/// A figure that follows from the records of the period.
pub(crate) const CONFLICTS: &str = "conflicts that a witness told in the period";

/// Figures that only sections have which follow from the records of the period, where the whole
/// log is there: they are the same whenever they are made.
const OF_PERIOD: [&str; 2] = [CLASSES_APART, FURTHEST];
const CLASSES_APART: &str = "classes that differ";
const FURTHEST: &str = "furthest apart, milliseconds";

/// Whether a section of a whole log is the same whenever it is made.
pub(crate) fn is_of_period(section: &Section) -> bool {
    let mut figures = section.figures.iter();
    figures.any(|figure| OF_PERIOD.contains(&figure.label.as_str()))
}

/// Whether the index that every number of a report comes from has what the log has.
pub(crate) fn index(e: &Evidence<'_>) -> Result<Section, StoreError> {
    let query = e.records("class:*") + " | count by class";
    let mut section = Section::new(
        "index-and-log",
        "Index and log",
        "The numbers of a report come from an index over the log. Here the records of the period are counted in the log itself, without \
         the index, and held against what the index has of each class.",
    );
    section.queries.push(query.clone());
    let Some(scanned) = e.scanned()? else {
        let result = "not compared: there is no whole log here";
        return Ok(index_figures(section, [result, "", "", ""]));
    };
    let counted = e.groups(&query)?;
    let indexed: BTreeMap<&str, u64> = counted
        .groups
        .iter()
        .filter_map(|group| Some((group.values.first()?.as_str(), group.count)))
        .collect();
    let mut table = Table::new(&[
        ("class", CellKind::Text),
        ("records in the log", CellKind::Number),
        ("records in the index", CellKind::Number),
        ("state", CellKind::Text),
    ]);
    let classes: BTreeSet<&str> = scanned
        .classes
        .keys()
        .copied()
        .chain(indexed.keys().copied())
        .collect();
    let mut apart = 0_u64;
    for class in classes {
        let in_log = scanned.classes.get(class).copied().unwrap_or_default();
        let in_index = indexed.get(class).copied().unwrap_or_default();
        apart += u64::from(in_log != in_index);
        table.rows.push(vec![
            class.to_owned(),
            in_log.to_string(),
            in_index.to_string(),
            if in_log == in_index {
                "the same"
            } else {
                "NOT THE SAME"
            }
            .to_owned(),
        ]);
    }
    table.total = u64::try_from(table.rows.len()).unwrap_or(u64::MAX);
    let all: u64 = scanned.classes.values().sum();
    let result = if apart == 0 {
        "the same"
    } else {
        "NOT THE SAME"
    };
    let figures = [
        result,
        &all.to_string(),
        &counted.total.to_string(),
        &apart.to_string(),
    ];
    let mut section = index_figures(section, figures);
    section.table = Some(table);
    Ok(section)
}

/// They have the same names whether there is a log or not.
fn index_figures(section: Section, [result, in_log, in_index, apart]: [&str; 4]) -> Section {
    section
        .figure("result", result)
        .figure("records of the period in the log", in_log)
        .figure("records of the period in the index", in_index)
        .figure(CLASSES_APART, apart)
        .momentary()
}

/// How long records took to arrive, by the two clocks.
pub(crate) fn offsets(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let mut section = Section::new(
        "clock-offsets",
        "Clocks of reporters",
        "Receipt by the log's clock less the time that a record says, by reporter. The least of them is about how far the two clocks are \
         apart: below zero the reporter's is ahead, and a large one is behind or was cut off from the log for all of the period. Each \
         record has both: `received`, and `time` or, where that was not believed, `reported_time`.",
    );
    section.queries.push(e.records("class:*"));
    let Some(scanned) = e.scanned()? else {
        return Ok(section
            .figure("reporters", "not known: there is no whole log here")
            .figure(FURTHEST, "")
            .momentary());
    };
    let mut delays: Vec<(&String, &Delay)> = scanned.delays.iter().collect();
    // Those that are furthest apart come first.
    delays.sort_by_key(|(reporter, delay)| {
        (std::cmp::Reverse(delay.least_us.unsigned_abs()), *reporter)
    });
    let mut table = Table::new(&[
        ("reporter", CellKind::Text),
        ("records", CellKind::Number),
        ("least milliseconds", CellKind::Number),
        ("most milliseconds", CellKind::Number),
    ]);
    table.total = u64::try_from(delays.len()).unwrap_or(u64::MAX);
    for (reporter, delay) in delays.iter().take(most) {
        table.rows.push(vec![
            (*reporter).clone(),
            delay.records.to_string(),
            (delay.least_us / 1000).to_string(),
            (delay.most_us / 1000).to_string(),
        ]);
    }
    let furthest = delays.first().map_or(0, |(_, delay)| delay.least_us / 1000);
    let mut section = section
        .figure("reporters", delays.len())
        .figure(FURTHEST, furthest);
    section.table = (!table.rows.is_empty()).then_some(table);
    Ok(section
        .cannot_show("whether the clock of the log itself is right; a cosignature of a witness has the witness's time")
        .momentary())
}

/// Who else has seen the log.
pub(crate) fn witnesses(e: &Evidence<'_>) -> Result<Section, StoreError> {
    let section = Section::new(
        "witnesses",
        "Witnesses",
        "A witness outside cosigns a checkpoint only if it continues all that it has cosigned before (C2SP tlog-cosignature). What it \
         has cosigned cannot be taken back, written anew, or shown otherwise to others. The names and times are those that the cosignatures \
         say; whoever has the witnesses' public keys can check them.",
    );
    let told = format!("class:admin verb:witness_conflict {}", e.of_the_log());
    let told = e.records(&told);
    let mut section = section.figure(CONFLICTS, e.count(&told)?);
    section.queries.push(told);
    let cosigned = e.log().and_then(|log| log.cosigned());
    let Some(cosigned) = cosigned else {
        return Ok(section
            .figure("cosigned checkpoint", "none")
            .figure("records under it", 0)
            .figure("records of this report beyond it", e.mark().size)
            .figure("cosignatures", 0)
            .cannot_show("that nobody was shown another log: no witness has cosigned this one")
            .momentary());
    };
    let mut table = Table::new(&[("witness", CellKind::Text), ("cosigned", CellKind::Time)]);
    for (name, time_s) in cosignature::said(&cosigned.note) {
        let us = i64::try_from(time_s)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000);
        table.rows.push(vec![name, rfc3339(us)]);
    }
    table.total = u64::try_from(table.rows.len()).unwrap_or(u64::MAX);
    let mark = e.mark();
    let mut section = section
        .figure("cosigned checkpoint", cosigned.time)
        .figure("records under it", cosigned.size)
        .figure(
            "records of this report beyond it",
            mark.size.saturating_sub(cosigned.size),
        )
        .figure("cosignatures", table.rows.len());
    section.table = (!table.rows.is_empty()).then_some(table);
    Ok(section.momentary())
}
