//! `palisade report`: evidence from the log, for reviewers and auditors.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use palisade_audit::report::{self, Checked, KINDS, Report};
use palisade_mesh::diagnostic::Diagnostic;
use serde_json::json;

use super::{Context, Exit, block_on};
use crate::{
    control::client::Mesh,
    render::{self, Output, reports, snippet::clean},
    run::audit::RunReport,
};

/// The time a report is about where nothing is said.
const PERIOD_DEFAULT: &str = "last:30d";

/// What to do with reports.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the reports and the controls that they are evidence for.
    List,
    /// Make a report: report run pci-dss --period 2026-Q4 --to pci.pdf --to pci.xlsx.
    Run(RunArgs),
    /// Make a report again from the log and compare every number and row.
    Verify {
        /// A report, as JSON or HTML.
        file: PathBuf,
    },
}

/// Arguments of `report run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// Which report; `palisade report list` has all.
    name: String,
    /// The time it is about, UTC: 2026, 2026-Q4, 2026-11, 2026-11-20,
    /// 2026-11-01..2026-11-20, or as in a query: last:30d.
    #[arg(long, default_value = PERIOD_DEFAULT)]
    period: String,
    /// Keep decisions to these, as in a query: 'service:payments'.
    #[arg(long, default_value = "", hide_default_value = true)]
    scope: String,
    /// A file to write, whose ending says the format: .html, .pdf, .xlsx, .csv, .json. May be
    /// given several times; of CSV there is a file for each table.
    #[arg(long, value_name = "FILE")]
    to: Vec<PathBuf>,
    /// Replace files that are there.
    #[arg(long)]
    overwrite: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Csv,
    Html,
    Json,
    Pdf,
    Xlsx,
}

pub(super) fn main(command: Command, context: &Context) -> Exit {
    match command {
        Command::List => list(context),
        Command::Run(args) => match run(&args, context) {
            Ok(exit) => exit,
            Err(diagnostic) => render::failed(context.output, &diagnostic),
        },
        Command::Verify { file } => match verify(&file, context) {
            Ok(exit) => exit,
            Err(diagnostic) => render::failed(context.output, &diagnostic),
        },
    }
}

fn list(context: &Context) -> Exit {
    match context.output {
        Output::Human => reports::print_kinds(KINDS),
        Output::Json => {
            let kind = |kind: &report::Kind| {
                json!({
                    "name": kind.name,
                    "title": kind.title,
                    "question": kind.question,
                    "controls": kind.controls,
                })
            };
            render::json(&json!({ "reports": KINDS.iter().map(kind).collect::<Vec<_>>() }));
        }
    }
    Exit::Ok
}

fn run(args: &RunArgs, context: &Context) -> Result<Exit, Diagnostic> {
    // What is wrong with the request is said before minutes of work.
    report::Kind::find(&args.name)?;
    let formats = args
        .to
        .iter()
        .map(|to| Ok((to.as_path(), format_of(to)?)))
        .collect::<Result<Vec<_>, Diagnostic>>()?;
    if !args.overwrite {
        for to in &args.to {
            free(to)?;
        }
    }
    let asked = RunReport {
        name: args.name.clone(),
        period: args.period.clone(),
        scope: args.scope.clone(),
    };
    let made: Report = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        mesh.post("audit", "/v1/audit/report/run", &asked).await
    })?;
    let mut files = Vec::new();
    for (to, format) in formats {
        files.extend(written(&made, to, format, args.overwrite)?);
    }
    match (context.output, files.is_empty()) {
        (Output::Human, _) => reports::print(&made, &files),
        (Output::Json, true) => render::json(&made),
        (Output::Json, false) => render::json(&json!({
            "files": files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>(),
            "header": made.header,
        })),
    }
    Ok(Exit::Ok)
}

fn verify(file: &Path, context: &Context) -> Result<Exit, Diagnostic> {
    let text = fs::read(file).map_err(|e| {
        Diagnostic::error(7803, format!("`{}` cannot be read", file.display()))
            .cause(e.to_string())
            .help("name the JSON or HTML file of a report")
    })?;
    let told = report::read(&String::from_utf8_lossy(&text))?;
    let checked: Checked = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        mesh.post("audit", "/v1/audit/report/check", &told).await
    })?;
    match context.output {
        Output::Human => reports::print_checked(&told, &checked),
        Output::Json => render::json(&checked),
    }
    Ok(match checked.holds() {
        true => Exit::Ok,
        false => Exit::NotVerified,
    })
}

fn format_of(to: &Path) -> Result<Format, Diagnostic> {
    let ending = to.extension().and_then(|ending| ending.to_str());
    ending
        .and_then(|ending| Format::from_str(ending, true).ok())
        .ok_or_else(|| {
            Diagnostic::error(
                7805,
                format!(
                    "`{}` does not say which format",
                    clean(&to.display().to_string())
                ),
            )
            .help("end it in .html, .pdf, .xlsx, .csv or .json")
        })
}

fn free(to: &Path) -> Result<(), Diagnostic> {
    match to.exists() {
        false => Ok(()),
        true => Err(
            Diagnostic::error(7703, format!("there is a file `{}` already", to.display()))
                .help("choose another name, or replace it: --overwrite"),
        ),
    }
}

/// Writes a report to the files of a format; each gets its name when it is whole.
fn written(
    report: &Report,
    to: &Path,
    format: Format,
    overwrite: bool,
) -> Result<Vec<PathBuf>, Diagnostic> {
    let failed = |why: &dyn std::fmt::Display| {
        Diagnostic::error(7806, format!("`{}` cannot be written", to.display()))
            .cause(why.to_string())
            .help("check the folder, its rights and the room on the disk")
    };
    let files = match format {
        Format::Html => vec![(
            to.to_owned(),
            report::to_html(report)
                .map_err(|e| failed(&e))?
                .into_bytes(),
        )],
        Format::Json => {
            let mut text = serde_json::to_vec_pretty(report).map_err(|e| failed(&e))?;
            text.push(b'\n');
            vec![(to.to_owned(), text)]
        }
        Format::Pdf => vec![(
            to.to_owned(),
            report::to_pdf(report).map_err(|e| failed(&e))?,
        )],
        Format::Xlsx => vec![(
            to.to_owned(),
            report::to_xlsx(report).map_err(|e| failed(&e))?,
        )],
        Format::Csv => {
            let stem = to.file_stem().and_then(|s| s.to_str()).unwrap_or("report");
            let tables = report::to_csv(report).map_err(|e| failed(&e))?;
            let named = tables
                .into_iter()
                .map(|(name, bytes)| (to.with_file_name(format!("{stem}-{name}")), bytes));
            named.collect()
        }
    };
    for (path, bytes) in &files {
        if !overwrite {
            free(path)?;
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        fs::write(&part, bytes)
            .and_then(|()| fs::rename(&part, path))
            .map_err(|e| failed(&e))?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}
