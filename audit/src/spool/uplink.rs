//! Sends what is spooled to the log, and lets go what the log has for good.
//!
//! A connection starts again at what was acknowledged as *checkpointed*: what was
//! only durable may be gone after a recovery. The log drops what it has already.

use std::{collections::VecDeque, fs::File, io, sync::Arc, sync::atomic::Ordering, time::Duration};

use palisade_mesh::wire::audit::{Ack, Batch, ingest_client::IngestClient};
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use ulid::Ulid;

use super::{
    Shared, Spool,
    file::{self, Found, Survey},
    queue::{Cursor, Extent, Place},
    refusal::{Refusal, Sent},
};
use crate::{buffer::Chunk, files, ingest::BATCH_RECORDS_MAX, stream::StreamKey};

/// Bytes of records in a batch, unless a single record is larger.
const BATCH_BYTES: usize = 1 << 20;

/// Shortest and longest pause between connections; jitter halves it at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Time without an answer, while one is due, after which a connection is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Batches between us and the transport.
const BATCHES_AHEAD: usize = 4;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("{0}")]
    Status(#[from] tonic::Status),
    #[error("log closed the stream")]
    Closed,
    #[error("log refused a batch: {0}")]
    Refused(String),
    #[error("log did not answer for {} s", ANSWER_TIMEOUT.as_secs())]
    Silent,
    #[error("spool file: {0}")]
    Io(#[from] io::Error),
}

impl Spool {
    /// Sends everything to the log that `connect` leads to, for as long as the
    /// spool is open; returns when it is closed and all is delivered. Connects
    /// again by itself. To be run once, as a task; may be dropped at any time.
    pub async fn uplink<C, F, E>(self: Arc<Self>, connect: C)
    where
        C: Fn() -> F,
        F: Future<Output = Result<Channel, E>>,
        E: std::fmt::Display,
    {
        let shared = self.shared.clone();
        // The task must not keep the spool from closing.
        drop(self);
        let mut pause = BACKOFF.0;
        let mut refusal = Refusal::default();
        loop {
            let disconnected = Disconnect(&shared);
            let ended = match connect().await {
                Ok(channel) => Session::run(&shared, channel, &mut pause, &mut refusal).await,
                Err(e) => Err(Ended::Connect(e.to_string())),
            };
            drop(disconnected);
            match ended {
                Ok(()) => {
                    // The next start has nothing of it to tell.
                    let remember = move || shared.remember(files::Sync::No);
                    let _ = tokio::task::spawn_blocking(remember).await;
                    return;
                }
                Err(e) => {
                    tracing::warn!(error = %e, retry_in = ?pause, "records cannot be sent");
                }
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }
}

/// Notes the end of a connection, however it came.
struct Disconnect<'a>(&'a Shared);

impl Drop for Disconnect<'_> {
    fn drop(&mut self) {
        self.0.connected.store(false, Ordering::Relaxed);
    }
}

/// One connection.
struct Session<'a> {
    shared: &'a Arc<Shared>,
    cursor: Cursor,
    /// The file at the cursor.
    file: Option<(u64, Arc<File>)>,
    /// Read and not sent.
    ready: VecDeque<Batch>,
    /// Sent and not durable.
    sent: VecDeque<Sent>,
    /// The first record of each stream that this connection sent.
    begun: FxHashMap<(Ulid, u32), u64>,
    refusal: &'a mut Refusal,
    in_flight: u32,
    credit: u32,
}

impl<'a> Session<'a> {
    /// Sends until the spool is closed and everything delivered.
    async fn run(
        shared: &'a Arc<Shared>,
        channel: Channel,
        pause: &mut Duration,
        refusal: &'a mut Refusal,
    ) -> Result<(), Ended> {
        let (batches, receiver) = mpsc::channel(BATCHES_AHEAD);
        let mut client = IngestClient::new(channel);
        let answer = client.push(ReceiverStream::new(receiver));
        let mut acks = tokio::time::timeout(ANSWER_TIMEOUT, answer)
            .await
            .map_err(|_| Ended::Silent)??
            .into_inner();
        shared.connected.store(true, Ordering::Relaxed);
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let mut session = Self {
            shared,
            cursor: Cursor::default(),
            file: None,
            ready: VecDeque::new(),
            sent: VecDeque::new(),
            begun: FxHashMap::default(),
            refusal,
            in_flight: 0,
            credit: 0,
        };
        let mut moved = shared.moved.subscribe();
        loop {
            moved.mark_unchanged();
            if session.ready.is_empty() {
                session.fetch().await?;
            }
            if shared.ended.load(Ordering::SeqCst) && shared.queue().waiting() == 0 {
                return Ok(());
            }
            let answer_due = session.credit == 0 || shared.queue().waiting() > 0;
            tokio::select! {
                place = batches.reserve(), if session.may_send() => {
                    let place = place.map_err(|_| Ended::Closed)?;
                    if let Some(batch) = session.next() {
                        place.send(batch);
                    }
                }
                ack = acks.message() => {
                    session.acknowledged(ack?.ok_or(Ended::Closed)?).await?;
                    // A welcome is no sign that there is a place now.
                    if !session.refusal.waits() {
                        *pause = BACKOFF.0;
                    }
                }
                _ = moved.changed(), if session.ready.is_empty() => {}
                () = tokio::time::sleep(ANSWER_TIMEOUT), if answer_due => {
                    return Err(Ended::Silent);
                }
            }
        }
    }

