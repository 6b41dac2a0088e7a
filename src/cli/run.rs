//! `palisade run`: a role, until it is told to end.

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use super::{Context, Exit, block_on};
use crate::{
    config::Config,
    net::parent,
    notify::Notify,
    render::{self, Output},
    run::{self, Role, Signals},
};
#[cfg(feature = "proxy")]
use crate::{
    net::inherited::Inherited,
    run::proxy::{Launch, Start, Turn},
};

#[cfg(feature = "proxy")]
mod child;

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
    #[command(flatten)]
    set: super::config::Set,
    /// What to log: a level, or directives such as `palisade_proxy=debug`.
    #[arg(long, env = "PALISADE_LOG", default_value = "info", value_parser = directives)]
    log: String,
    /// Command to run beside the proxy once it is ready, after `--`. The proxy ends with
    /// it, and with its exit code.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
    /// File with a join token, for an agent on a host that has not joined yet.
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
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
    let read = |over| Config::read_over(&args.config, &over);
    let config = match args.set.overrides().and_then(read) {
        Ok((config, _)) => with_token_file(config, args.join_token_file.as_deref()),
        Err(found) => {
            render::diagnostics(context.output, &found);
            return Exit::Invalid;
        }
    };
    if !args.command.is_empty() && args.role != Which::Proxy {
        let only = Diagnostic::error(9212, "a command runs beside a proxy only")
            .help("palisade run proxy -- COMMAND");
        return render::failure(context.output, &only, Exit::Invalid);
    }
    match block_on(serve(args, &config)) {
        Ok(0) => Exit::Ok,
        // The code of the command that ran beside the proxy, whatever it means.
        Ok(code) => std::process::exit(code),
        Err(found) => {
            render::diagnostics(context.output, &found);
            found.first().map_or(Exit::Failed, Exit::of)
        }
    }
}

/// The option wins over the file: whoever types it means it.
fn with_token_file(mut config: Config, file: Option<&Path>) -> Config {
    if let Some(file) = file {
        let agent = config.agent.get_or_insert_default();
        let join = agent.join.get_or_insert_default();
        join.token_file = Some(file.to_path_buf());
    }
    config
}

/// Runs the role until it is told to end; gives the exit code to end with.
async fn serve(args: &Args, config: &Config) -> Result<i32, Vec<Diagnostic>> {
    let told = Told {
        signals: Signals::heard().map_err(|d| vec![d])?,
        end_with_parent: args.end_with_parent,
    };
    match args.role {
        Which::Proxy => serve_proxy(args, config, told).await,
        Which::Agent => serve_agent(config, told).await,
        Which::All => serve_plane(&Role::ALL, config, told).await,
        Which::Audit => serve_plane(&[Role::Audit], config, told).await,
        Which::Ca => serve_plane(&[Role::Ca], config, told).await,
        Which::Pdp => serve_plane(&[Role::Pdp], config, told).await,
    }
}

/// What tells this process to end.
struct Told {
    signals: Signals,
    end_with_parent: bool,
}

impl Told {
    async fn end(&mut self) {
        tokio::select! {
            () = self.signals.end() => {}
            () = parent::ended(self.end_with_parent) => {}
        }
    }
}

/// Ends early when told so while it waits for what it needs to start.
async fn started<T>(
    role: impl Future<Output = Result<T, Vec<Diagnostic>>>,
    told: &mut Told,
) -> Result<Option<T>, Vec<Diagnostic>> {
    tokio::select! {
        role = role => role.map(Some),
        () = told.end() => Ok(None),
    }
}

/// Tells the service manager once `ready` resolves, and gives signs of life until
/// `told`.
async fn serving(ready: impl Future<Output = ()>, told: impl Future<Output = ()>) {
    let notify = Notify::from_environment();
    // Asked for at once: without it the signal would end the process.
    let hang_ups = signal(SignalKind::hangup());
    let at_work = async {
        notify.status("waiting for what it needs");
        ready.await;
        notify.ready("serving");
        tokio::join!(notify.watchdog(), answer(hang_ups, &notify));
    };
    tokio::select! {
        () = at_work => {}
        () = told => {}
    }
    notify.stopping();
}

/// Answers SIGHUP. Policy and certificates are followed without being told; what else
/// the file says is read at the start.
async fn answer(hang_ups: io::Result<Signal>, notify: &Notify) {
    let Ok(mut hang_ups) = hang_ups else { return };
    while hang_ups.recv().await.is_some() {
        notify.reloading();
        tracing::warn!("told to read the configuration again, which takes a restart");
        notify.ready("serving; a changed configuration takes a restart");
    }
}

