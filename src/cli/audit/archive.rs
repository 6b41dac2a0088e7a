//! `palisade audit archive`: where old segments of the log go, and how they come back.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_audit::{
    archive::{Archive, Outcome, Progress},
    log::{adopt, restore_all},
};
use palisade_mesh::diagnostic::Diagnostic;
use serde::Serialize;

use crate::{
    cli::{Context, Exit, block_on},
    config::Config,
    control::client::Mesh,
    render::{self, Output, count, screen, snippet::clean, thousands},
    run::audit::{ArchiveLine, ArchiveStatus, Deleted, Restore, RunArchive, archive_of},
};

/// What to do about it.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Move segments whose time here is over to the archive, now; by itself that is done once a
    /// day. Interrupted, it ends after the segment at hand, and the next run goes on from there.
    Run {
        /// How old a segment is when it goes, where that is not what the configuration says:
        /// '0 days' moves all that are finished.
        #[arg(long, value_name = "TIME")]
        after: Option<String>,
    },
    /// Show where the segments of the log are, and the last run.
    Status,
    /// Bring segments back to the disk of the log: all of them, or those with records of a time.
    Restore(RestoreArgs),
    /// Say that you have deleted, by hand and at an address of before, the objects that runs name
    /// as having records which were dropped: they are not asked for any more.
    Deleted {
        /// The address, as the runs name it.
        #[arg(long, value_name = "ADDRESS")]
        store: String,
    },
    /// Make this folder of a log the one that counts, after it was copied or put back from a
    /// backup: no other copy of it puts or deletes anything in the archive then.
    Adopt {
        /// Folder of a log that nobody writes.
        #[arg(long)]
        dir: PathBuf,
        /// Configuration whose `audit.archive` says where the archive is.
        #[arg(long, value_name = "FILE")]
        archive_config: PathBuf,
    },
}

/// Arguments of `audit archive restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// Records received since then: 2026-01-31, or with a time.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Records received until then; of a day, to its end.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Folder of a log that nobody writes, instead of the running mesh's: all comes back.
    #[arg(long, requires = "archive_config", conflicts_with_all = ["since", "until"])]
    dir: Option<PathBuf>,
    /// Configuration whose `audit.archive` says where the archive is.
    #[arg(long, value_name = "FILE", requires = "dir")]
    archive_config: Option<PathBuf>,
}

pub(super) fn main(command: &Command, context: &Context) -> Exit {
    match command {
        Command::Run { after } => {
            let after = after.clone();
            ask("run", &RunArchive { after }, "moved", context)
        }
        Command::Status => status(context),
        Command::Restore(args) => restore(args, context),
        Command::Deleted { store } => {
            let store = store.clone();
            ask("deleted", &Deleted { store }, "written off", context)
        }
        Command::Adopt {
            dir,
            archive_config,
        } => take_over(dir, archive_config, context),
    }
}

/// The archive that the configuration `file` names, for the log in `dir`.
///
/// # Errors
/// When there is none, or it cannot be used.
pub(super) fn named(file: &Path, dir: &Path) -> Result<Arc<Archive>, Diagnostic> {
    let config = Config::read(file).map_err(|mut found| match found.is_empty() {
        true => Diagnostic::error(8001, format!("`{}` cannot be read", file.display())),
        false => found.swap_remove(0),
    })?;
    let section = config
        .audit
        .as_ref()
        .and_then(|audit| audit.archive.as_ref());
    let section = section.ok_or_else(|| {
        Diagnostic::error(7585, format!("`{}` names no archive", file.display()))
            .help("it is the section `audit.archive`")
    })?;
    archive_of(section, dir)
}

