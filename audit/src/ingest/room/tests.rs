//! The bounds of what is on its way, over real connections.

use std::time::Instant;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use palisade_mesh::{
    clock::Clock,
    wire::audit::{Batch, ingest_client::IngestClient},
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, transport::Channel};
use ulid::Ulid;

use super::*;
use crate::{
    ingest::{Keep, Unkept},
    log::Log,
    merkle::Hash,
    stream::StreamKey,
    testing::{REPORTER, TestServer, encoded, open_log, paths, peer, reporter, soon},
};

const TIME: Duration = Duration::from_millis(700);

struct Stage {
    _dir: tempfile::TempDir,
    log: Log,
    server: TestServer,
}

async fn stage(limits: Limits) -> Stage {
    stage_of(limits, REPORTER).await
}

/// One whose peers are all `id`.
async fn stage_of(limits: Limits, id: &str) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    let ingest = Ingest {
        limits,
        ..Ingest::new(log.clone(), Clock::system()).keeping(Arc::new(Empty))
    };
    let server = TestServer::of(ingest, Some(peer(id, i64::MAX))).await;
    Stage {
        _dir: dir,
        log,
        server,
    }
}

const PDP: &str = "spiffe://acme.test/palisade/pdp";

/// Has no revision.
struct Empty;

impl Keep for Empty {
    fn takes_from(&self, peer: &SpiffeId) -> bool {
        peer.as_str() == PDP
    }

    fn has(&self, _digest: &Hash) -> Result<bool, Unkept> {
        Ok(false)
    }

    fn keep(&self, _digest: &Hash, _bundle: Bytes) -> Result<(), Unkept> {
        Ok(())
    }
}

/// A message with a batch of one record, as it is on the connection.
fn message(worker: u32) -> Bytes {
    let stream = StreamKey {
        reporter: reporter(),
        boot: Ulid::from_parts(1, 1),
        worker,
    };
    let batch = Batch {
        stream: Some(stream.to_wire()),
        first_sequence: 1,
        records: vec![encoded(u64::from(worker))],
    };
    let batch = batch.encode_to_vec();
    let len = u32::try_from(batch.len()).unwrap().to_be_bytes();
    [&[0][..], &len, &batch].concat().into()
}

