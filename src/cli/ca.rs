//! `palisade ca`: the authority, its rotation, and what is done to its folder.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use palisade_ca::{
    CaConfig,
    authority::Authority,
    server::{self, Backup, Repaired, Restored},
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use serde_json::json;

use super::{Context, Exit, block_on};
use crate::{
    config::Config,
    control::{
        client::Mesh,
        status::{AuthorityStatus, CaStatus},
    },
    render::{self, Output, WARN, paint},
    run::{RotateOrder, authority_status, ca_config},
};

mod show;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make the first root and intermediate, before the first start.
    Init(Here),
    /// Show authorities, who has acknowledged what, and what a rotation waits for.
    Status,
    /// Replace an authority before its time.
    Rotate(RotateArgs),
    /// Write journal, store and sealed keys into one file, also while the CA runs.
    Backup {
        /// File to write; it must not exist.
        file: PathBuf,
        #[command(flatten)]
        here: Here,
    },
    /// Put a backup into an empty state folder.
    Restore {
        /// A file that `palisade ca backup` wrote.
        file: PathBuf,
        #[command(flatten)]
        here: Here,
    },
    /// Give an authority whose root has expired new ones, while it does not run.
    Repair(Here),
}

/// Whose folder.
#[derive(Debug, clap::Args)]
pub(super) struct Here {
    /// Configuration file.
    #[arg(
        short,
        long,
        env = "PALISADE_CONFIG",
        default_value = "palisade-mesh.yaml"
    )]
    config: PathBuf,
}

/// Arguments of `ca rotate`.
#[derive(Debug, clap::Args)]
pub(super) struct RotateArgs {
    /// Which authority.
    #[arg(value_enum)]
    what: What,
    /// Its key is in strange hands: replace everything under it at once, and revoke it.
    #[arg(long, conflicts_with = "stage")]
    compromised: bool,
    /// One step by hand, instead of the whole rotation.
    #[arg(long, value_enum)]
    stage: Option<Stage>,
    /// Do not wait for acknowledgements; connections may fail.
    #[arg(long)]
    now: bool,
    /// Do it without being asked again.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// The root, and the intermediate under it.
    Root,
    /// The intermediate that signs certificates.
    Issuer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Make the next one and publish it.
    Prepare,
    /// Let the prepared one sign.
    Activate,
    /// End the retiring one.
    Retire,
}

pub(super) fn main(command: &Command, context: &Context) -> Exit {
    match command {
        Command::Status => told(block_on(status(context)), context, show::status),
        Command::Rotate(args) => match confirmed(args) {
            Ok(()) => told(block_on(rotate(args, context)), context, |s| {
                show::rotating(s, args.compromised);
            }),
            Err(refused) => render::failed(context.output, &refused),
        },
        Command::Init(here) => offline(here, context, init),
        Command::Repair(here) => offline(here, context, repair),
        Command::Backup { file, here } => {
            offline(here, context, |config, output| backup(config, file, output))
        }
        Command::Restore { file, here } => offline(here, context, |config, output| {
            restore(config, file, output)
        }),
    }
}

