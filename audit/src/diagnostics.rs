//! What is wrong with a log or a spool, as a person is told.
//!
//! Codes 7501 to 7529, 7581 to 7587, 7592, 7593 and 7595. The errors keep their own types; this is how they look at
//! the command line.

use palisade_mesh::diagnostic::{Diagnostic, Severity};

#[cfg(feature = "index")]
use crate::{
    archive::{Away, Why},
    verify::FindingKind,
};
use crate::{
    going::Ended,
    log::LogError,
    spool::SpoolError,
    verify::{Finding, StreamReport},
};

impl LogError {
    /// The error as a person is told.
    pub fn diagnostic(&self) -> Diagnostic {
        let text = self.to_string();
        match self {
            Self::Tampered(damage) => Diagnostic::error(7501, "audit log was tampered with")
                .cause(damage.to_string())
                .help("keep the directory as it is and run `palisade audit verify`; the log can still be read"),
            Self::Locked(_) => Diagnostic::error(7502, text)
                .help("stop the other process, or give this one a directory of its own"),
            Self::Key(_) => Diagnostic::error(7503, text)
                .help("put back `checkpoint.key` and `checkpoint.pub` of this log, or the device that has its key; a new key would leave its past unverifiable"),
            Self::Io { .. } => Diagnostic::error(7504, text)
                .help("look at free space, permissions and the health of the disk"),
            Self::NotFound { .. } => Diagnostic::error(7505, text),
            Self::Dropped { .. } => Diagnostic::error(7507, text)
                .help("what was dropped, when and by which rule: palisade audit search 'class:log_lifecycle verb:records_dropped'"),
            Self::Owner { .. } => Diagnostic::error(7595, text)
                .help("run this as that user: the audit service could not read what another writes there"),
            #[cfg(feature = "index")]
            Self::Away(away) => away.diagnostic(),
            Self::Ended(ended) => ended.diagnostic(),
            Self::Undecodable { .. } => Diagnostic::error(7506, text)
                .help("it may be of a newer version; its bytes are kept and verified all the same"),
        }
    }
}

impl Ended {
    /// The error as a person is told.
    pub fn diagnostic(self) -> Diagnostic {
        Diagnostic::error(7911, "the answer was given up")
            .cause(self.to_string())
            .help("ask again, and wait; narrow the time with `since:` and `until:`")
    }
}

#[cfg(feature = "index")]
impl Away {
    /// The error as a person is told.
    pub fn diagnostic(&self) -> Diagnostic {
        let Self {
            store,
            segment,
            object,
            cause,
            ..
        } = self;
        let of = format!("the segment that begins with record {segment}");
        let (told, help) = match self.why {
            Why::Unreachable => (
                Diagnostic::error(
                    7581,
                    format!("the archive `{store}` cannot be asked for {of}"),
                ),
                "see that the store runs and lets us in; what is here is found and shown meanwhile: palisade audit archive status",
            ),
            Why::Missing => (
                Diagnostic::error(7582, format!("{of} is not in the archive `{store}`")),
                "put the object back from a copy, under this name; nothing but it has these records",
            ),
            Why::Altered => (
                Diagnostic::error(
                    7583,
                    format!("{of} is not in the archive `{store}` as it was signed"),
                ),
                "keep the object as evidence, find out who could write there, and put back a copy that has the sum in its name",
            ),
            Why::Foreign => (
                Diagnostic::error(
                    7592,
                    format!(
                        "`{store}` is not the archive that this log uses, and {of} was to be there"
                    ),
                ),
                "mount the disk, or put `audit.archive` right; nothing is put, deleted or let go of until then: docs/operations/archive.md",
            ),
            Why::Local => (
                Diagnostic::error(
                    7593,
                    format!(
                        "{of} cannot be brought from the archive `{store}`, or there, for a fault here"
                    ),
                ),
                "see the disk of the log, and the folder for temporary files",
            ),
            Why::NoRoom => (
                Diagnostic::error(
                    7584,
                    format!("there is no room to fetch {of} from the archive `{store}`"),
                ),
                "make room on the disk of the log, or give `audit.archive.cache` less",
            ),
            Why::Start => (
                Diagnostic::error(
                    7587,
                    format!("{of} is in the archive `{store}`, and a start needs it here"),
                ),
                "bring all of them back, then start: palisade audit archive restore --dir DIR --archive-config FILE",
            ),
            Why::Unset => (
                Diagnostic::error(7585, format!("{of} is in an archive that nobody named")),
                "name the archive: `audit.archive` in the configuration, or --archive-config FILE for what reads a folder; or bring its segments back: palisade audit archive restore",
            ),
        };
        told.cause(format!("`{object}`: {cause}")).help(help)
    }
}

