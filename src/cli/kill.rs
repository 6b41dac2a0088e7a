//! `palisade kill`: bars somebody at once, shows who is barred, and lets go.

use std::time::Duration;

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};

use super::{Context, Exit, block_on};
use crate::{
    config::span,
    control::{client::Mesh, status::ahead},
    render::{
        self, BAD, DIM, GOOD, Output, WARN, paint,
        snippet::clean,
        table::{self, col},
    },
    run::kill::{KillEntry, KillListStatus, KillOutcome, KillWish, TargetText},
};

/// What to do with the kill list.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Bar a SPIFFE ID, a certificate, or everything below or issued under something.
    Add(Add),
    /// Show who is barred.
    List,
    /// Take an entry off the list.
    Remove {
        /// The entry's id, as `palisade kill list` shows it.
        id: String,
    },
}

/// Whom to bar.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true))]
pub(super) struct Add {
    /// SPIFFE ID of the workload.
    #[arg(group = "target", value_name = "SPIFFE_ID")]
    identity: Option<String>,
    /// Every SPIFFE ID at and below this one.
    #[arg(long, group = "target", value_name = "SPIFFE_ID")]
    prefix: Option<String>,
    /// One certificate, by its serial number.
    #[arg(long, group = "target", value_name = "HEX")]
    serial: Option<String>,
    /// Everything issued under an authority, by its key id.
    #[arg(long, group = "target", value_name = "HEX")]
    authority: Option<String>,
    /// Why; it stands in the record and on the list.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// For how long, such as `2h`; without it until it is removed.
    #[arg(long = "for", value_name = "TIME", value_parser = life)]
    life: Option<Duration>,
    /// Only say who would be hit.
    #[arg(long)]
    dry_run: bool,
    /// Do it although it may hit many: needed for --prefix and --authority.
    #[arg(long)]
    yes: bool,
}

pub(super) fn main(command: &Command, context: &Context) -> Exit {
    let done = match command {
        Command::Add(args) => block_on(add(args, context)),
        Command::List => block_on(list(context)),
        Command::Remove { id } => block_on(remove(id, context)),
    };
    done.unwrap_or_else(|diagnostic| render::failed(context.output, &diagnostic))
}

async fn add(args: &Add, context: &Context) -> Result<Exit, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    let target = args.target();
    let wide = matches!(target.kind.as_str(), "authority" | "prefix");
    let mut wish = KillWish {
        target,
        reason: args.reason.clone(),
        for_s: args.life.map(|life| life.as_secs()),
        preview: args.dry_run || (wide && !args.yes),
    };
    let outcome: KillOutcome = mesh.post("ca", "/v1/ca/kill", &wish).await?;
    if context.output == Output::Json {
        render::json(&outcome);
    } else {
        hit(&outcome);
    }
    wish.preview &= !args.dry_run;
    if wish.preview {
        return Err(
            Diagnostic::error(4403, "nobody was barred: this may hit many")
                .cause(format!(
                    "`{}` names more than one workload",
                    wish.target.kind
                ))
                .help("look at who would be hit, then say it again with --yes"),
        );
    }
    Ok(Exit::Ok)
}

fn hit(outcome: &KillOutcome) {
    let (style, verb) = match &outcome.entry {
        Some(entry) => {
            render::line(&format!(
                "{} barred {} {}",
                paint(BAD, "✗"),
                entry.target.kind,
                render::strong(clean(&entry.target.value))
            ));
            (BAD, "hits")
        }
        None => (WARN, "would hit"),
    };
    render::line(&match outcome.certificates {
        0 => format!(
            "  {} nobody who holds a certificate now",
            paint(style, verb)
        ),
        1 => format!("  {} 1 valid certificate, of", paint(style, verb)),
        n => format!("  {} {n} valid certificates, of", paint(style, verb)),
    });
    for identity in &outcome.identities {
        render::line(&format!("    {}", clean(identity)));
    }
    if let Some(entry) = &outcome.entry {
        render::next(&[(
            format!("palisade kill remove {}", entry.id),
            "let them in again",
        )]);
    }
}

async fn list(context: &Context) -> Result<Exit, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    let list: KillListStatus = mesh.get("ca", "/v1/ca/kill").await?;
    if context.output == Output::Json {
        render::json(&list);
        return Ok(Exit::Ok);
    }
    let clock = Clock::system();
    if list.entries.is_empty() {
        render::line("nobody is barred");
        return Ok(Exit::Ok);
    }
    let mut rows = table::Table::new(&[
        col(""),
        col("ID"),
        col("BARS"),
        col("REASON").optional(),
        col("BY").optional(),
        col("ENDS"),
    ]);
    for entry in &list.entries {
        let (style, mark) = if entry.live {
            (BAD, "✗")
        } else {
            (DIM, "·")
        };
        rows.row([
            table::styled(style, mark),
            entry.id.as_str().into(),
            clean(&format!("{} {}", entry.target.kind, entry.target.value)).into(),
            clean(&entry.reason).into(),
            clean(&entry.author).into(),
            ends(entry, &clock).into(),
        ]);
    }
    rows.print();
    Ok(Exit::Ok)
}

async fn remove(id: &str, context: &Context) -> Result<Exit, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    let entry: KillEntry = mesh.post("ca", "/v1/ca/kill/remove", &id).await?;
    if context.output == Output::Json {
        render::json(&entry);
    } else {
        render::line(&format!(
            "{} {} {} is no longer barred by {}",
            paint(GOOD, "✓"),
            entry.target.kind,
            render::strong(clean(&entry.target.value)),
            entry.id
        ));
    }
    Ok(Exit::Ok)
}

impl Add {
    fn target(&self) -> TargetText {
        let of = |kind: &str, value: &Option<String>| {
            value.clone().map(|value| TargetText {
                kind: kind.into(),
                value,
            })
        };
        of("identity", &self.identity)
            .or_else(|| of("prefix", &self.prefix))
            .or_else(|| of("serial", &self.serial))
            .or_else(|| of("authority", &self.authority))
            .expect("the argument group demands one of them")
    }
}

fn ends(entry: &KillEntry, clock: &Clock) -> String {
    match entry.expires_us {
        None => "never".into(),
        Some(_) if !entry.live => "has ended".into(),
        Some(end_us) => ahead(clock, end_us / 1_000_000),
    }
}

fn life(text: &str) -> Result<Duration, String> {
    span(text)
        .filter(|life| life.as_secs() > 0)
        .ok_or_else(|| format!("`{text}` is not a span of time such as `30m` or `2h`"))
}
