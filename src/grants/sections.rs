//! What is granted and what of it is used, as sections of a report.

use std::collections::{BTreeMap, BTreeSet};

use palisade_audit::report::{CellKind, Chart, Column, Point, Section, Shape, Table};
use palisade_pdp::{
    author::narrow::Cut,
    decide::{May, Snapshot},
};

use super::{Edge, Grant, Grants, Proposal};
use crate::history::flips::{Flips, short};

/// Bars of a chart.
const BARS_MAX: usize = 12;

/// The figure that names the policies.
pub(crate) const POLICY_DIGEST: &str = "policy digest";

const IN_FORCE: &str = "it is about the policies in force now: what was granted earlier in the period and is no more is not a row";
const CONDITIONS: &str = "whether a condition on the request will ever be met: `only if` means that some requests would be";
const ENUMERATED: &str = "anything beyond the enumeration, which is the proof: the engine that enforces was asked about each caller and each operation that the policies know. Not proven is what entities that are added later may do, and which values meet a condition";

/// Every grant, with its uses and room for a reviewer's verdict.
pub(crate) fn for_review(grants: &Grants, query: &str) -> Section {
    let section = Section::new(
        "access-in-force",
        "Access in force, for review",
        "Each row is somebody who may do something to something under the policies in force, found by asking the engine that enforces about \
         every caller and every operation, with the permits that give it and how often it was used in the period. The last three columns are \
         for the reviewer: keep, revoke or ask. `palisade report review` keeps the verdicts, the sign-off and the change of the policies.",
    );
    let mut table = Table::new(&[
        ("caller", CellKind::Text),
        ("service", CellKind::Text),
        ("action", CellKind::Text),
        ("resource", CellKind::Text),
        ("may", CellKind::Text),
        ("permits", CellKind::Text),
        ("owner", CellKind::Text),
        ("uses", CellKind::Number),
        ("last used", CellKind::Time),
    ]);
    for (edge, grant) in &grants.all {
        let mut row = named(edge, grant);
        row.extend([
            grant.permits.iter().cloned().collect::<Vec<_>>().join(", "),
            owners(grants, grant),
            grant.uses.to_string(),
            last_used(grant),
        ]);
        row.extend([const { String::new() }; 3]);
        table.rows.push(row);
    }
    for name in ["keep / revoke / ask", "reviewer", "date"] {
        table.columns.push(Column {
            name: name.to_owned(),
            kind: CellKind::Blank,
        });
    }
    let section = counted(section, grants).cannot_show(IN_FORCE);
    with(section.cannot_show(CONDITIONS), table, Some(query))
}

/// Every grant with its conditions: who can reach what.
pub(crate) fn reach(grants: &Grants) -> Section {
    let section = Section::new(
        "effective-access",
        "Effective access",
        "Every caller and every operation was asked about, with the rest of the request left open. What is not in the table is denied, whatever \
         the request: there is no permit without a policy. `only if` has conditions, which stand beside it as they were written.",
    );
    let mut table = Table::new(&[
        ("caller", CellKind::Text),
        ("service", CellKind::Text),
        ("action", CellKind::Text),
        ("resource", CellKind::Text),
        ("may", CellKind::Text),
        ("permits", CellKind::Text),
        ("conditions", CellKind::Text),
    ]);
    for (edge, grant) in &grants.all {
        let mut row = named(edge, grant);
        row.push(grant.permits.iter().cloned().collect::<Vec<_>>().join(", "));
        row.push(grant.conditions.join("; "));
        table.rows.push(row);
    }
    let conditional = grants.all.values().filter(|g| g.may == May::OnlyIf).count();
    let section = section
        .figure(POLICY_DIGEST, digest(grants))
        .figure("grants", grants.all.len())
        .figure("of these under conditions", conditional)
        .cannot_show(CONDITIONS)
        .cannot_show(ENUMERATED)
        .cannot_show("access that does not pass a proxy of the mesh");
    with(section, table, None)
}

