//! Segment files: where leaves are kept.
//!
//! ```text
//! header  magic 8 · version u32 · first leaf u64 · log id 16 · crc32 u32
//! frame   length u32 · crc32 u32 · 0x00 · envelope
//!         length u32 · crc32 u32 · 0x02 · what records that were dropped leave
//!         length u32 · crc32 u32 · 0x03 · what the segment lacks; first, if at all
//! ```
//! Numbers are little-endian. A CRC covers what precedes it in its header, or the
//! length and everything after the CRC in its frame. Every byte is determined by
//! the leaves, the name of the log and what the log says it has dropped, so none can
//! change unnoticed. The zero byte is the prefix of RFC 6962, stored so that leaves are
//! hashed in place.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{envelope::LEAF_LEN_MAX, merkle::LEAF_PREFIX};

#[cfg(feature = "index")]
mod moved;
mod offsets;
mod sparse;

#[cfg(feature = "index")]
pub(crate) use moved::{Back, FETCHED, Intent, MOVED, Stub};
pub(crate) use offsets::Offsets;
pub use sparse::{Dropped, Lacking};
#[cfg(feature = "index")]
pub(crate) use sparse::{GoneBuilder, GoneRecord};
pub(crate) use sparse::{GoneRun, SparseSum, sum_of};

/// First byte of what records that were dropped leave.
const GONE_PREFIX: u8 = 2;

/// First byte of what a segment says that it lacks.
const SPARSE_PREFIX: u8 = 3;

/// First bytes of a segment.
const MAGIC: [u8; 8] = *b"palislog";

/// Version of the format.
const VERSION: u32 = 1;

/// Bytes of the header.
pub const HEADER_LEN: u64 = 40;

/// Bytes before a frame's payload.
pub const FRAME_HEADER_LEN: usize = 8;

/// Longest payload: the prefix byte and the longest leaf.
pub const PAYLOAD_LEN_MAX: usize = LEAF_LEN_MAX + 1;

/// Directory of the segments below the log's.
pub(crate) const DIR: &str = "segments";

/// How much is read from a segment at once.
const READ_LEN: usize = 1 << 20;

/// What the file is called that is to become a segment.
pub(crate) const ASIDE: &str = "sparse";

/// Path of a segment below the log's directory.
pub(crate) fn relative(first_leaf: u64) -> PathBuf {
    format!("{DIR}/{first_leaf:020}.seg").into()
}

/// The first leaf that a segment's file name announces.
pub(crate) fn first_leaf(name: &str) -> Option<u64> {
    numbered(name.strip_suffix(".seg")?)
}

fn numbered(digits: &str) -> Option<u64> {
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// First leaves of the segments of a log, ascending: of those in its directory, and of
/// those that went to an archive.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(dir.join(DIR))? {
        let name = entry?.file_name();
        #[cfg(feature = "index")]
        firsts.extend(name.to_str().and_then(moved::first_leaf));
        firsts.extend(name.to_str().and_then(first_leaf));
    }
    firsts.sort_unstable();
    firsts.dedup();
    Ok(firsts)
}

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) first_leaf: u64,
    pub(crate) log_id: [u8; 16],
}

/// What is wrong with a header: which field, as stored, as computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeaderFault {
    pub(crate) field: &'static str,
    pub(crate) stored: String,
    pub(crate) expected: String,
}

impl std::fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            field,
            stored,
            expected,
        } = self;
        write!(f, "header {field} is `{stored}`, not `{expected}`")
    }
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN as usize);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.first_leaf.to_le_bytes());
        bytes.extend_from_slice(&self.log_id);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Checks that `file` starts with this header.
    pub(crate) fn check(&self, file: &File) -> io::Result<Result<(), HeaderFault>> {
        let mut stored = vec![0; HEADER_LEN as usize];
        let len = read_at_most(file, &mut stored, 0)?;
        stored.truncate(len);
        let expected = self.encode();
        let fields = [
            ("magic", 0..8),
            ("version", 8..12),
            ("first leaf", 12..20),
            ("log id", 20..36),
            ("crc", 36..40),
        ];
        for (field, at) in fields {
            let (stored, expected) = (stored.get(at.clone()), expected.get(at));
            if stored != expected {
                let hex = |bytes: Option<&[u8]>| match bytes {
                    Some(bytes) => crate::merkle::hex(bytes),
                    None => "end of file".into(),
                };
                return Ok(Err(HeaderFault {
                    field,
                    stored: hex(stored),
                    expected: hex(expected),
                }));
            }
        }
        Ok(Ok(()))
    }
}

/// Appends a frame with a leaf, which is what `write` appends.
pub(crate) fn frame(buf: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    prefixed(buf, LEAF_PREFIX, write);
}

