//! `palisade run`: a role, until it is told to end.

use std::path::PathBuf;

use clap::ValueEnum;
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use super::{Context, Exit, block_on};
use crate::{
    config::Config,
    net::parent,
    render::{self, Output},
    run::{self, Role},
};

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to run.
    #[arg(value_enum)]
    role: Which,
    /// Configuration file.
    #[arg(
        short,
        long,
        env = "PALISADE_CONFIG",
        default_value = "palisade-mesh.yaml"
    )]
    config: PathBuf,
    /// What to log: a level, or directives such as `palisade_proxy=debug`.
    #[arg(long, env = "PALISADE_LOG", default_value = "info", value_parser = directives)]
    log: String,
    /// End when standard input closes.
    #[arg(long, hide = true)]
    end_with_parent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// The whole control plane in one process: ca, agent, pdp and audit.
    All,
    /// The SPIFFE Workload API of this host.
    Agent,
    /// The decision log, its index and its door for records.
    Audit,
    /// The certificate authority.
    Ca,
    /// The policy decision point: watches the repository, sends it to proxies.
    Pdp,
    /// One proxy, beside one application.
    Proxy,
}

fn directives(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{error}; expected a level such as `debug`")),
    }
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    log_to_stderr(&args.log, context.output);
    let config = match Config::read(&args.config) {
        Ok(config) => config,
        Err(found) => {
            render::diagnostics(context.output, &found);
            return Exit::Invalid;
        }
    };
    match block_on(serve(args, &config)) {
        Ok(()) => Exit::Ok,
        Err(found) => {
            render::diagnostics(context.output, &found);
            found.first().map_or(Exit::Failed, Exit::of)
        }
    }
}

async fn serve(args: &Args, config: &Config) -> Result<(), Vec<Diagnostic>> {
    let told = async {
        tokio::select! {
            () = run::told_to_end() => {}
            () = parent::ended(args.end_with_parent) => {}
        }
    };
    let clock = Clock::system();
    let roles: &[Role] = match args.role {
        Which::Proxy => {
            let proxy = tokio::select! {
                proxy = run::proxy::start(config, clock) => proxy?,
                () = run::told_to_end() => return Ok(()),
            };
            tracing::info!("ready");
            told.await;
            proxy.end().await;
            return Ok(());
        }
        Which::All => &Role::ALL,
        Which::Agent => &[Role::Agent],
        Which::Audit => &[Role::Audit],
        Which::Ca => &[Role::Ca],
        Which::Pdp => &[Role::Pdp],
    };
    let plane = tokio::select! {
        plane = run::control_plane(config, roles, clock) => plane?,
        () = run::told_to_end() => return Ok(()),
    };
    tracing::info!("ready");
    told.await;
    plane.end().await;
    Ok(())
}

/// Logs to standard error, for people or as JSON lines.
pub(crate) fn log_to_stderr(filter: &str, output: Output) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let _ = match output {
        Output::Human => registry.with(layer.with_ansi(false)).try_init(),
        Output::Json => registry.with(layer.json()).try_init(),
    };
}