fn take_over(dir: &Path, file: &Path, context: &Context) -> Exit {
    let done =
        named(file, dir).and_then(|archive| adopt(dir, &archive).map_err(|e| e.diagnostic()));
    match done {
        Ok(()) => ended(&Outcome::default(), "moved; the folder counts now", context),
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

fn restore(args: &RestoreArgs, context: &Context) -> Exit {
    if let (Some(dir), Some(file)) = (&args.dir, &args.archive_config) {
        let done = named(file, dir)
            .and_then(|archive| restore_all(dir, &archive).map_err(|e| e.diagnostic()));
        return match done {
            Ok(all) => ended(
                &Outcome {
                    segments: all.bytes.len() as u64,
                    bytes: all.bytes.iter().sum(),
                    faults: all
                        .refused
                        .iter()
                        .map(|e| e.diagnostic().to_string())
                        .collect(),
                    ..Outcome::default()
                },
                "brought back",
                context,
            ),
            Err(diagnostic) => render::failed(context.output, &diagnostic),
        };
    }
    let times = time(args.since.as_deref(), false)
        .and_then(|from_us| Ok((from_us, time(args.until.as_deref(), true)?)));
    match times {
        Ok((from_us, to_us)) => ask(
            "restore",
            &Restore { from_us, to_us },
            "brought back",
            context,
        ),
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

/// A moment, or a day of which the end counts where that is wanted.
fn time(text: Option<&str>, end: bool) -> Result<Option<i64>, Diagnostic> {
    let Some(text) = text else { return Ok(None) };
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Some(time.as_microsecond()));
    }
    let day = text.parse::<jiff::civil::Date>().ok();
    let day = day.and_then(|day| if end { day.tomorrow().ok() } else { Some(day) });
    let start = day.and_then(|day| day.to_zoned(jiff::tz::TimeZone::UTC).ok());
    let start = start.ok_or_else(|| {
        Diagnostic::error(7590, format!("`{text}` is no time"))
            .help("a day, as in 2026-01-31, or a moment, as in 2026-01-31T12:00:00Z")
    })?;
    Ok(Some(start.timestamp().as_microsecond() - i64::from(end)))
}

fn ask(what: &str, asked: &impl Serialize, done: &str, context: &Context) -> Exit {
    let mut last = None;
    let shown = screen::tells_progress();
    let take = |line: &[u8]| {
        match serde_json::from_slice::<ArchiveLine>(line) {
            Ok(ArchiveLine::Progress(far)) if shown => screen::progress(&said(&far)),
            Ok(ArchiveLine::Progress(_)) | Err(_) => {}
            Ok(line) => last = Some(line),
        }
        true
    };
    let answered = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        let path = format!("/v1/audit/archive/{what}");
        mesh.stream("audit", &path, asked, take).await
    });
    if shown {
        screen::progress("");
    }
    let outcome = answered.and_then(|()| match last {
        Some(ArchiveLine::Outcome(outcome)) => Ok(outcome),
        Some(ArchiveLine::Failed {
            code,
            message,
            cause,
            help,
        }) => {
            let told = Diagnostic::error(code, message);
            let told = match cause {
                Some(cause) => told.cause(cause),
                None => told,
            };
            Err(match help {
                Some(help) => told.help(help),
                None => told,
            })
        }
        _ => Err(Diagnostic::error(7589, "the run has not told its end")
            .help("see how it ended: palisade audit archive status")),
    });
    match outcome {
        Ok(outcome) => ended(&outcome, done, context),
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

/// How far it is, on one line.
fn said(far: &Progress) -> String {
    format!(
        "{} of {}, {} bytes",
        thousands(far.segments),
        count(far.segments_total, "segment", "segments"),
        thousands(far.bytes),
    )
}

fn ended(outcome: &Outcome, done: &str, context: &Context) -> Exit {
    match context.output {
        Output::Json => render::json(outcome),
        Output::Human => {
            render::line(&format!(
                "{} {done}, {} bytes",
                count(outcome.segments, "segment", "segments"),
                thousands(outcome.bytes),
            ));
            faults(&outcome.faults);
            if outcome.interrupted {
                render::line("it ended early; the next run goes on");
            }
        }
    }
    match outcome.faults.is_empty() {
        true => Exit::Ok,
        false => Exit::Failed,
    }
}

fn faults<'a>(faults: impl IntoIterator<Item = &'a String>) {
    for fault in faults {
        render::line(&render::paint(render::WARN, format!("! {}", clean(fault))));
    }
}

fn status(context: &Context) -> Exit {
    let status = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        mesh.get::<ArchiveStatus>("audit", "/v1/audit/archive")
            .await
    });
    match status {
        Ok(status) => {
            match context.output {
                Output::Json => render::json(&status),
                Output::Human => print_status(&status),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

fn print_status(status: &ArchiveStatus) {
    let segments = |n, bytes| {
        let n = count(n, "segment", "segments");
        format!("{n}, {} bytes", thousands(bytes))
    };
    match (&status.url, &status.after) {
        (Some(url), Some(after)) => {
            render::line(&format!(
                "segments go to {} after {}",
                clean(url),
                clean(after)
            ));
        }
        _ => render::line("every segment stays here: `audit.archive` names no archive"),
    }
    render::line(&format!(
        "here     {}",
        segments(status.here, status.here_bytes)
    ));
    render::line(&format!(
        "archive  {}",
        segments(status.moved, status.moved_bytes)
    ));
    if status.back > 0 {
        render::line(&format!(
            "of those here, {} came back",
            thousands(status.back)
        ));
    }
    render::line(&format!(
        "cache    {} bytes; {} fetched since the start",
        thousands(status.cached_bytes),
        count(status.fetched, "segment", "segments"),
    ));
    let moment = |us| {
        format!(
            "{:.0}",
            jiff::Timestamp::from_microsecond(us).unwrap_or_default()
        )
    };
    if let Some(last) = &status.last {
        let early = if last.outcome.interrupted {
            ", ended early"
        } else {
            ""
        };
        let done = segments(last.outcome.segments, last.outcome.bytes);
        render::line(&format!(
            "last run {}: {done}{early}",
            moment(last.ended_us)
        ));
    }
    if let Some(next_us) = status.next_us {
        render::line(&format!("next run {}", moment(next_us)));
    }
    faults(status.last.iter().flat_map(|last| &last.outcome.faults));
    faults(&status.fault);
    if status.versions {
        render::line("the bucket keeps versions: what is deleted there is not gone");
    }
}
