//! The table of keys: one slot of a file for each person.
//!
//! ```text
//! header  magic 8 · version u32 · zero 4 · check 16
//! slot    pseudonym 16 · state u8 · zero 3 · erased i64 · wrapped key 60 · zero 4 · crc32 u32
//! ```
//! Numbers are little-endian; the wrapped key is nonce, ciphertext, tag. The check comes
//! from the key-encryption key, so that another one is noticed. Slots never move and are
//! written in place, so that a key that is destroyed is overwritten where it was: there is
//! no journal and no earlier version of the file that could still hold it. A slot that is
//! damaged is left as it is, for whoever can mend it, until its person is erased.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{PSEUDONYM_LEN, Pseudonym};
use crate::{files, segment::read_at_most};

const MAGIC: [u8; 8] = *b"paliskey";
const VERSION: u32 = 2;
/// Bytes of what tells the key-encryption key.
pub(super) const CHECK_LEN: usize = 16;
/// Bytes of a header before its check.
const HEAD_LEN: usize = 16;
const HEADER_LEN: u64 = (HEAD_LEN + CHECK_LEN) as u64;
const SLOT_LEN: usize = 96;
/// Bytes of a slot that its checksum covers.
const CHECKED_LEN: usize = SLOT_LEN - 4;
/// Bytes of a wrapped key: nonce, ciphertext, tag.
pub(super) const WRAPPED_LEN: usize = 60;
/// Stands for no time at all.
const NEVER: i64 = i64::MIN;
/// Bytes that are read at once.
const READ_LEN: usize = 1 << 20;

/// A wrapped key.
pub(super) type Wrapped = [u8; WRAPPED_LEN];

/// What is known of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) pseudonym: Pseudonym,
    pub(super) state: State,
    /// When the last key that was destroyed was; microseconds since the Unix epoch.
    pub(super) erased_us: Option<i64>,
    /// Zeros once it is destroyed.
    pub(super) key: Wrapped,
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is not as it was written, so nothing is sure about it.
    Damaged,
    /// It was ordered to be destroyed, and is not yet.
    Doomed,
    /// It is not there any more.
    Erased,
    /// It opens what is sealed with it.
    Live,
}

impl State {
    fn byte(self) -> u8 {
        match self {
            Self::Damaged => 0,
            Self::Live => 1,
            Self::Doomed => 2,
            Self::Erased => 3,
        }
    }

    fn of(byte: u8) -> Self {
        [Self::Live, Self::Doomed, Self::Erased]
            .into_iter()
            .find(|state| state.byte() == byte)
            .unwrap_or(Self::Damaged)
    }
}

impl Slot {
    fn encode(&self) -> [u8; SLOT_LEN] {
        let mut bytes = Vec::with_capacity(SLOT_LEN);
        bytes.extend_from_slice(&self.pseudonym.0);
        bytes.extend_from_slice(&[self.state.byte(), 0, 0, 0]);
        bytes.extend_from_slice(&self.erased_us.unwrap_or(NEVER).to_le_bytes());
        bytes.extend_from_slice(&self.key);
        bytes.resize(CHECKED_LEN, 0);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        let mut slot = [0; SLOT_LEN];
        slot.copy_from_slice(&bytes);
        slot
    }

    fn decode(bytes: &[u8; SLOT_LEN]) -> Self {
        let (pseudonym, rest) = bytes
            .split_first_chunk()
            .unwrap_or((&[0; PSEUDONYM_LEN], &[]));
        let (head, rest) = rest.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let (time, rest) = rest.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let key = rest.first_chunk().unwrap_or(&[0; WRAPPED_LEN]);
        let slot = Self {
            pseudonym: Pseudonym(*pseudonym),
            state: State::of(head.first().copied().unwrap_or_default()),
            erased_us: Some(i64::from_le_bytes(*time)).filter(|time| *time != NEVER),
            key: *key,
        };
        match slot.encode() == *bytes {
            true => slot,
            false => slot.damaged(),
        }
    }

    fn damaged(self) -> Self {
        Self {
            state: State::Damaged,
            ..self
        }
    }
}

/// The folder of a table, held by this process.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Takes the folder, which is made where there is none.
    pub(super) fn hold(dir: &Path) -> io::Result<Self> {
        files::create_dir(dir)?;
        let busy = || io::Error::new(io::ErrorKind::WouldBlock, "another process uses it");
        Ok(Self {
            lock: files::lock(&dir.join("lock"))?.ok_or_else(busy)?,
            path: path(dir),
        })
    }

    /// Bytes of the table; 0 where there is no file, too.
    pub(super) fn len(&self) -> io::Result<u64> {
        match fs::metadata(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            meta => Ok(meta?.len()),
        }
    }
}

/// The file, and where each person is in it.
#[derive(Debug)]
pub(super) struct Table {
    file: File,
    places: HashMap<Pseudonym, u32>,
    /// Slots in the file.
    len: u32,
    /// Slots that are used and not in the file yet, in order.
    new: Vec<Slot>,
    /// Slots that were damaged when the table was opened.
    damaged: Vec<u32>,
    doomed: BTreeSet<Pseudonym>,
    max: u32,
    _lock: File,
}

