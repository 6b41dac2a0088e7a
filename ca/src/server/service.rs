//! The authority over gRPC, for agents in other processes.

use std::{
    convert::Infallible, fs::DirBuilder, os::unix::fs::DirBuilderExt, path::Path, pin::Pin,
    sync::Arc, time::Duration,
};

use futures_util::{Stream, StreamExt};
use palisade_mesh::wire::ca::{
    Acknowledged, Acknowledgement, AnnounceRequest, AnnounceResponse, IssueRequest, IssueResponse,
    TrustState, WatchRequest,
    authority_server::{Authority, AuthorityServer},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Response, Status,
    transport::{Server, server::UdsConnectInfo},
};

use super::{Ca, enrolment, states::Place};
use crate::{
    issue::Refusal,
    join::refusal::JoinRefusal,
    socket::{Socket, SocketError},
};

/// Largest message accepted, in bytes: a key, a proof and its selectors.
pub(super) const MESSAGE_LEN_MAX: usize = 256 * 1024;
/// How often an idle agent is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long agents may take to end their calls at shutdown.
const GRACE: Duration = Duration::from_millis(500);

/// Answers agents.
pub struct AuthorityService {
    ca: Arc<Ca>,
}

pub(super) fn server(ca: Arc<Ca>) -> AuthorityServer<AuthorityService> {
    AuthorityServer::new(AuthorityService { ca }).max_decoding_message_size(MESSAGE_LEN_MAX)
}

/// Serves agents until `shutdown` resolves. Their streams never end by themselves,
/// so they are cut after a moment.
pub(super) async fn serve(
    ca: Arc<Ca>,
    path: &Path,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), SocketError> {
    if let Some(folder) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| SocketError::Io {
            path: path.to_owned(),
            source,
        })?;
    }
    let incoming = Socket::bind(path, 0o600).await?.incoming();
    let quit = CancellationToken::new();
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_service(server(ca))
        .serve_with_incoming_shutdown(
            incoming.map(Ok::<_, Infallible>),
            quit.clone().cancelled_owned(),
        );
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        () = shutdown => quit.cancel(),
        ended = &mut serving => tracing::error!(?ended, "authority's service ended by itself"),
    }
    if quit.is_cancelled() && tokio::time::timeout(GRACE, serving).await.is_err() {
        tracing::debug!("agents' streams were cut at shutdown");
    }
    Ok(())
}

#[tonic::async_trait]
impl Authority for AuthorityService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<TrustState, Status>> + Send>>;

    async fn issue(
        &self,
        request: Request<IssueRequest>,
    ) -> Result<Response<IssueResponse>, Status> {
        admit(&request)?;
        match self.ca.issue(request.get_ref()).await {
            Ok(response) => Ok(Response::new(response)),
            Err(refusal) => Err(Status::new(code_of(&refusal), refusal.to_string())),
        }
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        admit(&request)?;
        let states = self.ca.states(Place::Local).map(|state| match state {
            Ok(state) => Ok((&state).into()),
            Err(refusal) => Err(enrolment::status(&refusal)),
        });
        Ok(Response::new(Box::pin(states)))
    }

    /// Of a part on this very host, which its agent has attested. What listens on
    /// every address is not known by one here; it is left to the configuration.
    async fn announce(
        &self,
        request: Request<AnnounceRequest>,
    ) -> Result<Response<AnnounceResponse>, Status> {
        admit(&request)?;
        let asked = request.get_ref();
        let malformed = |what| enrolment::status(&JoinRefusal::Malformed(what));
        let role = asked.role.parse().map_err(|()| malformed("role"))?;
        let address = asked.address.parse().map_err(|_| malformed("address"))?;
        let announced = self.ca.announce_local(role, address, None).await;
        announced.map_err(|refusal| enrolment::status(&refusal))?;
        Ok(Response::new(AnnounceResponse {}))
    }

    async fn acknowledge(
        &self,
        request: Request<Acknowledgement>,
    ) -> Result<Response<Acknowledged>, Status> {
        admit(&request)?;
        let taken = self.ca.acknowledge(request.into_inner());
        taken.map_err(|e| Status::resource_exhausted(e.to_string()))?;
        Ok(Response::new(Acknowledged {}))
    }
}

/// Lets in who reached the socket as our own user or root. A connection of any
/// other kind proves nothing about its peer and is refused.
fn admit<T>(request: &Request<T>) -> Result<(), Status> {
    let uid = request
        .extensions()
        .get::<UdsConnectInfo>()
        .and_then(|info| info.peer_cred)
        .map(|peer| peer.uid());
    if uid.is_some_and(|uid| uid == 0 || uid == nix::unistd::geteuid().as_raw()) {
        return Ok(());
    }
    tracing::warn!(src.uid = uid, "caller of the authority refused");
    Err(Status::permission_denied(
        "caller may not ask for identities",
    ))
}

pub(super) fn code_of(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::Id(_)
        | Refusal::KeyType
        | Refusal::Proof
        | Refusal::Selector(_)
        | Refusal::TooLarge => Code::InvalidArgument,
        Refusal::AuthorityKey
        | Refusal::Barred(_)
        | Refusal::KeyBound
        | Refusal::NotAttested(_)
        | Refusal::OtherNode(_)
        | Refusal::Unregistered(_)
        | Refusal::WrongTrustDomain(_) => Code::PermissionDenied,
        Refusal::Faulty(_) | Refusal::FaultyChain(_) | Refusal::Mint(_) => Code::Internal,
        Refusal::NoAuthority
        | Refusal::Store(_)
        | Refusal::TtlPastIssuer(_)
        | Refusal::Unrecorded(_) => Code::Unavailable,
    }
}