/// Appends a frame of what records that were dropped leave, encoded.
#[cfg(feature = "index")]
pub(crate) fn frame_gone(buf: &mut Vec<u8>, gone: &[u8]) {
    prefixed(buf, GONE_PREFIX, |buf| buf.extend_from_slice(gone));
}

/// Appends the frame of what a segment lacks, encoded.
#[cfg(feature = "index")]
pub(crate) fn frame_sparse(buf: &mut Vec<u8>, sparse: &[u8]) {
    prefixed(buf, SPARSE_PREFIX, |buf| buf.extend_from_slice(sparse));
}

fn prefixed(buf: &mut Vec<u8>, prefix: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = buf.len();
    buf.extend_from_slice(&[0; FRAME_HEADER_LEN]);
    buf.push(prefix);
    write(buf);
    let Some(frame) = buf.get_mut(start..) else {
        return;
    };
    let Some((header, payload)) = frame.split_first_chunk_mut::<FRAME_HEADER_LEN>() else {
        return;
    };
    let len = (payload.len() as u32).to_le_bytes();
    let crc = crc(len, payload).to_le_bytes();
    let (a, b) = header.split_at_mut(4);
    a.copy_from_slice(&len);
    b.copy_from_slice(&crc);
}

/// The sum of a frame.
pub(crate) fn crc(len: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&len);
    hasher.update(payload);
    hasher.finalize()
}

/// Splits a frame's header into length and CRC.
pub(crate) fn frame_header(bytes: [u8; FRAME_HEADER_LEN]) -> (u32, u32) {
    let all = u64::from_le_bytes(bytes);
    (all as u32, (all >> 32) as u32)
}

/// A whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// Where it starts in the file.
    pub(crate) offset: u64,
    /// A byte that says what it is, and that.
    pub(crate) payload: &'a [u8],
}

/// What a frame has, after the byte that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// The envelope of a record.
    Leaf(&'a [u8]),
    /// What records that were dropped leave.
    Gone(&'a [u8]),
    /// What the segment lacks.
    Sparse(&'a [u8]),
}

impl<'a> Content<'a> {
    fn of(payload: &'a [u8]) -> Option<Self> {
        match payload.split_first()? {
            (&LEAF_PREFIX, leaf) => Some(Self::Leaf(leaf)),
            (&GONE_PREFIX, gone) => Some(Self::Gone(gone)),
            (&SPARSE_PREFIX, sparse) => Some(Self::Sparse(sparse)),
            _ => None,
        }
    }
}

impl<'a> Frame<'a> {
    /// What it has.
    pub(crate) fn content(&self) -> Content<'a> {
        // The reader gives no frame of another kind.
        Content::of(self.payload).unwrap_or(Content::Leaf(&[]))
    }

    /// Where the next one starts.
    pub(crate) fn end(&self) -> u64 {
        self.offset + (FRAME_HEADER_LEN + self.payload.len()) as u64
    }
}

/// What is in a whole frame, or what is wrong with it.
pub(crate) fn check_frame(frame: &[u8]) -> Result<Content<'_>, String> {
    let short = || "the file ends inside a record".to_owned();
    let (header, payload) = frame
        .split_first_chunk::<FRAME_HEADER_LEN>()
        .ok_or_else(short)?;
    let (len, stored) = frame_header(*header);
    if len as usize != payload.len() {
        return Err(format!("length stored {len}, found {}", payload.len()));
    }
    let computed = crc(len.to_le_bytes(), payload);
    match Content::of(payload) {
        Some(content) if computed == stored => Ok(content),
        _ => Err(format!("crc stored {stored:08x}, computed {computed:08x}")),
    }
}

/// What is wrong at a place where a frame should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The file ends inside the frame.
    Short { offset: u64 },
    /// The length is none that a frame has.
    Length { offset: u64, stored: u32 },
    /// The CRC does not fit; the frame is skipped and reading can go on.
    Crc {
        offset: u64,
        stored: u32,
        computed: u32,
    },
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short { .. } => f.write_str("the file ends inside a record"),
            Self::Length { stored, .. } => write!(f, "impossible record length {stored}"),
            Self::Crc {
                stored, computed, ..
            } => write!(f, "crc stored {stored:08x}, computed {computed:08x}"),
        }
    }
}

