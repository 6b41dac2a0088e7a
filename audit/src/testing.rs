//! A log, records and an audit server on loopback, for the tests of this crate.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use palisade_mesh::{
    clock::Clock,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::Peer,
    wire::{
        audit::Envelope,
        record::{Decision, Heads, Record, StreamHeads, record::Body},
    },
};
use prost::Message as _;
use rcgen::{CertificateParams, KeyPair, SanType, SerialNumber, SigningKey as _};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use ulid::Ulid;

use crate::{
    envelope::RecordPeek,
    heads::{HeadSignature, HeadSigner, Running, Statement},
    ingest::Ingest,
    log::{Log, LogOptions, Pending},
    merkle::{Hash, sha256},
    stream::{StreamKey, new_ulid},
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

/// Asks again and again until it is so, for a bounded time.
pub(crate) async fn until(holds: impl Fn() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let asked = async {
        while !holds() {
            ticks.tick().await;
        }
    };
    soon(asked).await;
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

/// Signs with a certificate that nobody has issued.
pub(crate) struct TestSigner {
    key: KeyPair,
    certificate: Vec<u8>,
}

impl TestSigner {
    pub(crate) fn new(id: &str, serial: u64) -> Self {
        Self::until(id, serial, 4000)
    }

    /// One whose certificate ends with the beginning of a year.
    pub(crate) fn until(id: &str, serial: u64, year: i32) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self { key, certificate }
    }

    /// SHA-256 of its certificate.
    pub(crate) fn digest(&self) -> Hash {
        sha256(&self.certificate)
    }
}

impl HeadSigner for TestSigner {
    fn sign(&self, message: &[u8]) -> Option<HeadSignature> {
        Some(HeadSignature {
            scheme: 0x0403,
            signature: self.key.sign(message).unwrap(),
            certificates: vec![self.certificate.clone()],
        })
    }
}

/// A start of a reporter, mostly [`REPORTER`], that numbers records, and signs heads in a stream of its own.
pub(crate) struct Speaker {
    pub(crate) signer: TestSigner,
    pub(crate) boot: Ulid,
    /// The start before it.
    pub(crate) previous: Option<Ulid>,
    reporter: SpiffeId,
    streams: BTreeMap<u32, (u64, Running)>,
    known: Option<Hash>,
}

impl Speaker {
    /// Number of the stream with the heads.
    pub(crate) const OWN: u32 = u32::MAX - 1;

    pub(crate) fn new(boot: u64) -> Self {
        Self::of(REPORTER, boot)
    }

    /// One of another reporter.
    pub(crate) fn of(reporter: &str, boot: u64) -> Self {
        Self {
            signer: TestSigner::new(reporter, boot),
            boot: Ulid::from_parts(boot, 0),
            previous: None,
            reporter: SpiffeId::parse(reporter).unwrap(),
            streams: BTreeMap::new(),
            known: None,
        }
    }

    pub(crate) fn stream(&self, worker: u32) -> StreamKey {
        StreamKey {
            reporter: self.reporter.clone(),
            boot: self.boot,
            worker,
        }
    }

    /// The next record of a worker.
    pub(crate) fn says(&mut self, worker: u32, record: &Record) -> Pending {
        let stream = Arc::new(self.stream(worker));
        let record = record.encode_to_vec();
        let (last, running) = self.streams.entry(worker).or_default();
        *last += 1;
        running.take(&record);
        Pending {
            stream,
            sequence: *last,
            record: record.into(),
        }
    }

    /// So many records of a worker.
    pub(crate) fn decides(&mut self, worker: u32, count: u64) -> Vec<Pending> {
        (1..=count)
            .map(|n| self.says(worker, &decision(n)))
            .collect()
    }

    /// The heads of all its streams, with the certificate if that was not sent.
    pub(crate) fn heads(&mut self) -> Pending {
        self.heads_with(|_| {}, |_| {})
    }

    /// As [`Self::heads`], with something changed before they are signed, and after it.
    pub(crate) fn heads_with(
        &mut self,
        before: impl FnOnce(&mut Heads),
        after: impl FnOnce(&mut StreamHeads),
    ) -> Pending {
        let own = self.streams.get(&Self::OWN).map_or(0, |(last, _)| *last);
        let streams = self.streams.iter_mut();
        let streams = streams.map(|(worker, (_, running))| {
            let head = running.head(*worker);
            running.said();
            head
        });
        let mut heads = Heads {
            reporter: self.reporter.to_string(),
            boot: self.boot.to_bytes().to_vec(),
            previous_boot: self.previous.map_or(Vec::new(), |b| b.to_bytes().to_vec()),
            streams: streams.collect(),
            worker: Self::OWN,
            sequence: own + 1,
            ..Heads::default()
        };
        before(&mut heads);
        let (mut signed, leaf) = Statement::sign(&heads, &self.signer, self.known).unwrap();
        self.known = Some(leaf);
        after(&mut signed);
        let record = Record {
            body: Some(Body::StreamHeads(signed)),
            ..decision(0)
        };
        self.says(Self::OWN, &record)
    }

    /// The heads of all its streams, as a statement.
    pub(crate) fn statement(&mut self) -> Statement {
        let record = self.heads().record;
        let peek = RecordPeek::new(&record).unwrap();
        Statement::read(&peek).unwrap()
    }

    /// Sends the certificate with the next heads again.
    pub(crate) fn forget(&mut self) {
        self.known = None;
    }
}

/// What a spool can be made to carry by somebody who cannot sign: heads of a certificate that nobody knows.
pub(crate) fn unsign(signed: &mut StreamHeads) {
    signed.certificate = vec![7; 32];
    signed.certificates.clear();
    signed.signature.clear();
}

/// Appends, and waits until it is durable.
pub(crate) async fn append(log: &Log, batch: Vec<Pending>) {
    soon(log.append(batch).durable()).await.unwrap();
}
