//! One pass over all segments.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_mesh::diagnostic::Severity;
use ulid::Ulid;

use super::{
    CertificatesReport, CheckpointReport, Earlier, Finding, FindingKind, PROGRESS_RECORDS,
    Progress, RecordName, Seen, VerifyReport,
    ahead::Ahead,
    certificates::Certificates,
    earlier::Kept,
    stored::{self, about},
    streams::Streams,
};
#[cfg(feature = "index")]
use crate::{
    archive::{Archive, Away},
    segment::Stub,
};
use crate::{
    checkpoint::Checkpoint,
    envelope::{EnvelopeRef, RecordPeek, STREAM_HEADS, class_name, decode_prefix, is_always_kept},
    going::{Going, Reading},
    log::stored::{is_live, log_id},
    merkle::{self, Hash, TILE_WIDTH, TilePath, Tiles, Tree},
    note::Verifier,
    segment::{
        self, Content, FRAME_HEADER_LEN, Fault, FrameReader, GoneRun, HEADER_LEN, Header,
        PAYLOAD_LEN_MAX, SparseSum, read_at_most, sum_of,
    },
    stream::StreamKey,
    told::{self, Standing, Told},
};

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

/// Where a record lies.
#[derive(Clone, Copy)]
struct At<'a> {
    file: &'a str,
    leaf: u64,
    offset: u64,
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

    /// Awaits these, by size: the log's own before those that are compared with it.
    fn await_all(&mut self, own: Vec<Checkpoint>, earlier: Vec<(usize, Checkpoint)>) {
        let own = own.into_iter().map(|checkpoint| Awaited {
            checkpoint,
            earlier: None,
        });
        let earlier = earlier.into_iter().map(|(n, checkpoint)| Awaited {
            checkpoint,
            earlier: Some(n),
        });
        let mut all: Vec<Awaited> = earlier.chain(own).collect();
        all.sort_by_key(|awaited| awaited.checkpoint.size);
        self.ahead = all.into();
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

    /// Opens a segment; `None` when it went away and was named, and gone on over.
    #[cfg(feature = "index")]
    fn open(&mut self, first: u64, next: Option<u64>, file: &Path) -> io::Result<Option<File>> {
        let path = self.dir.join(file);
        // A run beside this lets it go, or brings it back, at any moment.
        let mut refused: Option<(Hash, Away)> = None;
        let (digest, away) = loop {
            let missing = match File::open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => e,
                opened => {
                    self.replaced(refused, None);
                    return opened.map(Some);
                }
            };
            let stub = match Stub::read(&self.dir, first) {
                Ok(stub) => stub,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let file = File::open(&path).map_err(|_| missing)?;
                    self.replaced(refused, None);
                    return Ok(Some(file));
                }
                Err(e) => {
                    let file = file.with_extension(segment::MOVED);
                    self.not_read(FindingKind::Archive, first, next, &file, e.to_string());
                    return Ok(None);
                }
            };
            // It may have become another while it was asked for, and its object gone.
            if let Some(refused) = refused.take_if(|(digest, _)| *digest == stub.digest) {
                break refused;
            }
            // What is cached says nothing of what the store has, and nothing is written here.
            let opened = match &self.archive {
                Some(archive) => archive.open_afresh(&stub),
                None => Err(Away::unset(&stub)),
            };
            match opened {
                Ok(file) => {
                    self.replaced(refused, Some(&stub));
                    self.away.push((first, stub.digest));
                    self.report.moved += 1;
                    return Ok(Some(file));
                }
                Err(away) if away.why.is_damage() => refused = Some((stub.digest, away)),
                Err(away) => break (stub.digest, away),
            }
        };
        self.away.push((first, digest));
        let kind = match away.why.is_damage() {
            true => FindingKind::Archive,
            false => FindingKind::Unread,
        };
        self.not_read(kind, first, next, file, away.to_string());
        Ok(None)
    }

    /// A segment became another while it was asked for, or came back.
    #[cfg(feature = "index")]
    fn replaced(&self, refused: Option<(Hash, Away)>, now: Option<&Stub>) {
        if let (Some(archive), Some((_, away))) = (&self.archive, refused) {
            archive.is_replaced(&away.object, now);
        }
    }

    #[cfg(not(feature = "index"))]
    fn open(&mut self, _: u64, _: Option<u64>, file: &Path) -> io::Result<Option<File>> {
        File::open(self.dir.join(file)).map(Some)
    }

    /// Names a segment that cannot be read, and goes on over its records. What it says of
    /// others is known from what stays of it.
    #[cfg(feature = "index")]
    fn not_read(
        &mut self,
        kind: FindingKind,
        first: u64,
        next: Option<u64>,
        file: &Path,
        what: String,
    ) {
        self.find(Finding {
            leaf: Some(first),
            ..about(kind, &file.to_string_lossy(), what)
        });
        if let Ok(stub) = Stub::read(&self.dir, first) {
            let lacks = stub.sparse().map(told::digest);
            self.lacking.push((first, lacks));
            for said in &stub.moved.said {
                let envelope = EnvelopeRef::decode(&said.leaf);
                let signed = self.tile_hash(said.index) == Some(merkle::leaf(&said.leaf));
                if let (Some(key), Some(envelope), true) = (&self.key, envelope, signed)
                    && let Some(peek) = RecordPeek::new(envelope.record)
                    && let Some(told) = told::said(key, &envelope, &peek)
                {
                    // What does not fit is named where its segment is read.
                    let _ = self.told.take(said.index, &told);
                }
            }
        }
        let next = next.unwrap_or(self.signed);
        self.report.unread += next.saturating_sub(first);
        self.lose(first, next);
        self.index = next;
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

    /// Whether a segment is not as it was told so far.
    fn is_untold(&self) -> bool {
        #[cfg(feature = "index")]
        if self
            .away
            .iter()
            .any(|(first, stub)| !self.told.is_moved(*first, stub))
        {
            return true;
        }
        let mut all = self.lacking.iter();
        all.any(|(first, lacks)| self.told.standing(*first, *lacks).fault().is_some())
    }

    /// Names segments that lack what no signed record says was dropped, or have what one
    /// says was.
    fn untold(&mut self) {
        #[cfg(feature = "index")]
        for (first, stub) in std::mem::take(&mut self.away) {
            if !self.told.is_moved(first, &stub) {
                let file = segment::relative(first).with_extension(segment::MOVED);
                let what = "no record of the log says that this segment went to an archive, or that this stays of it";
                self.find(Finding {
                    leaf: Some(first),
                    computed: Some(merkle::hex(&stub)),
                    ..about(FindingKind::Archive, &file.to_string_lossy(), what)
                });
            }
        }
        for (first, lacks) in std::mem::take(&mut self.lacking) {
            let standing = self.told.standing(first, lacks);
            let (severity, what) = match (standing, standing.fault()) {
                (_, Some(fault)) => (Severity::Error, fault),
                (Standing::Pending, None) if !self.report.live => (
                    Severity::Warning,
                    "the log ends before what it says was dropped from it was: a start of the audit service settles it",
                ),
                _ => continue,
            };
            let file = segment::relative(first);
            self.find(Finding {
                severity,
                leaf: Some(first),
                computed: lacks.map(|digest| merkle::hex(&digest)),
                ..about(FindingKind::Dropped, &file.to_string_lossy(), what)
            });
        }
    }

    /// Reads one segment, from where it was `begun`; gives the index after its last record.
    fn segment(
        &mut self,
        name: &str,
        file: Arc<File>,
        header: Header,
        next: Option<u64>,
        begun: Option<Begun>,
    ) -> io::Result<u64> {
        let (mut index, mut lacks, start) = match begun {
            Some(begun) => (self.index, begun.lacks, begun.offset),
            None => {
                self.header(name, &file, header)?;
                (header.first_leaf, Lacks::default(), HEADER_LEN)
            }
        };
        let len = file.metadata()?.len();
        let mut reader = Ahead::new(file.clone(), start, len, index);
        loop {
            if self.report.live && index >= self.signed {
                self.begun = Some(Begun {
                    first: header.first_leaf,
                    offset: reader.offset(),
                    lacks,
                });
                return Ok(index);
            }
            let at = At {
                file: name,
                leaf: index,
                offset: reader.offset(),
            };
            let Some(frame) = reader.next()? else {
                break;
            };
            if next.is_some_and(|next| index >= next) {
                let finding = at.finding(FindingKind::Segment, "more follows the last record");
                self.find(finding);
                break;
            }
            if let Ok(frame) = &frame
                && let Content::Sparse(said) = frame.content()
            {
                // It comes first, and once; anything else is a frame too many.
                if frame.offset() != HEADER_LEN {
                    self.find(at.finding(FindingKind::Record, "it cannot stand here"));
                }
                lacks.said = Some(said.to_vec());
                continue;
            }
            if index >= self.signed {
                let whole = frame.is_ok();
                self.beyond(at, whole, len);
                if !whole {
                    break;
                }
                index += 1;
                continue;
            }
            let mut read = 1;
            match frame {
                Ok(frame) => match frame.content() {
                    Content::Leaf(leaf) => self.leaf(at, leaf, frame.hash, frame.root),
                    Content::Gone(gone) => read = self.gone(at, gone, next, &mut lacks),
                    Content::Sparse(_) => read = 0,
                },
                Err(fault) => {
                    lacks.damaged = true;
                    match self.fault(at, &fault, &file, next)? {
                        (Some(offset), leaves) => {
                            reader.go_to(offset);
                            read = leaves;
                        }
                        (None, leaves) => {
                            index += leaves;
                            break;
                        }
                    }
                }
            }
            index += read;
            self.count(read, reader.offset() - at.offset);
            // What was found until then is told nobody.
            if self.going.has_ended() {
                return Ok(index);
            }
        }
        self.lacks(name, header.first_leaf, lacks);
        match next {
            // What a damaged length hides is counted as lost.
            Some(next) if index < next => {
                if !self.damaged {
                    let what = format!("the segment ends before record {next}");
                    let offset = reader.offset();
                    let at = At {
                        file: name,
                        leaf: index,
                        offset,
                    };
                    self.find(at.finding(FindingKind::Segment, what));
                }
                self.lose(index, next);
                Ok(next)
            }
            _ => Ok(index),
        }
    }

    fn header(&mut self, name: &str, file: &File, header: Header) -> io::Result<()> {
        if let Err(fault) = header.check(file)? {
            self.find(Finding {
                leaf: Some(header.first_leaf),
                offset: Some(0),
                stored: Some(fault.stored),
                computed: Some(fault.expected),
                ..about(
                    FindingKind::Header,
                    name,
                    format!("header field {}", fault.field),
                )
            });
        }
        Ok(())
    }

    /// Takes in a whole record.
    fn leaf(&mut self, at: At<'_>, leaf: &[u8], hash: Hash, root: Option<Hash>) {
        if let Some(stored) = self.tile_hash(at.leaf)
            && stored != hash
            && self.suspect.is_none()
        {
            self.suspect = Some(Finding {
                record: name(leaf),
                stored: Some(merkle::hex(&stored)),
                computed: Some(merkle::hex(&hash)),
                ..at.finding(
                    FindingKind::Leaf,
                    "the record is not the one that was signed",
                )
            });
        }
        if let Some(envelope) = EnvelopeRef::decode(leaf) {
            self.observe(at, &envelope);
        }
        if let Some(seen) = &mut self.seen {
            seen(at.leaf, leaf);
        }
        self.push(hash, root);
    }

    /// Takes in what records left that were dropped; gives how many they were.
    fn gone(&mut self, at: At<'_>, encoded: &[u8], next: Option<u64>, lacks: &mut Lacks) -> u64 {
        let run = GoneRun::read(encoded);
        if self.report.live && run.as_ref().is_some_and(|run| run.next() > self.signed) {
            // Dropped since it is read: what was dropped is signed.
            self.goes_on();
        }
        let most = next.unwrap_or(self.signed).min(self.signed);
        let run = run.filter(|run| run.first() == at.leaf && run.next() <= most);
        let Some(run) = run else {
            let what = "it does not say which records were dropped";
            self.find(at.finding(FindingKind::Record, what));
            self.lose(at.leaf, at.leaf + 1);
            lacks.damaged = true;
            return 1;
        };
        sum_of(&mut lacks.sum, encoded, &run);
        for (leaf, record) in (at.leaf..).zip(run.records()) {
            if let Some(stored) = self.tile_hash(leaf)
                && stored != record.leaf
                && self.suspect.is_none()
            {
                self.suspect = Some(Finding {
                    stored: Some(merkle::hex(&stored)),
                    computed: Some(merkle::hex(&record.leaf)),
                    ..At { leaf, ..at }.finding(
                        FindingKind::Leaf,
                        "what was dropped is not the record that was signed",
                    )
                });
            }
            self.certificates.dropped(record.class);
            if is_always_kept(record.class) {
                let class = class_name(record.class);
                let what = format!("a record of the class {class} is never dropped");
                self.find(At { leaf, ..at }.finding(FindingKind::Dropped, what));
            }
            if !self.streams.dropped(record.stream, record.sequence) {
                self.find(At { leaf, ..at }.finding(
                    FindingKind::Duplicate,
                    "the record that was dropped is in the log before",
                ));
            }
            self.push(record.leaf, None);
        }
        self.report.dropped += run.len();
        run.len()
    }

    /// Compares what a segment lacks with what it says of itself.
    fn lacks(&mut self, file: &str, first: u64, lacks: Lacks) {
        let Lacks { sum, said, damaged } = lacks;
        let found = (!sum.is_empty()).then(|| sum.encode());
        // What is damaged is named; it lacks what it says, as far as can be told.
        let found = match damaged {
            true => said.clone().or(found),
            false => found,
        };
        if said != found && !damaged {
            let what = "what it says that it lacks is not what it lacks";
            self.find(Finding {
                leaf: Some(first),
                offset: Some(HEADER_LEN),
                ..about(FindingKind::Dropped, file, what)
            });
        }
        let lacks = found.map(|found| told::digest(&found));
        self.lacking.push((first, lacks));
    }

    /// Names a damaged frame; gives where the next one starts, if that can be told, and for
    /// how many leaves it stands.
    fn fault(
        &mut self,
        at: At<'_>,
        fault: &Fault,
        file: &Arc<File>,
        after: Option<u64>,
    ) -> io::Result<(Option<u64>, u64)> {
        let finding = at.finding(FindingKind::Record, fault.to_string());
        let mut finding = match *fault {
            Fault::Crc {
                stored, computed, ..
            } => Finding {
                stored: Some(format!("{stored:08x}")),
                computed: Some(format!("{computed:08x}")),
                ..finding
            },
            Fault::Length { stored, .. } => Finding {
                stored: Some(stored.to_string()),
                ..finding
            },
            Fault::Short { .. } => finding,
        };
        // Neither length nor contents can be trusted: the envelope tells its own
        // length, the frame another; right is the one that a whole frame follows.
        let (stored, payload) = ahead(file, at.offset)?;
        let leaf = payload.get(1..).unwrap_or_default();
        let told = decode_prefix(leaf);
        if let Some((envelope, _)) = told.first() {
            finding.record = record_name(envelope);
            // Its number may be what is damaged; then it is missing in its stream.
            if self.streams.expects(envelope) {
                self.observe(at, envelope);
            }
        }
        let frame = |len: usize| at.offset + (FRAME_HEADER_LEN + len) as u64;
        let end = file.metadata()?.len();
        let mut next = None;
        for len in told.iter().map(|(_, len)| len + 1).chain([stored]) {
            if next.is_none() && is_frame(file, frame(len), end)? {
                next = Some(frame(len));
                if len != stored {
                    finding.what = format!("record length stored {stored}, found {len}");
                    finding.stored = Some(stored.to_string());
                    finding.computed = Some(len.to_string());
                }
            }
        }
        self.find(finding);
        if next.is_none() && segment::is_no_leaf(&payload) {
            let found = segment::next_frame(&payload, 1);
            next = found.map(|found| at.offset + (FRAME_HEADER_LEN + found) as u64);
        }
        // What records left that were dropped stands for many; what a segment lacks, for none.
        let told = match next {
            Some(next) => segment::index_at(file, next, end, after)?,
            None => None,
        };
        let run = GoneRun::read(leaf)
            .filter(|run| segment::is_no_leaf(&payload) && run.first() == at.leaf);
        let most = after.unwrap_or(self.signed).min(self.signed);
        let leaves = told
            .and_then(|index| index.checked_sub(at.leaf))
            .filter(|leaves| *leaves > 0 || at.offset == HEADER_LEN)
            .or(run.map(|run| run.len()))
            .filter(|leaves| at.leaf + leaves <= most)
            .unwrap_or(1);
        self.damaged = true;
        // The tile keeps the hash of what was signed; the next root tells if it is true.
        self.lose(at.leaf, at.leaf + leaves);
        Ok((next, leaves))
    }

    /// Looks at what follows the signed records.
    fn beyond(&mut self, at: At<'_>, whole: bool, len: u64) {
        let first = self.report.unsigned == 0;
        self.report.unsigned += u64::from(whole);
        let rest = len - at.offset;
        if self.closed && first {
            let what = format!("{rest} bytes follow the record that closed the log");
            self.find(at.finding(FindingKind::Trailing, what));
        } else if !whole {
            let what = format!("{rest} bytes are no whole record: an interrupted write");
            self.find(Finding {
                severity: Severity::Warning,
                ..at.finding(FindingKind::Tail, what)
            });
        }
    }

    /// Goes on over leaves that cannot be read, with the hashes their tiles keep.
    fn lose(&mut self, from: u64, to: u64) {
        self.damaged = true;
        for leaf in from..to.min(self.signed) {
            match self.tile_hash(leaf) {
                Some(hash) if self.tree.size() == leaf => self.push(hash, None),
                _ => {
                    self.broken = true;
                    return;
                }
            }
        }
        self.broken |= to < from;
    }

    /// Takes in a leaf, with the root of the tile that it fills, where that is known.
    fn push(&mut self, hash: Hash, root: Option<Hash>) {
        self.tree.push_last(hash, root);
        self.tree.forget_full_tiles();
        self.roots();
    }

    /// Compares the tree with the checkpoints that are of its size.
    fn roots(&mut self) {
        while let Some(Awaited {
            checkpoint,
            earlier,
        }) = self.ahead.front()
            && checkpoint.size <= self.tree.size()
        {
            let (size, root, earlier) = (checkpoint.size, checkpoint.root, *earlier);
            self.ahead.pop_front();
            if self.broken || size != self.tree.size() {
                continue;
            }
            let computed = self.tree.root();
            if let Some(n) = earlier {
                self.earlier.met(n, computed);
                continue;
            }
            self.report.checkpoints += 1;
            if root == computed {
                let split = self.earlier.settle();
                split.into_iter().for_each(|finding| self.find(finding));
                self.good = size;
                self.damaged = false;
                if let Some(suspect) = self.suspect.take() {
                    self.find(Finding {
                        severity: Severity::Warning,
                        kind: FindingKind::Tile,
                        what: "its tile contradicts the log, which agrees with its signatures: it is the tile that is wrong".into(),
                        ..suspect
                    });
                }
                continue;
            }
            self.broken = true;
            if let Some(suspect) = self.suspect.take() {
                self.find(suspect);
            } else if !self.damaged {
                let good = self.good;
                let what =
                    format!("a record between {good} and {size} is not the one that was signed");
                self.find(Finding {
                    leaf: Some(good),
                    stored: Some(merkle::hex(&root)),
                    computed: Some(merkle::hex(&computed)),
                    ..about(FindingKind::Root, "checkpoint", what)
                });
            }
        }
    }

    /// The hash that the tiles keep for a leaf.
    fn tile_hash(&mut self, leaf: u64) -> Option<Hash> {
        let number = leaf / TILE_WIDTH as u64;
        if self.tile.as_ref().is_none_or(|(held, _)| *held != number) {
            let hashes = TilePath::at(0, number, self.signed)
                .and_then(|path| self.tiles.read(path).ok())
                .unwrap_or_default();
            self.tile = Some((number, hashes));
        }
        let (_, hashes) = self.tile.as_ref()?;
        hashes.get((leaf % TILE_WIDTH as u64) as usize).copied()
    }

    fn observe(&mut self, at: At<'_>, envelope: &EnvelopeRef<'_>) {
        let peek = RecordPeek::new(envelope.record).unwrap_or_default();
        let closes = peek.closes_stream();
        self.closed = closes && at.leaf + 1 == self.signed;
        if let Some(said) = self
            .key
            .as_ref()
            .and_then(|key| told::said(key, envelope, &peek))
            && let Err(what) = self.told.take(at.leaf, &said)
        {
            self.find(Finding {
                record: record_name(envelope),
                ..at.finding(FindingKind::Dropped, what)
            });
        }
        self.certificates.observe(at.leaf, envelope, &peek);
        let (new, wrong) = self.streams.observe(envelope, closes);
        if let Some(what) = wrong {
            self.find(at.finding(FindingKind::Heads, what));
        }
        if !new {
            self.find(Finding {
                record: record_name(envelope),
                ..at.finding(FindingKind::Duplicate, "the record is in the log before")
            });
        } else if peek.class == STREAM_HEADS {
            let finding = || Finding {
                record: record_name(envelope),
                ..at.finding(FindingKind::Heads, "")
            };
            let heard = self.streams.heads(envelope, &peek, at.leaf, finding);
            for (signer, first) in heard.signers {
                self.certificates.signed(&signer, first);
            }
            heard.findings.into_iter().for_each(|f| self.find(f));
        }
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

impl At<'_> {
    fn finding(&self, kind: FindingKind, what: impl Into<String>) -> Finding {
        Finding {
            leaf: Some(self.leaf),
            offset: Some(self.offset),
            ..about(kind, self.file, what)
        }
    }
}

/// The length that a frame claims, and the bytes that follow its header, as many
/// as a payload may have.
fn ahead(file: &File, offset: u64) -> io::Result<(usize, Vec<u8>)> {
    let mut bytes = vec![0; FRAME_HEADER_LEN + PAYLOAD_LEN_MAX];
    let len = read_at_most(file, &mut bytes, offset)?;
    bytes.truncate(len);
    Ok(match bytes.split_first_chunk::<FRAME_HEADER_LEN>() {
        Some((header, payload)) => (segment::frame_header(*header).0 as usize, payload.to_vec()),
        None => (0, Vec::new()),
    })
}

/// Whether a whole frame, or the end of the file, is at `offset`.
fn is_frame(file: &Arc<File>, offset: u64, end: u64) -> io::Result<bool> {
    let next = FrameReader::new(file.clone(), offset, end)
        .next()?
        .is_none_or(|f| f.is_ok());
    Ok(next && offset <= end)
}

/// Names the record in a leaf.
fn name(leaf: &[u8]) -> Option<RecordName> {
    record_name(&EnvelopeRef::decode(leaf)?)
}

fn record_name(envelope: &EnvelopeRef<'_>) -> Option<RecordName> {
    let stream = StreamKey::decode(envelope.stream)?;
    let peek = RecordPeek::new(envelope.record).unwrap_or_default();
    let id = <[u8; 16]>::try_from(peek.id).map(|id| Ulid::from_bytes(id).to_string());
    Some(RecordName {
        id: id.unwrap_or_default(),
        class: peek.class_name().into(),
        reporter: stream.reporter.to_string(),
        boot: stream.boot.to_string(),
        worker: stream.worker,
        sequence: envelope.sequence,
    })
}