/// What the segment in `file` says that it lacks, encoded; `None` where nothing was
/// dropped, or where it cannot be read, which whoever reads on is told.
pub(crate) fn sparse_of(file: &File) -> io::Result<Option<Vec<u8>>> {
    // Most segments are whole: a few bytes tell.
    let mut start = [0; FRAME_HEADER_LEN + 1];
    let len = read_at_most(file, &mut start, HEADER_LEN)?;
    let (Some(header), Some(&SPARSE_PREFIX)) = (start.first_chunk(), start.last()) else {
        return Ok(None);
    };
    let (payload_len, _) = frame_header(*header);
    if len < start.len() || payload_len as usize > PAYLOAD_LEN_MAX {
        return Ok(None);
    }
    let mut frame = vec![0; FRAME_HEADER_LEN + payload_len as usize];
    let len = read_at_most(file, &mut frame, HEADER_LEN)?;
    frame.truncate(len);
    Ok(match check_frame(&frame) {
        Ok(Content::Sparse(sparse)) => Some(sparse.to_vec()),
        _ => None,
    })
}

/// Reads frames one after another.
#[derive(Debug)]
pub(crate) struct FrameReader {
    file: Arc<File>,
    // File offset of the first byte in `buf` that is not consumed.
    offset: u64,
    end: u64,
    buf: Vec<u8>,
    start: usize,
    filled: usize,
    /// Where the payload of the last frame is in `buf`.
    last: std::ops::Range<usize>,
}

impl FrameReader {
    /// Reads from `offset` to `end`, both file offsets.
    pub(crate) fn new(file: Arc<File>, offset: u64, end: u64) -> Self {
        Self {
            file,
            offset,
            end,
            buf: Vec::new(),
            start: 0,
            filled: 0,
            last: 0..0,
        }
    }

    /// What the frame has that was read last; `None` before the first and after a fault.
    pub(crate) fn last(&self) -> Option<Content<'_>> {
        Content::of(self.buf.get(self.last.clone())?)
    }

    /// File offset of the next frame.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Result<Frame<'_>, Fault>>> {
        let offset = self.offset;
        self.last = 0..0;
        if offset >= self.end {
            return Ok(None);
        }
        self.fill(FRAME_HEADER_LEN)?;
        let Some(header) = self.ahead().first_chunk::<FRAME_HEADER_LEN>() else {
            return Ok(Some(Err(Fault::Short { offset })));
        };
        let (len, stored) = frame_header(*header);
        // Two bytes at least: the prefix and something to say.
        if len < 2 || len as usize > PAYLOAD_LEN_MAX {
            let stored = len;
            return Ok(Some(Err(Fault::Length { offset, stored })));
        }
        let total = FRAME_HEADER_LEN + len as usize;
        self.fill(total)?;
        if self.ahead().len() < total {
            return Ok(Some(Err(Fault::Short { offset })));
        }
        let from = self.start + FRAME_HEADER_LEN;
        self.start += total;
        self.offset += total as u64;
        let payload = self.buf.get(from..self.start).unwrap_or_default();
        let computed = crc(len.to_le_bytes(), payload);
        if computed != stored || Content::of(payload).is_none() {
            return Ok(Some(Err(Fault::Crc {
                offset,
                stored,
                computed,
            })));
        }
        self.last = from..self.start;
        Ok(Some(Ok(Frame { offset, payload })))
    }

    fn ahead(&self) -> &[u8] {
        self.buf.get(self.start..self.filled).unwrap_or_default()
    }

    /// Has `want` bytes ahead, or all that are left.
    fn fill(&mut self, want: usize) -> io::Result<()> {
        if self.ahead().len() >= want {
            return Ok(());
        }
        if self.buf.is_empty() {
            let left = usize::try_from(self.end - self.offset).unwrap_or(READ_LEN);
            self.buf = vec![0; READ_LEN.min(left)];
        }
        self.buf.copy_within(self.start..self.filled, 0);
        self.filled -= self.start;
        self.start = 0;
        // The buffer holds all that is left, or much more than a frame.
        let from = self.offset + self.filled as u64;
        let left = usize::try_from(self.end.saturating_sub(from)).unwrap_or(READ_LEN);
        let upto = self.buf.len().min(self.filled + left);
        let room = self.buf.get_mut(self.filled..upto).unwrap_or_default();
        self.filled += read_at_most(&self.file, room, from)?;
        Ok(())
    }
}

/// The index of the leaf at `offset`, told by what follows: by the next records that were
/// dropped, which say where they stand, or else by the end of the file, where the leaf after
/// the last is `next`. `None` where that cannot be told.
pub(crate) fn index_at(
    file: &Arc<File>,
    offset: u64,
    end: u64,
    next: Option<u64>,
) -> io::Result<Option<u64>> {
    let mut reader = FrameReader::new(file.clone(), offset, end);
    let mut leaves = 0;
    loop {
        let stands_at = match reader.next()? {
            None => next,
            Some(Err(_)) => return Ok(None),
            Some(Ok(frame)) => match frame.content() {
                Content::Leaf(_) => {
                    leaves += 1;
                    continue;
                }
                Content::Gone(gone) => GoneRun::read(gone).map(|run| run.first()),
                Content::Sparse(_) => None,
            },
        };
        return Ok(stands_at.and_then(|at| at.checked_sub(leaves)));
    }
}

