//! What a verification found.

use palisade_mesh::diagnostic::Severity;
use serde::{Serialize, Serializer};

use super::{EarlierReport, FINDINGS_MAX};
use crate::stream::Range;

/// The result of verifying a log.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// Which log, by its key: `palisade/TRUST_DOMAIN`.
    pub origin: String,
    /// The key it was verified with, `NAME+HASH+KEY`.
    pub key: String,
    /// Whether the key was given rather than found with the log.
    pub key_given: bool,
    /// Whether the log was being written meanwhile.
    pub live: bool,
    /// The latest checkpoint.
    pub checkpoint: Option<CheckpointReport>,
    /// Stored checkpoints whose signature and root were checked.
    pub checkpoints: u64,
    /// Segments read.
    pub segments: u64,
    /// Records read that are under the checkpoint, those that were dropped among them.
    pub records: u64,
    /// Of these, how many were dropped because their time was over: what proves the others
    /// is there, and a signed record says that they were.
    pub dropped: u64,
    /// Bytes of segments read.
    pub bytes: u64,
    /// Segments that were read in the archive.
    pub moved: u64,
    /// Records under the checkpoint that are in the archive, and were not read.
    pub unread: u64,
    /// Records above the checkpoint: kept, not signed yet.
    pub unsigned: u64,
    /// What it is to the checkpoints from before that were given.
    pub earlier: Vec<EarlierReport>,
    /// What is wrong, in the order of the log.
    pub findings: Vec<Finding>,
    /// Findings beyond [`super::FINDINGS_MAX`]: warnings before errors.
    pub findings_more: u64,
    /// How many findings are errors, those beyond among them.
    pub errors: u64,
    /// Of these, how many say only that something could not be read.
    pub errors_unread: u64,
    /// Every stream, by reporter, boot and worker.
    pub streams: Vec<StreamReport>,
    /// Starts of reporters that later ones have named, and of which the log has nothing; none
    /// where not all was read.
    pub absent: Vec<AbsentReport>,
    /// What the authority has issued to workloads, against who has signed heads.
    pub certificates: CertificatesReport,
}

/// Certificates of workloads, by what the authority recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CertificatesReport {
    /// How many were issued.
    pub issued: u64,
    /// Of these, how many have signed heads of streams.
    pub signed: u64,
    /// How many are too new to tell.
    pub settling: u64,
    /// With how many nothing was signed: there are no records of who has them.
    pub silent: u64,
    /// These, by identity and time, at most [`super::FINDINGS_MAX`] of them.
    pub without: Vec<CertificateReport>,
    /// How many were not compared, because there were too many.
    pub beyond: u64,
    /// With how many nothing was signed in what was read, where not all was.
    pub unknown: u64,
    /// How many heads rest on certificates of which nothing in the log says that they were
    /// issued, and which can be of before it, or were not read: nobody vouches for these.
    pub unrecorded: u64,
}

/// A certificate that was issued, and with which nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateReport {
    /// Whom it names.
    pub spiffe_id: String,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// Index in the log of the record that it was issued.
    pub entry: u64,
    /// When it was issued, RFC 3339.
    pub issued: String,
    /// When it ends, RFC 3339.
    pub not_after: String,
    /// Whether the same identity has signed with another certificate.
    pub reports: bool,
}

impl VerifyReport {
    /// Whether every signed byte is as it was signed.
    pub fn intact(&self) -> bool {
        self.errors == 0
    }

    /// Whether each record could be read, and is the one that was signed; false where there are
    /// too many findings to know.
    #[cfg(feature = "index")]
    pub(crate) fn all_read(&self) -> bool {
        use FindingKind::{Archive, Header, Leaf, Record, Root, Segment, Unread};
        let hides = |finding: &Finding| {
            finding.severity == Severity::Error
                && matches!(
                    finding.kind,
                    Archive | Header | Leaf | Record | Root | Segment | Unread
                )
        };
        self.unread == 0 && self.findings_more == 0 && !self.findings.iter().any(hides)
    }

    /// As [`VerifyReport::intact`]; nothing where all that was read is, and some was not.
    pub fn verdict(&self) -> Option<bool> {
        match self.errors {
            0 => Some(true),
            errors if errors == self.errors_unread => None,
            _ => Some(false),
        }
    }

