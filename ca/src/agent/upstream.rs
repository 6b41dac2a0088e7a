//! Where the agent gets trust and certificates from.

use std::{net::SocketAddr, pin::Pin};

use futures_util::{Stream, StreamExt};
use palisade_mesh::wire::ca::{
    Acknowledgement, AnnounceRequest, IssueRequest, IssueResponse, WatchRequest,
    authority_client::AuthorityClient,
};
use tonic::{Status, transport::Channel};

use crate::{
    join::NodeRole,
    selector::Selector,
    trust::{TrustState, TrustStateError},
};

/// Largest message accepted from the authority, in bytes: a trust state with every
/// registration there may be.
const MESSAGE_LEN_MAX: usize = 64 * 1024 * 1024;

/// Trust states, the present one first, each complete.
pub type States = Pin<Box<dyn Stream<Item = Result<TrustState, UpstreamError>> + Send>>;

/// An authority, near or far.
#[tonic::async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Asks for a certificate.
    ///
    /// # Errors
    /// When it is refused or the authority cannot be reached.
    async fn issue(&self, request: IssueRequest) -> Result<IssueResponse, UpstreamError>;

    /// Follows the trust state; `held` is the sequence the agent has.
    ///
    /// # Errors
    /// When the authority cannot be reached.
    async fn watch(&self, held: u64) -> Result<States, UpstreamError>;

    /// Says where a part of the mesh on this host is.
    ///
    /// # Errors
    /// When it is refused or the authority cannot be reached.
    async fn announce(&self, role: NodeRole, address: SocketAddr) -> Result<(), UpstreamError> {
        let _ = (role, address);
        Err(UpstreamError::Refused("it keeps no directory".into()))
    }
    /// Tells what this agent and its workloads hold.
    ///
    /// # Errors
    /// When the authority cannot be reached or does not take it.
    async fn acknowledge(&self, word: Acknowledgement) -> Result<(), UpstreamError>;
}

/// Why the authority did not answer as hoped.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// It tells an older state than before.
    #[error(
        "authority went back from trust state {} of epoch {} to {} of epoch {}; a copy of its folder was put back: use `palisade ca restore`",
        held.1, held.0, offered.1, offered.0
    )]
    Backwards {
        /// Epoch and sequence that the agent has.
        held: (u64, u64),
        /// Epoch and sequence that were sent.
        offered: (u64, u64),
    },
    /// The stream ended.
    #[error("authority closed the stream")]
    Ended,
    /// It tells another state under the same number.
    #[error(
        "authority tells two different trust states {} of epoch {}; two copies of one folder are at work",
        .0.1, .0.0
    )]
    Forked((u64, u64)),
    /// It sent something that makes no sense.
    #[error(transparent)]
    Invalid(#[from] TrustStateError),
    /// It refused, in process.
    #[error("authority refused: {0}")]
    Refused(String),
    /// It refused or could not be reached, over gRPC.
    #[error("authority answered {}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    /// It speaks for somebody else.
    #[error("authority speaks for trust domain `{0}`")]
    TrustDomain(String),
}

impl UpstreamError {
    /// Whether the authority was heard, and not believed.
    pub(super) fn is_distrust(&self) -> bool {
        matches!(
            self,
            Self::Backwards { .. } | Self::Forked(_) | Self::Invalid(_) | Self::TrustDomain(_)
        )
    }
}

impl From<Status> for UpstreamError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// An authority in another process; the channel is the caller's to make, so it
/// decides on socket, credentials and reconnecting.
#[derive(Debug, Clone)]
pub struct Remote {
    client: AuthorityClient<Channel>,
    role_selectors: Vec<String>,
}

impl Remote {
    /// Uses `channel`.
    pub fn new(channel: Channel) -> Self {
        let client = AuthorityClient::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX);
        Self {
            client,
            role_selectors: Vec::new(),
        }
    }

    /// Says what a process of the mesh's own program shows on this host; the
    /// authority of a joined node registers the roles it was given by that.
    #[must_use]
    pub fn showing(mut self, selectors: &[Selector]) -> Self {
        self.role_selectors = selectors.iter().map(Selector::to_string).collect();
        self
    }
}

#[tonic::async_trait]
impl Upstream for Remote {
    async fn issue(&self, request: IssueRequest) -> Result<IssueResponse, UpstreamError> {
        Ok(self.client.clone().issue(request).await?.into_inner())
    }

    async fn watch(&self, held: u64) -> Result<States, UpstreamError> {
        let request = WatchRequest {
            bundle_sequence: held,
            role_selectors: self.role_selectors.clone(),
        };
        let states = self.client.clone().watch(request).await?.into_inner();
        Ok(Box::pin(states.map(|state| Ok(state?.try_into()?))))
    }

    async fn announce(&self, role: NodeRole, address: SocketAddr) -> Result<(), UpstreamError> {
        let request = AnnounceRequest {
            role: role.as_str().to_owned(),
            address: address.to_string(),
        };
        self.client.clone().announce(request).await?;
        Ok(())
    }

    async fn acknowledge(&self, word: Acknowledgement) -> Result<(), UpstreamError> {
        self.client.clone().acknowledge(word).await?;
        Ok(())
    }
}

#[cfg(feature = "server")]
mod near {
    use std::sync::Arc;

    use super::{
        Acknowledgement, IssueRequest, IssueResponse, NodeRole, SocketAddr, States, StreamExt,
        Upstream, UpstreamError,
    };
    use crate::server::{Ca, Place};

    #[tonic::async_trait]
    impl Upstream for Arc<Ca> {
        async fn issue(&self, request: IssueRequest) -> Result<IssueResponse, UpstreamError> {
            Ca::issue(self, &request)
                .await
                .map_err(|refusal| UpstreamError::Refused(refusal.to_string()))
        }

        async fn watch(&self, _: u64) -> Result<States, UpstreamError> {
            let states = self.states(Place::Local);
            Ok(Box::pin(states.map(|state| {
                state.map_err(|refusal| UpstreamError::Refused(refusal.to_string()))
            })))
        }

        async fn announce(&self, role: NodeRole, address: SocketAddr) -> Result<(), UpstreamError> {
            self.announce_local(role, address, None)
                .await
                .map_err(|refusal| UpstreamError::Refused(refusal.to_string()))
        }

        async fn acknowledge(&self, word: Acknowledgement) -> Result<(), UpstreamError> {
            Ca::acknowledge(self, word)
                .map_err(|refusal| UpstreamError::Refused(refusal.to_string()))
        }
    }
}
