//! How identities and requests stand as a whole, and what happened in which order.

use std::collections::{BTreeMap, BTreeSet};

use super::{cell, counts, is_whole, most_of, newest, of_groups, share};
use crate::{
    index::StoreError,
    query::TOP_MAX,
    report::{
        evidence::Evidence,
        model::{CellKind, Section, Table},
    },
};

/// Decisions that are looked at one by one, newest first.
const LOOKED_MAX: usize = 200_000;
/// Places of one identity that are named.
const PLACES_MAX: usize = 5;

/// Identities that are used from several places.
pub(crate) fn shared(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let mut section = Section::new(
        "shared-identities",
        "Identities and the places they are used from",
        "Each caller with the addresses it called from. One identity at many addresses is a service with many instances, or an identity that \
         is shared: its owner knows which.",
    );
    let query = e.decisions("principal:* source:*");
    let mut places: BTreeMap<String, (BTreeSet<String>, u64)> = BTreeMap::new();
    let looked = newest(e, &query, LOOKED_MAX, |row| {
        let of = places.entry(cell(&row, "principal")).or_default();
        of.0.insert(cell(&row, "source"));
        of.1 += 1;
    })?;
    let mut table = Table::new(&[
        ("principal", CellKind::Text),
        ("addresses", CellKind::Number),
        ("requests", CellKind::Number),
        ("some of them", CellKind::Text),
    ]);
    table.total = u64::try_from(places.len()).unwrap_or(u64::MAX);
    let callers = places.len();
    let several = places.values().filter(|(of, _)| of.len() > 1).count();
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_by_key(|(principal, (of, _))| (std::cmp::Reverse(of.len()), principal.clone()));
    for (principal, (of, count)) in places.into_iter().take(most) {
        let some: Vec<&str> = of.iter().take(PLACES_MAX).map(String::as_str).collect();
        table.rows.push(vec![
            principal,
            of.len().to_string(),
            count.to_string(),
            some.join(", "),
        ]);
    }
    section.table = Some(table);
    section.queries.push(query);
    if looked >= LOOKED_MAX {
        let older = format!("decisions before the newest {LOOKED_MAX} of the period");
        section = section.cannot_show(&older);
    }
    Ok(section
        .figure("callers", callers)
        .figure("decisions looked at", looked)
        .figure("from more than one address", several)
        .cannot_show("whether several instances behind one address share a key"))
}

/// Identities that hold certificates and asked for nothing.
pub(crate) fn silent(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let mut section = Section::new(
        "silent-identities",
        "Identities that asked for nothing",
        "Identities to which a certificate was issued in the period and that called nobody. A service that is only called is one of them; \
         another one may be left over.",
    );
    let of_ca = e.of_part("ca");
    let issued = e.records(&format!("class:credential verb:issued {of_ca}"));
    let issued = issued + " | first, last by spiffe_id";
    let called = e.records("class:decision principal:*") + " | first, last by principal";
    let holders = e.groups(&most_of(&issued))?;
    let callers = e.groups(&most_of(&called))?;
    // Who is in no group that was read may have called: then nobody is named.
    let whole = [&holders, &callers].into_iter().all(is_whole);
    let identities = holders.distinct;
    let callers: BTreeSet<String> = callers.groups.into_iter().flat_map(|g| g.values).collect();
    let mut table = Table::new(&[
        ("identity", CellKind::Text),
        ("certificates", CellKind::Number),
        ("first issued", CellKind::Time),
        ("last issued", CellKind::Time),
    ]);
    let quiet = holders.groups.into_iter().filter(|group| {
        let id = group.values.first();
        whole && id.is_some_and(|id| !callers.contains(id))
    });
    for group in quiet {
        let mut row = group.values;
        row.extend([group.count.to_string(), group.first, group.last]);
        table.rows.push(row);
    }
    table.rows.sort();
    table.total = u64::try_from(table.rows.len()).unwrap_or(u64::MAX);
    table.rows.truncate(most);
    section.table = Some(table);
    section.queries.extend([issued, called]);
    if !whole {
        section = section.cannot_show(
            "which identities asked for nothing: there are more identities or callers than were read, so nobody is named",
        );
    }
    Ok(section
        .figure("identities with a certificate", identities)
        .cannot_show("identities that got their last certificate before the period"))
}

