//! `palisade audit`: search, follow, show and verify the decision log.

use palisade_audit::query::Query;
use palisade_mesh::diagnostic::Diagnostic;
use serde_json::{Value, json};

use super::{Context, Exit, block_on};
use crate::{
    control::client::Mesh,
    render::{self, Output, records},
    run::audit::{Found, Reasoned, Search, Tail},
};

mod alerts;
mod archive;
pub(crate) mod bench;
mod export;
pub(crate) mod proof;
mod retention;
mod saved;
mod subjects;
mod sums;
pub(super) mod verify;

/// What to do with the log.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Search, newest first: audit search 'decision:deny principal:**/web last:1h'.
    Search(SearchArgs),
    /// Follow matching records as they arrive.
    Tail(TailArgs),
    /// Show everything recorded under an id.
    Show(ShowArgs),
    /// Count the values of several fields: audit facets decision:deny last:7d.
    Facets(sums::FacetsArgs),
    /// Count records in steps of time: audit timeline last:24h --by decision.
    Timeline(sums::TimelineArgs),
    /// List what is missing from the log: numbers that never arrived, declared losses.
    Gaps(sums::GapsArgs),
    /// Write records to a file: audit export 'decision:deny last:30d' --to denied.csv.
    Export(export::ExportArgs),
    /// Write one record and the proof that it is in the log: audit proof ID.
    Proof(proof::ProofArgs),
    /// Check every byte of the log against its signed checkpoints, or one record by its proof.
    Verify(verify::Args),
    /// Erase a person: destroy the key of what is sealed of them, for good.
    Erase(subjects::EraseArgs),
    /// Keep records from being erased: audit hold add 'subject:alice@example.org' --reason TEXT.
    #[command(subcommand)]
    Hold(subjects::HoldCommand),
    /// How long records are kept, and what drops them when their time is over.
    #[command(subcommand)]
    Retention(retention::Command),
    /// Where old segments of the log go, and how they come back.
    #[command(subcommand)]
    Archive(archive::Command),
    /// What alert rules found, and who answered for it.
    #[command(subcommand)]
    Alerts(alerts::Command),
    /// Keep queries under a name: audit search @NAME.
    #[command(subcommand)]
    Saved(saved::Command),
    /// Print the OpenAPI document of the audit API.
    Openapi,
    /// Fill a fresh folder with records of a made-up mesh, and measure log, index and reports.
    Bench(bench::Args),
}

/// Arguments of `audit search`.
#[derive(Debug, clap::Args)]
pub(super) struct SearchArgs {
    /// The query, such as `decision:deny service:orders last:15m`; several words are one
    /// query, and `@NAME` is a saved one. Its language: docs/reference/audit-query.md.
    query: Vec<String>,
    /// Most rows; 20 on a terminal and 50 elsewhere where nothing is said.
    #[arg(short = 'n', long)]
    limit: Option<usize>,
    /// Where an earlier page ended.
    #[arg(long)]
    cursor: Option<String>,
    /// Why, for the record of the read.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Arguments of `audit show`.
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// Decision id, or its first six or more characters.
    id: String,
    /// Show persons whose names are sealed, too; the read is recorded with the reason.
    #[arg(long, requires = "reason")]
    reveal: bool,
    /// Why.
    #[arg(long, value_name = "TEXT", requires = "reveal")]
    reason: Option<String>,
}

/// Arguments of `audit tail`.
#[derive(Debug, clap::Args)]
pub(super) struct TailArgs {
    /// The query; all decisions where nothing is said.
    query: Vec<String>,
    /// Only what was denied or could not be decided.
    #[arg(long)]
    denied: bool,
    /// End after so many records.
    #[arg(short = 'n', long)]
    limit: Option<usize>,
}

pub(super) fn main(command: Command, context: &Context) -> Exit {
    match command {
        Command::Search(args) => search(args, context),
        Command::Tail(args) => tail(args, context),
        Command::Show(args) => show(&args, context),
        Command::Facets(args) => sums::facets(args, context),
        Command::Timeline(args) => sums::timeline(args, context),
        Command::Gaps(args) => sums::gaps(args, context),
        Command::Export(args) => export::main(args, context),
        Command::Proof(args) => proof::main(&args, context),
        Command::Verify(args) => verify::main(args, context),
        Command::Erase(args) => subjects::erase(&args, context),
        Command::Hold(command) => subjects::hold(command, context),
        Command::Retention(command) => retention::main(&command, context),
        Command::Archive(command) => archive::main(&command, context),
        Command::Alerts(command) => alerts::main(command, context),
        Command::Saved(command) => saved::main(command, context),
        Command::Bench(args) => bench::main(&args, context),
        Command::Openapi => {
            render::json(&crate::run::audit::document());
            Exit::Ok
        }
    }
}

