//! `palisade policy test`: the tables of a repository on the engine that enforces.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use palisade_pdp::{
    author::{
        Places,
        tests::{self, Case as TestCase, CaseResult, Coverage, Engines, Report as Results},
    },
    compiled::Absent,
};

use super::{Context, Exit, Outputs, Repository, block_on, tally};
use crate::render::{
    self, explanation, paint,
    report::{Case, Grid, Report, root_of},
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
    /// Say why cases came out as they did: clause by clause, and where entities are declared.
    #[arg(long, value_enum, default_value_t = Trace::None)]
    trace: Trace,
    /// Say which policies and clauses no case saw; below MIN per cent, fail.
    #[arg(long, value_name = "MIN%", num_args = 0..=1, require_equals = true, default_missing_value = "0%", value_parser = percent)]
    coverage: Option<usize>,
    /// Write into each row that is as expected which policies decide it.
    #[arg(long)]
    update: bool,
    #[command(flatten)]
    outputs: Outputs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Trace {
    All,
    Failed,
    None,
}

fn percent(text: &str) -> Result<usize, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|n| *n <= 100)
        .ok_or_else(|| "expected 0 to 100, such as 90%".to_owned())
}

/// Most lines about the clauses behind a failing case in a report.
const WHY_LINES_MAX: usize = 20;
/// Longest of them, in characters.
const WHY_LEN_MAX: usize = 200;

/// What a run gave.
struct Run {
    results: Results,
    took: Duration,
    /// Lines about what was written.
    updated: Option<String>,
    /// Where entities are declared, when cases are explained.
    places: Places,
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    let (report, exit) = match run(args) {
        Ok(run) => {
            let passed = run.results.is_success();
            let exit = if passed { Exit::Ok } else { Exit::TestsFailed };
            (told(args, run), exit)
        }
        Err(found) => {
            let exit = found.first().map_or(Exit::Failed, Exit::of);
            let report = Report {
                document: serde_json::json!({ "diagnostics": &found }),
                lines: tally(&found).into_iter().collect(),
                findings: found,
                ..begun(args)
            };
            (report, exit)
        }
    };
    args.outputs.tell(context, &report, exit)
}

/// Runs what was asked for, or says what keeps it from being run.
fn run(args: &Args) -> Result<Run, Vec<Diagnostic>> {
    let start = Instant::now();
    let dir = &args.repository.dir;
    let loaded = block_on(args.repository.composing.load(dir)).map_err(|d| vec![d])?;
    let compiled = loaded.compiled.ok_or(loaded.diagnostics)?;
    let absent: Vec<Diagnostic> = compiled.absent.iter().map(Absent::told).collect();
    let now_us = Clock::system().now_us();
    let (mut cases, found) = tests::read(dir, &compiled, now_us);
    if found.iter().any(Diagnostic::is_error) {
        return Err(found);
    }
    let mut engines = engines(compiled, &cases, args.coverage.is_some())?;
    let mut updated = None;
    if args.update {
        let count = tests::update(dir, &cases, &mut engines).map_err(|d| vec![d])?;
        updated = Some(update_line(count));
        let compiled = engines.compiled().clone();
        cases = tests::read(dir, &compiled, now_us).0;
        engines = self::engines(compiled, &cases, args.coverage.is_some())?;
    }
    let compiled = engines.compiled().clone();
    let filter = args.run.as_deref();
    // Whatever is shown here, reports of failing cases say why.
    let trace = match args.trace {
        Trace::All => tests::Trace::All,
        Trace::Failed | Trace::None => tests::Trace::Failed,
    };
    let mut results = tests::run(&cases, filter, trace, &compiled, &mut engines);
    results.coverage = engines.coverage();
    results.diagnostics.extend(absent);
    results
        .diagnostics
        .extend(too_little(args, results.coverage.as_ref()));
    Ok(Run {
        places: match args.trace {
            Trace::None => Places::default(),
            _ => Places::of(&compiled),
        },
        took: start.elapsed(),
        results,
        updated,
    })
}

fn engines(
    compiled: palisade_pdp::compiled::Compiled,
    cases: &[TestCase],
    covering: bool,
) -> Result<Engines, Vec<Diagnostic>> {
    let made = Engines::new(compiled, cases, covering);
    made.map_err(|error| vec![crate::run::policy::no_engine(&error)])
}

fn update_line(updated: tests::Updated) -> String {
    let rows = render::count(updated.rows, "row names", "rows name");
    let left = match updated.left {
        0 => String::new(),
        n => format!("; {n} left, decided otherwise than expected or by different policies"),
    };
    format!(
        "{} {rows} the policies that decide{left}",
        paint(render::GOOD, "✓")
    )
}

fn too_little(args: &Args, coverage: Option<&Coverage>) -> Option<Diagnostic> {
    let (wanted, coverage) = (args.coverage?, coverage?);
    let (seen, all) = coverage.seen();
    (coverage.percent() < wanted).then(|| {
        Diagnostic::error(
            2021,
            format!("tests saw {} % of the policies", coverage.percent()),
        )
        .cause(format!(
            "{seen} of {all} outcomes; {wanted} % are asked for"
        ))
        .help("add rows in which the clauses listed are true, and rows in which they are false")
    })
}

fn begun(args: &Args) -> Report {
    Report {
        command: "palisade policy test",
        root: root_of(&args.repository.dir),
        ..Report::default()
    }
}

