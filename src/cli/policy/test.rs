//! `palisade policy test`: the tables of a repository on the engine that enforces.

use std::time::{Duration, Instant};

use palisade_mesh::{clock::Clock, decision::Question, diagnostic::Diagnostic};
use palisade_pdp::author::{
    self,
    tests::{CaseResult, Report as Results},
};

use super::{Context, Exit, Outputs, Repository, tally};
use crate::render::{
    self, paint,
    report::{Case, Report, root_of},
    snippet::clean,
};

/// Arguments of `policy test`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    repository: Repository,
    /// Only cases whose name, file, principal or request contains this.
    #[arg(long, value_name = "TEXT")]
    run: Option<String>,
    /// Show cases that pass, too.
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    outputs: Outputs,
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    let (report, exit) = match results(args) {
        Ok((results, took)) => {
            let passed = results.is_success();
            let exit = if passed { Exit::Ok } else { Exit::TestsFailed };
            (told(args, results, took), exit)
        }
        Err(found) => {
            let report = Report {
                document: serde_json::json!({ "diagnostics": &found }),
                lines: tally(&found).into_iter().collect(),
                findings: found,
                ..begun(args)
            };
            (report, Exit::Invalid)
        }
    };
    args.outputs.tell(context, &report, exit)
}

/// Runs what was asked for; how the cases went, or what keeps them from being run.
fn results(args: &Args) -> Result<(Results, Duration), Vec<Diagnostic>> {
    let start = Instant::now();
    let dir = &args.repository.dir;
    let loaded = author::load(dir);
    let compiled = loaded.compiled.ok_or(loaded.diagnostics)?;
    let (cases, found) = author::tests::read(dir, &compiled, Clock::system().now_us());
    if found.iter().any(Diagnostic::is_error) {
        return Err(found);
    }
    let snapshot = crate::run::policy::snapshot(compiled, 1).map_err(|d| vec![d])?;
    let mut engine = snapshot.engine();
    let results = author::tests::run(
        &cases,
        args.run.as_deref(),
        snapshot.compiled(),
        &mut |q: &Question<'_>| engine.decide(q),
    );
    Ok((results, start.elapsed()))
}

fn begun(args: &Args) -> Report {
    Report {
        command: "palisade policy test",
        root: root_of(&args.repository.dir),
        ..Report::default()
    }
}

fn told(args: &Args, results: Results, took: Duration) -> Report {
    Report {
        document: serde_json::json!(&results),
        lines: lines(&results, args.verbose, took),
        findings: results.diagnostics,
        cases: results.results.into_iter().map(case).collect(),
        ..begun(args)
    }
}

fn case(result: CaseResult) -> Case {
    Case {
        name: format!(
            "{} · {} · {}",
            result.name, result.principal, result.request
        ),
        file: result.file,
        line: result.line,
        took: Duration::from_micros(result.took_us),
        failure: result.failure,
    }
}

fn lines(results: &Results, verbose: bool, took: Duration) -> Vec<String> {
    let mut lines = Vec::new();
    let mut files: Vec<&str> = results.results.iter().map(|r| r.file.as_str()).collect();
    files.dedup();
    for file in files {
        let of_file: Vec<&CaseResult> = results.results.iter().filter(|r| r.file == file).collect();
        lines.extend(file_lines(file, &of_file, verbose));
    }
    let total = results.passed + results.failed;
    if total == 0 {
        return lines;
    }
    let verdict = match results.failed {
        0 => paint(render::GOOD, "all passed"),
        n => paint(render::BAD, format!("{n} failed")),
    };
    let cases = render::count(total, "case", "cases");
    lines.push(format!("{cases}, {verdict}, {}", render::duration(took)));
    if !results.untested.is_empty() {
        let ids: Vec<&str> = results.untested.iter().map(AsRef::as_ref).collect();
        let text = format!("no case is decided by: {}", ids.join(", "));
        lines.push(paint(render::DIM, text));
    }
    if results.failed > 0 {
        let docs = paint(render::DIM, "palisade explain PLS2003");
        lines.push(format!("{}  {docs}", paint(render::NAME, "docs")));
    }
    lines
}

fn file_lines(file: &str, results: &[&CaseResult], verbose: bool) -> Vec<String> {
    let failed = results.iter().filter(|r| !r.passed).count();
    let tally = match failed {
        0 => paint(render::GOOD, format!("{} passed", results.len())),
        n => paint(render::BAD, format!("{n} of {} failed", results.len())),
    };
    let mut lines = vec![format!("{}  {tally}", clean(file))];
    for result in results.iter().filter(|r| verbose && r.passed) {
        let what = format!(
            "{} · {} · {}",
            result.name, result.principal, result.request
        );
        lines.push(format!("  {} {}", paint(render::GOOD, "✓"), clean(&what)));
    }
    lines.extend(
        results
            .iter()
            .filter_map(|r| r.failure.as_ref())
            .flat_map(failure),
    );
    lines
}

/// A case that did not come out as expected, on two lines.
fn failure(failure: &Diagnostic) -> [String; 2] {
    let place = failure
        .location
        .as_ref()
        .map_or_else(String::new, |at| format!("{}:{}", at.file, at.line));
    let label = failure.label.as_deref().unwrap_or_default();
    let cause = failure.cause.as_deref().unwrap_or_default();
    [
        format!(
            "  {} {}   {}",
            paint(render::BAD, "✗"),
            clean(&failure.message),
            paint(render::DIM, clean(&place)),
        ),
        format!("      {}   {}", clean(label), clean(cause)),
    ]
}
