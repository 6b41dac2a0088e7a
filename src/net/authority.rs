//! A node's way to the authority: to its two doors behind one address.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use hyper_util::rt::TokioIo;
use palisade_ca::agent::node::{Doors, Met};
use palisade_mesh::{
    clock::Clock,
    spiffe_id::SpiffeId,
    svid::{Identity, unproven_client_config},
};
use rustls_pki_types::ServerName;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{
    ties::Ties,
    tls::{self, HANDSHAKE_TIMEOUT},
};

/// ALPN of the door for hosts that have no identity.
pub(super) const ENROL: &[u8] = b"palisade-enrol";

/// A node's way to the authority.
pub struct ToAuthority {
    clock: Clock,
}

impl ToAuthority {
    /// With this clock for TLS.
    pub fn new(clock: Clock) -> Self {
        Self { clock }
    }

    async fn shake_hands(
        &self,
        address: &str,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let stream = reach(address).await?;
        let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
        let config = unproven_client_config(&self.clock, &[ENROL]);
        let connector = TlsConnector::from(Arc::new(config));
        timeout(HANDSHAKE_TIMEOUT, connector.connect(name, stream)).await?
    }
}

#[tonic::async_trait]
impl Doors for ToAuthority {
    async fn meet(&self, address: &str) -> Result<Met, String> {
        let stream = self.shake_hands(address).await.map_err(|e| e.to_string())?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain = chain.iter().map(|c| c.clone().into_owned()).collect();
        // What was decided about this connection holds for no other.
        let once = Arc::new(Mutex::new(Some(stream)));
        let connector = tower::service_fn(move |_: Uri| {
            let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                let gone = || io::Error::new(io::ErrorKind::NotConnected, "connection has ended");
                stream.map(TokioIo::new).ok_or_else(gone)
            }
        });
        let channel =
            Endpoint::from_static("http://palisade").connect_with_connector_lazy(connector);
        Ok(Met { channel, chain })
    }

    fn link(&self, address: &str, authority: &SpiffeId, identity: &Identity) -> Channel {
        let (ties, address) = (Ties::new(identity), address.to_owned());
        let authority = authority.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let (ties, address, authority) = (ties.clone(), address.clone(), authority.clone());
            async move {
                let stream = reach(&address).await?;
                let at = stream.peer_addr()?;
                let shaken = tls::shake(&ties, &authority, stream, at).await?;
                Ok::<_, io::Error>(TokioIo::new(shaken))
            }
        });
        Endpoint::from_static("http://palisade")
            .http2_keep_alive_interval(std::time::Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector)
    }
}

/// Connects to the first address of `HOST:PORT` that answers.
async fn reach(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "name has no address");
    for address in timeout(HANDSHAKE_TIMEOUT, lookup_host(address)).await?? {
        match timeout(HANDSHAKE_TIMEOUT, TcpStream::connect(address)).await? {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