    /// Whether the next batch fits what the log allows; one alone always does.
    fn may_send(&self) -> bool {
        self.ready.front().is_some_and(|batch| {
            let more = self.in_flight + batch.records.len() as u32;
            self.credit > 0 && (more <= self.credit || self.in_flight == 0)
        })
    }

    fn next(&mut self) -> Option<Batch> {
        let batch = self.ready.pop_front()?;
        let count = batch.records.len() as u32;
        let alone = batch.records.first().filter(|_| count == 1);
        self.sent.push_back(Sent {
            stream: batch.stream.clone().unwrap_or_default(),
            first: batch.first_sequence,
            last: batch.first_sequence + u64::from(count) - 1,
            record: alone.cloned(),
        });
        self.in_flight += count;
        Some(batch)
    }

    async fn acknowledged(&mut self, ack: Ack) -> Result<(), Ended> {
        if !ack.refused.is_empty() {
            return Err(self.refused(ack).await);
        }
        self.credit = ack.credit;
        let Some(stream) = ack.stream else {
            return Ok(());
        };
        // Batches become durable in the order they were sent.
        while let Some(sent) = self
            .sent
            .pop_front_if(|sent| sent.stream == stream && sent.last <= ack.durable)
        {
            self.in_flight -= (sent.last - sent.first + 1) as u32;
        }
        if self.refusal.taken(&stream, ack.durable) {
            self.shared.forget_refusal();
        }
        let Ok(key) = StreamKey::from_wire(&stream) else {
            return Ok(());
        };
        if key.reporter != self.shared.reporter {
            return Ok(());
        }
        let now = self.shared.clock.now_us();
        self.shared.last_ack_us.store(now, Ordering::Relaxed);
        let mut queue = self.shared.queue();
        if queue.checkpointed(key.boot, key.worker, ack.checkpointed) {
            let freed = queue.free();
            drop(queue);
            self.shared.release(freed);
            self.shared.moved();
        }
        Ok(())
    }

    /// What comes of a batch that the log does not take.
    async fn refused(&mut self, ack: Ack) -> Ended {
        let words = ack.refused;
        self.shared.note_refusal(&words);
        tracing::error!(refused = %words, "log refused records");
        // Answers come in the order of the batches, so it is the first without one.
        let sent = self.sent.pop_front();
        let sent = sent.filter(|sent| Some(&sent.stream) == ack.stream.as_ref());
        if let Some(sent) = sent.as_ref().filter(|_| !ack.never) {
            self.refusal.note_for_now(sent);
            return Ended::Refused(words);
        }
        let Some(sent) = sent.filter(|sent| self.refusal.note(sent)) else {
            return Ended::Refused(words);
        };
        let (Some(record), Ok(key)) = (sent.record, StreamKey::from_wire(&sent.stream)) else {
            return Ended::Refused(words);
        };
        // What was sent before it is durable, and may not be under a checkpoint yet.
        if self.begun.get(&(key.boot, key.worker)) != Some(&sent.first) {
            return Ended::Refused(words);
        }
        let (shared, said) = (self.shared.clone(), words.clone());
        let aside = tokio::task::spawn_blocking(move || {
            shared.set_aside(key.boot, key.worker, sent.first, &record, &said)
        });
        match aside.await.map_err(io::Error::other) {
            Ok(Ok(true)) => Ended::Refused(words),
            Ok(Ok(false)) => {
                self.refusal.wait();
                Ended::Refused(words)
            }
            Ok(Err(e)) | Err(e) => e.into(),
        }
    }

