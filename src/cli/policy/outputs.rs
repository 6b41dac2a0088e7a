//! How a checking command tells what it found: one form on the screen, any in files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use palisade_mesh::diagnostic::Diagnostic;

use crate::{
    cli::{Context, Exit},
    render::{
        self,
        report::{Format, Report},
    },
};

/// Options of every command that checks a repository.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Outputs {
    /// How to tell it; `-o json` is the same as json.
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// Write it to a file as well; may be given several times.
    #[arg(long = "report", value_name = "FORMAT=FILE", value_parser = report)]
    reports: Vec<(Format, PathBuf)>,
}

fn report(text: &str) -> Result<(Format, PathBuf), String> {
    let (format, file) = text.split_once('=').ok_or("expected FORMAT=FILE")?;
    let format = Format::from_str(format, false).map_err(|_| {
        let known = Format::value_variants()
            .iter()
            .filter_map(Format::to_possible_value);
        let known: Vec<String> = known.map(|v| v.get_name().to_owned()).collect();
        format!("`{format}` is none of {}", known.join(", "))
    })?;
    match file {
        "" => Err("the file has no name".to_owned()),
        file => Ok((format, PathBuf::from(file))),
    }
}

impl Outputs {
    /// The form on the screen.
    pub(super) fn format(&self, context: &Context) -> Format {
        Format::of(self.format, context.output)
    }

    /// Tells a report, and gives `exit`, or another code where a file cannot be written.
    pub(super) fn tell(&self, context: &Context, report: &Report, exit: Exit) -> Exit {
        report.print(self.format(context));
        for (format, path) in &self.reports {
            if let Err(diagnostic) = write(path, &report.text(*format)) {
                render::note(&render::snippet::render(&diagnostic));
                return Exit::Failed;
            }
        }
        exit
    }
}

fn write(path: &Path, text: &str) -> Result<(), Diagnostic> {
    fs::write(path, text).map_err(|error| {
        Diagnostic::error(
            2030,
            format!("report `{}` cannot be written", path.display()),
        )
        .cause(error.to_string())
        .help("check that the folder exists and that this user may write there")
    })
}