/// A body that a test says piece by piece.
struct Pieces(mpsc::Receiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.0.poll_recv(cx);
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A stream of batches, said byte by byte; and what it is answered.
async fn raw(channel: &mut Channel) -> (mpsc::Sender<Bytes>, Body) {
    let (pieces, request) = said("Push");
    std::future::poll_fn(|cx| channel.poll_ready(cx))
        .await
        .unwrap();
    let answer = soon(channel.call(request)).await.unwrap();
    (pieces, answer.into_body())
}

/// A call, said byte by byte.
fn said(call: &str) -> (mpsc::Sender<Bytes>, http::Request<Body>) {
    let (pieces, receiver) = mpsc::channel(64);
    let request = http::Request::post(format!("/palisade.audit.v1.Ingest/{call}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Pieces(receiver)))
        .unwrap();
    (pieces, request)
}

/// How a call is refused that has said `bytes` and does not end.
async fn refused(channel: &mut Channel, call: &str, bytes: &[u8]) -> Code {
    let (pieces, request) = said(call);
    pieces.send(Bytes::copy_from_slice(bytes)).await.unwrap();
    std::future::poll_fn(|cx| channel.poll_ready(cx))
        .await
        .unwrap();
    let answer = soon(channel.call(request)).await.unwrap();
    let status = answer.headers().get("grpc-status").unwrap();
    Code::from_bytes(status.as_bytes())
}

/// How a stream ended.
async fn ended(mut answer: Body) -> Code {
    loop {
        let frame = soon(std::future::poll_fn(|cx| {
            Pin::new(&mut answer).poll_frame(cx)
        }))
        .await;
        let Some(Ok(frame)) = frame else {
            panic!("no trailers: {frame:?}");
        };
        if let Ok(trailers) = frame.into_trailers() {
            return Code::from_bytes(trailers.get("grpc-status").unwrap().as_bytes());
        }
    }
}

#[tokio::test]
async fn an_identity_has_so_many_streams_and_no_more() {
    let stage = stage(Limits {
        streams: 2,
        ..Limits::default()
    })
    .await;
    let mut client = IngestClient::new(stage.server.channel().await);
    let mut open = async || {
        let (batches, receiver) = mpsc::channel::<Batch>(1);
        let acks = client.push(ReceiverStream::new(receiver)).await;
        acks.map(|acks| (batches, acks.into_inner()))
    };
    let first = open().await.unwrap();
    let _second = open().await.unwrap();
    let refused = open().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("2 streams"), "{refused}");
    // Its place is free once it has ended.
    let (batches, mut acks) = first;
    drop(batches);
    while soon(acks.message()).await.unwrap().is_some() {}
    drop(acks);
    soon(async {
        while open().await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Also where it comes in small pieces; one that ends in time is taken.
#[tokio::test]
async fn a_message_that_does_not_end_ends_its_stream() {
    let stage = stage(Limits {
        message_time: TIME,
        ..Limits::default()
    })
    .await;
    let mut channel = stage.server.channel().await;
    let (pieces, answer) = raw(&mut channel).await;
    for byte in message(1) {
        pieces.send(Bytes::copy_from_slice(&[byte])).await.unwrap();
    }
    let mut len = stage.log.subscribe();
    let whole = soon(len.wait_for(|_| !paths(&stage.log).is_empty()));
    whole.await.unwrap();
    // Between messages it may rest as long as it likes.
    let begun = Instant::now();
    while begun.elapsed() < TIME * 2 {
        tokio::task::yield_now().await;
    }
    let half = message(1);
    pieces.send(half.slice(..half.len() - 1)).await.unwrap();
    assert_eq!(ended(answer).await, Code::DeadlineExceeded);
    assert_eq!(paths(&stage.log).len(), 1);
}

/// Nothing of a message is gathered that there is no room for: it waits in its connection
/// until others of the identity have ended.
#[tokio::test]
async fn messages_wait_for_room_of_their_identity() {
    let len = message(1).len();
    let stage = stage(Limits {
        bytes: len + len / 2,
        message_time: TIME,
        ..Limits::default()
    })
    .await;
    let mut channel = stage.server.channel().await;
    let (first, answer) = raw(&mut channel).await;
    let begun = Instant::now();
    first.send(message(1).slice(..len - 1)).await.unwrap();
    let (second, _answer) = raw(&mut channel).await;
    second.send(message(2)).await.unwrap();
    let mut len = stage.log.subscribe();
    soon(len.wait_for(|_| !paths(&stage.log).is_empty()))
        .await
        .unwrap();
    assert!(begun.elapsed() >= TIME, "it waited");
    assert_eq!(ended(answer).await, Code::DeadlineExceeded);
    assert_eq!(paths(&stage.log), ["/orders/2"]);
    // Every other one after the other: room comes back.
    for worker in 3..20 {
        let (pieces, _answer) = raw(&mut channel).await;
        pieces.send(message(worker)).await.unwrap();
        let taken = worker as usize - 1;
        soon(len.wait_for(|_| paths(&stage.log).len() == taken))
            .await
            .unwrap();
    }
}

/// Nothing is gathered of a call about revisions that is not the PDP's; of the PDP's it is little,
/// and not for long.
#[tokio::test]
async fn a_question_about_revisions_is_the_pdp_s_and_short() {
    let limits = Limits {
        message_time: TIME,
        ..Limits::default()
    };
    let most = u32::try_from(BATCH_BYTES_MAX).unwrap().to_be_bytes();
    let head = [&[0][..], &most, &[0; 8]].concat();
    let others = stage(limits).await;
    let mut channel = others.server.channel().await;
    let begun = Instant::now();
    for call in ["HasRevision", "KeepRevision"] {
        let code = refused(&mut channel, call, &head).await;
        assert_eq!(code, Code::PermissionDenied, "{call}");
    }
    assert!(begun.elapsed() < TIME, "before it was read");
    let own = stage_of(limits, PDP).await;
    let mut channel = own.server.channel().await;
    let code = refused(&mut channel, "HasRevision", &head).await;
    assert_eq!(code, Code::DeadlineExceeded);
    let long = [&head[..], &[0; 1024]].concat();
    let code = refused(&mut channel, "HasRevision", &long).await;
    assert_eq!(code, Code::OutOfRange);
}

#[tokio::test]
async fn a_longer_batch_is_refused_by_its_length() {
    let stage = stage(Limits::default()).await;
    let mut channel = stage.server.channel().await;
    let (pieces, answer) = raw(&mut channel).await;
    let len = u32::try_from(BATCH_BYTES_MAX + 1).unwrap().to_be_bytes();
    let head = [&[0][..], &len].concat();
    pieces.send(head.into()).await.unwrap();
    assert_eq!(ended(answer).await, Code::OutOfRange);
}

/// Whether a message has no room now.
async fn waits(seat: &Seat, len: usize) -> bool {
    let mut room = std::pin::pin!(seat.room(len));
    std::future::poll_fn(|cx| Poll::Ready(room.as_mut().poll(cx).is_pending())).await
}

/// A replica, or whoever has its key, holds up nobody with another certificate; all of an
/// identity wait for each other only where each has its share.
#[tokio::test]
async fn a_certificate_has_not_all_that_its_identity_may_have() {
    let rooms = Rooms::new(Limits {
        bytes_certificate: 100,
        bytes: 150,
        bytes_all: 220,
        ..Limits::default()
    });
    let of = |id: &str, serial: u8| {
        let peer = Peer {
            serial: Arc::from([serial]),
            ..peer(id, i64::MAX)
        };
        rooms.seat(&peer).unwrap()
    };
    let (thief, again, sibling) = (of(REPORTER, 1), of(REPORTER, 1), of(REPORTER, 2));
    let first = thief.room(100).await;
    assert!(waits(&again, 1).await, "it is of the same certificate");
    let _second = sibling.room(50).await;
    assert!(waits(&sibling, 1).await, "the identity has its share");
    let other = of("spiffe://acme.test/ns/shop/sa/other", 1);
    let _third = other.room(70).await;
    assert!(waits(&other, 1).await, "all have theirs");
    drop(first);
    let _fourth = again.room(100).await;
}
