//! What a worker appends to: its own bytes, no lock, no file, nobody woken.

use std::{sync::Arc, time::Duration, time::Instant};

use bytes::{Buf as _, Bytes};
use palisade_mesh::{
    clock::Clock,
    personal::Mask,
    sink::SinkError,
    wire::record::{AuditMode, Record, SpoolEvent, StreamHead, record::Body},
};
use prost::Message as _;

use crate::{
    envelope::RECORD_LEN_MAX,
    privacy::{Joined, Rules},
    stream::{StreamKey, new_ulid},
};

/// Bytes a worker holds before [`SinkError::Full`].
pub const BUFFER_BYTES: usize = 4 << 20;

/// Records a worker holds before [`SinkError::Full`].
pub const BUFFER_RECORDS: usize = 16 * 1024;

/// Time between heads of a stream that was written to.
pub const HEAD_EVERY: Duration = Duration::from_secs(10);

/// Time between records of how many records were dropped.
pub const DROPPED_EVERY: Duration = Duration::from_secs(10);

/// Part of a limit that records of mode `best_effort` leave to the others.
const KEPT_BACK: usize = 4;

/// Of counters by mode (`strict`, `spool`, `best_effort`), the one of `mode`.
pub(crate) fn count_of<T>([strict, spool, best_effort]: &[T; 3], mode: AuditMode) -> &T {
    match mode {
        AuditMode::Strict => strict,
        AuditMode::Spool | AuditMode::Unspecified => spool,
        AuditMode::BestEffort => best_effort,
    }
}

/// Counts a record of `mode` among those that `event` tells of.
pub(crate) fn count(event: &mut SpoolEvent, mode: AuditMode) {
    match mode {
        AuditMode::Strict => event.strict += 1,
        AuditMode::Spool | AuditMode::Unspecified => event.spool += 1,
        AuditMode::BestEffort => event.best_effort += 1,
    }
}

/// Whether `event` tells of a record.
pub(crate) fn any(event: &SpoolEvent) -> bool {
    event.strict + event.spool + event.best_effort > 0
}

/// Encoded records of one stream, numbered one after another.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) worker: u32,
    pub(crate) first_sequence: u64,
    pub(crate) count: u64,
    /// Length (u32, little-endian) and bytes of each.
    pub(crate) bytes: Bytes,
}

impl Chunk {
    /// Number of the last record.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.first_sequence + self.count - 1
    }

    /// The records; ends early where the bytes are not a chunk's.
    pub(crate) fn records(&self) -> impl Iterator<Item = Bytes> + use<> {
        let mut rest = self.bytes.clone();
        std::iter::from_fn(move || {
            let len = rest.try_get_u32_le().ok()? as usize;
            (len <= rest.len()).then(|| rest.split_to(len))
        })
    }
}

/// Limits of a [`Buffer`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes: usize,
    pub(crate) records: usize,
}

impl Limits {
    /// What of them may be filled with records that may be lost.
    fn for_best_effort(self) -> Self {
        let less = |limit: usize| limit - limit / KEPT_BACK;
        Self {
            bytes: less(self.bytes),
            records: less(self.records),
        }
    }
}

/// The buffer of one worker.
#[derive(Debug)]
pub(crate) struct Buffer {
    stream: Arc<StreamKey>,
    clock: Clock,
    limits: Limits,
    rules: Joined,
    bytes: Vec<u8>,
    count: u64,
    next_sequence: u64,
    /// Whether something was appended since the last head.
    unheaded: bool,
    head_at: Instant,
    dropped: Dropped,
}

/// Records that were never numbered, until the stream tells of them.
#[derive(Debug, Default)]
struct Dropped {
    event: SpoolEvent,
    told_at: Option<Instant>,
}

impl Dropped {
    fn is_due(&self) -> bool {
        any(&self.event) && self.told_at.is_none_or(|at| at.elapsed() >= DROPPED_EVERY)
    }
}

impl Buffer {
    pub(crate) fn new(stream: Arc<StreamKey>, limits: Limits, clock: Clock) -> Self {
        Self {
            stream,
            clock,
            limits,
            rules: Joined::default(),
            bytes: Vec::new(),
            count: 0,
            next_sequence: 1,
            unheaded: false,
            head_at: Instant::now(),
            dropped: Dropped::default(),
        }
    }

    /// Takes what is personal by `rules` out of every record.
    pub(crate) fn covering(mut self, rules: Arc<Rules>) -> Self {
        self.rules = Joined::new(rules);
        self
    }

    pub(crate) fn stream(&self) -> &Arc<StreamKey> {
        &self.stream
    }

