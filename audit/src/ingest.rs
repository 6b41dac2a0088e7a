//! The door through which records arrive.
//!
//! One gRPC connection carries many streams of one reporter, the one its SVID
//! names. Batches go to the log in the order they come; each is acknowledged when
//! it is durable and again when it is under a checkpoint. When the log cannot be
//! written the connection ends, so that the sender starts again at what was
//! acknowledged and nothing is skipped.

use std::sync::Arc;

use bytes::Bytes;
use palisade_mesh::{
    clock::Clock,
    link::{Gate, Link, LinkAction},
    spiffe_id::SpiffeId,
    svid::Peer,
    wire::{
        audit::{Ack, Batch, RevisionKept, RevisionName, RevisionPart, StreamId, ingest_server},
        record::{Record, record::Body},
    },
};
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    envelope::{RECORD_LEN_MAX, RecordPeek},
    log::{Log, Pending, Receipt},
    privacy,
    stream::{SEQUENCE_MAX, StreamIdError, StreamKey},
};

mod acks;
mod entitled;
mod messages;
mod revisions;
mod room;

pub use revisions::{Keep, PART_LEN_MAX, Unkept};
pub use room::Metered;

use messages::{Handed, Messages};
use room::{Room, Rooms};

/// Most records in a batch.
pub const BATCH_RECORDS_MAX: usize = 1024;

/// Largest batch message, in bytes.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// Records a connection may have in flight, sent and not yet durable.
pub const CREDIT: u32 = 8 * 1024;

/// Batches of a connection that wait for their fsync; the next is not read.
const IN_FLIGHT_BATCHES: usize = 32;

/// Acknowledgements that wait for a slow peer; the next waits with them.
const ACKS_WAITING: usize = 64;

/// Why a batch is not taken; nothing of it is kept.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refused {
    /// It names no stream.
    #[error(transparent)]
    Stream(#[from] StreamIdError),
    /// It is of somebody else.
    #[error("stream is of `{stream}`, the peer is `{peer}`")]
    Reporter {
        /// Whom the stream names.
        stream: String,
        /// Who sends it.
        peer: String,
    },
    /// It holds nothing or too much.
    #[error("batch of {0} records; a batch has 1 to {BATCH_RECORDS_MAX}")]
    Records(usize),
    /// A number is out of range.
    #[error("sequence {0} is out of range")]
    Sequence(u64),
    /// A record is too long.
    #[error("record of {0} bytes exceeds the limit of {RECORD_LEN_MAX}")]
    RecordLen(usize),
    /// A record cannot be read, or says that somebody else reports it.
    #[error("record {sequence} is malformed: {cause}")]
    Record {
        /// Its number.
        sequence: u64,
        /// What is wrong.
        cause: String,
    },
    /// A record is not its reporter's to leave.
    #[error("record {sequence} is not its reporter's to leave: {cause}")]
    Class {
        /// Its number.
        sequence: u64,
        /// Its class, and who may.
        cause: String,
    },
}

impl Refused {
    /// Whether it is for what a record is, so that it is taken at no other time either.
    fn is_for_ever(&self) -> bool {
        matches!(
            self,
            Self::Class { .. } | Self::Record { .. } | Self::RecordLen(_)
        )
    }
}

/// Takes records into a log.
#[derive(Clone)]
pub struct Ingest {
    log: Log,
    clock: Clock,
    gate: Option<Arc<dyn Gate>>,
    barring: Option<Arc<dyn Barring>>,
    doubt: Option<Arc<dyn Doubt>>,
    keep: Option<Arc<dyn Keep>>,
    /// One revision is taken in at a time: it may have [`crate::policies::BUNDLE_LEN_MAX`] bytes.
    taking: Arc<Semaphore>,
    limits: room::Limits,
}

/// Whoever knows the kill list.
pub trait Barring: Send + Sync {
    /// Why nothing is taken from `peer` any more; none where it is not barred.
    fn barred(&self, peer: &Peer) -> Option<String>;
}

