//! The table of keys: one slot of a file for each person.
//!
//! ```text
//! header  magic 8 · version u32 · zero 4
//! slot    pseudonym 16 · state u8 · zero 3 · time i64 · wrapped key 60 · zero 4 · crc32 u32
//! ```
//! Numbers are little-endian; the wrapped key is nonce, ciphertext, tag. Slots never move
//! and are written in place, so that a key that is destroyed is overwritten where it was:
//! there is no journal and no earlier version of the file that could still hold it.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use super::{PSEUDONYM_LEN, Pseudonym};
use crate::{files, segment::read_at_most};

const MAGIC: [u8; 8] = *b"paliskey";
const VERSION: u32 = 1;
const HEADER_LEN: u64 = 16;
const SLOT_LEN: usize = 96;
/// Bytes of a slot that its checksum covers.
const CHECKED_LEN: usize = SLOT_LEN - 4;
/// Bytes of a wrapped key: nonce, ciphertext, tag.
pub(super) const WRAPPED_LEN: usize = 60;

/// A wrapped key.
pub(super) type Wrapped = [u8; WRAPPED_LEN];

/// What is known of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) pseudonym: Pseudonym,
    pub(super) state: State,
    /// When its key was made, or destroyed; microseconds since the Unix epoch.
    pub(super) time_us: i64,
    /// Zeros once it is destroyed.
    pub(super) key: Wrapped,
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It opens what is sealed with it.
    Live,
    /// It was ordered to be destroyed, and is not yet.
    Doomed,
    /// It is not there any more.
    Erased,
}

impl State {
    fn byte(self) -> u8 {
        match self {
            Self::Live => 1,
            Self::Doomed => 2,
            Self::Erased => 3,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::Live, Self::Doomed, Self::Erased]
            .into_iter()
            .find(|state| state.byte() == byte)
    }
}

impl Slot {
    fn encode(&self) -> [u8; SLOT_LEN] {
        let mut bytes = Vec::with_capacity(SLOT_LEN);
        bytes.extend_from_slice(&self.pseudonym.0);
        bytes.extend_from_slice(&[self.state.byte(), 0, 0, 0]);
        bytes.extend_from_slice(&self.time_us.to_le_bytes());
        bytes.extend_from_slice(&self.key);
        bytes.resize(CHECKED_LEN, 0);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        let mut slot = [0; SLOT_LEN];
        slot.copy_from_slice(&bytes);
        slot
    }

    /// Reads a slot, and whether it is as it was written.
    fn decode(bytes: &[u8; SLOT_LEN]) -> (Self, bool) {
        let (pseudonym, rest) = bytes
            .split_first_chunk()
            .unwrap_or((&[0; PSEUDONYM_LEN], &[]));
        let (head, rest) = rest.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let (time, rest) = rest.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let key = rest.first_chunk().unwrap_or(&[0; WRAPPED_LEN]);
        let state = State::of(head.first().copied().unwrap_or_default());
        let slot = Self {
            pseudonym: Pseudonym(*pseudonym),
            state: state.unwrap_or(State::Erased),
            time_us: i64::from_le_bytes(*time),
            key: *key,
        };
        (slot, slot.encode() == *bytes)
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
    max: u32,
    _lock: File,
}

impl Table {
    /// Opens the table in `dir`, or makes an empty one. `mend` tells whether a slot that is
    /// not as it was written has a key that can be used all the same.
    pub(super) fn open(
        dir: &Path,
        max: u32,
        mend: impl Fn(&Pseudonym, &Wrapped) -> bool,
    ) -> io::Result<Self> {
        files::create_dir(dir)?;
        let busy = || io::Error::new(io::ErrorKind::WouldBlock, "another process uses it");
        let lock = files::lock(&dir.join("lock"))?.ok_or_else(busy)?;
        let path = path(dir);
        if !path.exists() {
            files::replace(&path, &header(), files::Sync::Yes)?;
        }
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .mode(files::FILE_MODE)
            .open(&path)?;
        let mut table = Self {
            file,
            places: HashMap::new(),
            len: 0,
            new: Vec::new(),
            max,
            _lock: lock,
        };
        table.read(mend)?;
        Ok(table)
    }

    fn read(&mut self, mend: impl Fn(&Pseudonym, &Wrapped) -> bool) -> io::Result<()> {
        let mut stored = vec![0; header().len()];
        read_at_most(&self.file, &mut stored, 0)?;
        if stored != header() {
            let what = "it is no table of keys of this version";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        loop {
            let mut bytes = [0; SLOT_LEN];
            // A part of a slot at the end was never used: its write did not come back.
            if read_at_most(&self.file, &mut bytes, offset(self.len))? < SLOT_LEN {
                return Ok(());
            }
            let (mut slot, whole) = Slot::decode(&bytes);
            if !whole {
                let usable = mend(&slot.pseudonym, &slot.key);
                tracing::error!(subject = %slot.pseudonym, usable, "slot of the key table is damaged");
                slot = match usable {
                    true => Slot {
                        state: State::Live,
                        ..slot
                    },
                    false => erased(slot.pseudonym, slot.time_us),
                };
                self.file.write_all_at(&slot.encode(), offset(self.len))?;
            }
            self.places.insert(slot.pseudonym, self.len);
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
        let mut bytes = [0; SLOT_LEN];
        self.file.read_exact_at(&mut bytes, offset(place))?;
        let (slot, whole) = Slot::decode(&bytes);
        match whole && slot.pseudonym == *pseudonym {
            true => Ok(Some(slot)),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a slot of the key table is damaged",
            )),
        }
    }

    /// Takes in a person that is not known; durable with the next [`Table::commit`]. False
    /// when there is no slot left.
    pub(super) fn add(&mut self, slot: Slot) -> bool {
        let place = self.len + self.new.len() as u32;
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
        if let Some(place) = self.places.get(&slot.pseudonym) {
            self.file.write_all_at(&slot.encode(), offset(*place))?;
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// Every person whose key was ordered to be destroyed, and is not yet.
    pub(super) fn doomed(&self) -> io::Result<Vec<Pseudonym>> {
        let mut doomed = Vec::new();
        for pseudonym in self.places.keys() {
            let slot = self.find(pseudonym)?;
            doomed.extend(
                slot.filter(|s| s.state == State::Doomed)
                    .map(|s| s.pseudonym),
            );
        }
        doomed.sort_unstable();
        Ok(doomed)
    }

    /// How many slots are used.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }
}

/// The slot of a person whose key is gone.
pub(super) fn erased(pseudonym: Pseudonym, time_us: i64) -> Slot {
    Slot {
        pseudonym,
        state: State::Erased,
        time_us,
        key: [0; WRAPPED_LEN],
    }
}

/// The file of the table in `dir`.
pub(super) fn path(dir: &Path) -> std::path::PathBuf {
    dir.join("keys")
}

fn header() -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_le_bytes(), &[0; 4]].concat()
}

fn offset(place: u32) -> u64 {
    HEADER_LEN + u64::from(place) * SLOT_LEN as u64
}
