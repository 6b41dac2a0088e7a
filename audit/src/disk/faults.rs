//! A disk that is full, slow or broken, for tests.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use super::{Disk, Space};

/// Size of the pretended file system, in bytes.
pub(crate) const TOTAL: u64 = 64 << 20;

/// What a disk does wrong.
#[derive(Debug)]
pub(crate) struct Faults {
    free: AtomicU64,
    held: Mutex<bool>,
    moved: Condvar,
    panics: AtomicBool,
}

impl Disk {
    /// A disk with [`TOTAL`] bytes of room, and what can be done to it.
    pub(crate) fn faulty() -> (Self, Arc<Faults>) {
        let faults = Arc::new(Faults {
            free: AtomicU64::new(TOTAL),
            held: Mutex::new(false),
            moved: Condvar::new(),
            panics: AtomicBool::new(false),
        });
        let disk = Self {
            faults: Some(faults.clone()),
            ..Self::default()
        };
        (disk, faults)
    }
}

impl Faults {
    /// From now on so much is free.
    pub(crate) fn set_free(&self, bytes: u64) {
        self.free.store(bytes, SeqCst);
    }

    /// From now on fsyncs do not come back, or do again.
    pub(crate) fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.moved.notify_all();
    }

    /// The next fsync panics.
    pub(crate) fn panic(&self) {
        self.panics.store(true, SeqCst);
    }

    pub(super) fn write(&self, bytes: usize) -> io::Result<()> {
        let taken = self.free.fetch_update(SeqCst, SeqCst, |free| {
            free.checked_sub(u64::try_from(bytes).unwrap_or(u64::MAX))
        });
        taken
            .map(|_| ())
            .map_err(|_| io::Error::from(io::ErrorKind::StorageFull))
    }

    pub(super) fn give(&self, bytes: u64) {
        self.free.fetch_add(bytes, SeqCst);
    }

    pub(crate) fn space(&self) -> Space {
        Space {
            free: self.free.load(SeqCst),
            total: TOTAL,
        }
    }

    pub(super) fn sync(&self) {
        assert!(!self.panics.swap(false, SeqCst), "told to panic");
        let held = self.held.lock().unwrap();
        drop(self.moved.wait_while(held, |held| *held).unwrap());
    }
}
