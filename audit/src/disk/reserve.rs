//! Room that is kept back for the moment in which the disk is full.
//!
//! A file of zeros holds it. While the disk is roomy there is none: it is taken
//! once less than [`HOLD_BELOW`] times its size is free, and given up when the
//! disk is nearly full or a write finds no room. Then what may be lost is shed,
//! and what may not is written into the room that came free.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{Disk, Space};
use crate::files;

/// Name of the file that holds the room.
const RESERVE_FILE: &str = "reserve";

/// Time between looks at the free space.
pub(crate) const TEND_EVERY: Duration = Duration::from_secs(1);

/// A reserve is at most this part of its file system.
const PART_MAX: u64 = 16;

/// Sizes of the reserve that are free, or less, when it is taken.
const HOLD_BELOW: u64 = 16;

/// Sizes of the reserve that must be free, the reserve not counted, so that a disk
/// that was nearly full is no longer, and so that one that was full is no longer.
const EASED: u64 = 2;
const RECOVERED: u64 = 3;

/// Part of its size that is free when the reserve is given up.
const GIVEN_UP: u64 = 4;

/// How much room there is for records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Room {
    /// Enough.
    #[default]
    Enough,
    /// Less than the reserve is free besides it: what can be made again waits.
    Tight,
    /// The reserve was given up: what may be lost is shed.
    Full,
}

impl Room {
    /// As a number, for an atomic.
    pub(crate) fn to_u8(self) -> u8 {
        match self {
            Self::Enough => 0,
            Self::Tight => 1,
            Self::Full => 2,
        }
    }

    /// Of a number of [`Room::to_u8`].
    pub(crate) fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::Enough,
            1 => Self::Tight,
            _ => Self::Full,
        }
    }
}

/// The reserve of one directory.
#[derive(Debug)]
pub(crate) struct Reserve {
    disk: Disk,
    dir: PathBuf,
    path: PathBuf,
    wanted: u64,
    held: u64,
    room: Room,
    tended: Option<Instant>,
}

impl Reserve {
    /// A reserve of at most `wanted` bytes in `dir`; 0 for none. What an earlier
    /// process held is held on.
    pub(crate) fn new(disk: Disk, dir: &Path, wanted: u64) -> Self {
        let path = dir.join(RESERVE_FILE);
        let held = fs::metadata(&path).map_or(0, |found| found.len());
        Self {
            disk,
            dir: dir.into(),
            path,
            wanted,
            held,
            room: Room::Enough,
            tended: None,
        }
    }

    pub(crate) fn room(&self) -> Room {
        self.room
    }

    /// Looks at the free space, at most once in [`TEND_EVERY`].
    pub(crate) fn tend(&mut self) -> Room {
        if self.tended.is_some_and(|at| at.elapsed() < TEND_EVERY) {
            return self.room;
        }
        self.tended = Some(Instant::now());
        match self.disk.space(&self.dir) {
            Ok(space) => self.judge(space),
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "free space is not known");
            }
        }
        self.room
    }

    /// Answers a write that found no room; true when there is some now.
    pub(crate) fn give_up(&mut self) -> bool {
        self.room = Room::Full;
        self.release()
    }

    fn judge(&mut self, Space { free, total }: Space) {
        let size = self.wanted.min(total / PART_MAX);
        if free < size / GIVEN_UP {
            if self.room != Room::Full {
                tracing::error!(dir = %self.dir.display(), free, "disk is nearly full");
            }
            self.give_up();
        } else if self.room == Room::Full {
            if free >= size * RECOVERED {
                self.take(size);
                tracing::info!(dir = %self.dir.display(), free, "disk has room again");
                self.room = Room::Enough;
            }
        } else if free < size {
            self.room = Room::Tight;
        } else {
            if free <= size * HOLD_BELOW && free >= size * EASED {
                self.take(size);
            }
            if free >= size * EASED {
                self.room = Room::Enough;
            }
        }
    }

    /// Holds `size` bytes, where the file system can.
    fn take(&mut self, size: u64) {
        if self.held >= size {
            return;
        }
        let taken = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(files::FILE_MODE)
            .open(&self.path)
            .and_then(|file| self.disk.allocate(&file, size));
        match taken {
            Ok(()) => self.held = size,
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "no room can be kept back");
                // Half a reserve is none.
                let _ = fs::remove_file(&self.path);
                self.held = 0;
            }
        }
    }

    fn release(&mut self) -> bool {
        let held = std::mem::take(&mut self.held);
        match fs::remove_file(&self.path) {
            Ok(()) => {
                self.disk.freed(held);
                tracing::warn!(file = %self.path.display(), bytes = held, "reserve was given up");
                held > 0
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "reserve cannot be given up");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn room_is_kept_back_given_up_and_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, faults) = Disk::faulty();
        let file = dir.path().join(RESERVE_FILE);
        let mut reserve = Reserve::new(disk.clone(), dir.path(), 2 * MIB);
        let mut at = |free: u64| {
            faults.set_free(free);
            reserve.tended = None;
            reserve.tend()
        };
        // Roomy: nothing is taken.
        assert_eq!((at(40 * MIB), file.exists()), (Room::Enough, false));
        assert_eq!((at(31 * MIB), file.exists()), (Room::Enough, true));
        assert_eq!((at(2 * MIB), file.exists()), (Room::Enough, true));
        assert_eq!((at(2 * MIB - 1), file.exists()), (Room::Tight, true));
        // It must ease by more than it took to be tight.
        assert_eq!(at(3 * MIB), Room::Tight);
        assert_eq!(at(4 * MIB), Room::Enough);
        assert_eq!((at(MIB / 2), file.exists()), (Room::Tight, true));
        assert_eq!((at(MIB / 2 - 1), file.exists()), (Room::Full, false));
        assert_eq!((at(6 * MIB - 1), file.exists()), (Room::Full, false));
        assert_eq!((at(6 * MIB), file.exists()), (Room::Enough, true));
        // A write that finds no room gives it up at once; there is nothing more to
        // give after that.
        assert!(reserve.give_up());
        assert_eq!((reserve.room(), file.exists()), (Room::Full, false));
        assert!(!reserve.give_up());
    }

    #[test]
    fn what_an_earlier_process_held_is_held_on() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(RESERVE_FILE), [0; 100]).unwrap();
        let mut reserve = Reserve::new(Disk::default(), dir.path(), 100);
        assert!(reserve.give_up());
    }

    /// The real thing: room is really taken from the file system.
    #[test]
    fn a_reserve_takes_blocks() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::new(Disk::default(), dir.path(), MIB);
        reserve.take(MIB);
        let found = fs::metadata(dir.path().join(RESERVE_FILE)).unwrap();
        assert!(found.blocks() * 512 >= MIB);
    }
}
