//! `palisade policy fmt`: one layout for all Cedar files.

use palisade_pdp::author::{self, fmt::Formatted};

use super::{Context, Exit, Folder, Outputs};
use crate::render::{
    self,
    report::{Report, root_of},
    snippet::clean,
};

/// Arguments of `policy fmt`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    repository: Folder,
    /// Write nothing; fail when a file would change.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    outputs: Outputs,
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    let dir = &args.repository.dir;
    let (formatted, mut found) = author::fmt::check(dir);
    if !args.check
        && let Err(diagnostic) = author::fmt::write(dir, &formatted)
    {
        return render::failure(context.output, &diagnostic, Exit::Failed);
    }
    let changed = formatted.iter().filter(|f| f.changed).count();
    let exit = match (found.is_empty(), args.check && changed > 0) {
        (false, _) => Exit::Invalid,
        (true, true) => Exit::Failed,
        (true, false) => Exit::Ok,
    };
    if args.check {
        found.extend(formatted.iter().filter_map(Formatted::diagnostic));
    }
    let report = Report {
        command: "palisade policy fmt",
        root: root_of(dir),
        files: formatted.iter().map(|f| f.file.clone()).collect(),
        document: serde_json::json!(&formatted),
        lines: lines(args.check, changed, &formatted),
        findings: found,
        ..Report::default()
    };
    args.outputs.tell(context, &report, exit)
}

/// The differences where they are only shown, and the count.
fn lines(check: bool, changed: usize, formatted: &[Formatted]) -> Vec<String> {
    let diffs = formatted.iter().filter(|f| check && f.changed);
    let mut lines: Vec<String> = diffs.flat_map(|f| f.diff.lines().map(clean)).collect();
    if !lines.is_empty() {
        lines.push(String::new());
    }
    let word = if check { "would change" } else { "changed" };
    let files = render::count(formatted.len(), "file", "files");
    lines.push(format!("{changed} of {files} {word}"));
    lines
}