    /// Reads on until there is a batch to send or nothing is left to read.
    async fn fetch(&mut self) -> Result<(), Ended> {
        while self.ready.is_empty() {
            let Some(place) = self.shared.queue().place(self.cursor) else {
                return Ok(());
            };
            if let Some((boot, chunk)) = self.read(place).await? {
                self.split(boot, &chunk);
            }
        }
        Ok(())
    }

    /// Reads the chunk at `place` and moves on.
    async fn read(&mut self, place: Place) -> Result<Option<(Ulid, Chunk)>, Ended> {
        let Cursor { id, offset } = place.cursor;
        let open = self.file.take().filter(|(open, _)| *open == id);
        let read = tokio::task::spawn_blocking(move || {
            // What the writer holds open can be read even if its name is gone.
            let file = match (place.file, open) {
                (Some(file), _) | (None, Some((_, file))) => file,
                (None, None) => Arc::new(File::open(&place.path)?),
            };
            let found = file::read_chunk(&file, offset, place.end, place.marker.as_ref())?;
            io::Result::Ok((file, found))
        });
        let (file, found) = match read.await {
            Ok(Ok(read)) => read,
            // Delivered and removed while we came here.
            Ok(Err(e)) if e.kind() == io::ErrorKind::NotFound => {
                self.cursor = Cursor {
                    id: id + 1,
                    offset: 0,
                };
                return Ok(None);
            }
            Ok(Err(e)) => return Err(e.into()),
            Err(e) => return Err(io::Error::other(e).into()),
        };
        self.file = Some((id, file.clone()));
        self.cursor.id = id;
        match found {
            Found::Chunk(chunk, next) => {
                self.cursor.offset = next;
                Ok(Some((place.boot, chunk)))
            }
            // It was written and fsynced; now it is damaged. What follows is sent,
            // and the log records the gap.
            Found::Damaged(next) => {
                self.cursor.offset = next;
                self.damaged(id, file).await?;
                Ok(None)
            }
            Found::Torn | Found::End => {
                self.cursor.offset = place.end;
                self.damaged(id, file).await?;
                Ok(None)
            }
        }
    }

    /// Tells that a file cannot be read through, and waits no longer for what it had.
    async fn damaged(&self, id: u64, file: Arc<File>) -> Result<(), Ended> {
        let shared = self.shared.clone();
        let look = move || {
            loop {
                let Some(Extent { start, end, marker }) = shared.queue().extent(id) else {
                    return Ok(());
                };
                let mut survey = Survey::new(&file, start, end, marker.as_ref())?;
                let left = end.saturating_sub(file.metadata()?.len());
                if survey.torn + left > 0 {
                    survey.lose(survey.torn + left);
                }
                let told = shared.queue().damaged(id, end, &survey);
                // It grows while it is looked through.
                if let Some(told) = told {
                    shared.found_damaged(told);
                    return Ok(());
                }
            }
        };
        let looked = tokio::task::spawn_blocking(look).await;
        looked.map_err(io::Error::other)?.map_err(Ended::Io)
    }

    /// Cuts what the log does not have of a chunk into batches.
    fn split(&mut self, boot: Ulid, chunk: &Chunk) {
        let stream = StreamKey {
            reporter: self.shared.reporter.clone(),
            boot,
            worker: chunk.worker,
        }
        .to_wire();
        let done = self.shared.queue().done(boot, chunk.worker);
        let mut bytes = 0;
        let mut batch: Option<Batch> = None;
        for (sequence, record) in (chunk.first_sequence..).zip(chunk.records()) {
            if sequence <= done {
                continue;
            }
            self.begun.entry((boot, chunk.worker)).or_insert(sequence);
            let alone = self.refusal.is_of(&stream, sequence);
            let full = batch.as_ref().is_some_and(|batch| {
                alone
                    || batch.records.len() >= BATCH_RECORDS_MAX
                    || bytes + record.len() > BATCH_BYTES
            });
            if full {
                self.ready.extend(batch.take());
                bytes = 0;
            }
            bytes += record.len();
            batch
                .get_or_insert_with(|| Batch {
                    stream: Some(stream.clone()),
                    first_sequence: sequence,
                    records: Vec::new(),
                })
                .records
                .push(record);
            if alone {
                self.ready.extend(batch.take());
                bytes = 0;
            }
        }
        self.ready.extend(batch);
    }
}

/// Between half of `pause` and all of it.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness there is no jitter, which is no harm.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    let [byte] = byte;
    pause / 2 + pause / 2 * u32::from(byte) / 255
}
