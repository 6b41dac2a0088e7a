//! Who used what.

use super::{
    add_column, bars, cell, columns, counts, most_of, named, newest, of_groups,
    reached::{Values, named_by_row, with_values},
    step,
};
use crate::{
    index::StoreError,
    report::{
        evidence::Evidence,
        model::{CellKind, Column, Section, Table},
    },
};

/// What every report about use has to say.
const USE_IS_NOT_RIGHT: &str = "access that was granted and never used; `palisade policy unused` and `palisade policy validate` look at the policies themselves";
const SERVICES_ONLY: &str =
    "which person stood behind a service: callers are workloads, proven by their certificates";
/// Allowed requests whose addresses are looked at, newest first.
const LOOKED_MAX: usize = 20_000;
const NOT_THROUGH_MESH: &str = "access that did not pass a proxy of the mesh";

/// Access in use, with room for a reviewer's verdict.
pub(crate) fn in_use(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "access-in-use",
        "Access in use, for review",
        "Each row is a caller, a service it reached, and a policy that permitted it, with how often and when, and what it reached there: \
         the actions, and the routes of the operations; `none` is said of requests that had none. The last three columns are for the reviewer: keep, revoke or ask; a row that was last used long ago is a candidate for revoking.",
    );
    let query = e.decisions("decision:allow enforced:true")
        + " | first, last by principal, service, policy | sort principal";
    let (mut section, counted) = of_groups(section, e, query, most)?;
    let rows = (
        "decision:allow enforced:true",
        ["principal", "service", "policy"],
    );
    let columns = [("actions", "action"), ("routes", "route")];
    section = with_values(section, e, rows, &columns)?;
    if let Some(table) = &mut section.table {
        for name in ["keep / revoke / ask", "reviewer", "date"] {
            table.columns.push(Column {
                name: name.to_owned(),
                kind: CellKind::Blank,
            });
        }
        for row in &mut table.rows {
            row.extend([const { String::new() }; 3]);
        }
    }
    Ok(section
        .figure("accesses in use", counted.distinct)
        .figure("allowed requests", counted.total)
        .cannot_show(USE_IS_NOT_RIGHT)
        .cannot_show(SERVICES_ONLY)
        .cannot_show("who owns a service; the policy repository says it where its files do"))
}

/// Policies that permitted something.
pub(crate) fn policies(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "policies-in-use",
        "Policies in use",
        "Policies that determined an allowed request in the period, with their last use. Where every row is shown, no record is lacking and the \
         report has no scope, a policy of the repository that is not in this table granted nothing in the period.",
    );
    let query =
        e.decisions("decision:allow enforced:true") + " | first, last by policy | sort last";
    let (section, counted) = of_groups(section, e, query, most)?;
    Ok(section
        .figure("policies in use", counted.distinct)
        .cannot_show(USE_IS_NOT_RIGHT))
}

/// Callers that were seen.
pub(crate) fn callers(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "callers",
        "Callers",
        "Every identity that asked for something, allowed or not. It proved itself to a proxy by its certificate, or, where a program asked a \
         decision API, is whom that program named.",
    );
    let query = e.decisions("principal:*") + " | first, last by principal | sort -count";
    let (section, counted) = of_groups(section, e, query, most)?;
    Ok(section
        .figure("callers", counted.distinct)
        .figure("requests", counted.total)
        .cannot_show(SERVICES_ONLY))
}

/// Decisions over time.
pub(crate) fn over_time(e: &Evidence<'_>) -> Result<Section, StoreError> {
    let mut section = Section::new(
        "requests-over-time",
        "Requests over time",
        "Decisions of the proxies in each step of the period, by how they were decided. A step without a record is drawn as one: \
         silence is a finding.",
    );
    let query = e.decisions("") + &format!(" | timeline {} by decision", step(e));
    let by_time = e.steps(&query)?;
    section.chart = Some(columns("decisions", &by_time));
    section.queries.push(query);
    let denied = e.count(&e.decisions("decision:deny"))?;
    Ok(section
        .figure("decisions", by_time.total)
        .figure("denied", denied)
        .figure("share denied", super::share(denied, by_time.total)))
}

/// The services that were asked most.
pub(crate) fn services(e: &Evidence<'_>) -> Result<Section, StoreError> {
    let section = Section::new(
        "services",
        "Services",
        "Requests that each service got, allowed or not.",
    );
    let query = e.decisions("service:*") + " | count by service";
    let (mut section, counted) = of_groups(section, e, query, super::ROWS_MAX)?;
    section.chart = Some(bars("requests by service", &counted));
    Ok(section.figure("services", counted.distinct))
}

