//! Section `proxy`: one proxy beside an application.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use palisade_mesh::{diagnostic::Diagnostic, spiffe_id::SpiffeId};
use palisade_proxy::config::{AdminConfig, InboundConfig, Limits, OutboundConfig, ProxyConfig};
use serde::Deserialize;

use super::{EngineChoice, PolicyTrust, lifetime};
use crate::net::identity::IdentityConfig;

/// Shortest `proxy.stale_after`.
pub const STALE_AFTER_MIN: Duration = Duration::from_secs(1);

/// Section `proxy`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxySection {
    /// Name of this proxy for people. Default: `proxy`.
    #[serde(default = "default_instance")]
    pub instance: String,
    /// Where its identity comes from.
    pub identity: IdentityConfig,
    /// Which identity to use where the source gives several. Default: the first.
    pub spiffe_id: Option<SpiffeId>,
    /// Where its policy comes from.
    pub policy: PolicySource,
    /// Who must have signed it; nothing that a PDP sends weakens this. Default: nobody.
    pub policy_trust: Option<PolicyTrust>,
    /// Where its records go.
    pub records: RecordTarget,
    /// How it decides. Default: `indexed`.
    #[serde(default)]
    pub engine: EngineChoice,
    /// Worker threads; 0 means one per core. Default: 0.
    #[serde(default)]
    pub workers: usize,
    /// The listener that protects the local application.
    pub inbound: Option<InboundConfig>,
    /// The listener through which the local application calls others.
    pub outbound: Option<OutboundConfig>,
    /// The listener for health, metrics and state.
    pub admin: Option<AdminConfig>,
    /// Limits of connections, requests and times.
    #[serde(default)]
    pub limits: Limits,
    /// How long a snapshot from a PDP may go without its word that it is the newest, at
    /// least 1 s; then every request is undecided. Default: 24 h.
    #[serde(default = "default_stale_after", deserialize_with = "lifetime")]
    pub stale_after: Duration,
    /// How it ends.
    #[serde(default)]
    pub drain: DrainSection,
}

impl ProxySection {
    pub(super) fn check_stale(&self) -> Option<Diagnostic> {
        (self.stale_after < STALE_AFTER_MIN).then(|| {
            let wrong = format!("`stale_after` is `{:?}`, out of range", self.stale_after);
            Diagnostic::error(5306, wrong)
                .cause("the PDP confirms the snapshot every few seconds, not all the time")
                .help("allowed: 1s or more")
        })
    }

    pub(super) fn check_stamp_age(&self) -> Option<Diagnostic> {
        let demanded = self.policy_trust.as_ref()?.stamp_age?;
        matches!(self.policy, PolicySource::Folder(_)).then(|| {
            let wrong =
                format!("`policy_trust.stamp_age` is `{demanded:?}`, and nobody brings stamps");
            Diagnostic::error(3116, wrong)
                .cause(
                    "a proxy that reads policy from its own disk has no PDP to say what is newest",
                )
                .help("take it out, or follow a PDP: `policy: { pdp: … }`")
        })
    }

    /// What of it asks for a proxy without a control plane, which only the `full` program
    /// can be.
    pub(crate) fn check_alone(&self, full: bool) -> Vec<Diagnostic> {
        let alone = [
            (
                "policy: { folder: … }",
                matches!(self.policy, PolicySource::Folder(_)),
            ),
            (
                "records: { log: … }",
                matches!(self.records, RecordTarget::Log(_)),
            ),
        ];
        let asked = alone.into_iter().filter(|(_, asked)| *asked && !full);
        asked
            .map(|(key, _)| {
                Diagnostic::error(9213, format!("this program has no part for `{key}`"))
                    .cause("it is a slim build, which runs beside workloads and follows a control plane")
                    .help("run the proxy with the full program, or name `mesh` or the address of a PDP and of an audit service")
            })
            .collect()
    }

    /// The part of it that the proxy itself reads.
    pub fn listeners(&self, demo: bool) -> ProxyConfig {
        ProxyConfig {
            workers: self.workers,
            inbound: self.inbound.clone(),
            outbound: self.outbound.clone(),
            admin: self.admin.clone(),
            limits: self.limits.clone(),
            demo,
        }
    }
}

/// Section `proxy.drain`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainSection {
    /// How long what is in flight may take when the proxy ends; then it is cut.
    /// Default: 30 s.
    #[serde(default = "default_drain_deadline", deserialize_with = "lifetime")]
    pub deadline: Duration,
}

impl Default for DrainSection {
    fn default() -> Self {
        Self {
            deadline: default_drain_deadline(),
        }
    }
}

/// Where a proxy's policy comes from; exactly one of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicySource {
    /// The PDP that the directory names.
    Mesh,
    /// A policy repository on this machine; watched.
    Folder(PathBuf),
    /// Address of a PDP.
    Pdp(SocketAddr),
}

/// Where records go; exactly one of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordTarget {
    /// The audit service that the directory names; through a spool.
    Mesh,
    /// Address of an audit service; records wait in a spool on disk until it has them.
    Audit(SocketAddr),
    /// A log of its own in this folder.
    Log(PathBuf),
}

fn default_stale_after() -> Duration {
    Duration::from_secs(24 * 3600)
}

fn default_drain_deadline() -> Duration {
    Duration::from_secs(30)
}

fn default_instance() -> String {
    "proxy".into()
}