impl Table {
    /// Opens the table in `folder`; an empty one is begun where there is no file, or one
    /// without a byte. None when it belongs to another key-encryption key than `check`
    /// comes from.
    pub(super) fn open(
        folder: Folder,
        max: u32,
        check: &[u8; CHECK_LEN],
    ) -> io::Result<Option<Self>> {
        if folder.len()? == 0 {
            let header = [&head()[..], check].concat();
            files::replace(&folder.path, &header, files::Sync::Yes)?;
        }
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .mode(files::FILE_MODE)
            .open(&folder.path)?;
        let mut header = [0; HEAD_LEN + CHECK_LEN];
        read_at_most(&file, &mut header, 0)?;
        let (stored, own) = header.split_at(HEAD_LEN);
        if stored != head() {
            let what = "it is no table of keys of this version";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if own != check {
            return Ok(None);
        }
        let mut table = Self {
            file,
            places: HashMap::new(),
            len: 0,
            new: Vec::new(),
            damaged: Vec::new(),
            doomed: BTreeSet::new(),
            max,
            _lock: folder.lock,
        };
        table.read()?;
        Ok(Some(table))
    }

    fn read(&mut self) -> io::Result<()> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(HEADER_LEN))?;
        let mut reader = BufReader::with_capacity(READ_LEN, file);
        let mut bytes = [0; SLOT_LEN];
        loop {
            match reader.read_exact(&mut bytes) {
                // A part of a slot at the end was never used: its write did not come back.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            }
            let slot = Slot::decode(&bytes);
            match slot.state {
                State::Damaged => {
                    tracing::error!(slot = self.len, "slot of the key table is damaged");
                    self.damaged.push(self.len);
                    self.places.entry(slot.pseudonym).or_insert(self.len);
                }
                _ => {
                    self.places.insert(slot.pseudonym, self.len);
                }
            }
            if slot.state == State::Doomed {
                self.doomed.insert(slot.pseudonym);
            }
            self.len += 1;
        }
    }

    /// What is known of a person.
    pub(super) fn find(&self, pseudonym: &Pseudonym) -> io::Result<Option<Slot>> {
        let Some(place) = self.places.get(pseudonym).copied() else {
            return Ok(None);
        };
        if let Some(new) = place.checked_sub(self.len) {
            return Ok(self.new.get(new as usize).copied());
        }
        let slot = self.at(place)?;
        Ok(Some(match slot.pseudonym == *pseudonym {
            true => slot,
            false => slot.damaged(),
        }))
    }

    /// The slot at a place of the file.
    pub(super) fn at(&self, place: u32) -> io::Result<Slot> {
        let mut bytes = [0; SLOT_LEN];
        self.file.read_exact_at(&mut bytes, offset(place))?;
        Ok(Slot::decode(&bytes))
    }

    /// Places of slots that were damaged when the table was opened.
    pub(super) fn damaged(&self) -> &[u32] {
        &self.damaged
    }

    /// Takes in a person that is not known; durable with the next [`Table::commit`]. False
    /// when there is no slot left.
    pub(super) fn add(&mut self, slot: Slot) -> bool {
        let place = self.used();
        if place >= self.max {
            return false;
        }
        self.places.insert(slot.pseudonym, place);
        self.new.push(slot);
        true
    }

    /// Brings what was added to the disk.
    pub(super) fn commit(&mut self) -> io::Result<()> {
        if self.new.is_empty() {
            return Ok(());
        }
        let bytes: Vec<u8> = self.new.iter().flat_map(Slot::encode).collect();
        self.file.write_all_at(&bytes, offset(self.len))?;
        self.file.sync_data()?;
        self.len += self.new.len() as u32;
        self.new.clear();
        Ok(())
    }

    /// Overwrites the slot of a person, durably.
    pub(super) fn replace(&mut self, slot: &Slot) -> io::Result<()> {
        self.commit()?;
        match self.places.get(&slot.pseudonym).copied() {
            Some(place) => self.write(place, slot),
            None => Ok(()),
        }
    }

    /// Overwrites a slot of the file, durably.
    pub(super) fn write(&mut self, place: u32, slot: &Slot) -> io::Result<()> {
        self.file.write_all_at(&slot.encode(), offset(place))?;
        self.file.sync_data()?;
        match slot.state {
            State::Doomed => self.doomed.insert(slot.pseudonym),
            _ => self.doomed.remove(&slot.pseudonym),
        };
        self.damaged.retain(|damaged| *damaged != place);
        Ok(())
    }

    /// Every person whose key was ordered to be destroyed, and is not yet.
    pub(super) fn doomed(&self) -> &BTreeSet<Pseudonym> {
        &self.doomed
    }

    /// How many slots are used.
    pub(super) fn used(&self) -> u32 {
        self.len + self.new.len() as u32
    }

    /// How many there can be.
    pub(super) fn max(&self) -> u32 {
        self.max
    }
}

/// The slot of a person whose key is gone.
pub(super) fn erased(pseudonym: Pseudonym, time_us: i64) -> Slot {
    Slot {
        pseudonym,
        state: State::Erased,
        erased_us: Some(time_us),
        key: [0; WRAPPED_LEN],
    }
}

/// The file of the table in `dir`.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("keys")
}

fn head() -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_le_bytes(), &[0; 4]].concat()
}

fn offset(place: u32) -> u64 {
    HEADER_LEN + u64::from(place) * SLOT_LEN as u64
}
