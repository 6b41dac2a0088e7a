//! `palisade init`: a policy repository that passes its own tests.

use std::{fs, io, path::PathBuf};

use palisade_mesh::diagnostic::Diagnostic;

use super::{Context, Exit};
use crate::render::{self, Output};

/// The template: path within the repository and text.
const TEMPLATE: &[(&str, &str)] = &[
    ("palisade.yaml", include_str!("init/palisade.yaml")),
    ("services/web.yaml", include_str!("init/web.yaml")),
    ("services/orders.yaml", include_str!("init/orders.yaml")),
    (
        "policies/guardrails.cedar",
        include_str!("init/guardrails.cedar"),
    ),
    ("policies/orders.cedar", include_str!("init/orders.cedar")),
    ("tests/orders.yaml", include_str!("init/orders_test.yaml")),
];

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder to make the repository in.
    #[arg(default_value = ".")]
    dir: PathBuf,
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    match write(args) {
        Ok(()) => {
            let dir = args.dir.display().to_string();
            if context.output == Output::Json {
                let files: Vec<&str> = TEMPLATE.iter().map(|(path, _)| *path).collect();
                render::json(&serde_json::json!({ "dir": dir, "files": files }));
                return Exit::Ok;
            }
            render::line(&format!(
                "{} wrote {} files to {dir}",
                render::paint(render::GOOD, "✓"),
                TEMPLATE.len()
            ));
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

/// Writes every file, or none when one is already there.
fn write(args: &Args) -> Result<(), Diagnostic> {
    let taken = TEMPLATE
        .iter()
        .find(|(path, _)| args.dir.join(path).exists());
    if let Some((path, _)) = taken {
        return Err(Diagnostic::error(
            9111,
            format!("`{}` is already there", args.dir.join(path).display()),
        )
        .cause("init never overwrites a file")
        .help("choose an empty folder: palisade init my-policies"));
    }
    for (path, text) in TEMPLATE {
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