impl SpoolError {
    /// The error as a person is told.
    pub fn diagnostic(&self) -> Diagnostic {
        let text = self.to_string();
        match self {
            Self::Locked(_) => Diagnostic::error(7511, text)
                .help("stop the other process, or give this one a directory of its own"),
            Self::Io { .. } => Diagnostic::error(7512, text)
                .help("look at free space, permissions and the health of the disk"),
        }
    }
}

impl Finding {
    /// The finding as a person is told.
    pub fn diagnostic(&self) -> Diagnostic {
        let mut place = format!("`{}`", self.file);
        if let Some(offset) = self.offset {
            place = format!("{place} at byte {offset}");
        }
        if let Some(leaf) = self.leaf {
            place = format!("record {leaf} in {place}");
        }
        let mut cause = self.what.clone();
        if let Some(record) = &self.record {
            let (class, id, reporter) = (&record.class, &record.id, &record.reporter);
            cause = format!("{cause}; it is {class} `{id}` of `{reporter}`");
        }
        match self.severity {
            #[cfg(feature = "index")]
            Severity::Error if self.kind == FindingKind::Unread => {
                Diagnostic::error(7521, format!("{place} was not verified"))
                    .cause(cause)
                    .help("nothing is known of it: see that the archive can be asked, and verify again")
            }
            #[cfg(feature = "index")]
            Severity::Error if self.kind == FindingKind::Archive => {
                Diagnostic::error(7521, format!("{place} is not in the archive as it was signed"))
                    .cause(cause)
                    .help("put the object back from a copy; keep one that is not what was signed as evidence")
            }
            Severity::Error => Diagnostic::error(7521, format!("{place} is not as it was signed"))
                .cause(cause)
                .help("keep the directory as evidence; compare with a copy, and find out who could write to it"),
            Severity::Warning | Severity::Note => {
                Diagnostic::warning(7522, format!("{place} needs no proof but is not in order"))
                    .cause(cause)
                    .help("the next start of the audit service mends an end that was half written; a tile is made again by runs of retention and of the archive over its records, and by a start that reads these")
            }
        }
    }
}

impl StreamReport {
    /// What is missing in the stream, as a person is told; `None` when nothing is.
    pub fn diagnostic(&self) -> Option<Diagnostic> {
        let stream = format!(
            "`{}` boot {} worker {}",
            self.reporter, self.boot, self.worker
        );
        if let Some(first) = self.missing.first() {
            let count: u64 = self
                .missing
                .iter()
                .map(|range| range.to - range.from + 1)
                .sum();
            let text = format!("{count} records of {stream} never arrived");
            return Some(
                Diagnostic::warning(7523, text)
                    .cause(format!("the first missing are {first}"))
                    .help("look at the reporter's spool: it may still hold them, or its disk lost them"),
            );
        }
        (!self.complete()).then(|| {
            Diagnostic::warning(7524, format!("{stream} ended without its closing record"))
                .cause(
                    "the reporter was killed or crashed; what it had not flushed yet may be lost",
                )
                .help("use the mode `strict` where no decision may be lost")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::{FindingKind, RecordName};

    #[test]
    fn a_finding_says_where_what_and_which_decision() {
        let finding = Finding {
            severity: Severity::Error,
            kind: FindingKind::Record,
            file: "segments/00.seg".into(),
            leaf: Some(12),
            offset: Some(400),
            record: Some(RecordName {
                id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
                class: "decision".into(),
                reporter: "spiffe://acme.test/web".into(),
                boot: String::new(),
                worker: 0,
                sequence: 3,
            }),
            what: "crc stored 1, computed 2".into(),
            stored: None,
            computed: None,
        };
        assert_eq!(
            finding.diagnostic().to_string(),
            "PLS7521: record 12 in `segments/00.seg` at byte 400 is not as it was signed: \
             crc stored 1, computed 2; it is decision `01ARZ3NDEKTSV4RRFFQ69G5FAV` of `spiffe://acme.test/web`"
        );
    }

    #[test]
    fn a_stream_is_reported_for_gaps_first_and_for_a_crash_otherwise() {
        let stream = StreamReport {
            reporter: "spiffe://acme.test/web".into(),
            boot: "0".into(),
            worker: 0,
            dropped: 0,
            records: 3,
            last_sequence: 5,
            unknown: Vec::new(),
            missing: vec![crate::stream::Range { from: 2, to: 3 }],
            closed: false,
            superseded: true,
        };
        let code = |stream: &StreamReport| stream.diagnostic().map(|d| d.code.0);
        assert_eq!(code(&stream), Some(7523));
        let whole = StreamReport {
            unknown: Vec::new(),
            missing: Vec::new(),
            ..stream
        };
        assert_eq!(code(&whole), Some(7524));
        let closed = StreamReport {
            closed: true,
            ..whole
        };
        assert_eq!(code(&closed), None);
    }
}
