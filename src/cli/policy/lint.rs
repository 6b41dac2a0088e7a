//! `palisade policy lint`: what compiles and still is not what anybody means.

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use palisade_pdp::author::{
    self,
    lint::{Linted, Options, RULES},
};

use super::{Context, Exit, Outputs, Repository, block_on, tally};
use crate::{
    cli::FailOn,
    render::{
        self, Output,
        comparison::without,
        paint,
        report::{Report, root_of},
        snippet::clean,
        table::{Table, col},
    },
};

/// Arguments of `policy lint`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    repository: Repository,
    /// Rewrite what has one safe fix.
    #[arg(long)]
    fix: bool,
    /// What makes the command fail.
    #[arg(long, value_enum, default_value_t = FailOn::Error)]
    fail_on: FailOn,
    /// Rules by name or code: `+NAME` asks for these alone, `-NAME` leaves one out.
    #[arg(long = "rule", value_name = "LIST", allow_hyphen_values = true)]
    rules: Vec<String>,
    /// Show every rule, and look at nothing.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    outputs: Outputs,
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    if args.list {
        return list(context);
    }
    match looked(args) {
        Ok(linted) => {
            let exit = exit(args, &linted.findings);
            args.outputs.tell(context, &told(args, linted), exit)
        }
        Err(diagnostic) => {
            let exit = Exit::of(&diagnostic);
            let linted = Linted {
                findings: vec![diagnostic],
                ..Linted::default()
            };
            args.outputs.tell(context, &told(args, linted), exit)
        }
    }
}

fn list(context: &Context) -> Exit {
    let code = |code: u16| format!("PLS{code:04}");
    if context.output == Output::Json {
        let rules = RULES.iter().map(|rule| {
            serde_json::json!({ "name": rule.name, "code": code(rule.code), "what": rule.what })
        });
        render::json(&rules.collect::<Vec<_>>());
        return Exit::Ok;
    }
    let mut table = Table::new(&[col("RULE"), col("CODE"), col("FINDS").short()]);
    for rule in RULES {
        table.row([rule.name.into(), code(rule.code).into(), rule.what.into()]);
    }
    table.print();
    Exit::Ok
}

fn looked(args: &Args) -> Result<Linted, Diagnostic> {
    let mut options = Options {
        now_us: Clock::system().now_us(),
        fix: args.fix,
        ..Options::default()
    };
    for list in &args.rules {
        options.rules(list)?;
    }
    let repository = &args.repository;
    block_on(repository.composing.lint(&repository.dir, options))
}

fn exit(args: &Args, findings: &[Diagnostic]) -> Exit {
    let errors = findings.iter().any(Diagnostic::is_error);
    match (errors, findings.is_empty(), args.fail_on) {
        (true, _, _) => Exit::Invalid,
        (false, false, FailOn::Warn) => Exit::Warnings,
        (false, _, _) => Exit::Ok,
    }
}

fn told(args: &Args, linted: Linted) -> Report {
    let fixed = linted.fixed.iter().map(|(file, n)| {
        let places = render::count(*n, "place", "places");
        format!("{} {file}: {places} mended", paint(render::GOOD, "✓"))
    });
    let mut lines: Vec<String> = fixed.collect();
    lines.extend(linted.absent.iter().map(|absent| {
        let without = clean(&without(absent));
        let mark = paint(render::WARN, "!");
        format!("{mark} {without}: nothing is said about what does not exist")
    }));
    lines.extend(tally(&linted.findings));
    if linted.findings.is_empty() {
        let policies = render::count(linted.policies, "policy", "policies");
        let mark = paint(render::GOOD, "✓");
        lines.push(format!("{mark} {policies}, nothing to mend"));
    }
    if linted.fixable > 0 {
        let n = render::count(
            linted.fixable,
            "of them has a safe fix",
            "of them have a safe fix",
        );
        lines.push(format!(
            "{n}: palisade policy lint {} --fix",
            args.repository.dir.display()
        ));
    }
    let dir = &args.repository.dir;
    Report {
        command: "palisade policy lint",
        root: root_of(dir),
        strict: args.fail_on == FailOn::Warn,
        files: author::files_of(dir),
        document: serde_json::json!({
            "diagnostics": &linted.findings,
            "absent": &linted.absent,
            "policies": linted.policies,
            "fixable": linted.fixable,
            "fixed": linted.fixed.iter().map(|(file, n)| serde_json::json!({ "file": file, "fixes": n })).collect::<Vec<_>>(),
        }),
        findings: linted.findings,
        lines,
        ..Report::default()
    }
}
