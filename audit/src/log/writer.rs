//! The one thread that writes.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    sync::{Arc, PoisonError, mpsc},
    time::{Duration, Instant},
};

#[cfg(feature = "index")]
use palisade_mesh::wire::record::Moving;
use palisade_mesh::{
    clock::Clock,
    spiffe_id::SpiffeId,
    wire::record::{Dropping, LogLifecycle, StreamHead, record::Body},
};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    AppendError, Checkpoint, Health, LogError, LogOptions, Pending, SEGMENT_BYTES_MAX,
    gaps::open_gaps,
    history,
    reader::Shared,
    receipt::Done,
    recover::{self, ActiveFile, Recovered, STREAMS},
};
use crate::{
    disk::{self, Reserve, Room, TEND_EVERY},
    files,
    merkle::{Tile, Tree},
    note::{Begun, SIGN_WAIT, Signer},
    segment::{self, HEADER_LEN, Offsets},
    stream::{StreamKey, Streams, new_ulid},
    told::{OF_SEGMENT, RECORDS_LEFT, RECORDS_UNSIGNED},
};

mod group;

use group::Group;

/// Worker number of the log's own stream.
pub(crate) const OWN_WORKER: u32 = u32::MAX;

/// Time between checkpoints that are kept in the history.
const HISTORY_EVERY: Duration = Duration::from_secs(60);

/// Time between snapshots of the stream positions.
const STREAMS_EVERY: Duration = Duration::from_secs(10);

/// Time between looks whether a device has signed.
const SIGN_LOOK: Duration = Duration::from_millis(10);

pub(super) enum Command {
    Append(Job),
    Close,
}

/// A batch with whom to tell.
pub(super) struct Job {
    pub(super) batch: Vec<Pending>,
    /// What the log is to say about itself, before them.
    pub(super) note: Option<Box<Body>>,
    pub(super) done: Done,
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    options: LogOptions,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
    signer: Arc<Signer>,
    // Held until the writer ends.
    _lock: Arc<File>,
    active: ActiveFile,
    active_since: Instant,
    /// A write failed: the file may be longer than what is durable.
    torn: bool,
    tree: Tree,
    streams: Streams,
    own: Arc<StreamKey>,
    /// What the log has to say about itself, until it is written.
    notes: Vec<Body>,
    /// Sizes of the last two checkpoints, whose partial tiles are on disk.
    signed: [u64; 2],
    /// Memory for the next group.
    group: Group,
    checkpoint_due: Option<Instant>,
    awaited: Option<Awaited>,
    history_at: Option<Instant>,
    streams_at: Instant,
    /// The changes of what is missing that were told.
    gaps_told: Option<u64>,
    /// A segment was finished since they were kept.
    streams_due: bool,
    health: Arc<Health>,
    reserve: Reserve,
    /// Something was found that must not be signed before the notes are written.
    unvoided: bool,
}

/// A checkpoint that a device is signing, while more is written.
struct Awaited {
    unsigned: Checkpoint,
    /// Partial tiles of its size.
    tiles: Vec<Tile>,
    /// Stream positions at its size, if they are to be kept.
    streams: Option<Vec<u8>>,
    begun: Begun,
}

