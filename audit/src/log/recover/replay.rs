//! Reads what a start must know again: tree, stream positions, the last offsets.
//!
//! Normally that is the newest segment alone, with its leaves compared to the
//! tiles. When the tiles or the stream positions cannot be used, or a tile and a
//! leaf contradict each other, everything is read from the first record on.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    super::{LogError, remake::remake},
    CHECKPOINT, STREAMS, log_id,
};
use crate::{
    checkpoint::Checkpoint,
    envelope::{EnvelopeRef, RecordPeek},
    files,
    heads::{Checks, Place, Statement},
    merkle::{self, Hash, TILE_WIDTH, TilePath, Tiles, Tree},
    note::Verifier,
    segment::{self, Content, FrameReader, GoneRun, HEADER_LEN, Header, Offsets},
    stream::{KeyCache, SEQUENCE_MAX, Streams},
    told,
};

/// Tiles that are made again one by one before the whole log is read for all of them.
const TILES_MENDED_MAX: usize = 16;

/// Full tiles held before they are written.
const TILES_HELD_MAX: usize = 4096;

/// Signatures of heads that a start checks for each reporter, where they say more than is
/// here, and in all.
const CHECKS_MAX: usize = 1024;
const CHECKS_ALL_MAX: usize = 16 * 1024;

/// What the log is.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) tree: Tree,
    pub(super) streams: Streams,
    /// Of the newest segment, up to the cut.
    pub(super) offsets: Offsets,
    pub(super) cut: Option<Cut>,
    /// Above the checkpoint something is said of what is dropped, or of holds.
    pub(super) unsigned: bool,
}

/// Where the log must end, because nothing readable follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    /// First leaf of the segment.
    pub(super) segment: u64,
    /// Where to cut it; 0 when nothing of it can be kept.
    pub(super) offset: u64,
    /// Index of the first leaf that is lost.
    pub(super) leaf: u64,
    pub(super) what: String,
}

/// Why a replay stopped.
pub(super) enum Stopped {
    Error(LogError),
    /// A tile and a leaf contradict each other; either may be at fault.
    Contradiction(LogError),
    /// Nothing of the newest segment can be kept: the one before it must be read, too.
    Torn,
}

impl From<LogError> for Stopped {
    fn from(error: LogError) -> Self {
        Self::Error(error)
    }
}

pub(super) fn replay(
    dir: &Path,
    verifier: &Verifier,
    checkpoint: &Checkpoint,
    firsts: &[u64],
) -> Result<Replay, LogError> {
    let tiles = Tiles::new(dir);
    let known = || Streams::load(&dir.join(STREAMS)).filter(|(size, _)| *size <= checkpoint.size);
    let tree = tiles
        .tree(checkpoint.size)
        .ok()
        .filter(|tree| tree.root() == checkpoint.root);
    let run = |tree: Option<Tree>, known: Option<(u64, Streams)>, torn: bool| {
        if checkpoint.size > 0 && (tree.is_none() || known.is_none()) {
            tracing::warn!(
                records = checkpoint.size,
                tiles = tree.is_some(),
                streams = known.is_some(),
                "tiles of the log, or how far streams are, are lost: all records are read"
            );
        }
        let (streams_from, streams) = known.unwrap_or_default();
        Run {
            torn,
            dir,
            tiles: &tiles,
            log_id: log_id(verifier),
            checkpoint,
            firsts,
            whole: tree.is_none(),
            tree: tree.unwrap_or_default(),
            streams_from,
            streams,
            keys: KeyCache::default(),
            tile: None,
            offsets: Offsets::empty(),
            verifier,
            unsigned: false,
            checks: Checks::new(CHECKS_MAX, CHECKS_ALL_MAX),
        }
        .run()
    };
    let newest = || match run(tree.clone(), known(), false) {
        Err(Stopped::Torn) => run(tree.clone(), known(), true),
        found => found,
    };
    let mut found = newest();
    for _ in 0..TILES_MENDED_MAX {
        let signed = (checkpoint.size, &checkpoint.root);
        match &found {
            Err(Stopped::Contradiction(LogError::Tampered(damage)))
                if has_mended(dir, &tiles, damage.leaf, signed, firsts) =>
            {
                found = newest();
            }
            _ => break,
        }
    }
    let contradiction = match found {
        Ok(replay) => return Ok(replay),
        Err(Stopped::Error(e)) => return Err(e),
        Err(Stopped::Contradiction(e)) => Some(e),
        Err(Stopped::Torn) => None,
    };
    // The whole log decides: if it leads to the signed root, the tile was at fault.
    match run(None, None, true) {
        Ok(replay) => Ok(replay),
        Err(Stopped::Error(e)) => Err(match (contradiction, &e) {
            (Some(contradiction), LogError::Tampered(damage))
                if damage.file == Path::new(CHECKPOINT) =>
            {
                contradiction
            }
            // What could tell is elsewhere.
            #[cfg(feature = "index")]
            (Some(contradiction), LogError::Away(_)) => contradiction,
            _ => e,
        }),
        Err(Stopped::Contradiction(e)) => Err(e),
        Err(Stopped::Torn) => {
            let what = "nothing of the last two segments can be read";
            Err(LogError::tampered(
                segment::DIR.into(),
                checkpoint.size,
                0,
                what,
            ))
        }
    }
}

