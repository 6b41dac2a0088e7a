//! Leaves the records of this part: policy changes and refusals.

use std::sync::{Mutex, PoisonError};

use palisade_mesh::{
    clock::Clock,
    decision::DecisionIds,
    sink::RecordStream,
    wire::record::{Admin, AuditMode, PolicyChange, Record, record::Body},
};

/// A record stream with what every record of the PDP has in common.
pub struct Recorder {
    stream: Mutex<Stream>,
    reporter: String,
    demo: bool,
    names_authors: bool,
    clock: Clock,
}

struct Stream {
    records: Box<dyn RecordStream>,
    ids: DecisionIds,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder")
            .field("reporter", &self.reporter)
            .finish_non_exhaustive()
    }
}

impl Recorder {
    /// Writes into `records`, a stream of its own (`RecordSink::open`). `reporter`
    /// is the SPIFFE ID of this PDP.
    pub fn new(
        records: Box<dyn RecordStream>,
        reporter: impl Into<String>,
        demo: bool,
        clock: Clock,
    ) -> Self {
        Self {
            stream: Mutex::new(Stream {
                records,
                ids: DecisionIds::new(),
            }),
            reporter: reporter.into(),
            demo,
            names_authors: true,
            clock,
        }
    }

    /// Names no authors of policies: the log believes the mesh's PDP alone who they are.
    #[must_use]
    pub fn without_authors(mut self) -> Self {
        self.names_authors = false;
        self
    }

    /// SPIFFE ID of this PDP.
    pub(crate) fn reporter(&self) -> &str {
        &self.reporter
    }

    /// Leaves one record. These are rare, so each is flushed at once; one that does
    /// not fit is told to the operator instead.
    pub(crate) fn leave(&self, body: Body) {
        let now_us = self.clock.now_us();
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let record = Record {
            id: stream.ids.next(now_us).to_bytes().to_vec(),
            time_us: now_us,
            reporter: self.reporter.clone(),
            mode: AuditMode::Spool.into(),
            demo: self.demo,
            body: Some(body),
            ..Record::default()
        };
        if let Err(error) = stream.records.append(&record) {
            tracing::error!(%error, "record of a policy event is lost");
        }
        stream.records.flush();
    }

    /// Leaves what became of a revision.
    pub(crate) fn change(&self, mut change: PolicyChange) {
        if !self.names_authors {
            change.authors.clear();
        }
        self.leave(Body::PolicyChange(change));
    }

    /// Leaves what somebody did or tried.
    pub(crate) fn admin(&self, actor: &str, verb: &str, object: &str, detail: &str) {
        self.leave(Body::Admin(Admin {
            actor: actor.to_owned(),
            verb: verb.to_owned(),
            object: object.to_owned(),
            detail: detail.to_owned(),
        }));
    }
}
