//! What the log refuses, and what becomes of it.
//!
//! Nothing behind a refused batch could ever be sent. So its records are sent one by one,
//! and the one that is refused again and again is set aside: it is kept in a file, its
//! stream goes on without it, and a record of the spool says so. What a log refuses
//! without end is not a bad record but a bad log: then the spool waits. So it does where the log
//! says that it has no place for a record now.

use std::{io, sync::atomic::Ordering};

use bytes::Bytes;
use palisade_mesh::wire::audit::StreamId;
use ulid::Ulid;

use super::Shared;
use crate::files;

/// Times that one record is refused before it is set aside.
const REFUSALS_MAX: u32 = 3;

/// Records that are set aside in one spool; with one more it waits.
pub(super) const ASIDE_MAX: u64 = 256;

/// Extension of a record that was set aside.
pub(super) const EXTENSION: &str = "refused";

/// Most characters of the log's words that are repeated.
const WORDS_MAX: usize = 400;

/// A batch that was sent and is not durable.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) stream: StreamId,
    pub(super) first: u64,
    pub(super) last: u64,
    /// Its record, where it has one alone.
    pub(super) record: Option<Bytes>,
}

/// What was refused last.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    stream: StreamId,
    first: u64,
    last: u64,
    times: u32,
    /// It cannot be set aside: all that can be done is to wait.
    waits: bool,
}

impl Refusal {
    /// Whether a record is to be sent alone.
    pub(super) fn is_of(&self, stream: &StreamId, sequence: u64) -> bool {
        (self.first..=self.last).contains(&sequence) && self.stream == *stream
    }

    /// Whether a batch was refused that is to be sent later, and has not been taken since.
    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    /// It cannot be set aside.
    pub(super) fn wait(&mut self) {
        self.waits = true;
    }

    /// Notes how far a stream is durable; true when that is what was waited for.
    pub(super) fn taken(&mut self, stream: &StreamId, durable: u64) -> bool {
        let is_it = self.waits && self.stream == *stream && durable >= self.first;
        self.waits &= !is_it;
        is_it
    }

    /// Notes that a batch was refused for now.
    pub(super) fn note_for_now(&mut self, sent: &Sent) {
        self.note(sent);
        (self.times, self.waits) = (0, true);
    }

    /// Notes that a batch was refused for ever; true when that was said often enough of a record.
    pub(super) fn note(&mut self, sent: &Sent) -> bool {
        let again =
            (self.first, self.last) == (sent.first, sent.last) && self.stream == sent.stream;
        let times = if again { self.times + 1 } else { 1 };
        *self = Self {
            stream: sent.stream.clone(),
            first: sent.first,
            last: sent.last,
            times,
            waits: false,
        };
        sent.record.is_some() && times >= REFUSALS_MAX
    }
}

impl Shared {
    /// Sets a record aside, so that its stream can go on; false where it must wait. All
    /// records before it are acknowledged.
    pub(super) fn set_aside(
        &self,
        boot: Ulid,
        worker: u32,
        sequence: u64,
        record: &[u8],
        words: &str,
    ) -> io::Result<bool> {
        let name = format!("{boot}/{worker}-{sequence}.{EXTENSION}");
        let path = self.dir.join(&name);
        let is_new = !path.exists();
        if is_new && self.aside.load(Ordering::Relaxed) >= ASIDE_MAX {
            return Ok(false);
        }
        files::replace(&path, record, files::Sync::Yes)?;
        if is_new {
            self.aside.fetch_add(1, Ordering::Relaxed);
        }
        let words: String = words.chars().take(WORDS_MAX).collect();
        self.tell(
            "refused",
            format!(
                "record {sequence} of worker {worker} of boot {boot} was refused by the log ({words}); it is kept as `{name}`"
            ),
        );
        let mut queue = self.queue();
        queue.checkpointed(boot, worker, sequence);
        let freed = queue.free();
        drop(queue);
        self.release(freed);
        self.moved();
        Ok(true)
    }
}
