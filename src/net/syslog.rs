//! A connection to a syslog receiver: frames over TLS (RFC 5425), one after the other.
//!
//! The protocol has no acknowledgement. What is known is that what has left our send buffer
//! was taken by the receiver's host; the buffer is small, so that little is uncertain.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{getsockopt, setsockopt, sockopt::SndBuf};
use palisade_mesh::diagnostic::Diagnostic;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::web;

/// What stands before the address of a receiver where there could be the name of a file.
pub const SCHEME: &str = "syslog+tls://";
/// Longest time until a receiver is connected, and until it takes bytes.
const TIME_MAX: Duration = Duration::from_secs(10);
/// How long the end of a receiver is waited for.
const END_TIME_MAX: Duration = Duration::from_secs(2);
/// How long is looked whether the receiver has something to say, which is its end.
const LOOK: Duration = Duration::from_millis(1);
/// Size of the send buffer that is asked for, bytes; Linux takes twice that.
const SEND_BUFFER: usize = 64 << 10;

/// Where messages go, and who we are there.
#[derive(Clone)]
pub struct Receiver {
    address: String,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

/// The name of the receiver at `HOST:PORT`.
///
/// # Errors
/// `PLS7720` when it is none.
pub fn address(text: &str) -> Result<ServerName<'static>, Diagnostic> {
    let none = || {
        Diagnostic::error(7720, format!("`{text}` is no address of a syslog receiver"))
            .help("write HOST:PORT, as in syslog.acme.test:6514")
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(none)?;
    port.parse::<u16>()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(none)?;
    let host = host.trim_matches(['[', ']']).to_owned();
    ServerName::try_from(host).map_err(|_| none())
}

/// A connection.
pub struct Line {
    stream: StreamOwned<ClientConnection, TcpStream>,
    sent: u64,
    buffer: u64,
}

impl Receiver {
    /// The receiver at `HOST:PORT` under the roots in `ca`, else the system's; with a
    /// client certificate and its key, where it wants one.
    ///
    /// # Errors
    /// `PLS7720` when the address is none, `PLS7722` when a file cannot be used.
    pub fn new(
        address: &str,
        ca: Option<&Path>,
        client: Option<(&Path, &Path)>,
    ) -> Result<Self, Diagnostic> {
        let name = self::address(address)?;
        let builder = ClientConfig::builder().with_root_certificates(web::roots(ca)?);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = CertificateDer::pem_file_iter(cert)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|e| unusable(cert, &e.to_string()))?;
                let key_der = PrivateKeyDer::from_pem_file(key);
                let key_der = key_der.map_err(|e| unusable(key, &e.to_string()))?;
                let config = builder.with_client_auth_cert(chain, key_der);
                config.map_err(|e| unusable(cert, &e.to_string()))?
            }
        };
        Ok(Self {
            address: address.to_owned(),
            name,
            config: Arc::new(config),
        })
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Connects, and shakes hands.
    ///
    /// # Errors
    /// Those of the network, and of a receiver that is not trusted.
    pub fn connect(&self) -> io::Result<Line> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.address.as_str().to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, TIME_MAX) {
                Ok(tcp) => return self.shake(tcp),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn shake(&self, tcp: TcpStream) -> io::Result<Line> {
        tcp.set_nodelay(true)?;
        tcp.set_write_timeout(Some(TIME_MAX))?;
        tcp.set_read_timeout(Some(TIME_MAX))?;
        setsockopt(&tcp, SndBuf, &SEND_BUFFER)?;
        let buffer = getsockopt(&tcp, SndBuf)?;
        let mut session = ClientConnection::new(self.config.clone(), self.name.clone())
            .map_err(io::Error::other)?;
        let mut tcp = tcp;
        while session.is_handshaking() {
            session.complete_io(&mut tcp)?;
        }
        tcp.set_read_timeout(Some(LOOK))?;
        let mut line = Line {
            stream: StreamOwned::new(session, tcp),
            sent: 0,
            buffer: u64::try_from(buffer).unwrap_or(u64::MAX),
        };
        // In TLS 1.3 a refused client hears of it after the handshake.
        line.look()?;
        Ok(line)
    }
}

impl Line {
    /// Sends frames; when this returns they have left this process.
    ///
    /// # Errors
    /// Those of the network; then it is not known what has arrived of these and of what
    /// was sent since [`Line::taken`].
    pub fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.look()?;
        self.stream.write_all(frames)?;
        self.stream.flush()?;
        self.sent += u64::try_from(frames.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Bytes sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes of these that the receiver's host has for certain: all but what fits the send
    /// buffer, in which they are longer than here.
    pub fn taken(&self) -> u64 {
        self.sent.saturating_sub(self.buffer)
    }

    /// Looks whether the receiver is still there. It has nothing to say but its end.
    ///
    /// # Errors
    /// When it is not.
    pub fn look(&mut self) -> io::Result<()> {
        match self.stream.read(&mut [0; 64]) {
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the receiver has closed the connection",
            )),
            Ok(_) => Ok(()),
            Err(e) if is_pause(&e) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Ends in order; whether the receiver has said its own end (`close_notify`), after
    /// which it has taken everything. One that goes without a word may have been cut off.
    ///
    /// # Errors
    /// When it does not end within two seconds, or before it has everything.
    pub fn end(mut self) -> io::Result<bool> {
        self.stream.conn.send_close_notify();
        self.stream.flush()?;
        self.stream.sock.shutdown(std::net::Shutdown::Write)?;
        self.stream.sock.set_read_timeout(Some(END_TIME_MAX))?;
        let mut rest = [0; 256];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return Ok(true),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Ok(_) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn unusable(file: &Path, cause: &str) -> Diagnostic {
    Diagnostic::error(7722, format!("`{}` cannot be used", file.display()))
        .cause(cause)
        .help(
            "`cert` is a PEM file of a certificate and its intermediates, `key` of its private key",
        )
}
