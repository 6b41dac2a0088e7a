//! `palisade audit retention`: how long records are kept, and what drops them.

use palisade_audit::retention::{Outcome, Progress};
use palisade_mesh::diagnostic::Diagnostic;

use crate::{
    cli::{Context, Exit, block_on},
    control::client::Mesh,
    render::{
        self, Output, count, screen,
        snippet::clean,
        table::{self, col},
        thousands,
    },
    run::audit::{RetentionLine, RetentionStatus, RunRetention},
};

/// What to do about it.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Drop records whose time is over, now; by itself that is done once a day. Interrupted, it
    /// ends after the segment at hand, and the next run goes on from there.
    Run {
        /// Tell what would be dropped, and drop nothing.
        #[arg(long)]
        dry_run: bool,
        /// The clock is right: drop though it has gone more than 31 days ahead at once, as when
        /// the service was away.
        #[arg(long)]
        trust_clock: bool,
    },
    /// Show how long each class is kept, what was dropped, and the last run.
    Status,
}

pub(super) fn main(command: &Command, context: &Context) -> Exit {
    match command {
        Command::Run {
            dry_run,
            trust_clock,
        } => run(*dry_run, *trust_clock, context),
        Command::Status => status(context),
    }
}

fn run(dry_run: bool, trust_clock: bool, context: &Context) -> Exit {
    let mut ended = None;
    let shown = screen::tells_progress();
    let take = |line: &[u8]| {
        match serde_json::from_slice::<RetentionLine>(line) {
            Ok(RetentionLine::Progress(far)) if shown => screen::progress(&said(&far)),
            Ok(RetentionLine::Progress(_)) | Err(_) => {}
            Ok(last) => ended = Some(last),
        }
        true
    };
    let answered = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        let asked = RunRetention {
            dry_run,
            trust_clock,
        };
        mesh.stream("audit", "/v1/audit/retention/run", &asked, take)
            .await
    });
    if shown {
        screen::progress("");
    }
    let outcome = answered.and_then(|()| match ended {
        Some(RetentionLine::Outcome(outcome)) => Ok(outcome),
        Some(RetentionLine::Failed {
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
        _ => Err(Diagnostic::error(7576, "the run has not told its end")
            .help("see how it ended: palisade audit retention status")),
    });
    match outcome {
        Ok(outcome) => {
            match context.output {
                Output::Json => render::json(&outcome),
                Output::Human => print_outcome(&outcome, dry_run),
            }
            match outcome.faults.is_empty() {
                true => Exit::Ok,
                false => Exit::Failed,
            }
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

/// How far it is, on one line.
fn said(far: &Progress) -> String {
    format!(
        "{} of {}, {}",
        thousands(far.segments),
        count(far.segments_total, "segment", "segments"),
        count(far.records, "record", "records"),
    )
}

fn print_outcome(outcome: &Outcome, dry_run: bool) {
    let (records, would) = (outcome.records(), if dry_run { "would be " } else { "" });
    if records > 0 {
        let mut out =
            table::Table::new(&[col("CLASS"), col("RECORDS").right(), col("BYTES").right()]);
        for (class, counted) in &outcome.dropped {
            out.row([
                clean(class).into(),
                thousands(counted.records).into(),
                thousands(counted.bytes).into(),
            ]);
        }
        out.print();
    }
    render::line(&format!(
        "{} {would}dropped from {}, {} bytes less",
        count(records, "record", "records"),
        count(outcome.segments, "segment", "segments"),
        thousands(outcome.bytes),
    ));
    if outcome.held > 0 {
        let held = count(outcome.held, "record", "records");
        render::line(&format!("{held} more stay: palisade audit hold list"));
    }
    for fault in &outcome.faults {
        render::line(&render::paint(render::WARN, format!("! {}", clean(fault))));
    }
    if outcome.interrupted {
        render::line("it ended early; the next run goes on");
    }
}

fn status(context: &Context) -> Exit {
    let status = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        mesh.get::<RetentionStatus>("audit", "/v1/audit/retention")
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

fn print_status(status: &RetentionStatus) {
    if status.periods.is_empty() {
        render::line("every record is kept for ever: `audit.retention` names no class");
    } else {
        let mut out = table::Table::new(&[col("CLASS"), col("KEPT FOR"), col("OVER BEFORE (UTC)")]);
        for kept in &status.periods {
            let before = kept.over_before_us.map_or_else(|| "never".to_owned(), time);
            out.row([
                clean(&kept.class).into(),
                clean(&kept.period).into(),
                before.into(),
            ]);
        }
        out.print();
        render::line("all other classes are kept for ever");
    }
    if !status.dropped.is_empty() {
        let mut out =
            table::Table::new(&[col("DROPPED"), col("RECORDS").right(), col("UNTIL (UTC)")]);
        for dropped in &status.dropped {
            out.row([
                clean(&dropped.class).into(),
                thousands(dropped.records).into(),
                time(dropped.until_us).into(),
            ]);
        }
        out.print();
    }
    if let Some(last) = &status.last {
        let early = if last.interrupted {
            ", ended early"
        } else {
            ""
        };
        render::line(&format!(
            "last run {}: {}, {} bytes less{early}",
            time(last.ended_us),
            count(last.records, "record", "records"),
            thousands(last.bytes),
        ));
    }
    if let Some(next_us) = status.next_us {
        render::line(&format!("next run {}", time(next_us)));
    }
    let faults = status.last.iter().flat_map(|last| &last.faults);
    for fault in status.fault.iter().chain(faults) {
        render::line(&render::paint(render::WARN, format!("! {}", clean(fault))));
    }
}

fn time(us: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(us).unwrap_or_default();
    format!("{time:.0}")
}
