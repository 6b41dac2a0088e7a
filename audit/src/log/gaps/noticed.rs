//! The gaps of a log that is open for reading only, by what is in it: nobody follows its streams.

use std::{collections::HashMap, sync::Arc};

use palisade_mesh::wire::record::LogLifecycle;
use prost::Message as _;

use super::{BETWEEN, OF_NUMBERS, OpenGap};
use crate::{
    checkpoint,
    envelope::{EnvelopeRef, LOG_LIFECYCLE, RecordPeek},
    stream::{Range, StreamKey},
    verify::{StreamReport, VerifyReport},
};

/// What a note of the log about gaps names: each stream, as it is shown, with its numbers.
pub fn told(note: &str) -> impl Iterator<Item = (&str, Range)> {
    note.split(BETWEEN).filter_map(|one| {
        let (stream, numbers) = one.rsplit_once(OF_NUMBERS)?;
        let (from, to) = numbers.split(',').next()?.split_once("..=")?;
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        Some((stream, Range { from, to }))
    })
}

/// When the log has noticed that numbers were missing, as its records say.
pub(in crate::log) struct Noticed {
    /// Who writes the log.
    reporter: Option<String>,
    /// By stream, numbers that were found missing, and when.
    notes: HashMap<String, Vec<(Range, i64)>>,
}

impl Noticed {
    /// Nothing yet, of the log of this name.
    pub(in crate::log) fn of(origin: &str) -> Self {
        let domain = checkpoint::domain(origin);
        Self {
            reporter: domain.map(|domain| format!("spiffe://{domain}/palisade/audit")),
            notes: HashMap::new(),
        }
    }

    /// Looks at a leaf of the log.
    pub(in crate::log) fn take(&mut self, leaf: &[u8]) {
        let Some(envelope) = EnvelopeRef::decode(leaf) else {
            return;
        };
        let peek = RecordPeek::new(envelope.record).filter(|peek| peek.class == LOG_LIFECYCLE);
        let Some(peek) = peek.filter(|_| self.is_own(&envelope)) else {
            return;
        };
        let note = LogLifecycle::decode(peek.body);
        let Some(note) = note.ok().filter(|note| note.verb == "gap") else {
            return;
        };
        for (stream, range) in told(&note.detail) {
            let notes = self.notes.entry(stream.to_owned()).or_default();
            notes.push((range, peek.time_us));
        }
    }

    fn is_own(&self, envelope: &EnvelopeRef<'_>) -> bool {
        let reporter = StreamKey::decode(envelope.stream).map(|key| key.reporter.to_string());
        reporter.is_some() && reporter == self.reporter
    }

    /// The gaps that a verification found, each since it was noticed; since `now_us` where no
    /// record tells. Where not all can be read, only those that a record tells: what else is not
    /// there may be what cannot be read, and no reporter has kept it back.
    pub(in crate::log) fn gaps(&self, found: &VerifyReport, now_us: i64) -> Arc<[OpenGap]> {
        let all_read = found.all_read();
        let of_stream = |found: &StreamReport| {
            let stream = Arc::new(StreamKey {
                reporter: found.reporter.parse().ok()?,
                boot: found.boot.parse().ok()?,
                worker: found.worker,
            });
            let noticed = self.notes.get(&stream.to_string());
            let gap = |missing: &Range| {
                let last =
                    |(noted, _): &&(Range, i64)| (noted.from..=noted.to).contains(&missing.to);
                let noted = noticed.into_iter().flatten().find(last);
                let noticed_us = noted.map(|(_, noticed_us)| *noticed_us);
                Some(OpenGap {
                    stream: stream.clone(),
                    missing: *missing,
                    noticed_us: noticed_us.or_else(|| all_read.then_some(now_us))?,
                })
            };
            let missing = found.missing.iter().chain(&found.unknown);
            Some(missing.filter_map(gap).collect::<Vec<_>>())
        };
        found
            .streams
            .iter()
            .filter_map(of_stream)
            .flatten()
            .collect()
    }
}