impl Writer {
    pub(super) fn new(
        recovered: Recovered,
        options: LogOptions,
        clock: Clock,
        commands: mpsc::Receiver<Command>,
        health: Arc<Health>,
    ) -> Result<Self, LogError> {
        let reporter: SpiffeId = options.trust_domain.role("audit");
        let own = StreamKey {
            reporter,
            boot: new_ulid(&clock),
            worker: OWN_WORKER,
        };
        let size = recovered.shared.checkpoint.borrow().size;
        let mut notes = Vec::new();
        if let Some(cut) = recovered.cut {
            tracing::warn!(what = %cut, "audit log recovered");
            notes.push(lifecycle("recovered", cut));
        }
        if recovered.unsigned {
            notes.push(unsigned(size));
        }
        for left in &recovered.left {
            let detail = format!(
                "{OF_SEGMENT}{}: the process ended before it was done",
                left.segment
            );
            notes.push(about_dropping(RECORDS_LEFT, detail, left.clone()));
        }
        let size_found = recovered.tree.size();
        notes.push(lifecycle("opened", format!("{size_found} records")));
        let disk = health.disk.clone();
        let vault = options.vault.clone();
        let damaged = vault.as_ref().map_or(0, |vault| vault.keeping().damaged);
        if damaged > 0 {
            notes.push(lifecycle(
                "keys_damaged",
                format!("{damaged} keys of persons"),
            ));
        }
        let mut writer = Self {
            reserve: Reserve::new(disk, &recovered.shared.dir, options.reserve_bytes),
            health,
            shared: recovered.shared,
            options,
            clock,
            commands,
            signer: recovered.signer,
            _lock: recovered.lock,
            active: recovered.active,
            active_since: Instant::now(),
            torn: false,
            tree: recovered.tree,
            streams: recovered.streams,
            own: Arc::new(own),
            notes,
            signed: [size, size],
            group: Group::new(vault),
            checkpoint_due: None,
            awaited: None,
            history_at: None,
            streams_at: Instant::now(),
            gaps_told: None,
            streams_due: true,
            unvoided: recovered.unsigned,
        };
        // A full disk must not keep anybody from reading: the notes then wait.
        writer.commit(Vec::new());
        if writer.notes.is_empty() {
            // It is told that they came to nothing; before, they are all that says so.
            if let Err(error) = recover::remove_aside(&writer.shared.dir) {
                tracing::warn!(%error, "what was written aside stays until the next start");
            }
        }
        writer.checkpoint();
        Ok(writer)
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub(super) fn run(mut self) {
        loop {
            let due = self.checkpoint_due;
            let wait = due.map_or(TEND_EVERY, |due| {
                due.saturating_duration_since(Instant::now())
            });
            let first = match self.commands.recv_timeout(wait) {
                Ok(command) => Some(command),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.tend();
                    if due.is_some() {
                        self.checkpoint();
                    }
                    continue;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => None,
            };
            let Some(Command::Append(first)) = first else {
                break;
            };
            let (jobs, close) = self.gather(first);
            self.commit(jobs);
            if self.checkpoint_due.is_some_and(|due| due <= Instant::now()) {
                self.checkpoint();
            }
            if close {
                break;
            }
        }
        self.close();
    }

    /// Collects what is written together; true when the log is to be closed then.
    fn gather(&self, first: Job) -> (Vec<Job>, bool) {
        let deadline = Instant::now() + self.options.group_wait;
        let mut records = first.batch.len();
        let mut jobs = vec![first];
        while records < self.options.group_records {
            let wait = deadline.saturating_duration_since(Instant::now());
            match self.commands.recv_timeout(wait) {
                Ok(Command::Append(job)) => {
                    records += job.batch.len();
                    jobs.push(job);
                }
                Ok(Command::Close) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return (jobs, true);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => break,
            }
        }
        (jobs, false)
    }

    /// Looks after the room on the disk; a change of it is recorded.
    fn tend(&mut self) {
        self.reserve.tend();
        self.note_room();
        if !self.notes.is_empty() && self.reserve.room() != Room::Full {
            self.commit(Vec::new());
        }
    }

    fn note_room(&mut self) {
        let room = self.reserve.room();
        let (verb, detail) = match (self.health.set_room(room), room) {
            (Room::Full, Room::Enough | Room::Tight) => ("disk_recovered", "there is room again"),
            (Room::Enough | Room::Tight, Room::Full) => ("disk_low", "the reserve was given up"),
            _ => return,
        };
        self.notes.push(lifecycle(verb, detail.into()));
    }

    /// Writes a group, fsyncs it, and tells whoever waits.
    fn commit(&mut self, jobs: Vec<Job>) {
        self.reserve.tend();
        self.note_room();
        self.streams.make_room();
        let mut group = std::mem::replace(&mut self.group, Group::new(None));
        group.begin(self.clock.now_us());
        let noted = self.notes.len();
        for note in &self.notes {
            group.note(&mut self.streams, &self.own, note.clone());
        }
        let outcomes: Vec<_> = jobs
            .iter()
            .map(|job| {
                if let Some(note) = &job.note {
                    group.note(&mut self.streams, &self.own, Body::clone(note));
                }
                group.stage(&mut self.streams, &self.own, &job.batch)
            })
            .collect();
        group.hash();
        let mut written = self.write(&group);
        if let Err(e) = &written
            && disk::is_full(e)
        {
            let more = self.reserve.give_up();
            self.note_room();
            if more {
                written = self.write(&group);
            }
        }
        let unstaged = outcomes.iter().find_map(|staged| match staged {
            Err(AppendError::Io(why)) => Some(why.to_string()),
            _ => None,
        });
        let failing = written.as_ref().err().map(ToString::to_string);
        self.health.set_failing(failing.or(unstaged));
        match written {
            Ok(()) => {
                // Writing may have added to them.
                self.notes.drain(..noted);
                self.unvoided = false;
                self.publish(&group);
                let size = self.tree.size();
                for (job, outcome) in jobs.iter().zip(outcomes) {
                    let outcome = outcome.map(|o| o.at(size));
                    job.done.send_replace(Some(outcome));
                }
            }
            Err(e) => {
                tracing::error!(error = %e, records = group.ends.len(), "audit log cannot be written");
                self.streams.roll_back(std::mem::take(&mut group.undo));
                let failed = AppendError::Io(e.to_string().into());
                for job in &jobs {
                    job.done.send_replace(Some(Err(failed.clone())));
                }
            }
        }
        self.group = group;
    }

    fn write(&mut self, group: &Group) -> io::Result<()> {
        if group.ends.is_empty() {
            return Ok(());
        }
        // Whoever reads the group finds the keys of what is sealed in it.
        if let Some(vault) = &self.options.vault {
            vault.commit()?;
        }
        self.mend()?;
        let full = self.active.end + group.buf.len() as u64
            > self.options.segment_bytes.min(SEGMENT_BYTES_MAX);
        let old = self.active_since.elapsed() >= self.options.segment_age;
        if self.active.end > HEADER_LEN && (full || old) {
            // A last look: nobody watches a sealed segment.
            self.keep_name()?;
            self.roll()?;
        }
        self.torn = true;
        let disk = &self.health.disk;
        disk.write_all_at(&self.active.file, &group.buf, self.active.end)?;
        // The point of no return: from here on the group survives a power cut.
        disk.sync(&self.active.file)?;
        self.active.end += group.buf.len() as u64;
        if let Err(e) = self.keep_name() {
            self.active.end -= group.buf.len() as u64;
            return Err(e);
        }
        self.torn = false;
        Ok(())
    }

    /// Takes back what a failed write left behind the last durable frame.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.active.file.set_len(self.active.end)?;
            self.active.file.sync_all()?;
            self.torn = false;
        }
        Ok(())
    }

    /// Makes the group visible to readers.
    fn publish(&mut self, group: &Group) {
        if group.ends.is_empty() {
            return;
        }
        let base = self.active.end - group.buf.len() as u64;
        {
            let mut segments = self
                .shared
                .segments
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            for end in &group.ends {
                segments.offsets.push(base + end);
            }
        }
        for leaf in &group.leaves {
            self.tree.push(*leaf);
        }
        self.shared.len.send_replace(self.tree.size());
        if self.checkpoint_due.is_none() {
            self.checkpoint_due = Some(Instant::now() + self.options.checkpoint_every);
        }
    }

    /// Seals the active segment and begins the next.
    fn roll(&mut self) -> io::Result<()> {
        let dir = &self.shared.dir;
        let next = recover::create_segment(dir, self.signer.verifier(), self.tree.size())?;
        let mut segments = self
            .shared
            .segments
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let sealed = dir.join(segment::relative(self.active.first));
        if let Err(e) = segments.offsets.save(&sealed) {
            tracing::warn!(error = %e, "offsets of a sealed segment not written; they will be made again");
        }
        segments.firsts.push(next.first);
        segments.active = Some(next.file.clone());
        segments.offsets = Offsets::empty();
        self.active = next;
        self.active_since = Instant::now();
        // The next checkpoint goes into the history.
        self.history_at = None;
        self.streams_due = true;
        Ok(())
    }

    /// Notices that the segment was deleted or replaced under us, which the open
    /// file alone would hide until the next start, and puts it back.
    fn keep_name(&mut self) -> io::Result<()> {
        let path = self.shared.dir.join(segment::relative(self.active.first));
        let ours = self.active.file.metadata()?;
        match fs::metadata(&path) {
            Ok(named) if (named.ino(), named.dev()) == (ours.ino(), ours.dev()) => return Ok(()),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            found => {
                tracing::error!(segment = %path.display(), "audit log segment was removed or replaced while in use");
                if found.is_ok() {
                    let stranger =
                        format!("{}-{:020}.seg", new_ulid(&self.clock), self.active.first);
                    let evidence = self.shared.dir.join(recover::EVIDENCE);
                    files::create_dir(&evidence)?;
                    fs::rename(&path, evidence.join(stranger))?;
                }
            }
        }
        let len = usize::try_from(self.active.end).unwrap_or(usize::MAX);
        let mut contents = vec![0; len];
        self.active.file.read_exact_at(&mut contents, 0)?;
        files::create_dir(path.parent().unwrap_or(&self.shared.dir))?;
        files::replace(&path, &contents, files::Sync::Yes)?;
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(&path)?);
        self.active.file = file.clone();
        self.shared
            .segments
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .active = Some(file);
        // The restored one is sealed at the next write.
        self.active_since = Instant::now()
            .checked_sub(self.options.segment_age)
            .unwrap_or(self.active_since);
        let name = segment::relative(self.active.first);
        let detail = format!("`{}` was removed or replaced while in use", name.display());
        self.notes.push(lifecycle("restored", detail));
        Ok(())
    }

    /// Signs what is durable. When that fails it is tried again a little later,
    /// and nobody is told that anything is checkpointed.
    fn checkpoint(&mut self) {
        self.checkpoint_within(Duration::ZERO);
    }

    /// As [`Writer::checkpoint`], waiting so long for a device.
    fn checkpoint_within(&mut self, wait: Duration) {
        self.checkpoint_due = None;
        self.tell_gaps();
        let signed = self.try_checkpoint(wait);
        let why = signed.as_ref().err().map(ToString::to_string);
        self.health.set_unsigned(why);
        if let Err(e) = signed {
            tracing::error!(error = %e, "audit log checkpoint cannot be written");
            if disk::is_full(&e) {
                self.reserve.give_up();
                self.note_room();
            }
            self.checkpoint_due = Some(Instant::now() + self.options.checkpoint_every);
        }
    }

    /// Publishes the gaps, as often as there is a checkpoint.
    fn tell_gaps(&mut self) {
        let changes = self.streams.changes();
        if self.gaps_told.replace(changes) == Some(changes) {
            return;
        }
        let known = self.shared.gaps.borrow().clone();
        let gaps = open_gaps(&self.streams, &known, self.clock.now_us());
        if gaps != known {
            self.shared.gaps.send_replace(gaps);
        }
    }

    fn try_checkpoint(&mut self, wait: Duration) -> io::Result<()> {
        if self.unvoided {
            let what = "what was not signed when the log was opened cannot be told of yet";
            return Err(io::Error::other(what));
        }
        let size = self.tree.size();
        let Awaited {
            unsigned,
            tiles,
            streams,
            begun,
        } = match self.awaited.take() {
            Some(awaited) => awaited,
            None if size == self.signed[1] => return Ok(()),
            None => {
                let origin = self.signer.verifier().name();
                let root = self.tree.root();
                let unsigned = Checkpoint::unsigned(origin, size, root, self.clock.now());
                Awaited {
                    tiles: self.tree.partial_tiles().collect(),
                    streams: self.streams_to_keep(size),
                    begun: self.signer.begin(&unsigned.note)?,
                    unsigned,
                }
            }
        };
        match self.signer.end(&unsigned.note, begun, wait)? {
            Ok(note) => self.keep(Checkpoint { note, ..unsigned }, &tiles, streams),
            Err(begun) => {
                let late = begun.is_late();
                self.awaited = Some(Awaited {
                    unsigned,
                    tiles,
                    streams,
                    begun,
                });
                self.checkpoint_due = Some(Instant::now() + SIGN_LOOK);
                match late {
                    true => Err(io::Error::other("the device that signs does not answer")),
                    false => Ok(()),
                }
            }
        }
    }

    /// Publishes a checkpoint, whose partial tiles and stream positions these are.
    fn keep(
        &mut self,
        checkpoint: Checkpoint,
        tiles: &[Tile],
        streams: Option<Vec<u8>>,
    ) -> io::Result<()> {
        let [before, last] = self.signed;
        let sync = self.tile_sync();
        // Tiles first: whoever sees a checkpoint can ask for its proofs.
        for tile in self.tree.full_tiles() {
            self.shared.tiles.write(tile, sync)?;
        }
        self.tree.forget_full_tiles();
        for tile in tiles {
            self.shared.tiles.write(tile, sync)?;
        }
        recover::write_checkpoint(&self.shared.dir, &checkpoint)?;
        if let Some(streams) = streams {
            self.write_streams(&streams);
        }
        let (note, size) = (checkpoint.note.clone(), checkpoint.size);
        self.shared.checkpoint.send_replace(Arc::new(checkpoint));
        // Partial tiles of the last checkpoint stay for readers that just saw it.
        if before != last {
            self.shared.tiles.remove_partial(before, last);
        }
        self.signed = [last, size];
        if size < self.tree.size() {
            self.checkpoint_due = Some(Instant::now() + self.options.checkpoint_every);
        }
        if self
            .history_at
            .is_none_or(|at| at.elapsed() >= HISTORY_EVERY)
        {
            history::add(&self.shared.dir, &note)?;
            self.history_at = Some(Instant::now());
        }
        Ok(())
    }

    /// Whether tiles must survive a power cut: what they are made of may be elsewhere.
    fn tile_sync(&self) -> files::Sync {
        #[cfg(feature = "index")]
        if self.shared.archive.is_some() {
            return files::Sync::Yes;
        }
        files::Sync::No
    }

    /// Stream positions at `size`, the records that there are, when it is time to keep them.
    /// A start takes none that are ahead of its checkpoint.
    fn streams_to_keep(&mut self, size: u64) -> Option<Vec<u8>> {
        let finished = std::mem::take(&mut self.streams_due);
        let due = finished || self.streams_at.elapsed() >= STREAMS_EVERY;
        let encoded = due.then(|| self.streams.encode(size))?;
        encoded.map_err(|e| unkept(&e)).ok()
    }

    fn write_streams(&mut self, streams: &[u8]) {
        self.streams_at = Instant::now();
        if let Err(e) = Streams::write(&self.shared.dir.join(STREAMS), streams) {
            unkept(&e);
        }
    }

    fn close(mut self) {
        let detail = format!("{} records", self.tree.size());
        self.notes.push(lifecycle("closed", detail));
        self.notes.push(Body::StreamHead(StreamHead {
            last_sequence: 0,
            closed: true,
        }));
        self.commit(Vec::new());
        // The one that is under way, and that of the end.
        for _ in 0..2 {
            // Into the history as well, so that the end of this run stays vouched for.
            self.history_at = None;
            self.checkpoint_within(SIGN_WAIT);
        }
        if self.signed[1] == self.tree.size() {
            self.streams_due = true;
            if let Some(streams) = self.streams_to_keep(self.tree.size()) {
                self.write_streams(&streams);
            }
        }
        // Whoever still waits for the queue hears that the log is closed.
        while let Ok(Command::Append(job)) = self.commands.try_recv() {
            job.done.send_replace(Some(Err(AppendError::Closed)));
        }
    }
}

