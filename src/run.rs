//! Wires roles together: what each needs, it gets here.
//!
//! `control_plane` runs any of ca, agent, pdp and audit in one process; `agent` and
//! `proxy` run one of these beside workloads, also in a build without the rest. All
//! answer on the local socket and end when told.

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{config::Config, control::About};

#[cfg(feature = "full")]
pub(crate) mod access;
#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "full")]
pub mod audit;
#[cfg(feature = "full")]
pub mod authority;
#[cfg(feature = "full")]
mod decisions;
#[cfg(any(feature = "agent", feature = "proxy"))]
#[cfg(feature = "agent")]
mod joining;
mod keeping;
#[cfg(feature = "full")]
pub mod kill;
#[cfg(feature = "agent")]
mod link;
#[cfg(feature = "full")]
mod links;
#[cfg(feature = "full")]
pub mod network;
#[cfg(feature = "full")]
pub mod pdp;
mod places;
#[cfg(feature = "full")]
mod plane;
#[cfg(feature = "proxy")]
pub mod policy;
#[cfg(feature = "proxy")]
pub mod proxy;
#[cfg(feature = "agent")]
mod records;
#[cfg(feature = "full")]
mod revisions;
#[cfg(feature = "full")]
pub mod rollout;
#[cfg(feature = "full")]
mod rotation;
#[cfg(feature = "full")]
mod sources;
#[cfg(feature = "full")]
mod tokens;
mod unheard;

#[cfg(feature = "full")]
pub(crate) use self::{
    authority::ca_config,
    rotation::{RotateOrder, authority as authority_status},
};

#[cfg(feature = "full")]
pub use plane::{ControlPlane, control_plane};

/// A role of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Keeps the log; first, so that the others can leave records.
    Audit,
    /// Issues certificates.
    Ca,
    /// Serves the Workload API.
    Agent,
    /// Compiles and distributes policy.
    Pdp,
}

impl Role {
    /// All of them, in the order they are started.
    pub const ALL: [Self; 4] = [Self::Audit, Self::Ca, Self::Agent, Self::Pdp];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Audit => "audit",
            Self::Ca => "ca",
            Self::Pdp => "pdp",
        }
    }
}

#[cfg(feature = "proxy")]
fn section<'c, T>(section: Option<&'c T>, name: &str) -> Result<&'c T, Vec<Diagnostic>> {
    section.ok_or_else(|| vec![no_section(name)])
}

/// A role whose section is missing.
pub(crate) fn no_section(name: &str) -> Diagnostic {
    Diagnostic::error(8010, format!("the configuration has no section `{name}`")).help(format!(
        "add one: palisade config init {name} shows every key"
    ))
}

/// What this process tells about itself.
pub(crate) fn about(config: &Config, roles: &[&str], clock: &Clock) -> About {
    About {
        mesh: config.mesh_name().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        roles: roles.iter().map(|r| (*r).to_owned()).collect(),
        demo: config.demo,
        started_us: clock.now_us(),
    }
}

/// A listener or socket that cannot be had.
pub(crate) fn unbound(what: &str, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error(8011, format!("{what} cannot be opened"))
        .cause(error.to_string())
        .help("see who uses it, or configure another one")
}

/// A spool or log that cannot be opened.
fn unusable(cause: &str) -> Diagnostic {
    Diagnostic::error(7201, "records cannot be kept")
        .cause(cause.to_owned())
        .help("make the folder writable for this user, and see that no other process uses it")
}

/// Signals that end a process: SIGTERM and SIGINT. They are heard from when this is made on, so
/// that none is lost between one who waits for them and the next.
pub struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to hear them.
    ///
    /// # Errors
    /// When they cannot be received.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The same.
    ///
    /// # Errors
    /// `PLS8011` when they cannot be received.
    pub(crate) fn heard() -> Result<Self, Diagnostic> {
        Self::new().map_err(|e| unbound("signal handler", &e))
    }

    /// Resolves on the next one.
    pub async fn end(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
