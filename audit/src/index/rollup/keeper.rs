//! The thread that keeps the files of roll-ups, and has names ready. It looks at buckets as
//! searches see them, and is in nobody's way.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::{build, file::Block, hours, path_of, whole};
use crate::{
    index::{bucket::View, shared::Shared},
    query::{FIELDS, Kind, Window},
};

/// Time between two looks at the buckets.
const EVERY: Duration = Duration::from_secs(60);

/// How long the files of a bucket that is over stay as they are when a late record makes them
/// untrue, which costs a scan of its span: more of them may come.
const LATE: Duration = Duration::from_secs(600);

/// Buckets whose names are kept ready, the newest: what people ask for most.
const NAMED: usize = 32;

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
            over: FxHashMap::default(),
            known: FxHashMap::default(),
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
    /// What was kept of each making of a bucket that is over.
    over: FxHashMap<u128, Over>,
    /// Of each span of a making, the documents and the bytes of its file when that was true.
    known: FxHashMap<(u128, Window), (u64, u64)>,
}

/// What was kept of a bucket.
struct Over {
    /// How many documents it had.
    documents: u64,
    /// Bytes of all of its files.
    bytes: u64,
    since: Instant,
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
                self.look(asked.is_some());
            }
            if let Some(done) = asked {
                // Who asked may have gone away.
                let _ = done.send(());
            }
        }
    }

    /// Makes what is missing, from the newest bucket backwards; `at_once`, too, what may
    /// soon be untrue again.
    fn look(&mut self, at_once: bool) {
        let views: Vec<Arc<View>> = self.shared.read().views.values().cloned().collect();
        let makings: Vec<u128> = views.iter().map(|view| view.making).collect();
        self.over.retain(|making, _| makings.contains(making));
        self.known.retain(|(making, _), _| makings.contains(making));
        let segments = views.iter().flat_map(|view| view.segments());
        let live = segments.map(|(reader, _)| reader.segment_id()).collect();
        self.shared.opened.keep(&live);
        for (back, view) in views.iter().rev().enumerate() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let made = match back {
                // Hours are to come, and no file of all of it.
                0 => self.hours(view),
                _ => self.whole(view, at_once),
            };
            let made = made.and_then(|()| match back < NAMED {
                true => self.names(view),
                false => Ok(()),
            });
            if let Err(error) = made {
                let bucket = view.folder.display();
                tracing::warn!(%error, %bucket, "roll-ups cannot be kept; what they save is scanned");
            }
        }
    }

    /// Has the names of a bucket read before somebody asks for one.
    fn names(&self, view: &View) -> tantivy::Result<()> {
        let named = FIELDS.iter().filter(|field| field.kind == Kind::Name);
        let columns: Vec<_> = named
            .filter_map(|field| self.shared.layout.column(field))
            .collect();
        for (reader, _) in view.segments() {
            for column in &columns {
                self.shared.names.of(reader, *column)?;
            }
        }
        Ok(())
    }

    /// Of the bucket that goes on: more may come into the last hour that has any.
    fn hours(&mut self, view: &View) -> tantivy::Result<()> {
        let mut spans = filled(view);
        spans.pop();
        self.spans(view, &spans).map(|_| ())
    }

    /// Of a bucket that is over.
    fn whole(&mut self, view: &View, at_once: bool) -> tantivy::Result<()> {
        let documents = view.documents(view.span);
        if let Some(over) = self.over.get(&view.making) {
            let is_true = over.documents == documents;
            let waits = !at_once && over.since.elapsed() < LATE;
            if over.bytes == kept(&view.folder) && (is_true || waits) {
                return Ok(());
            }
        }
        let mut spans = filled(view);
        spans.push((whole(view), documents));
        if self.spans(view, &spans)? {
            let over = Over {
                documents,
                bytes: kept(&view.folder),
                since: Instant::now(),
            };
            self.over.insert(view.making, over);
        }
        Ok(())
    }

    /// Sees that each span has its file; false once it is to stop.
    fn spans(&mut self, view: &View, spans: &[(Window, u64)]) -> tantivy::Result<bool> {
        for &(span, documents) in spans {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let path = path_of(&view.folder, span);
            let len = || path.metadata().map_or(0, |file| file.len());
            let key = (view.making, span);
            if self.known.get(&key) == Some(&(documents, len())) {
                continue;
            }
            if !is_true(&path, view, span, documents) {
                let limits = self.shared.options.rollups;
                match build::block(view, span, documents, limits, &self.stop)? {
                    Some(block) => write(&path, &block.encode())?,
                    None => return Ok(false),
                }
            }
            self.known.insert(key, (documents, len()));
        }
        Ok(true)
    }
}

/// The hours of a bucket that have documents, with how many.
fn filled(view: &View) -> Vec<(Window, u64)> {
    hours(view)
        .map(|hour| (hour, view.documents(hour)))
        .filter(|(_, documents)| *documents > 0)
        .collect()
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
