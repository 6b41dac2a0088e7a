//! Leaves this crate's records: credentials issued and refused, callers refused.

use std::sync::{Mutex, PoisonError};

use palisade_mesh::{
    clock::Clock,
    sink::{RecordStream, SinkError},
    spiffe_id::SpiffeId,
    wire::record::{AuditMode, Record, record::Body},
};
use ulid::Ulid;

use crate::random;

/// One part's stream of records. Issuing is rare beside requests, so each record
/// is handed to the spool at once.
pub(crate) struct Recorder {
    stream: Mutex<Box<dyn RecordStream>>,
    reporter: SpiffeId,
    clock: Clock,
    demo: bool,
}

impl Recorder {
    pub(crate) fn new(
        stream: Box<dyn RecordStream>,
        reporter: SpiffeId,
        clock: Clock,
        demo: bool,
    ) -> Self {
        Self {
            stream: Mutex::new(stream),
            reporter,
            clock,
            demo,
        }
    }

    /// Leaves one record.
    pub(crate) fn note(&self, body: Body) -> Result<(), SinkError> {
        let record = self.record(body);
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.append(&record)?;
        stream.flush();
        Ok(())
    }

    fn record(&self, body: Body) -> Record {
        let time_us = self.clock.now_us();
        let millis = u64::try_from(time_us / 1000).unwrap_or_default();
        let id = Ulid::from_parts(millis, u128::from_be_bytes(random::bytes()));
        Record {
            id: id.to_bytes().to_vec(),
            time_us,
            reporter: self.reporter.to_string(),
            mode: AuditMode::Spool.into(),
            demo: self.demo,
            body: Some(body),
            ..Record::default()
        }
    }
}
