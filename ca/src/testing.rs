//! What the tests of this crate share.

use std::{
    future::ready,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use palisade_mesh::{
    clock::Clock,
    personal::Mask,
    sink::{Durable, RecordStream, SinkError},
    spiffe_id::TrustDomain,
    wire::record::{Record, record::Body},
};

/// The trust domain of the tests.
pub(crate) fn domain() -> TrustDomain {
    TrustDomain::parse("acme.test").unwrap()
}

/// A clock that stands at the present second until it is moved.
pub(crate) fn standing_clock() -> Clock {
    Clock::manual(Timestamp::from_second(Timestamp::now().as_second()).unwrap())
}

/// Collects records; can be made to be full.
#[derive(Clone, Default)]
pub(crate) struct Records {
    kept: Arc<Mutex<Vec<Record>>>,
    full: Arc<Mutex<bool>>,
}

impl Records {
    pub(crate) fn stream(&self) -> Box<dyn RecordStream> {
        Box::new(self.clone())
    }

    pub(crate) fn bodies(&self) -> Vec<Body> {
        let kept = self.kept.lock().unwrap();
        kept.iter().filter_map(|r| r.body.clone()).collect()
    }

    pub(crate) fn set_full(&self, full: bool) {
        *self.full.lock().unwrap() = full;
    }
}

impl RecordStream for Records {
    fn append_masked(&mut self, record: &Record, _: &Mask) -> Result<(), SinkError> {
        if *self.full.lock().unwrap() {
            return Err(SinkError::Full);
        }
        self.kept.lock().unwrap().push(record.clone());
        Ok(())
    }

    fn flush(&mut self) {}

    fn durable(&mut self) -> Durable {
        Box::pin(ready(Ok(())))
    }
}

/// Waits until `holds`, for ten seconds at most.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(
            std::time::Instant::now() < deadline,
            "{what} did not happen"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
