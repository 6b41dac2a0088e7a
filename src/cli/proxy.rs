//! `palisade proxy`: one running proxy: how it stands, what it runs, and its end.

use std::path::PathBuf;

use clap::Subcommand;
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};

use super::{Context, Exit, block_on};
use crate::{
    config::EngineChoice,
    control::{
        client::Mesh,
        status::{ProxyConfigStatus, ProxyStatus, ago, ahead},
    },
    render::{self, BAD, GOOD, Output, WARN, paint, snippet},
    run::proxy::{DrainOrder, Ordered, UpgradeOrder},
};

/// Commands of `proxy`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show how a proxy of this host stands.
    Status {
        /// Name of the proxy: `proxy.instance`.
        name: String,
    },
    /// Show the configuration that a proxy runs, and what was refused of the file.
    Config {
        /// Name of the proxy: `proxy.instance`.
        name: String,
    },
    /// End a proxy without losing a request.
    Drain {
        /// Name of the proxy: `proxy.instance`.
        name: String,
        /// How long what is in flight may take, such as `10s`. Default: `proxy.drain.deadline`.
        #[arg(long)]
        deadline: Option<String>,
    },
    /// Replace a proxy by a new process that goes on with its sockets.
    Upgrade {
        /// Name of the proxy: `proxy.instance`.
        name: String,
        /// Binary of the new process. Default: the one that the proxy was started from.
        #[arg(long)]
        binary: Option<PathBuf>,
    },
}

pub(super) fn main(command: &Command, context: &Context) -> Exit {
    let done = match command {
        Command::Status { name } => status(name, context),
        Command::Config { name } => config(name, context),
        Command::Drain { name, deadline } => drain(name, deadline.clone(), context),
        Command::Upgrade { name, binary } => upgrade(name, binary.clone(), context),
    };
    match done {
        Ok(()) => Exit::Ok,
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

fn status(name: &str, context: &Context) -> Result<(), Diagnostic> {
    let status: ProxyStatus = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        mesh.proxy(name)?.get("/v1/proxy/status").await
    })?;
    if context.output == Output::Json {
        render::json(&status);
        return Ok(());
    }
    let clock = Clock::system();
    let standing = match (status.draining, status.stale, status.sequence) {
        (true, ..) => paint(WARN, "draining"),
        (_, true, _) => paint(BAD, "stale"),
        (_, _, 0) => paint(BAD, "no policy"),
        _ => paint(GOOD, "serving"),
    };
    render::line(&format!(
        "{}  {standing}",
        render::strong(snippet::clean(name))
    ));
    render::fact(
        "identity",
        &[
            snippet::clean(&status.spiffe_id),
            format!(
                "certificate ends {}",
                ahead(&clock, status.svid_not_after_s)
            ),
        ],
    );
    let mut policy = vec![format!("revision {}", status.sequence)];
    policy.extend(status.signed.clone());
    policy.extend(status.snapshot_age_s.map(|s| {
        let age = render::duration(std::time::Duration::from_secs(s));
        format!("confirmed {age} ago")
    }));
    policy.extend(status.connected.map(|c| match c {
        true => "PDP connected".to_owned(),
        false => paint(WARN, "PDP not connected"),
    }));
    if status.engine == EngineChoice::Reference {
        policy.push("decided by Cedar's own authorizer".to_owned());
    }
    render::fact("policy", &policy);
    for (what, address) in [
        ("inbound", status.inbound),
        ("outbound", status.outbound),
        ("admin", status.admin),
    ] {
        if let Some(address) = address {
            render::fact(what, &[address.to_string()]);
        }
    }
    render::fact(
        "requests",
        &[
            render::thousands(status.requests),
            format!("{} records wait", render::thousands(status.spooled)),
        ],
    );
    Ok(())
}

fn config(name: &str, context: &Context) -> Result<(), Diagnostic> {
    let config: ProxyConfigStatus = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        mesh.proxy(name)?.get("/v1/proxy/config").await
    })?;
    if context.output == Output::Json {
        render::json(&config);
        return Ok(());
    }
    let clock = Clock::system();
    let file = config.file.as_ref().map(|f| f.display().to_string());
    render::fact(
        "file",
        &[
            snippet::clean(&file.unwrap_or_else(|| "none".to_owned())),
            format!("in force since {}", ago(&clock, config.since_us)),
        ],
    );
    let seconds = |s: f64| {
        let span = std::time::Duration::try_from_secs_f64(s);
        render::duration(span.unwrap_or_default())
    };
    render::fact("stale_after", &[seconds(config.stale_after_s)]);
    render::fact("drain", &[seconds(config.drain_deadline_s)]);
    render::json(&config.listeners);
    if let Some(at) = config.rejected_us {
        render::line(&paint(
            WARN,
            format!(
                "\nthe file was refused {}; the above stays",
                ago(&clock, at)
            ),
        ));
        for problem in config.rejected.into_iter().map(Diagnostic::from) {
            render::line(&snippet::render(&problem));
        }
    }
    Ok(())
}

fn drain(name: &str, deadline: Option<String>, context: &Context) -> Result<(), Diagnostic> {
    let ordered: Ordered = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        let proxy = mesh.proxy(name)?;
        proxy
            .post("/v1/proxy/drain", &DrainOrder { deadline })
            .await
    })?;
    if context.output == Output::Json {
        render::json(&ordered);
        return Ok(());
    }
    render::line(&format!(
        "{} drains: process {} ends when its requests have, in {} at most",
        render::strong(snippet::clean(name)),
        ordered.ends,
        ordered.deadline
    ));
    Ok(())
}

fn upgrade(name: &str, binary: Option<PathBuf>, context: &Context) -> Result<(), Diagnostic> {
    // The other process has a working folder of its own.
    let binary = binary.map(|b| std::path::absolute(&b).unwrap_or(b));
    let ordered: Ordered = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        let proxy = mesh.proxy(name)?;
        proxy
            .post("/v1/proxy/upgrade", &UpgradeOrder { binary })
            .await
    })?;
    if context.output == Output::Json {
        render::json(&ordered);
        return Ok(());
    }
    render::line(&format!(
        "{}: process {} has taken over; {} ends when its requests have, in {} at most",
        render::strong(snippet::clean(name)),
        ordered.goes_on.unwrap_or_default(),
        ordered.ends,
        ordered.deadline
    ));
    Ok(())
}
