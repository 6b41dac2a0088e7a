//! The kill list, passed on to processes on this host.
//!
//! Served beside the Workload API, under the same header rule and the same limits. Who
//! is barred is no secret, and nobody here can change it: it is signed by the authority.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use palisade_mesh::wire::kill::{SignedKillList, WatchRequest, kill_server::Kill};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::{
    Desk,
    connection::Caller,
    tally::Tally,
    workload_api::{check_header, uid_of},
};

/// The newest signed list; `None` before the first.
pub(super) type Signed = watch::Receiver<Option<Arc<SignedKillList>>>;

/// Answers local processes.
pub(super) struct KillService {
    desk: Arc<Desk>,
    streams: Tally,
    signed: Signed,
}

impl KillService {
    pub(super) fn new(desk: Arc<Desk>, streams: Tally, signed: Signed) -> Self {
        Self {
            desk,
            streams,
            signed,
        }
    }
}

#[tonic::async_trait]
impl Kill for KillService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<SignedKillList, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        check_header(&request)?;
        let caller = request
            .extensions()
            .get::<Caller>()
            .ok_or_else(|| Status::internal("bug: connection without a caller"))?;
        let slot = self
            .streams
            .take(uid_of(caller))
            .ok_or_else(|| Status::unavailable("user holds too many streams"))?;
        let stop = self.desk.stop.clone();
        let lists = WatchStream::new(self.signed.clone())
            .filter_map(move |list| {
                let _held = &slot;
                std::future::ready(list.map(|list| Ok((*list).clone())))
            })
            .take_until(stop.cancelled_owned());
        Ok(Response::new(Box::pin(lists)))
    }
}