/// Whoever knows which services a reporter is: it is shown every decision that enters,
/// and notes those that name another's service. The log keeps them all the same:
/// what a reporter said is evidence.
pub trait Doubt: Send + Sync {
    /// A decision about `service` was reported by `reporter`.
    fn decision(&self, reporter: &SpiffeId, service: &str);
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest").finish_non_exhaustive()
    }
}

/// The gRPC service around an [`Ingest`].
pub type IngestService = Metered<ingest_server::IngestServer<Ingest>>;

impl Ingest {
    /// Takes records into `log`.
    pub fn new(log: Log, clock: Clock) -> Self {
        Self {
            log,
            clock,
            gate: None,
            barring: None,
            doubt: None,
            keep: None,
            taking: Arc::new(Semaphore::new(1)),
            limits: room::Limits::default(),
        }
    }

    /// Asks `gate` about every peer before its first batch.
    #[must_use]
    pub fn guarded(mut self, gate: Arc<dyn Gate>) -> Self {
        self.gate = Some(gate);
        self
    }

    /// Asks `barring` about every peer, with each batch.
    #[must_use]
    pub fn barring(mut self, barring: Arc<dyn Barring>) -> Self {
        self.barring = Some(barring);
        self
    }

    /// Shows `doubt` every decision.
    #[must_use]
    pub fn doubted(mut self, doubt: Arc<dyn Doubt>) -> Self {
        self.doubt = Some(doubt);
        self
    }

    /// Has `keep` take the policy revisions that a PDP gives.
    #[must_use]
    pub fn keeping(mut self, keep: Arc<dyn Keep>) -> Self {
        self.keep = Some(keep);
        self
    }

    /// The gRPC service. Requests must carry the [`Peer`] of their connection as
    /// an extension.
    pub fn service(self) -> IngestService {
        let rooms = Rooms::new(self.limits);
        let server = ingest_server::IngestServer::new(self.clone())
            .max_decoding_message_size(BATCH_BYTES_MAX);
        Metered::new(server, rooms, self)
    }

    /// Takes a batch from this process.
    ///
    /// # Errors
    /// [`Refused`] when it is beyond a limit or malformed; what becomes of it else
    /// is told by the receipt.
    pub fn push(
        &self,
        stream: &StreamId,
        first_sequence: u64,
        records: Vec<Bytes>,
    ) -> Result<Receipt, Refused> {
        let stream = Arc::new(StreamKey::from_wire(stream)?);
        let batch = pending(&stream, first_sequence, records)?;
        Ok(self.log.append(batch))
    }

    /// Shows decisions to whoever knows the services.
    fn show(&self, stream: &StreamKey, batch: &[Pending]) {
        let Some(doubt) = &self.doubt else { return };
        for pending in batch {
            // It was decoded before, or it would not be pending.
            let record = Record::decode(pending.record.clone());
            if let Ok(Some(Body::Decision(decision))) = record.map(|r| r.body) {
                doubt.decision(&stream.reporter, &decision.service);
            }
        }
    }

    /// Lets a peer in that the gate, where there is one, permits.
    fn admit(&self, peer: &Peer) -> Result<(), Status> {
        self.present(peer)?;
        let Some(gate) = &self.gate else {
            return Ok(());
        };
        let asked = gate.ask(&Link::new(&peer.id, LinkAction::Push));
        asked.map_err(|refused| Status::permission_denied(refused.to_string()))
    }

    /// Whether the peer is still who it proved to be, and not barred.
    fn present(&self, peer: &Peer) -> Result<(), Status> {
        if peer.not_after_s < self.clock.now_us() / 1_000_000 {
            return Err(Status::unauthenticated(revisions::EXPIRED));
        }
        let barred = self.barring.as_ref().and_then(|b| b.barred(peer));
        barred.map_or(Ok(()), |why| Err(Status::permission_denied(why)))
    }

