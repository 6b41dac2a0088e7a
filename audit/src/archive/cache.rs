//! What was fetched, in a folder of bounded size: what was not read for longest goes first.
//!
//! The folder itself says what is there, so that several processes can share it; who has a
//! file open goes on reading it when it has gone. What is being fetched counts from its
//! beginning, so that many who fetch at a time keep to the bound together.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use crate::{disk::Disk, files, log::RESERVE_BYTES};

/// Segments that are fetched at a time; others wait.
const FETCHES_MAX: usize = 4;

/// Longest wait for a place among those who fetch.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What another process began to fetch is left alone for so long.
const OTHERS_FOR: Duration = Duration::from_secs(600);

/// What the end of a name tells of a file that is being fetched.
const PART: &str = "part";

/// The folder.
pub(super) struct Cache {
    dir: PathBuf,
    bytes_max: u64,
    disk: Disk,
    state: Mutex<State>,
    /// A place or room is free again.
    freed: Condvar,
}

/// What this process does in the folder.
#[derive(Default)]
struct State {
    /// What is being fetched, and how long it becomes.
    fetching: HashMap<PathBuf, u64>,
    /// Files that were compared since the start.
    checked: HashSet<String>,
    /// Tells files apart that are fetched at a time.
    next: u64,
}

/// A file in it.
struct Held {
    path: PathBuf,
    bytes: u64,
    read_at: SystemTime,
}

/// A file that is being fetched; without [`Aside::finish`] it goes again.
pub(super) struct Aside<'a> {
    cache: &'a Cache,
    path: PathBuf,
}

impl Cache {
    pub(super) fn new(dir: PathBuf, bytes_max: u64) -> Self {
        Self {
            dir,
            bytes_max,
            disk: Disk::default(),
            state: Mutex::default(),
            freed: Condvar::new(),
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

    /// Whether a file was compared since the start, and is still the same.
    pub(super) fn is_checked(&self, name: &str) -> bool {
        self.state().checked.contains(name)
    }

    pub(super) fn note_checked(&self, name: &str) {
        self.state().checked.insert(name.to_owned());
    }

    pub(super) fn remove(&self, name: &str) {
        self.state().checked.remove(name);
        let _ = fs::remove_file(self.dir.join(name));
    }

    /// Removes every file whose name is not `wanted`; one that is being fetched goes when it
    /// has come, and who fetches it has it.
    pub(super) fn retain(&self, wanted: impl Fn(&str) -> bool) {
        let mut state = self.state();
        for held in self.held() {
            let Some(name) = held.path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if wanted(name) || state.fetching.remove(&held.path).is_some() {
                continue;
            }
            state.checked.remove(name);
            if !held.is_of_another() {
                let _ = fs::remove_file(&held.path);
            }
        }
    }

    /// Removes what a process has left that ended while it fetched.
    pub(super) fn tidy(&self) {
        let state = self.state();
        for held in self.held() {
            let is_part = held.path.extension().is_some_and(|ext| ext == PART);
            if is_part && !state.fetching.contains_key(&held.path) && !held.is_of_another() {
                let _ = fs::remove_file(&held.path);
            }
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.held().iter().map(|held| held.bytes).sum()
    }

    /// Makes room for `bytes`, once there is some; gives where they are to be written.
    pub(super) fn begin(&self, name: &str, bytes: u64) -> io::Result<Aside<'_>> {
        files::create_dir(&self.dir)?;
        let state = self.state();
        let waited = self
            .freed
            .wait_timeout_while(state, WAIT_MAX, |state| self.is_full(state, bytes));
        let (mut state, time) = waited.unwrap_or_else(PoisonError::into_inner);
        if time.timed_out() {
            let what = "others fetch, and none of them has come to an end";
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        self.make_room(&mut state, bytes);
        let free = self.disk.space(&self.dir)?.free;
        let needed = bytes.saturating_add(self.to_come(&state));
        if free < needed.saturating_add(RESERVE_BYTES) {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("the disk of the log has {free} bytes left, and {bytes} would be fetched"),
            ));
        }
        state.next += 1;
        let (pid, n) = (std::process::id(), state.next);
        let path = self.dir.join(format!("{name}.{pid}-{n}.{PART}"));
        state.fetching.insert(path.clone(), bytes);
        Ok(Aside { cache: self, path })
    }

    /// Whether others have to end first. What is alone too large has the cache for itself.
    fn is_full(&self, state: &State, bytes: u64) -> bool {
        let fetched: u64 = state.fetching.values().sum();
        let many = state.fetching.len() >= FETCHES_MAX;
        many || (fetched > 0 && fetched.saturating_add(bytes) > self.bytes_max)
    }

    /// Bytes that are still to be written of what is being fetched.
    fn to_come(&self, state: &State) -> u64 {
        let each = state.fetching.iter().map(|(path, bytes)| {
            let written = fs::metadata(path).map_or(0, |metadata| metadata.len());
            bytes.saturating_sub(written)
        });
        each.sum()
    }

    /// Removes what was read longest ago until `bytes` more fit.
    fn make_room(&self, state: &mut State, bytes: u64) {
        let mut held = self.held();
        held.retain(|held| !state.fetching.contains_key(&held.path));
        held.sort_by_key(|held| held.read_at);
        let mut total: u64 = state.fetching.values().sum();
        total += held.iter().map(|held| held.bytes).sum::<u64>();
        for held in held {
            if total.saturating_add(bytes) <= self.bytes_max {
                return;
            }
            if !held.is_of_another() && fs::remove_file(&held.path).is_ok() {
                total -= held.bytes;
                if let Some(name) = held.path.file_name().and_then(|name| name.to_str()) {
                    state.checked.remove(name);
                }
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Whether another process may be fetching it.
    fn is_of_another(&self) -> bool {
        let is_new = self.read_at.elapsed().is_ok_and(|age| age < OTHERS_FOR);
        let ours = format!(".{}-", std::process::id());
        let name = self.path.file_name().and_then(|name| name.to_str());
        let is_ours = name.is_some_and(|name| name.contains(&ours));
        is_new && !is_ours && self.path.extension().is_some_and(|ext| ext == PART)
    }
}

impl Aside<'_> {
    /// Creates the file.
    pub(super) fn create(&self) -> io::Result<File> {
        files::create(&self.path)
    }

    /// Opens what was written, for as long as somebody has it open.
    pub(super) fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    /// Gives what was written its name, unless it is not wanted any more; opens it.
    pub(super) fn finish(self, name: &str) -> io::Result<File> {
        let path = self.cache.dir.join(name);
        let file = self.open()?;
        // With the mutex: it takes the place of what was reserved for it.
        let mut state = self.cache.state();
        if state.fetching.contains_key(&self.path) {
            fs::rename(&self.path, &path)?;
            state.checked.insert(name.to_owned());
        }
        Ok(file)
    }

    #[cfg(test)]
    fn path(&self) -> &std::path::Path {
        &self.path
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        let mut state = self.cache.state();
        let _ = fs::remove_file(&self.path);
        state.fetching.remove(&self.path);
        drop(state);
        self.cache.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn put(cache: &Cache, name: &str, age: u64) {
        let aside = cache.begin(name, 10).unwrap();
        fs::write(aside.path(), [1; 10]).unwrap();
        let file = File::options().append(true).open(aside.path()).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age))
            .unwrap();
        drop(aside.finish(name).unwrap());
    }

    /// What was read since stays; on both sides of the bound.
    #[test]
    fn what_was_read_longest_ago_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("c"), 30);
        put(&cache, "a", 300);
        put(&cache, "b", 200);
        put(&cache, "c", 100);
        assert_eq!(cache.bytes(), 30, "all of the bound is used");
        assert!(cache.open("a").is_some());
        put(&cache, "d", 0);
        let has = |name| cache.has(name);
        assert_eq!(
            (has("a"), has("b"), has("c"), has("d")),
            (true, false, true, true)
        );
        assert!(!cache.is_checked("b"), "what comes back is compared again");
        assert!(cache.is_checked("a"));
        // What is alone too large has the cache for itself.
        drop(cache.begin("e", 40).unwrap());
        assert_eq!(cache.bytes(), 0);
    }

