//! A sink in memory: what the proxy would have spooled.

use std::sync::{Arc, Mutex};

use palisade_mesh::{
    personal::Mask,
    sink::{Durable, RecordSink, RecordStream, SinkError},
    wire::record::{AuthnFailure, Decision, Outcome, Record, Verdict, record::Body},
};

/// Keeps records; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Records(Arc<Mutex<Vec<Record>>>);

/// A decision record, as far as the cases look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decided {
    /// As the answer shows it.
    pub(crate) id: String,
    pub(crate) verdict: Verdict,
    pub(crate) reason: String,
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) status: u32,
    pub(crate) principal: String,
}

impl Records {
    /// Every record so far.
    pub(crate) fn all(&self) -> Vec<Record> {
        self.0.lock().unwrap().clone()
    }

    /// Forgets what was recorded.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    /// Every decision so far.
    pub(crate) fn decisions(&self) -> Vec<Decided> {
        let of = |r: Record| match r.body {
            Some(Body::Decision(d)) => Some(decided(&r.id, d)),
            _ => None,
        };
        self.all().into_iter().filter_map(of).collect()
    }

    /// Every outcome so far, with the id of its decision.
    pub(crate) fn outcomes(&self) -> Vec<(String, Outcome)> {
        let of = |r: Record| match r.body {
            Some(Body::Outcome(o)) => Some((text(&r.id), o)),
            _ => None,
        };
        self.all().into_iter().filter_map(of).collect()
    }

    /// Every refused handshake so far.
    pub(crate) fn failures(&self) -> Vec<AuthnFailure> {
        let of = |r: Record| match r.body {
            Some(Body::AuthnFailure(f)) => Some(f),
            _ => None,
        };
        self.all().into_iter().filter_map(of).collect()
    }
}

fn decided(id: &[u8], decision: Decision) -> Decided {
    Decided {
        id: text(id),
        verdict: decision.verdict(),
        principal: decision.principal.unwrap_or_default().spiffe_id,
        reason: decision.reason,
        method: decision.method,
        host: decision.host,
        path: decision.path,
        status: decision.status,
    }
}

/// A ULID as the answers write it: 26 digits of five bits.
fn text(id: &[u8]) -> String {
    let id = u128::from_be_bytes(id.try_into().unwrap());
    let digit = |at: u32| b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[(id >> (5 * at) & 31) as usize];
    (0..26).rev().map(|at| char::from(digit(at))).collect()
}

impl RecordSink for Records {
    fn open(&self, _: u32) -> Box<dyn RecordStream> {
        Box::new(self.clone())
    }
}

impl RecordStream for Records {
    fn append_masked(&mut self, record: &Record, _: &Mask) -> Result<(), SinkError> {
        self.0.lock().unwrap().push(record.clone());
        Ok(())
    }

    fn flush(&mut self) {}

    fn durable(&mut self) -> Durable {
        Box::pin(std::future::ready(Ok(())))
    }
}