/// Who reached which operation of which service.
pub(crate) fn who_what(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "who-accessed-what",
        "Who accessed what",
        "Each row is a caller, a service and an operation of it that it was allowed to use, with how often and when, how often the same \
         was denied, and the addresses from which the caller reached the service. Where a decision API was asked on the caller's behalf, \
         `asserted by` says by whom: for those of the requests the caller did not prove itself to a proxy.",
    );
    let query = e.decisions("decision:allow")
        + " | first, last by principal, service, action | sort -count";
    let (mut section, counted) = of_groups(section, e, query, most)?;
    let denied = e.decisions("decision:deny") + " | count by principal, service, action";
    let denied = most_of(&denied);
    let (refused, all_refused) = counts(e, &denied)?;
    let kind = ("denied", CellKind::Number);
    add_column(&mut section.table, kind, |row| {
        match row.get(..3).and_then(|of| refused.get(of)) {
            Some(count) => count.to_string(),
            None if all_refused => "0".to_owned(),
            None => "–".to_owned(),
        }
    });
    let asserted = e.decisions("decision:allow asserted_by:*")
        + " | count by principal, service, action, asserted_by";
    let asserted = most_of(&asserted);
    let (askers, all_askers) = named_by_row(e, &asserted)?;
    let kind = ("asserted by", CellKind::Text);
    add_column(&mut section.table, kind, |row| {
        let askers = named(row.get(..3).and_then(|of| askers.get(of)));
        match all_askers {
            true => askers,
            false if askers.is_empty() => "–".to_owned(),
            false => format!("{askers}, …"),
        }
    });
    let from = e.decisions("decision:allow source:*");
    let (sources, all_sources) = addresses(e, &from)?;
    let kind = ("addresses", CellKind::Text);
    add_column(&mut section.table, kind, |row| {
        named(row.get(..2).and_then(|of| sources.get(of)))
    });
    section.queries.extend([denied, asserted, from]);
    if !all_refused {
        section = section.cannot_show(
            "denials beyond the thousand most frequent callers, services and operations: `–` stands there",
        );
    }
    if !all_askers {
        section = section.cannot_show(
            "who asserted a caller beyond the thousand most frequent combinations: `–` and `…` stand there",
        );
    }
    section = section.cannot_show(
        "addresses of requests whose address is masked or was not known: none stands there",
    );
    if !all_sources {
        let older = format!("addresses before the newest {LOOKED_MAX} allowed requests");
        section = section.cannot_show(&older);
    }
    Ok(section
        .figure("caller, service and operation", counted.distinct)
        .figure("allowed requests", counted.total)
        .cannot_show(SERVICES_ONLY)
        .cannot_show(NOT_THROUGH_MESH)
        .cannot_show(
            "which rows of a database an operation touched: the log has paths, not bodies",
        ))
}

/// Access that was in use in the time of the same length before the period, and not in it.
pub(crate) fn used_before(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let mut section = Section::new(
        "used-before-the-period",
        "Last used before the period",
        "Access that was in use in the time of the same length before the period and not in the period itself: a caller, a service and an \
         action, with the last request that was allowed. What nobody used in the period and stands here was needed not long before.",
    );
    let by = " | first, last by principal, service, action";
    let earlier = e.decisions_before("decision:allow") + by + " | sort -last";
    let (earlier, now) = (
        most_of(&earlier),
        most_of(&(e.decisions("decision:allow") + by)),
    );
    let before = e.groups(&earlier)?;
    let (used, all_used) = counts(e, &now)?;
    let all_before = super::is_whole(&before);
    let mut table = Table::new(&[
        ("caller", CellKind::Text),
        ("service", CellKind::Text),
        ("action", CellKind::Text),
        ("last used", CellKind::Time),
        ("requests", CellKind::Number),
    ]);
    // What is in no group that was read may have been used: then nothing is named.
    let over = before.groups.into_iter();
    let over = over.filter(|group| all_used && !used.contains_key(&group.values));
    for group in over {
        let mut row = group.values;
        row.extend([group.last, group.count.to_string()]);
        table.rows.push(row);
    }
    table.total = u64::try_from(table.rows.len()).unwrap_or(u64::MAX);
    table.rows.truncate(most);
    let over = match all_used && all_before {
        true => table.total.to_string(),
        false => "unknown".to_owned(),
    };
    section.table = Some(table);
    section.queries.extend([earlier, now]);
    if !all_used {
        section = section.cannot_show(
            "what was in use before the period alone: more was in use in the period than was read, so nothing is named",
        );
    }
    if !all_before {
        section = section.cannot_show(
            "what was in use before the period beyond the thousand that were used last",
        );
    }
    if !super::is_recorded_before(e) {
        section = section.cannot_show(
            "what was used before the log begins: it does not go back over all of the time before the period",
        );
    }
    Ok(section
        .figure(
            "access in use in the time before the period",
            before.distinct,
        )
        .figure("of this not in the period", over)
        .cannot_show("what was used longer ago than that"))
}

/// From which addresses each caller reached each service, by the newest of these decisions,
/// and whether these are all.
fn addresses(e: &Evidence<'_>, query: &str) -> Result<(Values, bool), StoreError> {
    let mut found = Values::new();
    let looked = newest(e, query, LOOKED_MAX, |row| {
        let of = vec![cell(&row, "principal"), cell(&row, "service")];
        found.entry(of).or_default().insert(cell(&row, "source"));
    })?;
    Ok((found, looked < LOOKED_MAX))
}

#[cfg(test)]
mod tests;
