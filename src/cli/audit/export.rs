//! `palisade audit export`: records in a file that other programs read.
//!
//! Pages of rows come from the running mesh and go into `FILE.part`, with a note of where
//! the last page ended beside it; the file gets its name when it is whole.

use std::path::PathBuf;

use clap::ValueEnum;
use palisade_audit::{
    export::{FACILITY, FACILITY_MAX},
    query::Query,
};
use palisade_mesh::diagnostic::Diagnostic;
use serde_json::{Value, json};

use crate::{
    cli::{
        Context, Exit, block_on,
        report::{attending, named_in},
    },
    control::client::Mesh,
    render::{
        self, Output,
        progress::{Far, Progress},
    },
    run::audit::{self, ExportPage, Search, Told},
};

use super::saved;

mod out;
mod part;
mod syslog;

use out::Sink;
use part::{Note, Part};

/// Rows of one page; so many are in memory at once.
const PAGE_ROWS: usize = 2000;

/// Arguments of `audit export`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// The query; all decisions of the last day where nothing is said.
    query: Vec<String>,
    /// The file; `-` is standard output, for every format but Parquet, and
    /// `syslog+tls://HOST:PORT` a receiver of syslog.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// The format; what the ending of FILE says where nothing is said.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Go on with an export that was interrupted.
    #[arg(long)]
    resume: bool,
    /// Replace FILE, and what an interrupted export has left.
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// PEM file with the roots that a receiver's certificate is under; the system's where
    /// nothing is said.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file with a certificate to show a receiver.
    #[arg(long, value_name = "FILE", requires = "cert_key")]
    cert: Option<PathBuf>,
    /// PEM file with its private key.
    #[arg(long, value_name = "FILE", requires = "cert")]
    cert_key: Option<PathBuf>,
    /// Facility of syslog messages, 0 to 23.
    #[arg(long, value_name = "N", default_value_t = FACILITY,
        value_parser = clap::value_parser!(u8).range(..=i64::from(FACILITY_MAX)))]
    facility: u8,
}

/// What the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Comma-separated, safe to open in a spreadsheet.
    Csv,
    /// A row on each line, as `audit search -o json` has them.
    Jsonl,
    /// Events of OCSF 1.8, class 6003, one on each line; decisions only.
    Ocsf,
    /// Columns, for DuckDB, Spark and the like.
    Parquet,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Ocsf => "ocsf",
            Self::Parquet => "parquet",
        }
    }
}

