//! Streams that are open while the mesh changes under them: a WebSocket and a gRPC
//! stream, and a change of groups, of policy, of trust, and the end of a
//! certificate.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
    upgrade::Upgraded,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use palisade_audit::{
    item::Item,
    log::{Log, LogOptions},
    row::Row,
    source::Entry,
};
use palisade_mesh::{
    clock::Clock,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::Identity,
};
use rustls_pki_types::ServerName;
use support::{Home, LIMIT, Running, authority::Authority, free_port, wait_for};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const DOMAIN: &str = "demo.test";
const WEB: &str = "ns/shop/sa/web";
const REPORTS: &str = "ns/shop/sa/reports";
const ORDERS: &str = "ns/shop/sa/orders";
/// A stream ends within a second of the change; the folder and the files are
/// looked at every second, which a loaded machine may stretch.
const BOUND: Duration = Duration::from_secs(8);
/// From the moment a revision is in force to the end of a stream that it does not allow.
const END_WITHIN_US: i64 = 1_000_000;
/// A permit for a group, so that both policies and groups decide.
const POLICY: &str = "@id(\"streams\")\n@owner(\"team-orders\")\npermit (\n  principal in Group::\"streamers\",\n  action,\n  resource in Service::\"demo.test/shop/orders\"\n);\n";
const BOTH: &str = "groups:\n  card-handlers:\n    services: [shop/payments]\n  streamers:\n    services: [shop/web, shop/reports]\n";
const REPORTS_ONLY: &str = "groups:\n  card-handlers:\n    services: [shop/payments]\n  streamers:\n    services: [shop/reports]\n";

/// Two proxies of one service: its WebSockets over HTTP/1.1, its gRPC over HTTP/2.
struct Stage {
    home: Home,
    authority: Authority,
    websockets: SocketAddr,
    grpc: SocketAddr,
    proxies: Vec<Running>,
}

impl Stage {
    async fn start() -> Self {
        let home = Home::new();
        let authority = Authority::new(DOMAIN);
        authority.write(&authority.leaf(ORDERS), &home.path("identity"));
        support::copy(&support::sample_policies(), &home.path("policies"));
        fs::write(home.path("policies/policies/orders.cedar"), POLICY).unwrap();
        fs::write(home.path("policies/entities/groups.yaml"), BOTH).unwrap();
        let mut stage = Self {
            home,
            authority,
            websockets: free_port(),
            grpc: free_port(),
            proxies: Vec::new(),
        };
        stage.front(stage.websockets, "http1", start_app(false).await);
        stage.front(stage.grpc, "http2", start_app(true).await);
        stage
    }

    /// Starts a proxy before an application.
    fn front(&mut self, inbound: SocketAddr, protocol: &str, upstream: SocketAddr) {
        let text = format!(
            "trust_domain: {DOMAIN}\nname: {protocol}\nstate_dir: state-{protocol}\nproxy:\n  instance: {protocol}\n  identity:\n    files: {{ cert: identity/cert.pem, key: identity/key.pem, bundle: identity/bundle.pem }}\n  policy: {{ folder: policies }}\n  records: {{ log: log-{protocol} }}\n  workers: 1\n  inbound: {{ listen: \"{inbound}\", service: shop/orders, upstream: \"{upstream}\", upstream_protocol: {protocol} }}\n"
        );
        let file = format!("{protocol}.yaml");
        fs::write(self.home.path(&file), text).unwrap();
        let mut proxy = self
            .home
            .start(protocol, &["run", "proxy", "--config", &file]);
        wait_for("a proxy that listens", LIMIT, || {
            assert!(proxy.ended().is_none(), "{}", proxy.printed());
            proxy.printed().contains("ready").then_some(())
        });
        self.proxies.push(proxy);
    }

    fn caller(&self, path: &str) -> Identity {
        self.authority.trusting(&self.authority.leaf(path))
    }