    /// What is being fetched counts, and is not let go of.
    #[test]
    fn many_who_fetch_keep_to_the_bound_together() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("c"), 30);
        let most = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for n in 0..12 {
                let (cache, most) = (&cache, &most);
                scope.spawn(move || {
                    let name = format!("s{n}");
                    let aside = cache.begin(&name, 10).unwrap();
                    fs::write(aside.path(), [1; 10]).unwrap();
                    most.fetch_max(cache.bytes(), Ordering::SeqCst);
                    std::thread::yield_now();
                    aside.finish(&name).unwrap();
                });
            }
        });
        let most = most.into_inner();
        assert!((10..=30).contains(&most), "{most}");
        // What a crash left goes when its time is over; what another fetches stays.
        fs::write(cache.dir.join("x.1-1.part"), [1; 10]).unwrap();
        put(&cache, "y", 0);
        assert!(cache.has("x.1-1.part"));
    }

    /// What is not wanted goes at once; what is being fetched comes, and does not stay.
    #[test]
    fn what_is_not_wanted_any_more_does_not_stay() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("c"), 1 << 20);
        put(&cache, "1-a.seg", 0);
        put(&cache, "2-b.seg", 0);
        let aside = cache.begin("1-c.seg", 10).unwrap();
        fs::write(aside.path(), [1; 10]).unwrap();
        let other = cache.begin("2-d.seg", 10).unwrap();
        fs::write(other.path(), [1; 10]).unwrap();
        cache.retain(|name| !name.starts_with("1-"));
        assert!(!cache.has("1-a.seg") && cache.has("2-b.seg"));
        assert_eq!(
            aside.finish("1-c.seg").unwrap().metadata().unwrap().len(),
            10
        );
        other.finish("2-d.seg").unwrap();
        assert!(!cache.has("1-c.seg") && cache.has("2-d.seg"));
        assert_eq!(cache.bytes(), 20, "nothing is left aside");
    }

    /// What a process has left that ended goes: at once if it had our number, as in a
    /// container, or when its time is over.
    #[test]
    fn what_nobody_goes_on_fetching_goes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("c"), 1 << 20);
        let aside = cache.begin("1-a.seg", 10).unwrap();
        fs::write(aside.path(), [1; 10]).unwrap();
        let pid = std::process::id();
        let of = |pid: u32, n| cache.dir.join(format!("2-b.seg.{pid}-{n}.part"));
        let (ours, old, new) = (of(pid, 99), of(pid + 1, 1), of(pid + 1, 2));
        for path in [&ours, &old, &new] {
            fs::write(path, [1; 10]).unwrap();
        }
        let file = File::options().append(true).open(&old).unwrap();
        file.set_modified(SystemTime::now() - OTHERS_FOR).unwrap();
        cache.tidy();
        let there = |path: &std::path::Path| path.exists();
        assert_eq!(
            (there(aside.path()), there(&ours), there(&old), there(&new)),
            (true, false, false, true)
        );
    }
}
