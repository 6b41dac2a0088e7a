//! What tests of several parts share.

use std::{
    future::ready,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use palisade_mesh::{
    personal::Mask,
    sink::{Durable, RecordStream, SinkError},
    wire::record::Record,
};

/// A stream of records that keeps them, unless it is told to take none, and what each is to
/// leave out.
#[derive(Clone, Default)]
pub(crate) struct Records(
    pub(crate) Arc<Mutex<Vec<Record>>>,
    pub(crate) Arc<AtomicBool>,
    pub(crate) Arc<Mutex<Vec<Mask>>>,
);

impl RecordStream for Records {
    fn append_masked(&mut self, record: &Record, mask: &Mask) -> Result<(), SinkError> {
        if self.1.load(Ordering::Relaxed) {
            return Err(SinkError::Full);
        }
        self.0.lock().unwrap().push(record.clone());
        self.2.lock().unwrap().push(mask.clone());
        Ok(())
    }

    fn flush(&mut self) {}

    fn durable(&mut self) -> Durable {
        Box::pin(ready(Ok(())))
    }
}
