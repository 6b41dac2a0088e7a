//! The bounds of what is on its way, over real connections.

use std::time::Instant;

use http_body::Body as _;
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
    ingest::Ingest,
    log::Log,
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
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    let ingest = Ingest {
        limits,
        ..Ingest::new(log.clone(), Clock::system())
    };
    let server = TestServer::of(ingest, Some(peer(REPORTER, i64::MAX))).await;
    Stage {
        _dir: dir,
        log,
        server,
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
    let (pieces, receiver) = mpsc::channel(64);
    let request = http::Request::post("/palisade.audit.v1.Ingest/Push")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Pieces(receiver)))
        .unwrap();
    std::future::poll_fn(|cx| channel.poll_ready(cx))
        .await
        .unwrap();
    let answer = soon(channel.call(request)).await.unwrap();
    (pieces, answer.into_body())
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
