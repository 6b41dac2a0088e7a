//! `palisade audit bench`: what a record costs on its way into log and index, and what
//! questions cost once there are many.
//!
//! The records are made up ([`traffic`]); what takes them, keeps them and answers is the
//! code that a mesh runs, with its own settings. The folder stays: `log` and `index` are
//! those of an audit service.

use std::{fs, io, os::unix::fs::DirBuilderExt as _, path::PathBuf};

use palisade_mesh::{diagnostic::Diagnostic, spiffe_id::TrustDomain};
use serde::Serialize;

use crate::{
    cli::{Context, Exit, timing::Span},
    render::{self, Output, measured},
};

mod ask;
mod fill;
mod traffic;

/// Fewest records that say anything.
const RECORDS_MIN: u64 = 1000;
/// Most records, some tens of gigabytes.
const RECORDS_MAX: u64 = 100_000_000;

/// Arguments of `audit bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A folder that is empty or not there: the log and its index stay in it.
    dir: PathBuf,
    /// How many records; two for each request.
    #[arg(
        long,
        default_value_t = 5_000_000,
        value_parser = clap::value_parser!(u64).range(RECORDS_MIN..=RECORDS_MAX)
    )]
    records: u64,
    /// Which mesh: the same number gives the same records.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What the command measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Records that were made up.
    pub(crate) records: u64,
    /// Of these, decisions.
    pub(crate) decisions: u64,
    /// Which mesh.
    pub(crate) seed: u64,
    /// Whether it is a build that nobody should quote.
    pub(crate) debug_build: bool,
    /// Bytes of segments for each record.
    pub(crate) log_bytes: f64,
    /// Bytes of the index for each record.
    pub(crate) index_bytes: f64,
    /// How long a group of records waited until it was durable.
    pub(crate) acknowledged: Acknowledged,
    /// Everything else.
    pub(crate) figures: Vec<Figure>,
}

/// How long groups waited until they were durable, one at a time.
#[derive(Debug, Serialize)]
pub(crate) struct Acknowledged {
    /// How many groups.
    pub(crate) groups: u64,
    /// Records of each.
    pub(crate) records: u64,
    /// The median, microseconds.
    pub(crate) p50_us: u64,
    /// What 99 of 100 were below.
    pub(crate) p99_us: u64,
    /// The longest.
    pub(crate) longest_us: u64,
}

/// What one thing cost.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// Of what kind it is.
    pub(crate) group: &'static str,
    /// What was done.
    pub(crate) what: String,
    /// How often; its times are means.
    pub(crate) times: u64,
    /// Times of one.
    #[serde(flatten)]
    pub(crate) each: Span,
    /// The CPU time of the first, nanoseconds, where that one found nothing prepared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_cpu_ns: Option<f64>,
}

impl Figure {
    fn new(group: &'static str, what: impl Into<String>, times: u64, each: Span) -> Self {
        Self {
            group,
            what: what.into(),
            times,
            each,
            first_cpu_ns: None,
        }
    }
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    match measure(args) {
        Ok(report) => {
            match context.output {
                Output::Json => render::json(&report),
                Output::Human => measured::print(&report, &args.dir),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

fn measure(args: &Args) -> Result<Report, Diagnostic> {
    fresh(args)?;
    let domain = TrustDomain::parse(traffic::DOMAIN)
        .map_err(|e| wrong("the trust domain of the measurement", &e))?;
    let traffic = traffic::Traffic::new(args.seed, args.records.div_ceil(2), &domain)
        .ok_or_else(|| wrong("the mesh of the measurement", &"it cannot be made up"))?;
    let log = args.dir.join("log");
    let filled = fill::log(&log, domain, &traffic, args.records)?;
    let mut figures = filled.figures;
    let asked = ask::all(&args.dir, args.records)?;
    figures.extend(asked.figures);
    Ok(Report {
        records: args.records,
        decisions: asked.decisions,
        seed: args.seed,
        debug_build: cfg!(debug_assertions),
        log_bytes: ask::bytes_of(&log.join("segments")) as f64 / args.records as f64,
        index_bytes: asked.index_bytes as f64 / args.records as f64,
        acknowledged: filled.acknowledged,
        figures,
    })
}

/// Sees that nothing of anybody else's is in the folder.
fn fresh(args: &Args) -> Result<(), Diagnostic> {
    let refused = |cause: &dyn std::fmt::Display| {
        let dir = args.dir.display();
        Diagnostic::error(7114, format!("`{dir}` cannot be filled for a measurement"))
            .cause(cause.to_string())
            .help("name a folder that is empty or not there; what was measured stays in it")
    };
    match fs::read_dir(&args.dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(refused(&"there is something in it already")),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut folder = fs::DirBuilder::new();
            let made = folder.recursive(true).mode(0o700).create(&args.dir);
            made.map_err(|e| refused(&e))
        }
        Err(e) => Err(refused(&e)),
    }
}

/// What was measured is not what was meant to be.
fn wrong(what: &str, cause: &dyn std::fmt::Display) -> Diagnostic {
    Diagnostic::error(7115, format!("the measurement failed: {what}"))
        .cause(cause.to_string())
        .help("see that the folder has room, and nothing else writes to it; then begin again in a fresh one")
}
