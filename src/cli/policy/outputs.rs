//! How a checking command tells what it found: one form on the screen, any in files.

use std::{fs, io, path::PathBuf};

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
    /// Write it to a file as well; may be given several times. `gitlab+=FILE` adds it to the
    /// report that is in the file already.
    #[arg(long = "report", value_name = "FORMAT=FILE", value_parser = report)]
    reports: Vec<ReportFile>,
}

/// A file that a report is written to.
#[derive(Debug, Clone)]
struct ReportFile {
    format: Format,
    path: PathBuf,
    /// Whether what is there stays.
    adds: bool,
}

fn report(text: &str) -> Result<ReportFile, String> {
    let (format, file) = text.split_once('=').ok_or("expected FORMAT=FILE")?;
    let (format, adds) = match format.strip_suffix('+') {
        Some("gitlab") => ("gitlab", true),
        Some(_) => return Err("only a report for gitlab can be added to a file".to_owned()),
        None => (format, false),
    };
    let format = Format::from_str(format, false).map_err(|_| {
        let known = Format::value_variants()
            .iter()
            .filter_map(Format::to_possible_value);
        let known: Vec<String> = known.map(|v| v.get_name().to_owned()).collect();
        format!("`{format}` is none of {}", known.join(", "))
    })?;
    match file {
        "" => Err("the file has no name".to_owned()),
        file => Ok(ReportFile {
            format,
            path: PathBuf::from(file),
            adds,
        }),
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
        for file in &self.reports {
            if let Err(diagnostic) = file.write(report) {
                render::note(&render::snippet::render(&diagnostic));
                return Exit::Failed;
            }
        }
        exit
    }
}

impl ReportFile {
    fn write(&self, report: &Report) -> Result<(), Diagnostic> {
        let text = match self.adds {
            true => self.added(report),
            false => Ok(report.text(self.format)),
        };
        let written = text.and_then(|text| fs::write(&self.path, text));
        written.map_err(|error| {
            Diagnostic::error(
                2030,
                format!("report `{}` cannot be written", self.path.display()),
            )
            .cause(error.to_string())
            .help("check that the folder exists and that this user may write there")
        })
    }

    /// The report behind what the file has already.
    fn added(&self, report: &Report) -> io::Result<String> {
        let before = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read?),
        };
        let wrong = || io::Error::other("what is there is no report for gitlab");
        report.added(before.as_deref()).ok_or_else(wrong)
    }
}
