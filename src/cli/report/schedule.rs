//! `palisade report schedule`: reports that the audit service makes by itself.

use palisade_mesh::clock::Clock;

use super::{attending, understood};
use crate::{
    cli::{Context, Exit, block_on},
    control::{
        client::Mesh,
        status::{ago, ahead},
    },
    render::{
        self, BAD, DIM, NAME, Output,
        snippet::clean,
        table::{Table, col, styled},
    },
    run::audit::{RunSchedule, Scheduled},
};

/// What to do with schedules.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the schedules, when they are due, and how the last run went.
    List,
    /// Make the report of a schedule now, as if it were due.
    Run {
        /// The schedule.
        name: String,
    },
}

pub(super) fn main(command: &Command, context: &Context) -> Exit {
    let asked = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        match command {
            Command::List => {
                let all: Vec<Scheduled> = mesh.get("audit", "/v1/audit/schedules").await?;
                Ok(all)
            }
            Command::Run { name } => {
                let asked = RunSchedule { name: name.clone() };
                let work = attending::Work::on_report("the audit service makes the report");
                let path = "/v1/audit/schedules/run";
                let made = attending::of_mesh(&mesh, path, &asked, &work).await?;
                Ok(vec![understood(&made)?])
            }
        }
    });
    match asked {
        Ok(all) => {
            match context.output {
                Output::Json => render::json(&serde_json::json!({ "schedules": all })),
                Output::Human => print(&all),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

fn print(all: &[Scheduled]) {
    if all.is_empty() {
        return render::line("no schedules: write some, `audit.schedules` in the configuration");
    }
    let clock = Clock::system();
    let mut out = Table::new(&[
        col("SCHEDULE"),
        col("REPORT"),
        col("ABOUT"),
        col("NEXT"),
        col("LAST").short(),
        col("CRON").optional(),
    ]);
    for one in all {
        let next = one.next_us.map(|us| ahead(&clock, us / 1_000_000));
        let when = one.last.made_us.map(|us| ago(&clock, us));
        let last = match (&one.last.fault, when) {
            (Some(fault), Some(when)) => styled(BAD, format!("failed {when}: {}", clean(fault))),
            (None, Some(when)) => format!("made {when}").into(),
            _ => styled(DIM, "not yet"),
        };
        out.row([
            styled(NAME, one.name.as_str()),
            clean(&one.report).into(),
            clean(&one.period).into(),
            next.unwrap_or_default().into(),
            last,
            styled(DIM, format!("{} {}", one.cron, one.zone)),
        ]);
    }
    out.print();
    for file in all.iter().flat_map(|one| &one.last.files) {
        render::line(&render::paint(DIM, format!("  {}", clean(file))));
    }
}
