//! `palisade policy suggest`: permits drafted from what was denied.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    path::Path,
    sync::Arc,
};

use palisade_audit::envelope::DecisionRef;
use palisade_mesh::{
    decision::{Decision, Verdict},
    diagnostic::Diagnostic,
    spiffe_id::SpiffeId,
    wire::record::Verdict as WireVerdict,
};
use palisade_pdp::{
    author::suggest::{self, Wish},
    compiled::Absent,
    decide::{Replay, Snapshot},
};
use serde::Serialize;

use super::impact::stopped_by_user;
use crate::{
    cli::{Context, Exit, Repository, block_on, path_segment, target},
    control::client::Mesh,
    history::{
        Covered, Wanted,
        asked::past,
        flips::{Before, Comparing, Edge, Side, short},
    },
    render::{self, Output, suggestion},
    run::audit::Found,
};

/// Arguments of `policy suggest`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    repository: Repository,
    /// From what to draft: what no permit matched.
    #[arg(long, value_enum, default_value_t = From::Denials)]
    from: From,
    /// Only what was asked of this service.
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// How far back to look: 90m, 24h, 7d.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    last: String,
    /// Only this decision, by its id or the beginning of it.
    #[arg(long, value_name = "ID")]
    decision: Option<String>,
    /// Folder of a log, or a file of rows, instead of the running mesh's log.
    #[arg(long, value_name = "DIR|FILE")]
    log: Option<String>,
}

/// What drafts are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum From {
    /// Requests that no permit matched.
    Denials,
}

/// What the command drafted.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The permits, one for each caller and operation.
    pub(crate) permits: Vec<Permit>,
    /// Sources that the revision lacks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) absent: Vec<Absent>,
    /// The change, for `git apply` in the repository.
    pub(crate) patch: String,
    /// Recorded denials that the permits would have allowed.
    pub(crate) allows: u64,
    /// Other recorded decisions that they would have allowed.
    pub(crate) also_allows: u64,
    /// All of these, in groups.
    pub(crate) newly_allowed: Side,
    /// Denials that nothing was drafted for, by reason.
    pub(crate) left: BTreeMap<&'static str, u64>,
    /// What was gone through.
    pub(crate) covered: Covered,
}

/// One drafted permit.
#[derive(Debug, Serialize)]
pub(crate) struct Permit {
    /// Its id.
    pub(crate) id: String,
    /// What it allows.
    #[serde(flatten)]
    pub(crate) wish: Wish,
    /// Recorded denials that it is drafted from.
    pub(crate) denials: u64,
}

pub(crate) fn main(args: &Args, context: &Context) -> Exit {
    match block_on(draft(args, context)) {
        Ok(report) => {
            match context.output {
                Output::Json => render::json(&report),
                Output::Human => suggestion::print(&report),
            }
            Exit::Ok
        }
        Err(found) => {
            render::diagnostics(context.output, &found);
            found.first().map_or(Exit::Failed, Exit::of)
        }
    }
}

async fn draft(args: &Args, context: &Context) -> Result<Report, Vec<Diagnostic>> {
    let one = |d: Diagnostic| vec![d];
    let From::Denials = args.from;
    let dir = &args.repository.dir;
    let present = target::snapshot_of(dir, &args.repository.composing).await?;
    let (denied, all, service) = wanted(args, &present, context).await.map_err(one)?;
    // A file of rows has not been filtered.
    let is_meant = |record: &DecisionRef<'_>| service.as_ref().is_none_or(|s| record.service == s);
    let absent = present.compiled().absent.clone();
    let domain = present.catalogue().trust_domain().clone();
    let mesh = context.mesh.as_deref();
    let stop = stopped_by_user();
    let mut wishes = Wishes::new(Arc::clone(&present));
    let mut take = |record: &DecisionRef<'_>| {
        if is_meant(record) {
            wishes.take(record);
        }
        ControlFlow::Continue(())
    };
    denied
        .visit(mesh, &domain, &stop, &mut take)
        .await
        .map_err(one)?;
    let Wishes { found, left, .. } = wishes;
    let (wanted, denials): (Vec<Wish>, Vec<u64>) = found.into_values().unzip();
    let drafted = suggest::drafts(present.compiled(), &wanted, &prefix(dir))?;
    let compiled = drafted.loaded.compiled.ok_or(drafted.loaded.diagnostics)?;
    let candidate = crate::run::policy::snapshot(compiled, 0).map_err(one)?;
    let before = Before::Replayed(Box::new(Replay::new(present)));
    let mut comparing = Comparing::new(candidate, before);
    let mut take = |record: &DecisionRef<'_>| {
        if is_meant(record) {
            comparing.take(record);
        }
        ControlFlow::Continue(())
    };
    let covered = all
        .visit(mesh, &domain, &stop, &mut take)
        .await
        .map_err(one)?;
    let newly_allowed = comparing.flips.newly_allowed;
    let meant = |edge: &Edge| {
        wanted.iter().any(|wish| {
            edge.from == short(&wish.from)
                && edge.to == short(&wish.operation)
                && wish.actions.contains(&edge.action)
        })
    };
    let groups = newly_allowed.largest().into_iter();
    let allows: u64 = groups
        .filter(|(edge, _)| meant(edge))
        .map(|(_, g)| g.count)
        .sum();
    let permits = drafted.ids.into_iter().zip(wanted).zip(denials);
    Ok(Report {
        absent,
        permits: permits
            .map(|((id, wish), denials)| Permit { id, wish, denials })
            .collect(),
        patch: drafted.patch,
        allows,
        also_allows: newly_allowed.count - allows,
        newly_allowed,
        left,
        covered,
    })
}

