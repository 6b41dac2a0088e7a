//! An application that answers with what it saw.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use super::Shared;

type Body = BoxBody<Bytes, Infallible>;

/// The application.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    seen: Shared<Vec<Seen>>,
    h2: bool,
    task: tokio::task::JoinHandle<()>,
}

/// A request as the application received it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) trailers: HeaderMap,
}

impl App {
    /// Over HTTP/1.1.
    pub(crate) async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), false)
    }

    /// Over HTTP/2 with prior knowledge.
    pub(crate) async fn start_h2() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), true)
    }

    fn on(listener: TcpListener, h2: bool) -> Self {
        let seen: Shared<Vec<Seen>> = Arc::default();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let seen = seen.clone();
                    let io = TokioIo::new(stream);
                    let serve = service_fn(move |request| answer(seen.clone(), request));
                    tokio::spawn(async move {
                        if h2 {
                            let server = http2::Builder::new(TokioExecutor::new());
                            let _ = server.serve_connection(io, serve).await;
                        } else {
                            let server = http1::Builder::new();
                            let _ = server.serve_connection(io, serve).with_upgrades().await;
                        }
                    });
                }
            }
        });
        Self {
            address,
            seen,
            h2,
            task,
        }
    }

    pub(crate) fn is_h2(&self) -> bool {
        self.h2
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The last request.
    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().expect("the application saw a request")
    }

    /// Stops listening.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}

async fn answer(
    seen: Shared<Vec<Seen>>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    if path == "/public/ws" {
        return Ok(websocket(&mut request));
    }
    let target = request
        .uri()
        .path_and_query()
        .map_or_else(String::new, |target| target.as_str().to_owned());
    let (parts, body) = request.into_parts();
    let collected = body.collect().await;
    let (body, trailers) = match collected {
        Ok(collected) => {
            let trailers = collected.trailers().cloned().unwrap_or_default();
            (collected.to_bytes(), trailers)
        }
        Err(_) => (Bytes::from_static(b"(aborted)"), HeaderMap::new()),
    };
    let body = String::from_utf8_lossy(&body).into_owned();
    seen.lock().unwrap().push(Seen {
        target: target.clone(),
        headers: parts.headers,
        body: body.clone(),
        trailers,
    });
    Ok(match path.as_str() {
        "/public/hang" => std::future::pending().await,
        "/public/slow" => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Response::new(full("slow"))
        }
        "/public/drip" => drip(),
        "/public/grpc-drip" => {
            let mut response = drip();
            let kind = http::HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", kind);
            response
        }
        "/public/impostor" => impostor(),
        "/public/switch" => Response::builder().status(200).body(full("no")).unwrap(),
        "/public/grpc" | "/pkg.Service/Call" => grpc(),
        // hyper's HTTP/2 server would send a body even here.
        _ if parts.method == http::Method::HEAD => Response::new(full("")),
        _ => Response::new(full(format!("{} {target}\n{body}", parts.method))),
    })
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// Sends a first chunk and then nothing.
fn drip() -> Response<Body> {
    let (send, mut receive) = mpsc::channel(1);
    let first: Result<Frame<Bytes>, Infallible> = Ok(Frame::data(Bytes::from_static(b"first")));
    send.try_send(first).unwrap();
    let stream = futures_util::stream::poll_fn(move |cx| {
        // Keeps the sender, so the stream never ends.
        let _ = &send;
        receive.poll_recv(cx)
    });
    Response::new(StreamBody::new(stream).boxed())
}

/// Claims to speak for the mesh.
fn impostor() -> Response<Body> {
    Response::builder()
        .header("palisade-decision-id", "forged")
        .header("palisade-refused", "forged")
        .header("x-palisade-caller", "forged")
        .header("x-ordinary", "kept")
        .body(full("impostor"))
        .unwrap()
}

fn grpc() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("palisade-refused", "forged".parse().unwrap());
    let body = Full::new(Bytes::from_static(b"\0\0\0\0\0"))
        .with_trailers(std::future::ready(Some(Ok(trailers))));
    Response::builder()
        .header("content-type", "application/grpc")
        .body(body.boxed())
        .unwrap()
}

/// Switches and echoes bytes.
fn websocket(request: &mut Request<Incoming>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut io = TokioIo::new(upgraded);
        let mut buffer = [0; 64];
        while let Ok(n @ 1..) = io.read(&mut buffer).await {
            if io.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    });
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", "x")
        .body(full(""))
        .unwrap()
}
