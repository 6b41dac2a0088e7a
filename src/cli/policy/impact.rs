//! `palisade policy impact`: recorded decisions, made again under a candidate.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use palisade_audit::envelope::DecisionRef;
use palisade_mesh::diagnostic::{Diagnostic, Location, Severity};
use palisade_pdp::{
    author,
    compiled::{Absent, Compiled},
    decide::Replay,
};
use serde::Serialize;
use tokio::sync::watch;

use super::{
    Outputs,
    side::{self, Side as Revision},
    tally,
};
use crate::{
    cli::{Composing, Context, Exit, block_on},
    history::{
        Covered, Wanted,
        flips::{Before, Comparing, Flips, Side},
    },
    render::{
        self, impact,
        report::{self, Format, root_of},
    },
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
    /// Fail when the candidate has no decision about more requests than this that had one.
    #[arg(long, value_name = "N")]
    max_broken: Option<u64>,
    /// With a gate: fail when of more decisions than this the outcome is not known, because the
    /// record lacks what the candidate reads; 0 where nothing is said.
    #[arg(long, value_name = "N")]
    max_not_replayable: Option<u64>,
    #[command(flatten)]
    composing: Composing,
    #[command(flatten)]
    outputs: Outputs,
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
    /// Sources that are not in it, or not in what it was compared with.
    pub(crate) absent: Vec<Absent>,
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
    /// What there is to say about it, at the policies that are why.
    #[serde(skip)]
    pub(crate) findings: Vec<Diagnostic>,
}

pub(crate) fn main(args: &Args, context: &Context) -> Exit {
    let report = match block_on(replay(args, context)) {
        Ok(report) => report,
        Err(found) => {
            let exit = found.first().map_or(Exit::Failed, Exit::of);
            let told = report::Report {
                document: serde_json::json!({ "diagnostics": &found }),
                lines: tally(&found).into_iter().collect(),
                findings: found,
                ..begun(args)
            };
            return args.outputs.tell(context, &told, exit);
        }
    };
    let exit = match (report.failed.is_empty(), report.covered.interrupted) {
        (false, _) => Exit::Gate,
        (true, true) => Exit::Failed,
        (true, false) => Exit::Ok,
    };
    let told = report::Report {
        document: serde_json::to_value(&report).unwrap_or_default(),
        lines: impact::lines(&report),
        tables: impact::tables(&report),
        findings: report.findings.clone(),
        ..begun(args)
    };
    let exit = args.outputs.tell(context, &told, exit);
    if args.outputs.format(context) == Format::Human {
        impact::hint(&report);
    }
    exit
}

fn begun(args: &Args) -> report::Report {
    let dir = Path::new(&args.candidate);
    report::Report {
        command: "palisade policy impact",
        root: root_of(dir),
        files: author::files_of(dir),
        ..report::Report::default()
    }
}

async fn replay(args: &Args, context: &Context) -> Result<Report, Vec<Diagnostic>> {
    let wanted = Wanted::new(&args.log, LOG_DEFAULT).map_err(|d| vec![d])?;
    let (candidate, base) = sides(args, context).await?;
    let (absent, mut findings) = side::absent(base.iter().chain([&candidate]));
    let Revision {
        name,
        snapshot: candidate,
    } = candidate;
    let (before, against) = before(base);
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
    let gates = Gates::of(args);
    let failed: Vec<Failed> = gates.failed(&flips, !absent.is_empty());
    let mut report = Report {
        candidate: name,
        folder: Some(PathBuf::from(&args.candidate)).filter(|dir| dir.is_dir()),
        digest: candidate.compiled().digest.to_string(),
        absent,
        against,
        sample: args.sample,
        covered,
        flips,
        evaluated,
        took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        failed: failed.iter().map(|f| f.what.clone()).collect(),
        findings: Vec::new(),
    };
    let compiled = candidate.compiled();
    findings.extend(failed.iter().map(|f| f.told(compiled)));
    findings.extend(gates.broken(&report.flips));
    findings.extend(impact::incomplete(&report));
    report.findings = findings;
    Ok(report)
}

/// The candidate, and what to compare it with if that is another revision.
async fn sides(
    args: &Args,
    context: &Context,
) -> Result<(Revision, Option<Revision>), Vec<Diagnostic>> {
    match &args.against {
        None => Ok((
            side::one(&args.candidate, &args.composing, context).await?,
            None,
        )),
        Some(against) => {
            let (base, candidate) =
                side::both((against, &args.candidate), &args.composing, context).await?;
            Ok((candidate, Some(base)))
        }
    }
}

/// What the candidate is compared with, and how that is called.
fn before(base: Option<Revision>) -> (Before, String) {
    match base {
        None => (Before::Recorded, "what was recorded".to_owned()),
        Some(Revision { name, snapshot }) => {
            (Before::Replayed(Box::new(Replay::new(snapshot))), name)
        }
    }
}

