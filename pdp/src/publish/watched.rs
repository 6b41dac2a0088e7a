//! A folder or file that is watched, so that what happens to it is seen at once.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use palisade_mesh::diagnostic::Diagnostic;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::codes;

/// Longest time that a stream of events can hold back a reading, in quiet times.
const DEBOUNCE_ROUNDS: u32 = 10;

/// What is watched.
#[derive(Debug)]
pub(crate) struct Watched {
    folder: PathBuf,
    mode: RecursiveMode,
    debounce: Duration,
    wake: Arc<Notify>,
    watcher: Result<RecommendedWatcher, Diagnostic>,
}

impl Watched {
    /// Watches everything below a folder.
    pub(crate) fn folder(dir: &Path, debounce: Duration) -> Self {
        Self::new(dir, RecursiveMode::Recursive, debounce)
    }

    /// Watches a file, which is replaced by renaming as often as it is written.
    pub(crate) fn file(path: &Path, debounce: Duration) -> Self {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        Self::new(folder, RecursiveMode::NonRecursive, debounce)
    }

    fn new(folder: &Path, mode: RecursiveMode, debounce: Duration) -> Self {
        let wake = Arc::new(Notify::new());
        Self {
            watcher: watch(folder, mode, wake.clone()),
            folder: folder.to_owned(),
            mode,
            debounce,
            wake,
        }
    }

    /// Whether it is watched.
    ///
    /// # Errors
    /// Why it is not; it is only looked at now and then.
    pub(crate) fn check(&self) -> Result<(), Diagnostic> {
        self.watcher.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    /// Waits until something happens to it, or it is time to look.
    pub(crate) async fn wait(&mut self, poll: Duration) {
        if timeout(poll, self.wake.notified()).await.is_ok() {
            self.settle().await;
            return;
        }
        // A folder that was replaced has lost its watch; setting it again costs nothing
        // where it is still there.
        match &mut self.watcher {
            Ok(watcher) => {
                let _ = watcher.watch(&self.folder, self.mode);
            }
            Err(_) => self.watcher = watch(&self.folder, self.mode, self.wake.clone()),
        }
    }

    /// Waits until nothing has happened for the quiet time, within reason.
    async fn settle(&self) {
        let deadline = Instant::now() + self.debounce * DEBOUNCE_ROUNDS;
        while Instant::now() < deadline {
            tokio::select! {
                () = sleep(self.debounce) => return,
                () = self.wake.notified() => {}
            }
        }
    }
}

fn watch(
    folder: &Path,
    mode: RecursiveMode,
    wake: Arc<Notify>,
) -> Result<RecommendedWatcher, Diagnostic> {
    let failed = |error: notify::Error| {
        Diagnostic::error(
            codes::WATCH,
            format!("policy folder `{}` cannot be watched", folder.display()),
        )
        .cause(error.to_string())
        .help("check that the folder exists and that this user may read it")
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an event too; following it would never end.
        if event.map_or(true, |e| !is_reading(&e)) {
            wake.notify_one();
        }
    })
    .map_err(failed)?;
    watcher.watch(folder, mode).map_err(failed)?;
    Ok(watcher)
}

fn is_reading(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
}
