//! The parts of a report that only the policies can tell: who may do what, and what of it
//! the log shows no use of.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use palisade_audit::{
    envelope::DecisionRef,
    going::{Ended, Going},
    query::Query,
    report::{Checked, Header, Report, Section},
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, spiffe_id::TrustDomain};
use palisade_pdp::{
    author, bundle,
    decide::{Replay, Snapshot},
};
use tokio::sync::watch;

use crate::{
    cli::{
        Composing, Context,
        policy::{impact::stopped_by_user, suggest::prefix},
        report::attending::interrupted,
        target,
    },
    grants::{Edge, Grants, Proposal, sections},
    history::{
        Wanted,
        flips::{Before, Comparing, Flips},
    },
    render::{Output, comparison},
    run::policy,
};

/// What a report of a log alone lacks where policies are asked, too.
pub(super) const NO_POLICIES: &str =
    "the access in force is not in it: no policies were named, and a log does not have them";

/// What is said of decisions that lack what policies read.
pub(super) const NOT_REPLAYED: &str = "could not be made again under the change";

/// Where policies and decisions come from.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// A policy repository; the revision in force in the running mesh where it is none.
    pub(super) policies: Option<PathBuf>,
    /// How that is put together.
    pub(super) composing: Composing,
    /// The folder of a log; the running mesh's where it is none.
    pub(super) log: Option<PathBuf>,
    /// Whether somebody waits for a service that asks: Ctrl-C is not meant for the report, nor is
    /// a terminal told.
    pub(super) service: Option<Going>,
}

/// What a report says of the policies.
#[derive(Default)]
pub(crate) struct OfPolicies {
    /// Its parts that only they can tell.
    pub(crate) sections: Vec<Section>,
    /// The revision that it says it of.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// What it lacks beside sources of that.
    pub(crate) lacks: Vec<String>,
}

impl OfPolicies {
    fn new(snapshot: &Arc<Snapshot>, sections: Vec<Section>) -> Self {
        Self {
            sections,
            snapshot: Some(Arc::clone(snapshot)),
            lacks: Vec::new(),
        }
    }

    /// What it lacks, in words: sources of the revision, and decisions.
    fn lacks(&self) -> Vec<String> {
        let absent = self.snapshot.iter().flat_map(|s| &s.compiled().absent);
        let absent = absent.map(comparison::without);
        absent.chain(self.lacks.iter().cloned()).collect()
    }

    /// Holds against it what a report has: the parts `said`, and what it `lacks` by them.
    pub(crate) fn compare(&self, said: &[Section], lacks: &[String], checked: &mut Checked) {
        checked.compare(said, &self.sections);
        checked.same(
            "header",
            "lacks",
            &lacks.join("\n"),
            &self.lacks().join("\n"),
        );
    }
}

/// Joins to a report of this mesh what only the policies can tell: those of the repository
/// `policies`, or the revision in force in the mesh `mesh` on this host, as long as somebody waits.
/// Gives the revision that it says something of.
///
/// # Errors
/// When policies or decisions cannot be had, or there is no decision to go by; when nobody waits.
pub(crate) async fn join(
    made: &mut Report,
    policies: Option<PathBuf>,
    (mesh, going): (&str, Going),
) -> Result<Option<Arc<Snapshot>>, Vec<Diagnostic>> {
    let origin = Origin {
        policies,
        composing: Composing::default(),
        log: None,
        service: Some(going),
    };
    let context = Context {
        output: Output::Json,
        mesh: Some(mesh.to_owned()),
    };
    put(made, &origin, &context).await
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

/// Takes out of a head what it lacks because decisions could not be made again.
pub(crate) fn not_replayed_of(header: &mut Header) -> Vec<String> {
    let of_policies = |lack: &mut String| lack.ends_with(NOT_REPLAYED);
    header.lacks.extract_if(.., of_policies).collect()
}

/// Whether the head of a report says that it goes without the part that policies are asked
/// for.
pub(crate) fn says_none(report: &Report) -> bool {
    may_lack(&report.name) && report.header.lacks.iter().any(|lack| lack == NO_POLICIES)
}

/// What a report lacks that neither the log nor the bundle of its policies can tell: that it
/// was made without these, or without some of their sources.
pub(crate) fn beside(header: &Header) -> impl Iterator<Item = &String> {
    let lacks = header.lacks.iter();
    lacks.filter(|lack| *lack == NO_POLICIES || lack.starts_with(comparison::WITHOUT))
}

/// Whether the report `name` has a part that only the policies can tell.
pub(crate) fn is_of_policies(name: &str) -> bool {
    matches!(name, "access-review" | "reach" | "unused")
}

/// Whether the report `name` has a part that policies are asked for where they are named, and is
/// whole without it.
pub(crate) fn is_optional(name: &str) -> bool {
    name == "personal-data"
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
            Ok(OfPolicies::new(grants.snapshot(), sections))
        }
        "reach" => {
            let grants = granted(origin, context).await?;
            Ok(OfPolicies::new(
                grants.snapshot(),
                vec![sections::reach(&grants)],
            ))
        }
        "unused" => unused(report, origin, context).await,
        "personal-data" => {
            let snapshot = asked(origin, context).await?;
            Ok(labelled(&snapshot))
        }
        _ => Ok(OfPolicies::default()),
    }
}