/// Set to true when the user presses Ctrl-C; what was found so far is then shown.
pub(crate) fn stopped_by_user() -> watch::Receiver<bool> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            Ok(()) = tokio::signal::ctrl_c() => {
                stop.send_replace(true);
                stop.closed().await;
            }
            // Whoever asked is done.
            () = stop.closed() => {}
        }
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

/// How many recorded decisions may change in which way.
struct Gates {
    newly_denied: Option<u64>,
    newly_allowed: Option<u64>,
    broken: Option<u64>,
    not_replayable: Option<u64>,
}

/// What helps against a change that is too large.
const NARROW: &str =
    "narrow the policy that is why, or have the change approved and merge without the gate";
/// What helps where records lack what the candidate reads.
const UNKNOWN: &str = "have what the policy reads recorded first, and replay what was recorded since; or say how many may be unknown: --max-not-replayable N";

/// A gate that did not hold.
struct Failed {
    what: String,
    /// The policies behind most of it.
    policies: Vec<String>,
    sample: Option<String>,
    fix: &'static str,
}

impl Gates {
    fn of(args: &Args) -> Self {
        Self {
            newly_denied: args.max_newly_denied,
            newly_allowed: args.max_newly_allowed,
            broken: args.max_broken,
            not_replayable: args.max_not_replayable,
        }
    }

    /// Those that do not hold; of revisions that lack a source, none does.
    fn failed(&self, flips: &Flips, partial: bool) -> Vec<Failed> {
        let over = |most: Option<u64>, side: &Side, what: &str| {
            let what = over(side.count, most, what)?;
            let groups = side.largest();
            let first = groups.first();
            Some(Failed {
                what,
                policies: first.map_or_else(Vec::new, |(edge, _)| edge.policies.clone()),
                sample: first.and_then(|(_, group)| group.samples.first().cloned()),
                fix: NARROW,
            })
        };
        let sides = [
            over(self.newly_denied, &flips.newly_denied, "newly denied"),
            over(self.newly_allowed, &flips.newly_allowed, "newly allowed"),
        ];
        let alone = |what| Failed {
            what,
            policies: Vec::new(),
            sample: None,
            fix: NARROW,
        };
        let broken = self::over(flips.broken.count, self.broken, "broken");
        let asked = [
            self.newly_denied,
            self.newly_allowed,
            self.broken,
            self.not_replayable,
        ];
        let asked = asked.iter().any(Option::is_some);
        let nothing = asked && flips.decisions == flips.not_replayable.count;
        let nothing = nothing.then(|| "nothing could be replayed, so nothing is known".to_owned());
        let partial = (asked && partial)
            .then(|| "part of a revision is not here, so no gate is known to hold".to_owned());
        let others = broken.into_iter().chain(nothing).chain(partial).map(alone);
        // What is not known may be any of the others.
        let most = asked.then(|| self.not_replayable.unwrap_or(0));
        let unknown = self::over(flips.unknown, most, "of unknown outcome");
        let unknown = unknown.map(|what| Failed {
            fix: UNKNOWN,
            ..alone(what)
        });
        let sides = sides.into_iter().flatten();
        sides.chain(others).chain(unknown).collect()
    }

    /// That requests which had a decision have none any more, where there are such.
    fn broken(&self, flips: &Flips) -> Option<Diagnostic> {
        let count = flips.broken.count;
        let message = format!(
            "the candidate has no decision about {} that had one",
            render::count(count, "recorded request", "recorded requests")
        );
        let mut told = Diagnostic::warning(2209, message)
            .cause(flips.broken.largest().unwrap_or_default())
            .help("keep the service, the operation or the type of the schema, or see that nobody asks for it any more; --max-broken 0 makes it a gate");
        if over(count, self.broken, "").is_some() {
            told.severity = Severity::Error;
        }
        (count > 0).then_some(told)
    }
}

/// What to say of more than may be.
fn over(found: u64, most: Option<u64>, what: &str) -> Option<String> {
    let most = most.filter(|most| found > *most)?;
    Some(format!(
        "{} {what}, at most {} may be",
        render::thousands(found),
        render::thousands(most)
    ))
}

impl Failed {
    /// It as a diagnostic, at the first policy that the candidate still has.
    fn told(&self, candidate: &Compiled) -> Diagnostic {
        let mut cause = match self.policies.as_slice() {
            [] => String::new(),
            some => format!("most of them by {}", some.join(", ")),
        };
        if let Some(sample) = &self.sample {
            cause.push_str(&format!(", such as decision {sample}"));
        }
        let mut told = Diagnostic::error(2208, self.what.clone()).help(self.fix);
        if !cause.is_empty() {
            told = told.cause(cause.trim_start_matches(", "));
        }
        let known = self.policies.iter();
        let info = known
            .filter_map(|id| candidate.info.get(id.as_str()))
            .next();
        let Some(info) = info else {
            return told;
        };
        let texts = author::texts_of(candidate);
        match texts.into_iter().find(|(path, _)| *path == info.file) {
            Some((path, text)) => told.at(Location::line(path, text, info.first_line)),
            None => told,
        }
    }
}
