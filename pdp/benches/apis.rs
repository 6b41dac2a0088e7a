//! What an answer of the decision APIs costs.
//!
//! First the way of one question through the service, from its bytes to the answer's,
//! without a socket. Then CPU of the server's thread per check over loopback, beside a
//! server of the same kind that does nothing: the bar is at most 1.4 of it. Run with
//! `cargo bench --workspace --bench apis`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench that cannot build its input should stop, and says what it found"
)]

use std::{
    future::ready,
    net::SocketAddr,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group};
use http_body_util::{BodyExt, Full};
use nix::time::{ClockId, clock_gettime};
use palisade_mesh::{
    clock::Clock,
    kill::KillList,
    link::{Gate, Link, LinkRefused},
    personal::Mask,
    sink::{Durable, RecordStream, SinkError},
    spiffe_id::SpiffeId,
    wire::{
        ext_authz::{
            AttributeContext, CheckRequest, CheckResponse,
            attribute_context::{HttpRequest, Peer, Request as Asked},
            authorization_client::AuthorizationClient,
            authorization_server::{Authorization, AuthorizationServer},
        },
        record::Record,
    },
};
use palisade_pdp::{
    apis::{Desk, DeskConfig, Limits, envoy},
    author,
    decide::Snapshot,
};
use prost::Message;
use tonic::{Request, Response, Status, transport::Server};
use tower::Service;

/// Checks of one measured round, and how many wait at once.
const CHECKS: usize = 40_000;
const AT_ONCE: usize = 32;
const ROUNDS: usize = 5;

/// Encodes every record, as a spool does, and forgets it.
struct Encoded(Vec<u8>);

impl RecordStream for Encoded {
    fn append_masked(&mut self, record: &Record, _: &Mask) -> Result<(), SinkError> {
        self.0.clear();
        record.encode(&mut self.0).map_err(|_| SinkError::Full)
    }

    fn flush(&mut self) {}

    fn durable(&mut self) -> Durable {
        Box::pin(ready(Ok(())))
    }
}

struct Everybody;

impl Gate for Everybody {
    fn ask(&self, _: &Link<'_>) -> Result<(), LinkRefused> {
        Ok(())
    }
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://demo.test/{path}")).unwrap()
}

fn desk() -> Desk {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let compiled = author::load(&policies).compiled.unwrap();
    let domain = compiled.catalogue.trust_domain().clone();
    let nobody = Arc::new(KillList::new(domain.clone(), 0, 0, Vec::new()).unwrap());
    let desk = Desk::new(DeskConfig {
        gate: Arc::new(Everybody),
        records: Box::new(Encoded(Vec::new())),
        reporter: domain.role("pdp"),
        demo: false,
        kill_list: Box::new(move || nobody.clone()),
        clock: Clock::system(),
        limits: Limits {
            in_flight: 1 << 20,
            questions_per_s: u32::MAX,
        },
        by_reference: false,
    });
    desk.put(Snapshot::new(compiled, 1).unwrap(), None);
    desk
}

/// What an Envoy asks about a request of the shop.
fn question() -> CheckRequest {
    let headers = [
        (":authority", "orders"),
        (":method", "GET"),
        (":path", "/orders/42"),
        ("accept", "*/*"),
        ("user-agent", "curl/8.5.0"),
        ("x-request-id", "7a1c0e2e-1f5e-4a52-9a7e-0c1f2d3e4f50"),
    ];
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer {
                principal: id("ns/shop/sa/web").to_string(),
                certificate: String::new(),
                address: None,
            }),
            request: Some(Asked {
                http: Some(HttpRequest {
                    method: "GET".into(),
                    host: "orders".into(),
                    path: "/orders/42".into(),
                    headers: headers.map(|(n, v)| (n.into(), v.into())).into(),
                    protocol: "HTTP/1.1".into(),
                    header_map: None,
                }),
            }),
            ..AttributeContext::default()
        }),
    }
}

/// Allows everything.
struct Nothing;

#[tonic::async_trait]
impl Authorization for Nothing {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(CheckResponse::default()))
    }
}