    /// Takes a finding in. However many there are, all errors are counted, and a warning makes
    /// room for an error.
    pub(super) fn find(&mut self, finding: Finding) {
        let is_error = finding.severity == Severity::Error;
        self.errors += u64::from(is_error);
        self.errors_unread += u64::from(is_error && finding.kind == FindingKind::Unread);
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
            return;
        }
        self.findings_more += 1;
        let is_warning = |held: &Finding| held.severity != Severity::Error;
        // Where there are more errors, all that are held are errors.
        if is_error
            && self.errors <= FINDINGS_MAX as u64
            && let Some(at) = self.findings.iter().rposition(is_warning)
        {
            self.findings.remove(at);
            self.findings.push(finding);
        }
    }

    /// The first thing that is not as it was signed, or could not be read.
    pub fn first_damage(&self) -> Option<&Finding> {
        self.findings
            .iter()
            .find(|finding| finding.severity == Severity::Error)
    }

    /// Whether all was read, no stream misses a record, every ended boot was closed, and none
    /// is known of by name alone.
    pub fn complete(&self) -> bool {
        let whole = self.streams.iter().all(StreamReport::complete);
        self.unread == 0 && self.absent.is_empty() && whole
    }
}

/// A start of a reporter of which the log has nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AbsentReport {
    /// Who reports.
    pub reporter: String,
    /// Which start of it.
    pub boot: String,
    /// Index in the log of the first heads that name it.
    pub entry: u64,
}

/// A checkpoint, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckpointReport {
    /// Number of records.
    pub size: u64,
    /// Root hash, hexadecimal.
    pub root: String,
    /// When it was signed.
    #[serde(serialize_with = "text")]
    pub time: jiff::Timestamp,
}

fn text<S: Serializer>(time: &jiff::Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// An error for what was signed, a warning for what is derived or unfinished.
    pub severity: Severity,
    /// What sort of thing.
    pub kind: FindingKind,
    /// File, relative to the log's directory.
    pub file: String,
    /// Index of the first leaf concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaf: Option<u64>,
    /// Offset in the file, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The record, where it can be decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordName>,
    /// What is wrong, in words.
    pub what: String,
    /// The value that is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<String>,
    /// The value that it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub computed: Option<String>,
}

/// Sorts of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A segment went to an archive, and is not there, or not what was signed; or no record of
    /// the log says that it went.
    Archive,
    /// Heads of streams are signed with a certificate that the authority has not issued.
    Certificate,
    /// A checkpoint cannot be read, is not signed, or contradicts another.
    Checkpoint,
    /// Records were dropped that no record of the log says were.
    Dropped,
    /// A record is in the log twice.
    Duplicate,
    /// The header of a segment is not what it was.
    Header,
    /// Records of a stream are not those that their reporter signed.
    Heads,
    /// The public key cannot be read or is not the trusted one.
    Key,
    /// A record is whole but is not the one that was signed.
    Leaf,
    /// The frame of a record is damaged.
    Record,
    /// The tree has another root than was signed, and nothing tells which record.
    Root,
    /// The log is shorter than somebody's checkpoint from before.
    RolledBack,
    /// A segment is missing, misplaced, too short or unreadable.
    Segment,
    /// The key of the log has signed two histories.
    SplitView,
    /// An interrupted write above the checkpoint; the next start cuts it off.
    Tail,
    /// A tile contradicts the log; the log agrees with its signatures.
    Tile,
    /// Something follows the last record of a log that was closed.
    Trailing,
    /// A segment is in an archive that could not be asked; nothing is known of it.
    Unread,
}

/// Which record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordName {
    /// ULID; for a decision and what belongs to it, the decision id.
    pub id: String,
    /// Class, as in the record schema.
    pub class: String,
    /// Who reported it.
    pub reporter: String,
    /// Boot of the reporter.
    pub boot: String,
    /// Worker of the boot.
    pub worker: u32,
    /// Number in that stream.
    pub sequence: u64,
}

/// How complete a stream is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamReport {
    /// Who reports.
    pub reporter: String,
    /// One start of the reporter.
    pub boot: String,
    /// One worker of it.
    pub worker: u32,
    /// Records that arrived.
    pub records: u64,
    /// Of these, how many were dropped because their time was over.
    pub dropped: u64,
    /// Highest number.
    pub last_sequence: u64,
    /// Numbers below it that never arrived.
    pub missing: Vec<Range>,
    /// Where not all was read: numbers below it that are not among what was.
    pub unknown: Vec<Range>,
    /// Whether its reporter ended it.
    pub closed: bool,
    /// Whether a later start of the reporter has named this one as over, or, where this one
    /// has signed nothing, there is a later one: an unclosed stream then ended in a crash, and
    /// up to a flush interval of records may be lost.
    pub superseded: bool,
}

impl StreamReport {
    /// Whether nothing is missing, as far as the log can tell.
    pub fn complete(&self) -> bool {
        self.missing.is_empty() && self.unknown.is_empty() && (self.closed || !self.superseded)
    }
}
