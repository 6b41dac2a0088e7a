//! How the log is doing, for whoever must warn.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use palisade_mesh::sink::{FsyncTimes, SinkHealth};

use crate::disk::{Disk, Room};

/// How the log is doing.
#[derive(Debug, Clone, PartialEq)]
pub struct LogHealth {
    /// Room on its disk.
    pub room: Room,
    /// How long the present fsync has not come back, once that is a stall.
    pub stalled: Option<Duration>,
    /// How long fsyncs took.
    pub fsync: FsyncTimes,
    /// Why the last write failed, until one succeeds.
    pub failing: Option<String>,
    /// Why the last checkpoint could not be signed and kept, until one is.
    pub unsigned: Option<String>,
    /// Whether the writing thread is gone; nothing more is kept.
    pub dead: bool,
}

impl From<LogHealth> for SinkHealth {
    fn from(log: LogHealth) -> Self {
        Self {
            fsync: log.fsync,
            stalled: log.stalled,
            low: log.room != Room::Enough,
            failing: log.failing.is_some(),
            dead: log.dead,
            ..Self::default()
        }
    }
}

/// Told by the writer, asked by all.
#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) disk: Disk,
    room: AtomicU8,
    failing: Mutex<Option<String>>,
    unsigned: Mutex<Option<String>>,
    dead: AtomicBool,
}

impl Health {
    pub(super) fn new(disk: Disk) -> Self {
        Self {
            disk,
            ..Self::default()
        }
    }

    /// Sets the room; gives what it was.
    pub(super) fn set_room(&self, room: Room) -> Room {
        Room::from_u8(self.room.swap(room.to_u8(), Ordering::Relaxed))
    }

    pub(super) fn room(&self) -> Room {
        Room::from_u8(self.room.load(Ordering::Relaxed))
    }

    pub(super) fn set_failing(&self, why: Option<String>) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    pub(super) fn set_unsigned(&self, why: Option<String>) {
        *self.unsigned.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    pub(super) fn read(&self) -> LogHealth {
        let words = |of: &Mutex<Option<String>>| {
            let why = of.lock().unwrap_or_else(PoisonError::into_inner);
            why.clone()
        };
        LogHealth {
            room: self.room(),
            stalled: self.disk.stalled(),
            fsync: self.disk.fsyncs(),
            failing: words(&self.failing),
            unsigned: words(&self.unsigned),
            dead: self.dead.load(Ordering::SeqCst),
        }
    }
}

/// Tells, should the writing thread panic, that nothing more will be kept.
pub(super) struct Deathwatch(pub(super) Option<std::sync::Arc<Health>>);

impl Drop for Deathwatch {
    fn drop(&mut self) {
        if let Some(health) = &self.0 {
            health.dead.store(true, Ordering::SeqCst);
        }
    }
}