/// The labels of services; nothing where none has any, whatever the policies lack.
fn labelled(snapshot: &Arc<Snapshot>) -> OfPolicies {
    match sections::labels(snapshot) {
        Some(section) => OfPolicies::new(snapshot, vec![section]),
        None => OfPolicies::default(),
    }
}

/// Whether the report `name` has a part that policies are asked for, and goes without it.
pub(super) fn lacks_policies(name: &str, origin: &Origin) -> bool {
    let goes_without = is_optional(name) || may_lack(name) && origin.log.is_some();
    goes_without && origin.policies.is_none()
}

/// Whether the report `name` is one without policies, too.
fn may_lack(name: &str) -> bool {
    name == "access-review"
}

async fn unused(
    report: &Report,
    origin: &Origin,
    context: &Context,
) -> Result<OfPolicies, Vec<Diagnostic>> {
    let (grants, query) = used(&report.header, origin, context).await?;
    let ended = unneeded(&grants)?;
    let (proposal, flips) = proposed(&grants, ended, &query, origin, context).await?;
    of_unused(&grants, &proposal, &flips, &query)
}

/// The grants that nobody used, as far as a change of the policies can end them.
///
/// # Errors
/// `PLS7810` where nothing was recorded.
fn unneeded(grants: &Grants) -> Result<BTreeSet<Edge>, Vec<Diagnostic>> {
    if grants.decisions == 0 {
        let nothing = Diagnostic::error(7810, "no decision was recorded in the period")
            .cause("everything would be called unused, and nothing was shown to be")
            .help("choose a period in which there was traffic");
        return Err(vec![nothing]);
    }
    Ok(grants.endable(grants.unused().map(|(edge, _)| edge.clone())))
}

/// What is said of grants that nobody used, and of the change that ends them.
///
/// # Errors
/// `PLS7808` where recorded decisions do not bear the change out.
fn of_unused(
    grants: &Grants,
    proposal: &Proposal,
    flips: &Flips,
    query: &str,
) -> Result<OfPolicies, Vec<Diagnostic>> {
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
    let lacks = &flips.not_replayable;
    if lacks.count >= flips.decisions {
        let causes = lacks.causes.keys().cloned().collect::<Vec<_>>().join("; ");
        return Err(vec![
            Diagnostic::error(7808, "no recorded decision can be made again under the change")
                .cause(format!("{} decisions: {causes}", lacks.count))
                .help("change the permits by hand; where what policies read is masked, records cannot show what a change does"),
        ]);
    }
    let sections = vec![
        sections::unused(grants, proposal, query),
        sections::permits(grants, proposal),
        sections::change(proposal, flips),
    ];
    let mut of = OfPolicies::new(grants.snapshot(), sections);
    of.lacks.extend(not_replayed(flips));
    Ok(of)
}

/// What a report lacks where decisions that policies have an answer to could not be made again.
fn not_replayed(flips: &Flips) -> Option<String> {
    let (lacking, all) = (flips.unknown, flips.decisions);
    (lacking > 0).then(|| format!("{lacking} of {all} recorded decisions {NOT_REPLAYED}"))
}

/// A change that ends grants, and what it does to recorded decisions.
struct Change {
    proposal: Proposal,
    comparing: Comparing,
}

impl Change {
    /// `prefix` is what paths in its patch begin with.
    fn to_end(
        grants: &Grants,
        ended: BTreeSet<Edge>,
        prefix: &str,
    ) -> Result<Self, Vec<Diagnostic>> {
        let proposal = Proposal::to_end(grants, ended, prefix, &Clock::system())?;
        let before = Before::Replayed(Box::new(Replay::new(grants.snapshot().clone())));
        Ok(Self {
            comparing: Comparing::new(proposal.candidate.clone(), before),
            proposal,
        })
    }
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
    let mut change = Change::to_end(grants, ended, &prefix)?;
    let mut take = |record: &DecisionRef<'_>| change.comparing.take(record);
    visit(query, &domain(grants), origin, context, &mut take).await?;
    Ok((change.proposal, change.comparing.flips))
}

