//! What was changed: policies, credentials, and what operators did.

use std::collections::{BTreeMap, BTreeSet};

use super::{add_column, cell, columns, counts, most_of, named, newest, of_groups, of_rows, step};
use crate::{
    index::StoreError,
    report::{
        evidence::Evidence,
        model::{CellKind, Section, Table},
    },
    row::Row,
};

/// Certificates that an inventory looks at, newest first.
const ISSUED_MAX: usize = 200_000;

/// Columns of what was done.
const ACTIONS: [(&str, CellKind); 7] = [
    ("time", CellKind::Time),
    ("actor", CellKind::Text),
    ("verb", CellKind::Text),
    ("object", CellKind::Text),
    ("detail", CellKind::Text),
    ("reporter", CellKind::Text),
    ("id", CellKind::Text),
];

/// Revisions that were activated or rejected.
pub(crate) fn policies(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "policy-changes",
        "Policy changes",
        "Every revision of the policies that came into force or was rejected. Of one in force its commit where the policies come from git, \
         and who wrote what stands now in the policies it added or changed, as git says, which proves nobody; with the policies it added, removed and changed, and how many requests of the period were decided and denied under it. What the PDP \
         recorded, and nobody else.",
    );
    let of_pdp = e.of_part("pdp");
    let mut section = of_rows(
        section,
        e,
        e.records(&format!("class:policy_change {of_pdp}")),
        &[
            ("time", CellKind::Time),
            ("verb", CellKind::Text),
            ("sequence_before", CellKind::Number),
            ("sequence", CellKind::Number),
            ("author", CellKind::Text),
            ("commit", CellKind::Text),
            ("added", CellKind::Text),
            ("removed", CellKind::Text),
            ("changed", CellKind::Text),
            ("revision_digest", CellKind::Text),
            ("detail", CellKind::Text),
        ],
        most,
    )?;
    for (name, filter) in [("decisions", ""), ("denied", "decision:deny")] {
        let query = most_of(&(e.decisions(filter) + " | count by sequence"));
        let (under, whole) = counts(e, &query)?;
        add_column(&mut section.table, (name, CellKind::Number), |row| {
            // A rejected revision decided nothing, whatever has its number.
            let activated = row.get(1).is_some_and(|verb| verb == "activated");
            match row
                .get(3)
                .and_then(|of| under.get(std::slice::from_ref(of)))
            {
                Some(count) if activated => count.to_string(),
                None if activated && !whole => "–".to_owned(),
                _ => "0".to_owned(),
            }
        });
        section.queries.push(query);
    }
    let rejected = e.count(&e.records(&format!("class:policy_change verb:rejected {of_pdp}")))?;
    Ok(section
        .figure("rejected revisions", rejected)
        .cannot_show(
            "who approved a change: reviews are kept where the policy repository is hosted",
        )
        .cannot_show(
            "who removed a policy or lines of one, changed a file that is none, or brought an earlier revision back: authors are those of \
             the lines that are there",
        )
        .cannot_show("of which commit a rejected revision is")
        .cannot_show("the text of a change; the commit, or the digest, names it")
        .cannot_show(
            "requests of one time of a revision that came into force more than once, as after a restart: each of its rows has all",
        ))
}

/// Which revisions decided.
pub(crate) fn revisions(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "revisions-in-force",
        "Revisions in force",
        "The policy revisions under which requests were decided, with their first and last decision. Each decision names the digest of \
         the very policies it was made under.",
    );
    let query = e.decisions("revision:*") + " | first, last by sequence, revision | sort -last";
    let (section, counted) = of_groups(section, e, query, most)?;
    Ok(section.figure("revisions", counted.distinct))
}

/// How revisions came to the proxies, and were taken back.
pub(crate) fn rollouts(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "rollouts",
        "Rollouts",
        "How revisions were brought to the proxies step by step: planned, tried, halted, completed, and taken back, by whom and why. One \
         that went to all proxies at once has no rows here, unless it was taken back. What the PDP recorded, and nobody else.",
    );
    let of_pdp = e.of_part("pdp");
    let section = of_rows(
        section,
        e,
        e.records(&format!(
            "class:admin (verb:rollout_* OR verb:rollback) {of_pdp}"
        )),
        &ACTIONS,
        most,
    )?;
    Ok(section.cannot_show(
        "tickets and results of tests: these are where the policy repository is hosted",
    ))
}

/// Open streams that were judged again.
pub(crate) fn rejudgements(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "judged-again",
        "Open requests judged again",
        "When policies, trust or the kill list change, what is open is judged again; this counts the results, by cause and by whether the \
         stream was closed.",
    );
    let query =
        e.records("class:rejudgement") + " | first, last by cause, decision, closed | sort -count";
    let (section, counted) = of_groups(section, e, query, most)?;
    Ok(section.figure("judged again", counted.total))
}

/// What operators did.
pub(crate) fn operators(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "operator-actions",
        "Operator actions",
        "What operators and the parts of the mesh acting for them did: rotations of authorities, entries of the kill list, joined nodes, \
         rollouts.",
    );
    let section = of_rows(section, e, e.records("class:admin"), &ACTIONS, most)?;
    Ok(section
        .cannot_show("with what result, beside the verb: a record is left by what was done, and what failed has one of its own, such as `report_failed`")
        .cannot_show("who approved an action, and under which ticket")
        .cannot_show("what was done on a host beside Palisade: its own audit log has that"))
}

