//! Where the other parts are, as the configuration of a role means it.

use std::path::PathBuf;

#[cfg(feature = "full")]
use futures_util::StreamExt;
#[cfg(feature = "full")]
use palisade_ca::Ca;
#[cfg(feature = "agent")]
use palisade_ca::{join::NodeRole, trust::DirectoryEntry};
#[cfg(feature = "agent")]
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    net::{
        directory::{self, Directory},
        identity::IdentityConfig,
    },
};
#[cfg(feature = "agent")]
use crate::{config::PartAddress, net::directory::Whereabouts};

/// The agent's socket, as a role with this identity reaches it.
pub(super) fn agent_socket(config: &Config, identity: Option<&IdentityConfig>) -> PathBuf {
    match identity {
        Some(IdentityConfig::WorkloadApi(address)) => address
            .strip_prefix("unix://")
            .map_or_else(|| config.agent_socket(), PathBuf::from),
        _ => config.agent_socket(),
    }
}

/// The whereabouts that `written` means.
#[cfg(feature = "agent")]
pub(super) fn whereabouts(
    written: PartAddress,
    role: NodeRole,
    directory: impl FnOnce() -> Directory,
) -> Whereabouts {
    match written {
        PartAddress::At(address) => Whereabouts::At(address),
        PartAddress::Mesh => Whereabouts::Mesh(role, directory()),
    }
}

/// The directory of the agent on this host.
pub(super) fn of_agent(
    config: &Config,
    identity: Option<&IdentityConfig>,
    stop: &CancellationToken,
) -> Directory {
    directory::follow(agent_socket(config, identity), Vec::new(), stop.clone())
}

/// The directory of the authority in this process.
#[cfg(feature = "full")]
pub(super) fn of_ca(ca: &Ca, stop: &CancellationToken) -> Directory {
    let (sender, receiver) = watch::channel(ca.directory());
    let mut entries = Box::pin(ca.directories());
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        while let Some(next) = entries.next().await {
            if sender.send(next).is_err() {
                return;
            }
        }
    }));
    receiver
}

/// Hands on one directory to whoever waits for another.
#[cfg(feature = "agent")]
pub(super) fn forward(mut from: Directory, to: watch::Sender<Vec<DirectoryEntry>>) {
    tokio::spawn(async move {
        loop {
            let next = from.borrow_and_update().clone();
            if to.send(next).is_err() || from.changed().await.is_err() {
                return;
            }
        }
    });
}
