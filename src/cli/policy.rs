//! `palisade policy`: everything about a policy repository.

use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::author::{self, Loaded};

use super::{Context, Exit, Folder, Repository, block_on, target};
use crate::render::{self, paint};

pub(crate) mod bench;
mod cases;
mod diff;
mod fmt;
pub(crate) mod impact;
pub(super) mod invariants;
mod lint;
mod outputs;
mod side;
pub(crate) mod suggest;
pub(crate) mod unused;
mod validate;

use outputs::Outputs;

/// What to do with the repository.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Parse and type-check everything, tests too; all mistakes at once.
    Validate(validate::Args),
    /// Look for what compiles and still is not what anybody means.
    Lint(lint::Args),
    /// Run the repository's own tests on the engine that enforces.
    Test(cases::Args),
    /// Lay out the Cedar files in the one way.
    Fmt(fmt::Args),
    /// Compare two revisions: texts, who reaches what, and a proof that nobody newly does.
    Diff(diff::Args),
    /// Print the Cedar schema that the catalogue gives.
    Schema(Repository),
    /// Make recorded decisions again under this repository: what would change.
    Impact(impact::Args),
    /// Draft the narrowest permits for what was denied, as a patch.
    Suggest(suggest::Args),
    /// Show policies that matched nothing, conditions that never turn, callers that are silent.
    Unused(unused::Args),
    /// Measure what the repository costs to compile and to decide by.
    Bench(bench::Args),
}

pub(super) fn main(command: &Command, context: &Context) -> Exit {
    match command {
        Command::Validate(args) => validate::main(args, context),
        Command::Lint(args) => lint::main(args, context),
        Command::Test(args) => cases::main(args, context),
        Command::Fmt(args) => fmt::main(args, context),
        Command::Diff(args) => diff::main(args, context),
        Command::Schema(repository) => schema(repository, context),
        Command::Impact(args) => impact::main(args, context),
        Command::Suggest(args) => suggest::main(args, context),
        Command::Unused(args) => unused::main(args, context),
        Command::Bench(args) => bench::main(args, context),
    }
}

fn schema(repository: &Repository, context: &Context) -> Exit {
    let loaded = match block_on(repository.composing.load(&repository.dir)) {
        Ok(loaded) => loaded,
        Err(diagnostic) => return render::failed(context.output, &diagnostic),
    };
    match loaded {
        Loaded {
            compiled: Some(compiled),
            ..
        } => {
            target::tell_absent(&compiled);
            render::line(&author::generated_schema(&compiled.catalogue));
            Exit::Ok
        }
        Loaded { diagnostics, .. } => {
            render::diagnostics(context.output, &diagnostics);
            Exit::Invalid
        }
    }
}

/// How many mistakes there are, on a line, where there are any.
fn tally(found: &[Diagnostic]) -> Option<String> {
    let errors = found.iter().filter(|d| d.is_error()).count();
    let warnings = found.len() - errors;
    let counted = |n, one, many| (n > 0).then(|| render::count(n, one, many));
    let said: Vec<String> = [
        counted(errors, "error", "errors"),
        counted(warnings, "warning", "warnings"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mark = match errors {
        0 => paint(render::WARN, "!"),
        _ => paint(render::BAD, "✗"),
    };
    (!said.is_empty()).then(|| format!("{mark} {}", said.join(", ")))
}
