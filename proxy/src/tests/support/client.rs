//! Callers: one that speaks HTTP properly, one that writes any bytes.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use palisade_mesh::svid::Identity;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{id, soon};

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) trailers: HeaderMap,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub(crate) async fn read(response: http::Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let collected = soon(body.collect()).await.expect("whole body");
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8_lossy(&collected.to_bytes()).into_owned(),
            trailers,
        }
    }

    /// Reads what a connection held until it was closed.
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let status = lines.next().unwrap_or_default().split(' ').nth(1);
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|l| l.split_once(':')) {
            let name = http::HeaderName::try_from(name).unwrap();
            headers.append(name, value.trim().parse().unwrap());
        }
        Self {
            status: status.and_then(|s| s.parse().ok()).unwrap_or(0),
            headers,
            body: body.to_owned(),
            trailers: HeaderMap::new(),
        }
    }
}

/// One connection, HTTP/1.1 or HTTP/2.
pub(crate) enum Client {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub(crate) async fn h1(address: SocketAddr, identity: &Identity) -> Self {
        let stream = tls(address, identity, b"http/1.1").await.unwrap();
        Self::h1_over(stream).await
    }

    pub(crate) async fn h2(address: SocketAddr, identity: &Identity) -> Self {
        let stream = tls(address, identity, b"h2").await.unwrap();
        Self::h2_over(stream).await
    }

    pub(crate) async fn plain_h1(address: SocketAddr) -> Self {
        Self::h1_over(TcpStream::connect(address).await.unwrap()).await
    }

    pub(crate) async fn plain_h2(address: SocketAddr) -> Self {
        Self::h2_over(TcpStream::connect(address).await.unwrap()).await
    }

    async fn h1_over<S>(stream: S) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Self::H1(sender)
    }

    /// One that takes no more than `window` bytes of a body that nobody reads.
    pub(crate) async fn h2_with_window(
        address: SocketAddr,
        identity: &Identity,
        window: u32,
    ) -> Self {
        let stream = tls(address, identity, b"h2").await.unwrap();
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window);
        Self::h2_built(builder, stream).await
    }

    async fn h2_over<S>(stream: S) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        Self::h2_built(http2::Builder::new(TokioExecutor::new()), stream).await
    }

    async fn h2_built<S>(builder: http2::Builder<TokioExecutor>, stream: S) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::H2(sender)
    }

    /// A request without a body and with more fields.
    pub(crate) fn request(&self, path: &str, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
        let mut builder = Request::builder();
        builder = match self {
            Self::H1(_) => builder.uri(path).header("host", "orders"),
            Self::H2(_) => builder.uri(format!("http://orders{path}")),
        };
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(Full::default()).unwrap()
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<http::Response<Incoming>> {
        soon(async {
            match self {
                Self::H1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Self::H2(sender) => sender.send_request(request).await,
            }
        })
        .await
    }

    pub(crate) async fn get(&mut self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let request = self.request(path, fields);
        Reply::read(self.send(request).await.unwrap()).await
    }

    pub(crate) async fn post(&mut self, path: &str, fields: &[(&str, &str)], body: &str) -> Reply {
        let mut request = self.request(path, fields);
        *request.method_mut() = http::Method::POST;
        *request.body_mut() = Full::from(body.to_owned());
        Reply::read(self.send(request).await.unwrap()).await
    }

    pub(crate) async fn status(&mut self, path: &str) -> StatusCode {
        StatusCode::from_u16(self.get(path, &[]).await.status).unwrap()
    }
}

/// A session that offers `alpn` only; empty offers nothing.
pub(crate) async fn tls(
    address: SocketAddr,
    identity: &Identity,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let offered = [alpn];
    let offered = if alpn.is_empty() { &[][..] } else { &offered };
    let config = identity.client_config(&[id("ns/shop/sa/orders")], offered);
    let name = ServerName::from(address.ip());
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    soon(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await
}

/// Writes `request` as it is and reads until the proxy closes.
pub(crate) async fn raw(address: SocketAddr, identity: &Identity, request: &[u8]) -> Reply {
    Reply::parse(&raw_bytes(address, identity, request).await)
}

/// The bytes that came back until the proxy closed.
pub(crate) async fn raw_bytes(address: SocketAddr, identity: &Identity, request: &[u8]) -> Vec<u8> {
    let mut stream = tls(address, identity, b"http/1.1").await.unwrap();
    // The proxy may have heard enough before the end of it.
    let _ = soon(stream.write_all(request)).await;
    let mut received = Vec::new();
    // A reset after the answer is an end like any other.
    let _ = soon(stream.read_to_end(&mut received)).await;
    received
}
