//! `palisade policy`: validate, test and format a repository. Offline, all of it.

use std::{path::Path, time::Instant};

use palisade_mesh::{clock::Clock, decision::Question, diagnostic::Diagnostic};
use palisade_pdp::{
    author::{
        self, Loaded,
        tests::{CaseResult, Report},
    },
    compiled::Compiled,
};

use super::{Context, Exit, Repository};
use crate::render::{self, Output, paint, snippet::clean};

/// What to do with the repository.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Parse, type-check and lint everything, tests too; all mistakes at once.
    Validate(Repository),
    /// Run the repository's own tests on the engine that enforces.
    Test(TestArgs),
    /// Lay out the Cedar files in the one way.
    Fmt(FmtArgs),
    /// Print the Cedar schema that the catalogue gives.
    Schema(Repository),
}

/// Arguments of `policy test`.
#[derive(Debug, clap::Args)]
pub(super) struct TestArgs {
    #[command(flatten)]
    repository: Repository,
    /// Only cases whose name, file, principal or request contains this.
    #[arg(long, value_name = "TEXT")]
    run: Option<String>,
    /// Show cases that pass, too.
    #[arg(short, long)]
    verbose: bool,
}

/// Arguments of `policy fmt`.
#[derive(Debug, clap::Args)]
pub(super) struct FmtArgs {
    #[command(flatten)]
    repository: Repository,
    /// Write nothing; fail when a file would change.
    #[arg(long)]
    check: bool,
}

pub(super) fn main(command: &Command, context: &Context) -> Exit {
    match command {
        Command::Validate(repository) => validate(&repository.dir, context),
        Command::Test(args) => test(args, context),
        Command::Fmt(args) => fmt(args, context),
        Command::Schema(repository) => schema(&repository.dir, context),
    }
}

fn validate(dir: &Path, context: &Context) -> Exit {
    let start = Instant::now();
    let loaded = author::load(dir);
    let mut found = loaded.diagnostics;
    if let Some(compiled) = &loaded.compiled {
        let (_, of_tests) = author::tests::read(dir, compiled, Clock::system().now_us());
        found.extend(of_tests);
    }
    let errors = found.iter().filter(|d| d.is_error()).count();
    render::diagnostics(context.output, &found);
    if context.output == Output::Human {
        match &loaded.compiled {
            Some(compiled) if errors == 0 => print_valid(compiled, start),
            _ => {}
        }
        print_tally(errors, found.len() - errors);
        if errors == 0 {
            let test = format!("palisade policy test {}", dir.display());
            render::next(&[(test, "what it allows and denies")]);
        }
    }
    if errors == 0 { Exit::Ok } else { Exit::Invalid }
}

fn print_valid(compiled: &Compiled, start: Instant) {
    render::line(&format!(
        "{} {} for {} in {}  {}",
        paint(render::GOOD, "✓"),
        render::count(compiled.info.len(), "policy", "policies"),
        render::count(compiled.catalogue.services().len(), "service", "services"),
        render::duration(start.elapsed()),
        paint(render::DIM, format!("sha256:{}", compiled.digest.short())),
    ));
    if compiled.info.is_empty() {
        let text = "without a policy every request is denied";
        render::line(&format!("{} {text}", paint(render::WARN, "!")));
    }
}