/// Where the next whole frame begins in the bytes that follow `from`; for a frame that is no
/// leaf and whose length cannot be trusted.
pub(crate) fn next_frame(bytes: &[u8], from: usize) -> Option<usize> {
    (from..bytes.len()).find(|at| {
        let rest = bytes.get(*at..).unwrap_or_default();
        let Some((header, payload)) = rest.split_first_chunk::<FRAME_HEADER_LEN>() else {
            return false;
        };
        let len = frame_header(*header).0 as usize;
        let frame = rest.get(..FRAME_HEADER_LEN + len);
        // Few places get as far as the CRC.
        let may_be = matches!(payload.first(), Some(&(LEAF_PREFIX | GONE_PREFIX)));
        let sane = (2..=PAYLOAD_LEN_MAX).contains(&len);
        may_be && sane && frame.is_some_and(|frame| check_frame(frame).is_ok())
    })
}

/// Whether a payload is, as far as its first byte can be trusted, no leaf.
pub(crate) fn is_no_leaf(payload: &[u8]) -> bool {
    payload.first().is_some_and(|first| *first != LEAF_PREFIX)
}

/// Reads until `buf` is full or the file ends.
pub(crate) fn read_at_most(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(room) = buf.get_mut(done..).filter(|room| !room.is_empty()) {
        match file.read_at(room, offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, Arc<File>) {
        let temporary = tempfile::NamedTempFile::new().unwrap();
        fs::write(temporary.path(), bytes).unwrap();
        let file = Arc::new(File::open(temporary.path()).unwrap());
        (temporary, file)
    }

    fn frames(bytes: &[u8]) -> Vec<Result<Vec<u8>, Fault>> {
        let (_keep, file) = file(bytes);
        let mut reader = FrameReader::new(file, 0, bytes.len() as u64);
        let mut all = Vec::new();
        while let Some(next) = reader.next().unwrap() {
            let go_on = !matches!(next, Err(Fault::Short { .. } | Fault::Length { .. }));
            all.push(next.map(|frame| match frame.content() {
                Content::Leaf(leaf) => leaf.to_vec(),
                other => panic!("{other:?}"),
            }));
            if !go_on {
                break;
            }
        }
        all
    }

    proptest! {
        #[test]
        fn frames_read_back_and_one_changed_bit_is_always_noticed(
            leaves in prop::collection::vec(
                prop::collection::vec(any::<u8>(), 1..200), 1..20),
            at in any::<prop::sample::Index>(), bit in 0..8u8,
        ) {
            let mut bytes = Vec::new();
            for leaf in &leaves {
                frame(&mut bytes, |buf| buf.extend_from_slice(leaf));
            }
            let read: Vec<_> = frames(&bytes).into_iter().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(&read, &leaves);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(frames(&bytes).iter().any(Result::is_err));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let _ = frames(&bytes);
        }
    }

    #[test]
    fn payload_lengths_are_limited_on_both_sides() {
        let mut longest = Vec::new();
        frame(&mut longest, |buf| {
            buf.extend_from_slice(&[1; LEAF_LEN_MAX])
        });
        assert!(frames(&longest)[0].is_ok());
        let mut longer = Vec::new();
        frame(&mut longer, |buf| {
            buf.extend_from_slice(&[1; LEAF_LEN_MAX + 1])
        });
        assert!(matches!(frames(&longer)[0], Err(Fault::Length { .. })));
        // A file grown by zeros, as a power cut leaves it, holds no frame.
        assert!(matches!(
            frames(&[0; 64])[0],
            Err(Fault::Length {
                offset: 0,
                stored: 0
            })
        ));
    }

    #[test]
    fn a_header_names_the_field_that_differs() {
        let header = Header {
            first_leaf: 9,
            log_id: [4; 16],
        };
        let bytes = header.encode();
        assert_eq!(bytes.len() as u64, HEADER_LEN);
        let fault = |bytes: &[u8]| header.check(&file(bytes).1).unwrap().err().map(|f| f.field);
        assert_eq!(fault(&bytes), None);
        for (at, field) in [
            (0, "magic"),
            (8, "version"),
            (13, "first leaf"),
            (30, "log id"),
            (39, "crc"),
        ] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 64;
            assert_eq!(fault(&bytes), Some(field));
        }
        assert_eq!(fault(&bytes[..38]), Some("crc"));
    }
}