pub(super) fn main(args: ExportArgs, context: &Context) -> Exit {
    match block_on(export(&args, context)) {
        Ok(done) => {
            // What the records went to is not for another word.
            if args.to.as_os_str() == "-" {
                return Exit::Ok;
            }
            match context.output {
                Output::Json => render::json(&done),
                Output::Human => print(&done),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

async fn export(args: &ExportArgs, context: &Context) -> Result<Value, Diagnostic> {
    let query = saved::query(&args.query)?;
    let format = understood(args, &query)?;
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    let query = nameless(&mesh, args, query).await?;
    if let Some(address) = syslog::address(&args.to) {
        let mut note = Note::new(&query, format.name());
        let host = mesh
            .processes()
            .next()
            .map_or("", |about| about.mesh.as_str());
        let mut sender = syslog::Sender::connect(address, args, format, host)?;
        let to = args.to.display().to_string();
        let take = |rows: &[Value], note: &mut Note| sender.rows(rows, note);
        pages(&mesh, &to, &mut note, take, part::cut_short).await?;
        return sender.finish(&note);
    }
    if args.to.as_os_str() == "-" {
        let mut note = Note::new(&query, format.name());
        let mut sink = Sink::stdout(format)?;
        let take = |rows: &[Value], note: &mut Note| sink.rows(rows, note);
        pages(&mesh, "-", &mut note, take, part::cut_short).await?;
        return Ok(Value::Null);
    }
    let mut part = Part::open(&args.to, &query, format, args.resume, args.overwrite)?;
    let mut note = part.note().clone();
    let to = named_in([args.to.as_path()]);
    let take = |rows: &[Value], note: &mut Note| part.add(rows, note);
    pages(&mesh, &to, &mut note, take, part::interrupted).await?;
    part.finish(&note)
}

/// The query with persons by their pseudonyms: the file, and the note beside it, say what
/// was asked and are kept.
async fn nameless(mesh: &Mesh, args: &ExportArgs, query: String) -> Result<String, Diagnostic> {
    let named = Query::parse(&query)?.names();
    if named.is_empty() {
        return Ok(query);
    }
    audit::nameless(&args.to.display().to_string(), &named)?;
    let told: Told = mesh
        .post("audit", "/v1/audit/told", &Told { query })
        .await?;
    Ok(told.query)
}

/// Checks what can be checked before anything is asked or written.
fn understood(args: &ExportArgs, query: &str) -> Result<Format, Diagnostic> {
    if let Some(stage) = Query::parse(query)?.stage() {
        return Err(
            Diagnostic::error(7701, "an export has records, and this is a summary")
                .cause(format!("the query ends in `| {stage}`"))
                .help("leave it out, or print the summary: palisade audit search QUERY -o json"),
        );
    }
    if syslog::address(&args.to).is_some() {
        return syslog::understood(args);
    }
    let stdout = args.to.as_os_str() == "-";
    let ending = args.to.extension().and_then(|e| e.to_str());
    let by_ending = ending.and_then(|e| Format::from_str(e, true).ok());
    match args.format.or(by_ending) {
        Some(Format::Parquet) if stdout => Err(Diagnostic::error(
            7702,
            "Parquet does not go to standard output",
        )
        .cause("its end tells where everything is, so it is written when all is there")
        .help("name a file: --to records.parquet")),
        Some(format) => Ok(format),
        None => Err(Diagnostic::error(
            7702,
            format!("`{}` does not say which format", args.to.display()),
        )
        .help("end it in .csv, .jsonl, .ocsf or .parquet, or add --format")),
    }
}

/// Asks for one page after the other, from where `note` stands, and hands each to `take`; a user
/// who ends it is told that it was `interrupted`.
async fn pages(
    mesh: &Mesh,
    to: &str,
    note: &mut Note,
    mut take: impl FnMut(&[Value], &mut Note) -> Result<(), Diagnostic>,
    interrupted: fn(&Note) -> Diagnostic,
) -> Result<(), Diagnostic> {
    // Ctrl-C counts from here on, also while a page is written.
    let user = attending::user();
    if note.expected.is_none() {
        note.expected = tokio::select! {
            counted = expected(mesh, &note.query) => counted?,
            () = user.gone() => return Err(interrupted(note)),
        };
    }
    let mut watch = Progress::after(note.seen());
    while !note.done {
        let asked = ExportPage {
            asked: Search {
                query: note.query.clone(),
                limit: Some(PAGE_ROWS),
                cursor: note.cursor.clone(),
            },
            to: to.to_owned(),
        };
        let page = tokio::select! {
            page = mesh.post::<Value>("audit", "/v1/audit/export/page", &asked) => page?,
            () = user.gone() => return Err(interrupted(note)),
        };
        note.turn(&page);
        let rows = page.get("rows").and_then(Value::as_array);
        take(rows.map_or(&[], Vec::as_slice), note)?;
        watch.tell(Far {
            records: note.seen(),
            of: note.expected,
            by: None,
        });
    }
    Ok(())
}

/// How many records there will be, for the progress; what arrives meanwhile is beyond it.
async fn expected(mesh: &Mesh, query: &str) -> Result<Option<u64>, Diagnostic> {
    let counting = Search {
        query: format!("{query} | count"),
        limit: None,
        cursor: None,
    };
    // Of the longest queries there is no counting form; then nobody knows.
    if Query::parse(&counting.query).is_err() {
        return Ok(None);
    }
    let counted = mesh
        .post::<Value>("audit", "/v1/audit/search", &counting)
        .await?;
    Ok(counted.get("total").and_then(Value::as_u64))
}

fn print(done: &Value) {
    let number = |key: &str| done.get(key).and_then(Value::as_u64).unwrap_or_default();
    let text = |key: &str| done.get(key).and_then(Value::as_str).unwrap_or_default();
    render::line(&format!(
        "{}: {} in {} ({})",
        render::paint(render::GOOD.bold(), "✓ exported"),
        render::count(number("records"), "record", "records"),
        render::snippet::clean(text("file")),
        render::count(number("bytes"), "byte", "bytes"),
    ));
    for (key, value) in [
        ("time", format!("{} to {}", text("from"), text("to"))),
        ("sha256", text("sha256").to_owned()),
    ] {
        if value.is_empty() {
            continue;
        }
        render::line(&format!("  {key:<8}{value}"));
    }
    if number("left_out") > 0 {
        let n = render::count(number("left_out"), "record is", "records are");
        let said = format!("{n} no decision and not in it: OCSF class 6003 is about decisions");
        render::line(&render::paint(render::WARN, said));
    }
    if done.get("complete") == Some(&json!(false)) {
        let said = "the records are not complete: palisade audit gaps";
        render::line(&render::paint(render::WARN, said));
    }
}