/// The denials to draft from, all decisions that drafts are judged by, and the id of the
/// service that both are about.
async fn wanted(
    args: &Args,
    present: &Snapshot,
    context: &Context,
) -> Result<(Wanted, Wanted, Option<String>), Diagnostic> {
    let mut service = args.service.clone();
    let mut denied = None;
    if let Some(id) = &args.decision {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        let path = format!("/v1/audit/record/{}", path_segment(id));
        let found: Found = mesh.get("audit", &path).await?;
        let of_record = |row: &&serde_json::Value| row["class"] == "decision";
        let row = found.rows.iter().find(of_record).ok_or_else(|| {
            Diagnostic::error(7301, format!("`{id}` is not the id of a decision"))
                .help(format!("see what it is: palisade audit show {id}"))
        })?;
        service = row["service"].as_str().map(str::to_owned);
        denied = Some(Wanted::row(row.clone()));
    }
    let mut query = format!("last:{}", args.last);
    if let Some(name) = &service {
        let known = present.catalogue().by_name(name).ok_or_else(|| {
            let names = present.catalogue().services().iter().map(|s| s.id.short());
            let none = Diagnostic::error(2204, format!("the repository has no service `{name}`"));
            match palisade_mesh::diagnostic::did_you_mean(name, names) {
                Some(near) => none.label(format!("did you mean `{near}`?")),
                None => none,
            }
            .help("give its name, or NAMESPACE/NAME where several have it")
        })?;
        query = format!("service:{} {query}", known.id);
        service = Some(known.id.to_string());
    }
    let said: Vec<String> = match &args.log {
        Some(log) if Path::new(log).is_file() => vec![log.clone()],
        Some(log) => vec![log.clone(), query],
        None => vec![query],
    };
    let all = Wanted::new(&said, "")?;
    Ok((denied.unwrap_or_else(|| all.clone()), all, service))
}

/// What is wished for, gathered from denials.
struct Wishes {
    replay: Replay,
    /// By caller and operation: the wish, and how many denials ask for it.
    found: BTreeMap<(String, String), (Wish, u64)>,
    left: BTreeMap<&'static str, u64>,
}

impl Wishes {
    fn new(present: Arc<Snapshot>) -> Self {
        Self {
            replay: Replay::new(present),
            found: BTreeMap::new(),
            left: BTreeMap::new(),
        }
    }

    fn take(&mut self, record: &DecisionRef<'_>) {
        if !matches!(
            record.verdict,
            WireVerdict::NotPermitted | WireVerdict::Forbidden
        ) {
            return;
        }
        if let Err(why) = self.wish(record) {
            *self.left.entry(why).or_default() += 1;
        }
    }

    /// Adds what would have allowed it, or says why nothing is drafted.
    fn wish(&mut self, record: &DecisionRef<'_>) -> Result<(), &'static str> {
        let again = self.replay.decide(&past(record));
        let decision: Arc<Decision> =
            again.map_err(|_| "the record lacks what the policies read now")?;
        match decision.verdict {
            Verdict::NotPermitted => {}
            Verdict::Allow => return Err("allowed by now"),
            Verdict::Forbidden => return Err("a forbid matches"),
            Verdict::Undecided(_) => return Err("no decision is possible"),
        }
        if decision.resource_type != "Operation" {
            return Err("it is no operation: declare it in services/ first");
        }
        let id = SpiffeId::parse(record.principal).ok();
        let catalogue = self.replay.snapshot().catalogue();
        let caller = id.and_then(|id| catalogue.by_identity(&id).cloned());
        let caller = caller.ok_or("the caller is no service of the repository")?;
        let key = (caller.id.to_string(), decision.resource_id.to_string());
        let (wish, denials) = self.found.entry(key).or_insert_with(|| {
            let wish = Wish {
                from: caller.id.to_string(),
                to: record.service.to_owned(),
                operation: decision.resource_id.to_string(),
                actions: BTreeSet::new(),
            };
            (wish, 0)
        });
        wish.actions.insert(decision.action.to_string());
        *denials += 1;
        Ok(())
    }
}

/// Path of `dir` in the work tree it is in, as `git apply` wants names to begin.
pub(crate) fn prefix(dir: &Path) -> String {
    let Ok(dir) = dir.canonicalize() else {
        return String::new();
    };
    let tree = dir.ancestors().find(|above| above.join(".git").exists());
    let inner = tree.and_then(|tree| dir.strip_prefix(tree).ok());
    match inner.map(|inner| inner.display().to_string()) {
        Some(inner) if !inner.is_empty() => format!("{inner}/"),
        _ => String::new(),
    }
}