/// Whether the tile of a leaf that it contradicts was at fault, and is made again from the
/// segments that are here.
fn has_mended(dir: &Path, tiles: &Tiles, leaf: u64, signed: (u64, &Hash), firsts: &[u64]) -> bool {
    let number = leaf / TILE_WIDTH as u64;
    let made = remake(tiles, number, signed, firsts, &mut |first| {
        File::open(dir.join(segment::relative(first)))
    });
    made.unwrap_or(false)
}

struct Run<'a> {
    dir: &'a Path,
    tiles: &'a Tiles,
    log_id: [u8; 16],
    checkpoint: &'a Checkpoint,
    firsts: &'a [u64],
    /// Whether the tree is built again from the first leaf.
    whole: bool,
    /// Whether it is known that nothing of the newest segment can be kept.
    torn: bool,
    tree: Tree,
    /// Leaves from here on are not in `streams` yet.
    streams_from: u64,
    streams: Streams,
    keys: KeyCache,
    tile: Option<(u64, Vec<Hash>)>,
    offsets: Offsets,
    verifier: &'a Verifier,
    unsigned: bool,
    /// How many signatures of heads may still be checked.
    checks: Checks,
}

impl Run<'_> {
    fn run(mut self) -> Result<Replay, Stopped> {
        let signed = self.checkpoint.size;
        let newest = match self.torn {
            true => self.firsts.iter().rev().nth(1),
            false => self.firsts.last(),
        };
        let from = match newest {
            _ if self.whole => 0,
            Some(&last) => last.min(self.streams_from).min(signed),
            None => 0,
        };
        let start = self.firsts.partition_point(|first| *first <= from);
        let firsts = self
            .firsts
            .get(start.saturating_sub(1)..)
            .unwrap_or_default();
        let mut index = firsts.first().copied().unwrap_or(0);
        if start == 0 && !firsts.is_empty() {
            let file = segment::relative(0);
            return Err(LogError::tampered(file, 0, 0, "the first segment is gone").into());
        }
        let mut cut = None;
        for (at, &first) in firsts.iter().enumerate() {
            let next = firsts.get(at + 1).copied();
            cut = self.segment(first, &mut index, next)?;
            if let Some(cut) = &cut {
                if cut.offset == 0 && at == 0 && start > 1 {
                    // The segment before becomes the newest.
                    return Err(Stopped::Torn);
                }
                break;
            }
        }
        if index < signed {
            let file = segment::relative(index);
            let what = format!("the log ends here, but {signed} records were signed");
            return Err(LogError::tampered(file, index, 0, what).into());
        }
        self.write_tiles()?;
        Ok(Replay {
            tree: self.tree,
            streams: self.streams,
            offsets: self.offsets,
            cut,
            unsigned: self.unsigned,
        })
    }

    /// Replays one segment; gives where to cut when it does not go on.
    fn segment(
        &mut self,
        first: u64,
        index: &mut u64,
        next: Option<u64>,
    ) -> Result<Option<Cut>, Stopped> {
        let relative = segment::relative(first);
        let path = self.dir.join(&relative);
        let io = || LogError::io(path.clone());
        // A start fetches nothing: what it needs of a segment that went away, it cannot have.
        #[cfg(feature = "index")]
        if let Some(away) = super::super::is_needed(self.dir, first) {
            return Err(LogError::Away(Box::new(away)).into());
        }
        let file = Arc::new(File::open(&path).map_err(io())?);
        let header = Header {
            first_leaf: first,
            log_id: self.log_id,
        };
        if first != *index {
            let what = format!("expected the segment of leaf {index}");
            return self.stop(first, 0, *index, what).map(Some);
        }
        if let Err(fault) = header.check(&file).map_err(io())? {
            return self.stop(first, 0, first, fault.to_string()).map(Some);
        }
        let len = file.metadata().map_err(io())?.len();
        let mut reader = FrameReader::new(file, HEADER_LEN, len);
        let mut offsets = Offsets::empty();
        loop {
            let offset = reader.offset();
            let what = match reader.next().map_err(io())? {
                None => break,
                Some(_) if next == Some(*index) => Some("the segment goes on too long".into()),
                Some(Ok(frame)) => {
                    let sound = match frame.content() {
                        Content::Leaf(leaf) => {
                            let hash = merkle::leaf_in_place(frame.payload);
                            match self.leaf(*index, hash, leaf, &relative, offset)? {
                                true => None,
                                false => Some("it is no envelope"),
                            }
                        }
                        Content::Gone(gone) => match self.gone(*index, gone, &relative, offset)? {
                            true => None,
                            false => Some("it does not say which records were dropped"),
                        },
                        Content::Sparse(_) => None,
                    };
                    let stands = match sound {
                        None => offsets.take(&frame, first),
                        Some(_) => None,
                    };
                    *index += stands.unwrap_or(0);
                    match (sound, stands) {
                        (None, Some(_)) => None,
                        (what, _) => Some(what.unwrap_or("it cannot stand here").to_owned()),
                    }
                }
                Some(Err(fault)) => Some(fault.to_string()),
            };
            if let Some(what) = what {
                self.offsets = offsets;
                return self.stop(first, offset, *index, what).map(Some);
            }
            if self.tree.full_tiles().len() > TILES_HELD_MAX {
                self.write_tiles()?;
            }
        }
        let end = offsets.end();
        self.offsets = offsets;
        match next {
            Some(next) if next != *index => {
                let what = format!("the segment ends before leaf {next}");
                self.stop(first, end, *index, what).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Takes in one leaf; false when it cannot be one of ours.
    fn leaf(
        &mut self,
        index: u64,
        hash: Hash,
        leaf: &[u8],
        file: &Path,
        offset: u64,
    ) -> Result<bool, Stopped> {
        let Some(envelope) = EnvelopeRef::decode(leaf) else {
            return Ok(false);
        };
        let Some(key) = self.keys.key(envelope.stream) else {
            return Ok(false);
        };
        self.grow(index, hash, file, offset)?;
        if index >= self.checkpoint.size
            && let Some(peek) = RecordPeek::new(envelope.record)
        {
            self.unsigned |= told::said(self.verifier, &envelope, &peek).is_some()
                || told::ordered(self.verifier, &envelope, &peek).is_some();
        }
        let sane = (1..=SEQUENCE_MAX).contains(&envelope.sequence);
        if index >= self.streams_from && sane {
            // As the writer did before each group.
            self.streams.make_room();
            if let Ok(id) = self.streams.enter(&key) {
                self.streams.observe(id, envelope.sequence, None);
                let peek = RecordPeek::new(envelope.record).unwrap_or_default();
                if peek.closes_stream() {
                    self.streams.close(id);
                }
                if let Some(statement) = Statement::read(&peek) {
                    let at = Place {
                        stream: &key,
                        sequence: envelope.sequence,
                    };
                    self.streams.hear(at, &statement, None, &mut self.checks);
                }
            }
        }
        Ok(true)
    }

    /// Takes in what records left that were dropped; false when it cannot be one of ours.
    fn gone(&mut self, index: u64, gone: &[u8], file: &Path, offset: u64) -> Result<bool, Stopped> {
        let Some(run) = GoneRun::read(gone).filter(|run| run.first() == index) else {
            return Ok(false);
        };
        // Only what is signed is ever dropped.
        if run.next() > self.checkpoint.size {
            return Ok(false);
        }
        for (index, record) in (index..).zip(run.records()) {
            self.grow(index, record.leaf, file, offset)?;
            let sane = (1..=SEQUENCE_MAX).contains(&record.sequence);
            if index < self.streams_from || !sane {
                continue;
            }
            let Some(key) = self.keys.key(record.stream) else {
                return Ok(false);
            };
            self.streams.make_room();
            if let Ok(id) = self.streams.enter(&key) {
                self.streams.observe(id, record.sequence, None);
            }
        }
        Ok(true)
    }

    /// Lets the tree grow by a leaf, or compares that with what the tiles have.
    fn grow(&mut self, index: u64, hash: Hash, file: &Path, offset: u64) -> Result<(), Stopped> {
        let signed = self.checkpoint.size;
        if self.whole || index >= signed {
            self.tree.push(hash);
            if self.tree.size() == signed && self.tree.root() != self.checkpoint.root {
                let what = format!("the tree of {signed} records has another root than the signed");
                let error = LogError::tampered(PathBuf::from(CHECKPOINT), index, 0, what);
                return Err(error.into());
            }
        } else if let Some(stored) = self.tile_hash(index)
            && stored != hash
        {
            let (stored, computed) = (merkle::hex(&stored), merkle::hex(&hash));
            let what = format!("leaf hash stored {stored}, computed {computed}");
            let error = LogError::tampered(file.into(), index, offset, what);
            return Err(Stopped::Contradiction(error));
        }
        Ok(())
    }

    /// The hash that the tiles have for a leaf; `None` when its tile is lost.
    fn tile_hash(&mut self, index: u64) -> Option<Hash> {
        let number = index / TILE_WIDTH as u64;
        if self.tile.as_ref().is_none_or(|(held, _)| *held != number) {
            let hashes = TilePath::at(0, number, self.checkpoint.size)
                .and_then(|path| self.tiles.read(path).ok())
                .unwrap_or_default();
            self.tile = Some((number, hashes));
        }
        let (_, hashes) = self.tile.as_ref()?;
        hashes.get((index % TILE_WIDTH as u64) as usize).copied()
    }

    /// Below the checkpoint a fault is tampering; above it the log ends there.
    fn stop(&self, segment: u64, offset: u64, leaf: u64, what: String) -> Result<Cut, Stopped> {
        if leaf < self.checkpoint.size {
            let file = segment::relative(segment);
            return Err(LogError::tampered(file, leaf, offset, what).into());
        }
        Ok(Cut {
            segment,
            offset,
            leaf,
            what,
        })
    }

    fn write_tiles(&mut self) -> Result<(), LogError> {
        for tile in self.tree.full_tiles() {
            self.tiles
                .write(tile, files::Sync::No)
                .map_err(LogError::io(self.dir.join("tile")))?;
        }
        self.tree.forget_full_tiles();
        Ok(())
    }
}
