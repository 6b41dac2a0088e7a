//! The disk as the writing threads use it: every fsync is timed and watched, free
//! space is asked for, and in tests it can be made full, slow or broken.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use palisade_mesh::sink::FsyncTimes;

#[cfg(test)]
mod faults;
mod reserve;

#[cfg(test)]
pub(crate) use faults::Faults;
pub use reserve::Room;
pub(crate) use reserve::{Reserve, TEND_EVERY};

/// Time after which an fsync that has not come back is called a stall.
pub const STALL_AFTER: Duration = Duration::from_secs(1);

/// Buckets for an fsync, in seconds.
pub const FSYNC_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// One file system, as one thread writes to it; clones share the times.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    times: Arc<Times>,
    #[cfg(test)]
    faults: Option<Arc<Faults>>,
}

/// Bytes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// What this user may still write.
    pub(crate) free: u64,
    pub(crate) total: u64,
}

impl Disk {
    /// Writes all of `bytes` at `offset`.
    pub(crate) fn write_all_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.write(bytes.len())?;
        }
        file.write_all_at(bytes, offset)
    }

    /// Makes what was written survive a power cut.
    pub(crate) fn sync(&self, file: &File) -> io::Result<()> {
        self.times.time(|| {
            #[cfg(test)]
            if let Some(faults) = &self.faults {
                faults.sync();
            }
            file.sync_data()
        })
    }

    /// Room on the file system of `dir`.
    pub(crate) fn space(&self, dir: &Path) -> io::Result<Space> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            return Ok(faults.space());
        }
        let stat = nix::sys::statvfs::statvfs(dir)?;
        let unit = stat.fragment_size();
        Ok(Space {
            free: stat.blocks_available().saturating_mul(unit),
            total: stat.blocks().saturating_mul(unit),
        })
    }

    /// Takes `bytes` of room for `file`, all of it or none.
    pub(crate) fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            return faults.write(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        let len = i64::try_from(bytes).map_err(io::Error::other)?;
        nix::fcntl::posix_fallocate(file, 0, len)?;
        Ok(())
    }

    /// Notes that `bytes` were given back.
    pub(crate) fn freed(&self, bytes: u64) {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.give(bytes);
        }
        // The file system knows by itself.
        let _ = bytes;
    }

    /// How long fsyncs took.
    pub(crate) fn fsyncs(&self) -> FsyncTimes {
        self.times.read()
    }

    /// How long the present fsync has not come back, once that is a stall.
    pub(crate) fn stalled(&self) -> Option<Duration> {
        self.times.stalled()
    }
}

/// Whether an error says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Written by one thread, read by all.
#[derive(Debug)]
struct Times {
    origin: Instant,
    /// When the present fsync began, in nanoseconds after `origin`; 0 for none.
    began_ns: AtomicU64,
    counts: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
    longest_ns: AtomicU64,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            began_ns: AtomicU64::new(0),
            counts: (0..=FSYNC_BUCKETS.len())
                .map(|_| AtomicU64::new(0))
                .collect(),
            sum_ns: AtomicU64::new(0),
            longest_ns: AtomicU64::new(0),
        }
    }
}

impl Times {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = self.now_ns().max(1);
        self.began_ns.store(began, Relaxed);
        let done = work();
        self.began_ns.store(0, Relaxed);
        let took = self.now_ns().saturating_sub(began);
        let seconds = Duration::from_nanos(took).as_secs_f64();
        let bucket = FSYNC_BUCKETS.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        self.sum_ns.fetch_add(took, Relaxed);
        self.longest_ns.fetch_max(took, Relaxed);
        done
    }

    fn stalled(&self) -> Option<Duration> {
        let began = self.began_ns.load(Relaxed);
        let under_way = Duration::from_nanos(self.now_ns().saturating_sub(began));
        (began != 0 && under_way >= STALL_AFTER).then_some(under_way)
    }

    fn read(&self) -> FsyncTimes {
        FsyncTimes {
            bounds: FSYNC_BUCKETS,
            counts: self.counts.iter().map(|c| c.load(Relaxed)).collect(),
            seconds: Duration::from_nanos(self.sum_ns.load(Relaxed)).as_secs_f64(),
            longest: Duration::from_nanos(self.longest_ns.load(Relaxed)),
        }
    }
}