/// Grants that nobody used.
pub(crate) fn unused(grants: &Grants, proposal: &Proposal, query: &str) -> Section {
    let section = Section::new(
        "unused-grants",
        "Grants that nobody used",
        "Each row is granted by the policies in force, and no recorded request of the period needed it: none that was allowed then, and none \
         that would be allowed now. `proposal` says what the change below does to the permit; `by hand` where no policy can name the caller.",
    );
    let mut table = Table::new(&[
        ("caller", CellKind::Text),
        ("service", CellKind::Text),
        ("action", CellKind::Text),
        ("resource", CellKind::Text),
        ("may", CellKind::Text),
        ("permits", CellKind::Text),
        ("owner", CellKind::Text),
        ("proposal", CellKind::Text),
    ]);
    let mut by_service: BTreeMap<&str, u64> = BTreeMap::new();
    for (edge, grant) in grants.unused() {
        *by_service.entry(&edge.service).or_default() += 1;
        let mut row = named(edge, grant);
        row.extend([
            grant.permits.iter().cloned().collect::<Vec<_>>().join(", "),
            owners(grants, grant),
            proposed(edge, grant, proposal),
        ]);
        table.rows.push(row);
    }
    let mut points: Vec<Point> = by_service
        .into_iter()
        .map(|(service, count)| Point {
            label: service.to_owned(),
            values: vec![count],
        })
        .collect();
    points.sort_by_key(|point| (std::cmp::Reverse(point.values.clone()), point.label.clone()));
    points.truncate(BARS_MAX);
    let mut section = counted(section, grants);
    section.chart = (!points.is_empty()).then(|| Chart {
        title: "grants that nobody used, by service".to_owned(),
        shape: Shape::Bars,
        series: vec!["grants".to_owned()],
        points,
    });
    let section = section
        .cannot_show("what is needed only in an emergency, or once in longer than the period")
        .cannot_show(IN_FORCE);
    with(section, table, Some(query))
}

/// Each permit with how much of it is used.
pub(crate) fn permits(grants: &Grants, proposal: &Proposal) -> Section {
    let section = Section::new(
        "permits",
        "Permits by use",
        "Each permit of the repository, with how many grants it gives, how many of them were used, and what the change below does to it.",
    );
    let mut table = Table::new(&[
        ("permit", CellKind::Text),
        ("file", CellKind::Text),
        ("owner", CellKind::Text),
        ("grants", CellKind::Number),
        ("used", CellKind::Number),
        ("last used", CellKind::Time),
        ("proposal", CellKind::Text),
    ]);
    let info = &grants.snapshot().compiled().info;
    for permit in info.values().filter(|info| info.permit && !info.shadow) {
        let its: Vec<&Grant> = grants
            .all
            .values()
            .filter(|grant| grant.permits.contains(permit.id.as_str()))
            .collect();
        let used = its.iter().filter(|grant| grant.uses > 0).count();
        let last = its.iter().max_by_key(|grant| grant.last_us);
        table.rows.push(vec![
            permit.id.to_string(),
            format!("{}:{}", permit.file, permit.first_line),
            permit.owner.as_deref().unwrap_or_default().to_owned(),
            its.len().to_string(),
            used.to_string(),
            last.map(|grant| last_used(grant)).unwrap_or_default(),
            match proposal.cuts.get(permit.id.as_str()) {
                None => "keep".to_owned(),
                Some(Cut::Removed) => "remove".to_owned(),
                Some(Cut::Narrowed(ended)) => format!("narrow by {}", ended.len()),
            },
        ]);
    }
    with(section, table, None)
}

/// The labels of services, where the policies have any.
pub(crate) fn labels(snapshot: &Snapshot) -> Option<Section> {
    let mut table = Table::new(&[("service", CellKind::Text), ("labels", CellKind::Text)]);
    let mut labelled = 0_usize;
    for service in snapshot.catalogue().services() {
        let labels = snapshot.compiled().labels(&service.id);
        labelled += usize::from(!labels.is_empty());
        let labels = labels.iter().map(|(key, value)| format!("{key}: {value}"));
        let labels = labels.collect::<Vec<_>>().join(", ");
        table.rows.push(vec![service.id.to_string(), labels]);
    }
    let section = Section::new(
        "service-labels",
        "Services and their labels",
        "The labels of each service in the policy repository. Where one of them says which data a service processes, it is the class of \
         what the requests below were about.",
    )
    .figure(POLICY_DIGEST, snapshot.versions().policy)
    .figure("services", table.rows.len())
    .figure("of these with a label", labelled)
    .cannot_show("whether a label is true, and which data of a class a request was about");
    (labelled > 0).then(|| with(section, table, None))
}

