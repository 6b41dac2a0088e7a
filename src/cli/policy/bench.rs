//! `palisade policy bench`: what a repository costs to compile and to decide by, in CPU.

use std::{ops::ControlFlow, sync::Arc};

use palisade_audit::envelope::DecisionRef;
use palisade_mesh::{canonical::Method, clock::Clock, decision::Question, diagnostic::Diagnostic};
use palisade_pdp::{
    author::{self, Ask, OwnedQuestion},
    compiled::Absent,
    decide::{Costs, Engine, Replay, Snapshot, Who},
};
use serde::Serialize;

use super::impact::stopped_by_user;
use crate::{
    cli::{
        Context, Exit, Repository, block_on, target,
        timing::{Span, Whose, cpu, timed},
    },
    history::{Wanted, asked::asked},
    render::{self, Output, benchmark},
};

/// Most questions that are made of the repository.
const QUESTIONS_MAX: usize = 2_000;
/// Decisions over which one figure is taken, at least.
const DECISIONS_MIN: usize = 20_000;

/// Arguments of `policy bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    repository: Repository,
    /// Replay recorded decisions, too: a query, the folder of a log, or a file of rows.
    #[arg(long, value_name = "QUERY|DIR|FILE")]
    log: Vec<String>,
}

/// What the command measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Policies of the repository.
    pub(crate) policies: usize,
    /// Sources that the revision lacks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) absent: Vec<Absent>,
    /// Reading, parsing and validating it.
    pub(crate) compile: Span,
    /// Building engine and index.
    pub(crate) index: Span,
    /// Questions asked: callers of the repository by its operations.
    pub(crate) questions: usize,
    /// A decision about a caller and operation that was not met before.
    pub(crate) first: Span,
    /// A decision that is evaluated.
    pub(crate) evaluated: Span,
    /// A decision that is found in the cache.
    pub(crate) found: Span,
    /// Slices and policies.
    pub(crate) costs: Costs,
    /// Recorded decisions made again, if asked for.
    pub(crate) replay: Option<Replayed>,
}

/// A replay.
#[derive(Debug, Serialize)]
pub(crate) struct Replayed {
    /// Recorded decisions.
    pub(crate) decisions: u64,
    /// Of these, how many were evaluated; the others were like one before.
    pub(crate) evaluated: u64,
    /// One of them, from its bytes to its verdict.
    pub(crate) each: Span,
}

pub(crate) fn main(args: &Args, context: &Context) -> Exit {
    match measure(args, context) {
        Ok(report) => {
            match context.output {
                Output::Json => render::json(&report),
                Output::Human => benchmark::print(&report),
            }
            Exit::Ok
        }
        Err(found) => {
            render::diagnostics(context.output, &found);
            found.first().map_or(Exit::Failed, Exit::of)
        }
    }
}

fn measure(args: &Args, context: &Context) -> Result<Report, Vec<Diagnostic>> {
    let Repository { dir, composing } = &args.repository;
    let (loaded, compile) = timed(Whose::Process, 1, || block_on(composing.load(dir)));
    let loaded = loaded.map_err(|d| vec![d])?;
    let compiled = loaded.compiled.ok_or(loaded.diagnostics)?;
    target::tell_absent(&compiled);
    let (policies, absent) = (compiled.info.len(), compiled.absent.clone());
    let (snapshot, index) = timed(Whose::Thread, 1, || {
        crate::run::policy::snapshot(compiled, 0)
    });
    let snapshot = snapshot.map_err(|d| vec![d])?;
    let owned = questions(&snapshot);
    let questions: Vec<Question<'_>> = owned.iter().map(OwnedQuestion::as_question).collect();
    if questions.is_empty() {
        return Err(vec![
            Diagnostic::error(2206, "the repository has nobody who asks for anything")
                .cause("it has no identities, or no operations")
                .help("declare them in services/"),
        ]);
    }
    let mut engine = snapshot.engine().with_self_check(0);
    let first = round(&mut engine, &questions, 1);
    let times = DECISIONS_MIN.div_ceil(questions.len());
    let found = round(&mut engine, &questions, times);
    let mut forgetful = snapshot.engine().with_self_check(0).forgetful();
    round(&mut forgetful, &questions, 1);
    let evaluated = round(&mut forgetful, &questions, times);
    let costs = snapshot.costs(&questions, &cpu_ns);
    let replay = match args.log.is_empty() {
        true => None,
        false => Some(replay(args, &snapshot, context)?),
    };
    Ok(Report {
        policies,
        absent,
        compile,
        index,
        questions: questions.len(),
        first,
        evaluated,
        found,
        costs,
        replay,
    })
}