    /// Number of the record appended last; 0 before the first.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    /// Bytes held.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Encodes a record, without what `mask` names. One of mode `best_effort` is refused
    /// before the others.
    pub(crate) fn append_masked(&mut self, record: &Record, mask: &Mask) -> Result<(), SinkError> {
        let Limits { bytes, records } = match record.mode() {
            AuditMode::BestEffort => self.limits.for_best_effort(),
            _ => self.limits,
        };
        if self.count >= records as u64 {
            return Err(SinkError::Full);
        }
        let start = self.bytes.len();
        let covered = self.rules.under(mask).cover(record);
        self.encode(covered.as_ref().unwrap_or(record));
        let len = self.bytes.len() - start - 4;
        let refused = if len > RECORD_LEN_MAX {
            SinkError::Io(format!(
                "record of {len} bytes exceeds the limit of {RECORD_LEN_MAX}"
            ))
        } else if self.bytes.len() > bytes {
            SinkError::Full
        } else {
            self.count += 1;
            self.next_sequence += 1;
            self.unheaded = true;
            if self.dropped.is_due() {
                self.tell_dropped();
            }
            return Ok(());
        };
        self.bytes.truncate(start);
        Err(refused)
    }

    /// Notes a record that was not taken, so that the stream tells of it once it
    /// takes records again.
    pub(crate) fn dropped(&mut self, mode: AuditMode) {
        let now_us = self.clock.now_us();
        let event = &mut self.dropped.event;
        let first = !any(event);
        count(event, mode);
        if first {
            event.from_us = now_us;
        }
        event.until_us = now_us;
    }

    /// Adds what the spool has to say, beyond the limits: it has seldom anything.
    pub(crate) fn tell(&mut self, event: SpoolEvent) {
        self.add(Body::SpoolEvent(event));
    }

    /// Adds another record of the spool's own, beyond the limits.
    pub(crate) fn say(&mut self, body: Body) {
        self.add(body);
    }

    fn tell_dropped(&mut self) {
        let event = std::mem::take(&mut self.dropped.event);
        self.dropped.told_at = Some(Instant::now());
        self.tell(SpoolEvent {
            verb: "dropped".into(),
            detail: "no room for these records".into(),
            ..event
        });
    }

    /// Takes what is held, with a head when one is due.
    pub(crate) fn take(&mut self) -> Option<Chunk> {
        if self.unheaded && self.head_at.elapsed() >= HEAD_EVERY {
            self.head(false);
        }
        self.drain()
    }

    /// Takes what is held, with the head that ends the stream.
    pub(crate) fn take_last(&mut self) -> Option<Chunk> {
        if any(&self.dropped.event) {
            self.tell_dropped();
        }
        self.head(true);
        self.drain()
    }

    /// Puts back what could not be handed on.
    pub(crate) fn put_back(&mut self, chunk: Chunk) {
        self.count += chunk.count;
        let later = std::mem::take(&mut self.bytes);
        self.bytes = chunk.bytes.into();
        self.bytes.extend_from_slice(&later);
    }