/// The share of requests whose caller proved an identity, whole and by service.
pub(crate) fn proven(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let mut section = Section::new(
        "proven-callers",
        "Requests of callers that proved who they are",
        "The share of mutual TLS: decisions with the certificate that the caller proved on its connection, by service. A proxy decides about \
         proven callers alone, so the others are answers of decision APIs, which are asked on somebody's behalf.",
    );
    let (all, proven) = (e.decisions(""), e.decisions(PROVEN));
    let of_proven = e.count(&proven)?;
    let by_service = |query: &str| most_of(&format!("{query} | count by service"));
    let (all, proven) = (by_service(&all), by_service(&proven));
    let requests = e.groups(&all)?;
    let (found, all_read) = counts(e, &proven)?;
    // Of a service that is in no group that was read nothing is known.
    let known = |service: &Vec<String>| found.get(service).copied().or(all_read.then_some(0));
    let mut table = Table::new(&[
        ("service", CellKind::Text),
        ("requests", CellKind::Number),
        ("proven", CellKind::Number),
        ("share", CellKind::Text),
    ]);
    table.total = requests.distinct;
    for group in requests.groups.iter().take(most) {
        let known = known(&group.values);
        let or_dash = |known: Option<String>| known.unwrap_or_else(|| "–".to_owned());
        let mut row = group.values.clone();
        row.extend([
            group.count.to_string(),
            or_dash(known.map(|proven| proven.to_string())),
            or_dash(known.map(|proven| share(proven, group.count))),
        ]);
        table.rows.push(row);
    }
    section.table = Some(table);
    section.queries.extend([all, proven]);
    if !all_read {
        section = section.cannot_show(&format!(
            "how many requests of proven callers a service beyond the {TOP_MAX} with most of them got: `–` stands there"
        ));
    }
    Ok(section
        .figure("requests", requests.total)
        .figure("of proven callers", of_proven)
        .figure("their share", share(of_proven, requests.total))
        .figure("requests of no known service", requests.absent)
        .cannot_show("mutual TLS of a proxy that is not Palisade's: where Envoy asked a decision API, it is not recorded")
        .cannot_show("connections that ended before a request: see those that proved no identity"))
}

/// The tenets of NIST SP 800-207, as far as records measure them.
pub(crate) fn tenets(e: &Evidence<'_>) -> Result<Section, StoreError> {
    let mut section = Section::new(
        "tenets",
        "Zero trust, measured",
        "The tenets of NIST SP 800-207, section 2.1, each with a share of the decisions of the period that shows it.",
    );
    let all = e.count(&e.decisions(""))?;
    let mut table = Table::new(&[
        ("tenet", CellKind::Text),
        ("measured by", CellKind::Text),
        ("decisions", CellKind::Number),
        ("of", CellKind::Number),
        ("share", CellKind::Text),
    ]);
    for (tenet, by, filter) in TENETS {
        let query = e.decisions(filter);
        let count = e.count(&query)?;
        table.rows.push(vec![
            (*tenet).to_owned(),
            (*by).to_owned(),
            count.to_string(),
            all.to_string(),
            share(count, all),
        ]);
        section.queries.push(query);
    }
    table.total = u64::try_from(TENETS.len()).unwrap_or(u64::MAX);
    section.table = Some(table);
    Ok(section
        .figure("decisions", all)
        .cannot_show("tenet 5: the posture of hosts and devices; only that a workload was attested when it got its certificate")
        .cannot_show("resources that no proxy of the mesh stands before"))
}

/// Decisions about a caller that proved a certificate.
const PROVEN: &str = "serial:*";

/// Tenet, what measures it, and the decisions that show it.
const TENETS: &[(&str, &str, &str)] = &[
    (
        "1 everything is a resource",
        "requests to a service of the catalogue",
        "service:*",
    ),
    (
        "2 communication is secured wherever it is",
        "requests with a certificate that was proven",
        PROVEN,
    ),
    (
        "3 access is granted per session",
        "requests that were decided one by one, whatever was decided on their connection before",
        "(decision:allow OR decision:deny)",
    ),
    (
        "4 access follows dynamic policy",
        "decisions that name the revision they were made under",
        "revision:*",
    ),
    (
        "6 authentication and authorization come first",
        "requests of a proven caller that a policy allowed, or none did",
        "serial:* (decision:allow OR decision:deny)",
    ),
    (
        "7 as much as possible is recorded",
        "decisions with an address, a caller and a resource",
        "source:* principal:* resource:*",
    ),
];

/// Where the scope's decisions came from and what they met.
pub(crate) fn reasons(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "decisions-by-reason",
        "Decisions by caller and reason",
        "What the callers of the scope met, so that the list below can be read from the right end.",
    );
    let query = e.decisions("") + " | first, last by principal, service, reason | sort -count";
    let (section, counted) = of_groups(section, e, query, most)?;
    Ok(section.figure("decisions", counted.total))
}

#[cfg(test)]
mod tests;
