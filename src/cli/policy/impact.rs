//! `palisade policy impact`: recorded decisions, made again under a candidate.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc, time::Instant};

use palisade_audit::envelope::DecisionRef;
use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::decide::Replay;
use serde::Serialize;
use tokio::sync::watch;

use super::side::{self, Side};
use crate::{
    cli::{Context, Exit, block_on},
    history::{
        Covered, Wanted,
        flips::{Before, Comparing, Flips},
    },
    render::{self, Output, impact},
};

/// What is replayed of a running mesh where nothing is said.
const LOG_DEFAULT: &str = "last:7d";

/// Arguments of `policy impact`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The candidate: a folder, git:REF, a bundle file, or `running`.
    #[arg(default_value = ".")]
    candidate: String,
    /// What to compare with: git:REF (of the git repository that the candidate lies in), another
    /// folder, a bundle file, or `running`. What was recorded, where nothing is said.
    #[arg(long, value_name = "REVISION")]
    against: Option<String>,
    /// Which decisions: a query, the folder of a log, or a file of rows; may be given
    /// twice, as where from and which. The running mesh's, last:7d, where nothing is said.
    #[arg(long, value_name = "QUERY|DIR|FILE")]
    log: Vec<String>,
    /// Replay one decision in N.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    sample: Option<u64>,
    /// Fail when more would be denied than this.
    #[arg(long, value_name = "N")]
    max_newly_denied: Option<u64>,
    /// Fail when more would be allowed than this.
    #[arg(long, value_name = "N")]
    max_newly_allowed: Option<u64>,
    /// Print Markdown, for a comment on a pull request.
    #[arg(long)]
    markdown: bool,
}

/// What the command found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What the candidate was called, with the commit where there is one.
    pub(crate) candidate: String,
    /// The folder that it is, if it is one.
    #[serde(skip)]
    pub(crate) folder: Option<PathBuf>,
    /// Digest of the candidate, hexadecimal.
    pub(crate) digest: String,
    /// What it was compared with.
    pub(crate) against: String,
    /// What was gone through.
    pub(crate) covered: Covered,
    /// One decision in so many was replayed; none for all of them.
    pub(crate) sample: Option<u64>,
    /// The changes.
    #[serde(flatten)]
    pub(crate) flips: Flips,
    /// Decisions that were evaluated; the others were like one before.
    pub(crate) evaluated: u64,
    /// Milliseconds it took.
    pub(crate) took_ms: u64,
    /// Gates that did not hold, in words.
    pub(crate) failed: Vec<String>,
}

pub(crate) fn main(args: &Args, context: &Context) -> Exit {
    match block_on(replay(args, context)) {
        Ok(report) => {
            match (context.output, args.markdown) {
                (Output::Json, _) => render::json(&report),
                (Output::Human, true) => impact::print_markdown(&report),
                (Output::Human, false) => impact::print(&report),
            }
            match (report.failed.is_empty(), report.covered.interrupted) {
                (false, _) => Exit::Gate,
                (true, true) => Exit::Failed,
                (true, false) => Exit::Ok,
            }
        }
        Err(found) => {
            render::diagnostics(context.output, &found);
            found.first().map_or(Exit::Failed, Exit::of)
        }
    }
}

async fn replay(args: &Args, context: &Context) -> Result<Report, Vec<Diagnostic>> {
    let wanted = Wanted::new(&args.log, LOG_DEFAULT).map_err(|d| vec![d])?;
    let (candidate, base) = sides(args, context).await?;
    let name = candidate.name.clone();
    let candidate = candidate.snapshot()?;
    let (before, against) = before(base)?;
    let started = Instant::now();
    let mut comparing = Comparing::new(Arc::clone(&candidate), before);
    let domain = candidate.catalogue().trust_domain().clone();
    let mut take = |decision: &DecisionRef<'_>| {
        if is_sampled(decision, args.sample) {
            comparing.take(decision);
        }
        ControlFlow::Continue(())
    };
    let mesh = context.mesh.as_deref();
    let stop = stopped_by_user();
    let covered = wanted.visit(mesh, &domain, &stop, &mut take).await;
    let covered = covered.map_err(|d| vec![d])?;
    let evaluated = comparing.evaluated();
    let flips = comparing.flips;
    let failed = failed(args, &flips);
    Ok(Report {
        candidate: name,
        folder: Some(PathBuf::from(&args.candidate)).filter(|dir| dir.is_dir()),
        digest: candidate.compiled().digest.to_string(),
        against,
        sample: args.sample,
        covered,
        flips,
        evaluated,
        took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        failed,
    })
}

/// The candidate, and what to compare it with if that is another revision.
async fn sides(args: &Args, context: &Context) -> Result<(Side, Option<Side>), Vec<Diagnostic>> {
    match &args.against {
        None => Ok((
            side::one(&args.candidate, &args.candidate, context).await?,
            None,
        )),
        Some(against) => {
            let (base, candidate) = side::both(against, &args.candidate, context).await?;
            Ok((candidate, Some(base)))
        }
    }
}

/// What the candidate is compared with, and how that is called.
fn before(base: Option<Side>) -> Result<(Before, String), Vec<Diagnostic>> {
    let Some(base) = base else {
        return Ok((Before::Recorded, "what was recorded".to_owned()));
    };
    let name = base.name.clone();
    let replay = Replay::new(base.snapshot()?);
    Ok((Before::Replayed(Box::new(replay)), name))
}

/// Set to true when the user presses Ctrl-C; what was found so far is then shown.
pub(crate) fn stopped_by_user() -> watch::Receiver<bool> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.send_replace(true);
        }
        stop.closed().await;
    });
    stopped
}

/// Whether a decision is among one in `every`: by a hash of its id, so that a pattern
/// in the log is none in the sample.
fn is_sampled(decision: &DecisionRef<'_>, every: Option<u64>) -> bool {
    let Some(every) = every.filter(|every| *every > 1) else {
        return true;
    };
    let random = decision
        .id
        .last_chunk::<8>()
        .map_or(0, |b| u64::from_be_bytes(*b));
    // Ids of one worker count up; the multiplication (Fibonacci hashing) spreads them.
    let spread = random.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    spread % every == 0
}

fn failed(args: &Args, flips: &Flips) -> Vec<String> {
    let over = |found: u64, most: Option<u64>, what: &str| {
        let most = most.filter(|most| found > *most)?;
        Some(format!(
            "{} {what}, at most {} may be",
            render::thousands(found),
            render::thousands(most)
        ))
    };
    let gates = [
        over(
            flips.newly_denied.count,
            args.max_newly_denied,
            "newly denied",
        ),
        over(
            flips.newly_allowed.count,
            args.max_newly_allowed,
            "newly allowed",
        ),
    ];
    let asked = args.max_newly_denied.is_some() || args.max_newly_allowed.is_some();
    let nothing = asked && flips.decisions == flips.not_replayable.count;
    let nothing = nothing.then(|| "nothing could be replayed, so nothing is known".to_owned());
    gates.into_iter().flatten().chain(nothing).collect()
}
