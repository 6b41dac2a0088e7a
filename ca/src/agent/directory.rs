//! Where the parts of the mesh are, for processes on this host.
//!
//! Served beside the Workload API. Reading is open to every local process: addresses
//! are no secret. Announcing is for the part itself, which is attested like any other
//! workload. What was heard last is kept on disk, so that a host starts without the
//! authority.

use std::{path::Path, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use palisade_mesh::wire::agent::{
    Announced, Announcement, Entries, Entry, WatchRequest, directory_server::Directory,
};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::{
    Desk,
    connection::Caller,
    refusals::Refusals,
    tally::{Slot, Tally},
    workload_api::{attested_registrations, check_header, uid_of},
};
use crate::{join::NodeRole, trust::DirectoryEntry};

/// Longest file that is read, in bytes.
const FILE_LEN_MAX: usize = 256 * 1024;

/// Answers local processes.
pub(super) struct DirectoryService {
    desk: Arc<Desk>,
    streams: Tally,
    refusals: Arc<Refusals>,
}

impl DirectoryService {
    pub(super) fn new(desk: Arc<Desk>, streams: Tally, refusals: Arc<Refusals>) -> Self {
        Self {
            desk,
            streams,
            refusals,
        }
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<(Caller, Slot), Status> {
        check_header(request)?;
        let caller = request
            .extensions()
            .get::<Caller>()
            .cloned()
            .ok_or_else(|| Status::internal("bug: connection without a caller"))?;
        let slot = self
            .streams
            .take(uid_of(&caller))
            .ok_or_else(|| Status::unavailable("user holds too many streams"))?;
        Ok((caller, slot))
    }
}

#[tonic::async_trait]
impl Directory for DirectoryService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Entries, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (_, slot) = self.caller(&request)?;
        let stop = self.desk.stop.clone();
        let entries = WatchStream::new(self.desk.directory.subscribe())
            .map(move |entries| {
                let _held = &slot;
                Ok(wire(&entries))
            })
            .take_until(stop.cancelled_owned());
        Ok(Response::new(Box::pin(entries)))
    }

    async fn announce(
        &self,
        request: Request<Announcement>,
    ) -> Result<Response<Announced>, Status> {
        let (caller, _slot) = self.caller(&request)?;
        let asked = request.into_inner();
        let invalid = |_| Status::invalid_argument("role or address cannot be read");
        let role: NodeRole = asked.role.parse().map_err(invalid)?;
        let address = asked.address.parse().map_err(|_| invalid(()))?;
        let own = self.desk.config.trust_domain.role(role.as_str());
        let attested = attested_registrations(&self.desk, &self.refusals, &caller).await?;
        if !attested.iter().any(|r| r.spiffe_id == own) {
            let detail = format!("it announced `{own}` and is not it");
            self.refusals
                .note(&self.desk, "announcement_refused", detail);
            return Err(Status::permission_denied("caller is not what it announces"));
        }
        self.desk.announced().insert(role, address);
        // Said again whenever the authority is reached again.
        if let Err(error) = self.desk.upstream.announce(role, address).await {
            tracing::warn!(role = role.as_str(), %error, "announcement waits for the authority");
        }
        Ok(Response::new(Announced {}))
    }
}

fn wire(entries: &[DirectoryEntry]) -> Entries {
    let entry = |e: &DirectoryEntry| Entry {
        role: e.role.as_str().to_owned(),
        address: e.address.to_string(),
        node: e.node.clone(),
    };
    Entries {
        entries: entries.iter().map(entry).collect(),
    }
}

/// What was heard before; nothing, when there is no file or it cannot be read.
pub(super) fn load(path: &Path) -> Vec<DirectoryEntry> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) if bytes.len() <= FILE_LEN_MAX => bytes,
        _ => return Vec::new(),
    };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "kept directory cannot be read");
        Vec::new()
    })
}

/// Keeps what was heard.
pub(super) fn store(path: &Path, entries: &[DirectoryEntry]) {
    let stored = serde_json::to_vec(entries)
        .map_err(std::io::Error::other)
        .and_then(|bytes| super::node::put(path, &bytes));
    if let Err(error) = stored {
        tracing::warn!(%error, path = %path.display(), "directory is not kept");
    }
}
