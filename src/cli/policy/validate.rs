//! `palisade policy validate`: all mistakes of a repository at once.

use std::{path::Path, time::Instant};

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use palisade_pdp::{author, compiled::Compiled};

use super::{Context, Exit, Outputs, Repository, block_on, invariants, tally};
use crate::render::{
    self, paint,
    report::{Format, Report, root_of},
};

/// Arguments of `policy validate`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    repository: Repository,
    #[command(flatten)]
    outputs: Outputs,
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    let dir = &args.repository.dir;
    let report = match check(&args.repository) {
        Ok(report) => report,
        Err(diagnostic) => {
            let exit = Exit::of(&diagnostic);
            let found = vec![diagnostic];
            let report = Report {
                document: serde_json::json!({ "diagnostics": &found }),
                lines: tally(&found).into_iter().collect(),
                findings: found,
                ..begun(dir)
            };
            return args.outputs.tell(context, &report, exit);
        }
    };
    let valid = !report.findings.iter().any(Diagnostic::is_error);
    let exit = if valid { Exit::Ok } else { Exit::Invalid };
    let exit = args.outputs.tell(context, &report, exit);
    if valid && args.outputs.format(context) == Format::Human {
        let test = format!("palisade policy test {}", dir.display());
        render::next(&[(test, "what it allows and denies")]);
    }
    exit
}

fn check(repository: &Repository) -> Result<Report, Diagnostic> {
    let start = Instant::now();
    let dir = repository.dir.as_path();
    let loaded = block_on(repository.composing.load(dir))?;
    let mut found = loaded.diagnostics;
    found.extend(match &loaded.compiled {
        Some(compiled) => author::tests::read(dir, compiled, Clock::system().now_us()).1,
        None => author::tests::mistakes(dir),
    });
    let mut lines = Vec::new();
    if let Some(compiled) = &loaded.compiled
        && !found.iter().any(Diagnostic::is_error)
    {
        lines.extend(valid(compiled, start));
        let checked = invariants::check(compiled, Clock::system().now_us());
        lines.extend(checked.lines);
        found.extend(checked.findings);
    }
    lines.extend(tally(&found));
    Ok(Report {
        document: serde_json::json!({ "diagnostics": &found }),
        findings: found,
        lines,
        ..begun(dir)
    })
}

fn begun(dir: &Path) -> Report {
    Report {
        command: "palisade policy validate",
        root: root_of(dir),
        files: author::files_of(dir),
        ..Report::default()
    }
}

fn valid(compiled: &Compiled, start: Instant) -> Vec<String> {
    let mut lines = vec![format!(
        "{} {} for {} in {}  {}",
        paint(render::GOOD, "✓"),
        render::count(compiled.info.len(), "policy", "policies"),
        render::count(compiled.catalogue.services().len(), "service", "services"),
        render::duration(start.elapsed()),
        paint(render::DIM, format!("sha256:{}", compiled.digest.short())),
    )];
    if compiled.info.is_empty() {
        let text = "without a policy every request is denied";
        lines.push(format!("{} {text}", paint(render::WARN, "!")));
    }
    lines
}
