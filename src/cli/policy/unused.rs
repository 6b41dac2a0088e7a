//! `palisade policy unused`: policies and callers that the log says nothing of.

use std::{collections::BTreeMap, ops::ControlFlow};

use palisade_audit::envelope::DecisionRef;
use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::{
    compiled::Absent,
    decide::{PolicyUse, Replay, Snapshot},
};
use serde::Serialize;

use super::impact::stopped_by_user;
use crate::{
    cli::{Context, Exit, Repository, block_on, target},
    history::{
        Covered, Wanted,
        asked::{asked, words},
        flips::Lacks,
    },
    render::{self, Output, unused},
};

/// Arguments of `policy unused`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    repository: Repository,
    /// How far back to look: 24h, 90d.
    #[arg(long, value_name = "TIME", default_value = "90d")]
    last: String,
    /// Folder of a log, or a file of rows, instead of the running mesh's log.
    #[arg(long, value_name = "DIR|FILE")]
    log: Option<String>,
}

/// What the command found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Every policy, with how many recorded decisions it would have made.
    pub(crate) policies: Vec<Used>,
    /// Sources that the revision lacks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) absent: Vec<Absent>,
    /// SPIFFE IDs of the repository that asked for nothing.
    pub(crate) silent: Vec<String>,
    /// Services that nobody asked.
    pub(crate) unasked: Vec<String>,
    /// What was gone through.
    pub(crate) covered: Covered,
    /// When the log begins, if that is later than was asked for, RFC 3339.
    pub(crate) shorter: Option<String>,
    /// Decisions that cannot be made again.
    pub(crate) not_replayable: Lacks,
}

/// One policy.
#[derive(Debug, Serialize)]
pub(crate) struct Used {
    /// Recorded decisions in which it matched.
    pub(crate) matched: u64,
    /// What else is known of it.
    #[serde(flatten)]
    pub(crate) policy: PolicyUse,
}

pub(crate) fn main(args: &Args, context: &Context) -> Exit {
    match block_on(look(args, context)) {
        Ok(report) => {
            match context.output {
                Output::Json => render::json(&report),
                Output::Human => unused::print(&report),
            }
            Exit::Ok
        }
        Err(found) => {
            render::diagnostics(context.output, &found);
            found.first().map_or(Exit::Failed, Exit::of)
        }
    }
}

async fn look(args: &Args, context: &Context) -> Result<Report, Vec<Diagnostic>> {
    let one = |d: Diagnostic| vec![d];
    let snapshot = target::snapshot_of(&args.repository.dir, &args.repository.composing).await?;
    let query = format!("last:{}", args.last);
    let said: Vec<String> = match &args.log {
        Some(log) if std::path::Path::new(log).is_file() => vec![log.clone()],
        Some(log) => vec![log.clone(), query],
        None => vec![query],
    };
    let wanted = Wanted::new(&said, "").map_err(one)?;
    let mut seen = Seen {
        replay: Replay::new(snapshot.clone()).watching(),
        matched: BTreeMap::new(),
        callers: BTreeMap::new(),
        services: BTreeMap::new(),
        lacks: Lacks::default(),
    };
    let mut take = |record: &DecisionRef<'_>| {
        seen.take(record);
        ControlFlow::Continue(())
    };
    let domain = snapshot.catalogue().trust_domain().clone();
    let stop = stopped_by_user();
    let mesh = context.mesh.as_deref();
    let covered = wanted
        .visit(mesh, &domain, &stop, &mut take)
        .await
        .map_err(one)?;
    Ok(seen.told(&snapshot, covered))
}

/// What is counted while the log is gone through.
struct Seen {
    replay: Replay,
    matched: BTreeMap<String, u64>,
    callers: BTreeMap<String, u64>,
    services: BTreeMap<String, u64>,
    lacks: Lacks,
}

impl Seen {
    fn take(&mut self, record: &DecisionRef<'_>) {
        add(&mut self.callers, record.principal);
        add(&mut self.services, record.service);
        let past = match asked(record) {
            Ok(past) => past,
            Err(cause) => return self.lacks.add(cause.words().to_owned(), record),
        };
        match self.replay.judge(&past) {
            Ok(again) => {
                for id in again
                    .decision
                    .determining
                    .iter()
                    .chain(again.shadows.iter())
                {
                    add(&mut self.matched, id);
                }
            }
            Err(why) => self.lacks.add(words(&why), record),
        }
    }

    fn told(self, snapshot: &Snapshot, covered: Covered) -> Report {
        let catalogue = snapshot.catalogue();
        let services = catalogue.services().iter();
        let identities = services.clone().flat_map(|s| &s.identities);
        let silent = identities.map(ToString::to_string);
        let silent = silent.filter(|id| !self.callers.contains_key(id));
        // A service without an operation is asked for nothing by design.
        let asked = services.filter(|s| s.operations.iter().next().is_some());
        let unasked = asked.filter(|s| !self.services.contains_key(s.id.as_str()));
        let policies = self.replay.uses().into_iter();
        Report {
            absent: snapshot.compiled().absent.clone(),
            policies: policies
                .map(|policy| Used {
                    matched: self.matched.get(&policy.id).copied().unwrap_or_default(),
                    policy,
                })
                .collect(),
            silent: silent.collect(),
            unasked: unasked.map(|s| s.id.short().to_owned()).collect(),
            shorter: shorter(&covered),
            covered,
            not_replayable: self.lacks,
        }
    }
}

/// When the log begins, where it does not reach back as far as was asked for.
fn shorter(covered: &Covered) -> Option<String> {
    let (from, begins) = (covered.from_us?, covered.begins_us?);
    let begins = jiff::Timestamp::from_microsecond(Some(begins).filter(|b| *b > from)?);
    Some(format!("{:.0}", begins.ok()?))
}

fn add(counts: &mut BTreeMap<String, u64>, key: &str) {
    match counts.get_mut(key) {
        Some(count) => *count += 1,
        None => drop(counts.insert(key.to_owned(), 1)),
    }
}