/// How many mistakes there are, where there are any.
fn print_tally(errors: usize, warnings: usize) {
    let counted = |n, one, many| (n > 0).then(|| render::count(n, one, many));
    let said: Vec<String> = [
        counted(errors, "error", "errors"),
        counted(warnings, "warning", "warnings"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if said.is_empty() {
        return;
    }
    let mark = match errors {
        0 => paint(render::WARN, "!"),
        _ => paint(render::BAD, "✗"),
    };
    render::line(&format!("{mark} {}", said.join(", ")));
}

fn schema(dir: &Path, context: &Context) -> Exit {
    match author::load(dir) {
        Loaded {
            compiled: Some(compiled),
            ..
        } => {
            render::line(&author::generated_schema(&compiled.catalogue));
            Exit::Ok
        }
        Loaded { diagnostics, .. } => {
            render::diagnostics(context.output, &diagnostics);
            Exit::Invalid
        }
    }
}

fn test(args: &TestArgs, context: &Context) -> Exit {
    let start = Instant::now();
    let dir = &args.repository.dir;
    let loaded = author::load(dir);
    let Some(compiled) = loaded.compiled else {
        render::diagnostics(context.output, &loaded.diagnostics);
        if context.output == Output::Human {
            let errors = loaded.diagnostics.iter().filter(|d| d.is_error()).count();
            print_tally(errors, loaded.diagnostics.len() - errors);
        }
        return Exit::Invalid;
    };
    let (cases, found) = author::tests::read(dir, &compiled, Clock::system().now_us());
    if found.iter().any(Diagnostic::is_error) {
        render::diagnostics(context.output, &found);
        if context.output == Output::Human {
            print_tally(found.len(), 0);
        }
        return Exit::Invalid;
    }
    let snapshot = match crate::run::policy::snapshot(compiled, 1) {
        Ok(snapshot) => snapshot,
        Err(error) => return render::failure(context.output, &error, Exit::Invalid),
    };
    let mut engine = snapshot.engine();
    let report = author::tests::run(
        &cases,
        args.run.as_deref(),
        snapshot.compiled(),
        &mut |q: &Question<'_>| engine.decide(q),
    );
    match context.output {
        Output::Json => render::json(&report),
        Output::Human => print(&report, args.verbose, start),
    }
    if report.is_success() {
        Exit::Ok
    } else {
        Exit::TestsFailed
    }
}

fn print(report: &Report, verbose: bool, start: Instant) {
    let mut files: Vec<&str> = report.results.iter().map(|r| r.file.as_str()).collect();
    files.dedup();
    for file in files {
        let of_file: Vec<&CaseResult> = report.results.iter().filter(|r| r.file == file).collect();
        let failed = of_file.iter().filter(|r| !r.passed).count();
        let tally = match failed {
            0 => paint(render::GOOD, format!("{} passed", of_file.len())),
            n => paint(render::BAD, format!("{n} of {} failed", of_file.len())),
        };
        render::line(&format!("{file}  {tally}"));
        for result in of_file.iter().filter(|r| verbose && r.passed) {
            let what = format!(
                "{} · {} · {}",
                result.name, result.principal, result.request
            );
            render::line(&format!("  {} {what}", paint(render::GOOD, "✓")));
        }
        for result in of_file {
            print_failure(result);
        }
    }
    render::diagnostics(Output::Human, &report.diagnostics);
    let total = report.passed + report.failed;
    if total == 0 {
        return;
    }
    let verdict = match report.failed {
        0 if total > 0 => paint(render::GOOD, "all passed"),
        n => paint(render::BAD, format!("{n} failed")),
    };
    render::line(&format!(
        "{}, {verdict}, {}",
        render::count(total, "case", "cases"),
        render::duration(start.elapsed())
    ));
    if !report.untested.is_empty() {
        let ids: Vec<&str> = report.untested.iter().map(AsRef::as_ref).collect();
        render::line(&paint(
            render::DIM,
            format!("no case is decided by: {}", ids.join(", ")),
        ));
    }
    if report.failed > 0 {
        let docs = "palisade explain PLS2003";
        render::line(&format!(
            "{}  {}",
            paint(render::NAME, "docs"),
            paint(render::DIM, docs)
        ));
    }
}

/// A case that did not come out as expected, on two lines.
fn print_failure(result: &CaseResult) {
    let Some(failure) = &result.failure else {
        return;
    };
    let place = format!("{}:{}", result.file, result.line);
    render::line(&format!(
        "  {} {}   {}",
        paint(render::BAD, "✗"),
        clean(&failure.message),
        paint(render::DIM, clean(&place)),
    ));
    let label = failure.label.as_deref().unwrap_or_default();
    let cause = failure.cause.as_deref().unwrap_or_default();
    render::line(&format!("      {}   {}", clean(label), clean(cause)));
}

fn fmt(args: &FmtArgs, context: &Context) -> Exit {
    let dir = &args.repository.dir;
    let (formatted, found) = author::fmt::check(dir);
    render::diagnostics(Output::Human, &found);
    let changed: Vec<_> = formatted.iter().filter(|f| f.changed).collect();
    if context.output == Output::Json {
        render::json(&formatted);
    }
    if !args.check
        && let Err(diagnostic) = author::fmt::write(dir, &formatted)
    {
        return render::failure(context.output, &diagnostic, Exit::Failed);
    }
    if context.output == Output::Human {
        for file in &changed {
            if args.check {
                render::line(&file.diff);
            }
        }
        let word = if args.check {
            "would change"
        } else {
            "changed"
        };
        render::line(&format!(
            "{} of {} {word}",
            changed.len(),
            render::count(formatted.len(), "file", "files")
        ));
    }
    match (found.is_empty(), args.check && !changed.is_empty()) {
        (false, _) => Exit::Invalid,
        (true, true) => Exit::Failed,
        (true, false) => Exit::Ok,
    }
}
