//! Ingest over a real connection: acknowledgements, refusals, limits.

use palisade_mesh::wire::{
    audit::{RevisionName, RevisionPart, ingest_client::IngestClient},
    record::{Admin, Alert, AuditRead, Credential, LogLifecycle, PolicyChange},
};
use tempfile::TempDir;
use tonic::Code;
use ulid::Ulid;

use super::*;
use crate::testing::{
    REPORTER, TestServer, encoded, open_log, paths, peer, received, reporter, soon,
};

const FOREVER: i64 = i64::MAX;

struct Session {
    _dir: TempDir,
    log: Log,
    _server: TestServer,
    batches: mpsc::Sender<Batch>,
    acks: Streaming<Ack>,
}

async fn session(peer: Option<Peer>) -> Result<Session, Status> {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    let server = TestServer::start(log.clone(), peer, Clock::system()).await;
    let (batches, receiver) = mpsc::channel(8);
    let mut client = IngestClient::new(server.channel().await);
    let acks = client
        .push(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    Ok(Session {
        _dir: dir,
        log,
        _server: server,
        batches,
        acks,
    })
}

impl Session {
    async fn start() -> Self {
        session(Some(peer(REPORTER, FOREVER))).await.unwrap()
    }

    async fn ack(&mut self) -> Ack {
        soon(self.acks.message()).await.unwrap().expect("an answer")
    }

    /// The status or the refusal that a batch earns.
    async fn refusal(&mut self, batch: Batch) -> Result<String, Status> {
        self.refused(batch).await.map(|ack| ack.refused)
    }

    async fn refused(&mut self, batch: Batch) -> Result<Ack, Status> {
        self.batches.send(batch).await.unwrap();
        loop {
            match soon(self.acks.message()).await?.expect("an answer") {
                ack if ack.refused.is_empty() => {}
                ack => return Ok(ack),
            }
        }
    }
}

fn stream(worker: u32) -> StreamId {
    StreamKey {
        reporter: reporter(),
        boot: Ulid::from_parts(1, 1),
        worker,
    }
    .to_wire()
}

fn batch(worker: u32, sequences: std::ops::RangeInclusive<u64>) -> Batch {
    Batch {
        stream: Some(stream(worker)),
        first_sequence: *sequences.start(),
        records: sequences.map(encoded).collect(),
    }
}

#[tokio::test]
async fn batches_of_many_streams_are_acknowledged_as_durable_and_as_checkpointed() {
    let mut session = Session::start().await;
    let welcome = session.ack().await;
    assert_eq!((welcome.stream, welcome.credit), (None, CREDIT));
    for worker in 0..3 {
        session.batches.send(batch(worker, 1..=5)).await.unwrap();
        session.batches.send(batch(worker, 6..=7)).await.unwrap();
    }
    let mut checkpointed = std::collections::BTreeSet::new();
    let mut durable = [0; 3];
    while checkpointed.len() < 3 {
        let ack = session.ack().await;
        let worker = ack.stream.unwrap().worker;
        assert!(ack.checkpointed <= ack.durable);
        assert!(ack.durable >= durable[worker as usize]);
        durable[worker as usize] = ack.durable;
        if ack.checkpointed == 7 {
            checkpointed.insert(worker);
        }
    }
    assert_eq!(received(&session.log).len(), 21);
    // The same again: acknowledged, not kept twice.
    session.batches.send(batch(1, 1..=7)).await.unwrap();
    while session.ack().await.durable < 7 {}
    assert_eq!(received(&session.log).len(), 21);
}

/// A record is no better than who may leave it: what is told by the mesh's own parts alone
/// comes from nobody else.
#[tokio::test]
async fn a_workload_speaks_for_no_part_of_the_mesh() {
    let alert = Body::Alert(Alert {
        verb: "acknowledged".into(),
        ..Alert::default()
    });
    let change = Body::PolicyChange(PolicyChange {
        verb: "activated".into(),
        authors: vec!["ana@acme.test".into()],
        ..PolicyChange::default()
    });
    let hold = Body::Admin(Admin {
        actor: REPORTER.into(),
        verb: "hold_released".into(),
        ..Admin::default()
    });
    for (body, may) in [
        (
            Body::LogLifecycle(LogLifecycle::default()),
            "only the log itself may",
        ),
        (
            Body::Credential(Credential::default()),
            "only the authority may",
        ),
        (alert, "only the log itself may"),
        (
            change,
            "`policy_change` of its own policy folder only, which names no author",
        ),
        (hold, "`hold_released` may not come from a workload"),
        (Body::AuditRead(AuditRead::default()), "only the PDP may"),
    ] {
        let mut record = Record::decode(encoded(1)).unwrap();
        record.body = Some(body);
        let mut forged = batch(0, 1..=1);
        forged.records = vec![record.encode_to_vec().into()];
        let mut session = Session::start().await;
        let refusal = session.refusal(forged).await.unwrap();
        assert!(refusal.contains(may), "{refusal}");
        assert!(received(&session.log).is_empty());
    }
}

/// A proxy that reads a policy folder itself says what it puts in force; it is not held up
/// for that.
#[tokio::test]
async fn a_proxy_with_a_policy_folder_of_its_own_says_what_it_put_in_force() {
    let mut session = Session::start().await;
    let records = ["activated", "rejected"].map(|verb| {
        let change = PolicyChange {
            verb: verb.into(),
            ..PolicyChange::default()
        };
        let record = Record {
            body: Some(Body::PolicyChange(change)),
            ..Record::decode(encoded(1)).unwrap()
        };
        record.encode_to_vec().into()
    });
    let told = Batch {
        records: records.into(),
        ..batch(u32::MAX, 1..=2)
    };
    session.batches.send(told).await.unwrap();
    loop {
        let ack = session.ack().await;
        assert_eq!(ack.refused, "");
        if ack.durable == 2 {
            break;
        }
    }
    assert_eq!(received(&session.log).len(), 2);
}

#[tokio::test]
async fn the_peer_must_be_the_reporter_and_prove_it() {
    let none = session(None).await.map(|_| ()).unwrap_err();
    assert_eq!(none.code(), Code::Unauthenticated);

    let other = peer("spiffe://acme.test/ns/shop/sa/other", FOREVER);
    let mut other = session(Some(other)).await.unwrap();
    let status = other.refusal(batch(0, 1..=1)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(received(&other.log), []);

    let expired = session(Some(peer(REPORTER, 1))).await.map(|_| ());
    assert_eq!(expired.unwrap_err().code(), Code::Unauthenticated);
}

/// Bars whoever it is told to, from then on.
#[derive(Default)]
struct Barred(std::sync::atomic::AtomicBool);

impl Barring for Barred {
    fn barred(&self, peer: &Peer) -> Option<String> {
        let is = self.0.load(std::sync::atomic::Ordering::SeqCst);
        is.then(|| format!("{} is barred", peer.id))
    }
}

/// Who is barred writes no more, over what is open and over what is new; what came before is
/// there.
#[tokio::test]
async fn a_barred_peer_leaves_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    let barred = Arc::new(Barred::default());
    let ingest = Ingest::new(log.clone(), Clock::system()).barring(barred.clone());
    let server = TestServer::of(ingest, Some(peer(REPORTER, FOREVER))).await;
    let (batches, receiver) = mpsc::channel(8);
    let mut client = IngestClient::new(server.channel().await);
    let open = client.push(ReceiverStream::new(receiver)).await.unwrap();
    let mut acks = open.into_inner();
    batches.send(batch(0, 1..=3)).await.unwrap();
    while soon(acks.message()).await.unwrap().unwrap().durable < 3 {}
    barred.0.store(true, std::sync::atomic::Ordering::SeqCst);
    batches.send(batch(0, 4..=6)).await.unwrap();
    let status = loop {
        if let Err(status) = soon(acks.message()).await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("is barred"), "{status}");
    let (_batches, receiver) = mpsc::channel::<Batch>(1);
    let again = client.push(ReceiverStream::new(receiver)).await;
    assert_eq!(again.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(received(&log).len(), 3);
}

/// Nor does it keep the place of another that has its identity: what it has open ends, also where
/// it says nothing.
#[tokio::test]
async fn a_barred_peer_that_rests_keeps_no_place() {
    let dir = tempfile::tempdir().unwrap();
    let barred = Arc::new(Barred::default());
    let ingest = Ingest {
        limits: room::Limits {
            present_every: std::time::Duration::from_millis(20),
            ..room::Limits::default()
        },
        ..Ingest::new(open_log(&dir), Clock::system()).barring(barred.clone())
    };
    let server = TestServer::of(ingest, Some(peer(REPORTER, FOREVER))).await;
    let (_batches, receiver) = mpsc::channel::<Batch>(8);
    let mut client = IngestClient::new(server.channel().await);
    let open = client.push(ReceiverStream::new(receiver)).await.unwrap();
    let mut acks = open.into_inner();
    assert_eq!(soon(acks.message()).await.unwrap().unwrap().credit, CREDIT);
    barred.0.store(true, std::sync::atomic::Ordering::SeqCst);
    let status = soon(acks.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

/// A PDP, too.
#[tokio::test]
async fn a_barred_pdp_gives_no_revision() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    let shelf = Shelf(crate::policies::Policies::beside(dir.path()), log.clone());
    let barred = Arc::new(Barred::default());
    let ingest = Ingest::new(log, Clock::system())
        .keeping(Arc::new(shelf))
        .barring(barred.clone());
    let server = TestServer::of(ingest, Some(peer(PDP, FOREVER))).await;
    let mut client = IngestClient::new(server.channel().await);
    assert!(client.has_revision(named(32)).await.is_ok());
    barred.0.store(true, std::sync::atomic::Ordering::SeqCst);
    let asked = client.has_revision(named(32)).await;
    assert_eq!(asked.unwrap_err().code(), Code::PermissionDenied);
    let given = client.keep_revision(parts(b"texts")).await;
    assert_eq!(given.unwrap_err().code(), Code::PermissionDenied);
    let policies = crate::policies::Policies::beside(dir.path());
    assert_eq!(policies.read(&[7; 32]).unwrap(), None);
}

#[tokio::test]
async fn malformed_batches_are_refused_and_end_the_connection() {
    let with = |change: fn(&mut Batch)| {
        let mut batch = batch(0, 1..=2);
        change(&mut batch);
        batch
    };
    for (batch, part) in [
        (with(|b| b.records.clear()), "batch of 0 records"),
        (batch(0, 1..=BATCH_RECORDS_MAX as u64 + 1), "batch of 1025"),
        (with(|b| b.first_sequence = 0), "sequence 0"),
        (with(|b| b.first_sequence = u64::MAX), "out of range"),
        (
            with(|b| b.records[1] = vec![0xff; 9].into()),
            "record 2 is malformed",
        ),
        (
            with(|b| b.records[1] = Bytes::new()),
            "record 2 is malformed",
        ),
        (
            with(|b| b.records[0] = vec![1; RECORD_LEN_MAX + 1].into()),
            "exceeds the limit",
        ),
    ] {
        let mut session = Session::start().await;
        let refusal = session.refusal(batch).await.unwrap();
        assert!(refusal.contains(part), "{refusal}");
        assert!(soon(session.acks.message()).await.unwrap().is_none());
        assert_eq!(received(&session.log), []);
    }
    for change in [
        (|b| b.stream = None) as fn(&mut Batch),
        |b| b.stream.as_mut().unwrap().boot.clear(),
        |b| b.stream.as_mut().unwrap().reporter = "x".into(),
    ] {
        let mut session = Session::start().await;
        let status = session.refusal(with(change)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}

/// What a record is does not change; what the log has room for does.
#[tokio::test]
async fn a_refusal_says_whether_it_is_for_ever() {
    let mut session = Session::start().await;
    let mut malformed = batch(0, 1..=1);
    malformed.records = vec![Bytes::from_static(&[0xff])];
    let refused = session.refused(malformed).await.unwrap();
    assert!(refused.never, "{refused:?}");
    // Every second number is left out, until the stream has as many gaps as one may have.
    let mut session = Session::start().await;
    let gaps = crate::stream::GAPS_MAX as u64;
    for n in 1..=gaps {
        session.batches.send(batch(0, 2 * n..=2 * n)).await.unwrap();
        if n % 8 == 0 {
            while session.ack().await.durable < 2 * n {}
        }
    }
    let last = 2 * (gaps + 1);
    let refused = session.refused(batch(0, last..=last)).await.unwrap();
    assert!(refused.refused.contains("gaps"), "{refused:?}");
    assert!(!refused.never, "{refused:?}");
}

#[tokio::test]
async fn the_largest_batch_is_taken() {
    let mut session = Session::start().await;
    let largest = batch(0, 1..=BATCH_RECORDS_MAX as u64);
    session.batches.send(largest).await.unwrap();
    while session.ack().await.durable < BATCH_RECORDS_MAX as u64 {}
    assert_eq!(paths(&session.log).len(), BATCH_RECORDS_MAX);
}

#[tokio::test]
async fn a_closed_log_ends_the_connection_instead_of_skipping() {
    let mut session = Session::start().await;
    session.log.close();
    let status = session.refusal(batch(0, 1..=1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn the_door_inside_the_process_checks_and_dedupes_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    let ingest = Ingest::new(log.clone(), Clock::system());
    for _ in 0..2 {
        let records = (1..=3).map(encoded).collect();
        let mut receipt = ingest.push(&stream(0), 1, records).unwrap();
        soon(receipt.checkpointed()).await.unwrap();
    }
    assert_eq!(received(&log).len(), 3);
    let refused = ingest.push(&stream(0), 4, vec![Bytes::from_static(&[0xff])]);
    assert!(matches!(refused, Err(Refused::Record { sequence: 4, .. })));
}

/// A value beside a record that is not what its cover commits to is refused whole, and so
/// is a record that hides something behind its values.
#[tokio::test]
async fn a_covered_record_is_taken_with_its_own_values_only() {
    use palisade_mesh::wire::record::AuthnFailure;
    use prost::Message as _;

    use crate::privacy::{Handling, Personal, Rules};

    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    let ingest = Ingest::new(log.clone(), Clock::system());
    let rules = Rules::new([(Personal::SourceIp, Handling::Sealed)]);
    let failure = AuthnFailure {
        source_ip: "192.0.2.7".into(),
        ..AuthnFailure::default()
    };
    let record = Record {
        body: Some(Body::AuthnFailure(failure)),
        ..Record::decode(encoded(1)).unwrap()
    };
    let whole = rules.cover(&record).unwrap();
    let push = |record: Vec<u8>| ingest.push(&stream(0), 1, vec![record.into()]);
    let mut other = whole.clone();
    other.disclosures[0].value = "192.0.2.8".into();
    let hidden = [whole.encode_to_vec(), record.encode_to_vec()].concat();
    for refused in [other.encode_to_vec(), hidden] {
        assert!(matches!(
            push(refused),
            Err(Refused::Record { sequence: 1, .. })
        ));
    }
    let mut receipt = push(whole.encode_to_vec()).unwrap();
    soon(receipt.checkpointed()).await.unwrap();
    let kept = log
        .scan(0)
        .filter_map(Result::ok)
        .find(|e| !e.record.covers.is_empty());
    let kept = kept.unwrap();
    assert_eq!(kept.record.covers, whole.covers);
    assert!(kept.record.disclosures.is_empty());
    assert!(!format!("{:?}", log.leaf(kept.index).unwrap()).contains("192.0.2.7"));
}

/// Keeps what the PDP gives, whatever it is.
struct Shelf(crate::policies::Policies, Log);

const PDP: &str = "spiffe://acme.test/palisade/pdp";

impl Keep for Shelf {
    fn takes_from(&self, peer: &SpiffeId) -> bool {
        peer.as_str() == PDP
    }

    fn has(&self, digest: &crate::merkle::Hash) -> Result<bool, Unkept> {
        Ok(self.0.read(digest)?.is_some())
    }

    fn keep(&self, digest: &crate::merkle::Hash, bundle: Bytes) -> Result<(), Unkept> {
        match &*bundle {
            b"" => Err(Unkept::Other("it is empty".to_owned())),
            bundle => Ok(self.0.keep(&self.1, digest, bundle)?),
        }
    }
}

async fn keeper(
    dir: &TempDir,
    peer: Option<Peer>,
) -> (TestServer, IngestClient<tonic::transport::Channel>) {
    let log = open_log(dir);
    let shelf = Shelf(crate::policies::Policies::beside(dir.path()), log.clone());
    let ingest = Ingest::new(log, Clock::system()).keeping(Arc::new(shelf));
    let server = TestServer::of(ingest, peer).await;
    let client = IngestClient::new(server.channel().await);
    (server, client)
}

fn parts(bundle: &[u8]) -> impl tokio_stream::Stream<Item = RevisionPart> + use<> {
    let part = |(n, bytes): (usize, &[u8])| RevisionPart {
        digest: if n == 0 { vec![7; 32] } else { Vec::new() },
        bundle: bytes.to_vec(),
    };
    let parts: Vec<_> = bundle.chunks(PART_LEN_MAX).enumerate().map(part).collect();
    tokio_stream::iter(parts)
}

fn named(len: usize) -> RevisionName {
    RevisionName {
        digest: vec![7; len],
    }
}

/// In parts, whole, and once: what is there is said to be.
#[tokio::test]
async fn a_revision_of_the_pdp_is_kept_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut client) = keeper(&dir, Some(peer(PDP, FOREVER))).await;
    let kept = client.has_revision(named(32)).await.unwrap().into_inner();
    assert!(!kept.kept);
    let bundle: Vec<u8> = (0..PART_LEN_MAX * 2 + 5).map(|n| n as u8).collect();
    let kept = client.keep_revision(parts(&bundle)).await.unwrap();
    assert!(kept.into_inner().kept);
    let kept = client.has_revision(named(32)).await.unwrap().into_inner();
    assert!(kept.kept);
    let policies = crate::policies::Policies::beside(dir.path());
    assert_eq!(policies.read(&[7; 32]).unwrap(), Some(bundle));
    // No digest, no part, and what its keeper does not know.
    let code = |status: Status| status.code();
    let short = client.has_revision(named(31)).await.map_err(code);
    assert_eq!(short.unwrap_err(), Code::InvalidArgument);
    let none = client.keep_revision(parts(b"")).await.map_err(code);
    assert_eq!(none.unwrap_err(), Code::InvalidArgument);
    let empty = RevisionPart {
        digest: vec![7; 32],
        bundle: Vec::new(),
    };
    let empty = client.keep_revision(tokio_stream::iter([empty])).await;
    assert_eq!(empty.map_err(code).unwrap_err(), Code::InvalidArgument);
}

/// Whoever else has a certificate of the mesh gives no policies, and asks for none.
#[tokio::test]
async fn revisions_are_taken_from_the_pdp_alone() {
    for (stranger, expected) in [
        (Some(peer(REPORTER, FOREVER)), Code::PermissionDenied),
        (None, Code::Unauthenticated),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (_server, mut client) = keeper(&dir, stranger).await;
        let kept = client.keep_revision(parts(b"texts")).await;
        assert_eq!(kept.unwrap_err().code(), expected);
        let asked = client.has_revision(named(32)).await;
        assert_eq!(asked.unwrap_err().code(), expected);
        let policies = crate::policies::Policies::beside(dir.path());
        assert_eq!(policies.read(&[7; 32]).unwrap(), None);
    }
}