fn told(
    status: Result<CaStatus, Diagnostic>,
    context: &Context,
    print: impl FnOnce(&CaStatus),
) -> Exit {
    match status {
        Ok(status) => {
            match context.output {
                Output::Json => render::json(&status),
                Output::Human => print(&status),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

async fn status(context: &Context) -> Result<CaStatus, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    mesh.get("ca", "/v1/ca/status").await
}

async fn rotate(args: &RotateArgs, context: &Context) -> Result<CaStatus, Diagnostic> {
    let word = |value: Option<clap::builder::PossibleValue>| value.map(|v| v.get_name().to_owned());
    let order = RotateOrder {
        what: word(args.what.to_possible_value()).unwrap_or_default(),
        stage: args.stage.and_then(|s| word(s.to_possible_value())),
        compromised: args.compromised,
        now: args.now,
    };
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    mesh.post("ca", "/v1/ca/rotate", &order).await
}

/// What ends trust or may end connections is not done by a slip of the hand.
fn confirmed(args: &RotateArgs) -> Result<(), Diagnostic> {
    let cause = match (args.compromised, args.now) {
        _ if args.yes => return Ok(()),
        (false, false) => return Ok(()),
        (true, false) => "every certificate is replaced, then the root leaves the bundle for good",
        (true, true) => {
            "the root leaves the bundle at once: connections fail until every certificate is replaced"
        }
        (false, true) => "connections fail where somebody has not acknowledged yet",
    };
    Err(
        Diagnostic::error(4041, "this rotation wants to be confirmed")
            .cause(cause)
            .help("repeat the command with --yes"),
    )
}

fn offline(
    here: &Here,
    context: &Context,
    act: impl FnOnce(&CaConfig, Output) -> Result<(), Diagnostic>,
) -> Exit {
    let found = Config::read(&here.config).and_then(|config| {
        let section = config.ca.as_ref().ok_or_else(|| {
            vec![
                Diagnostic::error(8010, "the configuration has no section `ca`")
                    .help("add one; deploy/palisade.yaml shows every key of `ca`"),
            ]
        })?;
        Ok(ca_config(&config, section))
    });
    let config = match found {
        Ok(config) => config,
        Err(found) => {
            render::diagnostics(context.output, &found);
            return Exit::Invalid;
        }
    };
    match act(&config, context.output) {
        Ok(()) => Exit::Ok,
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

fn init(config: &CaConfig, output: Output) -> Result<(), Diagnostic> {
    let made = block_on(server::init(config, Clock::system())).map_err(|e| e.diagnostic())?;
    let authorities = listed(&made);
    match output {
        Output::Json => render::json(&json!({
            "trust_domain": config.trust_domain.as_str(),
            "authorities": authorities,
        })),
        Output::Human => {
            let domain = render::strong(config.trust_domain.as_str());
            render::line(&format!("authority of {domain} made"));
            show::authorities(&authorities);
            show::kek(&config.kek_path());
        }
    }
    Ok(())
}

fn repair(config: &CaConfig, output: Output) -> Result<(), Diagnostic> {
    let Repaired { ended, authorities } =
        block_on(server::repair(config, Clock::system())).map_err(|e| e.diagnostic())?;
    let authorities = listed(&authorities);
    match output {
        Output::Json => render::json(&json!({ "ended": ended, "authorities": authorities })),
        Output::Human => {
            let ended = render::count(ended, "authority", "authorities");
            render::line(&format!("{ended} had ended; these are new"));
            show::authorities(&authorities);
            render::next(&[(
                "palisade run ca".into(),
                "agents and workloads come back by themselves",
            )]);
        }
    }
    Ok(())
}

fn backup(config: &CaConfig, file: &Path, output: Output) -> Result<(), Diagnostic> {
    let made: Backup =
        block_on(server::backup(config, &Clock::system(), file)).map_err(|e| e.diagnostic())?;
    match output {
        Output::Json => render::json(&json!({
            "file": file,
            "sha256": made.digest.to_string(),
            "bytes": made.len,
            "header": made.header,
        })),
        Output::Human => {
            render::line(&format!(
                "{}  {} bytes, trust state {}, journal entry {}",
                file.display(),
                render::thousands(made.len),
                made.header.sequence,
                made.header.journal_head
            ));
            render::line(&format!("sha256 {}", made.digest));
            show::kek(&config.kek_path());
        }
    }
    Ok(())
}

fn restore(config: &CaConfig, file: &Path, output: Output) -> Result<(), Diagnostic> {
    let Restored {
        header,
        epoch,
        authorities,
    } = block_on(server::restore(config, &Clock::system(), file)).map_err(|e| e.diagnostic())?;
    let authorities = listed(&authorities);
    match output {
        Output::Json => render::json(&json!({
            "header": header,
            "epoch": epoch,
            "authorities": authorities,
        })),
        Output::Human => {
            let made = jiff::Timestamp::from_microsecond(header.made_us)
                .map_or_else(|_| header.made_us.to_string(), |t| t.to_string());
            render::line(&format!(
                "backup of {made} put back, journal entry {}",
                header.journal_head
            ));
            show::authorities(&authorities);
            render::line(&paint(
                WARN,
                "an authority that was revoked after the backup is trusted again; whether one was:",
            ));
            render::line("  palisade audit search 'class:credential revoked'");
            render::line("if so, start the authority and rotate with --compromised");
            render::next(&[("palisade run ca".into(), "agents take its state for newer")]);
        }
    }
    Ok(())
}

fn listed(authorities: &[(Authority, i64)]) -> Vec<AuthorityStatus> {
    let status = |(a, since_us): &(Authority, i64)| authority_status(a, *since_us);
    authorities.iter().map(status).collect()
}
