//! Opening a connection upstream, within one time limit for all its steps.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use palisade_mesh::svid::{PeerError, peer_of_chain};
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{UpstreamError, h2::Mutual};
use crate::connection::{Proof, Revocation};

/// How long sent bytes may go unacknowledged before the kernel gives the
/// connection up; without it a vanished host is noticed only by request timeouts.
const UNACKED_MAX: Duration = Duration::from_secs(20);

/// Connects to `address`.
pub(super) async fn tcp(address: SocketAddr) -> Result<TcpStream, UpstreamError> {
    let stream = TcpStream::connect(address).await.map_err(|error| {
        tracing::debug!(upstream = %address, %error, "cannot connect upstream");
        UpstreamError::Unreachable
    })?;
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKED_MAX));
    #[cfg(not(target_os = "linux"))]
    let _ = (SockRef::from(&stream), UNACKED_MAX);
    Ok(stream)
}

/// Connects to `address`, has it prove one of the identities that are expected
/// there, and agrees on `protocol`.
pub(super) async fn tls(
    address: SocketAddr,
    security: &Mutual,
    protocol: &[u8],
) -> Result<(TlsStream<TcpStream>, Proof), UpstreamError> {
    let tcp = tcp(address).await?;
    let (config, witness) = security.identity.client_session(&security.ids, &[protocol]);
    // The name is not looked at: the verifier knows the identity, SNI is off.
    let name = ServerName::from(address.ip());
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .map_err(|error| blame(address, &error))?;
    let (_, session) = stream.get_ref();
    let peer = peer_of_chain(session.peer_certificates().unwrap_or_default())
        .map_err(|_| UpstreamError::PeerIdentity)?;
    let foundation = witness.foundation().ok_or(UpstreamError::PeerIdentity)?;
    let proof = Proof { peer, foundation };
    if let Some(why) = security.revoked(&proof) {
        tracing::warn!(upstream = %address, ?why, "endpoint is trusted no more");
        return Err(UpstreamError::PeerIdentity);
    }
    if session.alpn_protocol() != Some(protocol) {
        tracing::warn!(upstream = %address, "endpoint does not speak our protocol");
        return Err(UpstreamError::Unreachable);
    }
    Ok((stream, proof))
}

impl Mutual {
    /// Why an endpoint may hold no connection of ours any more.
    pub(super) fn revoked(&self, proof: &Proof) -> Option<Revocation> {
        if !self.identity.trusts(&proof.foundation) {
            return Some(Revocation::Untrusted);
        }
        let live = self.policy.load();
        let reason = live.as_ref()?.snapshot().barred(&proof.facts())?;
        Some(Revocation::Barred(reason))
    }
}

fn blame(address: SocketAddr, error: &std::io::Error) -> UpstreamError {
    if let Some(reason) = PeerError::of_handshake(error) {
        tracing::warn!(upstream = %address, %reason, "endpoint did not prove the expected identity");
        return UpstreamError::PeerIdentity;
    }
    if is_alert(error) {
        return UpstreamError::PeerRefusedUs;
    }
    tracing::debug!(upstream = %address, %error, "handshake failed");
    UpstreamError::Unreachable
}

/// Whether the peer ended the session with a TLS alert. In TLS 1.3 a refused
/// client learns of it with its first read, after the handshake succeeded.
pub(crate) fn is_alert(error: &std::io::Error) -> bool {
    error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>())
        .is_some_and(|e| matches!(e, rustls::Error::AlertReceived(_)))
}
