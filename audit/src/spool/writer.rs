//! The one thread that writes spool files.

use std::{
    fs::File,
    io,
    path::PathBuf,
    sync::{Arc, PoisonError, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use palisade_mesh::wire::record::{SpoolEvent, record::Body};
use tokio::sync::watch;

use super::{
    OWN_WORKER, Shared, attest::Attest, file, loss::Loss, marker::Marker, names, stream::Kept,
};
use crate::{
    buffer::{BUFFER_BYTES, BUFFER_RECORDS, Buffer, Chunk, Limits},
    disk::{Reserve, Room, TEND_EVERY, is_full},
    files,
    stream::StreamKey,
};

/// Time between tries while the disk refuses.
const RETRY: Duration = Duration::from_millis(100);

/// How long a disk that refuses is tried when the spool is closed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Bytes written at once.
const GROUP_BYTES: usize = 16 << 20;

pub(super) enum Command {
    Chunk(Chunk, watch::Sender<Kept>),
    /// A stream ended and left something.
    Parting,
    Close,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    file: Option<Open>,
    next_number: u64,
    /// Taken over and not on disk yet; kept when the disk refuses.
    group: Vec<(Chunk, watch::Sender<Kept>)>,
    reserve: Reserve,
    tended: Instant,
    /// What the spool has to say itself, in a stream of its own.
    own: Buffer,
    own_kept: watch::Sender<Kept>,
    /// Files that were written anew and not told of yet.
    restored: Vec<PathBuf>,
    /// What is signed about the streams.
    attest: Attest,
    loss: Loss,
    /// What the boot before this one lost at its end, until that is told.
    lost_before: Option<SpoolEvent>,
    /// It is in the group.
    telling_loss: bool,
}

/// The file being written.
struct Open {
    file: Arc<File>,
    path: PathBuf,
    id: u64,
    marker: Marker,
    /// End of the last durable chunk.
    end: u64,
    begun: Instant,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> Self {
        let stream = StreamKey {
            reporter: shared.reporter.clone(),
            boot: shared.boot,
            worker: OWN_WORKER,
        };
        let limits = Limits {
            bytes: BUFFER_BYTES,
            records: BUFFER_RECORDS,
        };
        let own = Buffer::new(Arc::new(stream), limits, shared.clock.clone());
        let wanted = shared.options.reserve_bytes;
        let loss = Loss::open(&shared.dir);
        Self {
            lost_before: loss.noted(),
            loss,
            telling_loss: false,
            reserve: Reserve::new(shared.disk.clone(), &shared.dir, wanted),
            shared,
            commands,
            file: None,
            next_number: 0,
            group: Vec::new(),
            tended: Instant::now(),
            own,
            own_kept: watch::Sender::new(Kept::default()),
            restored: Vec::new(),
            attest: Attest::new(),
        }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub(super) fn run(mut self) {
        let mut open = true;
        while open {
            open = self.gather();
            if !self.commit() && open {
                // Nothing more is taken over meanwhile: buffers fill, and say so.
                self.pause();
                open = !self.shared.is_closed();
            }
        }
        self.end();
    }

    /// Takes over what waits; false once the spool is closed.
    fn gather(&mut self) -> bool {
        let mut bytes = 0;
        let mut deadline = None;
        // What a failed write left is tried again before anything else.
        while self.group.is_empty() || deadline.is_some() {
            let next = match deadline {
                None => self.commands.recv_timeout(TEND_EVERY),
                Some(deadline) => {
                    let wait = Instant::saturating_duration_since(&deadline, Instant::now());
                    self.commands.recv_timeout(wait)
                }
            };
            match next {
                Ok(Command::Chunk(chunk, kept)) => {
                    bytes += chunk.bytes.len();
                    self.add(chunk, kept);
                }
                Ok(Command::Parting) => bytes += self.part(),
                Ok(Command::Close) | Err(mpsc::RecvTimeoutError::Disconnected) => return false,
                Err(mpsc::RecvTimeoutError::Timeout) if deadline.is_none() => {
                    self.tend();
                    continue;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => break,
            }
            if bytes >= GROUP_BYTES || self.shared.is_closed() {
                break;
            }
            deadline = deadline.or_else(|| Some(Instant::now() + self.shared.options.group_wait));
        }
        // A stream that ended found the channel full and could not tell.
        self.part();
        !self.shared.is_closed()
    }

    /// Takes over what ended streams left; only after what they handed over before.
    fn part(&mut self) -> usize {
        let nothing = self
            .shared
            .parting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty();
        if nothing {
            return 0;
        }
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Chunk(chunk, kept) = command {
                self.add(chunk, kept);
            }
        }
        let parting = std::mem::take(
            &mut *self
                .shared
                .parting
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let bytes = parting.iter().map(|(chunk, _)| chunk.bytes.len()).sum();
        for (chunk, kept) in parting {
            let worker = chunk.worker;
            self.add(chunk, kept);
            self.attest.ended(worker);
        }
        bytes
    }

    /// Takes a chunk over; it is written in this order.
    fn add(&mut self, chunk: Chunk, kept: watch::Sender<Kept>) {
        self.attest.take(&chunk);
        self.group.push((chunk, kept));
    }

    /// Signs how far all streams are.
    fn attest(&mut self, last: bool) {
        let earlier = self.shared.reached().told();
        let next = self.own.last_sequence() + 1;
        for signed in self.attest.sign(&self.shared, earlier, last, next) {
            self.own.say(Body::StreamHeads(signed));
            self.shared.reached().tell(next);
        }
        if let Some(chunk) = self.own.take() {
            self.add(chunk, self.own_kept.clone());
        }
    }

    /// Looks after the disk: room, and files that lost their names.
    fn tend(&mut self) {
        if self.tended.elapsed() < TEND_EVERY {
            return;
        }
        self.tended = Instant::now();
        self.reserve.tend();
        self.note_room();
        self.note_told();
        self.keep_sealed();
        self.retire();
        self.shared.remember(files::Sync::No);
        if self.attest.is_due(&self.shared) {
            self.attest(false);
        }
    }

    /// Ends a file that is written for long, so that it goes once the log has it.
    fn retire(&mut self) {
        let age = self.shared.options.file_age;
        let Some(open) = self.file.take_if(|open| open.begun.elapsed() >= age) else {
            return;
        };
        let mut queue = self.shared.queue();
        queue.seal(open.id);
        let freed = queue.free();
        drop(queue);
        self.shared.release(freed);
    }

    /// Gives files that nobody writes any more their names again.
    fn keep_sealed(&mut self) {
        let held = self.shared.queue().held();
        for held in held {
            // The one that is written is looked at by each commit.
            if self.file.as_ref().is_some_and(|open| open.id == held.id) {
                continue;
            }
            match names::keep(&held.path, &held.file, held.end) {
                Ok(None) => {}
                Ok(Some(anew)) => {
                    self.shared.queue().restored(held.id, anew);
                    self.note_restored(&held.path);
                }
                Err(e) => {
                    tracing::error!(file = %held.path.display(), error = %e, "spool file cannot be written anew");
                }
            }
        }
    }

    /// Lets everybody know how much room there is, and records a change of it.
    fn note_room(&mut self) {
        let room = self.reserve.room();
        let before = Room::from_u8(self.shared.room.swap(room.to_u8(), Ordering::Relaxed));
        let (verb, detail) = match (before, room) {
            (Room::Full, Room::Enough | Room::Tight) => ("disk_recovered", "there is room again"),
            (Room::Enough | Room::Tight, Room::Full) => (
                "disk_low",
                "the reserve was given up; records of mode `best_effort` are shed",
            ),
            _ => return,
        };
        self.tell(verb, detail.into());
    }

    /// Records what others found out about the spool.
    fn note_told(&mut self) {
        if let Some(event) = self.lost_before.take() {
            self.say(event);
            self.telling_loss = true;
        }
        let told = self.shared.told.lock();
        let told = std::mem::take(&mut *told.unwrap_or_else(PoisonError::into_inner));
        for (verb, detail) in told {
            self.tell(verb, detail);
        }
    }

    fn note_restored(&mut self, path: &std::path::Path) {
        self.shared.restored.fetch_add(1, Ordering::Relaxed);
        let name = path.strip_prefix(&self.shared.dir).unwrap_or(path);
        let detail = format!("`{}` was removed or replaced while in use", name.display());
        self.tell("restored", detail);
    }

    /// Adds a record of the spool's own to the group.
    fn tell(&mut self, verb: &str, detail: String) {
        self.say(SpoolEvent {
            verb: verb.into(),
            detail,
            ..SpoolEvent::default()
        });
    }

    fn say(&mut self, event: SpoolEvent) {
        self.own.tell(event);
        if let Some(chunk) = self.own.take() {
            self.add(chunk, self.own_kept.clone());
        }
    }

    /// Writes what was taken over; false when the disk refused.
    fn commit(&mut self) -> bool {
        self.tend();
        if self.group.is_empty() {
            return true;
        }
        let mut written = self.write();
        if let Err(e) = &written
            && is_full(e)
        {
            let more = self.reserve.give_up();
            self.note_room();
            if more {
                self.cut();
                written = self.write();
            }
        }
        self.shared
            .failing
            .store(written.is_err(), Ordering::Relaxed);
        match written {
            Ok(()) => {
                for (chunk, kept) in self.group.drain(..) {
                    self.shared
                        .reached()
                        .note(chunk.worker, chunk.last_sequence());
                    kept.send_modify(|kept| {
                        kept.durable = kept.durable.max(chunk.last_sequence());
                        kept.failed = None;
                    });
                }
                self.shared.moved();
                if std::mem::take(&mut self.telling_loss)
                    && let Err(error) = self.loss.clear()
                {
                    tracing::warn!(%error, "what was lost is told once more by the next start");
                }
                // Told with the next group.
                for path in std::mem::take(&mut self.restored) {
                    self.note_restored(&path);
                }
                true
            }
            Err(e) => {
                tracing::error!(error = %e, "spool cannot be written");
                let cause: Arc<str> = e.to_string().into();
                for (_, kept) in &self.group {
                    kept.send_modify(|kept| kept.failed = Some(cause.clone()));
                }
                // Whatever half of it is in the file is cut off before the next write.
                self.cut();
                false
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let mut open = match self.file.take() {
            Some(open) if self.goes_on(&open) => open,
            full => {
                if let Some(full) = full {
                    self.shared.queue().seal(full.id);
                }
                self.begin()?
            }
        };
        let mut buf = Vec::new();
        let mut ends = Vec::new();
        for (chunk, _) in &self.group {
            file::chunk(&mut buf, chunk, &open.marker);
            ends.push(open.end + buf.len() as u64);
        }
        let disk = &self.shared.disk;
        let end = open.end + buf.len() as u64;
        let written = disk
            .write_all_at(&open.file, &buf, open.end)
            .and_then(|()| disk.sync(&open.file))
            // Without its name it would be gone at the next start.
            .and_then(|()| names::keep(&open.path, &open.file, end));
        let restored = matches!(written, Ok(Some(_)));
        let written = written.map(|anew| {
            if let Some(anew) = anew {
                self.shared.queue().restored(open.id, anew.clone());
                open.file = anew;
            }
        });
        if written.is_ok() {
            open.end += buf.len() as u64;
            let mut queue = self.shared.queue();
            for ((chunk, _), end) in self.group.iter().zip(ends) {
                queue.written(open.id, chunk, end);
            }
            self.shared
                .bytes
                .fetch_add(buf.len() as u64, Ordering::Relaxed);
        }
        let path = restored.then(|| open.path.clone());
        self.file = Some(open);
        if let Some(path) = path {
            self.restored.push(path);
        }
        written
    }

    /// Whether more is written into a file: nothing behind what cannot be read.
    fn goes_on(&self, open: &Open) -> bool {
        open.end < self.shared.options.file_bytes && !self.shared.queue().is_damaged(open.id)
    }

    /// Begins a file; its name is durable when it returns, and how far those before it are.
    fn begin(&mut self) -> io::Result<Open> {
        // Before there is another file: if the one before is lost, and nothing came into this
        // one, nothing else tells how far that went.
        self.shared.remember(files::Sync::Yes);
        let Shared {
            dir,
            reporter,
            boot,
            ..
        } = &*self.shared;
        let path = file::path(dir, *boot, self.next_number);
        let marker = self.shared.markers.of(*boot, self.next_number);
        let header = file::header(reporter, *boot, &marker);
        // Not opened by its name: that may be gone again, which the next commit mends.
        let file = Arc::new(files::replace_open(&path, &header, files::Sync::Yes)?);
        files::sync_dir(dir)?;
        self.next_number += 1;
        let end = header.len() as u64;
        self.shared.bytes.fetch_add(end, Ordering::Relaxed);
        let mut queue = self.shared.queue();
        let id = queue.push(path.clone(), Some(file.clone()), *boot, end, Some(marker));
        drop(queue);
        Ok(Open {
            file,
            path,
            id,
            marker,
            end,
            begun: Instant::now(),
        })
    }

    /// Takes back what a failed write left; when even that fails, the file is
    /// given up at its last durable chunk.
    fn cut(&mut self) {
        let Some(open) = &self.file else {
            return;
        };
        let cut = open
            .file
            .set_len(open.end)
            .and_then(|()| open.file.sync_data());
        if cut.is_err() {
            self.shared.queue().seal(open.id);
            self.file = None;
        }
    }

    /// Waits a little, unless the spool is closed.
    fn pause(&self) {
        let until = Instant::now() + RETRY;
        while !self.shared.is_closed() && Instant::now() < until {
            std::thread::sleep(RETRY / 10);
        }
    }

    /// Tries for a while.
    fn commit_patiently(&mut self) -> bool {
        let until = Instant::now() + CLOSE_PATIENCE;
        loop {
            if self.commit() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Notes for the next start what the disk does not take.
    fn declare_loss(&self) {
        let chunks = self.group.iter().map(|(chunk, _)| chunk);
        let of_workers = || chunks.clone().filter(|chunk| chunk.worker != OWN_WORKER);
        let records: u64 = of_workers().map(|chunk| chunk.count).sum();
        let noted = self.loss.note(of_workers());
        tracing::error!(
            records,
            noted = noted.is_ok(),
            "spool closed on a disk that refuses; records are lost"
        );
    }

    /// Writes what is left and tells everybody that it is over.
    fn end(mut self) {
        self.part();
        // Nobody watches them from here on.
        self.keep_sealed();
        self.note_told();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Chunk(chunk, kept) = command {
                self.add(chunk, kept);
            }
        }
        self.attest(true);
        // A stream that nothing was said in has no end to be told.
        if self.own.last_sequence() > 0
            && let Some(chunk) = self.own.take_last()
        {
            self.add(chunk, self.own_kept.clone());
        }
        let told: Vec<_> = self.group.iter().map(|(_, kept)| kept.clone()).collect();
        if !self.commit_patiently() {
            self.declare_loss();
        }
        self.shared.remember(files::Sync::No);
        for kept in told {
            kept.send_modify(|kept| kept.closed = true);
        }
        let mut queue = self.shared.queue();
        if let Some(open) = &self.file {
            queue.seal(open.id);
        }
        let freed = queue.free();
        drop(queue);
        self.shared.release(freed);
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.moved();
    }
}
