//! `palisade man DIR`: a manual page for every command, made of its help.

use std::{fs, io, path::PathBuf};

use clap::CommandFactory;
use palisade_mesh::diagnostic::Diagnostic;

use super::{Cli, Context, Exit};
use crate::render::{self, Output};

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder to write the pages into; made if it is not there.
    dir: PathBuf,
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    let written = fs::create_dir_all(&args.dir).and_then(|()| {
        let mut root = Cli::command().disable_help_subcommand(true);
        root.build();
        write(&root, "palisade", args)
    });
    match written {
        Ok(pages) => {
            match context.output {
                Output::Json => {
                    render::json(&serde_json::json!({ "dir": args.dir, "pages": pages }))
                }
                Output::Human => render::line(&format!(
                    "{} wrote {} to {}",
                    render::paint(render::GOOD, "✓"),
                    render::count(pages, "page", "pages"),
                    args.dir.display()
                )),
            }
            Exit::Ok
        }
        Err(error) => render::failed(
            context.output,
            &Diagnostic::error(9112, format!("`{}` cannot be written", args.dir.display()))
                .cause(error.to_string())
                .help("choose another folder"),
        ),
    }
}

/// Writes `NAME.1`, and a page for each command below it; gives how many.
fn write(command: &clap::Command, name: &str, args: &Args) -> io::Result<u64> {
    // A page is named after the whole command, as `git-commit(1)` is.
    let page = clap_mangen::Man::new(command.clone().name(name.to_owned()));
    let mut text = Vec::new();
    page.render(&mut text)?;
    fs::write(args.dir.join(format!("{name}.1")), text)?;
    let mut pages = 1;
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        pages += write(below, &format!("{name}-{}", below.get_name()), args)?;
    }
    Ok(pages)
}
