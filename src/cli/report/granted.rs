//! The parts of a report that only the policies can tell: who may do what, and what of it
//! the log shows no use of.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_audit::{
    envelope::DecisionRef,
    report::{Header, Report, Section},
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, spiffe_id::TrustDomain};
use palisade_pdp::decide::{Replay, Snapshot};
use tokio::sync::watch;

use crate::{
    archive::interrupted,
    cli::{
        Composing, Context,
        policy::{impact::stopped_by_user, suggest::prefix},
        target,
    },
    grants::{Edge, Grants, Proposal, sections},
    history::{
        Wanted,
        flips::{Before, Comparing, Flips},
    },
    render::{Output, comparison},
};

/// Where policies and decisions come from.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// A policy repository; the revision in force in the running mesh where it is none.
    pub(super) policies: Option<PathBuf>,
    /// How that is put together.
    pub(super) composing: Composing,
    /// The folder of a log; the running mesh's where it is none.
    pub(super) log: Option<PathBuf>,
    /// Whether a service asks: Ctrl-C is not meant for the report, nor is a terminal told.
    pub(super) service: bool,
}

/// What a report says of the policies.
#[derive(Default)]
pub(super) struct OfPolicies {
    pub(super) sections: Vec<Section>,
    /// The revision that it says it of.
    pub(super) snapshot: Option<Arc<Snapshot>>,
}

impl OfPolicies {
    fn new(grants: &Grants, sections: Vec<Section>) -> Self {
        Self {
            sections,
            snapshot: Some(Arc::clone(grants.snapshot())),
        }
    }

    /// The sources that the revision lacks, in words.
    pub(super) fn lacks(&self) -> Vec<String> {
        let absent = self.snapshot.iter().flat_map(|s| &s.compiled().absent);
        absent.map(comparison::without).collect()
    }
}

/// Joins to a report of this mesh what only the policies can tell: those of the repository
/// `policies`, or the revision in force in the mesh `mesh` on this host.
///
/// # Errors
/// When policies or decisions cannot be had, or there is no decision to go by.
pub(crate) async fn join(
    made: &mut Report,
    policies: Option<PathBuf>,
    mesh: &str,
) -> Result<(), Vec<Diagnostic>> {
    let origin = Origin {
        policies,
        composing: Composing::default(),
        log: None,
        service: true,
    };
    let context = Context {
        output: Output::Json,
        mesh: Some(mesh.to_owned()),
    };
    put(made, &origin, &context).await?;
    Ok(())
}

/// The same, from where `origin` says; the revision that it says something of, if any.
///
/// # Errors
/// As [`join`].
pub(super) async fn put(
    made: &mut Report,
    origin: &Origin,
    context: &Context,
) -> Result<Option<Arc<Snapshot>>, Vec<Diagnostic>> {
    let mut of = sections_of(made, origin, context).await?;
    made.put_first(std::mem::take(&mut of.sections));
    made.header.lacks.extend(of.lacks());
    made.header.complete = made.header.lacks.is_empty();
    Ok(of.snapshot)
}

/// Whether the report `name` has a part that only the policies can tell.
pub(crate) fn is_of_policies(name: &str) -> bool {
    matches!(name, "access-review" | "reach" | "unused")
}

/// The sections that `report` needs from the policies, for the time, the scope and the
/// checkpoint of its header; none where it needs none.
///
/// # Errors
/// When policies or decisions cannot be had, or there is no decision to go by.
pub(super) async fn sections_of(
    report: &Report,
    origin: &Origin,
    context: &Context,
) -> Result<OfPolicies, Vec<Diagnostic>> {
    match report.name.as_str() {
        name if lacks_policies(name, origin) => Ok(OfPolicies::default()),
        "access-review" => {
            let (grants, query) = used(&report.header, origin, context).await?;
            let sections = vec![sections::for_review(&grants, &query)];
            Ok(OfPolicies::new(&grants, sections))
        }
        "reach" => {
            let grants = granted(origin, context).await?;
            Ok(OfPolicies::new(&grants, vec![sections::reach(&grants)]))
        }
        "unused" => unused(report, origin, context).await,
        _ => Ok(OfPolicies::default()),
    }
}

/// Whether the report `name` has a part that policies are asked for, and goes without it.
pub(super) fn lacks_policies(name: &str, origin: &Origin) -> bool {
    may_lack(name) && origin.policies.is_none() && origin.log.is_some()
}

/// Whether the report `name` is one without policies, too.
pub(super) fn may_lack(name: &str) -> bool {
    name == "access-review"
}

