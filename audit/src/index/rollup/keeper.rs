//! The thread that keeps the files of roll-ups. It looks at buckets as searches see them,
//! and is in nobody's way.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::{Counts, build, file::Block, hours, path_of, whole};
use crate::{
    index::{bucket::View, shared::Shared},
    query::Window,
};

/// Time between two looks at the buckets.
const EVERY: Duration = Duration::from_secs(60);

/// The running thread. It ends with the value.
pub(in super::super) struct Keeper {
    commands: Option<mpsc::Sender<oneshot::Sender<()>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts it.
    pub(in super::super) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let (sender, commands) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let mut looking = Looking {
            shared,
            stop: Arc::clone(&stop),
            seen: FxHashMap::default(),
        };
        let thread = std::thread::Builder::new()
            .name("audit-rollup".into())
            .spawn(move || looking.run(&commands))?;
        Ok(Self {
            commands: Some(sender),
            stop,
            thread: Some(thread),
        })
    }

    /// Resolves when every span that is over has its file.
    pub(in super::super) fn caught_up(&self) -> oneshot::Receiver<()> {
        let (done, answer) = oneshot::channel();
        // Without a thread the answer is dropped, which ends the wait, too.
        if let Some(commands) = &self.commands {
            let _ = commands.send(done);
        }
        answer
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that rolls up the audit index panicked");
        }
    }
}

struct Looking {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    /// Of each making of a bucket, how many documents it had when all was kept, and the
    /// bytes of what is kept.
    seen: FxHashMap<u128, (u64, u64)>,
}

impl Looking {
    fn run(&mut self, commands: &mpsc::Receiver<oneshot::Sender<()>>) {
        loop {
            let asked = match commands.recv_timeout(EVERY) {
                Ok(done) => Some(done),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            // What room there is belongs to the log.
            if self.shared.source.pressed().is_none() {
                self.look();
            }
            if let Some(done) = asked {
                // Who asked may have gone away.
                let _ = done.send(());
            }
        }
    }

    /// Makes what is missing, from the newest bucket backwards.
    fn look(&mut self) {
        let views: Vec<Arc<View>> = self.shared.read().views.values().cloned().collect();
        let known: Vec<u128> = views.iter().map(|view| view.making).collect();
        self.seen.retain(|making, _| known.contains(making));
        for (back, view) in views.iter().rev().enumerate() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = self.bucket(view, back > 0) {
                let bucket = view.folder.display();
                tracing::warn!(%error, %bucket, "roll-ups cannot be kept; what they save is scanned");
            }
        }
    }

    fn bucket(&mut self, view: &Arc<View>, is_over: bool) -> Result<(), tantivy::TantivyError> {
        let counts = Counts::of(view)?;
        let documents = counts.documents(view.span);
        // The one that goes on has hours to come, and no file of all of it.
        if is_over && self.seen.get(&view.making) == Some(&(documents, kept(&view.folder))) {
            return Ok(());
        }
        let mut spans: Vec<(Window, u64)> = hours(view)
            .map(|hour| (hour, counts.documents(hour)))
            .filter(|(_, documents)| *documents > 0)
            .collect();
        if is_over {
            spans.push((whole(view), documents));
        } else {
            // More may come into the last hour that has any.
            spans.pop();
        }
        for (span, documents) in spans {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let path = path_of(&view.folder, span);
            if !is_true(&path, view, span, documents) {
                let limits = self.shared.options.rollups;
                match build::block(view, span, documents, limits, &self.stop)? {
                    Some(block) => write(&path, &block.encode())?,
                    None => return Ok(()),
                }
            }
        }
        if is_over {
            self.seen
                .insert(view.making, (documents, kept(&view.folder)));
        }
        Ok(())
    }
}

/// Whether the file is there, whole and true of the bucket.
fn is_true(path: &Path, view: &View, span: Window, documents: u64) -> bool {
    let read = fs::read(path).ok();
    let head = read.and_then(|b| Block::decode(&b)).map(|block| block.head);
    head.is_some_and(|head| {
        head.making == view.making && head.span == span && head.documents == documents
    })
}

/// Puts a file in its place, whole or not at all. Nothing is lost with it, so that nobody
/// waits for the disk.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let written = fs::write(&new, bytes).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Bytes of the roll-ups in a folder: other ones when one is gone or cut.
fn kept(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = entries.filter(|e| e.file_name().to_string_lossy().starts_with(super::PREFIX));
    ours.filter_map(|e| e.metadata().ok())
        .map(|m| m.len())
        .sum()
}
