//! One pass over all segments.
//!
//! This file goes from one to the next, as far as is signed. Each is opened (`open`) and read
//! (`frames`), on past damage (`fault`); its leaves make the tree that roots were signed of
//! (`roots`), and what it lacks must have been told (`lacking`).

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    CertificatesReport, CheckpointReport, Earlier, Finding, FindingKind, PROGRESS_RECORDS,
    Progress, Seen, VerifyReport,
    certificates::Certificates,
    earlier::Kept,
    stored::{self, about},
    streams::Streams,
};
#[cfg(feature = "index")]
use crate::{archive::Archive, segment::Stub};
use crate::{
    checkpoint::Checkpoint,
    going::{Going, Reading},
    log::stored::{is_live, log_id},
    merkle::{self, Hash, Tiles, Tree},
    note::Verifier,
    segment::{self, Header, SparseSum},
    told::Told,
};

mod fault;
mod frames;
mod lacking;
mod names;
mod open;
mod roots;

pub(super) struct Pass<'a> {
    dir: PathBuf,
    going: &'a Going,
    reading: Reading,
    progress: Option<&'a mut dyn FnMut(Progress)>,
    seen: Option<Seen<'a>>,
    report: VerifyReport,
    tiles: Tiles,
    /// Number of signed records.
    signed: u64,
    /// Stored checkpoints that were not reached yet, by size.
    ahead: VecDeque<Awaited>,
    tree: Tree,
    /// Leaves below this are known to be as they were signed.
    good: u64,
    /// A root differed or a leaf is lost: later roots say nothing.
    broken: bool,
    /// Damage was named since the last good root.
    damaged: bool,
    /// The first leaf since the last good root that its tile contradicts.
    suspect: Option<Finding>,
    tile: Option<(u64, Vec<Hash>)>,
    streams: Streams,
    certificates: Certificates,
    earlier: Kept,
    /// Whether the last signed record closes the log.
    closed: bool,
    key: Option<Verifier>,
    /// The index after the last record that was read.
    index: u64,
    /// The first record of the last segment that was read through.
    read: Option<u64>,
    /// The segment that is read through no further than what is signed.
    begun: Option<Begun>,
    /// What segments lack: the digest of what they say they do, nothing for whole ones.
    lacking: Vec<(u64, Option<Hash>)>,
    /// What records of the log say that they lack.
    told: Told,
    bytes_total: u64,
    #[cfg(feature = "index")]
    archive: Option<Arc<Archive>>,
    /// Segments that went away, and the digest of what stays of each.
    #[cfg(feature = "index")]
    away: Vec<(u64, Hash)>,
}

/// A checkpoint that the log has not reached yet.
struct Awaited {
    checkpoint: Checkpoint,
    /// Its place among those from before, if it is one of these.
    earlier: Option<usize>,
}

/// A segment that is read on when more is signed.
struct Begun {
    first: u64,
    /// Where its next frame is.
    offset: u64,
    lacks: Lacks,
}