fn unkept(error: &io::Error) {
    tracing::warn!(%error, "stream positions not written; the next start reads more of the log");
}

/// Longest lifecycle detail, in bytes.
const DETAIL_LEN_MAX: usize = 4096;

/// What the log says about itself.
pub(super) fn lifecycle(verb: &str, mut detail: String) -> Body {
    detail.truncate(detail.floor_char_boundary(DETAIL_LEN_MAX));
    Body::LogLifecycle(LogLifecycle {
        verb: verb.into(),
        detail,
        ..LogLifecycle::default()
    })
}

/// What the log says about a segment that goes to the archive, or left an object there.
#[cfg(feature = "index")]
pub(super) fn about_moving(verb: &str, detail: String, moving: Moving) -> Body {
    let mut body = lifecycle(verb, detail);
    if let Body::LogLifecycle(lifecycle) = &mut body {
        lifecycle.moving = Some(moving);
    }
    body
}

/// What the log says about records from `from` on, which nobody had signed.
fn unsigned(from: u64) -> Body {
    let detail =
        format!("from record {from} on: what they say of what is dropped counts for nothing");
    let mut body = lifecycle(RECORDS_UNSIGNED, detail);
    if let Body::LogLifecycle(lifecycle) = &mut body {
        lifecycle.unsigned_from = Some(from);
    }
    body
}

/// What the log says about records that are dropped, or left.
pub(super) fn about_dropping(verb: &str, detail: String, dropping: Dropping) -> Body {
    let mut body = lifecycle(verb, detail);
    if let Body::LogLifecycle(lifecycle) = &mut body {
        lifecycle.dropping = Some(dropping);
    }
    body
}