    /// Waits until a request of `caller` passes both proxies.
    async fn passes(&self, caller: &Identity) {
        let begun = Instant::now();
        loop {
            let (one, two) = (
                Socket::open(self.websockets, caller).await,
                Stream::open(self.grpc, caller).await,
            );
            if one.is_some() && two.is_some() {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "nothing passes");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn streams(&self, caller: &Identity) -> (Socket, Stream) {
        let socket = Socket::open(self.websockets, caller).await.unwrap();
        let stream = Stream::open(self.grpc, caller).await.unwrap();
        (socket, stream)
    }

    fn policy(&self, text: &str) {
        fs::write(self.home.path("policies/policies/orders.cedar"), text).unwrap();
    }

    fn groups(&self, text: &str) {
        fs::write(self.home.path("policies/entities/groups.yaml"), text).unwrap();
    }

    /// Ends the proxies; every record of one of them, oldest first.
    fn records(&mut self, protocol: &str) -> Vec<Row> {
        for mut proxy in self.proxies.drain(..) {
            assert!(proxy.end().success(), "{}", proxy.printed());
        }
        let folder = self.home.path(&format!("log-{protocol}"));
        let options = LogOptions::new(TrustDomain::parse(DOMAIN).unwrap());
        let log = Log::open(&folder, options, Clock::system()).unwrap();
        let rows = log.scan(0).map(Result::unwrap).map(|entry| {
            Row::new(&Item::new(Entry {
                index: entry.index,
                envelope: entry.envelope,
                record: entry.record,
            }))
        });
        let rows = rows.collect();
        log.close();
        rows
    }
}

async fn tls(
    address: SocketAddr,
    caller: &Identity,
    protocol: &[u8],
) -> Option<TlsStream<TcpStream>> {
    let orders = SpiffeId::parse(&format!("spiffe://{DOMAIN}/{ORDERS}")).unwrap();
    let config = caller.client_config(&[orders], &[protocol]);
    let tcp = TcpStream::connect(address).await.ok()?;
    let name = ServerName::from(address.ip());
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .ok()
}

/// An open WebSocket, as far as a proxy sees it.
struct Socket {
    id: String,
    io: TokioIo<Upgraded>,
}

impl Socket {
    async fn open(address: SocketAddr, caller: &Identity) -> Option<Self> {
        let stream = TokioIo::new(tls(address, caller, b"http/1.1").await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.ok()?;
        tokio::spawn(connection.with_upgrades());
        let request = Request::get("/orders")
            .header("host", "orders")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let mut response = sender.send_request(request).await.ok()?;
        if response.status() != 101 {
            return None;
        }
        let id = id_of(&response);
        let io = TokioIo::new(hyper::upgrade::on(&mut response).await.ok()?);
        let mut socket = Self { id, io };
        socket.echo().await;
        Some(socket)
    }

    async fn echo(&mut self) {
        self.io.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        let read = timeout(LIMIT, self.io.read_exact(&mut echo)).await;
        read.unwrap().unwrap();
        assert_eq!(&echo, b"ping");
    }

    async fn ended(mut self) -> String {
        let mut rest = Vec::new();
        let _ = timeout(LIMIT, self.io.read_to_end(&mut rest))
            .await
            .expect("an end");
        self.id
    }
}

/// An open gRPC stream on which the server sends.
struct Stream {
    id: String,
    body: Incoming,
    _sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
}

impl Stream {
    async fn open(address: SocketAddr, caller: &Identity) -> Option<Self> {
        let stream = TokioIo::new(tls(address, caller, b"h2").await?);
        let executor = TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, stream)
            .await
            .ok()?;
        tokio::spawn(connection);
        let request = Request::post("http://orders/orders")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(b"\0\0\0\0\0")))
            .unwrap();
        let response = sender.send_request(request).await.ok()?;
        if response.headers().contains_key("palisade-refused") {
            return None;
        }
        let id = id_of(&response);
        let mut body = response.into_body();
        body.frame().await?.ok()?.into_data().ok()?;
        Some(Self {
            id,
            body,
            _sender: sender,
        })
    }

    /// Waits for its end; the id and the status in the trailers.
    async fn ended(mut self) -> (String, String) {
        loop {
            let frame = timeout(LIMIT, self.body.frame()).await.expect("an end");
            let frame = frame.expect("trailers").unwrap();
            if let Ok(trailers) = frame.into_trailers() {
                let status = trailers["grpc-status"].to_str().unwrap().to_owned();
                return (self.id, status);
            }
        }
    }
}

fn id_of<B>(response: &Response<B>) -> String {
    let id = &response.headers()["palisade-decision-id"];
    id.to_str().unwrap().to_owned()
}

/// An application that echoes on WebSockets, or sends one gRPC message and waits.
async fn start_app(grpc: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let io = TokioIo::new(stream);
            tokio::spawn(async move {
                if grpc {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(io, service_fn(drip)).await;
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    let serving = server.serve_connection(io, service_fn(switch));
                    let _ = serving.with_upgrades().await;
                }
            });
        }
    });
    address
}