/// Certificates, by what happened.
pub(crate) fn credentials(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let mut section = Section::new(
        "credentials",
        "Certificates issued and refused",
        "What the authority did with certificates, by identity: issued, refused, revoked; and what agents refused. By reporter.",
    );
    let timeline = e.records("class:credential") + &format!(" | timeline {} by verb", step(e));
    section.chart = Some(columns("certificates", &e.steps(&timeline)?));
    section.queries.push(timeline);
    let query =
        e.records("class:credential") + " | first, last by verb, spiffe_id, reporter | sort -count";
    let (section, counted) = of_groups(section, e, query, most)?;
    Ok(section
        .figure("records", counted.total)
        .cannot_show("secrets of applications: Palisade issues certificates only"))
}

/// What was issued to an identity.
struct Held {
    /// The newest record.
    row: Row,
    issued: u64,
    /// Nodes that asked.
    nodes: BTreeSet<String>,
}

impl Held {
    fn newest(row: Row) -> Self {
        Self {
            row,
            issued: 0,
            nodes: BTreeSet::new(),
        }
    }
}

/// The newest certificate of each identity.
pub(crate) fn inventory(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let mut section = Section::new(
        "certificate-inventory",
        "Certificates by identity",
        "The newest certificate that was issued to each identity in the period, with how many it got, and the joined nodes whose agents \
         asked for them: none for the authority's own host, and for what was recorded before nodes were. `ended` is said where it had expired by the end of the period and no newer one \
         was issued. What the authority recorded, and nobody else; it signs for keys of ECDSA P-256 alone.",
    );
    let of_ca = e.of_part("ca");
    let query = e.records(&format!("class:credential verb:issued {of_ca}"));
    let mut identities = BTreeMap::new();
    let looked = newest(e, &query, ISSUED_MAX, |row| {
        let (id, node) = (cell(&row, "spiffe_id"), cell(&row, "node"));
        let known = identities.entry(id).or_insert_with(|| Held::newest(row));
        known.issued += 1;
        known
            .nodes
            .extend(Some(node).filter(|node| !node.is_empty()));
    })?;
    let end = crate::query::time::rfc3339(e.period.0.to_us);
    let mut table = Table::new(&[
        ("identity", CellKind::Text),
        ("serial", CellKind::Text),
        ("not before", CellKind::Time),
        ("not after", CellKind::Time),
        ("ended", CellKind::Text),
        ("issued", CellKind::Number),
        ("authority", CellKind::Text),
        ("attested by", CellKind::Text),
        ("nodes", CellKind::Text),
    ]);
    table.total = u64::try_from(identities.len()).unwrap_or(u64::MAX);
    let mut ended = 0_u64;
    for (id, held) in identities {
        let Held { row, issued, nodes } = held;
        let not_after = cell(&row, "not_after");
        let is_over = !not_after.is_empty() && not_after <= end;
        ended += u64::from(is_over);
        if table.rows.len() >= most {
            continue;
        }
        table.rows.push(vec![
            id,
            cell(&row, "serial"),
            cell(&row, "not_before"),
            not_after,
            if is_over { "ended" } else { "" }.to_owned(),
            issued.to_string(),
            cell(&row, "authority"),
            cell(&row, "selector"),
            named(Some(&nodes)),
        ]);
    }
    section = section
        .figure("identities", table.total)
        .figure("certificates issued", e.count(&query)?)
        .figure("identities whose last certificate has ended", ended);
    if looked >= ISSUED_MAX {
        section = section.cannot_show(&format!(
            "identities whose last certificate is older than the newest {ISSUED_MAX} of the period"
        ));
    }
    section.table = Some(table);
    let asked = e.records("class:decision principal:*") + " | first, last by principal";
    let asked = most_of(&asked);
    let callers = e.groups(&asked)?;
    let named = u64::try_from(callers.groups.len()).unwrap_or(u64::MAX);
    let all_called = named == callers.distinct && callers.uncounted == 0;
    let last: BTreeMap<&str, &str> = callers
        .groups
        .iter()
        .filter_map(|group| Some((group.values.first()?.as_str(), group.last.as_str())))
        .collect();
    let kind = ("last request", CellKind::Time);
    add_column(&mut section.table, kind, |row| {
        // Empty says that it asked for nothing, which is not known of one beyond the most.
        let unknown = if all_called { "" } else { "–" };
        let last = row.first().and_then(|id| last.get(id.as_str()));
        last.copied().unwrap_or(unknown).to_owned()
    });
    section.queries.extend([query, asked]);
    if !all_called {
        section = section.cannot_show(&format!(
            "when an identity beyond the {} that asked most last asked: `–` stands there",
            crate::query::TOP_MAX
        ));
    }
    Ok(section
        .cannot_show(
            "on which hosts an identity is used, beside the nodes that asked for its certificates: `hygiene` has the addresses that it called from",
        )
        .cannot_show("connections of an identity that asked for nothing on them")
        .cannot_show(
            "certificates of other authorities, and what a peer outside the mesh presents",
        ))
}

/// Who read records.
pub(crate) fn reads(e: &Evidence<'_>, most: usize) -> Result<Section, StoreError> {
    let section = Section::new(
        "audit-reads",
        "Reads of records",
        "Who asked the log, through its API or on its host, or searched the decision APIs; with the query, how many rows were given, \
         and whether the reader was let.",
    );
    let section = of_rows(
        section,
        e,
        e.records("class:audit_read"),
        &[
            ("time", CellKind::Time),
            ("actor", CellKind::Text),
            ("verb", CellKind::Text),
            ("query", CellKind::Text),
            ("rows", CellKind::Number),
            ("decision", CellKind::Text),
            ("reporter", CellKind::Text),
        ],
        most,
    )?;
    Ok(section.cannot_show(
        "reads of the log's files on its host, past Palisade: those are the host's own evidence",
    ))
}

#[cfg(test)]
mod tests;