/// One proxy, which may take the place of another process and be replaced by one. With
/// a command beside it, it lives as long as that.
#[cfg(feature = "proxy")]
async fn serve_proxy(args: &Args, config: &Config, mut told: Told) -> Result<i32, Vec<Diagnostic>> {
    let start = Start {
        inherited: Inherited::take().map_err(|d| vec![d])?,
        file: Some(args.config.clone()),
        // A successor would not end with the parent, nor with the command.
        launch: match args.end_with_parent || !args.command.is_empty() {
            true => None,
            false => Launch::of_this_process(),
        },
        overrides: args.set.overrides()?,
    };
    let proxy = run::proxy::start_as(config, Clock::system(), start);
    let Some(mut proxy) = started(proxy, &mut told).await? else {
        return Ok(0);
    };
    tracing::info!("ready");
    if args.command.is_empty() {
        return run_proxy(proxy, told).await;
    }
    let ready = proxy.ready();
    let environment = proxy.environment(config);
    let mut deadline = None;
    let told = async {
        tokio::select! {
            () = told.end() => {}
            given = proxy.told_to_drain() => deadline = given,
        }
    };
    let mut told = Box::pin(told);
    let ready = tokio::select! {
        () = ready => true,
        () = &mut told => false,
    };
    let ended = match ready {
        true => {
            let command = child::run(&args.command, &environment, &mut told);
            let beside = serving(std::future::ready(()), std::future::pending());
            tokio::select! {
                ended = command => ended,
                () = beside => Ok(0),
            }
        }
        false => Ok(0),
    };
    drop(told);
    proxy.end_within(deadline).await;
    ended.map_err(|d| vec![d])
}

/// Runs a proxy until it ends, and tells the service manager how it stands. It answers
/// signals by itself.
#[cfg(feature = "proxy")]
async fn run_proxy(proxy: run::proxy::ProxyRole, told: Told) -> Result<i32, Vec<Diagnostic>> {
    let notify = Notify::from_environment();
    let ready = proxy.ready();
    let signs = async {
        notify.status("waiting for what it needs");
        ready.await;
        notify.ready("serving");
        notify.watchdog().await;
    };
    let parent = parent::ended(told.end_with_parent);
    let running = proxy.run(told.signals, parent, |turn| match turn {
        Turn::Reloading => notify.reloading(),
        Turn::Reloaded => notify.ready("serving"),
        Turn::TookOver(pid) => notify.succeeded(pid),
    });
    let ended = tokio::select! {
        ended = running => ended,
        () = signs => std::future::pending().await,
    };
    notify.stopping();
    let ended = ended.map_err(|e| vec![run::unbound("signal handler", &e)])?;
    tracing::info!(?ended, "ended");
    Ok(0)
}

#[cfg(feature = "agent")]
async fn serve_agent(config: &Config, mut told: Told) -> Result<i32, Vec<Diagnostic>> {
    let agent = run::agent::alone(config, Clock::system());
    let Some(agent) = started(agent, &mut told).await? else {
        return Ok(0);
    };
    tracing::info!("ready");
    serving(agent.ready(), told.end()).await;
    agent.end().await;
    Ok(0)
}

#[cfg(feature = "full")]
async fn serve_plane(
    roles: &[Role],
    config: &Config,
    mut told: Told,
) -> Result<i32, Vec<Diagnostic>> {
    let plane = run::control_plane(config, roles, Clock::system());
    let Some(plane) = started(plane, &mut told).await? else {
        return Ok(0);
    };
    tracing::info!("ready");
    serving(std::future::ready(()), told.end()).await;
    plane.end().await;
    Ok(0)
}

#[cfg(not(feature = "proxy"))]
async fn serve_proxy(_: &Args, _: &Config, _: Told) -> Result<i32, Vec<Diagnostic>> {
    Err(vec![not_built("proxy")])
}

#[cfg(not(feature = "agent"))]
async fn serve_agent(_: &Config, _: Told) -> Result<i32, Vec<Diagnostic>> {
    Err(vec![not_built("agent")])
}

#[cfg(not(feature = "full"))]
async fn serve_plane(roles: &[Role], _: &Config, _: Told) -> Result<i32, Vec<Diagnostic>> {
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
