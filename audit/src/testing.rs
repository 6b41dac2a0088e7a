//! A log, records and an audit server on loopback, for the tests of this crate.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use palisade_mesh::{
    clock::Clock,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::Peer,
    wire::{
        audit::Envelope,
        record::{Decision, Record, record::Body},
    },
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};

use crate::{
    ingest::Ingest,
    log::{Log, LogOptions},
    stream::new_ulid,
};

pub(crate) const REPORTER: &str = "spiffe://acme.test/ns/shop/sa/web";

pub(crate) fn reporter() -> SpiffeId {
    SpiffeId::parse(REPORTER).unwrap()
}

pub(crate) fn options() -> LogOptions {
    LogOptions {
        group_wait: Duration::ZERO,
        checkpoint_every: Duration::from_millis(20),
        ..LogOptions::new(TrustDomain::parse("acme.test").unwrap())
    }
}

pub(crate) fn open_log(dir: &tempfile::TempDir) -> Log {
    Log::open(dir.path(), options(), Clock::system()).unwrap()
}

pub(crate) fn decision(n: u64) -> Record {
    Record {
        id: new_ulid(&Clock::system()).to_bytes().to_vec(),
        time_us: n as i64,
        reporter: REPORTER.into(),
        body: Some(Body::Decision(Decision {
            path: format!("/orders/{n}"),
            ..Decision::default()
        })),
        ..Record::default()
    }
}

pub(crate) fn encoded(n: u64) -> Bytes {
    decision(n).encode_to_vec().into()
}

/// Everything in the log, its own records aside.
pub(crate) fn received(log: &Log) -> Vec<(Envelope, Record)> {
    log.scan(0)
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.record.reporter == REPORTER)
        .map(|entry| (entry.envelope, entry.record))
        .collect()
}

/// Paths of the decisions in the log, sorted.
pub(crate) fn paths(log: &Log) -> Vec<String> {
    let mut paths: Vec<String> = received(log)
        .into_iter()
        .filter_map(|(_, record)| match record.body {
            Some(Body::Decision(decision)) => Some(decision.path),
            _ => None,
        })
        .collect();
    paths.sort();
    paths
}

pub(crate) fn expected_paths(numbers: std::ops::RangeInclusive<u64>) -> Vec<String> {
    let mut paths: Vec<String> = numbers.map(|n| format!("/orders/{n}")).collect();
    paths.sort();
    paths
}

/// Waits for `what`, but not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .expect("it should have happened by now")
}

/// An audit server whose peers all are `peer`; stops when dropped.
pub(crate) struct TestServer {
    pub(crate) address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl TestServer {
    pub(crate) async fn start(log: Log, peer: Option<Peer>, clock: Clock) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(listener, Ingest::new(log, clock), peer)
    }

    /// One that serves what it is given.
    pub(crate) async fn of(ingest: Ingest, peer: Option<Peer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(listener, ingest, peer)
    }

    fn serve(listener: TcpListener, ingest: Ingest, peer: Option<Peer>) -> Self {
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = ingest.service();
        let service = tonic::service::interceptor::InterceptedService::new(
            service,
            move |mut request: tonic::Request<()>| {
                request.extensions_mut().extend(
                    peer.clone()
                        .map(|p| {
                            let mut extensions = tonic::Extensions::new();
                            extensions.insert(p);
                            extensions
                        })
                        .unwrap_or_default(),
                );
                Ok(request)
            },
        );
        let task = tokio::spawn(async move {
            let serve = Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener));
            tokio::select! {
                served = serve => served.unwrap(),
                _ = stopped => {}
            }
        });
        Self {
            address,
            stop: Some(stop),
            task,
        }
    }

    /// Cuts every connection.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        self.task.await.unwrap();
    }

    pub(crate) async fn channel(&self) -> Channel {
        connect(self.address).await.unwrap()
    }
}

pub(crate) async fn connect(
    address: std::net::SocketAddr,
) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}"))?
        .connect()
        .await
}

pub(crate) fn peer(id: &str, not_after_s: i64) -> Peer {
    Peer {
        id: SpiffeId::parse(id).unwrap(),
        serial: Arc::from([1u8]),
        not_before_s: 0,
        not_after_s,
    }
}
