//! What was fetched, in a folder of bounded size: what was not read for longest goes first.
//!
//! The folder itself says what is there, so that several processes can share it; who has a
//! file open goes on reading it when it has gone.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use crate::{disk::Disk, files, log::RESERVE_BYTES};

/// The folder.
pub(super) struct Cache {
    dir: PathBuf,
    bytes_max: u64,
    disk: Disk,
    /// Tells files apart that are fetched at a time.
    next: AtomicU64,
}

/// A file in it.
struct Held {
    path: PathBuf,
    bytes: u64,
    read_at: SystemTime,
}

impl Cache {
    pub(super) fn new(dir: PathBuf, bytes_max: u64) -> Self {
        Self {
            dir,
            bytes_max,
            disk: Disk::default(),
            next: AtomicU64::new(0),
        }
    }

    /// Opens a file, which counts as read now.
    pub(super) fn open(&self, name: &str) -> Option<File> {
        let path = self.dir.join(name);
        let file = File::open(&path).ok()?;
        // Best effort: it then goes a little early.
        let _ = File::options()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        Some(file)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.dir.join(name).exists()
    }

    pub(super) fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.dir.join(name));
    }

    pub(super) fn bytes(&self) -> u64 {
        self.held().iter().map(|held| held.bytes).sum()
    }

    /// Makes room for `bytes`; gives where they are to be written.
    pub(super) fn begin(&self, name: &str, bytes: u64) -> io::Result<PathBuf> {
        files::create_dir(&self.dir)?;
        self.make_room(bytes);
        let free = self.disk.space(&self.dir)?.free;
        if free < bytes.saturating_add(RESERVE_BYTES) {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("the disk of the log has {free} bytes left, and {bytes} would be fetched"),
            ));
        }
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        Ok(self.dir.join(format!("{name}.{pid}-{n}.part")))
    }

    /// Gives what was written its name; opens it.
    pub(super) fn finish(&self, name: &str, aside: &Path) -> io::Result<File> {
        let path = self.dir.join(name);
        fs::rename(aside, &path)?;
        File::open(path)
    }

    pub(super) fn abandon(&self, aside: &Path) {
        let _ = fs::remove_file(aside);
    }

    /// Removes what was read longest ago until `bytes` more fit.
    fn make_room(&self, bytes: u64) {
        let mut held = self.held();
        held.sort_by_key(|held| held.read_at);
        let mut total: u64 = held.iter().map(|held| held.bytes).sum();
        for held in held {
            if total.saturating_add(bytes) <= self.bytes_max {
                return;
            }
            if fs::remove_file(&held.path).is_ok() {
                total -= held.bytes;
            }
        }
    }

    fn held(&self) -> Vec<Held> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten();
        let held = entries.filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some(Held {
                path: entry.path(),
                bytes: metadata.len(),
                read_at: metadata.modified().ok()?,
            })
        });
        held.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What was read since stays; on both sides of the bound.
    #[test]
    fn what_was_read_longest_ago_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("c"), 30);
        let put = |name: &str, age: u64| {
            let aside = cache.begin(name, 10).unwrap();
            fs::write(&aside, [1; 10]).unwrap();
            let file = File::options().append(true).open(&aside).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age))
                .unwrap();
            drop(cache.finish(name, &aside).unwrap());
        };
        put("a", 300);
        put("b", 200);
        put("c", 100);
        assert_eq!(cache.bytes(), 30, "all of the bound is used");
        assert!(cache.open("a").is_some());
        put("d", 0);
        let has = |name| cache.has(name);
        assert_eq!(
            (has("a"), has("b"), has("c"), has("d")),
            (true, false, true, true)
        );
        // What is alone too large has the cache for itself.
        cache.make_room(40);
        assert_eq!(cache.bytes(), 0);
    }
}