    fn drain(&mut self) -> Option<Chunk> {
        if self.count == 0 {
            return None;
        }
        let capacity = self.bytes.len();
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(capacity));
        let count = std::mem::take(&mut self.count);
        Some(Chunk {
            worker: self.stream.worker,
            first_sequence: self.next_sequence - count,
            count,
            bytes: bytes.into(),
        })
    }

    /// Adds a stream head, beyond the limits: there is one now and then only.
    fn head(&mut self, closed: bool) {
        self.add(Body::StreamHead(StreamHead {
            last_sequence: self.last_sequence(),
            closed,
        }));
        self.unheaded = false;
        self.head_at = Instant::now();
    }

    /// Adds a record of the stream about itself.
    fn add(&mut self, body: Body) {
        let record = Record {
            id: new_ulid(&self.clock).to_bytes().to_vec(),
            time_us: self.clock.now_us(),
            reporter: self.stream.reporter.as_str().into(),
            mode: AuditMode::Spool.into(),
            body: Some(body),
            ..Record::default()
        };
        self.encode(&record);
        self.count += 1;
        self.next_sequence += 1;
        self.unheaded = true;
    }

    fn encode(&mut self, record: &Record) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        // Infallible: a vector grows.
        let _ = record.encode(&mut self.bytes);
        let len = (self.bytes.len() - start - 4) as u32;
        if let Some(place) = self.bytes.get_mut(start..start + 4) {
            place.copy_from_slice(&len.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use palisade_mesh::{spiffe_id::SpiffeId, wire::record::Admin};

    use super::*;

    impl Buffer {
        /// Where no policy masks anything.
        pub(crate) fn append(&mut self, record: &Record) -> Result<(), SinkError> {
            self.append_masked(record, &Mask::NONE)
        }
    }

    fn buffer(bytes: usize, records: usize) -> Buffer {
        let stream = StreamKey {
            reporter: SpiffeId::parse("spiffe://acme.test/web").unwrap(),
            boot: ulid::Ulid::from_parts(1, 1),
            worker: 2,
        };
        Buffer::new(Arc::new(stream), Limits { bytes, records }, Clock::system())
    }

    fn record(len: usize) -> Record {
        Record {
            body: Some(Body::Admin(Admin {
                detail: "x".repeat(len),
                ..Admin::default()
            })),
            ..Record::default()
        }
    }

    fn decoded(chunk: &Chunk) -> Vec<Record> {
        chunk
            .records()
            .map(|r| Record::decode(r).unwrap())
            .collect()
    }

    #[test]
    fn records_are_numbered_on_across_chunks_and_the_last_head_closes() {
        let mut buffer = buffer(1 << 20, 100);
        assert!(buffer.take().is_none());
        for n in 1..=3 {
            buffer.append(&record(n)).unwrap();
        }
        let chunk = buffer.take().unwrap();
        assert_eq!(
            (chunk.worker, chunk.first_sequence, chunk.last_sequence()),
            (2, 1, 3)
        );
        assert_eq!(decoded(&chunk), [record(1), record(2), record(3)]);
        buffer.append(&record(4)).unwrap();
        let chunk = buffer.take_last().unwrap();
        assert_eq!((chunk.first_sequence, chunk.count), (4, 2));
        let head = StreamHead {
            last_sequence: 4,
            closed: true,
        };
        assert_eq!(decoded(&chunk)[1].body, Some(Body::StreamHead(head)));
    }

    #[test]
    fn limits_hold_on_both_sides_and_nothing_of_a_refused_record_stays() {
        let mut by_count = buffer(1 << 20, 2);
        by_count.append(&record(1)).unwrap();
        by_count.append(&record(1)).unwrap();
        assert_eq!(by_count.append(&record(1)), Err(SinkError::Full));
        assert_eq!(by_count.take().unwrap().count, 2);
        by_count.append(&record(1)).unwrap();

        let framed = 4 + record(50).encoded_len();
        let mut by_bytes = buffer(2 * framed, 100);
        by_bytes.append(&record(50)).unwrap();
        assert_eq!(by_bytes.append(&record(51)), Err(SinkError::Full));
        by_bytes.append(&record(50)).unwrap();
        assert_eq!(by_bytes.take().unwrap().count, 2);

        let overhead = record(60_000).encoded_len() - 60_000;
        let mut by_record = buffer(1 << 20, 100);
        by_record
            .append(&record(RECORD_LEN_MAX - overhead))
            .unwrap();
        let longer = by_record.append(&record(RECORD_LEN_MAX - overhead + 1));
        assert!(matches!(longer, Err(SinkError::Io(_))), "{longer:?}");
        assert_eq!(by_record.take().unwrap().count, 1);
    }

    #[test]
    fn what_may_be_lost_is_refused_first_and_what_was_dropped_is_told() {
        let of_mode = |mode: AuditMode| Record {
            mode: mode.into(),
            ..record(1)
        };
        let mut buffer = buffer(1 << 20, 8);
        for _ in 0..6 {
            buffer.append(&of_mode(AuditMode::BestEffort)).unwrap();
        }
        for mode in [
            AuditMode::BestEffort,
            AuditMode::BestEffort,
            AuditMode::Spool,
            AuditMode::Strict,
            AuditMode::Spool,
        ] {
            if buffer.append(&of_mode(mode)).is_err() {
                buffer.dropped(mode);
            }
        }
        // The one that found room told of the two before it.
        assert_eq!(buffer.take().unwrap().count, 8);
        buffer.append(&of_mode(AuditMode::Spool)).unwrap();
        let rest = decoded(&buffer.take_last().unwrap());
        let told: Vec<_> = rest
            .iter()
            .filter_map(|record| match &record.body {
                Some(Body::SpoolEvent(event)) => Some(event),
                _ => None,
            })
            .collect();
        assert_eq!(told.len(), 1, "{rest:?}");
        assert_eq!(
            (told[0].strict, told[0].spool, told[0].best_effort),
            (1, 1, 0)
        );
        assert!(told[0].from_us > 0 && told[0].until_us >= told[0].from_us);
    }

    #[test]
    fn a_chunk_put_back_comes_first_again() {
        let mut buffer = buffer(1 << 20, 100);
        buffer.append(&record(1)).unwrap();
        let chunk = buffer.take().unwrap();
        buffer.append(&record(2)).unwrap();
        buffer.put_back(chunk);
        let chunk = buffer.take().unwrap();
        assert_eq!((chunk.first_sequence, chunk.count), (1, 2));
        assert_eq!(decoded(&chunk), [record(1), record(2)]);
    }
}
