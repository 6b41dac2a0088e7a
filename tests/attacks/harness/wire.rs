//! A connection to a door of the proxy: TCP, or TLS with an identity.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use palisade_mesh::{spiffe_id::SpiffeId, svid::Identity};
use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use socket2::{Domain, Type};

use super::PATIENCE;

/// A connection that bounds every read.
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    /// In clear text.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self::Plain(tcp(address))
    }

    /// As `identity`, to a server that is `server`, offering `alpn`.
    pub(crate) fn tls(
        address: SocketAddr,
        identity: &Identity,
        server: &SpiffeId,
        alpn: &[u8],
    ) -> Self {
        let config = identity.client_config(std::slice::from_ref(server), &[alpn]);
        let name = ServerName::IpAddress(address.ip().into());
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        Self::Tls(Box::new(StreamOwned::new(session, tcp(address))))
    }

    /// As `identity` over HTTP/1.1, from another address of loopback.
    pub(crate) fn tls_from(
        source: Ipv4Addr,
        address: SocketAddr,
        identity: &Identity,
        server: &SpiffeId,
    ) -> Self {
        let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        let config = identity.client_config(std::slice::from_ref(server), &[b"http/1.1"]);
        let name = ServerName::IpAddress(address.ip().into());
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        Self::Tls(Box::new(StreamOwned::new(session, bounded(socket.into()))))
    }

    /// The socket below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &tls.sock,
        }
    }

    /// Bounds every read from now on.
    pub(crate) fn patience(&self, limit: Duration) {
        self.tcp().set_read_timeout(Some(limit)).unwrap();
    }

    /// Says that no more bytes follow.
    pub(crate) fn half_close(&self) {
        let _ = self.tcp().shutdown(Shutdown::Write);
    }

    /// Reads until the other end closes; a reset or a missing farewell of TLS is an
    /// end like any other. The second value is false if the patience ran out first.
    pub(crate) fn read_to_close(&mut self) -> (Vec<u8>, bool) {
        let (mut received, mut chunk) = (Vec::new(), [0; 16 * 1024]);
        loop {
            match self.read(&mut chunk) {
                Ok(0) => return (received, true),
                Ok(n) => received.extend_from_slice(&chunk[..n]),
                Err(e) if is_timeout(&e) => return (received, false),
                Err(_) => return (received, true),
            }
        }
    }
}

/// Whether a read was given up for want of bytes.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn tcp(address: SocketAddr) -> TcpStream {
    bounded(TcpStream::connect(address).unwrap())
}

fn bounded(tcp: TcpStream) -> TcpStream {
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.set_write_timeout(Some(PATIENCE)).unwrap();
    tcp
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buf),
            Self::Tls(tls) => tls.read(buf),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(buf),
            Self::Tls(tls) => tls.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}
