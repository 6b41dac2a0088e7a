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
    match args.role {
        Which::Proxy => serve_proxy(config, told).await,
        Which::Agent => serve_agent(config, told).await,
        Which::All => serve_plane(&Role::ALL, config, told).await,
        Which::Audit => serve_plane(&[Role::Audit], config, told).await,
        Which::Ca => serve_plane(&[Role::Ca], config, told).await,
        Which::Pdp => serve_plane(&[Role::Pdp], config, told).await,
    }
}

/// Ends early when told so while it waits for what it needs to start.
async fn started<T>(
    role: impl Future<Output = Result<T, Vec<Diagnostic>>>,
) -> Result<Option<T>, Vec<Diagnostic>> {
    tokio::select! {
        role = role => role.map(Some),
        () = run::told_to_end() => Ok(None),
    }
}

#[cfg(feature = "proxy")]
async fn serve_proxy(
    config: &Config,
    told: impl Future<Output = ()>,
) -> Result<(), Vec<Diagnostic>> {
    let Some(proxy) = started(run::proxy::start(config, Clock::system())).await? else {
        return Ok(());
    };
    tracing::info!("ready");
    told.await;
    proxy.end().await;
    Ok(())
}

#[cfg(feature = "agent")]
async fn serve_agent(
    config: &Config,
    told: impl Future<Output = ()>,
) -> Result<(), Vec<Diagnostic>> {
    let Some(agent) = started(run::agent::alone(config, Clock::system())).await? else {
        return Ok(());
    };
    tracing::info!("ready");
    told.await;
    agent.end().await;
    Ok(())
}

#[cfg(feature = "full")]
async fn serve_plane(
    roles: &[Role],
    config: &Config,
    told: impl Future<Output = ()>,
) -> Result<(), Vec<Diagnostic>> {
    let plane = run::control_plane(config, roles, Clock::system());
    let Some(plane) = started(plane).await? else {
        return Ok(());
    };
    tracing::info!("ready");
    told.await;
    plane.end().await;
    Ok(())
}

#[cfg(not(feature = "proxy"))]
async fn serve_proxy(_: &Config, _: impl Future<Output = ()>) -> Result<(), Vec<Diagnostic>> {
    Err(vec![not_built("proxy")])
}

#[cfg(not(feature = "agent"))]
async fn serve_agent(_: &Config, _: impl Future<Output = ()>) -> Result<(), Vec<Diagnostic>> {
    Err(vec![not_built("agent")])
}

#[cfg(not(feature = "full"))]
async fn serve_plane(
    roles: &[Role],
    _: &Config,
    _: impl Future<Output = ()>,
) -> Result<(), Vec<Diagnostic>> {
    Err(roles.iter().map(|r| not_built(r.as_str())).collect())
}

/// A role that this program was built without.
#[cfg(not(feature = "full"))]
fn not_built(role: &str) -> Diagnostic {
    Diagnostic::error(9211, format!("this program has no role `{role}`"))
        .cause(format!("it was built as {}", super::VERSION))
        .help("use the full program for it: `palisade --version` ends with `(full)`")
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