fn search(args: SearchArgs, context: &Context) -> Exit {
    let query = match saved::query(&args.query) {
        Ok(query) => query,
        Err(diagnostic) => return render::failed(context.output, &diagnostic),
    };
    let asked = Reasoned {
        asked: Search {
            query,
            limit: Some(args.limit.unwrap_or_else(rows_default)),
            cursor: args.cursor,
        },
        reason: args.reason,
    };
    let answer = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        mesh.post::<Value>("audit", "/v1/audit/search", &asked)
            .await
    });
    match answer {
        Ok(answer) => {
            match context.output {
                Output::Json => render::json(&answer),
                Output::Human => records::print_answer(&answer, &asked.asked.query),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

/// What fits a screen, or what a program can bear.
fn rows_default() -> usize {
    match render::screen::size() {
        Some(_) => 20,
        None => 50,
    }
}

fn tail(args: TailArgs, context: &Context) -> Exit {
    let mut query = match saved::query(&args.query) {
        Ok(query) => query,
        Err(diagnostic) => return render::failed(context.output, &diagnostic),
    };
    if args.denied {
        query = match denied(&query) {
            Ok(denied) => denied,
            Err(diagnostic) => return render::failed(context.output, &diagnostic),
        };
    }
    let mut left = args.limit.unwrap_or(usize::MAX);
    let line = |line: &[u8]| {
        match (context.output, serde_json::from_slice::<Value>(line)) {
            (Output::Json, _) => {
                render::line(&render::snippet::inert(&String::from_utf8_lossy(line)))
            }
            (Output::Human, Ok(row)) => records::print_row(&row),
            (Output::Human, Err(_)) => {}
        }
        left = left.saturating_sub(1);
        left > 0 && !render::closed()
    };
    let ended = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        let asked = Tail { query };
        let followed = mesh.stream("audit", "/v1/audit/tail", &asked, line);
        tokio::select! {
            ended = followed => ended,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    });
    match ended {
        Ok(()) => Exit::Ok,
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

/// What of a query was not allowed.
fn denied(query: &str) -> Result<String, Diagnostic> {
    let denied = Query::parse("-decision:allow")?;
    Ok(Query::parse(query)?.and(&denied).to_string())
}

fn show(args: &ShowArgs, context: &Context) -> Exit {
    let found = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        let path = format!("/v1/audit/record/{}", super::path_segment(&args.id));
        let found = mesh.get::<Found>("audit", &path).await?;
        let revealed = match (args.reveal, &args.reason) {
            (true, Some(reason)) => Some(subjects::reveal(&mesh, &args.id, reason).await?),
            _ => None,
        };
        Ok((found, revealed))
    });
    match found {
        Ok((found, revealed)) => {
            match (context.output, &revealed) {
                (Output::Json, None) => render::json(&found),
                (Output::Json, Some(revealed)) => render::json(&json!({
                    "checkpointed": found.checkpointed,
                    "rows": found.rows,
                    "revealed": revealed.records,
                })),
                (Output::Human, _) => {
                    records::print_found(&found);
                    revealed.iter().for_each(subjects::print_revealed);
                }
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

    use super::*;

    #[test]
    fn only_what_was_denied_is_followed_whatever_is_asked() {
        for (asked, whole) in [
            ("", "-decision:allow"),
            (
                "service:a OR service:b",
                "(service:a OR service:b) -decision:allow",
            ),
            ("service:a", "service:a -decision:allow"),
            (
                "(service:a OR service:b) last:1h",
                "(service:a OR service:b) -decision:allow last:1h",
            ),
        ] {
            let told = denied(asked).unwrap();
            let (told, whole) = (Query::parse(&told), Query::parse(whole));
            assert_eq!(told.unwrap(), whole.unwrap(), "{asked}");
        }
        assert!(denied("servcie:a").is_err());
    }
}