async fn drip(_: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let mut first = Some(Frame::data(Bytes::from_static(b"\0\0\0\0\0")));
    let frames = futures_util::stream::poll_fn(move |_| match first.take() {
        Some(frame) => std::task::Poll::Ready(Some(Ok(frame))),
        None => std::task::Poll::Pending,
    });
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(StreamBody::new(frames).boxed()).unwrap())
}

async fn switch(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (mut reads, mut writes) = tokio::io::split(TokioIo::new(upgraded));
        let _ = tokio::io::copy(&mut reads, &mut writes).await;
    });
    let response = Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    Ok(response.body(Empty::new()).unwrap())
}

/// The "shown by" 4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_end_with_what_they_rest_on() {
    let mut stage = Stage::start().await;
    let (web, reports) = (stage.caller(WEB), stage.caller(REPORTS));
    let mut expected = Vec::new();

    // Web leaves the group; reports stays in it, and is not disturbed.
    let (mut kept, _kept) = stage.streams(&reports).await;
    let streams = stage.streams(&web).await;
    stage.groups(REPORTS_ONLY);
    expected.push((ended(streams, "7").await, "entities", "no_permit"));
    kept.echo().await;
    stage.groups(BOTH);
    stage.passes(&web).await;
    kept.echo().await;

    // A new policy.
    let streams = stage.streams(&web).await;
    stage.policy(&POLICY.replace("permit (", "forbid ("));
    expected.push((ended(streams, "7").await, "policy", "forbidden"));
    let kept_id = kept.ended().await;
    stage.policy(POLICY);
    stage.passes(&web).await;

    // The caller's certificate ends.
    let leaf = stage.authority.leaf_for(WEB, Duration::from_secs(4));
    let short = stage.authority.trusting(&leaf);
    let streams = stage.streams(&short).await;
    expected.push((ended(streams, "14").await, "deadline", "certificate_ended"));
    let late = jiff::Timestamp::now().as_second() - short.not_after_s();
    assert!((0..=2).contains(&late), "{late} s after the end");

    // The root that the caller rests on leaves the bundle.
    let streams = stage.streams(&web).await;
    let other = Authority::new(DOMAIN);
    other.write(&other.leaf(ORDERS), &stage.home.path("identity"));
    expected.push((ended(streams, "7").await, "trust", "peer_untrusted"));

    let websockets = stage.records("http1");
    let grpc = stage.records("http2");
    for ((socket, stream), cause, reason) in &expected {
        for (rows, id) in [(&websockets, socket), (&grpc, stream)] {
            let of = |class: &str| {
                let rows = rows.iter().filter(|r| r.text("id") == Some(id));
                let mut rows = rows.filter(|r| r.text("class") == Some(class));
                rows.next_back().unwrap_or_else(|| panic!("{class} {id}"))
            };
            assert_eq!(of("decision").text("decision"), Some("allow"));
            let judged = of("rejudgement");
            assert_eq!(judged.text("cause"), Some(*cause));
            assert_eq!(judged.text("reason"), Some(*reason));
            assert_eq!(
                judged.value("closed"),
                Some(&palisade_audit::row::RowValue::Flag(true))
            );
            let end = match *cause {
                "deadline" => "deadline",
                _ => "rejudged",
            };
            let outcome = of("outcome");
            assert_eq!(outcome.text("end"), Some(end));
            if let "entities" | "policy" = *cause {
                let late_us = outcome.time_us - activation_before(rows, outcome.time_us);
                assert!(late_us < END_WITHIN_US, "{cause}: {late_us} us");
            }
        }
    }
    let kept: Vec<_> = websockets
        .iter()
        .filter(|r| r.text("class") == Some("rejudgement") && r.text("id") == Some(&kept_id))
        .map(|r| r.text("reason").unwrap())
        .collect();
    assert!(kept.len() >= 3, "{kept:?}");
    assert_eq!(kept.first(), Some(&"permitted"));
    assert_eq!(kept.last(), Some(&"forbidden"));
}

/// When the last revision before this moment came into force at that proxy.
fn activation_before(rows: &[Row], time_us: i64) -> i64 {
    let activated = rows.iter().filter(|r| r.text("verb") == Some("activated"));
    let before = activated.map(|r| r.time_us).filter(|t| *t <= time_us);
    before.max().unwrap()
}

/// Waits until both streams have ended, the gRPC one in `status`; their ids.
async fn ended((socket, stream): (Socket, Stream), status: &str) -> (String, String) {
    let begun = Instant::now();
    let (socket, (stream, told)) = tokio::join!(socket.ended(), stream.ended());
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    assert_eq!(told, status);
    (socket, stream)
}
