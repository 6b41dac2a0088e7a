//! A sink that keeps every record, and misbehaves on demand.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use palisade_mesh::{
    personal::Mask,
    sink::{Durable, RecordSink, RecordStream, SinkError},
    wire::record::{AuthnFailure, Decision, Outcome, Record, Rejudgement, record::Body},
};
use tokio::sync::watch;

use super::{Shared, until};

/// Keeps records; clones share them.
#[derive(Clone)]
pub(crate) struct Capture {
    records: Shared<Vec<Record>>,
    masks: Shared<Vec<Mask>>,
    full: Arc<AtomicBool>,
    durable: watch::Sender<Option<Result<(), SinkError>>>,
    asked: Arc<AtomicUsize>,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            records: Arc::default(),
            masks: Arc::default(),
            full: Arc::default(),
            durable: watch::channel(Some(Ok(()))).0,
            asked: Arc::default(),
        }
    }
}

impl Capture {
    /// From now on the buffer is full, or no longer.
    pub(crate) fn set_full(&self, full: bool) {
        self.full.store(full, SeqCst);
    }

    /// What waiting for durability yields; `None` lets it wait.
    pub(crate) fn set_durable(&self, result: Option<Result<(), SinkError>>) {
        self.durable.send_replace(result);
    }

    /// How often somebody waited for durability.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    pub(crate) fn all(&self) -> Vec<Record> {
        self.records.lock().unwrap().clone()
    }

    /// Every record so far, and what it is to leave out.
    pub(crate) fn masked(&self) -> Vec<(Record, Mask)> {
        let masks = self.masks.lock().unwrap().clone();
        self.all().into_iter().zip(masks).collect()
    }

    pub(crate) fn decisions(&self) -> Vec<(Record, Decision)> {
        let of = |r: Record| match r.body.clone() {
            Some(Body::Decision(d)) => Some((r, d)),
            _ => None,
        };
        self.all().into_iter().filter_map(of).collect()
    }

    pub(crate) fn outcomes(&self) -> Vec<(Record, Outcome)> {
        let of = |r: Record| match r.body.clone() {
            Some(Body::Outcome(o)) => Some((r, o)),
            _ => None,
        };
        self.all().into_iter().filter_map(of).collect()
    }

    pub(crate) fn rejudgements(&self) -> Vec<(Record, Rejudgement)> {
        let of = |r: Record| match r.body.clone() {
            Some(Body::Rejudgement(j)) => Some((r, j)),
            _ => None,
        };
        self.all().into_iter().filter_map(of).collect()
    }

    pub(crate) fn failures(&self) -> Vec<AuthnFailure> {
        let of = |r: Record| match r.body {
            Some(Body::AuthnFailure(f)) => Some(f),
            _ => None,
        };
        self.all().into_iter().filter_map(of).collect()
    }

    /// The last decision.
    pub(crate) fn decision(&self) -> Decision {
        self.decisions().pop().expect("a decision was recorded").1
    }

    /// Waits for the outcome of the last decision.
    pub(crate) async fn outcome(&self) -> Outcome {
        let id = self.decisions().pop().expect("a decision").0.id;
        let find = || self.outcomes().into_iter().find(|(r, _)| r.id == id);
        until("the outcome is recorded", || find().is_some()).await;
        find().unwrap().1
    }
}

impl RecordSink for Capture {
    fn open(&self, _: u32) -> Box<dyn RecordStream> {
        Box::new(self.clone())
    }
}

impl RecordStream for Capture {
    fn append_masked(&mut self, record: &Record, mask: &Mask) -> Result<(), SinkError> {
        if self.full.load(SeqCst) {
            return Err(SinkError::Full);
        }
        self.masks.lock().unwrap().push(mask.clone());
        self.records.lock().unwrap().push(record.clone());
        Ok(())
    }

    fn flush(&mut self) {}

    fn durable(&mut self) -> Durable {
        self.asked.fetch_add(1, SeqCst);
        let mut durable = self.durable.subscribe();
        Box::pin(async move {
            let settled = durable.wait_for(Option::is_some).await;
            settled.map_or(Err(SinkError::Closed), |r| r.clone().unwrap_or(Ok(())))
        })
    }
}
