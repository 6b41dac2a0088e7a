//! What was refused.

use rustc_hash::FxHashSet;

use super::{
    columns, is_recorded_before, is_whole, most_of, of_groups, reached::with_values, step,
};
use crate::{
    index::StoreError,
    report::{
        evidence::Evidence,
        model::{CellKind, Column, Section},
    },
};

/// Denials over time, by reason.
pub(crate) fn over_time(e: &Evidence<'_>) -> Result<Section, StoreError> {
    let mut section = Section::new(
        "denials-over-time",
        "Denials over time",
        "Requests that were forbidden, not permitted, or could not be decided, by reason. `no_permit`: no policy permits it; \
         `forbidden`: a policy forbids it; the others are faults, which deny, too.",
    );
    let query =
        e.decisions("decision:deny") + &format!(" | timeline {} by reason | top 6", step(e));
    let by_time = e.steps(&query)?;
    section.chart = Some(columns("denied requests", &by_time));
    section.queries.push(query);
    let undecided = e.count(&e.decisions("decision:undecided"))?;
    let refused = e.count(&e.decisions("decision:refused"))?;
    let all = e.count(&e.decisions(""))?;
    Ok(section
        .figure("denied", by_time.total)
        .figure("share of all decisions", super::share(by_time.total, all))
        .figure("of these not decidable", undecided)
        .figure("malformed and refused before a decision", refused))
}

/// Who was denied where, and whether that is new.
pub(crate) fn who(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "denied-attempts",
        "Denied attempts",
        "Each row is a caller, a service and a reason, with the actions that were asked for and the policies that denied: `none` is said of \
         requests that had none. `new` is said where the time of the same length before the period has no such \
         row: something changed, or somebody tries something.",
    );
    let by = " | first, last by principal, service, reason | sort -count";
    let query = e.decisions("decision:deny") + by;
    let (mut section, counted) = of_groups(section, e, query, most)?;
    // As columns: a fault before a request is understood has no action, and stays a row.
    let rows = ("decision:deny", ["principal", "service", "reason"]);
    let columns = [("actions", "action"), ("policies", "policy")];
    section = with_values(section, e, rows, &columns)?;
    let query = most_of(&(e.decisions_before("decision:deny") + by));
    let before = e.groups(&query)?;
    // Beyond what is known of the time before, nothing can be called new.
    let (all_read, recorded) = (is_whole(&before), is_recorded_before(e));
    let whole = all_read && recorded;
    let known: FxHashSet<Vec<String>> = before.groups.into_iter().map(|g| g.values).collect();
    let mut new = 0_u64;
    if let Some(table) = &mut section.table {
        table.columns.push(Column {
            name: "new".to_owned(),
            kind: CellKind::Text,
        });
        for row in &mut table.rows {
            let is_new = whole && !known.contains(row.get(..3).unwrap_or_default());
            new += u64::from(is_new);
            row.push(if is_new { "new" } else { "" }.to_owned());
        }
    }
    section.queries.push(query);
    if !recorded {
        section = section.cannot_show(
            "what is new: the log does not go back over the time of the same length before the period",
        );
    } else if !all_read {
        section = section
            .cannot_show("what is new: the time before the period has more rows than were read");
    }
    let new = match whole {
        true => new.to_string(),
        false => "unknown".to_owned(),
    };
    Ok(section
        .figure("caller, service and reason", counted.distinct)
        .figure("new among the rows shown", new)
        .cannot_show("whether an attempt was an attack or a mistake")
        .cannot_show("attempts that did not reach a proxy of the mesh"))
}

/// Policies that forbade something.
pub(crate) fn policies(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "forbidding-policies",
        "Policies that forbade",
        "Policies of the kind `forbid` that determined a denial, and how often.",
    );
    let query =
        e.decisions("decision:forbidden policy:*") + " | first, last by policy | sort -count";
    let (section, counted) = of_groups(section, e, query, most)?;
    Ok(section.figure("policies", counted.distinct))
}

/// Handshakes that failed.
pub(crate) fn handshakes(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "failed-authentication",
        "Failed authentication",
        "Peers that did not prove an identity: without a certificate, with one of another trust domain, expired, or barred. What such \
         a certificate claims is not proven and stands under `claimed`.",
    );
    let query =
        e.records("class:authn_failure") + " | first, last by reason, listener | sort -count";
    let (mut section, counted) = of_groups(section, e, query, most)?;
    let claimed = e.records("class:authn_failure claimed:*") + " | count by claimed | top 5";
    let named = e.groups(&claimed)?;
    section.queries.push(claimed);
    Ok(section
        .figure("failed handshakes", counted.total)
        .figure("identities they claimed", named.distinct)
        .cannot_show("attempts below TLS: port scans, connections that sent nothing"))
}

#[cfg(test)]
mod tests;