/// The change, and that it flips nothing.
pub(crate) fn change(proposal: &Proposal, flips: &Flips) -> Section {
    let mut section = Section::new(
        "proposed-change",
        "The proposed change, and what it does",
        "The change only takes away: it removes permits and adds conditions to others. Every grant was asked for again under it: the ones that \
         are to end have ended, and every other one is as it was. The recorded decisions of the period, but for those counted below that lack \
         what policies read, were made again before and after it, by the engine that enforces. Apply it with `git apply` in the policy repository, and run `palisade policy test` there.",
    )
    .figure("grants that end", proposal.ended.len())
    .figure("permits removed", cuts(proposal, true))
    .figure("permits narrowed", cuts(proposal, false))
    .figure("recorded decisions made again", flips.decisions - flips.not_replayable.count)
    .figure("newly denied by the change", flips.newly_denied.count)
    .figure("newly allowed by the change", flips.newly_allowed.count)
    .figure("could not be made again", flips.not_replayable.count);
    let mut table = Table::new(&[
        ("caller", CellKind::Text),
        ("to", CellKind::Text),
        ("action", CellKind::Text),
        ("newly", CellKind::Text),
        ("decisions", CellKind::Number),
    ]);
    for (word, side) in [
        ("denied", &flips.newly_denied),
        ("allowed", &flips.newly_allowed),
    ] {
        for (edge, group) in side.largest() {
            table.rows.push(vec![
                edge.from.clone(),
                edge.to.clone(),
                edge.action.clone(),
                word.to_owned(),
                group.count.to_string(),
            ]);
        }
    }
    section.listing = Some(proposal.patch.clone());
    let section = section.cannot_show(
        "decisions whose records lack what the policies read now; they are counted above",
    );
    match table.rows.is_empty() {
        true => section.of_policies(),
        false => with(section, table, None),
    }
}

fn cuts(proposal: &Proposal, removed: bool) -> usize {
    let kinds = proposal.cuts.values();
    kinds
        .filter(|cut| (**cut == Cut::Removed) == removed)
        .count()
}

fn with(mut section: Section, mut table: Table, query: Option<&str>) -> Section {
    table.total = u64::try_from(table.rows.len()).unwrap_or(u64::MAX);
    section.table = Some(table);
    section.queries.extend(query.map(str::to_owned));
    section.of_policies()
}

fn counted(section: Section, grants: &Grants) -> Section {
    let unused = grants.unused().count();
    section
        .figure(POLICY_DIGEST, digest(grants))
        .figure("grants", grants.all.len())
        .figure("used in the period", grants.all.len() - unused)
        .figure("not used", unused)
        .figure("recorded decisions", grants.decisions)
        .figure("of these not to be made again", grants.lacks.count)
}

fn digest(grants: &Grants) -> String {
    grants.snapshot().versions().policy.to_string()
}

fn named(edge: &Edge, grant: &Grant) -> Vec<String> {
    let may = match grant.may {
        May::No => "no",
        May::OnlyIf => "only if",
        May::Yes => "yes",
    };
    vec![
        edge.caller.clone(),
        edge.service.clone(),
        edge.action.clone(),
        short(&edge.resource).to_owned(),
        may.to_owned(),
    ]
}

fn owners(grants: &Grants, grant: &Grant) -> String {
    let info = &grants.snapshot().compiled().info;
    let permits = grant.permits.iter().filter_map(|id| info.get(id.as_str()));
    let owners: BTreeSet<&str> = permits.filter_map(|i| i.owner.as_deref()).collect();
    owners.into_iter().collect::<Vec<_>>().join(", ")
}

fn last_used(grant: &Grant) -> String {
    let time = grant.last_us.map(jiff::Timestamp::from_microsecond);
    time.and_then(Result::ok)
        .map(|time| format!("{time:.6}"))
        .unwrap_or_default()
}

fn proposed(edge: &Edge, grant: &Grant, proposal: &Proposal) -> String {
    if !proposal.ended.contains(edge) {
        return "by hand".to_owned();
    }
    let removed = |id: &String| proposal.cuts.get(id) == Some(&Cut::Removed);
    match grant.permits.iter().all(removed) {
        true => "remove".to_owned(),
        false => "narrow".to_owned(),
    }
}
