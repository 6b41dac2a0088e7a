//! `palisade policy diff`: what a change does, and whether it passes the gates.

use std::{
    panic::resume_unwind,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use palisade_mesh::{
    clock::Clock,
    diagnostic::{Diagnostic, Severity},
};
use palisade_pdp::{
    analysis::{
        Comparison, codes,
        gate::{Gate, GateAnswer, GateVerdict, Target},
        prove::{PROOF_TIME_DEFAULT, Solver},
    },
    author,
    decide::Snapshot,
};

use super::{
    Outputs,
    side::{self, Side},
    tally,
};
use crate::{
    cli::{Composing, Context, Exit, block_on},
    render::{
        comparison::{self, Named},
        report::{Report, root_of},
    },
};

/// How a gate comes to be about a whole revision.
const WHOLE: &str = "have the whole of it: --fetch has each source of both revisions, --checkout NAME=DIR one of the newer; --allow-partial lets it pass";

/// Arguments of `policy diff`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The older revision: a folder, git:REF, a bundle file, or `running`.
    base: String,
    /// The newer revision.
    #[arg(default_value = ".")]
    head: String,
    /// Fail when anything is allowed that was not.
    #[arg(long)]
    no_new_access: bool,
    /// Fail when anybody newly reaches this: NAMESPACE/SERVICE, NAMESPACE/SERVICE/OPERATION,
    /// label=KEY:VALUE, or an entity.
    #[arg(long, value_name = "RESOURCE")]
    no_new_access_to: Vec<String>,
    /// Fail when anybody reaches this in the newer revision.
    #[arg(long, value_name = "RESOURCE")]
    no_access_to: Vec<String>,
    /// Fail when a caller that no service claims, or of another trust domain, reaches anything.
    #[arg(long)]
    not_public: bool,
    /// Let a gate pass that is neither proved nor broken.
    #[arg(long)]
    allow_unproved: bool,
    /// Let a gate pass that is not broken, though a revision that it is about lacks a source.
    #[arg(long)]
    allow_partial: bool,
    /// Do not look for a solver; nothing is proved.
    #[arg(long)]
    no_proof: bool,
    /// Longest time for each proof, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = PROOF_TIME_DEFAULT.as_secs())]
    timeout: u64,
    /// The moment from which on requests count, as RFC 3339; now where nothing is said.
    #[arg(long, value_name = "TIME")]
    at: Option<jiff::Timestamp>,
    #[command(flatten)]
    composing: Composing,
    #[command(flatten)]
    outputs: Outputs,
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    let done = match block_on(compared(args, context)) {
        Ok(done) => done,
        Err(found) => {
            let exit = found.first().map_or(Exit::Failed, Exit::of);
            let report = Report {
                document: serde_json::json!({ "diagnostics": &found }),
                lines: tally(&found).into_iter().collect(),
                findings: found,
                ..report_of(&args.head)
            };
            return args.outputs.tell(context, &report, exit);
        }
    };
    // Of a part a proof is not even looked for: that there is no solver is another reason.
    let no_proof = done.comparison.no_proof.is_some();
    let fails = |gate: &GateAnswer| match (gate.verdict, gate.partial) {
        (GateVerdict::Broken, _) => true,
        (GateVerdict::Kept, _) => false,
        (GateVerdict::Unproved, false) => !args.allow_unproved,
        (GateVerdict::Unproved, true) => !args.allow_partial || no_proof && !args.allow_unproved,
    };
    let exit = match done.comparison.gates.iter().any(fails) {
        true => Exit::Gate,
        false => Exit::Ok,
    };
    let report = Report {
        document: serde_json::to_value(&done.comparison).unwrap_or_default(),
        lines: comparison::lines(&done.comparison),
        tables: comparison::tables(&done.comparison),
        findings: done.findings,
        ..report_of(&args.head)
    };
    args.outputs.tell(context, &report, exit)
}

fn report_of(head: &str) -> Report {
    let dir = Path::new(head);
    Report {
        command: "palisade policy diff",
        root: root_of(dir),
        files: author::files_of(dir),
        ..Report::default()
    }
}

/// A comparison, and what is wrong with the change.
struct Done {
    comparison: comparison::Comparison,
    findings: Vec<Diagnostic>,
}

async fn compared(args: &Args, context: &Context) -> Result<Done, Vec<Diagnostic>> {
    // The solver answers its test questions while the revisions are compiled.
    let solver = args
        .proving()
        .map(|_| tokio::task::spawn_blocking(Solver::find));
    let (base, head) = side::both((&args.base, &args.head), &args.composing, context).await?;
    let solver = match solver {
        None => None,
        Some(finding) => Some(finding.await.map_err(|error| not_ended(&error))?),
    };
    let domain = |side: &Side| side.snapshot.catalogue().trust_domain().clone();
    let (of_base, of_head) = (domain(&base), domain(&head));
    if of_base != of_head {
        return Err(vec![
            Diagnostic::error(
                codes::TRUST_DOMAINS,
                "these revisions have nothing in common",
            )
            .cause(format!("one governs `{of_base}`, the other `{of_head}`"))
            .help("compare two revisions of one trust domain"),
        ]);
    }
    let now_us = args
        .at
        .map_or_else(|| Clock::system().now_us(), jiff::Timestamp::as_microsecond);
    let (gates, time_max) = (args.gates(), args.proving().unwrap_or_default());
    let work = move || report(base, head, &gates, (solver, time_max), now_us);
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(not_ended(&error)))
}

fn not_ended(error: &tokio::task::JoinError) -> Vec<Diagnostic> {
    vec![Diagnostic::error(9199, "bug: the comparison did not end").cause(error.to_string())]
}