/// Each identity asks for each operation; of more than may be, every so many are taken.
fn questions(snapshot: &Snapshot) -> Vec<OwnedQuestion> {
    let callers: Vec<String> = snapshot
        .callers()
        .into_iter()
        .filter_map(|caller| match caller.who {
            Who::Workload(id) => Some(id.to_string()),
            _ => None,
        })
        .collect();
    let services = snapshot.catalogue().services().iter();
    let operations: Vec<(String, Method)> = services
        .flat_map(|service| {
            service.operations.iter().filter_map(|operation| {
                let host = operation.hosts.first().or(service.hosts.first())?;
                let path = operation.template.as_str().replace(['{', '}', '*'], "");
                Some((format!("http://{host}{path}"), *operation.methods.first()?))
            })
        })
        .collect();
    let all = callers.len() * operations.len();
    let step = all.div_ceil(QUESTIONS_MAX).max(1);
    let pairs = operations
        .iter()
        .flat_map(|o| callers.iter().map(move |c| (c, o)));
    let now_us = Clock::system().now_us();
    pairs
        .step_by(step)
        .filter_map(|(caller, (target, method))| {
            let ask = Ask {
                principal: caller.clone(),
                verb: method.as_str().to_owned(),
                target: target.clone(),
                now_us,
                ..Ask::default()
            };
            author::question(snapshot.catalogue(), &ask).ok()
        })
        .collect()
}

/// One decision, in the mean of all questions asked so many times.
fn round(engine: &mut Engine, questions: &[Question<'_>], times: usize) -> Span {
    let n = wide(questions.len() * times);
    let ((), span) = timed(Whose::Thread, n, || {
        for _ in 0..times {
            for question in questions {
                std::hint::black_box(engine.decide(question));
            }
        }
    });
    span
}

fn replay(
    args: &Args,
    snapshot: &Arc<Snapshot>,
    context: &Context,
) -> Result<Replayed, Vec<Diagnostic>> {
    let wanted = Wanted::new(&args.log, "last:7d").map_err(|d| vec![d])?;
    let mut replay = Replay::new(Arc::clone(snapshot));
    let mut take = |record: &DecisionRef<'_>| {
        if let Ok(past) = asked(record) {
            std::hint::black_box(replay.decide(&past).ok());
        }
        ControlFlow::Continue(())
    };
    let domain = snapshot.catalogue().trust_domain();
    let (covered, span) = timed(Whose::Process, 1, || {
        block_on(async {
            let stop = stopped_by_user();
            let mesh = context.mesh.as_deref();
            wanted.visit(mesh, domain, &stop, &mut take).await
        })
    });
    let decisions = covered.map_err(|d| vec![d])?.decisions;
    let n = decisions.max(1) as f64;
    Ok(Replayed {
        decisions,
        evaluated: replay.evaluated(),
        each: Span {
            cpu_ns: span.cpu_ns / n,
            wall_ns: span.wall_ns / n,
        },
    })
}

/// CPU time of this thread so far, nanoseconds.
fn cpu_ns() -> u64 {
    u64::try_from(cpu(Whose::Thread).as_nanos()).unwrap_or(u64::MAX)
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