fn told(args: &Args, run: Run) -> Report {
    let lines = lines(&run, args);
    let results = run.results;
    Report {
        document: serde_json::json!(&results),
        lines,
        tables: results.coverage.iter().map(uncovered).collect(),
        findings: results.diagnostics,
        cases: results.results.into_iter().map(case).collect(),
        ..begun(args)
    }
}

fn case(mut result: CaseResult) -> Case {
    if let (Some(failure), Some(why)) = (&mut result.failure, &result.trace) {
        let why = explanation::in_words(why, WHY_LINES_MAX, WHY_LEN_MAX);
        let cause = failure.cause.iter().cloned().chain(why);
        failure.cause = Some(cause.collect::<Vec<_>>().join("\n"));
    }
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

fn lines(run: &Run, args: &Args) -> Vec<String> {
    let results = &run.results;
    let mut lines: Vec<String> = run.updated.iter().cloned().collect();
    let mut files: Vec<&str> = results.results.iter().map(|r| r.file.as_str()).collect();
    files.dedup();
    for file in files {
        let of_file: Vec<&CaseResult> = results.results.iter().filter(|r| r.file == file).collect();
        lines.extend(file_lines(file, &of_file, args, &run.places));
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
    lines.push(format!(
        "{cases}, {verdict}, {}",
        render::duration(run.took)
    ));
    match &results.coverage {
        Some(coverage) => lines.extend(coverage_lines(coverage)),
        None if results.untested.is_empty() => {}
        None => {
            let ids: Vec<&str> = results.untested.iter().map(AsRef::as_ref).collect();
            let text = format!("no case is decided by: {}", ids.join(", "));
            lines.push(paint(render::DIM, text));
        }
    }
    if results.failed > 0 {
        let docs = paint(render::DIM, "palisade explain PLS2003");
        lines.push(format!("{}  {docs}", paint(render::NAME, "docs")));
    }
    lines
}

fn file_lines(file: &str, results: &[&CaseResult], args: &Args, places: &Places) -> Vec<String> {
    let explained = args.trace != Trace::None;
    let failed = results.iter().filter(|r| !r.passed).count();
    let tally = match failed {
        0 => paint(render::GOOD, format!("{} passed", results.len())),
        n => paint(render::BAD, format!("{n} of {} failed", results.len())),
    };
    let mut lines = vec![format!("{}  {tally}", clean(file))];
    for result in results {
        match &result.failure {
            Some(failure) => lines.extend(failure_lines(failure)),
            None if args.verbose || result.trace.is_some() => lines.push(format!(
                "  {} {}",
                paint(render::GOOD, "✓"),
                clean(&format!(
                    "{} · {} · {}",
                    result.name, result.principal, result.request
                ))
            )),
            None => {}
        }
        if explained {
            lines.extend(trace_lines(result, places));
        }
    }
    lines
}

/// A case that did not come out as expected, on two lines.
fn failure_lines(failure: &Diagnostic) -> [String; 2] {
    let at = failure.location.as_ref();
    let place = at.map_or_else(String::new, |at| format!("{}:{}", at.file, at.line));
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

/// Why a case came out so, and where the entities that mattered are declared.
fn trace_lines(result: &CaseResult, places: &Places) -> Vec<String> {
    let Some(explanation) = &result.trace else {
        return Vec::new();
    };
    let mut lines = explanation::reasons(explanation);
    let views = [
        &explanation.determining,
        &explanation.errors,
        &explanation.nearest,
    ];
    let mut from: Vec<String> = views
        .into_iter()
        .flatten()
        .flat_map(|view| places.named_in(&view.text))
        .collect();
    from.sort_unstable();
    from.dedup();
    for entity in from {
        lines.push(format!(
            "{}    {}",
            paint(render::NAME, "from"),
            clean(&entity)
        ));
    }
    lines.push(String::new());
    let indented = lines.into_iter().map(|line| format!("    {line}"));
    indented.map(|line| line.trim_end().to_owned()).collect()
}

fn coverage_lines(coverage: &Coverage) -> Vec<String> {
    let (seen, all) = coverage.seen();
    let mut lines = vec![format!(
        "coverage {} %, {seen} of {all} outcomes",
        coverage.percent()
    )];
    for row in uncovered(coverage).rows {
        if let [policy, place, text, lack] = row.as_slice() {
            let text = if text.is_empty() {
                String::new()
            } else {
                format!("{}  ", clean(text))
            };
            lines.push(format!(
                "  {} {}  {text}{}",
                paint(render::WARN, clean(lack)),
                render::strong(clean(policy)),
                paint(render::DIM, clean(place)),
            ));
        }
    }
    lines
}

/// What no case saw.
fn uncovered(coverage: &Coverage) -> Grid {
    let mut rows = Vec::new();
    for policy in coverage.policies.iter().filter(|p| !p.is_whole()) {
        let row = |line: usize, text: &str, lack: &str| {
            let words: Vec<&str> = text.split_whitespace().collect();
            let place = format!("{}:{line}", policy.file);
            vec![
                policy.id.to_string(),
                place,
                words.join(" "),
                lack.to_owned(),
            ]
        };
        if policy.decided == 0 {
            rows.push(row(policy.line, "", "never decides"));
        }
        for clause in &policy.clauses {
            let lack = clause.lack();
            rows.extend(lack.map(|lack| row(clause.line, &clause.text, lack)));
        }
    }
    Grid {
        title: format!("Coverage: {} %", coverage.percent()),
        head: vec!["policy", "where", "clause", "not seen"],
        rows,
    }
}
