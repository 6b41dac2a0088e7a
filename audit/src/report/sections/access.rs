//! Who used what.

use std::collections::{BTreeMap, BTreeSet};

use super::{add_column, bars, cell, columns, counts, most_of, named, newest, of_groups, step};
use crate::{
    index::StoreError,
    report::{
        evidence::Evidence,
        model::{CellKind, Column, Section},
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
    section = reached(section, e)?;
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

/// Two more columns: the actions and the routes of the requests of each row.
fn reached(mut section: Section, e: &Evidence<'_>) -> Result<Section, StoreError> {
    for (name, field) in [("actions", "action"), ("routes", "route")] {
        let query = e.decisions("decision:allow enforced:true")
            + &format!(" | count by principal, service, policy, {field}");
        let query = most_of(&query);
        let (counted, whole) = counts(e, &query)?;
        let mut of_row: BTreeMap<Vec<String>, (BTreeSet<String>, u64)> = BTreeMap::new();
        for (mut values, count) in counted {
            let Some(value) = values.pop() else { continue };
            let (named, requests) = of_row.entry(values).or_default();
            named.insert(value);
            *requests += count;
        }
        add_column(&mut section.table, (name, CellKind::Text), |row| {
            let (values, requests) = row
                .get(..3)
                .and_then(|of| of_row.get(of))
                .map_or((None, 0), |(values, requests)| (Some(values), *requests));
            let all = row.get(3).and_then(|count| count.parse().ok());
            let rest = match all.is_some_and(|all: u64| requests < all) {
                false => "",
                true if whole => "none",
                true => "…",
            };
            let parts = [named(values), rest.to_owned()];
            let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            parts.join(", ")
        });
        section.queries.push(query);
        if !whole {
            section = section.cannot_show(&format!(
                "{name} beyond those of the thousand most frequent combinations: `…` stands for what is not named"
            ));
        }
    }
    Ok(section)
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
         was denied, and the addresses from which the caller reached the service.",
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
    let from = e.decisions("decision:allow source:*");
    let (sources, all_sources) = addresses(e, &from)?;
    let kind = ("addresses", CellKind::Text);
    add_column(&mut section.table, kind, |row| {
        named(row.get(..2).and_then(|of| sources.get(of)))
    });
    section.queries.extend([denied, from]);
    if !all_refused {
        section = section.cannot_show(
            "denials beyond the thousand most frequent callers, services and operations: `–` stands there",
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

/// Addresses by caller and service.
type Addresses = BTreeMap<Vec<String>, BTreeSet<String>>;

/// From which addresses each caller reached each service, by the newest of these decisions,
/// and whether these are all.
fn addresses(e: &Evidence<'_>, query: &str) -> Result<(Addresses, bool), StoreError> {
    let mut found = Addresses::new();
    let looked = newest(e, query, LOOKED_MAX, |row| {
        let of = vec![cell(&row, "principal"), cell(&row, "service")];
        found.entry(of).or_default().insert(cell(&row, "source"));
    })?;
    Ok((found, looked < LOOKED_MAX))
}

#[cfg(test)]
mod tests;
