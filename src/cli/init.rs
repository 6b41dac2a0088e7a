//! `palisade init`: a policy repository that passes its own checks, with what runs them.

use std::{fs, io, path::PathBuf};

use clap::ValueEnum;
use palisade_mesh::diagnostic::Diagnostic;

use super::{Context, Exit};
use crate::render::{self, Output};

/// A file of the template: path within the repository, and text.
type Template = (&'static str, &'static str);

/// What makes the repository. None of it may be there already.
const REPOSITORY: &[Template] = &[
    ("palisade.yaml", include_str!("init/palisade.yaml")),
    ("services/web.yaml", include_str!("init/web.yaml")),
    ("services/orders.yaml", include_str!("init/orders.yaml")),
    ("entities/groups.yaml", include_str!("init/groups.yaml")),
    (
        "policies/guardrails.cedar",
        include_str!("init/guardrails.cedar"),
    ),
    ("policies/orders.cedar", include_str!("init/orders.cedar")),
    (
        "tests/guardrails.yaml",
        include_str!("init/guardrails_test.yaml"),
    ),
    ("tests/orders.yaml", include_str!("init/orders_test.yaml")),
    (
        "tests/fixtures/shop.yaml",
        include_str!("init/shop_fixtures.yaml"),
    ),
    ("invariants/README.md", include_str!("init/invariants.md")),
];

/// What helps beside it. What is there already stays.
const BESIDE: &[Template] = &[
    (".gitignore", include_str!("init/gitignore")),
    ("CODEOWNERS", include_str!("init/codeowners")),
    ("README.md", include_str!("init/readme.md")),
];

const GITHUB: &[Template] = &[
    (
        ".github/workflows/policy.yml",
        include_str!("init/workflow.yml"),
    ),
    (
        ".github/actions/palisade/action.yml",
        include_str!("../../deploy/ci/github/action.yml"),
    ),
];

const GITLAB: &[Template] = &[(
    ".gitlab-ci.yml",
    include_str!("../../deploy/ci/gitlab/policy.yml"),
)];

const PRE_COMMIT: &[Template] = &[(
    ".pre-commit-config.yaml",
    include_str!("init/pre_commit.yaml"),
)];

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder to make the repository in.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Whose continuous integration is to check changes.
    #[arg(long, value_enum, default_value_t = Ci::Github)]
    ci: Ci,
    /// Check before each commit, too, with pre-commit.
    #[arg(long)]
    pre_commit: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ci {
    Github,
    Gitlab,
    None,
}

impl Args {
    /// Files to write, and those beside the repository that are there already.
    fn files(&self) -> (Vec<Template>, Vec<&'static str>) {
        let ci = match self.ci {
            Ci::Github => GITHUB,
            Ci::Gitlab => GITLAB,
            Ci::None => &[],
        };
        let hooks = if self.pre_commit { PRE_COMMIT } else { &[] };
        let beside = [BESIDE, ci, hooks].concat();
        let there = |(path, _): &Template| self.dir.join(path).exists();
        let (kept, new): (Vec<Template>, Vec<Template>) = beside.into_iter().partition(there);
        let kept = kept.into_iter().map(|(path, _)| path).collect();
        ([REPOSITORY, new.as_slice()].concat(), kept)
    }
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    let (files, kept) = args.files();
    match write(args, &files) {
        Ok(()) => {
            let dir = args.dir.display().to_string();
            if context.output == Output::Json {
                let files: Vec<&str> = files.iter().map(|(path, _)| *path).collect();
                render::json(&serde_json::json!({ "dir": dir, "files": files, "kept": kept }));
                return Exit::Ok;
            }
            render::line(&format!(
                "{} wrote {} files to {dir}",
                render::paint(render::GOOD, "✓"),
                files.len()
            ));
            if !kept.is_empty() {
                render::line(&format!("  kept as they are: {}", kept.join(", ")));
            }
            render::next(&[
                (
                    format!("palisade policy test {dir}"),
                    "its tests pass as they are",
                ),
                (
                    format!("palisade can web GET orders/orders --why --policies {dir}"),
                    "ask it something",
                ),
            ]);
            Exit::Ok
        }
        Err(diagnostic) => render::failure(context.output, &diagnostic, Exit::Failed),
    }
}

/// Writes every file, or none when one of the repository is already there.
fn write(args: &Args, files: &[Template]) -> Result<(), Diagnostic> {
    let taken = files.iter().find(|(path, _)| args.dir.join(path).exists());
    if let Some((path, _)) = taken {
        return Err(Diagnostic::error(
            9111,
            format!("`{}` is already there", args.dir.join(path).display()),
        )
        .cause("init never overwrites a file")
        .help("choose an empty folder: palisade init my-policies"));
    }
    for (path, text) in files {
        let path = args.dir.join(path);
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, text));
        written.map_err(|e: io::Error| {
            Diagnostic::error(9112, format!("`{}` cannot be written", path.display()))
                .cause(e.to_string())
        })?;
    }
    Ok(())
}