/// A gRPC message as it stands in a body.
fn framed(message: &impl Message) -> bytes::Bytes {
    let encoded = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(encoded.len()).unwrap().to_be_bytes());
    frame.extend(encoded);
    frame.into()
}

fn in_process(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let desk = desk();
    let caller = desk.client(&id("ns/edge/sa/envoy"), || true);
    let message = framed(&question());
    let request = || {
        let mut request = http::Request::post("/envoy.service.auth.v3.Authorization/Check")
            .header("content-type", "application/grpc")
            .body(Full::new(message.clone()))
            .unwrap();
        request.extensions_mut().insert(caller.clone());
        request
    };
    let mut group = c.benchmark_group("apis");
    let mut ours = envoy::service(&desk);
    group.bench_function("ext_authz_check", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let response = ours.call(request()).await.unwrap();
                response.into_body().collect().await.unwrap()
            })
        });
    });
    let mut nothing = AuthorizationServer::new(Nothing);
    group.bench_function("no_op_check", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let response = nothing.call(request()).await.unwrap();
                response.into_body().collect().await.unwrap()
            })
        });
    });
    group.finish();
}

criterion_group!(benches, in_process);

/// A server on a thread of its own.
struct Measured {
    address: SocketAddr,
    /// Asks for the CPU time that the thread has used.
    ask: mpsc::Sender<mpsc::Sender<Duration>>,
}

impl Measured {
    fn start(
        serve: impl FnOnce(Server) -> tonic::transport::server::Router + Send + 'static,
    ) -> Self {
        let (tell, told) = mpsc::channel();
        let (ask, asked) = mpsc::channel::<mpsc::Sender<Duration>>();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                tokio::spawn(serve(Server::builder()).serve_with_incoming(incoming));
                loop {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    while let Ok(reply) = asked.try_recv() {
                        let used = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
                        reply.send(used.into()).unwrap();
                    }
                }
            });
        });
        Self {
            address: told.recv().unwrap(),
            ask,
        }
    }

    fn used(&self) -> Duration {
        let (reply, used) = mpsc::channel();
        self.ask.send(reply).unwrap();
        used.recv().unwrap()
    }

    /// CPU of the server per check, in one round.
    fn round(&self, client: &tokio::runtime::Runtime) -> Duration {
        let before = self.used();
        client.block_on(async {
            let endpoint = format!("http://{}", self.address);
            let client = AuthorizationClient::connect(endpoint).await.unwrap();
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..AT_ONCE {
                let mut client = client.clone();
                tasks.spawn(async move {
                    for _ in 0..CHECKS / AT_ONCE {
                        client.check(question()).await.unwrap();
                    }
                });
            }
            tasks.join_all().await;
        });
        (self.used() - before) / u32::try_from(CHECKS).unwrap()
    }
}

/// Puts the caller beside each request, as the listener does.
#[derive(Clone)]
struct Proven(palisade_pdp::apis::Caller);

impl tonic::service::Interceptor for Proven {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.extensions_mut().insert(self.0.clone());
        Ok(request)
    }
}

fn beside_nothing() {
    let desk = desk();
    let caller = Proven(desk.client(&id("ns/edge/sa/envoy"), || true));
    let ours = Measured::start(move |mut server| {
        let service = envoy::service(&desk);
        server.add_service(tonic::service::interceptor::InterceptedService::new(
            service, caller,
        ))
    });
    let nothing =
        Measured::start(|mut server| server.add_service(AuthorizationServer::new(Nothing)));
    let client = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let begun = Instant::now();
    let (mut best, mut floor) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        floor = floor.min(nothing.round(&client));
        best = best.min(ours.round(&client));
    }
    let ratio = best.as_secs_f64() / floor.as_secs_f64();
    println!(
        "server CPU per check, least of {ROUNDS} rounds of {CHECKS}: no-op {floor:?}, ext_authz {best:?}, {ratio:.2} of it ({:.0?})",
        begun.elapsed()
    );
}

fn main() {
    benches();
    beside_nothing();
    Criterion::default().configure_from_args().final_summary();
}