/// Shows every decision that a query asks for, of records that are at hand.
type Recorded<'r> =
    dyn FnMut(&Query, &mut dyn FnMut(&DecisionRef<'_>)) -> Result<(), Diagnostic> + 'r;

/// What the policies in a bundle and recorded decisions say of the head of a report: its parts
/// that only policies can tell. `said` are those that it has.
///
/// # Errors
/// When policies or decisions cannot be read, or do not bear out what is proposed.
pub(crate) fn again(
    report: &Report,
    said: &[Section],
    bundle: Bytes,
    recorded: &mut Recorded<'_>,
) -> Result<OfPolicies, Vec<Diagnostic>> {
    let one = |d: Diagnostic| vec![d];
    let loaded = author::compile(bundle);
    let compiled = loaded.compiled.ok_or(loaded.diagnostics)?;
    let snapshot = policy::snapshot(compiled, 0).map_err(one)?;
    if is_optional(&report.name) {
        return Ok(labelled(&snapshot));
    }
    let mut grants = Grants::of(snapshot, &Clock::system()).map_err(one)?;
    if report.name == "reach" {
        return Ok(OfPolicies::new(
            grants.snapshot(),
            vec![sections::reach(&grants)],
        ));
    }
    let text = query_of(&report.header);
    let query = Query::parse(&text).map_err(one)?;
    recorded(&query, &mut |record| grants.take(record)).map_err(one)?;
    if report.name == "access-review" {
        let sections = vec![sections::for_review(&grants, &text)];
        return Ok(OfPolicies::new(grants.snapshot(), sections));
    }
    let ended = unneeded(&grants)?;
    let mut change = Change::to_end(&grants, ended, "")?;
    // Where the repository lies in its work tree, the patch alone says.
    let prefix = prefix_of(said, &change.proposal.patch);
    if !prefix.is_empty() {
        change.proposal = change.proposal.under(&grants, &prefix)?;
    }
    recorded(&query, &mut |record| change.comparing.take(record)).map_err(one)?;
    of_unused(&grants, &change.proposal, &change.comparing.flips, &text)
}

/// What the paths of the patch in a report begin with, beyond those of `patch`.
fn prefix_of(said: &[Section], patch: &str) -> String {
    let path = |patch: &str| {
        let mut lines = patch.lines();
        lines.find_map(|line| line.strip_prefix("--- a/").map(str::to_owned))
    };
    let listing = said.iter().find_map(|section| section.listing.as_deref());
    let paths = listing.and_then(path).zip(path(patch));
    let prefix = paths.and_then(|(said, path)| said.strip_suffix(&path).map(str::to_owned));
    prefix.unwrap_or_default()
}

/// The one of some bundles that parts of a report are about, as they say.
pub(crate) fn bundle_of<'b>(
    said: &[Section],
    bundles: impl Iterator<Item = &'b [u8]>,
) -> Option<Bytes> {
    let mut figures = said.iter().flat_map(|section| &section.figures);
    let digest = figures.find(|figure| figure.label == sections::POLICY_DIGEST)?;
    bundles.map(Bytes::copy_from_slice).find(|bytes| {
        bundle::open(bytes).is_ok_and(|opened| opened.digest.to_string() == digest.value)
    })
}

/// What the policies grant.
///
/// # Errors
/// When the policies cannot be had.
pub(super) async fn granted(origin: &Origin, context: &Context) -> Result<Grants, Vec<Diagnostic>> {
    let snapshot = asked(origin, context).await?;
    Grants::of(snapshot, &Clock::system()).map_err(|d| vec![d])
}

/// The policies that are asked.
///
/// # Errors
/// When they cannot be had.
async fn asked(origin: &Origin, context: &Context) -> Result<Arc<Snapshot>, Vec<Diagnostic>> {
    let one = |d: Diagnostic| vec![d];
    match &origin.policies {
        Some(dir) => target::snapshot_of(dir, &origin.composing).await,
        None if origin.log.is_some() => Err(one(Diagnostic::error(
            7811,
            "this report needs the policies, and a log does not have them",
        )
        .help("name the policy repository: --policies DIR"))),
        None => target::running(context).await.map_err(one),
    }
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
    let wanted = wanted.silent(origin.service.is_some());
    let (stop, going) = match &origin.service {
        Some(going) => (watch::channel(false).1, going.clone()),
        None => (stopped_by_user(), Going::default()),
    };
    let mut each = |record: &DecisionRef<'_>| {
        take(record);
        match going.has_ended() {
            false => ControlFlow::Continue(()),
            true => ControlFlow::Break(()),
        }
    };
    let mesh = context.mesh.as_deref();
    // Where nothing matches nothing is shown, and nothing asks.
    let covered = tokio::select! {
        covered = wanted.visit(mesh, domain, &stop, &mut each) => covered.map_err(|d| vec![d])?,
        () = going.gone() => return Err(vec![Ended.diagnostic()]),
    };
    going.ask().map_err(|ended| vec![ended.diagnostic()])?;
    match covered.interrupted {
        false => Ok(()),
        true => Err(vec![interrupted()]),
    }
}