/// What a segment lacks, while it is read.
#[derive(Default)]
struct Lacks {
    sum: SparseSum,
    /// What it says of itself, encoded.
    said: Option<Vec<u8>>,
    /// A part of it could not be read.
    damaged: bool,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        dir: &Path,
        going: &'a Going,
        progress: Option<&'a mut dyn FnMut(Progress)>,
        seen: Option<Seen<'a>>,
    ) -> Self {
        Self {
            dir: dir.into(),
            going,
            reading: going.reading(0),
            report: VerifyReport {
                origin: String::new(),
                key: String::new(),
                key_given: false,
                live: false,
                checkpoint: None,
                checkpoints: 0,
                segments: 0,
                records: 0,
                dropped: 0,
                moved: 0,
                unread: 0,
                bytes: 0,
                unsigned: 0,
                earlier: Vec::new(),
                findings: Vec::new(),
                findings_more: 0,
                errors: 0,
                errors_unread: 0,
                streams: Vec::new(),
                absent: Vec::new(),
                certificates: CertificatesReport::default(),
            },
            progress,
            seen,
            tiles: Tiles::new(dir),
            signed: 0,
            ahead: VecDeque::new(),
            tree: Tree::new(),
            good: 0,
            broken: false,
            damaged: false,
            suspect: None,
            tile: None,
            streams: Streams::default(),
            certificates: Certificates::default(),
            earlier: Kept::default(),
            closed: false,
            key: None,
            index: 0,
            read: None,
            begun: None,
            lacking: Vec::new(),
            told: Told::default(),
            bytes_total: 0,
            #[cfg(feature = "index")]
            archive: None,
            #[cfg(feature = "index")]
            away: Vec::new(),
        }
    }

    /// Reads segments that went away in `archive`.
    #[cfg(feature = "index")]
    pub(super) fn with(mut self, archive: Option<Arc<Archive>>) -> Self {
        self.archive = archive;
        self
    }

    /// Verifies with the `given` key, or the one stored with the log.
    pub(super) fn run(mut self, given: Option<Verifier>, earlier: &[Earlier]) -> VerifyReport {
        self.report.key_given = given.is_some();
        self.report.live = is_live(&self.dir);
        let mut found = Vec::new();
        let key = stored::key(&self.dir, given, &mut found);
        found.into_iter().for_each(|finding| self.find(finding));
        let Some(key) = key else {
            return self.report;
        };
        self.certificates.of(key.name());
        self.report.origin = key.name().into();
        self.report.key = key.to_string();
        self.key = Some(key.clone());
        let live = self.report.live;
        let mut found = Vec::new();
        let (latest, all) = stored::checkpoints(&self.dir, &key, live, &mut found);
        found.into_iter().for_each(|finding| self.find(finding));
        if let Some(latest) = &latest {
            self.signed = latest.size;
            self.report.checkpoint = Some(CheckpointReport {
                size: latest.size,
                root: merkle::hex(&latest.root),
                time: latest.time,
            });
        }
        let (kept, reached, findings) = Kept::open(earlier, &key, self.signed);
        self.earlier = kept;
        findings.into_iter().for_each(|finding| self.find(finding));
        self.await_all(all, reached);
        if let Err(e) = self.segments(&key) {
            self.find(about(FindingKind::Segment, segment::DIR, e.to_string()));
        }
        self.progress();
        let unread = self.report.unread > 0;
        if !unread {
            self.report.absent = self.streams.absent();
        }
        let rest = self.streams.rest();
        rest.into_iter().for_each(|finding| self.find(finding));
        self.report.streams = std::mem::take(&mut self.streams).report(unread);
        let certificates = std::mem::take(&mut self.certificates);
        let (certificates, foreign) = certificates.report(&self.report.streams, unread);
        self.report.certificates = certificates;
        self.report.earlier = std::mem::take(&mut self.earlier).report();
        foreign.into_iter().for_each(|finding| self.find(finding));
        self.report
    }

    fn segments(&mut self, key: &Verifier) -> io::Result<()> {
        for first in segment::list(&self.dir)? {
            let path = self.dir.join(segment::relative(first));
            self.bytes_total += match path.metadata() {
                Ok(metadata) => metadata.len(),
                #[cfg(feature = "index")]
                Err(_) => Stub::read(&self.dir, first).map_or(0, |stub| stub.moved.length),
                #[cfg(not(feature = "index"))]
                Err(_) => 0,
            };
        }
        if self.report.live {
            self.told = Told::meanwhile(self.signed);
        }
        self.roots();
        self.reading = self.going.reading(self.signed);
        self.read_on(key)?;
        // What was dropped since is told under a later checkpoint, which was signed before.
        while self.report.live && self.is_untold() && self.goes_on() {
            self.read_on(key)?;
        }
        if self.index < self.signed && !self.damaged {
            let file = segment::relative(self.index);
            let what = format!("the log ends here, but {} records were signed", self.signed);
            self.find(Finding {
                leaf: Some(self.index),
                ..about(FindingKind::Segment, &file.to_string_lossy(), what)
            });
        }
        self.untold();
        Ok(())
    }

    /// Reads segments from where it is to the last signed record.
    fn read_on(&mut self, key: &Verifier) -> io::Result<()> {
        let firsts = segment::list(&self.dir)?;
        let from = firsts.partition_point(|first| self.read.is_some_and(|read| *first <= read));
        for (at, &first) in firsts.iter().enumerate().skip(from) {
            let over = self.report.live && first >= self.signed;
            if over || self.going.has_ended() {
                break;
            }
            let relative = segment::relative(first);
            let file = relative.to_string_lossy();
            let begun = self.begun.take().filter(|begun| begun.first == first);
            let is_new = begun.is_none();
            if is_new && first != self.index {
                let index = self.index;
                let what = format!("the log goes on at record {first}, not {index}");
                self.find(Finding {
                    leaf: Some(index.min(first)),
                    ..about(FindingKind::Segment, &file, what)
                });
                self.lose(index, first);
                self.index = first;
            }
            let next = firsts.get(at + 1).copied();
            match self.open(first, next, &relative) {
                Ok(None) => {}
                Ok(Some(opened)) => {
                    let header = Header {
                        first_leaf: first,
                        log_id: log_id(key),
                    };
                    self.index = self.segment(&file, Arc::new(opened), header, next, begun)?;
                }
                Err(e) => self.find(Finding {
                    leaf: Some(first),
                    ..about(FindingKind::Segment, &file, e.to_string())
                }),
            }
            self.report.segments += u64::from(is_new);
            if self.begun.is_some() {
                break;
            }
            self.read = Some(first);
        }
        Ok(())
    }

    /// Goes on under a later checkpoint, if there is one by now.
    fn goes_on(&mut self) -> bool {
        let latest = self
            .key
            .as_ref()
            .and_then(|key| stored::latest(&self.dir, key));
        let Some(latest) = latest.filter(|latest| latest.size > self.signed) else {
            return false;
        };
        self.signed = latest.size;
        self.report.checkpoint = Some(CheckpointReport {
            size: latest.size,
            root: merkle::hex(&latest.root),
            time: latest.time,
        });
        // The last of the tiles may have been a part of one.
        self.tile = None;
        self.ahead.push_back(Awaited {
            checkpoint: latest,
            earlier: None,
        });
        true
    }

    fn find(&mut self, finding: Finding) {
        self.report.find(finding);
    }

    fn count(&mut self, records: u64, bytes: u64) {
        let before = self.report.records / PROGRESS_RECORDS;
        self.report.records += records;
        self.report.bytes += bytes;
        // Whether it ended is asked by whoever loops.
        let _ = self.reading.read(records);
        if self.report.records / PROGRESS_RECORDS > before {
            self.progress();
        }
    }

    fn progress(&mut self) {
        if let Some(progress) = &mut self.progress {
            progress(Progress {
                records: self.report.records,
                bytes: self.report.bytes,
                bytes_total: self.bytes_total,
            });
        }
    }
}