/// The gates as they were asked for, not yet understood.
struct Gates {
    no_new_access: bool,
    no_new_access_to: Vec<String>,
    no_access_to: Vec<String>,
    not_public: bool,
}

impl Args {
    fn gates(&self) -> Gates {
        Gates {
            no_new_access: self.no_new_access,
            no_new_access_to: self.no_new_access_to.clone(),
            no_access_to: self.no_access_to.clone(),
            not_public: self.not_public,
        }
    }

    /// The time for each proof; `None` for no proof.
    fn proving(&self) -> Option<Duration> {
        (!self.no_proof).then(|| Duration::from_secs(self.timeout))
    }
}

impl Gates {
    fn understood(&self, head: &Snapshot) -> Result<Vec<Gate>, Vec<Diagnostic>> {
        let mut found = Vec::new();
        let mut gates = Vec::new();
        if self.no_new_access {
            gates.push(Gate::NoNewAccess);
        }
        let mut about = |names: &[String], gate: fn(Target) -> Gate| {
            for name in names {
                match Target::find(name, head) {
                    Ok(target) => gates.push(gate(target)),
                    Err(diagnostic) => found.push(diagnostic),
                }
            }
        };
        about(&self.no_new_access_to, Gate::NoNewAccessTo);
        about(&self.no_access_to, Gate::NoAccessTo);
        if self.not_public {
            gates.push(Gate::NotPublic);
        }
        if found.is_empty() {
            Ok(gates)
        } else {
            Err(found)
        }
    }
}

/// What came of looking for a solver; `None` where nothing is to be proved.
type Sought = Option<Result<Option<Solver>, Diagnostic>>;

fn report(
    base: Side,
    head: Side,
    gates: &Gates,
    (sought, time_max): (Sought, Duration),
    now_us: i64,
) -> Result<Done, Vec<Diagnostic>> {
    let named = |side: &Side| Named {
        name: side.name.clone(),
        digest: side.snapshot.compiled().digest.to_string(),
        policies: side.snapshot.compiled().info.len(),
    };
    let named = (named(&base), named(&head));
    let gates = gates.understood(&head.snapshot)?;
    let (absent, mut findings) = side::absent([&base, &head]);
    let (solver, no_proof) = match sought {
        None => (None, Some("not asked for".to_owned())),
        Some(Ok(Some(solver))) => (Some(solver), None),
        Some(Ok(None)) => {
            let why = "no solver: install cvc5, or name it in CVC5";
            (None, Some(why.to_owned()))
        }
        Some(Err(mut unusable)) => {
            // What cannot be proved is unproved, whatever the reason.
            unusable.severity = Severity::Warning;
            let why = unusable.message.clone();
            findings.push(unusable);
            (None, Some(why))
        }
    };
    let start = Instant::now();
    let comparison = Comparison::new(base.snapshot, head.snapshot, now_us);
    let (text, access, proof) = thread::scope(|scope| {
        // The proof waits for the solver most of its time.
        let (solver, comparison) = (solver.as_ref(), &comparison);
        let proving = solver.map(|s| scope.spawn(move || comparison.prove(s, time_max)));
        let (access, text) = (comparison.access(), comparison.texts());
        let proof = proving.map(|p| p.join().unwrap_or_else(|panic| resume_unwind(panic)));
        (text, access, proof)
    });
    let answers = gates.iter().map(|gate| {
        comparison
            .answer(gate, solver.as_ref(), time_max, proof.as_ref())
            .map_err(|error| {
                vec![
                    Diagnostic::error(6001, "a gate cannot be put to the engine")
                        .cause(error.to_string())
                        .help("see the policy it names: palisade policy validate"),
                ]
            })
    });
    let answers: Vec<GateAnswer> = answers.collect::<Result<_, _>>()?;
    findings.extend(
        answers
            .iter()
            .filter_map(|answer| told(answer, &comparison)),
    );
    Ok(Done {
        comparison: comparison::Comparison {
            base: named.0,
            head: named.1,
            absent,
            text,
            access,
            proof,
            no_proof,
            gates: answers,
            took_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        },
        findings,
    })
}

/// A gate that is not kept, as a diagnostic.
fn told(answer: &GateAnswer, comparison: &Comparison) -> Option<Diagnostic> {
    let example = answer
        .counterexamples
        .iter()
        .map(|c| &c.example)
        .chain(&answer.example)
        .next();
    let shown = example.map(|e| format!("{} {} {}", e.caller, e.action, e.target));
    let by = answer.counterexamples.iter().flat_map(|c| &c.by);
    let by = by.chain(answer.access.iter().flat_map(|a| &a.by));
    let at = by.into_iter().find_map(|place| comparison.location(place));
    let located = |diagnostic: Diagnostic| match at {
        Some(at) => diagnostic.at(at),
        None => diagnostic,
    };
    match answer.verdict {
        GateVerdict::Kept => None,
        GateVerdict::Broken => {
            let cause = shown.unwrap_or_else(|| "see the access above".to_owned());
            Some(located(
                Diagnostic::error(
                    codes::GATE_BROKEN,
                    format!("the change breaks `{}`", answer.gate),
                )
                .cause(cause)
                .help("narrow the policy that allows it, or have the change approved and merge without the gate"),
            ))
        }
        GateVerdict::Unproved => Some(
            Diagnostic::warning(
                codes::GATE_UNPROVED,
                format!("`{}` is not proved", answer.gate),
            )
            .cause(answer.why.join("; "))
            .help(match answer.partial {
                true => WHOLE,
                false => "see docs/policy-changes.md for what can be proved; --allow-unproved lets it pass",
            }),
        ),
    }
}
