//! What tests of several parts share.

use std::{
    future::ready,
    sync::{Arc, Mutex},
};

use palisade_mesh::{
    sink::{Durable, RecordStream, SinkError},
    wire::record::Record,
};

/// A stream of records that keeps them.
#[derive(Clone, Default)]
pub(crate) struct Records(pub(crate) Arc<Mutex<Vec<Record>>>);

impl RecordStream for Records {
    fn append(&mut self, record: &Record) -> Result<(), SinkError> {
        self.0.lock().unwrap().push(record.clone());
        Ok(())
    }

    fn flush(&mut self) {}

    fn durable(&mut self) -> Durable {
        Box::pin(ready(Ok(())))
    }
}
