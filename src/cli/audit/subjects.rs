//! `palisade audit erase` and `palisade audit hold`: persons in the log, and what must stay.

use std::io::BufRead as _;

use palisade_audit::holds::Hold;
use palisade_mesh::diagnostic::Diagnostic;

use crate::{
    cli::{Context, Exit, block_on},
    control::client::Mesh,
    render::{
        self, Output,
        snippet::clean,
        table::{self, col},
    },
    run::audit::{AddHold, Erase, Erased, HoldList, ReleaseHold, Reveal, Revelation},
};

use super::saved;

/// Exports that are printed one by one.
const RECALLS_SHOWN: usize = 20;

/// Arguments of `audit erase`.
#[derive(Debug, clap::Args)]
pub(crate) struct EraseArgs {
    /// The name, as it stands in requests, or the pseudonym; `-` reads it from standard input,
    /// so that no list of processes and no history of a shell has it.
    subject: String,
    /// Why; it is recorded, so it must not name the person.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Tell what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What to do with legal holds.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum HoldCommand {
    /// Keep what a query matches from being erased.
    Add {
        /// The query, as `audit search` has it; without a time it is about all times.
        #[arg(required = true)]
        query: Vec<String>,
        /// Why; it is recorded.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// When it ends by itself, a day or a time in UTC; it must be released where nothing
        /// is said.
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
    },
    /// List the holds.
    List,
    /// End a hold.
    Release {
        /// Its id.
        id: String,
        /// Why; it is recorded.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

/// Asks what is under the covers of the records of an id.
pub(super) async fn reveal(mesh: &Mesh, id: &str, reason: &str) -> Result<Revelation, Diagnostic> {
    let asked = Reveal {
        id: id.to_owned(),
        reason: reason.to_owned(),
    };
    mesh.post("audit", "/v1/audit/reveal", &asked).await
}

/// Prints it.
pub(super) fn print_revealed(revealed: &Revelation) {
    if revealed.records.iter().all(|r| r.values.is_empty()) {
        let said = "nothing is covered in these records";
        return render::line(&render::paint(render::DIM, said));
    }
    let mut out = table::Table::new(&[col("ENTRY").right(), col("FIELD"), col(""), col("VALUE")]);
    for record in &revealed.records {
        for value in &record.values {
            let shown = value.value.as_ref().or(value.subject.as_ref());
            out.row([
                record.entry.to_string().into(),
                clean(&value.field).into(),
                clean(&value.state).into(),
                clean(shown.map_or("", String::as_str)).into(),
            ]);
        }
    }
    out.print();
}

pub(super) fn erase(args: &EraseArgs, context: &Context) -> Exit {
    let erased = named(&args.subject).and_then(|subject| {
        block_on(async {
            let mesh = Mesh::find(context.mesh.as_deref()).await?;
            let asked = Erase {
                subject,
                reason: args.reason.clone(),
                dry_run: args.dry_run,
            };
            mesh.post::<Erased>("audit", "/v1/audit/erase", &asked)
                .await
        })
    });
    match erased {
        Ok(erased) => {
            match context.output {
                Output::Json => render::json(&erased),
                Output::Human => print_erased(&erased),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

/// The name, from where it is written.
fn named(subject: &str) -> Result<String, Diagnostic> {
    if subject != "-" {
        return Ok(subject.to_owned());
    }
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    match read {
        // What else is at its ends is part of the name, as it is in requests.
        Ok(_) => {
            let name = line.strip_suffix('\n').unwrap_or(&line);
            Ok(name.strip_suffix('\r').unwrap_or(name).to_owned())
        }
        Err(error) => Err(Diagnostic::error(7563, "nobody is named")
            .cause(error.to_string())
            .help("give the name on a line of standard input")),
    }
}

fn print_erased(erased: &Erased) {
    let records = render::count(
        usize::try_from(erased.records).unwrap_or(usize::MAX),
        "record",
        "records",
    );
    let at = erased.at.as_deref().unwrap_or_default();
    let said = match erased.state.as_str() {
        "erased" => render::paint(render::GOOD.bold(), "✓ erased"),
        "erased_before" => format!("erased before, {}", clean(at)),
        "would_erase" => render::paint(render::WARN, "would be erased"),
        _ => "nothing is sealed of this person, so there is no key to destroy".to_owned(),
    };
    render::line(&said);
    render::line(&format!("  subject   {}", clean(&erased.subject)));
    render::line(&format!("  records   {records} about this person"));
    if erased.in_clear > 0 {
        let n = render::count(erased.in_clear, "record has", "records have");
        let said =
            format!("  in clear  {n} the name as it is, from before a rule covered it: these stay");
        render::line(&render::paint(render::WARN, said));
    }
    if !erased.whole {
        let said =
            "  the index does not have all records: there may be more, and holds that keep them";
        render::line(&render::paint(render::WARN, said));
    }
    for hold in &erased.held_by {
        let said = format!("  held by   {}", clean(hold));
        render::line(&render::paint(render::WARN, said));
    }
    print_recall(erased);
}

/// Prints to whom records of the person went before.
fn print_recall(erased: &Erased) {
    if erased.recall.is_empty() {
        return;
    }
    let n = render::count(erased.recall.len(), "reader has", "readers have");
    render::line("");
    render::line(&format!(
        "{n} been given some of them; call back what was kept:"
    ));
    let mut out = table::Table::new(&[
        col("TIME (UTC)"),
        col("WHO"),
        col(""),
        col("FILE").short(),
        col("QUERY").short(),
    ]);
    for recall in erased.recall.iter().take(RECALLS_SHOWN) {
        out.row([
            clean(&recall.time).into(),
            clean(&recall.actor).into(),
            clean(&recall.verb).into(),
            clean(&recall.to).into(),
            clean(&recall.query).into(),
        ]);
    }
    out.print();
    if erased.recall_more || erased.recall.len() > RECALLS_SHOWN {
        render::line("there are more: -o json");
    }
}

pub(super) fn hold(command: HoldCommand, context: &Context) -> Exit {
    let done = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        match command {
            HoldCommand::Add {
                query,
                reason,
                until,
            } => {
                let query = saved::query(&query)?;
                let asked = AddHold {
                    query,
                    reason,
                    until,
                };
                let hold: Hold = mesh.post("audit", "/v1/audit/holds/add", &asked).await?;
                Ok(vec![hold])
            }
            HoldCommand::List => {
                let list: HoldList = mesh.get("audit", "/v1/audit/holds").await?;
                Ok(list.holds)
            }
            HoldCommand::Release { id, reason } => {
                let asked = ReleaseHold { id, reason };
                let path = "/v1/audit/holds/release";
                mesh.post::<Hold>("audit", path, &asked).await?;
                Ok(Vec::new())
            }
        }
    });
    match done {
        Ok(holds) => {
            match context.output {
                Output::Json => render::json(&HoldList { holds }),
                Output::Human => print_holds(&holds),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

fn print_holds(holds: &[Hold]) {
    if holds.is_empty() {
        return render::line("nothing is held");
    }
    let mut out = table::Table::new(&[
        col("ID"),
        col("UNTIL"),
        col("BY"),
        col("QUERY").short(),
        col("REASON").short(),
    ]);
    let time = |us: i64| jiff::Timestamp::from_microsecond(us).unwrap_or_default();
    for hold in holds {
        let mut query = hold.query.clone();
        for (bound, us) in [("since", hold.from_us), ("until", hold.to_us)] {
            if let Some(us) = us {
                query = format!("{query} {bound}:{}", time(us));
            }
        }
        out.row([
            clean(&hold.id).into(),
            hold.until_us
                .map_or_else(|| "it is released".into(), |us| time(us).to_string().into()),
            clean(&hold.by).into(),
            clean(query.trim()).into(),
            clean(&hold.reason).into(),
        ]);
    }
    out.print();
}