    /// Waits until the peer may leave nothing more; says why.
    async fn gone(&self, peer: &Peer) -> Status {
        loop {
            tokio::time::sleep(self.limits.present_every).await;
            if let Err(why) = self.present(peer) {
                return why;
            }
        }
    }

    /// Who keeps revisions, if whoever asks may give them. Asked before a call is read, and again
    /// when it was.
    fn keeper(&self, peer: Option<&Peer>) -> Result<Arc<dyn Keep>, Status> {
        let keep = self.keep.clone();
        let keep = keep.ok_or_else(|| Status::unimplemented("no revisions are kept here"))?;
        let peer = revisions::giver(&*keep, peer, self.clock.now_us() / 1_000_000)?;
        self.admit(peer)?;
        Ok(keep)
    }

    /// Reads batches until the peer ends, misbehaves or runs out of identity.
    async fn read(
        self,
        peer: Peer,
        mut messages: Messages,
        in_flight: mpsc::Sender<acks::InFlight>,
    ) -> Result<(), Status> {
        let mut known: Option<(StreamId, Arc<StreamKey>)> = None;
        while let Some((batch, room)) = messages.next().await? {
            self.present(&peer)?;
            let id = batch
                .stream
                .ok_or_else(|| refused(&StreamIdError::Missing.into()))?;
            let stream = match &known {
                Some((same, stream)) if *same == id => stream.clone(),
                _ => Arc::new(StreamKey::from_wire(&id).map_err(|e| refused(&e.into()))?),
            };
            if stream.reporter != peer.id {
                let refusal = Refused::Reporter {
                    stream: stream.reporter.to_string(),
                    peer: peer.id.to_string(),
                };
                return Err(Status::permission_denied(refusal.to_string()));
            }
            match pending(&stream, batch.first_sequence, batch.records) {
                Ok(batch) => {
                    self.show(&stream, &batch);
                    let last = batch.last().map_or(0, |pending| pending.sequence);
                    let receipt = self.log.append_when_ready(batch).await;
                    keep_room(room, receipt.clone());
                    let item = acks::InFlight::Receipt {
                        stream: stream.clone(),
                        last,
                        receipt,
                    };
                    if in_flight.send(item).await.is_err() {
                        return Ok(());
                    }
                }
                Err(refusal) => {
                    tracing::warn!(peer = %peer.id, %stream, error = %refusal, "batch refused");
                    let item = acks::InFlight::Refused {
                        stream: stream.clone(),
                        refusal: refusal.to_string(),
                        never: refusal.is_for_ever(),
                    };
                    // Going on would leave a gap where the batch was.
                    let _ = in_flight.send(item).await;
                    return Ok(());
                }
            }
            known = Some((id, stream));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl ingest_server::Ingest for Ingest {
    type PushStream = ReceiverStream<Result<Ack, Status>>;

    async fn push(
        &self,
        request: Request<Streaming<Batch>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .cloned()
            .ok_or_else(|| Status::unauthenticated("the connection has proven no identity"))?;
        self.admit(&peer)?;
        let (acks, answers) = mpsc::channel(ACKS_WAITING);
        let (in_flight, receipts) = mpsc::channel(IN_FLIGHT_BATCHES);
        let checkpoints = self.log.subscribe_checkpoints();
        let handed = request.extensions().get::<Handed>();
        let messages = handed
            .and_then(Handed::take)
            .ok_or_else(|| Status::internal("bug: a stream without its messages"))?;
        let read = self.clone().read(peer.clone(), messages, in_flight);
        let door = self.clone();
        tokio::spawn(async move {
            let failed = acks.clone();
            let read = async {
                // Who rests, or waits for room, is asked for as well.
                let ended = tokio::select! {
                    ended = read => ended,
                    why = door.gone(&peer) => Err(why),
                };
                if let Err(status) = ended {
                    // The peer may be gone, then nobody needs to know.
                    let _ = failed.send(Err(status)).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = acks::acknowledge(receipts, checkpoints, acks) => {}
                () = read => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn has_revision(
        &self,
        request: Request<RevisionName>,
    ) -> Result<Response<RevisionKept>, Status> {
        let keep = self.keeper(request.extensions().get::<Peer>())?;
        let digest = revisions::digest(&request.into_inner().digest)?;
        let kept = blocking(move || keep.has(&digest)).await?;
        Ok(Response::new(RevisionKept { kept }))
    }

    async fn keep_revision(
        &self,
        request: Request<Streaming<RevisionPart>>,
    ) -> Result<Response<RevisionKept>, Status> {
        let keep = self.keeper(request.extensions().get::<Peer>())?;
        let turn = self.taking.clone().try_acquire_owned();
        let turn = turn.map_err(|_| Status::resource_exhausted("another revision is coming in"))?;
        let arriving = revisions::whole(request.into_inner());
        let arrived = tokio::time::timeout(revisions::ARRIVAL_MAX, arriving).await;
        let late = |_| Status::deadline_exceeded("the revision did not arrive in time");
        let (digest, bundle) = arrived.map_err(late)??;
        blocking(move || {
            let _turn = turn;
            keep.keep(&digest, bundle)
        })
        .await?;
        Ok(Response::new(RevisionKept { kept: true }))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Unkept> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|e| Status::internal(format!("bug: {e}")))?;
    done.map_err(Status::from)
}

/// Keeps the room of a batch until the log has written it, for so long it is in memory; also of
/// a peer that reads no answers, and no longer.
fn keep_room(room: Room, mut receipt: Receipt) {
    tokio::spawn(async move {
        let _ = receipt.durable().await;
        drop(room);
    });
}

fn refused(refusal: &Refused) -> Status {
    Status::invalid_argument(refusal.to_string())
}

/// Checks a batch and numbers its records.
fn pending(
    stream: &Arc<StreamKey>,
    first_sequence: u64,
    records: Vec<Bytes>,
) -> Result<Vec<Pending>, Refused> {
    if records.is_empty() || records.len() > BATCH_RECORDS_MAX {
        return Err(Refused::Records(records.len()));
    }
    let last = first_sequence.saturating_add(records.len() as u64 - 1);
    if first_sequence == 0 || last > SEQUENCE_MAX {
        return Err(Refused::Sequence(first_sequence));
    }
    let number = |(sequence, record): (u64, Bytes)| {
        check(stream, sequence, &record)?;
        Ok(Pending {
            stream: stream.clone(),
            sequence,
            record,
        })
    };
    (first_sequence..).zip(records).map(number).collect()
}

/// What enters the log can be read again, and names who reported it.
fn check(stream: &StreamKey, sequence: u64, bytes: &Bytes) -> Result<(), Refused> {
    if bytes.len() > RECORD_LEN_MAX {
        return Err(Refused::RecordLen(bytes.len()));
    }
    let malformed = |cause: String| Refused::Record { sequence, cause };
    let record = Record::decode(bytes.clone()).map_err(|e| malformed(e.to_string()))?;
    if record.reporter != stream.reporter.as_str() {
        let reporter = record.reporter;
        return Err(malformed(format!("its reporter is `{reporter}`")));
    }
    if record.id.len() != 16 {
        return Err(malformed("its id is no ULID".into()));
    }
    let Some(peek) = RecordPeek::new(bytes) else {
        return Err(malformed(
            "it has two bodies, or something follows its disclosures".into(),
        ));
    };
    privacy::check(&record).map_err(|what| malformed(what.into()))?;
    entitled::check(&stream.reporter, &record, peek.class_name())
        .map_err(|cause| Refused::Class { sequence, cause })?;
    Ok(())
}

#[cfg(test)]
mod tests;