async fn unused(
    report: &Report,
    origin: &Origin,
    context: &Context,
) -> Result<OfPolicies, Vec<Diagnostic>> {
    let (grants, query) = used(&report.header, origin, context).await?;
    if grants.decisions == 0 {
        let nothing = Diagnostic::error(7810, "no decision was recorded in the period")
            .cause("everything would be called unused, and nothing was shown to be")
            .help("choose a period in which there was traffic");
        return Err(vec![nothing]);
    }
    let ended = grants.endable(grants.unused().map(|(edge, _)| edge.clone()));
    let (proposal, flips) = proposed(&grants, ended, &query, origin, context).await?;
    let (denied, allowed) = (flips.newly_denied.count, flips.newly_allowed.count);
    if denied > 0 || allowed > 0 {
        return Err(vec![
            Diagnostic::error(
                7808,
                format!(
                    "the change would deny {denied} recorded requests and newly allow {allowed}"
                ),
            )
            .cause("what nobody used should flip no decision")
            .help("change the permits by hand: palisade policy impact DIR shows each flip"),
        ]);
    }
    let sections = vec![
        sections::unused(&grants, &proposal, &query),
        sections::permits(&grants, &proposal),
        sections::change(&proposal, &flips),
    ];
    Ok(OfPolicies::new(&grants, sections))
}

/// A change that ends these grants, and what it does to the decisions of `query`.
///
/// # Errors
/// When there is no such change, or the decisions cannot be had.
pub(super) async fn proposed(
    grants: &Grants,
    ended: BTreeSet<Edge>,
    query: &str,
    origin: &Origin,
    context: &Context,
) -> Result<(Proposal, Flips), Vec<Diagnostic>> {
    let prefix = origin.policies.as_deref().map(prefix).unwrap_or_default();
    let proposal = Proposal::to_end(grants, ended, &prefix, &Clock::system())?;
    let before = Before::Replayed(Box::new(Replay::new(grants.snapshot().clone())));
    let mut comparing = Comparing::new(proposal.candidate.clone(), before);
    let mut take = |record: &DecisionRef<'_>| comparing.take(record);
    visit(query, &domain(grants), origin, context, &mut take).await?;
    Ok((proposal, comparing.flips))
}

/// What the policies grant.
///
/// # Errors
/// When the policies cannot be had.
pub(super) async fn granted(origin: &Origin, context: &Context) -> Result<Grants, Vec<Diagnostic>> {
    let one = |d: Diagnostic| vec![d];
    let snapshot = match &origin.policies {
        Some(dir) => target::snapshot_of(dir, &origin.composing).await?,
        None if origin.log.is_some() => {
            return Err(one(Diagnostic::error(
                7811,
                "this report needs the policies, and a log does not have them",
            )
            .help("name the policy repository: --policies DIR")));
        }
        None => target::running(context).await.map_err(one)?,
    };
    Grants::of(snapshot, &Clock::system()).map_err(one)
}

/// What the policies grant, with its uses by the decisions that the report is about, and
/// the query of these.
///
/// # Errors
/// When policies or decisions cannot be had.
pub(super) async fn used(
    header: &Header,
    origin: &Origin,
    context: &Context,
) -> Result<(Grants, String), Vec<Diagnostic>> {
    let mut grants = granted(origin, context).await?;
    let query = query_of(header);
    let domain = domain(&grants);
    let mut take = |record: &DecisionRef<'_>| grants.take(record);
    visit(&query, &domain, origin, context, &mut take).await?;
    Ok((grants, query))
}

fn domain(grants: &Grants) -> TrustDomain {
    grants.snapshot().catalogue().trust_domain().clone()
}

/// The decisions that the head of a report is about.
fn query_of(header: &Header) -> String {
    let scope = match header.scope.as_str() {
        "" => String::new(),
        scope => format!("({scope}) "),
    };
    format!(
        "class:decision {scope}entry:<{} since:{} until:{}",
        header.checkpoint.size, header.from, header.to
    )
}

async fn visit(
    query: &str,
    domain: &TrustDomain,
    origin: &Origin,
    context: &Context,
    take: &mut dyn FnMut(&DecisionRef<'_>),
) -> Result<(), Vec<Diagnostic>> {
    let log = origin.log.as_deref().map(Path::display);
    let mut said: Vec<String> = log.iter().map(ToString::to_string).collect();
    said.push(query.to_owned());
    let wanted = Wanted::new(&said, "").map_err(|d| vec![d])?;
    let wanted = wanted.silent(origin.service);
    let stop = match origin.service {
        true => watch::channel(false).1,
        false => stopped_by_user(),
    };
    let mut each = |record: &DecisionRef<'_>| {
        take(record);
        ControlFlow::Continue(())
    };
    let mesh = context.mesh.as_deref();
    let covered = wanted.visit(mesh, domain, &stop, &mut each).await;
    match covered.map_err(|d| vec![d])?.interrupted {
        false => Ok(()),
        true => Err(vec![interrupted()]),
    }
}
